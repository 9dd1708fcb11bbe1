# The border of csrc/normalization.inc.h. Included by _kernels.pyx.

cdef int set_batch_norm(nnf_batch_norm *p, array x, object eps) except -1:
    """Fill in the sizes of x (N, C, ...), which is in C order."""
    cdef int i
    memset(p, 0, sizeof(nnf_batch_norm))
    if cnp.PyArray_NDIM(x) < 2:
        raise ValueError(f"x: expected shape (N, C, ...), got {np.shape(x)}")
    p.eps = as_number(eps, "eps")
    p.rows, p.channels, p.size = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), 1
    for i in range(2, cnp.PyArray_NDIM(x)):
        p.size *= cnp.PyArray_DIM(x, i)
    p.x = cnp.PyArray_DATA(x)
    return 0


cdef object of_channels(object a, str name, const nnf_batch_norm *p, int typenum):
    """One number for each channel, as C reads it, or None."""
    cdef cnp.npy_intp channels = p.channels
    return None if a is None else checked_floats(a, name, 1, &channels, typenum)


def batch_norm(x, weight=None, bias=None, *, eps, with_output=True):
    """y = (x - m) / sqrt(v + eps) w + b with mean m and biased variance v of each channel of x (N, C, ...).

    weight, bias: (C,), or None. Returns y, None without output, and m and v as (2, C) of float64.
    """
    cdef array inputs = as_contiguous(as_floats(x, "x"))
    cdef nnf_batch_norm p
    set_batch_norm(&p, inputs, eps)
    w = of_channels(weight, "weight", &p, cnp.PyArray_TYPE(inputs))
    b = of_channels(bias, "bias", &p, cnp.PyArray_TYPE(inputs))
    cdef array moments = np.zeros((2, p.channels))
    y = fresh(cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(inputs), cnp.PyArray_TYPE(inputs)) if with_output else None
    if reference is not None:
        found, moments[...] = reference.batch_norm(inputs, w, b, p.eps)
        if with_output:
            y[...] = found
        return y, moments
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    p.weight, p.bias, p.y = address(w), address(b), <void *>address(y)
    p.moments = <double *>cnp.PyArray_DATA(moments)
    with nogil:
        kernels.batch_norm(&p)
    return y, moments


def batch_norm_backward(x, dy, moments, weight=None, *, eps, weight_grad=None, bias_grad=None):
    """The gradient with respect to the x of `batch_norm`, from that to its y and what it returned as moments.

    Adds to weight_grad and bias_grad, arrays (C,) or None, the gradients of the weight and the bias.
    """
    cdef array inputs = as_contiguous(as_floats(x, "x"))
    cdef int typenum = cnp.PyArray_TYPE(inputs)
    cdef nnf_batch_norm p
    set_batch_norm(&p, inputs, eps)
    cdef cnp.npy_intp[2] shape = [2, p.channels]
    cdef array outputs = checked_floats(dy, "dy", cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(inputs), typenum)
    cdef array known = checked_floats(moments, "moments", 2, shape, cnp.NPY_FLOAT64)
    cdef array to_weight = None, to_bias = None
    w = of_channels(weight, "weight", &p, typenum)
    if weight_grad is not None:
        to_weight = in_c_order(as_writeable(weight_grad, "weight_grad", 1, shape + 1, typenum))
    if bias_grad is not None:
        to_bias = in_c_order(as_writeable(bias_grad, "bias_grad", 1, shape + 1, typenum))
    refuse_shared_arrays({"weight_grad": weight_grad, "bias_grad": bias_grad},
                         {"x": x, "dy": dy, "moments": moments, "weight": weight})
    cdef array dx = fresh(cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(inputs), typenum)
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    if reference is not None:
        dx[...] = reference.batch_norm_backward(inputs, outputs, known, w, p.eps, to_weight, to_bias)
    else:
        p.weight, p.dy, p.dx = address(w), cnp.PyArray_DATA(outputs), cnp.PyArray_DATA(dx)
        p.grad_weight, p.grad_bias = <void *>address(to_weight), <void *>address(to_bias)
        p.moments = <double *>cnp.PyArray_DATA(known)
        with nogil:
            kernels.batch_norm(&p)
    if to_weight is not None:
        write_back(to_weight, weight_grad)
    if to_bias is not None:
        write_back(to_bias, bias_grad)
    return dx
