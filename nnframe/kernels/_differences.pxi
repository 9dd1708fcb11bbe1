# The border of csrc/difference.inc.h, csrc/curves.inc.h and csrc/moved.c. Included by _kernels.pyx.

cdef int poll() noexcept nogil:
    """Whether a signal such as Ctrl-C has raised; long loops in C call it now and then."""
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


# ---- what stands above the layer -----------------------------------------------------------------------------

cdef dict LOSSES = {"cross_entropy": <int>NNF_CROSS_ENTROPY, "squared_error": <int>NNF_SQUARED_ERROR}
cdef dict CHANGING = {**LOSSES, "linear": <int>NNF_LINEAR}  # of which the change is known


cdef dict BRANCHING = {"fork": <int>NNF_FORK, "other": <int>NNF_OTHER, "join": <int>NNF_JOIN}


cdef class Above:
    """What stands above a linear layer, as C reads it: built-in layers, a built-in loss.

    Parameters
    ----------
    outputs : int
        Of the linear layer, O.
    stages : list of (weight,), (name, alpha, x, y), ("convolution", ...), ("max", ...) or ("mean", ...)
        From the bottom up: the weight (out, in) of a linear layer, or an activation with its parameter, its input and
        its output, both (N, width). ("measured", bend, slope, reach) is any other elementwise function, of which the
        slope is known, how far each argument may move for it to be straight, and the largest |f''| / 2; such stages
        serve `difference_curves` alone. For `convolution_difference` alone, with a dict as the last entry, of the
        arguments of the kernel: ("convolution", weight, size of x, size of y, dict), ("max", x, index, dict) and
        ("mean", size of x, size of y, dict), sizes being (C, H, W); ("norm", d, a, total or None, weight or None,
        dict) as nnf_norm has them, by_batch, centred and eps being in the dict, and groups as many as a has columns;
        ("factors", array (N or 1, divisor of the width), {}); ("fork", {}), ("other", {}) and ("join", {}).
    loss : {"cross_entropy", "squared_error", "linear"}
    logits, probabilities, targets, residual : array (N, width)
        Of the last stage; only a cross-entropy needs the first three. See csrc/nnframe.h.

    Arrays have the dtype of `residual`.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other.
    """

    cdef nnf_above c
    cdef nnf_stage *stage
    cdef dict given    # the arrays as they came, by name
    cdef list alive    # the arrays as C reads them
    cdef int typenum
    cdef readonly intptr_t rows, outputs
    cdef nnf_convolution *convolutions    # one for each stage, where it is one; the same for pooling
    cdef nnf_pooling *poolings
    cdef nnf_norm *norms
    cdef bint planes    # whether it has such stages
    cdef readonly list stages    # as given, with the checked arrays
    cdef readonly str loss
    cdef readonly object logits, probabilities, targets, residual

    def __cinit__(self, intptr_t outputs, list stages not None, loss, residual, logits=None, probabilities=None,
                  targets=None):
        cdef array found = as_contiguous(as_floats(residual, "residual"))
        cdef cnp.npy_intp shape[2]
        if cnp.PyArray_NDIM(found) != 2:
            raise ValueError(f"residual: expected shape (N, width), got {np.shape(found)}")
        if outputs < 0:
            raise ValueError(f"outputs: expected a number >= 0, got {outputs}")
        self.typenum, self.residual, self.stages = cnp.PyArray_TYPE(found), found, []
        self.given, self.alive = {"residual": residual}, [found]
        self.rows, self.outputs = cnp.PyArray_DIM(found, 0), outputs
        self.c.loss = <nnf_loss>as_choice(loss, "loss", CHANGING)
        self.loss = loss
        self.stage = <nnf_stage *>malloc((len(stages) + 1) * sizeof(nnf_stage))
        self.convolutions = <nnf_convolution *>malloc((len(stages) + 1) * sizeof(nnf_convolution))
        self.poolings = <nnf_pooling *>malloc((len(stages) + 1) * sizeof(nnf_pooling))
        self.norms = <nnf_norm *>malloc((len(stages) + 1) * sizeof(nnf_norm))
        if self.stage == NULL or self.convolutions == NULL or self.poolings == NULL or self.norms == NULL:
            raise MemoryError("no room for the stages of a network")
        shape[0], shape[1] = self.rows, self.add_stages(stages)
        if cnp.PyArray_DIM(found, 1) != shape[1]:
            raise ValueError(f"residual: expected shape {(shape[0], shape[1])} behind the last stage, "
                             f"got {np.shape(found)}")
        must = self.c.loss == NNF_CROSS_ENTROPY
        self.logits = self.checked(logits, "logits", shape, must)
        self.probabilities = self.checked(probabilities, "probabilities", shape, must)
        self.targets = self.checked(targets, "targets", shape, must)
        self.c.rows, self.c.outputs, self.c.first, self.c.units = self.rows, outputs, 0, outputs
        self.c.stages, self.c.stage = len(stages), self.stage
        self.c.logits, self.c.p, self.c.t = address(self.logits), address(self.probabilities), address(self.targets)
        self.c.residual = address(self.residual)

    cdef cnp.npy_intp add_stages(self, list stages) except -1:
        """Check each stage against the width below it; returns the width of the last."""
        cdef cnp.npy_intp shape[2]
        cdef intptr_t i
        cdef array weight
        cdef list kept = []    # widths of the branches that are kept
        shape[0], shape[1] = self.rows, self.outputs
        for i in range(len(stages)):
            described = stages[i]
            memset(&self.stage[i], 0, sizeof(nnf_stage))
            self.stage[i].activation = NNF_IDENTITY
            if isinstance(described, tuple) and isinstance(described[-1], dict):
                self.planes = True
                if described[0] in BRANCHING:
                    self.add_branch(i, described[0], &shape[1], kept)
                elif described[0] == "norm":
                    self.add_norm(i, described, shape[1])
                elif described[0] == "factors":
                    self.add_factors(i, described[1], shape[1])
                else:
                    shape[1] = self.add_planes(i, described, shape[1])
                self.stages.append(described)
                self.stage[i].width = shape[1]
                continue
            if not isinstance(described, tuple) or len(described) not in (1, 4):
                raise TypeError(f"stages[{i}]: expected (weight,) or (name, alpha, x, y), got {got(described)}")
            if len(described) == 1:
                weight = as_contiguous(as_floats(described[0], f"stages[{i}], weight", self.typenum))
                if cnp.PyArray_NDIM(weight) != 2 or cnp.PyArray_DIM(weight, 1) != shape[1]:
                    raise ValueError(f"stages[{i}], weight: expected shape (out, {shape[1]}), got {np.shape(weight)}")
                self.given[f"stages[{i}], weight"] = described[0]
                self.alive.append(weight)
                self.stages.append((weight,))
                self.stage[i].weight, shape[1] = address(weight), cnp.PyArray_DIM(weight, 0)
            else:
                name, alpha = described[0], as_number(described[1], f"stages[{i}], alpha")
                self.stage[i].measured = isinstance(name, str) and name == "measured"
                self.stage[i].activation = NNF_IDENTITY if self.stage[i].measured else as_activation(name)
                self.stage[i].alpha = alpha
                x = self.checked(flat_rows(described[2]), f"stages[{i}], x", shape, True)
                y = self.checked(flat_rows(described[3]), f"stages[{i}], y", shape, True)
                self.stages.append((name, alpha, x, y))
                self.stage[i].x, self.stage[i].y = address(x), address(y)
            self.stage[i].width = shape[1]
        if kept:
            raise ValueError(f"stages: expected a 'join' for each 'fork', got {len(kept)} too few")
        return shape[1]

    cdef int add_branch(self, intptr_t i, str name, cnp.npy_intp *width, list kept) except -1:
        """Check a fork, a change of branches, or a join."""
        self.stage[i].branching = <nnf_branching>BRANCHING[name]
        if name == "fork":
            kept.append(width[0])
            if len(kept) > NNF_MOST_OPEN:
                raise ValueError(f"stages[{i}]: expected at most {NNF_MOST_OPEN} branches in each other")
            return 0
        if not kept:
            raise ValueError(f"stages[{i}]: expected a 'fork' before {name!r}")
        if name == "other":
            kept[-1], width[0] = width[0], kept[-1]
        elif kept.pop() != width[0]:
            raise ValueError(f"stages[{i}]: expected branches of one width")
        return 0

    cdef int add_norm(self, intptr_t i, tuple described, cnp.npy_intp width) except -1:
        """Check a normalisation against the width below it."""
        cdef nnf_norm *p = &self.norms[i]
        cdef cnp.npy_intp shape[2]
        _, d, a, total, weight, options = described
        p.by_batch, p.centred = options["by_batch"], options["centred"]
        p.eps = as_number(options["eps"], f"stages[{i}], eps")
        shape[0], shape[1] = self.rows, width
        p.d = address(self.checked(flat_rows(d), f"stages[{i}], d", shape, True))
        if np.ndim(a) != 2 or np.shape(a)[1] == 0 or width % np.shape(a)[1]:
            raise ValueError(f"stages[{i}], a: expected shape (N, divisor of {width}), got {np.shape(a)}")
        shape[0], shape[1] = 1 if p.by_batch else self.rows, np.shape(a)[1]
        p.group = width // shape[1]
        p.a = address(self.checked(a, f"stages[{i}], a", shape, True))
        p.total = address(self.checked(total, f"stages[{i}], total", shape, p.centred))
        shape[0] = width
        found = None if weight is None else checked_floats(weight, f"stages[{i}], weight", 1, shape, self.typenum)
        self.alive.append(found)
        p.weight, self.stage[i].norm = address(found), p
        return 0

    cdef int add_factors(self, intptr_t i, object factors, cnp.npy_intp width) except -1:
        """Check what entries are multiplied by against the width below them."""
        cdef array found = as_contiguous(as_floats(factors, f"stages[{i}], factors", self.typenum))
        if (cnp.PyArray_NDIM(found) != 2 or cnp.PyArray_DIM(found, 0) not in (1, self.rows)
                or cnp.PyArray_DIM(found, 1) == 0 or width % cnp.PyArray_DIM(found, 1)):
            raise ValueError(f"stages[{i}], factors: expected shape ({self.rows} or 1, divisor of {width}), "
                             f"got {np.shape(found)}")
        self.alive.append(found)
        self.stage[i].factors, self.stage[i].each = address(found), width // cnp.PyArray_DIM(found, 1)
        self.stage[i].factors_row = 0 if cnp.PyArray_DIM(found, 0) == 1 else cnp.PyArray_DIM(found, 1)
        return 0

    cdef cnp.npy_intp add_planes(self, intptr_t i, tuple described, cnp.npy_intp width) except -1:
        """Check a convolution or a pooling against the width below it; returns its own."""
        cdef nnf_convolution *c = &self.convolutions[i]
        cdef nnf_pooling *p = &self.poolings[i]
        cdef array weight, x, index
        name, options = described[0], described[-1]
        if name == "convolution":
            weight = as_planes(described[1], f"stages[{i}], weight", "(O, C, height, width)", self.typenum)
            before, after = np.empty((0, *described[2])), np.empty((0, *described[3]))    # sizes alone
            set_convolution(c, before, weight, after, options["stride"], options["padding"], options["dilation"],
                            options["groups"])
            self.given[f"stages[{i}], weight"] = described[1]
            self.alive.append(weight)
            self.stage[i].convolution = c
        elif name == "max":
            index = as_places(described[2])
            x = as_planes(described[1], f"stages[{i}], x", "(N, C, H, W)", self.typenum)
            set_pooling(p, NNF_MAX, x, index, options["kernel_size"], options["stride"], options["padding"],
                        options["dilation"])
            if np.shape(index)[:2] != np.shape(x)[:2] or cnp.PyArray_DIM(x, 0) != self.rows:
                raise ValueError(f"stages[{i}], index: expected shape {(self.rows, np.shape(x)[1])} and two more axes, "
                                 f"got {np.shape(index)}")
            refuse_far(index, p.in_size[0] * p.in_size[1])
            self.alive += [x, index]
            p.index = <int32_t *>cnp.PyArray_DATA(index)
            before, after = x, index
        elif name == "mean":
            before, after = np.empty((1, *described[1])), np.empty((1, *described[2]))
            set_pooling(p, NNF_MEAN, before, after, options["kernel_size"], options["stride"], options["padding"],
                        (1, 1))
            p.count_padding, p.divisor = options["count_padding"], options["divisor"]
        else:
            raise ValueError(f"stages[{i}]: expected a kind of stage such as 'convolution', got {name!r}")
        if name != "convolution":
            p.planes = before.shape[1]
            self.stage[i].pooling = p
        if np.prod(before.shape[1:]) != width or before.shape[1:2] != after.shape[1:2] and name != "convolution":
            raise ValueError(f"stages[{i}]: expected {width} inputs, got {before.shape[1:]} to {after.shape[1:]}")
        return <cnp.npy_intp>np.prod(after.shape[1:])

    cdef object checked(self, object a, str name, const cnp.npy_intp *shape, bint must):
        """`a` as C reads it, which lives as long as this; or None."""
        if a is None and not must:
            return None
        x = checked_floats(a, name, 2, shape, self.typenum)
        self.given[name] = a
        self.alive.append(x)
        return x

    def __dealloc__(self):
        free(self.stage)
        free(self.convolutions)
        free(self.poolings)
        free(self.norms)

    cdef nnf_above of(self, object units) except *:
        """The same for the outputs in `units`, a range; for all of them if None."""
        cdef nnf_above part = self.c
        if self.planes:
            raise ValueError("above: expected linear layers and activations, got convolutions or pooling")
        if units is not None:
            if not isinstance(units, range) or units.step != 1:
                raise TypeError(f"units: expected a range of step 1 or None, got {got(units)}")
            if len(units) and not (0 <= units.start and units.stop <= self.outputs):
                raise ValueError(f"units: expected a range within 0 and {self.outputs}, got {units}")
            part.first, part.units = units.start if len(units) else 0, len(units)
        return part


