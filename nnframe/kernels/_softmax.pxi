# The border of csrc/losses.inc.h, and the checks of labels. Included by _kernels.pyx.

cdef array as_logits(object logits):
    cdef array x = as_floats(logits, "logits")
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 1) < 1:
        raise ValueError(f"logits: expected shape (N, C) with at least one class, got {np.shape(x)}")
    return as_contiguous(x)


cdef array as_labels(object labels, array x, int64_t ignored=NNF_NONE_IGNORED):
    """Class indices as int64 (N,), or soft labels as an array like the logits; each checked."""
    cdef array t = labels if cnp.PyArray_CheckExact(labels) else as_plain_array(labels, "labels")
    cdef cnp.npy_intp rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1), i
    cdef const int64_t *index
    if cnp.PyArray_NDIM(t) == 2 and cnp.PyArray_SAMESHAPE(t, x):
        return as_targets(t, x)
    if cnp.PyArray_NDIM(t) != 1 or cnp.PyArray_DIM(t, 0) != rows:
        raise ValueError(f"labels: expected {rows} class indices of shape ({rows},), or one-hot or soft labels of "
                         f"shape ({rows}, {classes}), got shape {np.shape(t)}")
    if cnp.PyArray_TYPE(t) != cnp.NPY_INT64 or not cnp.PyArray_ISCARRAY_RO(t):
        t = to_class_indices(t, classes)
    index = <const int64_t *>cnp.PyArray_DATA(t)
    if are_classes(index, rows, classes):
        return t
    for i in range(rows):
        if (index[i] < 0 or index[i] >= classes) and (index[i] != ignored or ignored == NNF_NONE_IGNORED):
            raise ValueError(f"labels: expected class indices in [0, {classes}), got {index[i]} at position {i}")
    return t


cdef bint are_classes(const int64_t *index, cnp.npy_intp rows, cnp.npy_intp classes) noexcept:
    """Whether each index is in [0, classes): neither it nor classes - 1 - index has its highest bit set."""
    cdef uint64_t bits = 0, last = <uint64_t>classes - 1
    cdef cnp.npy_intp i
    for i in range(rows):
        bits |= <uint64_t>index[i] | (last - <uint64_t>index[i])
    return not bits >> 63


cdef array to_class_indices(array t, cnp.npy_intp classes):
    """Integers as int64, in C order."""
    if not cnp.PyArray_ISINTEGER(t):
        raise TypeError(f"labels: expected integers for class indices, got {t.dtype}")
    if not (cnp.PyArray_ISUNSIGNED(t) and cnp.PyArray_ITEMSIZE(t) == 8):
        return cnp.PyArray_Cast(t, cnp.NPY_INT64)
    if len(t) and t.max() > np.uint64(2**63 - 1):    # int64 would make it another number
        raise ValueError(f"labels: expected class indices in [0, {classes}), got {t.max()} at position {t.argmax()}")
    return as_contiguous(t.astype(np.int64))


