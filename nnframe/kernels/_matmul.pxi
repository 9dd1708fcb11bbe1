# The border of csrc/matmul.inc.h: batched products and the linear layer's. Included by _kernels.pyx.

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
    p.activation, p.alpha, p.add = activation, 0.0, 0
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


def linear_backward(x, weight, dy, *, weight_grad, bias_grad=None, bint input_gradient=True):
    """Gradients of y = x @ weight.T + bias from that of y: weight_grad += dy.T @ x, bias_grad += dy summed over rows.

    Parameters
    ----------
    x : array (N, in_features)
    weight, weight_grad : array (out_features, in_features)
    dy : array (N, out_features)
    bias_grad : array (out_features,), optional
        float32 or float64, all the same; the gradients are added to.
    input_gradient : bool
        Whether the gradient of x is wanted.

    Returns
    -------
    array (N, in_features), dy @ weight; or None

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit; nothing has been added.
    """
    cdef array rows = as_floats(x, "x")
    cdef int typenum = cnp.PyArray_TYPE(rows)
    cdef array w = as_floats(weight, "weight", typenum)
    cdef array change = as_floats(dy, "dy", typenum)
    if cnp.PyArray_NDIM(rows) != 2 or cnp.PyArray_NDIM(w) != 2 or cnp.PyArray_DIM(rows, 1) != cnp.PyArray_DIM(w, 1):
        raise ValueError(f"x, weight: expected shapes (N, in_features) and (out_features, in_features), got "
                         f"{np.shape(rows)} and {np.shape(w)}")
    cdef cnp.npy_intp n = cnp.PyArray_DIM(rows, 0), inputs = cnp.PyArray_DIM(w, 1), outputs = cnp.PyArray_DIM(w, 0)
    if cnp.PyArray_NDIM(change) != 2 or cnp.PyArray_DIM(change, 0) != n or cnp.PyArray_DIM(change, 1) != outputs:
        raise ValueError(f"dy: expected shape ({n}, {outputs}), got {np.shape(change)}")
    cdef array to_weight = as_output(weight_grad, 2, cnp.PyArray_DIMS(w), typenum)
    cdef array to_bias = None if bias_grad is None else as_output(bias_grad, 1, &outputs, typenum)
    if overlap(to_weight, rows) or overlap(to_weight, change) or overlap(to_weight, w):
        raise ValueError("weight_grad: expected an array that shares no memory with x, weight or dy")
    if reference is not None:
        to_weight += reference.product(change.T, rows)
        if to_bias is not None:
            to_bias += change.sum(axis=0)
        return reference.product(change, w) if input_gradient else None
    _add_product(change, rows, to_weight)
    if to_bias is not None:
        _add_column_sums(change, to_bias)
    return _matmul(change, w, False, False, None, NNF_IDENTITY, None) if input_gradient else None


cdef void _add_product(array a, array b, array c):
    """c += a.T @ b, all two-dimensional."""
    cdef nnf_matmul p
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a)
    p.batch, p.m, p.k, p.n = 1, cnp.PyArray_DIM(a, 1), cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(b, 1)
    p.a, p.b, p.c = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b), cnp.PyArray_DATA(c)
    p.a_row, p.a_col = cnp.PyArray_STRIDE(a, 1) // size, cnp.PyArray_STRIDE(a, 0) // size
    p.b_row, p.b_col = cnp.PyArray_STRIDE(b, 0) // size, cnp.PyArray_STRIDE(b, 1) // size
    p.c_row, p.a_batch, p.b_batch, p.c_batch = p.n, 0, 0, 0
    p.bias, p.activation, p.alpha, p.add = NULL, NNF_IDENTITY, 0.0, 1
    run_matmul(kernels_for(a), &p)


cdef void _add_column_sums(array a, array c):
    """c += a summed over its rows: a row of ones, all of them the same number, times a."""
    cdef nnf_matmul p
    cdef float one_single = 1.0
    cdef double one_double = 1.0
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a)
    p.batch, p.m, p.k, p.n = 1, 1, cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1)
    p.a = <void *>&one_single if size == 4 else <void *>&one_double
    p.a_row, p.a_col, p.a_batch, p.b_batch, p.c_batch = 0, 0, 0, 0, 0
    p.b, p.c, p.c_row = cnp.PyArray_DATA(a), cnp.PyArray_DATA(c), p.n
    p.b_row, p.b_col = cnp.PyArray_STRIDE(a, 0) // size, cnp.PyArray_STRIDE(a, 1) // size
    p.bias, p.activation, p.alpha, p.add = NULL, NNF_IDENTITY, 0.0, 1
    run_matmul(kernels_for(a), &p)