cdef object flat_rows(object a):
    """`a` with all axes but the first one as one."""
    if isinstance(a, np.ndarray) and a.ndim > 2:
        return np.ascontiguousarray(a).reshape(len(a), -1) if len(a) else a.reshape(0, int(np.prod(a.shape[1:])))
    return a


cdef array as_places(object a):
    """Indices of `max_pooling`, in C order."""
    cdef array found = np.ascontiguousarray(a)
    if cnp.PyArray_TYPE(found) != cnp.NPY_INT32 or cnp.PyArray_NDIM(found) != 4:
        raise ValueError(f"index: expected int32 with four axes, got {found.dtype} of shape {np.shape(found)}")
    return found


cdef const void *address(object a) noexcept:
    """Of a checked array; NULL for None."""
    return NULL if a is None else cnp.PyArray_DATA(<array>a)


cdef array checked_floats(object a, str name, int ndim, const cnp.npy_intp *shape, int typenum):
    """`a` as C reads it, of this shape."""
    cdef array x = as_contiguous(as_floats(a, name, typenum))
    cdef int i
    if not has_shape(x, ndim, shape):
        raise ValueError(f"{name}: expected shape {tuple(shape[i] for i in range(ndim))}, got {np.shape(x)}")
    return x


cdef object checked_flags(object a, str name, intptr_t rows, intptr_t columns):
    """`a`, bool of shape (rows, columns), in C order; or None."""
    if a is None:
        return None
    cdef array x = np.ascontiguousarray(as_plain_array(a, name))
    if x.dtype != bool or np.shape(x) != (rows, columns):
        raise ValueError(f"{name}: expected an array of bool of shape {(rows, columns)}, got {x.dtype} of shape "
                         f"{np.shape(x)}")
    return x


