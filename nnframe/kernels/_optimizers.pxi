# The border of csrc/optimizer.inc.h: one step of many parameters. Included by _kernels.pyx.

def optimizer_update(rule, list values not None, list gradients not None, list means=[], list squares=[],
                     list largest=[], *, rate, decay=0.0, shrink=0.0, beta1=0.0, beta2=0.0, eps=0.0, gain=1.0):
    """One step of an optimizer for many parameters, each in one pass over value, gradient and state, in place.

    With g = gradient + decay * value, and value first multiplied by 1 - shrink:

    =================  ============================================================================================
    sgd                value -= rate g
    momentum           m = beta1 m + gain g; value -= rate m
    nesterov           m = beta1 m + g; value -= rate (g + beta1 m)
    adagrad            s += g^2; value -= rate g / (sqrt(s) + eps)
    rmsprop            s = beta2 s + (1 - beta2) g^2; value -= rate g / (sqrt(s) + eps)
    centered           s as rmsprop; m = beta2 m + (1 - beta2) g; value -= rate g / (sqrt(s - m^2) + eps)
    rmsprop_momentum   s as rmsprop; m = beta1 m + g / (sqrt(s) + eps); value -= rate m
    centered_momentum  m, s as centered; k = beta1 k + g / (sqrt(s - m^2) + eps); value -= rate k
    adam               m = beta1 m + (1 - beta1) g; s as rmsprop; value -= rate m / (sqrt(s) + eps)
    amsgrad            m, s as adam; k = max(k, s); value -= rate m / (sqrt(k) + eps)
    nadam              m, s as adam; value -= rate (m + gain g) / (sqrt(s) + eps)
    radam              m, s as adam; value -= rate m / (gain sqrt(s) + eps)
    lion               value -= rate sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g
    rprop              s *= beta2 if g m > 0, beta1 if < 0 (g = 0 then), in [eps, gain]; value -= s sign(g); m = g
    =================  ============================================================================================

    Parameters
    ----------
    rule : str
    values, gradients : lists of arrays
        float32 or float64; a gradient has its value's shape and dtype.
    means, squares, largest : lists of arrays
        m, s and k for the rules that have them, like `values`.

    Raises
    ------
    TypeError, ValueError
        Anything that does not fit, arrays that are written and share memory; nothing has been changed.
    """
    cdef nnf_update p
    cdef intptr_t i, count = len(values)
    p.rule = <nnf_rule>as_choice(rule, "rule", RULES)
    p.rate, p.decay, p.shrink = as_number(rate, "rate"), as_number(decay, "decay"), as_number(shrink, "shrink")
    p.beta1, p.beta2, p.eps = as_number(beta1, "beta1"), as_number(beta2, "beta2"), as_number(eps, "eps")
    p.gain = as_number(gain, "gain")
    cdef bint has_m = nnf_rule_has_m(p.rule), has_s = nnf_rule_has_s(p.rule), has_k = nnf_rule_has_k(p.rule)
    check_length("gradients", gradients, count)
    if has_m:
        check_length("means", means, count)
    if has_s:
        check_length("squares", squares, count)
    if has_k:
        check_length("largest", largest, count)
    cdef piece few[64]
    cdef piece *pieces = few
    means, squares, largest = means if has_m else None, squares if has_s else None, largest if has_k else None
    cdef intptr_t arrays = (2 + has_m + has_s + has_k) * count
    if arrays > 64:
        pieces = <piece *>malloc(arrays * sizeof(piece))
        if pieces == NULL:
            raise MemoryError(f"no room for the addresses of {arrays} arrays")
    try:
        plain = check_arrays(pieces, values, gradients, means, squares, largest)
    finally:
        if pieces != few:
            free(pieces)
    if reference is not None:
        for i in range(count):
            reference.optimizer_update(
                rule, np.asarray(values[i]), np.asarray(gradients[i]), np.asarray(means[i]) if has_m else None,
                np.asarray(squares[i]) if has_s else None, np.asarray(largest[i]) if has_k else None, p.rate, p.decay,
                p.shrink, p.beta1, p.beta2, p.eps, p.gain)
    elif plain:
        update_all(&p, values, gradients, means, squares, largest)
    else:
        update_copies(&p, values, gradients, means, squares, largest)


cdef int check_length(str name, list given, intptr_t count) except -1:
    if given is None or len(given) != count:
        raise ValueError(f"{name}: expected {count} arrays, one for each value, got "
                         f"{'None' if given is None else len(given)}")
    return 0


cdef tuple ARRAYS = ("values[{}]", "gradients[{}]", "means[{}]", "squares[{}]", "largest[{}]")


