# The border of csrc/network.inc.h: a whole network in one call. Included by _kernels.pyx.

def values_of(list parameters not None):
    """`value` of each Parameter. In Python it takes two or three times as long."""
    return [parameter.value for parameter in parameters]


def gradients_of(list parameters not None):
    """`grad` of each Parameter."""
    return [parameter.grad for parameter in parameters]


def are_trainable(list parameters not None):
    """Whether each Parameter is."""
    for parameter in parameters:
        if not parameter.trainable:
            return False
    return True


cdef size_t MOST_KEPT = 1 << 26    # bytes that a network keeps between two calls, for each thread that calls it


cdef class Workspace:
    """What one call needs: the description of the network, and memory that the next call uses again."""

    cdef nnf_stage *stage
    cdef nnf_network c
    cdef nnf_softmax_cross_entropy q
    cdef double total
    cdef char *memory
    cdef size_t size

    def __cinit__(self, intptr_t stages):
        self.memory, self.size = NULL, 0
        self.stage = <nnf_stage *>malloc(stages * sizeof(nnf_stage))
        if self.stage == NULL:
            raise MemoryError("no room for the stages of a network")
        memset(&self.c, 0, sizeof(nnf_network))
        self.c.stages, self.c.stage, self.c.total = stages, self.stage, &self.total

    cdef void *room(self, size_t size) except NULL:
        """At least `size` bytes, aligned to 64."""
        if size > self.size:
            free(self.memory)
            self.size = 0
            self.memory = <char *>malloc(size + 64)
            if self.memory == NULL:
                raise MemoryError(f"no room for the {size} bytes that a network of {self.c.rows} rows needs")
            self.size = size
        return self.memory + (64 - <size_t>self.memory % 64) % 64

    def __dealloc__(self):
        free(self.stage)
        free(self.memory)


