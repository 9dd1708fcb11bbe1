/* recurrent.inc.h - recurrent layers over whole sequences: RNN, LSTM, GRU, forward and backward.
 *
 * The products of the inputs are taken before, for all steps at once; what is left is a product with the state per
 * step, q = W h + b, and a cell that reads its gates once and writes them once. Rows do not depend on each other: a
 * task is some rows through all steps, so that threads never wait for each other, and the weight is packed once for all
 * of them. Sums run in the order of matmul_tile.inc.h, whatever the number of rows: the same bits for any number of
 * threads.
 */

#undef sequence_t
#undef steps_t
#define sequence_t FN(sequence_t)
#define steps_t    FN(steps_t)

typedef struct {
    const nnf_recurrent *p;
    intptr_t gates;     /* per unit */
    nnf_matmul product; /* of some rows of one step */
    intptr_t block_k;   /* of it, */
    T *panels;          /* and the weight as its tiles read it */
    T *rows;            /* for each row: q, or the gradients of the state and of the cell */
    intptr_t rows_a_task;
} sequence_t;

NNF_INLINE intptr_t FN(gates_of)(nnf_cell cell) { return cell == NNF_LSTM ? 4 : cell == NNF_GRU ? 3 : 1; }

/* ---- the product of each step ---- */

static size_t FN(panels_size)(const nnf_matmul *p) {
    return (size_t)p->k * (size_t)((p->n + PANEL - 1) / PANEL * PANEL);
}

static void FN(pack_weight)(const sequence_t *s) {
    const nnf_matmul *p = &s->product;
    T *to = s->panels;
    for (intptr_t i = 0; i < p->k; i += s->block_k) {
        const intptr_t k = p->k - i < s->block_k ? p->k - i : s->block_k;
        for (intptr_t j = 0; j < p->n; j += PANEL, to += k * PANEL)
            FN(pack_panel)(k, p->n - j < PANEL ? p->n - j : PANEL, (const T *)p->b + i * p->b_row + j * p->b_col,
                           p->b_row, p->b_col, to);
    }
}

/* c (rows, n) = or += a (rows, k) times the weight. */
static void FN(step_product)(const sequence_t *s, intptr_t rows, const T *a, T *c) {
    nnf_matmul p = s->product;
    p.m = rows;
    block_t block = {.p = &p, .panels = s->panels, .packed = s->panels, .n = p.n, .panel_row = PANEL};
    for (; block.first_k < p.k; block.first_k += block.k) {
        block.k = p.k - block.first_k < s->block_k ? p.k - block.first_k : s->block_k;
        block.panel = block.k * PANEL;
        FN(multiply_rows)(&block, rows, a + block.first_k, NULL, c);
        block.panels += (p.n + PANEL - 1) / PANEL * block.panel;
        block.packed = (T *)block.panels;
    }
}

/* ---- cells, forward: one row of one step ---- */

NNF_INLINE V FN(load_part)(const T *p, intptr_t n) { return n >= LANES ? v_load(p) : v_load_n(p, n); }
NNF_INLINE void FN(store_part)(T *p, V a, intptr_t n) {
    if (n >= LANES)
        v_store(p, a);
    else
        v_store_n(p, a, n);
}

/* What a cell reads and writes, in one row of one step; arrays of gates have those of all units side by side. */
typedef struct {
    intptr_t units;
    T *gates, *state, *kept; /* forward writes, backward reads */
    const T *q;
    const T *state_before, *kept_before; /* NULL at the first step */
    const T *dy;                         /* NULL: 0 */
    T *dgates, *drecurrent, *dstate, *dkept;
} steps_t;

NNF_INLINE V FN(before)(const T *p, intptr_t j, intptr_t n) { return p ? FN(load_part)(p + j, n) : v_set1(0); }

