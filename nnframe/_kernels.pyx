# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The border between Python and C: checks arrays, brings them into the shape that C wants, calls C without the GIL.

Every public function takes any NumPy array of float32 or float64: strided, negative-strided, read-only, misaligned,
byte-swapped, zero-sized, broadcast. What C cannot read where it lies is copied. Errors name the argument, what was
expected and what came, and are raised before anything is written. With NNFRAME_KERNELS=reference the same checks
lead to the NumPy twins in reference.py.
"""

import os

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from libc.stdint cimport int64_t, intptr_t
from libc.stdlib cimport free, malloc

cnp.import_array()

cdef extern from "nnframe.h" nogil:
    ctypedef enum nnf_activation:
        NNF_IDENTITY
        NNF_SIGMOID
        NNF_TANH
        NNF_RELU
        NNF_STEP
    ctypedef struct nnf_matmul:
        intptr_t batch, m, n, k
        const void *a
        intptr_t a_batch, a_row, a_col
        const void *b
        intptr_t b_batch, b_row, b_col
        void *c
        intptr_t c_batch, c_row
        const void *bias
        nnf_activation activation
        double alpha
    ctypedef struct nnf_softmax_cross_entropy:
        intptr_t rows, classes
        const void *logits
        intptr_t logits_row
        const int64_t *labels
        const void *targets
        double scale
        void *grad
        double *losses
    ctypedef struct nnf_stage:
        const void *weight
        nnf_activation activation
        double alpha
        const void *x
        const void *y
        intptr_t width
    ctypedef enum nnf_loss:
        NNF_CROSS_ENTROPY
        NNF_SQUARED_ERROR
    ctypedef struct nnf_difference:
        intptr_t rows, inputs, outputs
        const void *x
        const void *columns
        double step, scale
        intptr_t stages
        const nnf_stage *stage
        nnf_loss loss
        const void *p
        const void *t
        const void *residual
        void *grad_weight
        void *grad_bias
    ctypedef struct nnf_kernels:
        void (*matmul)(const nnf_matmul *p) noexcept nogil
        void (*softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) noexcept nogil
        void (*softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) noexcept nogil
        void (*activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) noexcept nogil
        void (*activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                    const void *dy, void *dx) noexcept nogil
        void (*activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                      const void *y, const void *dx, void *dy) noexcept nogil
        int (*difference_gradient)(const nnf_difference *p, int (*poll)() noexcept nogil) noexcept nogil
    ctypedef struct nnf_isa:
        const char *name
        const nnf_kernels *kernels[2]
    const char *nnf_compiler()
    int nnf_isa_count()
    const nnf_isa *nnf_isa_at(int index)
    const nnf_isa *nnf_isa_find(const char *name)
    ctypedef double (*nnf_function)(const double *x, intptr_t n, void *data) noexcept nogil
    int NNF_NO_MEMORY
    int nnf_central_difference(nnf_function f, void *data, const double *x, intptr_t n, const double *step,
                               double *grad, int (*poll)() noexcept nogil)
    void nnf_set_num_threads(int n)
    int nnf_get_num_threads()

ctypedef cnp.ndarray array

cdef const nnf_isa *isa = nnf_isa_at(0)
cdef object reference = None    # the module of NumPy twins, when they are asked for

# Below this many elementary operations a call is over sooner than the GIL is given back and taken again.
cdef intptr_t KEEP_GIL = 20000

cdef dict ACTIVATIONS = {
    "identity": NNF_IDENTITY, "sigmoid": NNF_SIGMOID, "tanh": NNF_TANH, "relu": NNF_RELU, "step": NNF_STEP,
}
cdef dict NAMES = {value: name for name, value in ACTIVATIONS.items()}


# ---- which kernels run ------------------------------------------------------------------------------------

def simd_available():
    """Names of the instruction sets that this build has and this processor runs, best first."""
    return [nnf_isa_at(i).name.decode() for i in range(nnf_isa_count())]


def get_simd():
    """Name of the instruction set in use; "reference" for the NumPy twins."""
    return "reference" if reference is not None else isa.name.decode()


def set_simd(str name):
    """Use the kernels of one instruction set, or "reference" for the NumPy twins (tests and benchmarks)."""
    global isa, reference
    if name == "reference":
        from nnframe import reference as twins
        reference = twins
        return
    found = nnf_isa_find(name.encode())
    if found == NULL:
        raise ValueError(f"NNFRAME_SIMD: expected one of {', '.join(simd_available())}, got {name!r}")
    isa = found
    reference = None


def compiler():
    """Name and version of the compiler that built the kernels."""
    return nnf_compiler().decode()


def set_num_threads(int n):
    """Let kernels use up to n threads, n >= 1."""
    if n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n}")
    nnf_set_num_threads(n)


def get_num_threads():
    """How many threads kernels may use."""
    return nnf_get_num_threads()


# ---- checks -------------------------------------------------------------------------------------------------

cdef array as_floats(object a, str name, int typenum=-1):
    """`a` as an aligned array of float32 or float64 in native byte order, any strides; no copy where it is one.

    With `typenum` the array must be of that type.
    """
    cdef array x
    if not cnp.PyArray_Check(a):
        a = np.asarray(a)
    x = a
    cdef int found = cnp.PyArray_TYPE(x)
    if found != cnp.NPY_FLOAT32 and found != cnp.NPY_FLOAT64:
        raise TypeError(f"{name}: expected an array of float32 or float64, got {x.dtype}")
    if typenum >= 0 and found != typenum:
        raise TypeError(f"{name}: expected {cnp.PyArray_DescrFromType(typenum)} like the other arrays, got {x.dtype}")
    if not (cnp.PyArray_ISALIGNED(x) and cnp.PyArray_ISNOTSWAPPED(x)):
        x = x.astype(x.dtype.newbyteorder("="))
    return x


cdef inline array as_adjacent(array x):
    """`x` in C order, copied only if it is not."""
    return x if cnp.PyArray_IS_C_CONTIGUOUS(x) else cnp.PyArray_GETCONTIGUOUS(x)


cdef array as_same_shape(object a, str name, array like, str like_name):
    """`a` in C order, of the type and shape of `like`."""
    cdef array x = as_adjacent(as_floats(a, name, cnp.PyArray_TYPE(like)))
    if not cnp.PyArray_SAMESHAPE(x, like):
        raise ValueError(f"{name}: expected shape {like_name} {np.shape(like)}, got {np.shape(x)}")
    return x


cdef array as_output(object out, int ndim, cnp.npy_intp *shape, int typenum):
    """A new array in C order, or `out` when that can be written directly; else an error."""
    if out is None:
        return cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
    if not cnp.PyArray_Check(out):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    cdef array x = out
    cdef int i
    cdef bint same = cnp.PyArray_NDIM(x) == ndim
    for i in range(ndim if same else 0):
        same = same and cnp.PyArray_DIM(x, i) == shape[i]
    if not same or cnp.PyArray_TYPE(x) != typenum:
        expected = tuple(shape[i] for i in range(ndim))
        raise ValueError(f"out: expected {cnp.PyArray_DescrFromType(typenum)} of shape {expected}, "
                         f"got {x.dtype} of shape {np.shape(x)}")
    if not (cnp.PyArray_ISCARRAY(x)):
        raise ValueError("out: expected an aligned, writeable array in C order and native byte order")
    return x


cdef inline const nnf_kernels *kernels_for(array x) noexcept:
    return isa.kernels[0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1]


cdef nnf_activation as_activation(object name) except *:
    found = ACTIVATIONS.get(name)
    if found is None:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return found


# ---- matrix product -----------------------------------------------------------------------------------------

cdef void run_matmul(const nnf_kernels *kernels, nnf_matmul *p) noexcept:
    if p.batch * p.m * p.n * p.k < KEEP_GIL:
        kernels.matmul(p)
    else:
        with nogil:
            kernels.matmul(p)


cdef inline bint overlap(array out, array x):
    """Whether the memory of two arrays may overlap; looks at their extents alone."""
    cdef char *low = <char *>cnp.PyArray_DATA(out)
    cdef char *high = low + cnp.PyArray_NBYTES(out)
    cdef char *start = <char *>cnp.PyArray_DATA(x)
    cdef char *end = start
    cdef intptr_t span
    cdef int i
    for i in range(cnp.PyArray_NDIM(x)):
        span = (cnp.PyArray_DIM(x, i) - 1) * cnp.PyArray_STRIDE(x, i)
        if span < 0:
            start += span
        else:
            end += span
    end += cnp.PyArray_ITEMSIZE(x)
    return start < high and low < end


def batched_matmul(a, b, *, bint transpose_a=False, bint transpose_b=False, out=None):
    """Matrix product of two stacks of matrices, `np.matmul` with transposes.

    Parameters
    ----------
    a : array (..., m, k), or (..., k, m) with `transpose_a`
    b : array (..., k, n), or (..., n, k) with `transpose_b`
        float32 or float64, both the same; leading axes are broadcast against each other.
    out : array (..., m, n), optional
        Written and returned; in C order, and no part of a or b.

    Returns
    -------
    array (..., m, n)

    Raises
    ------
    TypeError
        Another dtype, or two different ones.
    ValueError
        Fewer than two axes, inner sizes that differ, leading axes that do not broadcast, a wrong `out`.
    """
    cdef array x = as_floats(a, "a")
    cdef array y = as_floats(b, "b", cnp.PyArray_TYPE(x))
    if cnp.PyArray_NDIM(x) < 2 or cnp.PyArray_NDIM(y) < 2:
        raise ValueError(f"a, b: expected at least two axes, got shapes {np.shape(x)} and {np.shape(y)}")
    if cnp.PyArray_NDIM(x) > 2 or cnp.PyArray_NDIM(y) > 2:
        lead = _leading_axes(x, y)
        x = np.broadcast_to(x, lead + np.shape(x)[-2:])
        y = np.broadcast_to(y, lead + np.shape(y)[-2:])
    return _matmul(x, y, transpose_a, transpose_b, None, NNF_IDENTITY, out)


cdef tuple _leading_axes(array x, array y):
    cdef tuple lead_x = np.shape(x)[:-2], lead_y = np.shape(y)[:-2]
    if lead_x == lead_y:
        return lead_x
    try:
        return np.broadcast_shapes(lead_x, lead_y)
    except ValueError:
        raise ValueError(f"a, b: expected leading axes that broadcast, got {lead_x} and {lead_y}") from None


cdef array _matmul(array a, array b, bint transpose_a, bint transpose_b, array bias, nnf_activation activation,
                   object out):
    """The product of two arrays whose leading axes are already equal."""
    cdef nnf_matmul p
    cdef int ndim = cnp.PyArray_NDIM(a)
    cdef int row_a = ndim - 1 if transpose_a else ndim - 2, col_a = 2 * ndim - 3 - row_a
    cdef int row_b = ndim - 1 if transpose_b else ndim - 2, col_b = 2 * ndim - 3 - row_b
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a)
    cdef cnp.npy_intp shape[64]
    cdef int i
    cdef array c
    p.m, p.k, p.n = cnp.PyArray_DIM(a, row_a), cnp.PyArray_DIM(a, col_a), cnp.PyArray_DIM(b, col_b)
    if cnp.PyArray_DIM(b, row_b) != p.k:
        raise ValueError(f"a, b: expected equal inner sizes, got {p.k} and {cnp.PyArray_DIM(b, row_b)} "
                         f"(shapes {np.shape(a)} and {np.shape(b)}, transpose_a={transpose_a}, "
                         f"transpose_b={transpose_b})")
    for i in range(ndim - 2):
        shape[i] = cnp.PyArray_DIM(a, i)
    shape[ndim - 2], shape[ndim - 1] = p.m, p.n
    c = as_output(out, ndim, shape, cnp.PyArray_TYPE(a))
    if out is not None and (overlap(c, a) or overlap(c, b)):
        raise ValueError("out: expected an array that shares no memory with a or b")
    if reference is not None:
        c[...] = reference.product(np.swapaxes(a, -1, -2) if transpose_a else a,
                                   np.swapaxes(b, -1, -2) if transpose_b else b, bias, NAMES[<int>activation])
        return c
    p.batch = 1
    p.a, p.b, p.c = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b), cnp.PyArray_DATA(c)
    p.a_row, p.a_col = cnp.PyArray_STRIDE(a, row_a) // size, cnp.PyArray_STRIDE(a, col_a) // size
    p.b_row, p.b_col = cnp.PyArray_STRIDE(b, row_b) // size, cnp.PyArray_STRIDE(b, col_b) // size
    p.c_row = p.n
    p.a_batch = p.b_batch = p.c_batch = 0
    p.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    p.activation, p.alpha = activation, 0.0
    if ndim == 2:
        run_matmul(kernels_for(a), &p)
    elif cnp.PyArray_SIZE(c) > 0:
        _matmul_stack(kernels_for(a), &p, a, b, c)
    return c


cdef void _matmul_stack(const nnf_kernels *kernels, nnf_matmul *p, array a, array b, array c):
    """Fold the leading axes into one batch where their strides allow; loop over those that are left."""
    cdef int lead = cnp.PyArray_NDIM(a) - 2, inner = lead - 1, i
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a), outer = 1, index, rest, at
    p.batch = cnp.PyArray_DIM(a, inner)
    p.a_batch = cnp.PyArray_STRIDE(a, inner) // size
    p.b_batch = cnp.PyArray_STRIDE(b, inner) // size
    p.c_batch = p.m * p.n
    while inner > 0 and (cnp.PyArray_STRIDE(a, inner - 1) // size == p.batch * p.a_batch
                         and cnp.PyArray_STRIDE(b, inner - 1) // size == p.batch * p.b_batch):
        inner -= 1
        p.batch *= cnp.PyArray_DIM(a, inner)
    for i in range(inner):
        outer *= cnp.PyArray_DIM(a, i)
    for index in range(outer):
        rest = index
        p.a, p.b = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b)
        p.c = <char *>cnp.PyArray_DATA(c) + index * p.batch * p.c_batch * size
        for i in range(inner - 1, -1, -1):
            at = rest % cnp.PyArray_DIM(a, i)
            rest = rest // cnp.PyArray_DIM(a, i)
            p.a = <const char *>p.a + at * cnp.PyArray_STRIDE(a, i)
            p.b = <const char *>p.b + at * cnp.PyArray_STRIDE(b, i)
        run_matmul(kernels, p)


def linear(x, weight, bias=None, *, activation="identity", out=None):
    """y = activation(x @ weight.T + bias), in one pass over y.

    Parameters
    ----------
    x : array (..., in_features)
    weight : array (out_features, in_features)
    bias : array (out_features,), optional
        float32 or float64, all the same.
    activation : str
        One of those of `activation`.
    out : array (..., out_features), optional
        Written and returned.

    Returns
    -------
    array (..., out_features)

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit.
    """
    cdef array rows = as_floats(x, "x")
    cdef array w = as_floats(weight, "weight", cnp.PyArray_TYPE(rows))
    cdef array b = None
    cdef nnf_activation f = as_activation(activation)
    if cnp.PyArray_NDIM(w) != 2:
        raise ValueError(f"weight: expected shape (out_features, in_features), got {np.shape(w)}")
    if cnp.PyArray_NDIM(rows) < 1 or cnp.PyArray_DIM(rows, cnp.PyArray_NDIM(rows) - 1) != cnp.PyArray_DIM(w, 1):
        raise ValueError(f"x: expected shape (..., {cnp.PyArray_DIM(w, 1)}) for a weight of shape {np.shape(w)}, "
                         f"got {np.shape(rows)}")
    if bias is not None:
        b = as_adjacent(as_floats(bias, "bias", cnp.PyArray_TYPE(rows)))
        if cnp.PyArray_NDIM(b) != 1 or cnp.PyArray_DIM(b, 0) != cnp.PyArray_DIM(w, 0):
            raise ValueError(f"bias: expected shape ({cnp.PyArray_DIM(w, 0)},), got {np.shape(b)}")
    if cnp.PyArray_NDIM(rows) == 2:
        return _matmul(rows, w, False, True, b, f, out)
    shape = np.shape(rows)[:-1] + (cnp.PyArray_DIM(w, 0),)
    flat = _matmul(rows.reshape(-1, cnp.PyArray_DIM(w, 1)), w, False, True, b, f,
                   None if out is None else out.reshape(-1, cnp.PyArray_DIM(w, 0)))
    return flat.reshape(shape) if out is None else out


# ---- softmax and cross-entropy --------------------------------------------------------------------------------

cdef array as_logits(object logits):
    cdef array x = as_floats(logits, "logits")
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 1) < 1:
        raise ValueError(f"logits: expected shape (N, C) with at least one class, got {np.shape(x)}")
    return as_adjacent(x)


cdef array as_labels(object labels, array x):
    """Class indices as int64 (N,), or soft labels as an array like the logits; each checked."""
    cdef array t = labels if cnp.PyArray_Check(labels) else np.asarray(labels)
    cdef cnp.npy_intp rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1), i
    cdef const int64_t *index
    if cnp.PyArray_NDIM(t) == 2 and cnp.PyArray_SAMESHAPE(t, x):
        return _as_targets(t, x)
    if cnp.PyArray_NDIM(t) != 1 or cnp.PyArray_DIM(t, 0) != rows:
        raise ValueError(f"labels: expected {rows} class indices of shape ({rows},), or one-hot or soft labels of "
                         f"shape ({rows}, {classes}), got shape {np.shape(t)}")
    if not cnp.PyArray_ISINTEGER(t):
        raise TypeError(f"labels: expected integers for class indices, got {t.dtype}")
    if t.dtype == np.uint64 and rows and t.max() > np.uint64(classes):
        raise ValueError(f"labels: expected class indices in [0, {classes}), got {t.max()}")
    t = as_adjacent(t.astype(np.int64, copy=False))
    if not cnp.PyArray_ISALIGNED(t):
        t = t.copy()
    index = <const int64_t *>cnp.PyArray_DATA(t)
    for i in range(rows):
        if index[i] < 0 or index[i] >= classes:
            raise ValueError(f"labels: expected class indices in [0, {classes}), got {index[i]} at position {i}")
    return t


cdef array _as_targets(array t, array x):
    if not (cnp.PyArray_ISINTEGER(t) or cnp.PyArray_ISFLOAT(t) or cnp.PyArray_ISBOOL(t)):
        raise TypeError(f"labels: expected numbers for soft labels, got {t.dtype}")
    t = as_adjacent(as_floats(t.astype(x.dtype, copy=False), "labels"))
    sums = t.sum(axis=1)
    wrong = ~((t >= 0).all(axis=1) & (np.abs(sums - 1) <= 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError("labels: expected one-hot or soft labels, each row non-negative with a sum of 1, got row "
                         f"{row} with least value {t[row].min():g} and sum {sums[row]:g}")
    return t


def check_labels(logits, labels):
    """Labels as the kernels want them: int64 class indices (N,), or targets (N, C) of the logits' dtype.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    return as_labels(labels, as_logits(logits))