cdef class Network:
    """A network of built-in stages, which C runs in one call.

    Parameters
    ----------
    inputs : int
        Columns of x.
    stages : list of (width, has_bias) or (name, alpha)
        From the bottom up: a linear stage of so many outputs, or an activation with its parameter.
    dtype : float32 or float64

    It keeps the buffers of its calls for the next one. Several threads may call it at once.
    """

    cdef readonly intptr_t inputs, outputs
    cdef readonly tuple stages
    cdef readonly bint differences    # whether it is small enough for them
    cdef int typenum
    cdef bytes kinds        # of each stage: how many arrays it has, 0 for an activation
    cdef intptr_t arrays    # of all of them
    cdef double work        # elementary operations per row
    cdef Workspace plain    # with what is the same in each call
    cdef list spare         # workspaces that no call uses

    def __cinit__(self, intptr_t inputs, list stages not None, dtype):
        cdef intptr_t i, width = inputs
        cdef nnf_stage *stage
        cdef list kinds = []
        if inputs < 1 or not stages:
            raise ValueError(f"inputs, stages: expected at least one of each, got {inputs} and {got(stages)}")
        self.typenum = np.dtype(dtype).num
        if self.typenum != cnp.NPY_FLOAT32 and self.typenum != cnp.NPY_FLOAT64:
            raise TypeError(f"dtype: expected float32 or float64, got {dtype}")
        self.inputs, self.work, self.spare = inputs, 0, []
        self.plain = Workspace(len(stages))
        memset(self.plain.stage, 0, len(stages) * sizeof(nnf_stage))
        for i in range(len(stages)):
            stage = &self.plain.stage[i]
            first, second = stages[i]
            if isinstance(first, str):
                stage.activation, stage.alpha = as_activation(first), as_number(second, f"stages[{i}], alpha")
                self.work += 60 * width
                kinds.append(0)
            else:
                if first < 1:
                    raise ValueError(f"stages[{i}]: expected at least one output, got {first}")
                self.work += 6.0 * width * first
                width = first
                kinds.append(1 + as_flag(second, f"stages[{i}], has_bias"))
            stage.width = width
        self.outputs, self.stages = width, tuple(stages)
        self.kinds, self.arrays = bytes(kinds), sum(kinds)
        self.differences = self.has_differences(kinds)

    cdef bint has_differences(self, list kinds):
        cdef const nnf_kernels *kernels = isa.kernels[0 if self.typenum == cnp.NPY_FLOAT32 else 1]
        cdef Workspace w = Workspace(len(kinds))
        cdef intptr_t i
        for i in range(len(kinds)):
            w.stage[i] = self.plain.stage[i]
            if kinds[i]:
                w.stage[i].weight = <void *>w.stage    # any: only whether there is one counts
        w.c.rows, w.c.inputs, w.c.threads, w.c.step = 1, self.inputs, 1, 1.0
        return kernels.network_memory(&w.c) > 0

    def forward(self, x, list values not None):
        """Return y (N, outputs) for x (N, inputs); values: of each linear stage the weight, and the bias if any."""
        cdef array rows = self.as_rows(x)
        cdef Workspace w = self.take()
        cdef list kept = self.describe(w, values)
        cdef array y = self.output(w, rows)
        w.c.loss, w.c.step, w.c.doubtful = NNF_NO_LOSS, 0.0, NULL
        if reference is not None:
            y[...] = reference.network_forward(rows, self.stages, kept)[-1]
        else:
            self.run(w)
        self.give_back(w)
        return y

    def takes(self, x):
        """Whether x is an array (N, inputs) of this dtype, N > 0."""
        return (cnp.PyArray_CheckExact(x) and cnp.PyArray_NDIM(<array>x) == 2
                and cnp.PyArray_DIM(<array>x, 1) == self.inputs and cnp.PyArray_DIM(<array>x, 0) > 0
                and cnp.PyArray_TYPE(<array>x) == self.typenum)

    def gradient(self, x, labels, list values not None, list gradients not None, loss, reduction="mean", weight=None,
                 label_smoothing=0.0, ignore_index=None, *, list outputs=None, double step=0.0, doubtful=None,
                 list entries=None):
        """Forward, the loss, backward: overwrite the gradients of weights and biases.

        Parameters
        ----------
        x : array (N, inputs)
        labels : array
            As `softmax_cross_entropy` takes them; for the squared error numbers (N, outputs), or (N,) for one output.
        values : list of arrays
            Of each linear stage the weight (outputs, inputs), and the bias (outputs,) where it has one.
        gradients : list of arrays or None
            Like `values`, overwritten; None: not wanted. They share no memory with anything else.
        loss : {"cross_entropy", "squared_error", "linear"}
            "linear": the gradients of sum(labels * output); the loss that is returned is 0.
        reduction, weight, label_smoothing, ignore_index
            As for `softmax_cross_entropy`; for the squared error "mean" is that over all entries.
        outputs : list of arrays (N, width), optional
            What each stage gives, where that is known.
        step : float
            If not 0, gradients are those of central differences with this step, where C has them in one call: see
            csrc/nnframe.h. None is returned where it has not, and nothing has been written. The reference never has
            them: it samples curves, and cannot say which are straight.
        doubtful : array (N,) of bool, in C order, optional
            With a step, overwritten: rows in which a kink or jump may lie within the step, which the gradients then
            leave out. If not given, there are no gradients where there are such rows.
        entries : list of arrays of np.intp, optional
            Of each gradient the entries that are wanted, flat and ascending; all others are set to 0.

        Returns
        -------
        loss : float
        output : array (N, outputs)
            None where `outputs` were given.
        labels : array
            As they were taken.

        Raises
        ------
        TypeError, ValueError
            Dtypes, shapes or labels that do not fit; nothing has been written.
        """
        if step != 0 and (reference is not None or not self.differences):
            return None
        cdef array rows = self.as_rows(x)
        cdef nnf_loss kind = <nnf_loss>as_choice(loss, "loss", CHANGING)
        cdef bint mean = as_choice(reduction, "reduction", REDUCTIONS)
        if not 0 <= step < float("inf"):
            raise ValueError(f"step: expected a finite number of at least 0, got {step!r}")
        cdef Workspace w = self.take()
        cdef list kept = self.describe(w, values)
        cdef array y = self.output(w, rows)
        cdef array t, weights = None
        cdef double divisor = 1.0
        if kind == NNF_CROSS_ENTROPY:
            w.q.ignored, w.q.smoothing = as_ignored(ignore_index), as_smoothing(label_smoothing)
            t, weights = as_labels(labels, y, w.q.ignored), as_class_weights(weight, y)
            if mean:
                divisor = weight_of_rows(t, weights, w.q.ignored)
            w.q.labels = <const int64_t *>cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 1 else NULL
            w.q.targets = cnp.PyArray_DATA(t) if cnp.PyArray_NDIM(t) == 2 else NULL
            w.q.weights = address(weights)
            w.q.scale = 1.0 / divisor if divisor > 0 else 0.0
            w.c.cross_entropy, w.c.targets = &w.q, NULL
        else:
            t = as_values(labels, y)
            if mean:
                divisor = cnp.PyArray_SIZE(y)
            w.c.cross_entropy, w.c.targets = NULL, cnp.PyArray_DATA(t)
        w.c.scale = 1.0 / divisor if divisor > 0 else 0.0
        w.c.loss, w.c.step = kind, step
        cdef cnp.npy_intp count = w.c.rows
        cdef array rows_in_doubt = None
        if doubtful is not None:
            rows_in_doubt = as_output(doubtful, "doubtful", 1, &count, cnp.NPY_BOOL)
        w.c.doubtful = <uint8_t *>address(rows_in_doubt)
        cdef list known = self.describe_outputs(w, outputs)
        cdef list written = self.describe_gradients(w, gradients, x, values, labels, outputs)
        cdef list chosen = self.describe_entries(w, entries)
        if self.compute(w, rows, t, weights, kept, gradients, y, entries) == NNF_NOT_STRAIGHT:
            self.give_back(w)
            return None
        if reference is None:
            for i in range(self.arrays):
                if written[i] is not gradients[i]:
                    write_back(written[i], gradients[i])
        cdef double value = w.total * w.c.scale if divisor > 0 else float("nan")
        self.give_back(w)
        return value, None if outputs is not None else y, t

    # ---- arguments ----

    cdef array as_rows(self, object x):
        cdef array rows = as_contiguous(as_floats(x, "x", self.typenum))
        if cnp.PyArray_NDIM(rows) != 2 or cnp.PyArray_DIM(rows, 1) != self.inputs:
            raise ValueError(f"x: expected shape (N, {self.inputs}), got {np.shape(rows)}")
        return rows

    cdef Workspace take(self):
        """A workspace that no other call uses."""
        try:
            return self.spare.pop()
        except IndexError:
            return Workspace(len(self.stages))

    cdef int give_back(self, Workspace w) except -1:
        """Keep a workspace for the next call, but not what an unusually large call needed."""
        if w.size <= MOST_KEPT:
            self.spare.append(w)
        return 0

    cdef array output(self, Workspace w, array rows):
        """A new array for the output."""
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = cnp.PyArray_DIM(rows, 0), self.outputs
        cdef array y = fresh(2, shape, self.typenum)
        w.c.rows, w.c.inputs, w.c.x, w.c.y = shape[0], self.inputs, cnp.PyArray_DATA(rows), cnp.PyArray_DATA(y)
        return y

    cdef list describe(self, Workspace w, list values):
        """Set the stages; returns the arrays that C reads, which must live as long."""
        cdef list kept = []
        cdef intptr_t i, at = 0, inputs = self.inputs
        cdef const unsigned char *arrays = self.kinds
        cdef nnf_stage *stage
        cdef array found
        if len(values) != self.arrays:
            raise ValueError(f"values: expected {self.arrays} arrays, got {len(values)}")
        for i in range(len(self.stages)):
            stage = &w.stage[i]
            stage[0] = self.plain.stage[i]
            if arrays[i] > 0:
                found = self.as_weight(values[at], at, stage.width, inputs)
                stage.weight = cnp.PyArray_DATA(found)
                kept.append(found)
            if arrays[i] > 1:
                found = self.as_weight(values[at + 1], at + 1, stage.width, 0)
                stage.bias = cnp.PyArray_DATA(found)
                kept.append(found)
            at += arrays[i]
            inputs = stage.width
        return kept

    cdef list describe_outputs(self, Workspace w, list outputs):
        """Set what the stages give, where it is known; returns the arrays that C reads."""
        cdef list kept = []
        cdef cnp.npy_intp shape[2]
        cdef intptr_t i
        if outputs is None:
            return kept
        if len(outputs) != len(self.stages):
            raise ValueError(f"outputs: expected {len(self.stages)} arrays, got {len(outputs)}")
        shape[0] = w.c.rows
        for i in range(len(self.stages)):
            shape[1] = w.stage[i].width
            found = checked_floats(outputs[i], f"outputs[{i}]", 2, shape, self.typenum)
            w.stage[i].y = address(found)
            kept.append(found)
        return kept

    cdef array as_weight(self, object given, intptr_t i, cnp.npy_intp width, cnp.npy_intp inputs):
        """A weight as C reads it; a bias if inputs is 0."""
        cdef array x = as_contiguous(as_floats(given, "values", self.typenum))
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = width, inputs
        if not has_shape(x, 2 if inputs else 1, shape):
            expected = f"({width}, {inputs})" if inputs else f"({width},)"
            raise ValueError(f"values[{i}]: expected shape {expected}, got {np.shape(x)}")
        return x

    cdef list describe_gradients(self, Workspace w, list gradients, object x, list values, object labels, list outputs):
        """Set where the stages write their gradients; returns the arrays that C writes to."""
        cdef list written = []
        cdef intptr_t i, at = 0, inputs = self.inputs
        cdef const unsigned char *arrays = self.kinds
        cdef nnf_stage *stage
        if len(gradients) != self.arrays:
            raise ValueError(f"gradients: expected {self.arrays} arrays, got {len(gradients)}")
        for i in range(len(self.stages)):
            stage = &w.stage[i]
            if arrays[i] > 0:
                written.append(self.as_gradient(gradients[at], at, stage.width, inputs))
                stage.grad_weight = <void *>address(written[at])
            if arrays[i] > 1:
                written.append(self.as_gradient(gradients[at + 1], at + 1, stage.width, 0))
                stage.grad_bias = <void *>address(written[at + 1])
            at += arrays[i]
            inputs = stage.width
        self.refuse_shared(gradients, values, x, labels, outputs or [])
        return written

    cdef list describe_entries(self, Workspace w, list entries):
        """Set which entries of the gradients are wanted; returns the arrays that C reads."""
        cdef list kept = []
        cdef intptr_t i, at = 0, inputs = self.inputs
        cdef const unsigned char *arrays = self.kinds
        cdef nnf_stage *stage
        cdef array found
        if entries is None:
            return kept
        if len(entries) != self.arrays:
            raise ValueError(f"entries: expected {self.arrays} arrays, got {len(entries)}")
        for i in range(len(self.stages)):
            stage = &w.stage[i]
            if arrays[i] > 0:
                found = as_entries(entries[at], at, stage.width * inputs)
                stage.entry, stage.entries = <const intptr_t *>cnp.PyArray_DATA(found), cnp.PyArray_SIZE(found)
                kept.append(found)
            if arrays[i] > 1:
                found = as_entries(entries[at + 1], at + 1, stage.width)
                stage.bias_entry, stage.bias_entries = (<const intptr_t *>cnp.PyArray_DATA(found),
                                                        cnp.PyArray_SIZE(found))
                kept.append(found)
            at += arrays[i]
            inputs = stage.width
        return kept

    cdef object as_gradient(self, object given, intptr_t i, cnp.npy_intp width, cnp.npy_intp inputs):
        cdef cnp.npy_intp shape[2]
        if given is None:
            return None
        shape[0], shape[1] = width, inputs
        return in_c_order(as_writeable(given, f"gradients[{i}]", 2 if inputs else 1, shape, self.typenum))

    cdef int refuse_shared(self, list gradients, list values, object x, object labels, list outputs) except -1:
        cdef piece few[64]
        cdef piece *pieces = few
        cdef intptr_t i, count = 0, most = 2 * self.arrays + 2 + len(outputs)
        if most > 64:
            pieces = <piece *>malloc(most * sizeof(piece))
            if pieces == NULL:
                raise MemoryError(f"no room for the addresses of {most} arrays")
        try:
            for i in range(self.arrays):
                if gradients[i] is not None:
                    set_piece(&pieces[count], gradients[i], True, 0, i)
                    count += 1
                if cnp.PyArray_Check(values[i]):
                    set_piece(&pieces[count], values[i], False, 1, i)
                    count += 1
            if cnp.PyArray_Check(x):
                set_piece(&pieces[count], x, False, 2, 0)
                count += 1
            if cnp.PyArray_Check(labels):
                set_piece(&pieces[count], labels, False, 3, 0)
                count += 1
            for i in range(len(outputs)):
                if cnp.PyArray_Check(outputs[i]):
                    set_piece(&pieces[count], outputs[i], False, 4, i)
                    count += 1
            return refuse_shared(pieces, count, NETWORK_ARRAYS)
        finally:
            if pieces != few:
                free(pieces)

    # ---- running ----

    cdef int compute(self, Workspace w, array rows, array t, array weights, list values, list gradients,
                     array y, list entries) except -1:
        """Loss and gradients; 0 or NNF_NOT_STRAIGHT."""
        if reference is None:
            return self.run(w)
        return self.by_reference(w, rows, t, weights, values, gradients, y, entries)

    cdef int run(self, Workspace w) except -1:
        cdef const nnf_kernels *kernels = isa.kernels[0 if self.typenum == cnp.NPY_FLOAT32 else 1]
        cdef void *memory
        cdef int answer
        w.c.threads = nnf_get_num_threads()
        memory = w.room(kernels.network_memory(&w.c))
        if self.work * w.c.rows < 16 * KEEP_GIL and w.c.step == 0:
            answer = kernels.network(&w.c, memory, NULL)
        else:
            with nogil:
                answer = kernels.network(&w.c, memory, poll)
        return answer if answer == NNF_NOT_STRAIGHT else finish(answer)

    cdef int by_reference(self, Workspace w, array rows, array t, array weights, list values, list gradients,
                          array y, list entries) except -1:
        outputs = reference.network_forward(rows, self.stages, values)
        y[...] = outputs[-1]
        if w.c.loss == NNF_CROSS_ENTROPY:
            ignored = None if w.q.ignored == NNF_NONE_IGNORED else w.q.ignored
            losses, dy = reference.softmax_cross_entropy(y, t, weights, w.q.smoothing, ignored)
        elif w.c.loss == NNF_LINEAR:
            losses, dy = np.zeros(1), t
        else:
            losses, dy = (y - t).astype(np.float64) ** 2, 2 * (y - t)
        w.total = losses.sum()
        found = reference.network_gradient(rows, self.stages, values, outputs, dy * y.dtype.type(w.c.scale))
        for i, (gradient, own) in enumerate(zip(gradients, found)):
            if gradient is not None:
                gradient[...] = own if entries is None else reference.chosen_entries(own, entries[i])
        return 0