# ---- the gradient, weight by weight --------------------------------------------------------------------------

def difference_gradient(Above above not None, x, *, step, scale, grad_weight, grad_bias=None, columns=None,
                        wanted=None, counted=None, units=None):
    """The central-difference gradient of a linear layer below built-in layers, in C on all threads.

    Parameters
    ----------
    above : Above
    x : array (N, I)
        The layer's input. Entries that are zero are skipped.
    step, scale : float
        The step in weight; what the sum of losses over rows is multiplied with.
    grad_weight, grad_bias : array (O, I), array (O,) or None
        Overwritten, for the outputs in `units`.
    columns : array (2, O, E), optional
        How output o changes by +step and -step in each of the E entries of x that are not zero (and, with a bias,
        one more at the end of each row), where the first layers above are not among its stages.
    wanted : array (O, I + 1) of bool, optional
        Which entries are selected, the bias last; the others become 0. Not together with columns.
    counted : array (O, N) of bool, optional
        Which rows count, for each output.
    units : range, optional
        Of outputs; all if not given.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, arrays to be written that share memory with others; nothing has
        been written.
    """
    cdef array inputs = as_contiguous(as_floats(x, "x", above.typenum))
    cdef cnp.npy_intp shape[3]
    cdef nnf_difference p
    cdef int answer
    p.above = above.of(units)
    p.step, p.scale = as_number(step, "step"), as_number(scale, "scale")
    if any(len(stage) == 4 and stage[0] == "measured" for stage in above.stages):
        raise ValueError("above: expected no measured stage, of which nothing but straight curves is known")
    if not 0 < p.step < float("inf"):
        raise ValueError(f"step: expected a finite number above 0, got {step!r}")
    if cnp.PyArray_NDIM(inputs) != 2 or cnp.PyArray_DIM(inputs, 0) != above.rows:
        raise ValueError(f"x: expected shape ({above.rows}, in_features), got {np.shape(inputs)}")
    p.inputs = cnp.PyArray_DIM(inputs, 1)
    if p.inputs >= 2**31 - 1:
        raise ValueError(f"x: expected fewer than {2**31 - 1} columns, got {p.inputs}")
    shape[0], shape[1] = above.outputs, p.inputs
    cdef array weight = as_writeable(grad_weight, "grad_weight", 2, shape, above.typenum), bias = None
    if grad_bias is not None:
        bias = as_writeable(grad_bias, "grad_bias", 1, shape, above.typenum)
    if wanted is not None and columns is not None:
        raise ValueError("wanted, columns: expected one of them at most, got both")
    selected = checked_flags(wanted, "wanted", above.outputs, p.inputs + 1)
    counts = checked_flags(counted, "counted", above.outputs, above.rows)
    changes = None
    if columns is not None:
        shape[0], shape[1] = 2, above.outputs
        shape[2] = np.count_nonzero(inputs) + (0 if bias is None else above.rows)
        changes = checked_floats(columns, "columns", 3, shape, above.typenum)
    refuse_shared_arrays({"grad_weight": weight, "grad_bias": bias},
                         {"x": x, "columns": columns, "wanted": wanted, "counted": counted, **above.given})
    if reference is not None:
        reference.difference_gradient(above, inputs, p.step, p.scale, weight, bias, changes, selected, counts,
                                      range(p.above.first, p.above.first + p.above.units))
        return
    cdef array to_weight = in_c_order(weight), to_bias = None if bias is None else in_c_order(bias)
    cdef const nnf_kernels *kernels = kernels_for(inputs)
    p.x, p.columns = address(inputs), address(changes)
    p.wanted, p.counted = <const uint8_t *>address(selected), <const uint8_t *>address(counts)
    p.grad_weight, p.grad_bias = <void *>address(to_weight), <void *>address(to_bias)
    with nogil:
        answer = kernels.difference_gradient(&p, poll)
    finish(answer)
    write_back(to_weight, weight)
    if bias is not None:
        write_back(to_bias, bias)


