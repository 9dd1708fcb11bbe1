# The border of csrc/changes.c. Included by _kernels.pyx.

def moved_copies(x, index, value, out):
    """out[s] = x but for out[s, index[s % R, j]] = value[s, j].

    Parameters
    ----------
    x : array of float64, n numbers
    index : array (R, m) of np.intp
        Into x, flattened.
    value : array (S, m) of float64
    out : array (S, n) of float64
        In C order; shares no memory with the others.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, an index outside x; nothing has been written.
    """
    cdef array numbers = as_doubles(x, "x")
    cdef array values = as_doubles(value, "value")
    cdef array indices = as_indices(index, "index")
    cdef cnp.npy_intp shape[2]
    cdef nnf_copies p
    cdef intptr_t i
    if (cnp.PyArray_TYPE(indices) != cnp.NPY_INTP or cnp.PyArray_NDIM(indices) != 2 or cnp.PyArray_NDIM(values) != 2
            or cnp.PyArray_DIM(indices, 1) != cnp.PyArray_DIM(values, 1)
            or (cnp.PyArray_DIM(indices, 0) == 0 and cnp.PyArray_DIM(values, 0) > 0)):
        raise ValueError(f"index, value: expected {np.dtype(np.intp)} of shape (R, m) and float64 of shape (S, m), got "
                         f"{indices.dtype} of shape {np.shape(indices)} and shape {np.shape(values)}")
    p.n, p.rows = cnp.PyArray_SIZE(numbers), cnp.PyArray_DIM(indices, 0)
    p.moves, p.entries = cnp.PyArray_DIM(values, 0), cnp.PyArray_DIM(values, 1)
    p.index = <const intptr_t *>cnp.PyArray_DATA(indices)
    for i in range(p.rows * p.entries):
        if not 0 <= p.index[i] < p.n:
            raise ValueError(f"index: expected numbers in [0, {p.n}), got {p.index[i]} at position {i}")
    shape[0], shape[1] = p.moves, p.n
    cdef array to = as_output(must_be_given(out, "out"), "out", 2, shape, cnp.NPY_FLOAT64)
    refuse_overlap(to, "out", x, "x")
    refuse_overlap(to, "out", index, "index")
    refuse_overlap(to, "out", value, "value")
    if reference is not None:
        reference.moved_copies(numbers, indices, values, to)
        return
    p.x, p.value = <const double *>cnp.PyArray_DATA(numbers), <const double *>cnp.PyArray_DATA(values)
    p.out = <double *>cnp.PyArray_DATA(to)
    with nogil:
        nnf_moved_copies(&p)


