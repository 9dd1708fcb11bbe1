# The border of csrc/random.inc.h: random numbers by hashing. Included by _kernels.pyx.

def uniform(keys, columns, dtype):
    """Numbers in [0, 1), multiples of 2^-24: number i of row n is a hash of keys[n] and i alone.

    Parameters
    ----------
    keys : array of uint64 (N,)
    columns : int
        At least 0.
    dtype : float32 or float64

    Returns
    -------
    array (N, columns)
    """
    cdef int typenum = np.dtype(dtype).num
    cdef cnp.npy_intp shape[2]
    cdef array of_rows, out
    if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype}")
    if not (isinstance(keys, np.ndarray) and keys.dtype == np.uint64 and keys.ndim == 1):
        raise TypeError(f"keys: expected an array of uint64 of one axis, got {got(keys)}")
    if not isinstance(columns, (int, np.integer)) or columns < 0:
        raise ValueError(f"columns: expected a whole number >= 0, got {got(columns)}")
    of_rows = np.ascontiguousarray(keys.astype(np.uint64, copy=False))
    shape[0], shape[1] = cnp.PyArray_DIM(of_rows, 0), columns
    out = cnp.PyArray_EMPTY(2, shape, typenum, 0)
    if reference is not None:
        out[...] = reference.uniform(of_rows, columns)
        return out
    cdef const nnf_kernels *kernels = kernels_for(out)
    with nogil:
        kernels.uniform(shape[0], shape[1], <uint64_t *>cnp.PyArray_DATA(of_rows), cnp.PyArray_DATA(out))
    return out
