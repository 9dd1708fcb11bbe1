# The border of csrc/difference.inc.h and csrc/central_difference.c. Included by _kernels.pyx.

cdef int poll() noexcept nogil:
    """Whether a signal such as Ctrl-C has raised; asked by long loops in C."""
    with gil:
        try:
            return PyErr_CheckSignals()
        except BaseException as error:
            pending.append(error)
            return 1


cdef list pending = []    # the exception that poll caught, until the loop has ended


cdef int finish(int answer) except -1:
    """Turn the answer of a loop in C into an exception."""
    if answer == NNF_NO_MEMORY:
        raise MemoryError("no room for the buffers of a central-difference loop")
    if answer:
        raise pending.pop()
    return 0


cdef const void *pinned(object a, str name, int typenum, list alive) except? NULL:
    """Address of an array as C reads it, which `alive` keeps until the list goes; NULL for None."""
    if a is None:
        return NULL
    cdef array x = as_adjacent(as_floats(a, name, typenum))
    alive.append(x)
    return cnp.PyArray_DATA(x)


def difference_gradient(x, stages, str loss, probabilities, targets, residual, *, double step, double scale,
                        array grad_weight, grad_bias=None, columns=None):
    """The central-difference gradient of a linear layer below built-in layers, in C on all threads.

    Parameters
    ----------
    x : array (N, I)
        What the layer read. Entries that are zero are skipped.
    stages : list of (weight,) or (name, x, y)
        What stands above it, from the bottom up: the weight (out, in) of a linear layer, or an activation with its
        input and output, both (N, width).
    loss : {"cross_entropy", "squared_error"}
    probabilities, targets, residual : array (N, width)
        Of the last stage; the first two are None for the squared error. See csrc/nnframe.h.
    step, scale : float
        The step in weight; what the sum of losses over rows is multiplied with.
    grad_weight, grad_bias : array (O, I), array (O,) or None
        Overwritten.
    columns : array (2, O, E), optional
        How output o changes by +step and -step in each of the E entries of x that are not zero (and, with a bias,
        one more at the end of each row), where the first layers above are not among `stages`.

    All arrays have the dtype of `grad_weight`; they are made by `CentralDifference`, which checks them.
    """
    cdef int typenum = cnp.PyArray_TYPE(grad_weight)
    cdef array inputs = as_adjacent(as_floats(x, "x", typenum))
    cdef list alive = [inputs]    # arrays that C reads, until it is done
    cdef nnf_difference p
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    cdef int answer

    p.rows, p.inputs, p.outputs = cnp.PyArray_DIM(inputs, 0), cnp.PyArray_DIM(inputs, 1), len(grad_weight)
    p.x, p.columns = cnp.PyArray_DATA(inputs), pinned(columns, "columns", typenum, alive)
    p.step, p.scale, p.stages = step, scale, len(stages)
    p.loss = NNF_CROSS_ENTROPY if loss == "cross_entropy" else NNF_SQUARED_ERROR
    p.p = pinned(probabilities, "probabilities", typenum, alive)
    p.t = pinned(targets, "targets", typenum, alive)
    p.residual = pinned(residual, "residual", typenum, alive)
    p.grad_weight = cnp.PyArray_DATA(grad_weight)
    p.grad_bias = NULL if grad_bias is None else cnp.PyArray_DATA(<array>grad_bias)
    cdef nnf_stage *stage = <nnf_stage *>malloc((p.stages + 1) * sizeof(nnf_stage))
    if stage == NULL:
        raise MemoryError("no room for the stages of a network")
    p.stage = stage
    try:
        for i, described in enumerate(stages):
            stage[i].weight, stage[i].x, stage[i].y = NULL, NULL, NULL
            stage[i].activation, stage[i].alpha = NNF_IDENTITY, 0.0
            if len(described) == 1:
                stage[i].weight = pinned(described[0], "weight", typenum, alive)
                stage[i].width = len(described[0])
            else:
                stage[i].activation, stage[i].alpha = as_activation(described[0]), described[1]
                stage[i].x = pinned(described[2], "x", typenum, alive)
                stage[i].y = pinned(described[3], "y", typenum, alive)
                stage[i].width = described[2].shape[1]
        with nogil:
            answer = kernels.difference_gradient(&p, poll)
        finish(answer)
    finally:
        free(stage)


def low_level_callable(f):
    """Signature of a `scipy.LowLevelCallable` as text, address of its function, address of its user data."""
    capsule = tuple.__getitem__(f, 0)    # its own __getitem__ refuses
    cdef const char *name = PyCapsule_GetName(capsule)
    address = <intptr_t>PyCapsule_GetPointer(capsule, name)
    return "" if name == NULL else name.decode(), address, <intptr_t>PyCapsule_GetContext(capsule)


def compiled_central_difference(intptr_t f, intptr_t data, array x, array steps, array gradient):
    """Overwrite `gradient` with that of the C function at address `f`; arrays of float64 in C order, checked before."""
    cdef const double *at = <const double *>cnp.PyArray_DATA(x)
    cdef const double *step = <const double *>cnp.PyArray_DATA(steps)
    cdef double *grad = <double *>cnp.PyArray_DATA(gradient)
    cdef intptr_t n = cnp.PyArray_SIZE(x)
    cdef int answer
    with nogil:
        answer = nnf_central_difference(<nnf_function>f, <void *>data, at, n, step, grad, poll)
    finish(answer)
