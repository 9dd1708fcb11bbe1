# The border of csrc/matmul.inc.h: batched products and the linear layer's. Included by _kernels.pyx.

cdef void run_matmul(const nnf_kernels *kernels, nnf_matmul *p) noexcept:
    if p.batch * p.m * p.n * p.k < KEEP_GIL:
        kernels.matmul(p)
    else:
        with nogil:
            kernels.matmul(p)


# ---- stacks of matrices ------------------------------------------------------------------------------------

def batched_matmul(a, b, *, transpose_a=False, transpose_b=False, out=None):
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
        Another dtype, or two different ones; a flag that is not True or False.
    ValueError
        Fewer than two axes, inner sizes that differ, leading axes that do not broadcast, a wrong `out`.
    """
    cdef array x = as_floats(a, "a")
    cdef array y = as_floats(b, "b", cnp.PyArray_TYPE(x))
    cdef bint turn_a = as_flag(transpose_a, "transpose_a"), turn_b = as_flag(transpose_b, "transpose_b")
    cdef int dims_a = cnp.PyArray_NDIM(x), dims_b = cnp.PyArray_NDIM(y), lead
    cdef cnp.npy_intp shape[64]
    cdef intptr_t step_a[64]
    cdef intptr_t step_b[64]
    cdef nnf_matmul p
    cdef array c
    if dims_a < 2 or dims_b < 2:
        raise ValueError(f"a, b: expected at least two axes, got shapes {np.shape(x)} and {np.shape(y)}")
    lead = leading_axes(x, y, shape, step_a, step_b)
    describe_product(&p, x, turn_a, y, turn_b)
    p.any_order = 1
    if cnp.PyArray_DIM(y, dims_b - 1 if turn_b else dims_b - 2) != p.k:
        raise ValueError(f"a, b: expected equal inner sizes, got {p.k} and "
                         f"{cnp.PyArray_DIM(y, dims_b - 1 if turn_b else dims_b - 2)} (shapes {np.shape(x)} and "
                         f"{np.shape(y)}, transpose_a={turn_a}, transpose_b={turn_b})")
    shape[lead], shape[lead + 1] = p.m, p.n
    c = as_output(out, "out", lead + 2, shape, cnp.PyArray_TYPE(x))
    if out is not None:
        refuse_overlap(c, "out", a, "a")
        refuse_overlap(c, "out", b, "b")
    if reference is not None:
        c[...] = reference.product(np.swapaxes(x, -1, -2) if turn_a else x, np.swapaxes(y, -1, -2) if turn_b else y)
        return c
    p.c = cnp.PyArray_DATA(c)
    if lead == 0:
        run_matmul(kernels_for(x), &p)
    elif cnp.PyArray_SIZE(c) > 0:
        run_stack(&p, kernels_for(x), cnp.PyArray_ITEMSIZE(x), lead, shape, step_a, step_b)
    return c


cdef int leading_axes(array a, array b, cnp.npy_intp *shape, intptr_t *step_a, intptr_t *step_b) except -1:
    """How many leading axes a product has, their lengths, and from one matrix to the next in elements: 0 for the same
    one again.
    """
    cdef int dims_a = cnp.PyArray_NDIM(a) - 2, dims_b = cnp.PyArray_NDIM(b) - 2
    cdef int lead = dims_a if dims_a > dims_b else dims_b, i, in_a, in_b
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a)
    cdef cnp.npy_intp length_a, length_b
    for i in range(lead):
        in_a, in_b = i - lead + dims_a, i - lead + dims_b
        length_a = cnp.PyArray_DIM(a, in_a) if in_a >= 0 else 1
        length_b = cnp.PyArray_DIM(b, in_b) if in_b >= 0 else 1
        if length_a != length_b and length_a != 1 and length_b != 1:
            raise ValueError(f"a, b: expected leading axes that broadcast, got {np.shape(a)[:-2]} and "
                             f"{np.shape(b)[:-2]}")
        shape[i] = length_b if length_a == 1 else length_a
        step_a[i] = 0 if length_a == 1 else cnp.PyArray_STRIDE(a, in_a) // size
        step_b[i] = 0 if length_b == 1 else cnp.PyArray_STRIDE(b, in_b) // size
    return lead


cdef void describe_product(nnf_matmul *p, array a, bint turn_a, array b, bint turn_b) noexcept:
    """One product of the matrices in the last two axes; only `c` is missing."""
    cdef int row_a = cnp.PyArray_NDIM(a) - 2, row_b = cnp.PyArray_NDIM(b) - 2, col_a = row_a + 1, col_b = row_b + 1
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(a)
    if turn_a:
        row_a, col_a = col_a, row_a
    if turn_b:
        row_b, col_b = col_b, row_b
    p.batch, p.m, p.k, p.n = 1, cnp.PyArray_DIM(a, row_a), cnp.PyArray_DIM(a, col_a), cnp.PyArray_DIM(b, col_b)
    p.a, p.b, p.c = cnp.PyArray_DATA(a), cnp.PyArray_DATA(b), NULL
    p.a_row, p.a_col = cnp.PyArray_STRIDE(a, row_a) // size, cnp.PyArray_STRIDE(a, col_a) // size
    p.b_row, p.b_col = cnp.PyArray_STRIDE(b, row_b) // size, cnp.PyArray_STRIDE(b, col_b) // size
    p.c_row, p.a_batch, p.b_batch, p.c_batch = p.n, 0, 0, 0
    p.bias, p.activation, p.alpha, p.add, p.any_order = NULL, NNF_IDENTITY, 0.0, 0, 0


cdef void run_stack(nnf_matmul *p, const nnf_kernels *kernels, intptr_t size, int lead, const cnp.npy_intp *shape,
                    const intptr_t *step_a, const intptr_t *step_b) noexcept:
    """Fold the leading axes into one batch where their strides allow; loop over those that are left."""
    cdef const char *a = <const char *>p.a
    cdef const char *b = <const char *>p.b
    cdef char *c = <char *>p.c
    cdef int inner = lead - 1, i
    cdef intptr_t outer = 1, index, rest, at
    p.batch, p.a_batch, p.b_batch, p.c_batch = shape[inner], step_a[inner], step_b[inner], p.m * p.n
    while inner > 0 and (step_a[inner - 1] == p.batch * p.a_batch and step_b[inner - 1] == p.batch * p.b_batch):
        inner -= 1
        p.batch *= shape[inner]
    for i in range(inner):
        outer *= shape[i]
    for index in range(outer):
        rest = index
        p.a, p.b = a, b
        p.c = c + index * p.batch * p.c_batch * size
        for i in range(inner - 1, -1, -1):
            at = rest % shape[i]
            rest = rest // shape[i]
            p.a = <const char *>p.a + at * step_a[i] * size
            p.b = <const char *>p.b + at * step_b[i] * size
        run_matmul(kernels, p)


# ---- the linear layer --------------------------------------------------------------------------------------

def linear(x, weight, bias=None, *, activation="identity", alpha=None, out=None):
    """y = activation(x @ weight.T + bias), in one pass over y.

    Parameters
    ----------
    x : array (..., in_features)
    weight : array (out_features, in_features)
    bias : array (out_features,), optional
        float32 or float64, all the same.
    activation : str
        One of those of `activation`.
    alpha : float, optional
        Parameter of the activation; its default if not given.
    out : array (..., out_features), optional
        Written and returned; in C order, and no part of the others.

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
    cdef double parameter = as_alpha(alpha, f)
    cdef int ndim = cnp.PyArray_NDIM(rows), i
    cdef cnp.npy_intp shape[64]
    cdef cnp.npy_intp count = 1
    cdef nnf_matmul p
    cdef array y
    if cnp.PyArray_NDIM(w) != 2:
        raise ValueError(f"weight: expected shape (out_features, in_features), got {np.shape(w)}")
    if ndim < 1 or cnp.PyArray_DIM(rows, ndim - 1) != cnp.PyArray_DIM(w, 1):
        raise ValueError(f"x: expected shape (..., {cnp.PyArray_DIM(w, 1)}) for a weight of shape {np.shape(w)}, "
                         f"got {np.shape(rows)}")
    if bias is not None:
        b = as_contiguous(as_floats(bias, "bias", cnp.PyArray_TYPE(rows)))
        if cnp.PyArray_NDIM(b) != 1 or cnp.PyArray_DIM(b, 0) != cnp.PyArray_DIM(w, 0):
            raise ValueError(f"bias: expected shape ({cnp.PyArray_DIM(w, 0)},), got {np.shape(b)}")
    for i in range(ndim - 1):
        shape[i] = cnp.PyArray_DIM(rows, i)
        count *= shape[i]
    shape[ndim - 1] = cnp.PyArray_DIM(w, 0)
    y = as_output(out, "out", ndim, shape, cnp.PyArray_TYPE(rows))
    if out is not None:
        refuse_overlap(y, "out", x, "x")
        refuse_overlap(y, "out", weight, "weight")
        refuse_overlap(y, "out", bias, "bias")
    if ndim != 2:
        rows = as_contiguous(rows)
    if reference is not None:
        y[...] = reference.product(rows.reshape(count, -1), w.T, b, activation, parameter).reshape(np.shape(y))
        return y
    describe_product(&p, rows if ndim == 2 else w, False, w, True)
    if ndim != 2:
        p.m, p.a, p.a_row, p.a_col = count, cnp.PyArray_DATA(rows), p.k, 1
    p.c, p.activation, p.alpha = cnp.PyArray_DATA(y), f, parameter
    if b is not None:
        p.bias = cnp.PyArray_DATA(b)
    run_matmul(kernels_for(rows), &p)
    return y


