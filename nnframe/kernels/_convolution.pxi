# The border of csrc/convolution.inc.h and pooling.inc.h. Included by _kernels.pyx.

cdef array as_planes(object a, str name, str shape, int typenum=-1):
    """`a` in C order, with four axes."""
    cdef array x = as_contiguous(as_floats(a, name, typenum))
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"{name}: expected shape {shape}, got {np.shape(x)}")
    return x


cdef int as_pair(object value, str name, intptr_t least, intptr_t *pair) except -1:
    """Two whole numbers, one for each axis."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name}: expected two whole numbers, got {got(value)}")
    for i in range(2):
        if isinstance(value[i], bool) or not isinstance(value[i], (int, np.integer)):
            raise TypeError(f"{name}: expected two whole numbers, got {value!r}")
        if not least <= value[i] < 1 << 31:
            raise ValueError(f"{name}: expected at least {least} each, got {value!r}")
        pair[i] = value[i]
    return 0


cdef int set_convolution(nnf_convolution *p, array x, array weight, array y, stride, padding, dilation,
                         groups) except -1:
    """Fill in the sizes, and see whether they belong together."""
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)):
        raise TypeError(f"groups: expected a whole number, got {got(groups)}")
    cdef intptr_t inputs = cnp.PyArray_DIM(x, 1)
    cdef intptr_t outputs = cnp.PyArray_DIM(y, 1)
    cdef int i
    p.images = cnp.PyArray_DIM(x, 0)
    p.in_channels = cnp.PyArray_DIM(weight, 1)
    p.groups = groups if 0 < groups <= cnp.PyArray_DIM(weight, 0) else 1
    p.out_channels = cnp.PyArray_DIM(weight, 0) // p.groups
    if p.groups != groups or p.groups * p.out_channels != cnp.PyArray_DIM(weight, 0):
        raise ValueError(f"groups: expected a divisor of the {cnp.PyArray_DIM(weight, 0)} channels of the weight, "
                         f"got {groups}")
    if cnp.PyArray_SIZE(weight) == 0:
        raise ValueError(f"weight: expected no axis of length 0, got shape {np.shape(weight)}")
    if inputs != p.groups * p.in_channels:
        raise ValueError(f"x: expected {p.groups * p.in_channels} channels, got shape {np.shape(x)}")
    if outputs != p.groups * p.out_channels or cnp.PyArray_DIM(y, 0) != p.images:
        raise ValueError(f"dy: expected shape ({p.images}, {p.groups * p.out_channels}, ...), got {np.shape(y)}")
    as_pair(stride, "stride", 1, p.stride)
    as_pair(padding, "padding", 0, p.padding)
    as_pair(dilation, "dilation", 1, p.dilation)
    for i in range(2):
        p.in_size[i] = cnp.PyArray_DIM(x, 2 + i)
        p.out_size[i] = cnp.PyArray_DIM(y, 2 + i)
        p.kernel[i] = cnp.PyArray_DIM(weight, 2 + i)
    p.x, p.weight, p.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(weight), cnp.PyArray_DATA(y)
    p.bias = NULL
    return 0


cdef array set_bias(nnf_convolution *p, object bias, intptr_t channels, array like):
    """The bias, one number for each channel; it must be kept as long as C reads it."""
    if bias is None:
        return None
    cdef array b = as_contiguous(as_floats(bias, "bias", cnp.PyArray_TYPE(like)))
    cdef cnp.npy_intp expected = channels
    if not has_shape(b, 1, &expected):
        raise ValueError(f"bias: expected shape ({channels},), got {np.shape(b)}")
    p.bias = cnp.PyArray_DATA(b)
    return b


cdef int run_convolution(int (*run)(const nnf_convolution *p) noexcept nogil, const nnf_convolution *p) except -1:
    cdef int failed
    with nogil:
        failed = run(p)
    if failed:
        raise MemoryError("no room for the planes of a convolution")
    return 0


cdef array new_planes(array like, intptr_t channels, object size, str name):
    """A new array of as many images."""
    cdef intptr_t sizes[2]
    as_pair(size, name, 0, sizes)
    cdef cnp.npy_intp[4] shape
    shape[0], shape[1], shape[2], shape[3] = cnp.PyArray_DIM(like, 0), channels, sizes[0], sizes[1]
    return fresh(4, shape, cnp.PyArray_TYPE(like))


def convolution(x, weight, bias=None, *, out_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """y[n, o, i, j] = bias[o] + sum over c, a, b of weight[o, c, a, b] x[n, c', i s - p + a d, j s - p + b d].

    x: (N, groups C, H, W); outside of it is 0. weight: (O, C, a, b), each of `groups` reads its own C channels.
    bias: (O,), or None. out_size: height and width of y, any that fit; stride, padding (before the first row and
    column) and dilation: two whole numbers each. All of one dtype, float32 or float64.
    """
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)")
    cdef array w = as_planes(weight, "weight", "(O, C, height, width)", cnp.PyArray_TYPE(inputs))
    cdef array y = new_planes(inputs, cnp.PyArray_DIM(w, 0), out_size, "out_size")
    cdef nnf_convolution p
    set_convolution(&p, inputs, w, y, stride, padding, dilation, groups)
    cdef array b = set_bias(&p, bias, cnp.PyArray_DIM(w, 0), inputs)
    if reference is not None:
        y[...] = reference.convolution(inputs, w, b, tuple(out_size), tuple(stride), tuple(padding), tuple(dilation),
                                       groups)
    else:
        run_convolution(kernels_for(inputs).convolution, &p)
    return y


def convolution_input_gradient(dy, weight, bias=None, *, in_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
                               groups=1):
    """The gradient of a loss with respect to the x of `convolution`, (N, groups C, *in_size), from that to its y.

    Also a transposed convolution of dy; `bias`, (groups C,), is then added to each channel.
    """
    cdef array y = as_planes(dy, "dy", "(N, O, H, W)")
    cdef array w = as_planes(weight, "weight", "(O, C, height, width)", cnp.PyArray_TYPE(y))
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or not 0 < groups < 1 << 31:
        raise ValueError(f"groups: expected a whole number of at least 1, got {got(groups)}")
    cdef array x = new_planes(y, cnp.PyArray_DIM(w, 1) * groups, in_size, "in_size")
    cdef nnf_convolution p
    set_convolution(&p, x, w, y, stride, padding, dilation, groups)
    cdef array b = set_bias(&p, bias, cnp.PyArray_DIM(x, 1), y)
    if reference is not None:
        x[...] = reference.convolution_input_gradient(y, w, b, tuple(in_size), tuple(stride), tuple(padding),
                                                      tuple(dilation), groups)
    else:
        run_convolution(kernels_for(y).convolution_input_gradient, &p)
    return x


def convolution_weight_gradient(x, dy, *, weight_grad, bias_grad=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
                                groups=1):
    """Add to `weight_grad` and `bias_grad` what the gradient dy of the outputs of `convolution` gives for them."""
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)")
    cdef array y = as_planes(dy, "dy", "(N, O, H, W)", cnp.PyArray_TYPE(inputs))
    if not cnp.PyArray_Check(weight_grad) or np.ndim(weight_grad) != 4:
        raise ValueError(f"weight_grad: expected an array of shape (O, C, height, width), got {got(weight_grad)}")
    cdef array weight = as_writeable(weight_grad, "weight_grad", 4, cnp.PyArray_DIMS(<array>weight_grad),
                                     cnp.PyArray_TYPE(inputs))
    cdef cnp.npy_intp outputs = cnp.PyArray_DIM(weight, 0)
    cdef array bias = None
    if bias_grad is not None:
        bias = as_writeable(bias_grad, "bias_grad", 1, &outputs, cnp.PyArray_TYPE(inputs))
    refuse_shared_arrays({"weight_grad": weight_grad, "bias_grad": bias_grad}, {"x": x, "dy": dy})
    cdef array to_weight = in_c_order(weight)
    cdef array to_bias = None if bias is None else in_c_order(bias)
    cdef nnf_convolution p
    set_convolution(&p, inputs, to_weight, y, stride, padding, dilation, groups)
    if to_bias is not None:
        p.bias = cnp.PyArray_DATA(to_bias)
    if reference is not None:
        reference.convolution_weight_gradient(inputs, y, to_weight, to_bias, tuple(stride), tuple(padding),
                                              tuple(dilation), groups)
    else:
        run_convolution(kernels_for(inputs).convolution_weight_gradient, &p)
    write_back(to_weight, weight)
    if to_bias is not None:
        write_back(to_bias, bias)


# ---- pooling -------------------------------------------------------------------------------------------------

cdef int set_pooling(nnf_pooling *p, nnf_pass which, array x, array y, kernel, stride, padding, dilation) except -1:
    """Fill in the sizes; ValueError where a window would not meet the plane."""
    cdef int i
    memset(p, 0, sizeof(nnf_pooling))
    as_pair(kernel, "kernel_size", 1, p.kernel)
    as_pair(stride, "stride", 1, p.stride)
    as_pair(padding, "padding", 0, p.padding)
    as_pair(dilation, "dilation", 1, p.dilation)
    p.which = which
    p.planes, p.stack = cnp.PyArray_DIM(x, 0) * cnp.PyArray_DIM(x, 1), 1
    for i in range(2):
        p.in_size[i], p.out_size[i] = cnp.PyArray_DIM(x, 2 + i), cnp.PyArray_DIM(y, 2 + i)
        if which != NNF_MAX_GRADIENT:    # which reads indices, no windows
            refuse_empty_windows(p, i)
    if p.in_size[0] * p.in_size[1] >= 1 << 31:
        raise ValueError(f"x: expected planes of less than 2^31 entries, got shape {np.shape(x)}")
    p.x, p.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    return 0


cdef int refuse_empty_windows(const nnf_pooling *p, int axis) except -1:
    """ValueError unless each window has an entry of the plane."""
    cdef intptr_t i, start
    cdef intptr_t last = (p.out_size[axis] - 1) * p.stride[axis] - p.padding[axis]
    if 2 * p.padding[axis] > p.kernel[axis]:
        raise ValueError(f"padding: expected at most half of kernel_size {p.kernel[axis]}, got {p.padding[axis]}")
    for i in range(p.out_size[axis]):
        start = i * p.stride[axis] - p.padding[axis]
        if start >= 0:
            break
        last = max(last, start + (p.dilation[axis] - 1 - start) // p.dilation[axis] * p.dilation[axis])
    if p.out_size[axis] > 0 and last >= p.in_size[axis]:
        raise ValueError(f"x: expected axes that each window meets, got length {p.in_size[axis]} for "
                         f"{p.out_size[axis]} windows of {p.kernel[axis]} entries")
    return 0


cdef void run_pooling(const nnf_kernels *kernels, const nnf_pooling *p) noexcept:
    with nogil:
        kernels.pooling(p)


cdef array as_argmax(object index, array y):
    """The indices that `max_pooling` returned."""
    cdef array found = as_places(index)
    if not cnp.PyArray_SAMESHAPE(found, y):
        raise ValueError(f"index: expected int32 of shape {np.shape(y)}, got {found.dtype} of shape {np.shape(found)}")
    return found


cdef int refuse_far(array index, intptr_t entries) except -1:
    """ValueError where an index is none of an entry of a plane."""
    if cnp.PyArray_SIZE(index) and not (0 <= index.min() and index.max() < entries):
        raise ValueError(f"index: expected indices in [0, {entries}), got {index.min()} to {index.max()}")
    return 0


def max_pooling(x, *, out_size, kernel_size, stride, padding=(0, 0), dilation=(1, 1)):
    """The largest entry of each window of x (N, C, H, W), and where in its plane it is: y and int32, (N, C, *out_size).

    Of equal entries the first is taken, of NaNs the last. padding: at most half of kernel_size, never taken.
    """
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)")
    cdef array y = new_planes(inputs, cnp.PyArray_DIM(inputs, 1), out_size, "out_size")
    cdef array index = fresh(4, cnp.PyArray_DIMS(y), cnp.NPY_INT32)
    cdef nnf_pooling p
    set_pooling(&p, NNF_MAX, inputs, y, kernel_size, stride, padding, dilation)
    p.index = <int32_t *>cnp.PyArray_DATA(index)
    if reference is not None:
        y[...], index[...] = reference.max_pooling(inputs, out_size, kernel_size, stride, padding, dilation)
    else:
        run_pooling(kernels_for(inputs), &p)
    return y, index


def max_pooling_backward(dy, index, *, in_size):
    """The gradient with respect to the x of `max_pooling`: each dy goes to where its y came from."""
    cdef array y = as_planes(dy, "dy", "(N, C, H, W)")
    cdef array at = as_argmax(index, y)
    cdef array x = new_planes(y, cnp.PyArray_DIM(y, 1), in_size, "in_size")
    cdef nnf_pooling p
    set_pooling(&p, NNF_MAX_GRADIENT, x, y, (1, 1), (1, 1), (0, 0), (1, 1))
    refuse_far(at, p.in_size[0] * p.in_size[1])
    p.index = <int32_t *>cnp.PyArray_DATA(at)
    if reference is not None:
        x[...] = reference.max_pooling_backward(y, at, in_size)
    else:
        run_pooling(kernels_for(y), &p)
    return x


def max_pooling_difference(x, dx, index, *, kernel_size, stride, padding=(0, 0), dilation=(1, 1)):
    """What the y of `max_pooling` changes by when x moves by dx, or by a stack (S, *x.shape); nothing cancels."""
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)")
    cdef array change = as_contiguous(as_floats(dx, "dx", cnp.PyArray_TYPE(inputs)))
    if np.shape(change)[-4:] != np.shape(inputs) or cnp.PyArray_NDIM(change) > 5:
        raise ValueError(f"dx: expected shape of x {np.shape(inputs)}, with or without one axis before it, "
                         f"got {np.shape(change)}")
    cdef array at = as_places(index)
    if np.shape(at)[:2] != np.shape(inputs)[:2]:
        raise ValueError(f"index: expected int32 of shape {np.shape(inputs)[:2]} and two more axes, got {at.dtype} of "
                         f"shape {np.shape(at)}")
    shape = np.shape(change)[:-4] + np.shape(at)
    cdef array dy = np.empty(shape, inputs.dtype)
    cdef nnf_pooling p
    set_pooling(&p, NNF_MAX_CHANGE, inputs, at, kernel_size, stride, padding, dilation)
    refuse_far(at, p.in_size[0] * p.in_size[1])
    p.stack = cnp.PyArray_DIM(change, 0) if cnp.PyArray_NDIM(change) == 5 else 1
    p.y, p.change = cnp.PyArray_DATA(dy), cnp.PyArray_DATA(change)
    p.index = <int32_t *>cnp.PyArray_DATA(at)
    if reference is not None:
        dy[...] = reference.max_pooling_difference(inputs, change, at, kernel_size, stride, padding, dilation)
    else:
        run_pooling(kernels_for(inputs), &p)
    return dy


def mean_pooling(x, *, out_size, kernel_size, stride, padding=(0, 0), count_padding=True, divisor=0.0):
    """The mean of each window of x (N, C, H, W): its sum by `divisor`; where that is 0, by the number of its entries.

    count_padding: whether entries of the padding, which are 0, count. Returns (N, C, *out_size).
    """
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)")
    cdef array y = new_planes(inputs, cnp.PyArray_DIM(inputs, 1), out_size, "out_size")
    cdef nnf_pooling p
    set_pooling(&p, NNF_MEAN, inputs, y, kernel_size, stride, padding, (1, 1))
    p.count_padding, p.divisor = as_flag(count_padding, "count_padding"), as_number(divisor, "divisor")
    if reference is not None:
        y[...] = reference.mean_pooling(inputs, out_size, kernel_size, stride, padding, count_padding, divisor)
    else:
        run_pooling(kernels_for(inputs), &p)
    return y


def mean_pooling_backward(dy, *, in_size, kernel_size, stride, padding=(0, 0), count_padding=True, divisor=0.0):
    """The gradient with respect to the x of `mean_pooling`, (N, C, *in_size), from that to its y."""
    cdef array y = as_planes(dy, "dy", "(N, C, H, W)")
    cdef array x = new_planes(y, cnp.PyArray_DIM(y, 1), in_size, "in_size")
    cdef nnf_pooling p
    set_pooling(&p, NNF_MEAN_GRADIENT, x, y, kernel_size, stride, padding, (1, 1))
    p.count_padding, p.divisor = as_flag(count_padding, "count_padding"), as_number(divisor, "divisor")
    if reference is not None:
        x[...] = reference.mean_pooling_backward(y, in_size, kernel_size, stride, padding, count_padding, divisor)
    else:
        run_pooling(kernels_for(y), &p)
    return x


# ---- central differences -----------------------------------------------------------------------------------------

def convolution_difference(Above above not None, x, *, step, scale, grad_weight, grad_bias=None, stride=(1, 1),
                           padding=(0, 0), dilation=(1, 1), groups=1, out_size, units=None):
    """The central-difference gradient of a convolution below built-in layers, in C on all threads.

    Parameters
    ----------
    above : Above
        Its outputs are those of a row: those of all output channels.
    x : array (N, groups C, H, W)
        The layer's input.
    step, scale : float
        The step in weight; what the sum of losses over rows is multiplied with.
    grad_weight, grad_bias : array (O, C, height, width), array (O,) or None
        Overwritten, for the output channels in `units`.
    stride, padding, dilation, groups, out_size :
        As for `convolution`.
    units : range, optional
        Of output channels; all if not given.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, arrays to be written that share memory with others; nothing has
        been written.
    """
    cdef array inputs = as_planes(x, "x", "(N, C, H, W)", above.typenum)
    if not cnp.PyArray_Check(grad_weight) or np.ndim(grad_weight) != 4:
        raise ValueError(f"grad_weight: expected an array of shape (O, C, height, width), got {got(grad_weight)}")
    cdef array weight = as_writeable(grad_weight, "grad_weight", 4, cnp.PyArray_DIMS(<array>grad_weight), above.typenum)
    cdef array bias = None
    cdef cnp.npy_intp outputs = cnp.PyArray_DIM(weight, 0)
    cdef nnf_convolution c
    cdef nnf_convolution_difference p
    cdef int answer
    if grad_bias is not None:
        bias = as_writeable(grad_bias, "grad_bias", 1, &outputs, above.typenum)
    sizes = np.empty((len(inputs), outputs, 0, 0), inputs.dtype)
    set_convolution(&c, inputs, weight, sizes, stride, padding, dilation, groups)
    as_pair(out_size, "out_size", 1, c.out_size)
    if outputs * c.out_size[0] * c.out_size[1] != above.outputs or cnp.PyArray_DIM(inputs, 0) != above.rows:
        raise ValueError(f"x: expected {above.rows} rows and {above.outputs} outputs of each, got shape {np.shape(x)} "
                         f"and {outputs} channels of {tuple(out_size)}")
    p.step, p.scale = as_number(step, "step"), as_number(scale, "scale")
    if not 0 < p.step < float("inf"):
        raise ValueError(f"step: expected a finite number above 0, got {step!r}")
    some = range(outputs) if units is None else units
    if not isinstance(some, range) or some.step != 1 or (len(some) and not 0 <= some.start < some.stop <= outputs):
        raise ValueError(f"units: expected a range within 0 and {outputs}, got {got(units)}")
    refuse_shared_arrays({"grad_weight": weight, "grad_bias": bias}, {"x": x, **above.given})
    if reference is not None:
        reference.convolution_difference(above, inputs, p.step, p.scale, weight, bias, tuple(out_size), tuple(stride),
                                         tuple(padding), tuple(dilation), groups, some)
        return
    cdef array to_weight = in_c_order(weight), to_bias = None if bias is None else in_c_order(bias)
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    p.above, p.layer = above.c, &c
    p.above.first, p.above.units = some.start if len(some) else 0, len(some)
    p.grad_weight, p.grad_bias = <void *>address(to_weight), <void *>address(to_bias)
    with nogil:
        answer = kernels.convolution_difference(&p, poll)
    finish(answer)
    write_back(to_weight, weight)
    if bias is not None:
        write_back(to_bias, bias)