cdef bint check_arrays(piece *pieces, list values, list gradients, list means, list squares,
                       list largest) except -1:
    """Check each array, and all of them against each other; returns whether C can take them as they are."""
    cdef intptr_t i, at = 0
    cdef bint plain = True
    cdef array w
    cdef array x
    for i in range(len(values)):
        w = as_value(values[i], i)
        set_piece(&pieces[at], w, True, 0, i)
        x = as_like(gradients[i], "gradients", i, w)
        set_piece(&pieces[at + 1], x, False, 1, i)
        plain = plain and is_plain(w) and cnp.PyArray_ISCARRAY_RO(x)
        at += 2
        if means is not None:
            x = as_state(means[i], "means", i, w)
            set_piece(&pieces[at], x, True, 2, i)
            plain = plain and is_plain(x)
            at += 1
        if squares is not None:
            x = as_state(squares[i], "squares", i, w)
            set_piece(&pieces[at], x, True, 3, i)
            plain = plain and is_plain(x)
            at += 1
        if largest is not None:
            x = as_state(largest[i], "largest", i, w)
            set_piece(&pieces[at], x, True, 4, i)
            plain = plain and is_plain(x)
            at += 1
    refuse_shared(pieces, at, ARRAYS)
    return plain


cdef inline bint is_plain(array x) noexcept:
    """Whether C can write to `x`."""
    return cnp.PyArray_ISCARRAY(x)


cdef int update_all(nnf_update *p, list values, list gradients, list means, list squares, list largest) except -1:
    cdef intptr_t i
    cdef array w
    cdef const nnf_kernels *kernels
    p.m = p.s = p.k = NULL
    for i in range(len(values)):
        w = values[i]
        p.n, p.w, p.g = cnp.PyArray_SIZE(w), cnp.PyArray_DATA(w), cnp.PyArray_DATA(<array>gradients[i])
        if means is not None:
            p.m = cnp.PyArray_DATA(<array>means[i])
        if squares is not None:
            p.s = cnp.PyArray_DATA(<array>squares[i])
        if largest is not None:
            p.k = cnp.PyArray_DATA(<array>largest[i])
        kernels = kernels_for(w)
        if p.n * 2 < KEEP_GIL:
            kernels.update(p)
        else:
            with nogil:
                kernels.update(p)
    return 0


cdef int update_copies(nnf_update *p, list values, list gradients, list means, list squares, list largest) except -1:
    """The same with copies in C order; all of them are there before anything is written."""
    cdef list copied = [None if arrays is None else [in_c_order(x) for x in arrays]
                        for arrays in (values, means, squares, largest)]
    update_all(p, copied[0], [as_contiguous(as_floats(x, "gradients")) for x in gradients], copied[1], copied[2],
               copied[3])
    for arrays, copies in zip((values, means, squares, largest), copied):
        for x, copy in zip(arrays or [], copies or []):
            write_back(copy, x)
    return 0


cdef array as_value(object given, intptr_t i):
    if not cnp.PyArray_Check(given):
        raise TypeError(f"values[{i}]: expected an array, got {got(given)}")
    cdef array x = given
    if cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT64:
        raise TypeError(f"values[{i}]: expected an array of float32 or float64, got {x.dtype}")
    return as_state(x, "values", i, x)


cdef array as_like(object given, str name, intptr_t i, array like):
    if not cnp.PyArray_Check(given):
        raise TypeError(f"{name}[{i}]: expected an array, got {got(given)}")
    cdef array x = given
    if cnp.PyArray_TYPE(x) != cnp.PyArray_TYPE(like) or not cnp.PyArray_SAMESHAPE(x, like):
        raise ValueError(f"{name}[{i}]: expected {like.dtype} of shape {np.shape(like)} like its value, "
                         f"got {x.dtype} of shape {np.shape(x)}")
    return x


cdef array as_state(object given, str name, intptr_t i, array like):
    cdef array x = as_like(given, name, i, like)
    if not cnp.PyArray_ISWRITEABLE(x):
        raise ValueError(f"{name}[{i}]: expected an array that can be written, got a read-only one")
    return x


def all_finite(x):
    """Whether no number of `x`, an array of float32 or float64, is infinite or NaN."""
    cdef array numbers = as_contiguous(as_floats(x, "x"))
    cdef intptr_t n = cnp.PyArray_SIZE(numbers)
    cdef bint finite
    cdef const nnf_kernels *kernels = kernels_for(numbers)
    if reference is not None:
        return bool(np.isfinite(numbers).all())
    if n < KEEP_GIL:
        return bool(kernels.all_finite(n, cnp.PyArray_DATA(numbers)))
    with nogil:
        finite = kernels.all_finite(n, cnp.PyArray_DATA(numbers))
    return bool(finite)
