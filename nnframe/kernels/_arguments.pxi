# What the arguments of all kernels have in common: arrays as C reads and writes them, numbers, names, memory that must
# not overlap. Included by _kernels.pyx.

# ---- arrays to read ----------------------------------------------------------------------------------------

cdef inline array as_floats(object a, str name, int typenum=-1):
    """`a` as an aligned array of float32 or float64 in native byte order, any strides; no copy where it is one.

    With `typenum` the array must be of that type.
    """
    cdef int found
    if cnp.PyArray_CheckExact(a) and cnp.PyArray_ISBEHAVED_RO(<array>a):
        found = cnp.PyArray_TYPE(<array>a)
        if found == typenum or (typenum < 0 and (found == cnp.NPY_FLOAT32 or found == cnp.NPY_FLOAT64)):
            return <array>a
    return to_floats(a, name, typenum)


cdef array to_floats(object a, str name, int typenum):
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


cdef array as_doubles(object a, str name):
    """`a` as an array of float64 in C order."""
    return as_contiguous(as_floats(a, name, cnp.NPY_FLOAT64))


cdef array as_indices(object a, str name):
    """`a` in C order, aligned and in native byte order; its dtype is for the caller to see."""
    if cnp.PyArray_CheckExact(a) and cnp.PyArray_ISCARRAY_RO(<array>a):
        return <array>a
    return np.require(as_plain_array(a, name), requirements="CA")


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

# Arrays of at least so many bytes are made of memory that is used again: malloc maps them anew each time.
cdef intptr_t LARGE = 1 << 17


cdef class Memory:
    """Memory of an array, which is given back with it."""

    cdef void *start
    cdef size_t bytes

    def __dealloc__(self):
        nnf_give(self.start, self.bytes)


cdef array fresh(int ndim, const cnp.npy_intp *shape, int typenum):
    """A new array in C order that holds anything."""
    cdef intptr_t size = 8 if typenum == cnp.NPY_FLOAT64 else 4
    cdef int i
    for i in range(ndim):
        size *= shape[i]
    if size < LARGE:
        return cnp.PyArray_EMPTY(ndim, <cnp.npy_intp *>shape, typenum, 0)
    cdef Memory memory = Memory.__new__(Memory)
    memory.bytes = size
    memory.start = nnf_take(&memory.bytes)
    if memory.start == NULL:
        raise MemoryError(f"no room for an array of {size} bytes")
    cdef array made = cnp.PyArray_SimpleNewFromData(ndim, <cnp.npy_intp *>shape, typenum, memory.start)
    cnp.set_array_base(made, memory)
    return made


cdef array as_output(object out, str name, int ndim, const cnp.npy_intp *shape, int typenum):
    """A new array in C order, or `out` when that can be written directly; else an error."""
    if out is None:
        return fresh(ndim, shape, typenum)
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
    if cnp.PyArray_ISCARRAY(x):
        return x
    return np.array(x, x.dtype.newbyteorder("="), order="C", subok=False)


cdef int write_back(array copy, array x) except -1:
    if copy is not x:
        np.copyto(x, copy)
    return 0


# ---- memory ------------------------------------------------------------------------------------------------

cdef struct piece:    # an array of a call, and the addresses between which it is
    char *low
    char *high
    void *owner
    bint written
    int group         # which argument, and which array of it
    intptr_t index


cdef inline void set_piece(piece *to, array x, bint written, int group, intptr_t index) noexcept:
    cdef char *start = <char *>cnp.PyArray_DATA(x)
    cdef char *end = start
    cdef intptr_t span
    cdef int i
    to.owner, to.written, to.group, to.index = <void *>x, written, group, index
    if cnp.PyArray_IS_C_CONTIGUOUS(x):
        end += cnp.PyArray_NBYTES(x)
    elif cnp.PyArray_SIZE(x) > 0:
        for i in range(cnp.PyArray_NDIM(x)):
            span = (cnp.PyArray_DIM(x, i) - 1) * cnp.PyArray_STRIDE(x, i)
            if span < 0:
                start += span
            else:
                end += span
        end += cnp.PyArray_ITEMSIZE(x)
    to.low, to.high = start, end


