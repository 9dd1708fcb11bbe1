# cython: cdivision=True
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
from libc.stdint cimport int64_t, intptr_t, uint8_t
from libc.stdlib cimport free, malloc

cnp.import_array()

cdef extern from "nnframe.h" nogil:
    ctypedef enum nnf_activation:
        NNF_IDENTITY
        NNF_SIGMOID
        NNF_TANH
        NNF_RELU
        NNF_STEP
        NNF_LEAKY_RELU
        NNF_ELU
        NNF_GELU
        NNF_GELU_TANH
        NNF_SILU
        NNF_SOFTPLUS
    ctypedef enum nnf_rule:
        NNF_SGD
        NNF_MOMENTUM
        NNF_NESTEROV
        NNF_ADAGRAD
        NNF_RMSPROP
        NNF_ADAM
    ctypedef struct nnf_update:
        nnf_rule rule
        intptr_t n
        void *w
        const void *g
        void *m
        void *s
        double rate, decay, shrink, beta1, beta2, eps
    ctypedef struct nnf_matmul:
        intptr_t batch, m, n, k
        const void *a
        intptr_t a_batch, a_row, a_col
        const void *b
        intptr_t b_batch, b_row, b_col
        void *c
        intptr_t c_batch, c_row
        const void *bias
        int add
        nnf_activation activation
        double alpha
    ctypedef struct nnf_softmax_cross_entropy:
        intptr_t rows, classes
        const void *logits
        intptr_t logits_row
        const int64_t *labels
        int64_t ignored
        const void *targets
        const void *weights
        double smoothing
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
    ctypedef struct nnf_above:
        intptr_t rows, outputs
        intptr_t stages
        const nnf_stage *stage
        nnf_loss loss
        const void *p
        const void *t
        const void *residual
        intptr_t first, units
    ctypedef struct nnf_difference:
        nnf_above above
        intptr_t inputs
        const void *x
        const void *columns
        const uint8_t *wanted
        const uint8_t *counted
        double step, scale
        void *grad_weight
        void *grad_bias
    ctypedef struct nnf_curves:
        nnf_above above
        const void *distance
        const void *columns
        double tolerance
        void *level
        void *bend
        uint8_t *doubtful
        uint8_t *state
    ctypedef struct nnf_kernels:
        void (*matmul)(const nnf_matmul *p) noexcept nogil
        void (*softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) noexcept nogil
        void (*softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) noexcept nogil
        void (*activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) noexcept nogil
        void (*activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                    const void *dy, void *dx) noexcept nogil
        void (*activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                      const void *y, const void *dx, void *dy) noexcept nogil
        void (*update)(const nnf_update *p) noexcept nogil
        int (*all_finite)(intptr_t n, const void *x) noexcept nogil
        int (*difference_gradient)(const nnf_difference *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*difference_curves)(const nnf_curves *p, int (*poll)() noexcept nogil) noexcept nogil
    ctypedef struct nnf_isa:
        const char *name
        const nnf_kernels *kernels[2]
    const char *nnf_compiler()
    int nnf_isa_count()
    const nnf_isa *nnf_isa_at(int index)
    const nnf_isa *nnf_isa_find(const char *name)
    ctypedef double (*nnf_function)(const double *x, intptr_t n, void *data) noexcept nogil
    int NNF_NO_MEMORY
    int64_t NNF_NONE_IGNORED
    ctypedef struct nnf_moved:
        nnf_function f
        void *data
        const double *x
        intptr_t n, count, values
        const intptr_t *index
        const double *value
        double *out
    int nnf_evaluate_moved(const nnf_moved *p, int (*poll)() noexcept nogil)
    void nnf_set_num_threads(int n)
    int nnf_get_num_threads()

ctypedef cnp.ndarray array

cdef const nnf_isa *isa = nnf_isa_at(0)
cdef object reference = None    # the module of NumPy twins, when they are asked for

# Below this many elementary operations a call is over sooner than the GIL is given back and taken again.
cdef intptr_t KEEP_GIL = 20000

cdef dict ACTIVATIONS = {
    "identity": NNF_IDENTITY, "sigmoid": NNF_SIGMOID, "tanh": NNF_TANH, "relu": NNF_RELU, "step": NNF_STEP,
    "leaky_relu": NNF_LEAKY_RELU, "elu": NNF_ELU, "gelu": NNF_GELU, "gelu_tanh": NNF_GELU_TANH, "silu": NNF_SILU,
    "softplus": NNF_SOFTPLUS,
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
        from nnframe.kernels import reference as twins
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


include "_matmul.pxi"
include "_softmax.pxi"
include "_activations.pxi"
include "_differences.pxi"
include "_optimizers.pxi"

if os.environ.get("NNFRAME_KERNELS", "c") not in ("c", "reference"):
    raise ValueError(f"NNFRAME_KERNELS: expected c or reference, got {os.environ['NNFRAME_KERNELS']!r}")
set_simd(os.environ.get("NNFRAME_SIMD") or simd_available()[0])
if os.environ.get("NNFRAME_KERNELS") == "reference":
    set_simd("reference")