NNF_INLINE void FN(forward_part)(nnf_cell cell, const steps_t *c, intptr_t j, intptr_t n) {
    const intptr_t H = c->units;
    T *gates = c->gates + j;
    const V first = FN(load_part)(gates, n) + FN(load_part)(c->q + j, n);
    V state = first;
    switch (cell) {
    case NNF_RNN_TANH:
        state = v_tanh(first);
        break;
    case NNF_RNN_RELU:
        state = v_select(first < v_set1(0), v_set1(0), first);
        break;
    case NNF_LSTM: {
        const V i = v_sigmoid(first);
        const V f = v_sigmoid(FN(load_part)(gates + H, n) + FN(load_part)(c->q + H + j, n));
        const V g = v_tanh(FN(load_part)(gates + 2 * H, n) + FN(load_part)(c->q + 2 * H + j, n));
        const V o = v_sigmoid(FN(load_part)(gates + 3 * H, n) + FN(load_part)(c->q + 3 * H + j, n));
        const V kept = f * FN(before)(c->kept_before, j, n) + i * g;
        FN(store_part)(gates, i, n), FN(store_part)(gates + H, f, n);
        FN(store_part)(gates + 2 * H, g, n), FN(store_part)(gates + 3 * H, o, n);
        FN(store_part)(c->kept + j, kept, n);
        state = o * v_tanh(kept);
        break;
    }
    case NNF_GRU: {
        const V kept = FN(load_part)(c->q + 2 * H + j, n), r = v_sigmoid(first);
        const V z = v_sigmoid(FN(load_part)(gates + H, n) + FN(load_part)(c->q + H + j, n));
        const V g = v_tanh(FN(load_part)(gates + 2 * H, n) + r * kept);
        FN(store_part)(gates, r, n), FN(store_part)(gates + H, z, n), FN(store_part)(gates + 2 * H, g, n);
        FN(store_part)(c->kept + j, kept, n);
        state = g + z * (FN(before)(c->state_before, j, n) - g);
        break;
    }
    }
    FN(store_part)(c->state + j, state, n);
}

/* ---- cells, backward ---- */

/* dstate holds the gradient of the state that comes from later steps; it is overwritten by that of the state before,
 * but for what the product adds. dkept is that of the LSTM's cell, likewise. */
NNF_INLINE void FN(backward_part)(nnf_cell cell, const steps_t *c, intptr_t j, intptr_t n) {
    const intptr_t H = c->units;
    const V one = v_set1(1);
    const V dh = FN(load_part)(c->dstate + j, n) + FN(before)(c->dy, j, n), state = FN(load_part)(c->state + j, n);
    V below = v_set1(0);
    switch (cell) {
    case NNF_RNN_TANH:
        FN(store_part)(c->dgates + j, dh * (one - state * state), n);
        break;
    case NNF_RNN_RELU:
        FN(store_part)(c->dgates + j, v_select(state > v_set1(0), dh, v_select(state != state, state, v_set1(0))), n);
        break;
    case NNF_LSTM: {
        const V i = FN(load_part)(c->gates + j, n), f = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), o = FN(load_part)(c->gates + 3 * H + j, n);
        const V kept = v_tanh(FN(load_part)(c->kept + j, n));
        const V dc = FN(load_part)(c->dkept + j, n) + dh * o * (one - kept * kept);
        FN(store_part)(c->dgates + j, dc * g * i * (one - i), n);
        FN(store_part)(c->dgates + H + j, dc * FN(before)(c->kept_before, j, n) * f * (one - f), n);
        FN(store_part)(c->dgates + 2 * H + j, dc * i * (one - g * g), n);
        FN(store_part)(c->dgates + 3 * H + j, dh * kept * o * (one - o), n);
        FN(store_part)(c->dkept + j, dc * f, n);
        break;
    }
    case NNF_GRU: {
        const V r = FN(load_part)(c->gates + j, n), z = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), kept = FN(load_part)(c->kept + j, n);
        const V dg = dh * (one - z) * (one - g * g), dr = dg * kept * r * (one - r);
        const V dz = dh * (FN(before)(c->state_before, j, n) - g) * z * (one - z);
        FN(store_part)(c->dgates + j, dr, n), FN(store_part)(c->drecurrent + j, dr, n);
        FN(store_part)(c->dgates + H + j, dz, n), FN(store_part)(c->drecurrent + H + j, dz, n);
        FN(store_part)(c->dgates + 2 * H + j, dg, n), FN(store_part)(c->drecurrent + 2 * H + j, dg * r, n);
        below = dh * z;
        break;
    }
    }
    FN(store_part)(c->dstate + j, below, n);
}

