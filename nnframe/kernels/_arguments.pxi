# What the arguments of all kernels have in common: arrays as C reads and writes them, numbers, names, memory that must
# not overlap. Included by _kernels.pyx.

# ---- arrays to read ----------------------------------------------------------------------------------------

cdef array as_floats(object a, str name, int typenum=-1):
    """`a` as an aligned array of float32 or float64 in native byte order, any strides; no copy where it is one.

    With `typenum` the array must be of that type.
    """
    cdef array x
    if not cnp.PyArray_CheckExact(a):
        a = as_plain_array(a, name)
    x = a
    cdef int found = cnp.PyArray_TYPE(x)
    if found != cnp.NPY_FLOAT32 and found != cnp.NPY_FLOAT64:
        raise TypeError(f"{name}: expected an array of float32 or float64, got {x.dtype}")
    if typenum >= 0 and found != typenum:
        raise TypeError(f"{name}: expected {cnp.PyArray_DescrFromType(typenum)} like the other arrays, got {x.dtype}")
    if not (cnp.PyArray_ISALIGNED(x) and cnp.PyArray_ISNOTSWAPPED(x)):
        x = x.astype(x.dtype.newbyteorder("="))
    return x


cdef array as_plain_array(object a, str name):
    """What np.asarray makes of `a`: an array whose class is np.ndarray itself."""
    try:
        return np.asarray(a)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: expected an array, got {got(a)} ({error})") from None


cdef inline array as_contiguous(array x):
    """`x` in C order, copied only if it is not."""
    return x if cnp.PyArray_IS_C_CONTIGUOUS(x) else cnp.PyArray_GETCONTIGUOUS(x)


cdef array as_same_shape(object a, str name, array like, str like_name):
    """`a` in C order, of the type and shape of `like`."""
    cdef array x = as_contiguous(as_floats(a, name, cnp.PyArray_TYPE(like)))
    if not cnp.PyArray_SAMESHAPE(x, like):
        raise ValueError(f"{name}: expected shape {like_name} {np.shape(like)}, got {np.shape(x)}")
    return x


cdef bint has_shape(array x, int ndim, const cnp.npy_intp *shape) noexcept:
    cdef int i
    if cnp.PyArray_NDIM(x) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(x, i) != shape[i]:
            return False
    return True


# ---- arrays to write ---------------------------------------------------------------------------------------

cdef array as_output(object out, str name, int ndim, const cnp.npy_intp *shape, int typenum):
    """A new array in C order, or `out` when that can be written directly; else an error."""
    if out is None:
        return cnp.PyArray_EMPTY(ndim, <cnp.npy_intp *>shape, typenum, 0)
    cdef array x = as_writeable(out, name, ndim, shape, typenum)
    if not cnp.PyArray_ISCARRAY(x):
        raise ValueError(f"{name}: expected an aligned, writeable array in C order and native byte order")
    return x


cdef array as_writeable(object out, str name, int ndim, const cnp.npy_intp *shape, int typenum):
    """`out`, an array of this type and shape that can be written to, in any order."""
    if not cnp.PyArray_Check(out):
        raise TypeError(f"{name}: expected an array, got {got(out)}")
    cdef array x = out
    cdef int i
    if cnp.PyArray_TYPE(x) != typenum or not has_shape(x, ndim, shape):
        expected = tuple(shape[i] for i in range(ndim))
        raise ValueError(f"{name}: expected {cnp.PyArray_DescrFromType(typenum)} of shape {expected}, "
                         f"got {x.dtype} of shape {np.shape(x)}")
    if not cnp.PyArray_ISWRITEABLE(x):
        raise ValueError(f"{name}: expected an array that can be written, got a read-only one")
    return x


cdef array in_c_order(array x):
    """`x` itself where C can write to it, else a copy, for `write_back`."""
    if cnp.PyArray_ISCARRAY(x) and cnp.PyArray_CheckExact(x):
        return x
    return np.array(x, x.dtype.newbyteorder("="), order="C", subok=False)


cdef int write_back(array copy, array x) except -1:
    if copy is not x:
        np.copyto(x, copy)
    return 0


# ---- memory ------------------------------------------------------------------------------------------------

cdef void extent(array x, char **low, char **high) noexcept:
    """The addresses between which `x` is; the same twice where it is empty."""
    cdef char *start = <char *>cnp.PyArray_DATA(x)
    cdef char *end = start
    cdef intptr_t span
    cdef int i
    low[0] = high[0] = start
    if cnp.PyArray_SIZE(x) == 0:
        return
    for i in range(cnp.PyArray_NDIM(x)):
        span = (cnp.PyArray_DIM(x, i) - 1) * cnp.PyArray_STRIDE(x, i)
        if span < 0:
            start += span
        else:
            end += span
    low[0], high[0] = start, end + cnp.PyArray_ITEMSIZE(x)


