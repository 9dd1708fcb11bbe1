# The border of csrc/softmax_cross_entropy.inc.h, and the checks of labels. Included by _kernels.pyx.

cdef array as_logits(object logits):
    cdef array x = as_floats(logits, "logits")
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 1) < 1:
        raise ValueError(f"logits: expected shape (N, C) with at least one class, got {np.shape(x)}")
    return as_adjacent(x)


cdef array as_labels(object labels, array x):
    """Class indices as int64 (N,), or soft labels as an array like the logits; each checked."""
    cdef array t = labels if cnp.PyArray_Check(labels) else np.asarray(labels)
    cdef cnp.npy_intp rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1), i
    cdef const int64_t *index
    if cnp.PyArray_NDIM(t) == 2 and cnp.PyArray_SAMESHAPE(t, x):
        return _as_targets(t, x)
    if cnp.PyArray_NDIM(t) != 1 or cnp.PyArray_DIM(t, 0) != rows:
        raise ValueError(f"labels: expected {rows} class indices of shape ({rows},), or one-hot or soft labels of "
                         f"shape ({rows}, {classes}), got shape {np.shape(t)}")
    if not cnp.PyArray_ISINTEGER(t):
        raise TypeError(f"labels: expected integers for class indices, got {t.dtype}")
    if t.dtype == np.uint64 and rows and t.max() > np.uint64(classes):
        raise ValueError(f"labels: expected class indices in [0, {classes}), got {t.max()}")
    t = as_adjacent(t.astype(np.int64, copy=False))
    if not cnp.PyArray_ISALIGNED(t):
        t = t.copy()
    index = <const int64_t *>cnp.PyArray_DATA(t)
    for i in range(rows):
        if index[i] < 0 or index[i] >= classes:
            raise ValueError(f"labels: expected class indices in [0, {classes}), got {index[i]} at position {i}")
    return t


cdef array _as_targets(array t, array x):
    if not (cnp.PyArray_ISINTEGER(t) or cnp.PyArray_ISFLOAT(t) or cnp.PyArray_ISBOOL(t)):
        raise TypeError(f"labels: expected numbers for soft labels, got {t.dtype}")
    t = as_adjacent(as_floats(t.astype(x.dtype, copy=False), "labels"))
    sums = t.sum(axis=1)
    wrong = ~((t >= 0).all(axis=1) & (np.abs(sums - 1) <= 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError("labels: expected one-hot or soft labels, each row non-negative with a sum of 1, got row "
                         f"{row} with least value {t[row].min():g} and sum {sums[row]:g}")
    return t


def check_labels(logits, labels):
    """Labels as the kernels want them: int64 class indices (N,), or targets (N, C) of the logits' dtype.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    return as_labels(labels, as_logits(logits))


def softmax(logits, *, out=None):
    """Each row of `logits` (N, C) through exp(x) / sum(exp(x)); returns (N, C)."""
    cdef array x = as_logits(logits)
    cdef array y = as_output(out, 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    cdef intptr_t rows = cnp.PyArray_DIM(x, 0), classes = cnp.PyArray_DIM(x, 1)
    cdef const nnf_kernels *kernels = kernels_for(x)
    if reference is not None:
        y[...] = reference.softmax(x)
        return y
    with nogil:
        kernels.softmax(rows, classes, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    return y


def softmax_cross_entropy(logits, labels, *, str reduction="mean", out=None):
    """Cross-entropy of softmax(logits) against labels, and its gradient, in one pass.

    The loss of a row is log(sum(exp(x))) - sum(t * x); no constant is added inside the logarithm.

    Parameters
    ----------
    logits : array (N, C), float32 or float64
        A NaN or +inf makes the loss NaN; -inf is a probability of zero.
    labels : array (N,) of integers, or (N, C)
        Class indices in [0, C); or one-hot or soft labels, rows non-negative with a sum of 1 (to 1e-3).
    reduction : {"mean", "sum"}
        Over the rows.
    out : array (N, C), optional
        Receives the gradient; may be `logits`.

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
    cdef array t = as_labels(labels, x)
    cdef bint mean = _is_mean(reduction)
    cdef array grad = as_output(out, 2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    return _softmax_cross_entropy(x, t, mean, grad), grad


cdef bint _is_mean(str reduction) except *:
    if reduction != "mean" and reduction != "sum":
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    return reduction == "mean"


cdef double _softmax_cross_entropy(array x, array t, bint mean, array grad) except *:
    """The loss of checked arrays; writes the gradient unless `grad` is None."""
    cdef nnf_softmax_cross_entropy p
    cdef const nnf_kernels *kernels = kernels_for(x)
    cdef double few[64]
    cdef double loss = 0.0
    cdef intptr_t i
    p.rows, p.classes = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
    p.logits, p.logits_row = cnp.PyArray_DATA(x), p.classes
    p.labels = <const int64_t *>cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 1 else NULL
    p.targets = cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 2 else NULL
    p.scale = 1.0 / p.rows if mean and p.rows else 1.0
    p.grad = NULL if grad is None else cnp.PyArray_DATA(grad)
    if reference is not None:
        losses, gradient = reference.softmax_cross_entropy(x, t)
        if grad is not None:
            grad[...] = gradient * p.scale
        return float(losses.sum() * p.scale) if p.rows or not mean else float("nan")
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
    return loss * p.scale if p.rows or not mean else float("nan")


def softmax_cross_entropy_loss(logits, labels, *, str reduction="mean"):
    """The loss of `softmax_cross_entropy` alone, a float."""
    cdef array x = as_logits(logits)
    return _softmax_cross_entropy(x, as_labels(labels, x), _is_mean(reduction), None)