def linear_backward(x, weight, dy, *, weight_grad, bias_grad=None, input_gradient=True):
    """Gradients of y = x @ weight.T + bias from that of y: weight_grad += dy.T @ x, bias_grad += dy summed over rows.

    Parameters
    ----------
    x : array (N, in_features)
    weight, weight_grad : array (out_features, in_features)
    dy : array (N, out_features)
    bias_grad : array (out_features,), optional
        float32 or float64, all the same; the gradients are added to, and share no memory with the others.
    input_gradient : bool
        Whether to return the gradient of x.

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
    cdef bint with_input = as_flag(input_gradient, "input_gradient")
    cdef array dx = None
    cdef nnf_matmul p
    if cnp.PyArray_NDIM(rows) != 2 or cnp.PyArray_NDIM(w) != 2 or cnp.PyArray_DIM(rows, 1) != cnp.PyArray_DIM(w, 1):
        raise ValueError(f"x, weight: expected shapes (N, in_features) and (out_features, in_features), got "
                         f"{np.shape(rows)} and {np.shape(w)}")
    cdef cnp.npy_intp n = cnp.PyArray_DIM(rows, 0), outputs = cnp.PyArray_DIM(w, 0)
    if cnp.PyArray_NDIM(change) != 2 or cnp.PyArray_DIM(change, 0) != n or cnp.PyArray_DIM(change, 1) != outputs:
        raise ValueError(f"dy: expected shape ({n}, {outputs}), got {np.shape(change)}")
    cdef array weight_sum = as_writeable(weight_grad, "weight_grad", 2, cnp.PyArray_DIMS(w), typenum), bias_sum = None
    if bias_grad is not None:
        bias_sum = as_writeable(bias_grad, "bias_grad", 1, &outputs, typenum)
    refuse_shared_gradients(weight_sum, bias_sum, x, weight, dy)
    if reference is not None:
        weight_sum += reference.product(change.T, rows)
        if bias_sum is not None:
            bias_sum += change.sum(axis=0)
        return reference.product(change, w) if with_input else None
    cdef array to_weight = in_c_order(weight_sum), to_bias = None if bias_sum is None else in_c_order(bias_sum)
    if with_input:
        dx = fresh(2, cnp.PyArray_DIMS(rows), typenum)
        describe_product(&p, change, False, w, False)
        p.c = cnp.PyArray_DATA(dx)
        run_matmul(kernels_for(rows), &p)
    describe_product(&p, change, True, rows, False)
    p.c, p.add = cnp.PyArray_DATA(to_weight), 1
    run_matmul(kernels_for(rows), &p)
    write_back(to_weight, weight_sum)
    if to_bias is not None:
        add_column_sums(change, to_bias)
        write_back(to_bias, bias_sum)
    return dx


cdef tuple GRADIENTS = ("weight_grad", "x", "weight", "dy", "bias_grad")


cdef int refuse_shared_gradients(array to_weight, array to_bias, object x, object weight, object dy) except -1:
    cdef piece pieces[5]
    cdef intptr_t count = 1
    set_piece(&pieces[0], to_weight, True, 0, 0)
    if cnp.PyArray_Check(x):
        set_piece(&pieces[count], x, False, 1, 0)
        count += 1
    if cnp.PyArray_Check(weight):
        set_piece(&pieces[count], weight, False, 2, 0)
        count += 1
    if cnp.PyArray_Check(dy):
        set_piece(&pieces[count], dy, False, 3, 0)
        count += 1
    if to_bias is not None:
        set_piece(&pieces[count], to_bias, True, 4, 0)
        count += 1
    return refuse_shared(pieces, count, GRADIENTS)


cdef void add_column_sums(array a, array c):
    """c += a summed over its rows: a row of ones, all of them the same number, times a."""
    cdef nnf_matmul p
    cdef float one_single = 1.0
    cdef double one_double = 1.0
    describe_product(&p, a, False, a, False)
    p.m, p.k = 1, cnp.PyArray_DIM(a, 0)
    p.a = <void *>&one_single if cnp.PyArray_ITEMSIZE(a) == 4 else <void *>&one_double
    p.a_row, p.a_col = 0, 0
    p.c, p.add = cnp.PyArray_DATA(c), 1
    run_matmul(kernels_for(a), &p)
