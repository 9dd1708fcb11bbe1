# The border of csrc/recurrent.inc.h: RNN, LSTM and GRU through whole sequences. Included by _kernels.pyx.

cdef dict CELLS = {"rnn_tanh": NNF_RNN_TANH, "rnn_relu": NNF_RNN_RELU, "lstm": NNF_LSTM, "gru": NNF_GRU}
cdef dict GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


def recurrent(cell, gates, weight, bias=None, *, mask=None, reverse=False, out=None):
    """The states of a recurrent layer, one direction, through T steps; before the first they are 0.

    With u = gates[t] and q = weight @ h[t - 1] + bias, gates side by side in the order that is given:

    ========  =======  ===========================================================================================
    rnn_tanh           h[t] = tanh(u + q)
    rnn_relu           h[t] = max(u + q, 0)
    lstm      i f g o  h[t] = o tanh(c[t]), c[t] = f c[t - 1] + i g; i, f, o = sigmoid(u + q), g = tanh(u + q)
    gru       r z n    h[t] = n + z (h[t - 1] - n); r, z = sigmoid(u + q), n = tanh(u + r q)
    ========  =======  ===========================================================================================

    Parameters
    ----------
    cell : str
    gates : array (T, N, G H)
        What the inputs give, their bias included; G is 1, 4 or 3. Overwritten by the values of the gates, but for RNNs.
    weight : array (G H, H)
    bias : array (G H,), optional
        float32 or float64, all the same.
    mask : array of bool (T, N), optional
        False where a step is passed over: the state stays what it was.
    reverse : bool
        From the last step to the first.
    out : array (N, T, H), optional
        Overwritten by the states; by 0 where a step is passed over. Its last axis must be contiguous.

    Returns
    -------
    state : array (T, N, H)
    kept : array (T, N, H), or None
        What `recurrent_backward` needs besides: c of an LSTM, the last H of q of a GRU.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit; nothing has been written.
    """
    cdef nnf_recurrent p
    cdef array w = as_contiguous(as_floats(weight, "weight"))
    cdef array u = describe_cell(&p, cell, gates, w)
    cdef array b = None, y = None, state, kept = None
    cdef array steps = as_steps_mask(mask, u)
    cdef cnp.npy_intp shape[3]
    cdef int answer
    p.reverse = as_flag(reverse, "reverse")
    u = as_output(gates, "gates", 3, cnp.PyArray_DIMS(u), cnp.PyArray_TYPE(u))    # itself: it is written
    if bias is not None:
        b = as_contiguous(as_floats(bias, "bias", cnp.PyArray_TYPE(u)))
        if cnp.PyArray_NDIM(b) != 1 or cnp.PyArray_DIM(b, 0) != cnp.PyArray_DIM(w, 0):
            raise ValueError(f"bias: expected shape ({cnp.PyArray_DIM(w, 0)},), got {np.shape(b)}")
        p.bias = cnp.PyArray_DATA(b)
    if out is not None:
        y = as_sequences(out, "out", &p, cnp.PyArray_TYPE(u), &p.y_row, &p.y_step, True)
        p.y = cnp.PyArray_DATA(y)
    refuse_shared_arrays({"gates": u} | ({} if y is None else {"out": y}),
                         {"weight": weight, "bias": bias, "mask": mask})
    shape[0], shape[1], shape[2] = p.steps, p.rows, p.units
    state = cnp.PyArray_EMPTY(3, shape, cnp.PyArray_TYPE(u), 0)
    if p.cell == NNF_LSTM or p.cell == NNF_GRU:
        kept = cnp.PyArray_EMPTY(3, shape, cnp.PyArray_TYPE(u), 0)
    if reference is not None:
        reference.recurrent(cell, u, w, b, steps, bool(p.reverse), state, kept, y)
        return state, kept
    p.mask = NULL if steps is None else <uint8_t *>cnp.PyArray_DATA(steps)
    p.gates = cnp.PyArray_DATA(u)
    p.state, p.kept = cnp.PyArray_DATA(state), NULL if kept is None else cnp.PyArray_DATA(kept)
    cdef const nnf_kernels *kernels = kernels_for(u)
    with nogil:
        answer = kernels.recurrent(&p, poll)
    finish(answer)
    return state, kept