cdef bint overlap(const piece *one, const piece *other) except -1:
    """Whether two arrays share memory."""
    cdef array x
    cdef array y
    if one.low >= other.high or other.low >= one.high:
        return False
    x, y = <array>one.owner, <array>other.owner
    if cnp.PyArray_ISONESEGMENT(x) and cnp.PyArray_ISONESEGMENT(y):
        return one.low < one.high and other.low < other.high
    try:
        return np.shares_memory(x, y, max_work=10000)    # columns of one matrix, say, do not
    except np.exceptions.TooHardError:
        return True


cdef inline int refuse_overlap(array out, str name, object other, str other_name) except -1:
    """Raise where an array that is written shares memory with another argument."""
    cdef piece one
    cdef piece two
    if not cnp.PyArray_Check(other):
        return 0
    set_piece(&one, out, True, 0, 0)
    set_piece(&two, other, False, 1, 0)
    if one.low < two.high and two.low < one.high and overlap(&one, &two):
        raise ValueError(f"{name}: expected an array that shares no memory with {other_name}")
    return 0


cdef inline int refuse_shift(array out, str name, object other, str other_name) except -1:
    """The same for an argument of the shape and dtype of `out`, which may be that argument itself."""
    if other is out or not cnp.PyArray_Check(other):
        return 0
    cdef piece one
    cdef piece two
    cdef intptr_t distance = <char *>cnp.PyArray_DATA(out) - <char *>cnp.PyArray_DATA(<array>other)
    cdef intptr_t size = cnp.PyArray_NBYTES(out)
    if cnp.PyArray_IS_C_CONTIGUOUS(<array>other) and (distance >= size or -distance >= size):
        return 0
    set_piece(&one, out, True, 0, 0)
    set_piece(&two, other, False, 1, 0)
    if one.low < two.high and two.low < one.high and overlap(&one, &two) and not is_same(out, other):
        raise ValueError(f"{name}: expected {other_name} itself, or an array that shares no memory with it")
    return 0


cdef bint is_same(array x, array y) noexcept:
    """Whether two arrays in C order are the same numbers at the same place."""
    return (cnp.PyArray_DATA(x) == cnp.PyArray_DATA(y) and cnp.PyArray_SAMESHAPE(x, y)
            and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(y) and cnp.PyArray_ISCARRAY_RO(y))


cdef int by_address(const void *one, const void *other) noexcept nogil:
    cdef const char *a = (<const piece *>one).low
    cdef const char *b = (<const piece *>other).low
    return (a > b) - (a < b)


cdef int refuse_shared(piece *pieces, intptr_t count, tuple names) except -1:
    """Raise where an array that is written shares memory with any other. Sorts the pieces.

    names: of the arguments, by group; with {} where one has several arrays. Many arrays are compared only with those
    that begin before they end.
    """
    cdef intptr_t i, j
    cdef bint sorted = count > 32
    if sorted:
        qsort(pieces, count, sizeof(piece), by_address)
    for i in range(count):
        for j in range(i + 1, count):
            if pieces[j].low >= pieces[i].high:
                if sorted:
                    break
            elif pieces[i].low < pieces[j].high and (pieces[i].written or pieces[j].written):
                refuse_pair(&pieces[i], &pieces[j], names)
    return 0


cdef int refuse_pair(const piece *one, const piece *other, tuple names) except -1:
    if not overlap(one, other):
        return 0
    if not one.written:
        one, other = other, one
    raise ValueError(f"{names[one.group].format(one.index)}: expected an array that shares no memory with "
                     f"{names[other.group].format(other.index)}")


cdef int refuse_shared_arrays(dict outputs, dict inputs) except -1:
    """The same for arguments by name: the first are written. What is no array is left out."""
    cdef list arrays = [x for x in [*outputs.values(), *inputs.values()]]
    cdef piece *pieces = <piece *>malloc(len(arrays) * sizeof(piece))
    cdef intptr_t count = 0
    cdef int i
    if pieces == NULL:
        raise MemoryError(f"no room for the addresses of {len(arrays)} arrays")
    for i in range(len(arrays)):
        if cnp.PyArray_Check(arrays[i]):
            set_piece(&pieces[count], arrays[i], i < len(outputs), i, 0)
            count += 1
    try:
        return refuse_shared(pieces, count, (*outputs, *inputs))
    finally:
        free(pieces)


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