cdef bint overlap(array one, array other) except -1:
    """Whether two arrays share memory."""
    cdef char *low
    cdef char *high
    cdef char *start
    cdef char *end
    extent(one, &low, &high)
    extent(other, &start, &end)
    if start >= high or low >= end:
        return False
    if cnp.PyArray_ISONESEGMENT(one) and cnp.PyArray_ISONESEGMENT(other):
        return True
    try:
        return np.shares_memory(one, other, max_work=10000)    # columns of one matrix, say, do not
    except np.exceptions.TooHardError:
        return True


cdef int refuse_overlap(array out, str name, object other, str other_name) except -1:
    """Raise where an array that is written shares memory with another argument."""
    if cnp.PyArray_Check(other) and overlap(out, other):
        raise ValueError(f"{name}: expected an array that shares no memory with {other_name}")
    return 0


cdef int refuse_shift(array out, str name, object other, str other_name) except -1:
    """The same, but `out` may be that argument itself."""
    if not cnp.PyArray_Check(other) or not overlap(out, other):
        return 0
    cdef array x = other
    if cnp.PyArray_DATA(x) != cnp.PyArray_DATA(out) or not cnp.PyArray_SAMESHAPE(x, out) or not (
            cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(out)):
        raise ValueError(f"{name}: expected {other_name} itself, or an array that shares no memory with it")
    return 0


cdef struct piece:    # the extent of one array
    char *low
    char *high
    int group
    intptr_t index


cdef int by_address(const void *one, const void *other) noexcept nogil:
    cdef const char *a = (<const piece *>one).low
    cdef const char *b = (<const piece *>other).low
    return (a > b) - (a < b)


cdef int refuse_shared_memory(list groups) except -1:
    """Raise where an array of a group that is written shares memory with any other.

    groups: (name with {} for the number, arrays, whether they are written). Each array is compared with those that
    begin before it ends.
    """
    cdef intptr_t count = 0, i, j
    cdef int group
    cdef piece *pieces
    for group in range(len(groups)):
        count += len(groups[group][1])
    pieces = <piece *>malloc((count + 1) * sizeof(piece))
    if pieces == NULL:
        raise MemoryError(f"no room for the addresses of {count} arrays")
    try:
        j = 0
        for group in range(len(groups)):
            for i in range(len(groups[group][1])):
                extent(<array>groups[group][1][i], &pieces[j].low, &pieces[j].high)
                pieces[j].group, pieces[j].index = group, i
                j += 1
        qsort(pieces, count, sizeof(piece), by_address)
        for i in range(count):
            j = i + 1
            while j < count and pieces[j].low < pieces[i].high:
                refuse_pair(groups[pieces[i].group], pieces[i].index, groups[pieces[j].group], pieces[j].index)
                j += 1
    finally:
        free(pieces)
    return 0


cdef int refuse_pair(tuple one, intptr_t i, tuple other, intptr_t j) except -1:
    if not (one[2] or other[2]) or not overlap(one[1][i], other[1][j]):
        return 0
    if not one[2]:
        one, i, other, j = other, j, one, i
    raise ValueError(f"{one[0].format(i)}: expected an array that shares no memory with {other[0].format(j)}")


# ---- numbers, flags and names ------------------------------------------------------------------------------

cdef str got(object value):
    """A value as errors show it."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {np.shape(value)}"
    if value is None or isinstance(value, (bool, int, float, complex, str, np.generic)):
        return reprlib.repr(value)
    return f"{type(value).__name__} {reprlib.repr(value)}"


cdef double as_number(object value, str name) except? -1.0:
    if type(value) is float:
        return value
    cdef bint fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not fits and not (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"):
        raise TypeError(f"{name}: expected a number, got {got(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number in the range of a float, got {got(value)}") from None


cdef bint as_flag(object value, str name) except -1:
    if value is True or value is False:
        return value is True
    if isinstance(value, np.bool_) or (isinstance(value, (int, np.integer)) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {got(value)}")


cdef int as_choice(object value, str name, dict choices) except -1:
    """What `choices` holds for a name."""
    found = choices.get(value) if isinstance(value, str) else None
    if found is not None:
        return found
    expected = " or ".join(map(repr, choices)) if len(choices) == 2 else f"one of {', '.join(choices)}"
    raise (ValueError if isinstance(value, str) else TypeError)(f"{name}: expected {expected}, got {got(value)}")


cdef inline nnf_activation as_activation(object name) except *:
    return <nnf_activation>as_choice(name, "activation", ACTIVATIONS)


cdef double as_alpha(object alpha, nnf_activation f) except? -1.0:
    """The parameter of an activation: its default for None."""
    return nnf_activation_alpha(f) if alpha is None else as_number(alpha, "alpha")


cdef inline const nnf_kernels *kernels_for(array x) noexcept:
    return isa.kernels[0 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else 1]
