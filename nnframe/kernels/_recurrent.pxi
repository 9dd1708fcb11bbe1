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


def recurrent_change(cell, arguments, gates, weight, state, kept=None, *, mask=None, reverse=False, du=None, at=None,
                     origin=None, drive=None, step=0.0, in_state=False):
    """How the states of `recurrent` change, for a stack of S changes of what it was given, without cancellation.

    Parameters
    ----------
    cell, weight, mask, reverse :
        As there.
    arguments : array (T, N, G H)
        What its activations were given: u + q, and u + r q in the last H of a GRU.
    gates, state, kept : array
        As it has left and returned them.
    du : array (T, S N, G H), optional
        How u changes. If not given, one column changes in each of the stack:
    at : array (S,) of np.intp
        That column, of q where `in_state`, else of u.
    drive : array (T, S N)
        By how much.
    origin : array (S,) of np.intp, optional
        Entry of the state before whose change, times `step`, is added.

    Returns
    -------
    array (S N, T, H), array (S N, H)
        Changes of the states, 0 where a step is passed over; those of the state after the last step.
    """
    cdef nnf_recurrent sizes
    cdef nnf_recurrent_change p
    memset(&p, 0, sizeof(nnf_recurrent_change))
    cdef array w = as_contiguous(as_floats(weight, "weight"))
    cdef array x = as_contiguous(describe_cell(&sizes, cell, arguments, w))
    cdef int typenum = cnp.PyArray_TYPE(x), answer
    cdef array values = checked_floats(gates, "gates", 3, cnp.PyArray_DIMS(x), typenum)
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = sizes.steps, sizes.rows, sizes.units
    cdef array states = checked_floats(state, "state", 3, shape, typenum), memory = None
    cdef array steps = as_steps_mask(mask, x), given = None, columns = None, sources = None
    if sizes.cell == NNF_LSTM or sizes.cell == NNF_GRU:
        memory = checked_floats(kept, "kept", 3, shape, typenum)
    elif kept is not None:
        raise ValueError(f"kept: expected None for {cell!r}, got {got(kept)}")
    p.cell, p.steps, p.rows, p.units = sizes.cell, sizes.steps, sizes.rows, sizes.units
    p.reverse, p.recurrent, p.step = as_flag(reverse, "reverse"), as_flag(in_state, "in_state"), as_number(step, "step")
    if (du is None) == (at is None) or (at is None) != (drive is None):
        raise TypeError("du, at, drive: expected du alone, or at and drive")
    if du is not None:
        given = as_contiguous(as_floats(du, "du", typenum))
        p.stack = cnp.PyArray_DIM(given, 1) // max(p.rows, 1) if cnp.PyArray_NDIM(given) == 3 else 0
        shape[1], shape[2] = p.stack * p.rows, cnp.PyArray_DIM(x, 2)
        given = checked_floats(given, "du", 3, shape, typenum)
    else:
        columns = as_positions(at, "at")
        p.stack = cnp.PyArray_SIZE(columns)
        refuse_outside(columns, "at", 0, cnp.PyArray_DIM(x, 2))
        shape[1] = p.stack * p.rows
        given = checked_floats(drive, "drive", 2, shape, typenum)
        if origin is not None:
            sources = as_positions(origin, "origin")
            if cnp.PyArray_SIZE(sources) != p.stack:
                raise ValueError(f"origin: expected shape ({p.stack},) like at, got {np.shape(sources)}")
            refuse_outside(sources, "origin", 0, p.units)
    shape[0], shape[1], shape[2] = p.stack * p.rows, p.steps, p.units
    cdef array y = fresh(3, shape, typenum)
    shape[1] = p.units
    cdef array last = fresh(2, shape, typenum)
    if reference is not None:
        reference.recurrent_change(cell, x, w, states, memory, steps, bool(p.reverse), du is not None, given,
                                   columns, sources, p.step, bool(p.recurrent), y, last)
        return y, last
    p.mask = NULL if steps is None else <uint8_t *>cnp.PyArray_DATA(steps)
    p.weight, p.arguments, p.gates = cnp.PyArray_DATA(w), cnp.PyArray_DATA(x), cnp.PyArray_DATA(values)
    p.state, p.kept = cnp.PyArray_DATA(states), NULL if memory is None else cnp.PyArray_DATA(memory)
    if du is not None:
        p.du = cnp.PyArray_DATA(given)
    else:
        p.drive, p.at = cnp.PyArray_DATA(given), <const intptr_t *>cnp.PyArray_DATA(columns)
        if sources is not None:
            p.from_ = <const intptr_t *>cnp.PyArray_DATA(sources)
    p.y, p.y_row, p.y_step, p.last = cnp.PyArray_DATA(y), p.steps * p.units, p.units, cnp.PyArray_DATA(last)
    if p.steps == 0:
        last.fill(0)
    cdef const nnf_kernels *kernels = kernels_for(x)
    with nogil:
        answer = kernels.recurrent_change(&p, poll)
    finish(answer)
    return y, last


cdef int refuse_outside(array positions, str name, intptr_t least, intptr_t end) except -1:
    """ValueError where some of an array of np.intp are not in [least, end)."""
    cdef const intptr_t *at = <const intptr_t *>cnp.PyArray_DATA(positions)
    cdef intptr_t i
    for i in range(cnp.PyArray_SIZE(positions)):
        if not least <= at[i] < end:
            raise ValueError(f"{name}: expected numbers in [{least}, {end}), got {at[i]} at position {i}")
    return 0


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