def change_quotients(y, weight, noise, end, step, intptr_t first, double resolved, out):
    """Central differences of a function, with bounds of their error, from its values where entries have been moved.

    Parameters
    ----------
    y : array (4, S, before, m, after) of float64
        Outputs where m entries are moved by a step, back by it, by half of it and back by that, in S moves. Those at
        [..., j, :] belong to entry j.
    weight, noise : array of float64, of before x m x after numbers
        What outputs are multiplied by; and what that may be off by.
    end : array (4, K) of float64
        What the entries become, one move after another.
    step : array (K,) of float64
    first : int
        Where in K the S m entries are.
    resolved : float
        Steps below this tell nothing where nothing moves.
    out : array (3, K) of float64
        Receives the derivatives, bounds of their errors, and what they are added up from in absolute values, for these
        entries. In C order; shares no memory with the others.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other; nothing has been written.
    """
    cdef array outputs = as_floats(y, "y", cnp.NPY_FLOAT64)
    cdef array weights = as_doubles(weight, "weight")
    cdef array noises = as_doubles(noise, "noise")
    cdef array ends = as_doubles(end, "end")
    cdef array steps = as_doubles(step, "step")
    cdef cnp.npy_intp shape[2]
    cdef nnf_quotients p
    if cnp.PyArray_NDIM(outputs) != 5 or cnp.PyArray_DIM(outputs, 0) != 4:
        raise ValueError(f"y: expected shape (4, S, before, m, after), got {np.shape(outputs)}")
    p.moves, p.before = cnp.PyArray_DIM(outputs, 1), cnp.PyArray_DIM(outputs, 2)
    p.entries, p.after = cnp.PyArray_DIM(outputs, 3), cnp.PyArray_DIM(outputs, 4)
    cdef intptr_t each = p.before * p.entries * p.after
    if cnp.PyArray_SIZE(weights) != each or cnp.PyArray_SIZE(noises) != each:
        raise ValueError(f"weight, noise: expected {each} numbers as y has per move, got {cnp.PyArray_SIZE(weights)} "
                         f"and {cnp.PyArray_SIZE(noises)}")
    shape[0], shape[1] = 4, cnp.PyArray_SIZE(steps)
    p.count = shape[1]
    if cnp.PyArray_NDIM(steps) != 1 or not has_shape(ends, 2, shape):
        raise ValueError(f"end, step: expected shapes (4, K) and (K,), got {np.shape(ends)} and {np.shape(steps)}")
    if not 0 <= first <= p.count - p.moves * p.entries:
        raise ValueError(f"first: expected room for {p.moves} x {p.entries} of {p.count} entries, got {first}")
    shape[0] = 3
    cdef array to = as_output(must_be_given(out, "out"), "out", 2, shape, cnp.NPY_FLOAT64)
    for other, name in ((y, "y"), (weight, "weight"), (noise, "noise"), (end, "end"), (step, "step")):
        refuse_overlap(to, "out", other, name)
    if reference is not None:
        reference.change_quotients(outputs, weights, noises, ends, steps, first, resolved, to)
        return
    if not ((p.after == 1 or cnp.PyArray_STRIDE(outputs, 4) == 8)
            and (p.entries == 1 or cnp.PyArray_STRIDE(outputs, 3) == 8 * p.after)):
        outputs = cnp.PyArray_GETCONTIGUOUS(outputs)
    p.y, p.y_side = <const double *>cnp.PyArray_DATA(outputs), cnp.PyArray_STRIDE(outputs, 0) // 8
    p.y_move, p.y_before = cnp.PyArray_STRIDE(outputs, 1) // 8, cnp.PyArray_STRIDE(outputs, 2) // 8
    p.weight, p.noise = <const double *>cnp.PyArray_DATA(weights), <const double *>cnp.PyArray_DATA(noises)
    p.end, p.step = <const double *>cnp.PyArray_DATA(ends) + first, <const double *>cnp.PyArray_DATA(steps) + first
    p.out, p.resolved = <double *>cnp.PyArray_DATA(to) + first, resolved
    with nogil:
        nnf_change_quotients(&p)


def central_quotients(value, y, double base, double noise, double relative, double curved, double rounded):
    """Central differences of a function, and which of them can be relied on.

    Parameters
    ----------
    value, y : array (m, 2) of float64
        What an entry becomes on either side, and the function there.
    base : float
        The function where nothing is moved.
    noise, relative : float
        What the function's values may be off by, and what they may be of their size.
    curved, rounded : float
        How large the second difference, and what it may be off by, may be beside the first.

    Returns
    -------
    array (3, m) of float64
        Of each entry: the width between both sides, the quotient, and the change of the function in absolute value.
    array (m,) of bool
        Whether the quotient can be relied on: see csrc/nnframe.h.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other.
    """
    cdef array values = as_doubles(value, "value")
    cdef array numbers = as_doubles(y, "y")
    cdef cnp.npy_intp shape[2]
    cdef nnf_central p
    if cnp.PyArray_NDIM(values) != 2 or cnp.PyArray_DIM(values, 1) != 2 or not cnp.PyArray_SAMESHAPE(values, numbers):
        raise ValueError(f"value, y: expected shape (m, 2) each, got {np.shape(values)} and {np.shape(numbers)}")
    if reference is not None:
        return reference.central_quotients(values, numbers, base, noise, relative, curved, rounded)
    shape[0], shape[1] = 3, cnp.PyArray_DIM(values, 0)
    cdef array out = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT64, 0)
    cdef array sure = cnp.PyArray_EMPTY(1, &shape[1], cnp.NPY_BOOL, 0)
    p.count, p.base, p.noise, p.relative, p.curved, p.rounded = shape[1], base, noise, relative, curved, rounded
    p.value, p.y = <const double *>cnp.PyArray_DATA(values), <const double *>cnp.PyArray_DATA(numbers)
    p.out, p.sure = <double *>cnp.PyArray_DATA(out), <uint8_t *>cnp.PyArray_DATA(sure)
    with nogil:
        nnf_central_quotients(&p)
    return out, sure