cdef array as_targets(array t, array x):
    if cnp.PyArray_TYPE(t) == cnp.PyArray_TYPE(x) and cnp.PyArray_ISCARRAY_RO(t) and are_targets(t):
        return t
    if not (cnp.PyArray_ISINTEGER(t) or cnp.PyArray_ISFLOAT(t) or cnp.PyArray_ISBOOL(t)):
        raise TypeError(f"labels: expected numbers for soft labels, got {t.dtype}")
    t = as_contiguous(as_floats(t.astype(x.dtype, copy=False), "labels"))
    sums = t.sum(axis=1)
    wrong = ~((t >= 0).all(axis=1) & (np.abs(sums - 1) <= 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError("labels: expected one-hot or soft labels, each row non-negative with a sum of 1, got row "
                         f"{row} with least value {t[row].min():g} and sum {sums[row]:g}")
    return t


cdef bint are_targets(array t) noexcept:
    """Whether each row of an array (N, C) in C order is non-negative with a sum of 1 (to 1e-3)."""
    cdef cnp.npy_intp rows = cnp.PyArray_DIM(t, 0), classes = cnp.PyArray_DIM(t, 1)
    if cnp.PyArray_ITEMSIZE(t) == 4:
        return are_rows_of_targets(<const float *>cnp.PyArray_DATA(t), rows, classes)
    return are_rows_of_targets(<const double *>cnp.PyArray_DATA(t), rows, classes)


cdef bint are_rows_of_targets(const floating *t, cnp.npy_intp rows, cnp.npy_intp classes) noexcept:
    cdef cnp.npy_intp row, c
    cdef double even, odd
    cdef bint good = True
    for row in range(rows):
        even = odd = 0.0
        for c in range(0, classes - 1, 2):
            good &= (t[c] >= 0) & (t[c + 1] >= 0)
            even += t[c]
            odd += t[c + 1]
        if classes % 2:
            good &= t[classes - 1] >= 0
            even += t[classes - 1]
        if not (good and -1e-3 <= even + odd - 1 <= 1e-3):
            return False
        t += classes
    return True


cdef int64_t as_ignored(object ignore_index) except? -1:
    if ignore_index is None:
        return NNF_NONE_IGNORED
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"ignore_index: expected an integer or None, got {got(ignore_index)}")
    cdef int64_t ignored = NNF_NONE_IGNORED
    try:
        ignored = ignore_index
    except OverflowError:
        pass
    if ignored == NNF_NONE_IGNORED:
        raise ValueError(f"ignore_index: expected a number that int64 holds, got {ignore_index}")
    return ignored


cdef array as_class_weights(object weight, array x):
    if weight is None:
        return None
    cdef array w = weight if cnp.PyArray_CheckExact(weight) else as_plain_array(weight, "weight")
    if cnp.PyArray_TYPE(w) == cnp.PyArray_TYPE(x) and cnp.PyArray_ISCARRAY_RO(w) and are_weights(w, x):
        return w
    if w.dtype.kind not in "iuf" or cnp.PyArray_NDIM(w) != 1 or cnp.PyArray_DIM(w, 0) != cnp.PyArray_DIM(x, 1):
        raise ValueError(f"weight: expected {cnp.PyArray_DIM(x, 1)} numbers, one for each class, got {w.dtype} of "
                         f"shape {np.shape(w)}")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError(f"weight: expected finite numbers >= 0, got {w}")
    return as_contiguous(as_floats(w.astype(x.dtype, copy=False), "weight"))


cdef bint are_weights(array w, array x) noexcept:
    """Whether an array in C order is one finite number >= 0 for each class."""
    cdef cnp.npy_intp classes = cnp.PyArray_DIM(x, 1), c
    if cnp.PyArray_NDIM(w) != 1 or cnp.PyArray_DIM(w, 0) != classes:
        return False
    for c in range(classes):
        if not 0 <= number_at(w, c) < INFINITY:
            return False
    return True


cdef inline double number_at(array x, intptr_t i) noexcept:
    """Entry i of an array of float32 or float64 in C order."""
    if cnp.PyArray_ITEMSIZE(x) == 4:
        return (<const float *>cnp.PyArray_DATA(x))[i]
    return (<const double *>cnp.PyArray_DATA(x))[i]


def check_labels(logits, labels, *, ignore_index=None):
    """Labels as the kernels want them: int64 class indices (N,), or targets (N, C) of the logits' dtype.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    return as_labels(labels, as_logits(logits), as_ignored(ignore_index))


def softmax(logits, *, out=None):
    """Each row of `logits` (N, C) through exp(x) / sum(exp(x)); returns (N, C)."""
    cdef array x = as_logits(logits)
    cdef array y = as_output(out, "out", 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    cdef intptr_t rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1)
    cdef const nnf_kernels *kernels = kernels_for(x)
    if out is not None:
        refuse_shift(y, "out", logits, "logits")
    if reference is not None:
        y[...] = reference.softmax(x)
        return y
    if rows * classes * 16 < KEEP_GIL:
        kernels.softmax(rows, classes, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    else:
        with nogil:
            kernels.softmax(rows, classes, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    return y


def softmax_cross_entropy(logits, labels, *, reduction="mean", weight=None, label_smoothing=0.0,
                          ignore_index=None, out=None):
    """Cross-entropy of softmax(logits) against labels, and its gradient, in one pass.

    The loss of a row is sum_c q_c (log(sum_k exp(x_k)) - x_c), with q_c = weight_c ((1 - s) t_c + s / C) for labels t
    and the label smoothing s; no constant is added inside the logarithm.

    Parameters
    ----------
    logits : array (N, C), float32 or float64
        A NaN or +inf makes the loss NaN; -inf is a probability of zero.
    labels : array (N,) of integers, or (N, C)
        Class indices in [0, C); or one-hot or soft labels, rows non-negative with a sum of 1 (to 1e-3).
    reduction : {"mean", "sum"}
        Over the rows. As in PyTorch, the mean over class indices divides by the sum of the rows' weights, those of
        their labels, and leaves ignored rows out; where that sum is 0 the loss is NaN and the gradient 0. The mean over
        soft labels divides by N.
    weight : array (C,), optional
        Of each class, >= 0.
    label_smoothing : float in [0, 1]
        How much of each label is spread evenly over all classes.
    ignore_index : int, optional
        Rows with this class index add nothing, and their gradient is 0.
    out : array (N, C), optional
        Receives the gradient; may be `logits`, else shares no memory with the others.

    Returns
    -------
    loss : float
    gradient : array (N, C)
        Of the loss with respect to the logits.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or label that does not fit.
    """
    cdef array x = as_logits(logits)
    cdef int64_t ignored = as_ignored(ignore_index)
    cdef array t = as_labels(labels, x, ignored), w = as_class_weights(weight, x)
    cdef bint mean = as_choice(reduction, "reduction", REDUCTIONS)
    cdef double smoothing = as_smoothing(label_smoothing)
    cdef array grad = as_output(out, "out", 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    if out is not None:
        refuse_shift(grad, "out", logits, "logits")
        refuse_overlap(grad, "out", labels, "labels")
        refuse_overlap(grad, "out", weight, "weight")
    return _softmax_cross_entropy(x, t, w, smoothing, ignored, mean, grad), grad


def softmax_cross_entropy_loss(logits, labels, *, reduction="mean", weight=None, label_smoothing=0.0,
                               ignore_index=None):
    """The loss of `softmax_cross_entropy` alone, a float."""
    cdef array x = as_logits(logits)
    cdef int64_t ignored = as_ignored(ignore_index)
    return _softmax_cross_entropy(x, as_labels(labels, x, ignored), as_class_weights(weight, x),
                                  as_smoothing(label_smoothing), ignored,
                                  as_choice(reduction, "reduction", REDUCTIONS), None)


cdef dict REDUCTIONS = {"mean": 1, "sum": 0}


cdef double as_smoothing(object value) except? -1.0:
    cdef double smoothing = as_number(value, "label_smoothing")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {got(value)}")
    return smoothing


cdef double weight_of_rows(array t, array weight, int64_t ignored):
    """What a mean divides by."""
    cdef intptr_t i, rows = cnp.PyArray_DIM(t, 0)
    cdef const int64_t *labels
    cdef double total = 0.0
    if cnp.PyArray_NDIM(t) == 2 or (weight is None and ignored == NNF_NONE_IGNORED):
        return rows
    labels = <const int64_t *>cnp.PyArray_DATA(t)
    for i in range(rows):
        if labels[i] != ignored:
            total += 1.0 if weight is None else number_at(weight, labels[i])
    return total


cdef double _softmax_cross_entropy(array x, array t, array weight, double smoothing, int64_t ignored, bint mean,
                                   array grad) except *:
    """The loss of checked arrays; writes the gradient unless `grad` is None."""
    cdef nnf_softmax_cross_entropy p
    cdef const nnf_kernels *kernels = kernels_for(x)
    cdef double few[64]
    cdef double loss = 0.0, divisor = weight_of_rows(t, weight, ignored) if mean else 1.0
    cdef intptr_t i
    p.rows, p.classes = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
    p.logits, p.logits_row = cnp.PyArray_DATA(x), p.classes
    p.labels = <const int64_t *>cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 1 else NULL
    p.targets = cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 2 else NULL
    p.weights = NULL if weight is None else cnp.PyArray_DATA(weight)
    p.smoothing, p.ignored = smoothing, ignored
    p.scale = 1.0 / divisor if divisor > 0 else 0.0
    p.grad = NULL if grad is None else cnp.PyArray_DATA(grad)
    if reference is not None:
        losses, gradient = reference.softmax_cross_entropy(
            x, t, weight, smoothing, None if ignored == NNF_NONE_IGNORED else ignored)
        if grad is not None:
            grad[...] = gradient * p.scale
        return float(losses.sum() * p.scale) if divisor > 0 else float("nan")
    p.losses = &few[0]
    if p.rows > 64:
        p.losses = <double *>malloc(p.rows * sizeof(double))
    if p.losses == NULL:
        raise MemoryError(f"no room for {p.rows} losses")
    if p.rows * p.classes * 16 < KEEP_GIL:
        kernels.softmax_cross_entropy(&p)
    else:
        with nogil:
            kernels.softmax_cross_entropy(&p)
    for i in range(p.rows):
        loss += p.losses[i]
    if p.losses != &few[0]:
        free(p.losses)
    return loss * p.scale if divisor > 0 else float("nan")
