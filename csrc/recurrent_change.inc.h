/* recurrent_change.inc.h - how the states of a recurrent layer change, for a stack of changes of what it is given.
 *
 * Differences travel from step to step, never values: nothing cancels. A row of the stack is a row of a sequence, so that
 * the products with the state's change are those of recurrent.inc.h, S times as many; gates change by the forms of
 * elementwise.inc.h.
 */

#undef changes_t
#undef change_t
#define changes_t FN(changes_t)
#define change_t  FN(change_t)

typedef struct {
    sequence_t sequence; /* first: what tasks are given; its rows are S N */
    const nnf_recurrent_change *p;
} changes_t;

/* One row of one step. Arguments, gates, state and kept are those of the layer itself; q, u (of a GRU's last gate), dstate
 * and dkept are changes. */
typedef struct {
    intptr_t units;
    const T *arguments, *gates, *kept, *state_before, *kept_before;
    const T *q, *u;
    T *dstate, *dkept;
} change_t;

NNF_INLINE V FN(tanh_change)(V x, V d) { return FN(difference_of)(NNF_TANH, 0, x, x, d); }

NNF_INLINE void FN(change_part)(nnf_cell cell, const change_t *c, intptr_t j, intptr_t n) {
    const intptr_t H = c->units;
    const V x = FN(load_part)(c->arguments + j, n), d = FN(load_part)(c->q + j, n);
    V change = d;
    switch (cell) {
    case NNF_RNN_TANH:
        change = FN(tanh_change)(x, d);
        break;
    case NNF_RNN_RELU:
        change = FN(difference_of)(NNF_RELU, 0, x, x, d);
        break;
    case NNF_LSTM: {
        const V i = FN(load_part)(c->gates + j, n), f = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), o = FN(load_part)(c->gates + 3 * H + j, n);
        const V di = FN(sigmoid_difference)(x, d);
        const V df = FN(sigmoid_difference)(FN(load_part)(c->arguments + H + j, n), FN(load_part)(c->q + H + j, n));
        const V dg = FN(tanh_change)(FN(load_part)(c->arguments + 2 * H + j, n), FN(load_part)(c->q + 2 * H + j, n));
        const V dout =
            FN(sigmoid_difference)(FN(load_part)(c->arguments + 3 * H + j, n), FN(load_part)(c->q + 3 * H + j, n));
        const V was = FN(load_part)(c->dkept + j, n), kept = FN(load_part)(c->kept + j, n);
        const V dkept = df * (FN(before)(c->kept_before, j, n) + was) + f * was + di * (g + dg) + i * dg;
        const V moved = FN(tanh_change)(kept, dkept);
        FN(store_part)(c->dkept + j, dkept, n);
        change = dout * (v_tanh(kept) + moved) + o * moved;
        break;
    }
    case NNF_GRU: {
        const V r = FN(load_part)(c->gates + j, n), z = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), kept = FN(load_part)(c->kept + j, n);
        const V dr = FN(sigmoid_difference)(x, d), dkept = FN(load_part)(c->q + 2 * H + j, n);
        const V dz = FN(sigmoid_difference)(FN(load_part)(c->arguments + H + j, n), FN(load_part)(c->q + H + j, n));
        const V into = FN(load_part)(c->u + j, n) + dr * (kept + dkept) + r * dkept;
        const V dg = FN(tanh_change)(FN(load_part)(c->arguments + 2 * H + j, n), into);
        const V was = FN(load_part)(c->dstate + j, n), rest = FN(before)(c->state_before, j, n) - g;
        change = dg + dz * (rest + (was - dg)) + z * (was - dg);
        break;
    }
    }
    FN(store_part)(c->dstate + j, change, n);
}

#define NNF_CELL(id)                                                                                                   \
    static void FN(change_##id)(const change_t *c) {                                                                   \
        intptr_t j = 0;                                                                                                \
        for (; j + LANES <= c->units; j += LANES)                                                                      \
            FN(change_part)(id, c, j, LANES);                                                                          \
        if (j < c->units) FN(change_part)(id, c, j, c->units - j);                                                     \
    }
NNF_CELL(NNF_RNN_TANH)
NNF_CELL(NNF_RNN_RELU)
NNF_CELL(NNF_LSTM)
NNF_CELL(NNF_GRU)
#undef NNF_CELL