# ---- the curves of the rows ------------------------------------------------------------------------------------

def difference_curves(Above above not None, distance, *, tolerance, level, bend, doubtful, state, columns=None,
                      chosen=None, units=None):
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
        Overwritten: 1 where a row is doubtful, plus 2 where a bend is not 0; 4 where a stage is measured and the curves
        of the unit are not straight, or a row is doubtful: then nothing else of the unit counts.
    columns : array (O, 6, N), optional
        What each output changes by, in place of +-1, +-0.8 and +-0.5 times `distance`.
    chosen : array (O,) of bool, optional
        Nothing is written for the others.
    units : range, optional
        Of outputs; all if not given.

    Raises
    ------
    TypeError, ValueError
        As `difference_gradient`; arrays to be written that are not in C order.
    """
    cdef cnp.npy_intp shape[3]
    cdef nnf_curves p
    cdef int answer
    p.above, p.tolerance = above.of(units), as_number(tolerance, "tolerance")
    shape[0] = above.rows
    cdef array largest = checked_floats(distance, "distance", 1, shape, above.typenum)
    measured = any(len(stage) == 4 and stage[0] == "measured" for stage in above.stages)
    if measured and columns is not None:
        raise ValueError("columns: expected None where a stage is measured")
    shape[0], shape[1] = above.outputs, above.rows
    cdef array to_level = as_output(must_be_given(level, "level"), "level", 2, shape, above.typenum)
    cdef array to_bend = as_output(must_be_given(bend, "bend"), "bend", 2, shape, above.typenum)
    cdef array to_doubtful = as_output(must_be_given(doubtful, "doubtful"), "doubtful", 2, shape, cnp.NPY_BOOL)
    cdef array to_state = as_output(must_be_given(state, "state"), "state", 1, shape, cnp.NPY_UINT8)
    cdef array some = None if chosen is None else np.ascontiguousarray(as_plain_array(chosen, "chosen"))
    if some is not None and (some.dtype != bool or np.shape(some) != (above.outputs,)):
        raise ValueError(f"chosen: expected an array of bool of shape {(above.outputs,)}, got {some.dtype} of shape "
                         f"{np.shape(some)}")
    changes = None
    if columns is not None:
        shape[1], shape[2] = 6, above.rows
        changes = checked_floats(columns, "columns", 3, shape, above.typenum)
    refuse_shared_arrays({"level": to_level, "bend": to_bend, "doubtful": to_doubtful, "state": to_state},
                         {"distance": distance, "columns": columns, "chosen": chosen, **above.given})
    if reference is not None:
        reference.difference_curves(above, largest, p.tolerance, to_level, to_bend, to_doubtful, to_state, changes,
                                    [o for o in range(p.above.first, p.above.first + p.above.units)
                                     if some is None or chosen[o]])
        return
    cdef const nnf_kernels *kernels = kernels_for(largest)
    p.distance, p.columns, p.chosen = address(largest), address(changes), <const uint8_t *>address(some)
    p.level, p.bend = <void *>address(to_level), <void *>address(to_bend)
    p.doubtful, p.state = <uint8_t *>address(to_doubtful), <uint8_t *>address(to_state)
    with nogil:
        answer = kernels.difference_curves(&p, poll)
    finish(answer)


def selected_products(a, b, entries, out):
    """out[e] = sum over n of a[o, n] b[n, i] for entries[e] = o I + i: some entries of a @ b.

    Parameters
    ----------
    a, b : array (O, N), array (N, I)
    entries : array (E,) of np.intp
        Ascending.
    out : array (E,)

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, an entry outside; nothing has been written.
    """
    cdef array left = as_contiguous(as_floats(a, "a"))
    cdef array indices = np.ascontiguousarray(as_plain_array(entries, "entries"))
    cdef cnp.npy_intp shape[1]
    cdef nnf_selected p
    cdef intptr_t i, all_entries, before = -1
    cdef int typenum = cnp.PyArray_TYPE(left)
    cdef array right = as_contiguous(as_floats(b, "b", typenum))
    if cnp.PyArray_NDIM(left) != 2 or cnp.PyArray_NDIM(right) != 2 or np.shape(left)[1] != np.shape(right)[0]:
        raise ValueError(f"a, b: expected shapes (O, N) and (N, I), got {np.shape(left)} and {np.shape(right)}")
    if indices.dtype != np.intp or cnp.PyArray_NDIM(indices) != 1:
        raise ValueError(f"entries: expected {np.dtype(np.intp)} of shape (E,), got {indices.dtype} of shape "
                         f"{np.shape(indices)}")
    p.count, p.rows, p.inputs = cnp.PyArray_SIZE(indices), cnp.PyArray_DIM(right, 0), cnp.PyArray_DIM(right, 1)
    p.entry, all_entries = <const intptr_t *>cnp.PyArray_DATA(indices), cnp.PyArray_DIM(left, 0) * p.inputs
    for i in range(p.count):
        if not before < p.entry[i] < all_entries:
            raise ValueError(f"entries: expected ascending numbers in [0, {all_entries}), got {p.entry[i]} at "
                             f"position {i}")
        before = p.entry[i]
    shape[0] = p.count
    cdef array to = as_output(must_be_given(out, "out"), "out", 1, shape, typenum)
    refuse_shared_arrays({"out": to}, {"a": a, "b": b, "entries": entries})
    if reference is not None:
        reference.selected_products(left, right, indices, to)
        return
    cdef const nnf_kernels *kernels = kernels_for(left)
    p.a, p.b, p.out = address(left), address(right), <void *>address(to)
    cdef int answer
    with nogil:
        answer = kernels.selected_products(&p)
    finish(answer)


def sparse_product(start, column, value, b):
    """S @ b, where row i of S has value[e] in column[e] for e in [start[i], start[i + 1]).

    Parameters
    ----------
    start : array (rows + 1,) of np.intp
        Ascending, from 0 to E.
    column : array (E,) of np.intp
        Below `inner`, in any order; one that comes more than once in a row is added up.
    value : array (E,)
    b : array (inner, columns)
        Of the dtype of value.

    Returns
    -------
    array (rows, columns)

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, a column outside.
    """
    cdef array right = as_contiguous(as_floats(b, "b"))
    cdef int typenum = cnp.PyArray_TYPE(right)
    cdef array values = as_contiguous(as_floats(value, "value", typenum))
    cdef array starts = as_positions(start, "start"), columns = as_positions(column, "column")
    cdef cnp.npy_intp shape[2]
    cdef nnf_sparse p
    cdef intptr_t i, count = cnp.PyArray_SIZE(columns)
    if cnp.PyArray_NDIM(right) != 2:
        raise ValueError(f"b: expected shape (inner, columns), got {np.shape(right)}")
    if cnp.PyArray_NDIM(values) != 1 or cnp.PyArray_SIZE(values) != count:
        raise ValueError(f"value: expected shape ({count},) like column, got {np.shape(values)}")
    p.rows, p.columns = cnp.PyArray_SIZE(starts) - 1, cnp.PyArray_DIM(right, 1)
    p.start = <const intptr_t *>cnp.PyArray_DATA(starts)
    p.column = <const intptr_t *>cnp.PyArray_DATA(columns)
    if p.rows < 0 or p.start[0] != 0 or p.start[p.rows] != count:
        raise ValueError(f"start: expected ascending numbers from 0 to {count}, got {starts}")
    for i in range(p.rows):
        if p.start[i] > p.start[i + 1]:
            raise ValueError(f"start: expected ascending numbers, got {p.start[i + 1]} after {p.start[i]}")
    for i in range(count):
        if not 0 <= p.column[i] < cnp.PyArray_DIM(right, 0):
            raise ValueError(f"column: expected numbers in [0, {cnp.PyArray_DIM(right, 0)}), got {p.column[i]} at "
                             f"position {i}")
    shape[0], shape[1] = p.rows, p.columns
    cdef array out = fresh(2, shape, typenum)
    if reference is not None:
        out[...] = reference.sparse_product(starts, columns, values, right)
        return out
    cdef const nnf_kernels *kernels = kernels_for(right)
    p.value, p.b, p.out = cnp.PyArray_DATA(values), cnp.PyArray_DATA(right), cnp.PyArray_DATA(out)
    with nogil:
        kernels.sparse_product(&p)
    return out


cdef array as_positions(object a, str name):
    """`a` as an array of np.intp with one axis, in C order."""
    cdef array found = np.ascontiguousarray(as_plain_array(a, name))
    if found.dtype != np.intp or cnp.PyArray_NDIM(found) != 1:
        raise ValueError(f"{name}: expected {np.dtype(np.intp)} with one axis, got {found.dtype} of shape "
                         f"{np.shape(found)}")
    return found


cdef object must_be_given(object a, str name):
    if a is None:
        raise TypeError(f"{name}: expected an array, got None")
    return a


# ---- compiled functions ----------------------------------------------------------------------------------------

def low_level_callable(f):
    """Signature of a `scipy.LowLevelCallable` as text, address of its function, address of its user data."""
    capsule = tuple.__getitem__(f, 0)    # its own __getitem__ refuses
    cdef const char *name = PyCapsule_GetName(capsule)
    address = <intptr_t>PyCapsule_GetPointer(capsule, name)
    return "" if name == NULL else name.decode(), address, <intptr_t>PyCapsule_GetContext(capsule)


def evaluate_moved(intptr_t f, intptr_t data, x, index, value, out):
    """out[i, k] = f(x with x[index[i]] = value[i, k]), for the C function at address `f`.

    Parameters
    ----------
    f, data : int
        Addresses of the function and of its data; the latter may be 0.
    x : array of float64
    index : array (m,) of np.intp
        Into x, flattened.
    value, out : array (m, K) of float64
        out is in C order, and shares no memory with the others.

    Raises
    ------
    TypeError, ValueError
        Dtypes or shapes that do not fit each other, an index outside x, an `f` of 0; nothing has been written.
    """
    cdef array numbers = as_doubles(x, "x")
    cdef array values = as_doubles(value, "value")
    cdef array indices = as_indices(index, "index")
    cdef const cnp.npy_intp *at
    cdef intptr_t i
    cdef nnf_moved p
    cdef int answer
    if f == 0:
        raise ValueError("f: expected the address of a function, got 0")
    if (cnp.PyArray_TYPE(indices) != cnp.NPY_INTP or cnp.PyArray_NDIM(indices) != 1 or cnp.PyArray_NDIM(values) != 2
            or cnp.PyArray_DIM(indices, 0) != cnp.PyArray_DIM(values, 0)):
        raise ValueError(f"index, value: expected {np.dtype(np.intp)} of shape (m,) and float64 of shape (m, K), got "
                         f"{indices.dtype} of shape {np.shape(indices)} and shape {np.shape(values)}")
    p.x, p.n = <const double *>cnp.PyArray_DATA(numbers), cnp.PyArray_SIZE(numbers)
    p.count, p.values = cnp.PyArray_DIM(values, 0), cnp.PyArray_DIM(values, 1)
    at = <const cnp.npy_intp *>cnp.PyArray_DATA(indices)
    for i in range(p.count):
        if not 0 <= at[i] < p.n:
            raise ValueError(f"index: expected numbers in [0, {p.n}), got {at[i]} at position {i}")
    cdef array to = as_output(must_be_given(out, "out"), "out", 2, cnp.PyArray_DIMS(values), cnp.NPY_FLOAT64)
    refuse_overlap(to, "out", x, "x")
    refuse_overlap(to, "out", index, "index")
    refuse_overlap(to, "out", value, "value")
    p.f, p.data = <nnf_function>f, <void *>data
    p.index = <const intptr_t *>at
    p.value, p.out = <const double *>cnp.PyArray_DATA(values), <double *>cnp.PyArray_DATA(to)
    with nogil:
        answer = nnf_evaluate_moved(&p, poll)
    finish(answer)
