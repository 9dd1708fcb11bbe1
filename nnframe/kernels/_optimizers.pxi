# The border of csrc/optimizer.inc.h: one step of many parameters. Included by _kernels.pyx.

cdef dict RULES = {
    "sgd": NNF_SGD, "momentum": NNF_MOMENTUM, "nesterov": NNF_NESTEROV, "adagrad": NNF_ADAGRAD,
    "rmsprop": NNF_RMSPROP, "adam": NNF_ADAM,
}
cdef dict STATES = {"sgd": "", "momentum": "m", "nesterov": "m", "adagrad": "s", "rmsprop": "s", "adam": "ms"}


def optimizer_update(str rule, list values, list gradients, list means=[], list squares=[], *, double rate,
                     double decay=0.0, double shrink=0.0, double beta1=0.0, double beta2=0.0, double eps=0.0):
    """One step of an optimizer for many parameters, each in one pass over value, gradient and state, in place.

    With g = gradient + decay * value, and value first multiplied by 1 - shrink:

    ========  ==================================================================================
    sgd       value -= rate g
    momentum  m = beta1 m + g; value -= rate m
    nesterov  m = beta1 m + g; value -= rate (g + beta1 m)
    adagrad   s += g^2; value -= rate g / (sqrt(s) + eps)
    rmsprop   s = beta2 s + (1 - beta2) g^2; value -= rate g / (sqrt(s) + eps)
    adam      m = beta1 m + (1 - beta1) g; s as rmsprop; value -= rate m / (sqrt(s) + eps)
    ========  ==================================================================================

    Parameters
    ----------
    rule : str
    values, gradients : lists of arrays
        float32 or float64; a gradient has its value's shape and dtype.
    means, squares : lists of arrays
        m and s for the rules that have them, like `values`.

    Raises
    ------
    TypeError, ValueError
        Anything that does not fit; nothing has been changed.
    """
    cdef nnf_update p
    cdef array w, g, m, s
    cdef const nnf_kernels *kernels
    cdef intptr_t i, count = len(values)
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    cdef bint has_m = "m" in STATES[rule], has_s = "s" in STATES[rule]
    for name, given, wanted in (("gradients", gradients, True), ("means", means, has_m), ("squares", squares, has_s)):
        if wanted and len(given) != count:
            raise ValueError(f"{name}: expected {count} arrays, one for each value, got {len(given)}")
    for i in range(count):
        w = _writeable(values[i], "values", i, None)
        _like(gradients[i], "gradients", i, w)
        if has_m:
            _writeable(means[i], "means", i, w)
        if has_s:
            _writeable(squares[i], "squares", i, w)
    p.rule = RULES[rule]
    p.rate, p.decay, p.shrink, p.beta1, p.beta2, p.eps = rate, decay, shrink, beta1, beta2, eps
    p.m = p.s = NULL
    for i in range(count):
        w, g = values[i], gradients[i]
        m = means[i] if has_m else None
        s = squares[i] if has_s else None
        if reference is not None or not _is_plain(w) or (has_m and not _is_plain(m)) or (has_s and not _is_plain(s)):
            _twin()(rule, w, g, m, s, rate, decay, shrink, beta1, beta2, eps)
            continue
        g = as_adjacent(as_floats(g, "gradients"))
        p.n, p.w, p.g = cnp.PyArray_SIZE(w), cnp.PyArray_DATA(w), cnp.PyArray_DATA(g)
        if has_m:
            p.m = cnp.PyArray_DATA(m)
        if has_s:
            p.s = cnp.PyArray_DATA(s)
        kernels = kernels_for(w)
        if p.n * 2 < KEEP_GIL:
            kernels.update(&p)
        else:
            with nogil:
                kernels.update(&p)


cdef object _twin():
    from nnframe.kernels.reference import optimizer_update as twin
    return twin


cdef inline bint _is_plain(array x):
    """Whether C can write x where it lies; the NumPy twin writes any other."""
    return cnp.PyArray_ISCARRAY(x)


cdef array _like(object given, str name, intptr_t i, array like):
    if not cnp.PyArray_Check(given):
        raise TypeError(f"{name}[{i}]: expected an array, got {type(given).__name__}")
    cdef array x = given
    if cnp.PyArray_TYPE(x) != cnp.PyArray_TYPE(like) or not cnp.PyArray_SAMESHAPE(x, like):
        raise ValueError(f"{name}[{i}]: expected {like.dtype} of shape {np.shape(like)} like its value, "
                         f"got {x.dtype} of shape {np.shape(x)}")
    return x


cdef array _writeable(object given, str name, intptr_t i, array like):
    cdef array x = as_array(given, name, i) if like is None else _like(given, name, i, like)
    if not cnp.PyArray_ISWRITEABLE(x):
        raise ValueError(f"{name}[{i}]: expected an array that can be written, got a read-only one")
    return x


cdef array as_array(object given, str name, intptr_t i):
    if not cnp.PyArray_Check(given):
        raise TypeError(f"{name}[{i}]: expected an array, got {type(given).__name__}")
    cdef array x = given
    if cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT64:
        raise TypeError(f"{name}[{i}]: expected an array of float32 or float64, got {x.dtype}")
    return x


def all_finite(x):
    """Whether no number of `x`, an array of float32 or float64, is infinite or NaN."""
    cdef array numbers = as_adjacent(as_floats(x, "x"))
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