#define NNF_CELL(id, way)                                                                                              \
    static void FN(way##_##id)(const steps_t *c) {                                                                     \
        intptr_t j = 0;                                                                                                \
        for (; j + LANES <= c->units; j += LANES)                                                                      \
            FN(way##_part)(id, c, j, LANES);                                                                           \
        if (j < c->units) FN(way##_part)(id, c, j, c->units - j);                                                      \
    }
NNF_CELL(NNF_RNN_TANH, forward)
NNF_CELL(NNF_RNN_RELU, forward)
NNF_CELL(NNF_LSTM, forward)
NNF_CELL(NNF_GRU, forward)
NNF_CELL(NNF_RNN_TANH, backward)
NNF_CELL(NNF_RNN_RELU, backward)
NNF_CELL(NNF_LSTM, backward)
NNF_CELL(NNF_GRU, backward)
#undef NNF_CELL

/* ---- some rows through all steps ---- */

/* What row n of step t reads and writes; `before` is the step before it, in the order of time of this direction. */
NNF_INLINE steps_t FN(cell_at)(const sequence_t *s, intptr_t t, intptr_t before, intptr_t n) {
    const nnf_recurrent *p = s->p;
    const intptr_t H = p->units, G = s->gates * H, at = t * p->rows + n, was = before * p->rows + n;
    const int first = before < 0 || before >= p->steps;
    steps_t c = {.units = H, .gates = (T *)p->gates + at * G, .state = (T *)p->state + at * H};
    if (p->kept) c.kept = (T *)p->kept + at * H;
    if (!first) c.state_before = (const T *)p->state + was * H;
    if (!first && p->kept) c.kept_before = (const T *)p->kept + was * H;
    return c;
}

/* A step that is passed over: the state stays what it was. */
static void FN(pass_over)(const nnf_recurrent *p, const steps_t *c) {
    const size_t size = (size_t)p->units * sizeof(T);
    if (c->state_before)
        memcpy(c->state, c->state_before, size);
    else
        memset(c->state, 0, size);
    if (!p->kept) return;
    if (c->kept_before)
        memcpy(c->kept, c->kept_before, size);
    else
        memset(c->kept, 0, size);
}

static void FN(forward_step)(const sequence_t *s, intptr_t t, intptr_t before, intptr_t first, intptr_t last) {
    const nnf_recurrent *p = s->p;
    const intptr_t H = p->units, G = s->gates * H;
    T *q = s->rows + first * G;
    if (before >= 0 && before < p->steps)
        FN(step_product)(s, last - first, (const T *)p->state + (before * p->rows + first) * H, q);
    else
        for (intptr_t n = first; n < last; n++)
            for (intptr_t j = 0; j < G; j++)
                q[(n - first) * G + j] = p->bias ? ((const T *)p->bias)[j] : 0;
    for (intptr_t n = first; n < last; n++, q += G) {
        steps_t c = FN(cell_at)(s, t, before, n);
        const int passed = p->mask && !p->mask[t * p->rows + n];
        T *y = p->y ? (T *)p->y + n * p->y_row + t * p->y_step : NULL;
        c.q = q;
        if (passed)
            FN(pass_over)(p, &c);
        else
            switch (p->cell) {
            case NNF_RNN_TANH:
                FN(forward_NNF_RNN_TANH)(&c);
                break;
            case NNF_RNN_RELU:
                FN(forward_NNF_RNN_RELU)(&c);
                break;
            case NNF_LSTM:
                FN(forward_NNF_LSTM)(&c);
                break;
            case NNF_GRU:
                FN(forward_NNF_GRU)(&c);
                break;
            }
        if (y && passed)
            memset(y, 0, (size_t)H * sizeof(T));
        else if (y)
            memcpy(y, c.state, (size_t)H * sizeof(T));
    }
}

static void FN(backward_step)(const sequence_t *s, intptr_t t, intptr_t before, intptr_t first, intptr_t last) {
    const nnf_recurrent *p = s->p;
    const intptr_t H = p->units, G = s->gates * H;
    T *dstate = s->rows + first * 2 * H, *dkept = dstate + (last - first) * H;
    for (intptr_t n = first; n < last; n++) {
        const intptr_t at = (t * p->rows + n) * G;
        steps_t c = FN(cell_at)(s, t, before, n);
        c.dstate = dstate + (n - first) * H, c.dkept = dkept + (n - first) * H;
        c.dgates = (T *)p->dgates + at, c.drecurrent = p->drecurrent ? (T *)p->drecurrent + at : NULL;
        c.dy = p->dy ? (const T *)p->dy + n * p->dy_row + t * p->dy_step : NULL;
        if (p->mask && !p->mask[t * p->rows + n]) {
            memset(c.dgates, 0, (size_t)G * sizeof(T));
            if (c.drecurrent) memset(c.drecurrent, 0, (size_t)G * sizeof(T));
            continue;
        }
        switch (p->cell) {
        case NNF_RNN_TANH:
            FN(backward_NNF_RNN_TANH)(&c);
            break;
        case NNF_RNN_RELU:
            FN(backward_NNF_RNN_RELU)(&c);
            break;
        case NNF_LSTM:
            FN(backward_NNF_LSTM)(&c);
            break;
        case NNF_GRU:
            FN(backward_NNF_GRU)(&c);
            break;
        }
    }
    if (before < 0 || before >= p->steps) return;
    const T *dq = (const T *)(p->drecurrent ? p->drecurrent : p->dgates) + (t * p->rows + first) * G;
    FN(step_product)(s, last - first, dq, dstate);
}

static void FN(forward_rows)(void *context, intptr_t task) {
    const sequence_t *s = context;
    const nnf_recurrent *p = s->p;
    const intptr_t first = task * s->rows_a_task, end = first + s->rows_a_task, last = end < p->rows ? end : p->rows;
    for (intptr_t i = 0; i < p->steps && !nnf_should_stop(); i++) {
        const intptr_t t = p->reverse ? p->steps - 1 - i : i;
        FN(forward_step)(s, t, p->reverse ? t + 1 : t - 1, first, last);
    }
}

static void FN(backward_rows)(void *context, intptr_t task) {
    const sequence_t *s = context;
    const nnf_recurrent *p = s->p;
    const intptr_t H = p->units, first = task * s->rows_a_task, end = first + s->rows_a_task;
    const intptr_t last = end < p->rows ? end : p->rows;
    T *dstate = s->rows + first * 2 * H;
    memset(dstate, 0, (size_t)((last - first) * 2 * H) * sizeof(T));
    if (p->dlast)
        for (intptr_t n = first; n < last; n++)
            memcpy(dstate + (n - first) * H, (const T *)p->dlast + n * p->dlast_row, (size_t)H * sizeof(T));
    for (intptr_t i = p->steps - 1; i >= 0 && !nnf_should_stop(); i--) {
        const intptr_t t = p->reverse ? p->steps - 1 - i : i;
        FN(backward_step)(s, t, p->reverse ? t + 1 : t - 1, first, last);
    }
}

/* ---- both ways ---- */

static int FN(run_sequence)(sequence_t *s, nnf_task task, intptr_t numbers_a_row, int (*poll)(void)) {
    const nnf_recurrent *p = s->p;
    const nnf_matmul *product = &s->product;
    const double flops = 2.0 * (double)p->rows * (double)product->k * (double)product->n * (double)p->steps;
    intptr_t tasks = nnf_threads_for(FN(nanoseconds_of)(flops));
    if (p->rows == 0 || p->steps == 0 || p->units == 0) return 0;
    if (tasks < (p->rows + NNF_CELL_ROWS - 1) / NNF_CELL_ROWS) tasks = (p->rows + NNF_CELL_ROWS - 1) / NNF_CELL_ROWS;
    s->rows_a_task = (p->rows + tasks - 1) / tasks;
    s->block_k = FN(block_of_k)(product->k);
    char *memory = malloc((FN(panels_size)(product) + (size_t)(p->rows * numbers_a_row)) * sizeof(T) + 64);
    if (!memory) return NNF_NO_MEMORY;
    s->panels = (T *)(memory + (64 - (uintptr_t)memory % 64) % 64); /* a vector is then in one line of the cache */
    s->rows = s->panels + FN(panels_size)(product);
    FN(pack_weight)(s);
    const int answer = nnf_parallel_polled((p->rows + s->rows_a_task - 1) / s->rows_a_task, task, s, poll);
    free(memory);
    return answer;
}

static int FN(recurrent)(const nnf_recurrent *p, int (*poll)(void)) {
    const intptr_t gates = FN(gates_of)(p->cell), H = p->units, G = gates * H;
    sequence_t s = {.p = p, .gates = gates};
    s.product = (nnf_matmul){.batch = 1,
                             .n = G,
                             .k = H,
                             .a_row = H,
                             .a_col = 1,
                             .b = p->weight,
                             .b_row = 1,
                             .b_col = H,
                             .c_row = G,
                             .bias = p->bias,
                             .activation = NNF_IDENTITY};
    return FN(run_sequence)(&s, FN(forward_rows), G, poll);
}

static int FN(recurrent_backward)(const nnf_recurrent *p, int (*poll)(void)) {
    const intptr_t gates = FN(gates_of)(p->cell), H = p->units, G = gates * H;
    sequence_t s = {.p = p, .gates = gates};
    s.product = (nnf_matmul){.batch = 1,
                             .n = H,
                             .k = G,
                             .a_row = G,
                             .a_col = 1,
                             .b = p->weight,
                             .b_row = H,
                             .b_col = 1,
                             .c_row = H,
                             .add = 1,
                             .activation = NNF_IDENTITY};
    return FN(run_sequence)(&s, FN(backward_rows), 2 * H, poll);
}