def recurrent_backward(cell, gates, weight, state, kept=None, *, mask=None, reverse=False, dy=None, dlast=None):
    """Gradients of what `recurrent` was given, from that of its states.

    Parameters
    ----------
    cell, weight, mask, reverse :
        As there.
    gates, state, kept : array
        As it has left and returned them.
    dy : array (N, T, H), optional
        Gradient of `out`; its last axis contiguous, or it is copied.
    dlast : array (N, H), optional
        Gradient of the state after the last step: `state[-1]`, `state[0]` with `reverse`.

    Returns
    -------
    dgates, dq : array (T, N, G H)
        Gradients of u and of q; one array for all but the GRU.
    """
    cdef nnf_recurrent p
    cdef array w = as_contiguous(as_floats(weight, "weight"))
    cdef array values = as_contiguous(describe_cell(&p, cell, gates, w))
    cdef int typenum = cnp.PyArray_TYPE(values), answer
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = p.steps, p.rows, p.units
    cdef array states = checked_floats(state, "state", 3, shape, typenum), memory = None, sequences = None, last = None
    cdef array steps = as_steps_mask(mask, values), dgates, dq
    p.reverse = as_flag(reverse, "reverse")
    p.gates, p.state = cnp.PyArray_DATA(values), cnp.PyArray_DATA(states)
    if p.cell == NNF_LSTM or p.cell == NNF_GRU:
        memory = checked_floats(kept, "kept", 3, shape, typenum)
        p.kept = cnp.PyArray_DATA(memory)
    elif kept is not None:
        raise ValueError(f"kept: expected None for {cell!r}, got {got(kept)}")
    if dy is not None:
        sequences = as_sequences(dy, "dy", &p, typenum, &p.dy_row, &p.dy_step, False)
        p.dy = cnp.PyArray_DATA(sequences)
    if dlast is not None:
        last = checked_floats(dlast, "dlast", 2, shape + 1, typenum)
        p.dlast, p.dlast_row = cnp.PyArray_DATA(last), p.units
    dgates = cnp.PyArray_EMPTY(3, cnp.PyArray_DIMS(values), typenum, 0)
    dq = cnp.PyArray_EMPTY(3, cnp.PyArray_DIMS(values), typenum, 0) if p.cell == NNF_GRU else dgates
    if reference is not None:
        reference.recurrent_backward(cell, values, w, states, memory, steps, bool(p.reverse), sequences, last, dgates,
                                     dq)
        return dgates, dq
    p.mask = NULL if steps is None else <uint8_t *>cnp.PyArray_DATA(steps)
    p.dgates, p.drecurrent = cnp.PyArray_DATA(dgates), NULL if dq is dgates else cnp.PyArray_DATA(dq)
    cdef const nnf_kernels *kernels = kernels_for(values)
    with nogil:
        answer = kernels.recurrent_backward(&p, poll)
    finish(answer)
    return dgates, dq


cdef array describe_cell(nnf_recurrent *p, object cell, object gates, array weight):
    """Set the sizes and the weight of a call; returns the gates, as they are."""
    cdef array u = as_floats(gates, "gates", cnp.PyArray_TYPE(weight))
    memset(p, 0, sizeof(nnf_recurrent))
    p.cell = <nnf_cell>as_choice(cell, "cell", CELLS)
    cdef intptr_t count = GATES[cell]
    if cnp.PyArray_NDIM(weight) != 2 or cnp.PyArray_DIM(weight, 0) != count * cnp.PyArray_DIM(weight, 1):
        raise ValueError(f"weight: expected shape ({count} H, H) for {cell!r}, got {np.shape(weight)}")
    if cnp.PyArray_NDIM(u) != 3 or cnp.PyArray_DIM(u, 2) != cnp.PyArray_DIM(weight, 0):
        raise ValueError(f"gates: expected shape (T, N, {cnp.PyArray_DIM(weight, 0)}) for a weight of shape "
                         f"{np.shape(weight)}, got {np.shape(u)}")
    p.steps, p.rows, p.units = cnp.PyArray_DIM(u, 0), cnp.PyArray_DIM(u, 1), cnp.PyArray_DIM(weight, 1)
    p.weight = cnp.PyArray_DATA(weight)
    return u


cdef array as_steps_mask(object mask, array gates):
    """The mask as C reads it, which the caller keeps; None where there is none."""
    if mask is None:
        return None
    if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == np.shape(gates)[:2]):
        raise ValueError(f"mask: expected an array of bool of shape {np.shape(gates)[:2]}, got {got(mask)}")
    return np.ascontiguousarray(mask)


cdef array as_sequences(object a, str name, nnf_recurrent *p, int typenum, intptr_t *row, intptr_t *step, bint written):
    """An array (N, T, H) whose last axis is contiguous, and its strides in elements."""
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = p.rows, p.steps, p.units
    cdef array x = as_writeable(a, name, 3, shape, typenum) if written else as_floats(a, name, typenum)
    cdef intptr_t size = cnp.PyArray_ITEMSIZE(x)
    if not has_shape(x, 3, shape):
        raise ValueError(f"{name}: expected shape {(p.rows, p.steps, p.units)}, got {np.shape(x)}")
    if cnp.PyArray_STRIDE(x, 2) != size and p.units > 1 and cnp.PyArray_SIZE(x) > 0:
        if written:
            raise ValueError(f"{name}: expected a contiguous last axis, got {cnp.PyArray_STRIDE(x, 2)} bytes between "
                             "its entries")
        x = x.copy()
    if not cnp.PyArray_ISBEHAVED_RO(x):
        raise ValueError(f"{name}: expected an aligned array in native byte order")
    row[0], step[0] = cnp.PyArray_STRIDE(x, 0) // size, cnp.PyArray_STRIDE(x, 1) // size
    return x
