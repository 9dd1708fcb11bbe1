# The border of csrc/difference.inc.h, csrc/curves.inc.h and csrc/moved.c. Included by _kernels.pyx.

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


cdef const uint8_t *flags(object a, str name, tuple shape, list alive) except? NULL:
    """Address of an array of bool, which `alive` keeps until the list goes; NULL for None."""
    if a is None:
        return NULL
    cdef array x = np.ascontiguousarray(a)
    if x.dtype != bool or np.shape(x) != shape:
        raise ValueError(f"{name}: expected an array of bool of shape {shape}, got {x.dtype} of shape {np.shape(x)}")
    alive.append(x)
    return <const uint8_t *>cnp.PyArray_DATA(x)


cdef class Above:
    """What stands above a linear layer, as C reads it: built-in layers, a built-in loss.

    Parameters
    ----------
    outputs : int
        Of the linear layer, O.
    stages : list of (weight,) or (name, alpha, x, y)
        From the bottom up: the weight (out, in) of a linear layer, or an activation with its parameter, its input and
        its output, both (N, width).
    loss : {"cross_entropy", "squared_error"}
    probabilities, targets, residual : array (N, width)
        Of the last stage; the first two are None for the squared error. See csrc/nnframe.h.

    Arrays have the dtype of `residual`; they are made by `CentralDifference`, which checks them.
    """

    cdef nnf_above c
    cdef nnf_stage *stage
    cdef list alive
    cdef array like

    def __cinit__(self, intptr_t outputs, list stages, str loss, probabilities, targets, array residual):
        cdef int typenum = cnp.PyArray_TYPE(residual)
        self.alive, self.like = [], residual
        self.stage = <nnf_stage *>malloc((len(stages) + 1) * sizeof(nnf_stage))
        if self.stage == NULL:
            raise MemoryError("no room for the stages of a network")
        self.c.rows, self.c.outputs, self.c.first, self.c.units = cnp.PyArray_DIM(residual, 0), outputs, 0, outputs
        self.c.stages, self.c.stage = len(stages), self.stage
        self.c.loss = NNF_CROSS_ENTROPY if loss == "cross_entropy" else NNF_SQUARED_ERROR
        self.c.p = pinned(probabilities, "probabilities", typenum, self.alive)
        self.c.t = pinned(targets, "targets", typenum, self.alive)
        self.c.residual = pinned(residual, "residual", typenum, self.alive)
        for i, described in enumerate(stages):
            self.stage[i].weight, self.stage[i].x, self.stage[i].y = NULL, NULL, NULL
            self.stage[i].activation, self.stage[i].alpha = NNF_IDENTITY, 0.0
            if len(described) == 1:
                self.stage[i].weight = pinned(described[0], "weight", typenum, self.alive)
                self.stage[i].width = len(described[0])
            else:
                self.stage[i].activation, self.stage[i].alpha = as_activation(described[0]), described[1]
                self.stage[i].x = pinned(described[2], "x", typenum, self.alive)
                self.stage[i].y = pinned(described[3], "y", typenum, self.alive)
                self.stage[i].width = described[2].shape[1]

    def __dealloc__(self):
        free(self.stage)

    cdef nnf_above of(self, units) except *:
        """The same, asked for the outputs in `units`, a range; all of them for None."""
        cdef nnf_above part = self.c
        if units is not None:
            part.first, part.units = units.start, len(units)
        return part


