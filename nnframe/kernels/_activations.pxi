# The border of csrc/elementwise.inc.h: forward, backward and difference of the activations. Included by _kernels.pyx.

def activation(name, x, *, alpha=None, out=None):
    """y = f(x), elementwise, for the activation `name`.

    ===========  ====================================================================
    identity     x
    sigmoid      1 / (1 + exp(-x))
    tanh         tanh(x)
    relu         max(x, 0)
    leaky_relu   x where x >= 0, else alpha x
    elu          x where x >= 0, else alpha (exp(x) - 1)
    gelu         x (1 + erf(x / sqrt(2))) / 2
    gelu_tanh    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    silu         x / (1 + exp(-x))
    softplus     log(1 + exp(x))
    hardswish    x min(max(x + 3, 0), 6) / 6
    mish         x tanh(log(1 + exp(x)))
    selu         1.0507 x where x >= 0, else 1.0507 1.6733 (exp(x) - 1)
    step         1 where x > 0, else 0
    ===========  ====================================================================

    `alpha`: the default of ELU is 1, that of leaky ReLU 0.01; the others have none. `x`, and `out` if given: arrays of
    one shape and dtype (float32 or float64); `out` may be `x`.
    """
    cdef nnf_activation f = as_activation(name)
    cdef double parameter = as_alpha(alpha, f)
    cdef array values = as_contiguous(as_floats(x, "x"))
    cdef array y = as_output(out, "out", cnp.PyArray_NDIM(values), cnp.PyArray_DIMS(values), cnp.PyArray_TYPE(values))
    cdef intptr_t n = cnp.PyArray_SIZE(values)
    cdef const nnf_kernels *kernels = kernels_for(values)
    if out is not None:
        refuse_shift(y, "out", x, "x")
    if reference is not None:
        y[...] = reference.activation(name, values, parameter)
    elif n * 16 < KEEP_GIL:
        kernels.activation_forward(f, parameter, n, cnp.PyArray_DATA(values), cnp.PyArray_DATA(y))
    else:
        with nogil:
            kernels.activation_forward(f, parameter, n, cnp.PyArray_DATA(values), cnp.PyArray_DATA(y))
    return y


def activation_backward(name, x, y, dy, *, alpha=None, out=None):
    """dx = dy * f'(x), elementwise, where y = f(x); arrays of one shape and dtype, `out` may be `dy`."""
    cdef nnf_activation f = as_activation(name)
    cdef double parameter = as_alpha(alpha, f)
    cdef array inputs = as_contiguous(as_floats(x, "x"))
    cdef array outputs = as_same_shape(y, "y", inputs, "of x")
    cdef array grad = as_same_shape(dy, "dy", inputs, "of x")
    cdef array dx = as_output(out, "out", cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(inputs), cnp.PyArray_TYPE(inputs))
    cdef intptr_t n = cnp.PyArray_SIZE(inputs)
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    if out is not None:
        refuse_overlap(dx, "out", x, "x")
        refuse_overlap(dx, "out", y, "y")
        refuse_shift(dx, "out", dy, "dy")
    if reference is not None:
        dx[...] = reference.activation_backward(name, inputs, outputs, grad, parameter)
    elif n * 16 < KEEP_GIL:
        kernels.activation_backward(f, parameter, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                    cnp.PyArray_DATA(grad), cnp.PyArray_DATA(dx))
    else:
        with nogil:
            kernels.activation_backward(f, parameter, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                        cnp.PyArray_DATA(grad), cnp.PyArray_DATA(dx))
    return dx


def activation_difference(name, x, y, dx, *, alpha=None, out=None):
    """dy = f(x + dx) - f(x) without cancellation, where y = f(x).

    `dx` has the shape of `x`, or that with one more axis in front: a stack of changes. Returns an array like `dx`;
    `out` may be `dx`.
    """
    cdef nnf_activation f = as_activation(name)
    cdef double parameter = as_alpha(alpha, f)
    cdef array inputs = as_contiguous(as_floats(x, "x"))
    cdef array outputs = as_same_shape(y, "y", inputs, "of x")
    cdef array change = as_contiguous(as_floats(dx, "dx", cnp.PyArray_TYPE(inputs)))
    if not cnp.PyArray_SAMESHAPE(change, inputs) and not (
            cnp.PyArray_NDIM(change) == cnp.PyArray_NDIM(inputs) + 1
            and has_shape(inputs, cnp.PyArray_NDIM(inputs), cnp.PyArray_DIMS(change) + 1)):
        raise ValueError(f"dx: expected shape of x {np.shape(inputs)}, with or without one axis before it, "
                         f"got {np.shape(change)}")
    cdef array dy = as_output(out, "out", cnp.PyArray_NDIM(change), cnp.PyArray_DIMS(change), cnp.PyArray_TYPE(change))
    cdef intptr_t n = cnp.PyArray_SIZE(inputs)
    cdef intptr_t stack = cnp.PyArray_SIZE(change) // n if n else 0
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    if out is not None:
        refuse_overlap(dy, "out", x, "x")
        refuse_overlap(dy, "out", y, "y")
        refuse_shift(dy, "out", dx, "dx")
    if reference is not None:
        dy[...] = reference.activation_difference(name, inputs, outputs, change, parameter)
    elif stack * n * 16 < KEEP_GIL:
        kernels.activation_difference(f, parameter, stack, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                      cnp.PyArray_DATA(change), cnp.PyArray_DATA(dy))
    else:
        with nogil:
            kernels.activation_difference(f, parameter, stack, n, cnp.PyArray_DATA(inputs), cnp.PyArray_DATA(outputs),
                                          cnp.PyArray_DATA(change), cnp.PyArray_DATA(dy))
    return dy