def measured_slopes(value, base, x, way, size, double eps, double close, double noisy, slope, reach, left):
    """Slopes of a smooth function of one number, where values around each x show that it is smooth.

    Parameters
    ----------
    value : array (4, n) of float64
        The function where x is moved up by size, down by it, and by half of both.
    base, x : array (n,) of float64, or None
        The function at x, and x. None: `value` is what the function changes by.
    way : array (4, n) of float64, or None
        How far x is moved, where x is None.
    size : array (n,) of float64
    eps, close, noisy : float
        See csrc/nnframe.h.
    slope, reach : array (n,) of float64
        Written where x is left and the function smooth: its slope, and `size`. In C order.
    left : array (n,) of bool
        Which x are left; those that are written are not left any more. In C order.

    Returns
    -------
    float
        The largest second derivative of these, about.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other; nothing has been written.
    """
    cdef array values = as_doubles(value, "value")
    cdef array sizes = as_doubles(size, "size")
    cdef array bases = None, at = None, ways = None
    cdef cnp.npy_intp shape[2]
    cdef nnf_slopes p
    cdef double bend
    shape[0], shape[1] = 4, cnp.PyArray_SIZE(sizes)
    if not (has_shape(values, 2, shape) and has_shape(sizes, 1, &shape[1])):
        raise ValueError(f"value, size: expected shapes (4, n) and (n,), got {np.shape(values)} and {np.shape(sizes)}")
    if (base is None) != (x is None) or (way is None) == (x is None):
        raise TypeError("base, x, way: expected base and x, or way alone")
    if base is not None:
        bases, at = as_same_shape(base, "base", sizes, "of size"), as_same_shape(x, "x", sizes, "of size")
    else:
        ways = as_same_shape(way, "way", values, "of value")
    cdef array slopes = as_output(must_be_given(slope, "slope"), "slope", 1, &shape[1], cnp.NPY_FLOAT64)
    cdef array reaches = as_output(must_be_given(reach, "reach"), "reach", 1, &shape[1], cnp.NPY_FLOAT64)
    cdef array unknown = as_output(must_be_given(left, "left"), "left", 1, &shape[1], cnp.NPY_BOOL)
    for to, name in ((slopes, "slope"), (reaches, "reach"), (unknown, "left")):
        for other, its_name in ((value, "value"), (base, "base"), (x, "x"), (way, "way"), (size, "size")):
            if other is not None:
                refuse_overlap(to, name, other, its_name)
    refuse_overlap(slopes, "slope", reaches, "reach")
    refuse_overlap(unknown, "left", slopes, "slope")
    refuse_overlap(unknown, "left", reaches, "reach")
    if reference is not None:
        return reference.measured_slopes(values, bases, at, ways, sizes, eps, close, noisy, slopes, reaches, unknown)
    p.count, p.eps, p.close, p.noisy = shape[1], eps, close, noisy
    p.base, p.x, p.way = <const double *>address(bases), <const double *>address(at), <const double *>address(ways)
    p.value, p.size = <const double *>cnp.PyArray_DATA(values), <const double *>cnp.PyArray_DATA(sizes)
    p.slope = <double *>cnp.PyArray_DATA(slopes)
    p.reach, p.left = <double *>cnp.PyArray_DATA(reaches), <uint8_t *>cnp.PyArray_DATA(unknown)
    with nogil:
        bend = nnf_measured_slopes(&p)
    return bend


def moved_along(start, way, double distance, out):
    """out = start + distance way.

    Parameters
    ----------
    start, way, out : array of float64, as many numbers each
        `out` in C order.
    distance : float

    Raises
    ------
    TypeError, ValueError
        Dtypes or sizes that do not fit each other; nothing has been written.
    """
    cdef array starts = as_doubles(start, "start")
    cdef array ways = as_doubles(way, "way")
    if not cnp.PyArray_SAMESHAPE(starts, ways):
        raise ValueError(f"start, way: expected the same shape, got {np.shape(starts)} and {np.shape(ways)}")
    cdef array to = as_output(must_be_given(out, "out"), "out", cnp.PyArray_NDIM(starts), cnp.PyArray_DIMS(starts),
                              cnp.NPY_FLOAT64)
    refuse_overlap(to, "out", start, "start")
    refuse_overlap(to, "out", way, "way")
    if reference is not None:
        reference.moved_along(starts, ways, distance, to)
        return
    nnf_moved_along(cnp.PyArray_SIZE(starts), <const double *>cnp.PyArray_DATA(starts),
                    <const double *>cnp.PyArray_DATA(ways), distance, <double *>cnp.PyArray_DATA(to))