def softmax(logits, *, out=None):
    """Each row of `logits` (N, C) through exp(x) / sum(exp(x)); returns (N, C)."""
    cdef array x = as_logits(logits)
    cdef array y = as_output(out, 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    cdef intptr_t rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1)
    cdef const nnf_kernels *kernels = kernels_for(x)
    if reference is not None:
        y[...] = reference.softmax(x)
        return y
    with nogil:
        kernels.softmax(rows, classes, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    return y


def softmax_cross_entropy(logits, labels, *, str reduction="mean", out=None):
    """Cross-entropy of softmax(logits) against labels, and its gradient, in one pass.

    The loss of a row is log(sum(exp(x))) - sum(t * x); no constant is added inside the logarithm.

    Parameters
    ----------
    logits : array (N, C), float32 or float64
        A NaN or +inf makes the loss NaN; -inf is a probability of zero.
    labels : array (N,) of integers, or (N, C)
        Class indices in [0, C); or one-hot or soft labels, rows non-negative with a sum of 1 (to 1e-3).
    reduction : {"mean", "sum"}
        Over the rows.
    out : array (N, C), optional
        Receives the gradient; may be `logits`.

    Returns
    -------
    loss : float
    gradient : array (N, C)
        Of the loss with respect to the logits.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or label that does not fit.
    """
    cdef array x = as_logits(logits)
    cdef array t = as_labels(labels, x)
    cdef bint mean = _is_mean(reduction)
    cdef array grad = as_output(out, 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    return _softmax_cross_entropy(x, t, mean, grad), grad


cdef bint _is_mean(str reduction) except *:
    if reduction != "mean" and reduction != "sum":
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    return reduction == "mean"


cdef double _softmax_cross_entropy(array x, array t, bint mean, array grad) except *:
    """The loss of checked arrays; writes the gradient unless `grad` is None."""
    cdef nnf_softmax_cross_entropy p
    cdef const nnf_kernels *kernels = kernels_for(x)
    cdef double few[64]
    cdef double loss = 0.0
    cdef intptr_t i
    p.rows, p.classes = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
    p.logits, p.logits_row = cnp.PyArray_DATA(x), p.classes
    p.labels = <const int64_t *>cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 1 else NULL
    p.targets = cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 2 else NULL
    p.scale = 1.0 / p.rows if mean and p.rows else 1.0
    p.grad = NULL if grad is None else cnp.PyArray_DATA(grad)
    if reference is not None:
        losses, gradient = reference.softmax_cross_entropy(x, t)
        if grad is not None:
            grad[...] = gradient * p.scale
        return float(losses.sum() * p.scale) if p.rows or not mean else float("nan")
    p.losses = &few[0]
    if p.rows > 64:
        p.losses = <double *>malloc(p.rows * sizeof(double))
    if p.losses == NULL:
        raise MemoryError(f"no room for {p.rows} losses")
    if p.rows * p.classes * 16 < KEEP_GIL:
        kernels.softmax_cross_entropy(&p)
    else:
        with nogil:
            kernels.softmax_cross_entropy(&p)
    for i in range(p.rows):
        loss += p.losses[i]
    if p.losses != &few[0]:
        free(p.losses)
    return loss * p.scale if p.rows or not mean else float("nan")


def softmax_cross_entropy_loss(logits, labels, *, str reduction="mean"):
    """The loss of `softmax_cross_entropy` alone, a float."""
    cdef array x = as_logits(logits)
    return _softmax_cross_entropy(x, as_labels(labels, x), _is_mean(reduction), None)


# ---- activations ----------------------------------------------------------------------------------------------

def activation(name, x, *, double alpha=0.0, out=None):
    """y = f(x), elementwise, for the activation `name`: identity, sigmoid, tanh, relu or step.

    `x`, and `out` if given: arrays of one shape and dtype (float32 or float64); `out` may be `x`.
    """
    cdef nnf_activation f = as_activation(name)
    cdef array values = as_adjacent(as_floats(x, "x"))
    cdef array y = as_output(out, cnp.PyArray_NDIM(values), cnp.PyArray_DIMS(values), cnp.PyArray_TYPE(values))
    cdef intptr_t n = cnp.PyArray_SIZE(values)
    cdef const nnf_kernels *kernels = kernels_for(values)
    if reference is not None:
        y[...] = reference.activation(name, values, alpha)
    elif n * 16 < KEEP_GIL:
        kernels.activation_forward(f, alpha, n, cnp.PyArray_DATA(values), cnp.PyArray_DATA(y))
    else:
        with nogil:
            kernels.activation_forward(f, alpha, n, cnp.PyArray_DATA(values), cnp.PyArray_DATA(y))
    return y


def activation_backward(name, x, y, dy, *, double alpha=0.0, out=None):
    """dx = dy * f'(x), elementwise, where y = f(x); arrays of one shape and dtype, `out` may be `dy`."""
    cdef nnf_activation f = as_activation(name)
    cdef array inputs = as_adjacent(as_floats(x, "x"))
    cdef array outputs = as_same_shape(y, "y", inputs, "of x")
    cdef array grad = as_same_shape(dy, "dy", inputs, "of x")
    cdef array dx = as_output(out, cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(inputs), cnp.PyArray_TYPE(inputs))
    cdef intptr_t n = cnp.PyArray_SIZE(inputs)
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    if reference is not None:
        dx[...] = reference.activation_backward(name, inputs, outputs, grad, alpha)
    elif n * 16 < KEEP_GIL:
        kernels.activation_backward(f, alpha, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                    cnp.PyArray_DATA(grad), cnp.PyArray_DATA(dx))
    else:
        with nogil:
            kernels.activation_backward(f, alpha, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                        cnp.PyArray_DATA(grad), cnp.PyArray_DATA(dx))
    return dx


def activation_difference(name, x, y, dx, *, double alpha=0.0, out=None):
    """dy = f(x + dx) - f(x) without cancellation, where y = f(x).

    `dx` has the shape of `x`, or that with one more axis in front: a stack of changes. Returns an array like `dx`; `out`
    may be `dx`.
    """
    cdef nnf_activation f = as_activation(name)
    cdef array inputs = as_adjacent(as_floats(x, "x"))
    cdef array outputs = as_same_shape(y, "y", inputs, "of x")
    cdef array change = as_adjacent(as_floats(dx, "dx", cnp.PyArray_TYPE(inputs)))
    if np.shape(change) != np.shape(inputs) and np.shape(change)[1:] != np.shape(inputs):
        raise ValueError(f"dx: expected shape of x {np.shape(inputs)}, with or without one axis before it, "
                         f"got {np.shape(change)}")
    cdef array dy = as_output(out, cnp.PyArray_NDIM(change), cnp.PyArray_DIMS(change), cnp.PyArray_TYPE(change))
    cdef intptr_t n = cnp.PyArray_SIZE(inputs)
    cdef intptr_t stack = cnp.PyArray_SIZE(change) // n if n else 0
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    if reference is not None:
        dy[...] = reference.activation_difference(name, inputs, outputs, change, alpha)
    else:
        with nogil:
            kernels.activation_difference(f, alpha, stack, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                          cnp.PyArray_DATA(change), cnp.PyArray_DATA(dy))
    return dy


# ---- central differences ----------------------------------------------------------------------------------------

cdef int poll() noexcept nogil:
    """Whether a signal such as Ctrl-C has raised; asked by long loops in C."""
    with gil:
        try:
            return PyErr_CheckSignals()
        except BaseException as error:
            pending.append(error)
            return 1


cdef list pending = []    # the exception that poll caught, until the loop has ended


cdef int finish(int answer) except -1:
    """Turn the answer of a loop in C into an exception."""
    if answer == NNF_NO_MEMORY:
        raise MemoryError("no room for the buffers of a central-difference loop")
    if answer:
        raise pending.pop()
    return 0


cdef const void *pinned(object a, str name, int typenum, list alive) except? NULL:
    """Address of an array as C reads it, which `alive` keeps until the list goes; NULL for None."""
    if a is None:
        return NULL
    cdef array x = as_adjacent(as_floats(a, name, typenum))
    alive.append(x)
    return cnp.PyArray_DATA(x)


def difference_gradient(x, stages, str loss, probabilities, targets, residual, *, double step, double scale,
                        array grad_weight, grad_bias=None, columns=None):
    """The central-difference gradient of a linear layer below built-in layers, in C on all threads.

    Parameters
    ----------
    x : array (N, I)
        What the layer read. Entries that are zero are skipped.
    stages : list of (weight,) or (name, x, y)
        What stands above it, from the bottom up: the weight (out, in) of a linear layer, or an activation with its input and
        output, both (N, width).
    loss : {"cross_entropy", "squared_error"}
    probabilities, targets, residual : array (N, width)
        Of the last stage; the first two are None for the squared error. See csrc/nnframe.h.
    step, scale : float
        The step in weight; what the sum of losses over rows is multiplied with.
    grad_weight, grad_bias : array (O, I), array (O,) or None
        Overwritten.
    columns : array (2, O, E), optional
        How output o changes by +step and -step in each of the E entries of x that are not zero (and, with a bias, one more
        at the end of each row), where the first layers above are not among `stages`.

    All arrays have the dtype of `grad_weight`; they are made by `CentralDifference`, which checks them.
    """
    cdef int typenum = cnp.PyArray_TYPE(grad_weight)
    cdef array inputs = as_adjacent(as_floats(x, "x", typenum))
    cdef list alive = [inputs]    # arrays that C reads, until it is done
    cdef nnf_difference p
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    cdef int answer

    p.rows, p.inputs, p.outputs = cnp.PyArray_DIM(inputs, 0), cnp.PyArray_DIM(inputs, 1), len(grad_weight)
    p.x, p.columns = cnp.PyArray_DATA(inputs), pinned(columns, "columns", typenum, alive)
    p.step, p.scale, p.stages = step, scale, len(stages)
    p.loss = NNF_CROSS_ENTROPY if loss == "cross_entropy" else NNF_SQUARED_ERROR
    p.p = pinned(probabilities, "probabilities", typenum, alive)
    p.t = pinned(targets, "targets", typenum, alive)
    p.residual = pinned(residual, "residual", typenum, alive)
    p.grad_weight = cnp.PyArray_DATA(grad_weight)
    p.grad_bias = NULL if grad_bias is None else cnp.PyArray_DATA(<array>grad_bias)
    cdef nnf_stage *stage = <nnf_stage *>malloc((p.stages + 1) * sizeof(nnf_stage))
    if stage == NULL:
        raise MemoryError("no room for the stages of a network")
    p.stage = stage
    try:
        for i, described in enumerate(stages):
            stage[i].weight, stage[i].x, stage[i].y = NULL, NULL, NULL
            stage[i].activation, stage[i].alpha = NNF_IDENTITY, 0.0
            if len(described) == 1:
                stage[i].weight = pinned(described[0], "weight", typenum, alive)
                stage[i].width = len(described[0])
            else:
                stage[i].activation = as_activation(described[0])
                stage[i].x = pinned(described[1], "x", typenum, alive)
                stage[i].y = pinned(described[2], "y", typenum, alive)
                stage[i].width = described[1].shape[1]
        with nogil:
            answer = kernels.difference_gradient(&p, poll)
        finish(answer)
    finally:
        free(stage)


cdef tuple SIGNATURES = (b"double (double *, intptr_t, void *)", b"double (double const *, intptr_t, void *)",
                         b"double (const double *, intptr_t, void *)")


def low_level_callable(f):
    """Address of the function and of its user data in a `scipy.LowLevelCallable`; ValueError for another signature."""
    capsule = f[0]
    cdef const char *name = PyCapsule_GetName(capsule)
    if name == NULL or name not in SIGNATURES:
        raise ValueError(f"f: expected a LowLevelCallable of signature {SIGNATURES[0].decode()!r}, got "
                         f"{None if name == NULL else name.decode()!r}")
    return <intptr_t>PyCapsule_GetPointer(capsule, name), <intptr_t>PyCapsule_GetContext(capsule)


def compiled_central_difference(intptr_t f, intptr_t data, array x, array steps, array gradient):
    """Overwrite `gradient` with that of the C function at address `f`; all arrays float64 in C order, checked by the caller."""
    cdef const double *at = <const double *>cnp.PyArray_DATA(x)
    cdef const double *step = <const double *>cnp.PyArray_DATA(steps)
    cdef double *grad = <double *>cnp.PyArray_DATA(gradient)
    cdef intptr_t n = cnp.PyArray_SIZE(x)
    cdef int answer
    with nogil:
        answer = nnf_central_difference(<nnf_function>f, <void *>data, at, n, step, grad, poll)
    finish(answer)


if os.environ.get("NNFRAME_KERNELS", "c") not in ("c", "reference"):
    raise ValueError(f"NNFRAME_KERNELS: expected c or reference, got {os.environ['NNFRAME_KERNELS']!r}")
set_simd(os.environ.get("NNFRAME_SIMD") or simd_available()[0])
if os.environ.get("NNFRAME_KERNELS") == "reference":
    set_simd("reference")