/* Adds to the changes of a row's gates what does not come through the state. */
static void FN(add_given)(const nnf_recurrent_change *p, intptr_t gates, intptr_t t, intptr_t row, const T *dstate, T *q,
                          T *u) {
    const intptr_t H = p->units, G = gates * H, s = row / p->rows, own = p->cell == NNF_GRU ? 2 * H : G;
    memset(u, 0, (size_t)H * sizeof(T));
    if (p->du) {
        const T *du = (const T *)p->du + (t * p->stack * p->rows + row) * G;
        for (intptr_t j = 0; j < own; j++)
            q[j] += du[j];
        for (intptr_t j = own; j < G; j++)
            u[j - own] = du[j];
        return;
    }
    const intptr_t at = p->at[s], from = p->from ? p->from[s] : -1;
    T moved = ((const T *)p->drive)[t * p->stack * p->rows + row];
    if (from >= 0) moved += (T)p->step * dstate[from];
    if (at < own || p->recurrent)
        q[at] += moved;
    else
        u[at - own] = moved;
}

static void FN(change_step)(const changes_t *all, intptr_t t, intptr_t before, intptr_t first, intptr_t last, T *q) {
    const nnf_recurrent_change *p = all->p;
    const intptr_t H = p->units, G = all->sequence.gates * H, rows = last - first;
    const int start = before < 0 || before >= p->steps;
    T *dstate = q + rows * G, *dkept = dstate + rows * H, *u = dkept + rows * H;
    if (start)
        memset(q, 0, (size_t)(rows * G) * sizeof(T));
    else
        FN(step_product)(&all->sequence, rows, dstate, q);
    for (intptr_t i = 0; i < rows; i++) {
        const intptr_t n = (first + i) % p->rows, at = t * p->rows + n, was = before * p->rows + n;
        T *y = p->y ? (T *)p->y + (first + i) * p->y_row + t * p->y_step : NULL;
        change_t c = {.units = H, .q = q + i * G, .u = u + i * H, .dstate = dstate + i * H, .dkept = dkept + i * H};
        if (p->mask && !p->mask[at]) {
            if (y) memset(y, 0, (size_t)H * sizeof(T));
            continue;
        }
        FN(add_given)(p, all->sequence.gates, t, first + i, c.dstate, q + i * G, u + i * H);
        c.arguments = (const T *)p->arguments + at * G, c.gates = (const T *)p->gates + at * G;
        c.kept = p->kept ? (const T *)p->kept + at * H : NULL;
        c.state_before = start ? NULL : (const T *)p->state + was * H;
        c.kept_before = start || !p->kept ? NULL : (const T *)p->kept + was * H;
        switch (p->cell) {
        case NNF_RNN_TANH:
            FN(change_NNF_RNN_TANH)(&c);
            break;
        case NNF_RNN_RELU:
            FN(change_NNF_RNN_RELU)(&c);
            break;
        case NNF_LSTM:
            FN(change_NNF_LSTM)(&c);
            break;
        case NNF_GRU:
            FN(change_NNF_GRU)(&c);
            break;
        }
        if (y) memcpy(y, c.dstate, (size_t)H * sizeof(T));
    }
}

static void FN(change_rows)(void *context, intptr_t task) {
    const changes_t *all = context;
    const nnf_recurrent_change *p = all->p;
    const intptr_t H = p->units, G = all->sequence.gates * H, count = p->stack * p->rows;
    const intptr_t first = task * all->sequence.rows_a_task, end = first + all->sequence.rows_a_task;
    const intptr_t last = end < count ? end : count;
    T *q = all->sequence.rows + first * (G + 3 * H), *dstate = q + (last - first) * G;
    memset(dstate, 0, (size_t)((last - first) * 2 * H) * sizeof(T));
    for (intptr_t i = 0; i < p->steps && !nnf_should_stop(); i++) {
        const intptr_t t = p->reverse ? p->steps - 1 - i : i;
        FN(change_step)(all, t, p->reverse ? t + 1 : t - 1, first, last, q);
    }
    if (p->last) memcpy((T *)p->last + first * H, dstate, (size_t)((last - first) * H) * sizeof(T));
}

static int FN(recurrent_change)(const nnf_recurrent_change *p, int (*poll)(void)) {
    const intptr_t gates = FN(gates_of)(p->cell), H = p->units, G = gates * H;
    const nnf_recurrent sizes = {.cell = p->cell, .steps = p->steps, .rows = p->stack * p->rows, .units = H};
    changes_t all = {.sequence = {.p = &sizes, .gates = gates}, .p = p};
    all.sequence.product = (nnf_matmul){.batch = 1,
                                        .n = G,
                                        .k = H,
                                        .a_row = H,
                                        .a_col = 1,
                                        .b = p->weight,
                                        .b_row = 1,
                                        .b_col = H,
                                        .c_row = G,
                                        .activation = NNF_IDENTITY};
    return FN(run_sequence)(&all.sequence, FN(change_rows), G + 3 * H, poll);
}
