# The border of csrc/attention.inc.h: scaled dot-product attention. Included by _kernels.pyx.

def attention(q, k, v, *, scale=None, causal=False, mask=None, factors=None):
    """softmax(scale q k^T) v for each head of each row of a mini-batch, without the matrix of all scores.

    Parameters
    ----------
    q : array (N, L, heads, d)
    k, v : array (N, S, heads, d)
        float32 or float64, all the same; the last two axes contiguous, or they are copied.
    scale : float, optional
        1 / sqrt(d) if not given.
    causal : bool
        Whether query i sees keys 0 to i only.
    mask : array of bool (N, S), optional
        False where a key is hidden. A query that sees none gives 0.
    factors : array (N, heads, L, S), optional
        What the probabilities are multiplied by: dropout.

    Returns
    -------
    out : array (N, L, heads, d)
    lse : array (N, heads, L)
        Logarithm of the sum of exponentials of each query's scores, for `attention_backward`; infinity where a query
        sees no key.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit.
    """
    cdef nnf_attention p
    cdef list alive = describe_attention(&p, q, k, v, scale, causal, mask, factors)
    cdef array queries = alive[0], out, lse
    cdef int typenum = cnp.PyArray_TYPE(queries), answer
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = p.batch, p.heads, p.queries
    out = cnp.PyArray_EMPTY(4, cnp.PyArray_DIMS(queries), typenum, 0)
    lse = cnp.PyArray_EMPTY(3, shape, typenum, 0)
    if p.keys == 0:
        raise ValueError(f"k: expected at least one key, got shape {np.shape(k)}")
    if reference is not None:
        reference.attention(*alive, p.scale, bool(p.causal), out, lse)
        return out, lse
    p.out, p.lse = cnp.PyArray_DATA(out), cnp.PyArray_DATA(lse)
    cdef const nnf_kernels *kernels = kernels_for(queries)
    with nogil:
        answer = kernels.attention(&p, poll)
    finish(answer)
    return out, lse


def attention_backward(q, k, v, out, lse, dout, *, dq, dk, dv, scale=None, causal=False, mask=None, factors=None):
    """Gradients of `attention`'s arguments from that of its output, written to dq, dk and dv.

    `out`, `lse`: what it has returned. `dout`: like `out`. `dq`, `dk`, `dv`: like q, k and v, their last two axes
    contiguous; they share no memory with anything else, nor with each other. The others are as there.
    """
    cdef nnf_attention p
    cdef list alive = describe_attention(&p, q, k, v, scale, causal, mask, factors)
    cdef array queries = alive[0], keys = alive[1], values = alive[2]
    cdef int typenum = cnp.PyArray_TYPE(queries), answer
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = p.batch, p.heads, p.queries
    cdef array y = as_same_shape(out, "out", queries, "of q"), dy = as_same_shape(dout, "dout", queries, "of q")
    cdef array sums = checked_floats(lse, "lse", 3, shape, typenum)
    cdef array to_q = as_heads_to_write(dq, "dq", queries, &p.dq_batch, &p.dq_row)
    cdef array to_k = as_heads_to_write(dk, "dk", keys, &p.dk_batch, &p.dk_row)
    cdef array to_v = as_heads_to_write(dv, "dv", values, &p.dv_batch, &p.dv_row)
    refuse_shared_arrays({"dq": dq, "dk": dk, "dv": dv},
                         {"q": q, "k": k, "v": v, "out": out, "lse": lse, "dout": dout, "mask": mask,
                          "factors": factors})
    if reference is not None:
        reference.attention_backward(*alive, p.scale, bool(p.causal), y, sums, dy, to_q, to_k, to_v)
        return
    p.out, p.lse, p.dout = cnp.PyArray_DATA(y), cnp.PyArray_DATA(sums), cnp.PyArray_DATA(dy)
    p.dq, p.dk, p.dv = cnp.PyArray_DATA(to_q), cnp.PyArray_DATA(to_k), cnp.PyArray_DATA(to_v)
    cdef const nnf_kernels *kernels = kernels_for(queries)
    with nogil:
        answer = kernels.attention(&p, poll)
    finish(answer)


cdef list describe_attention(nnf_attention *p, object q, object k, object v, object scale, object causal, object mask,
                             object factors):
    """Set what forward and backward have in common; returns the arrays, which the caller keeps."""
    memset(p, 0, sizeof(nnf_attention))
    cdef array queries = as_heads(q, "q", -1, &p.q_batch, &p.q_row)
    cdef int typenum = cnp.PyArray_TYPE(queries)
    cdef array keys = as_heads(k, "k", typenum, &p.k_batch, &p.k_row)
    cdef array values = as_heads(v, "v", typenum, &p.v_batch, &p.v_row), kept = None, dropped = None
    cdef cnp.npy_intp shape[4]
    p.batch, p.queries, p.heads, p.width = np.shape(queries)
    p.keys = cnp.PyArray_DIM(keys, 1)
    for name, x in (("k", keys), ("v", values)):
        if np.shape(x) != (p.batch, p.keys, p.heads, p.width):
            raise ValueError(f"{name}: expected shape {(p.batch, p.keys, p.heads, p.width)} for a q of shape "
                             f"{np.shape(queries)}, got {np.shape(x)}")
    p.scale = 1 / sqrt(<double>max(1, p.width)) if scale is None else as_number(scale, "scale")
    p.causal = as_flag(causal, "causal")
    if mask is not None:
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (p.batch, p.keys)):
            raise ValueError(f"mask: expected an array of bool of shape {(p.batch, p.keys)}, got {got(mask)}")
        kept = np.ascontiguousarray(mask)
        p.mask = <uint8_t *>cnp.PyArray_DATA(kept)
    if factors is not None:
        shape[0], shape[1], shape[2], shape[3] = p.batch, p.heads, p.queries, p.keys
        dropped = checked_floats(factors, "factors", 4, shape, typenum)
        p.factors = cnp.PyArray_DATA(dropped)
    p.q, p.k, p.v = cnp.PyArray_DATA(queries), cnp.PyArray_DATA(keys), cnp.PyArray_DATA(values)
    return [queries, keys, values, kept, dropped]


cdef array as_heads(object a, str name, int typenum, intptr_t *batch, intptr_t *row):
    """An array (N, L, heads, d) whose last two axes are contiguous, and its other strides in elements."""
    cdef array x = as_floats(a, name, typenum)
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"{name}: expected shape (N, L, heads, d), got {np.shape(x)}")
    if not has_whole_heads(x):
        x = x.copy()
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(x)
    batch[0], row[0] = cnp.PyArray_STRIDE(x, 0) // size, cnp.PyArray_STRIDE(x, 1) // size
    return x


cdef array as_heads_to_write(object a, str name, array like, intptr_t *batch, intptr_t *row):
    cdef array x = as_writeable(a, name, 4, cnp.PyArray_DIMS(like), cnp.PyArray_TYPE(like))
    if not (has_whole_heads(x) and cnp.PyArray_ISBEHAVED_RO(x)):
        raise ValueError(f"{name}: expected an aligned array in native byte order whose last two axes are contiguous")
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(x)
    batch[0], row[0] = cnp.PyArray_STRIDE(x, 0) // size, cnp.PyArray_STRIDE(x, 1) // size
    return x


cdef bint has_whole_heads(array x) noexcept:
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(x), d = cnp.PyArray_DIM(x, 3)
    return cnp.PyArray_SIZE(x) == 0 or ((cnp.PyArray_STRIDE(x, 3) == size or d == 1)
                                        and (cnp.PyArray_STRIDE(x, 2) == d * size or cnp.PyArray_DIM(x, 2) == 1))