def difference_gradient(Above above, x, *, double step, double scale, array grad_weight, grad_bias=None, columns=None,
                        wanted=None, counted=None, units=None):
    """The central-difference gradient of a linear layer below built-in layers, in C on all threads.

    Parameters
    ----------
    above : Above
    x : array (N, I)
        What the layer read. Entries that are zero are skipped.
    step, scale : float
        The step in weight; what the sum of losses over rows is multiplied with.
    grad_weight, grad_bias : array (O, I), array (O,) or None
        Overwritten, for the outputs in `units`.
    columns : array (2, O, E), optional
        How output o changes by +step and -step in each of the E entries of x that are not zero (and, with a bias,
        one more at the end of each row), where the first layers above are not among its stages.
    wanted : array (O, I + 1) of bool, optional
        Which entries are asked for, the bias last; the others become 0.
    counted : array (O, N) of bool, optional
        Which rows count, for each output.
    units : range, optional
        Of outputs; all if not given.
    """
    cdef int typenum = cnp.PyArray_TYPE(above.like)
    cdef array inputs = as_adjacent(as_floats(x, "x", typenum))
    cdef list alive = [inputs]    # arrays that C reads, until it is done
    cdef nnf_difference p
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    cdef int answer
    p.above = above.of(units)
    p.inputs = cnp.PyArray_DIM(inputs, 1)
    p.x, p.columns = cnp.PyArray_DATA(inputs), pinned(columns, "columns", typenum, alive)
    p.wanted = flags(wanted, "wanted", (p.above.outputs, p.inputs + 1), alive)
    p.counted = flags(counted, "counted", (p.above.outputs, p.above.rows), alive)
    p.step, p.scale = step, scale
    p.grad_weight = cnp.PyArray_DATA(grad_weight)
    p.grad_bias = NULL if grad_bias is None else cnp.PyArray_DATA(<array>grad_bias)
    with nogil:
        answer = kernels.difference_gradient(&p, poll)
    finish(answer)


def difference_curves(Above above, distance, *, double tolerance, array level, array bend, array doubtful,
                      array state, columns=None, units=None):
    """How the loss of each row depends on each output of a linear layer: level + bend (t / distance)^2.

    That is (phi(t) - phi(-t)) / 2t, phi the change of the row's loss when the output moves by t; see csrc/nnframe.h.

    Parameters
    ----------
    above : Above
    distance : array (N,)
        The largest t of each row.
    tolerance : float
        How far off a curve may be, as a part of the mean level of its unit.
    level, bend : array (O, N); doubtful : array (O, N) of bool
        Overwritten, for the outputs in `units`: doubtful where the curve is farther off; there both are 0.
    state : array (O,) of uint8
        Overwritten: 1 where a row is doubtful, plus 2 where a bend is not 0.
    columns : array (O, 6, N), optional
        What each output changes by, in place of +-1, +-0.8 and +-0.5 times `distance`.
    units : range, optional
        Of outputs; all if not given.
    """
    cdef int typenum = cnp.PyArray_TYPE(above.like)
    cdef list alive = []
    cdef nnf_curves p
    cdef const nnf_kernels *kernels = kernels_for(above.like)
    cdef int answer
    p.above = above.of(units)
    p.distance = pinned(distance, "distance", typenum, alive)
    p.columns = pinned(columns, "columns", typenum, alive)
    p.tolerance = tolerance
    p.level, p.bend = cnp.PyArray_DATA(level), cnp.PyArray_DATA(bend)
    p.doubtful, p.state = <uint8_t *>cnp.PyArray_DATA(doubtful), <uint8_t *>cnp.PyArray_DATA(state)
    with nogil:
        answer = kernels.difference_curves(&p, poll)
    finish(answer)


def low_level_callable(f):
    """Signature of a `scipy.LowLevelCallable` as text, address of its function, address of its user data."""
    capsule = tuple.__getitem__(f, 0)    # its own __getitem__ refuses
    cdef const char *name = PyCapsule_GetName(capsule)
    address = <intptr_t>PyCapsule_GetPointer(capsule, name)
    return "" if name == NULL else name.decode(), address, <intptr_t>PyCapsule_GetContext(capsule)


def evaluate_moved(intptr_t f, intptr_t data, array x, array index, array value, array out):
    """out[i, k] = f(x with x[index[i]] = value[i, k]), for the C function at address `f`; in C order, checked before.

    x, value and out hold float64, index holds np.intp.
    """
    cdef nnf_moved p
    cdef int answer
    p.f, p.data = <nnf_function>f, <void *>data
    p.x, p.n = <const double *>cnp.PyArray_DATA(x), cnp.PyArray_SIZE(x)
    p.count, p.values = cnp.PyArray_DIM(value, 0), cnp.PyArray_DIM(value, 1)
    p.index, p.value = <const intptr_t *>cnp.PyArray_DATA(index), <const double *>cnp.PyArray_DATA(value)
    p.out = <double *>cnp.PyArray_DATA(out)
    with nogil:
        answer = nnf_evaluate_moved(&p, poll)
    finish(answer)