cdef array as_entries(object given, intptr_t i, intptr_t size):
    """Which entries of a gradient of this size are wanted."""
    cdef array found = as_indices(given, f"entries[{i}]")
    cdef const intptr_t *entry = <const intptr_t *>cnp.PyArray_DATA(found)
    cdef intptr_t e, last = -1
    if cnp.PyArray_TYPE(found) != cnp.NPY_INTP or cnp.PyArray_NDIM(found) != 1:
        raise ValueError(f"entries[{i}]: expected {np.dtype(np.intp)} of shape (n,), got {found.dtype} of shape "
                         f"{np.shape(found)}")
    for e in range(cnp.PyArray_SIZE(found)):
        if not last < entry[e] < size:
            raise ValueError(f"entries[{i}]: expected ascending numbers in [0, {size}), got {entry[e]} at position {e}")
        last = entry[e]
    return found


cdef array as_values(object labels, array y):
    """What an output is to be, in its dtype."""
    cdef array t = labels if cnp.PyArray_CheckExact(labels) else as_plain_array(labels, "labels")
    if t.dtype.kind not in "biuf":
        raise TypeError(f"labels: expected real numbers, got {t.dtype}")
    if cnp.PyArray_NDIM(t) == 1 and cnp.PyArray_NDIM(y) == 2 and np.shape(y) == (len(t), 1):  # one output
        t = t[:, None]
    if not cnp.PyArray_SAMESHAPE(t, y):
        raise ValueError(f"labels: expected the shape of the output {np.shape(y)}, got {np.shape(t)}")
    if cnp.PyArray_TYPE(t) != cnp.PyArray_TYPE(y):
        t = t.astype(y.dtype)
    return as_contiguous(as_floats(t, "labels"))


cdef tuple NETWORK_ARRAYS = ("gradients[{}]", "values[{}]", "x", "labels", "outputs[{}]")
