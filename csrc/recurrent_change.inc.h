/* recurrent_change.inc.h - how the states of a recurrent layer change, for a stack of changes of what it is given.
 *
 * Differences travel from step to step, never values: nothing cancels. A row of the stack is a row of a sequence, so
 * that the products with the state's change are those of recurrent.inc.h, S times as many; gates change by the forms of
 * elementwise.inc.h.
 */

#undef changes_t
#undef change_t
#undef SMALL_CHANGE
#define changes_t FN(changes_t)
#define change_t  FN(change_t)

typedef struct {
    sequence_t sequence; /* first: what tasks are given; its rows are S N */
    const nnf_recurrent_change *p;
    T *slopes; /* (T, N, width): of the gates; of an LSTM then those of tanh(c), and tanh(c) itself */
    intptr_t width;
} changes_t;

/* One row of one step. Arguments, gates, state, kept and slopes are those of the layer itself; q, u (of a GRU's last
 * gate), dstate and dkept are changes. */
typedef struct {
    intptr_t units;
    const T *arguments, *gates, *kept, *state_before, *kept_before, *slopes;
    const T *q, *u;
    T *dstate, *dkept;
} change_t;

/* Changes of arguments up to here change sigmoid and tanh by their first three terms, to rounding. */
#define SMALL_CHANGE ((T)(NNF_DOUBLE ? 0x1p-18 : 0x1p-9))

/* How a gate changes whose argument x moves by d; value and slope are those at x. */
NNF_INLINE V FN(sigmoid_change)(int small, V x, V slope, V value, V d) {
    if (!small) return FN(sigmoid_difference)(x, d);
    return slope * d * (v_set1(1) + d * (v_set1((T)0.5) - value + d * (v_set1((T)(1.0 / 6)) - slope)));
}
NNF_INLINE V FN(tanh_change)(int small, V x, V slope, V value, V d) {
    if (!small) return FN(difference_of)(NNF_TANH, 0, x, value, d);
    return slope * d * (v_set1(1) + d * (d * (v_set1((T)(2.0 / 3)) - slope) - value));
}

NNF_INLINE V FN(sigmoid_at)(int small, const change_t *c, intptr_t at, intptr_t n) {
    return FN(sigmoid_change)(small, FN(load_part)(c->arguments + at, n), FN(load_part)(c->slopes + at, n),
                              FN(load_part)(c->gates + at, n), FN(load_part)(c->q + at, n));
}

NNF_INLINE void FN(change_part)(nnf_cell cell, int small, const change_t *c, intptr_t j, intptr_t n) {
    const intptr_t H = c->units;
    V change = v_set1(0);
    switch (cell) {
    case NNF_RNN_TANH: {
        const V x = FN(load_part)(c->arguments + j, n);
        change = FN(tanh_change)(small, x, FN(load_part)(c->slopes + j, n), FN(load_part)(c->kept + j, n),
                                 FN(load_part)(c->q + j, n));
        break;
    }
    case NNF_RNN_RELU: {
        const V x = FN(load_part)(c->arguments + j, n);
        change = FN(difference_of)(NNF_RELU, 0, x, x, FN(load_part)(c->q + j, n));
        break;
    }
    case NNF_LSTM: {
        const V i = FN(load_part)(c->gates + j, n), f = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), o = FN(load_part)(c->gates + 3 * H + j, n);
        const V di = FN(sigmoid_at)(small, c, j, n), df = FN(sigmoid_at)(small, c, H + j, n);
        const V dg = FN(tanh_change)(small, FN(load_part)(c->arguments + 2 * H + j, n),
                                     FN(load_part)(c->slopes + 2 * H + j, n), g, FN(load_part)(c->q + 2 * H + j, n));
        const V dout = FN(sigmoid_at)(small, c, 3 * H + j, n);
        const V was = FN(load_part)(c->dkept + j, n), kept = FN(load_part)(c->kept + j, n);
        const V dkept = df * (FN(before)(c->kept_before, j, n) + was) + f * was + di * (g + dg) + i * dg;
        const V value = FN(load_part)(c->slopes + 5 * H + j, n);
        const V moved = FN(tanh_change)(small, kept, FN(load_part)(c->slopes + 4 * H + j, n), value, dkept);
        FN(store_part)(c->dkept + j, dkept, n);
        change = dout * (value + moved) + o * moved;
        break;
    }
    case NNF_GRU: {
        const V r = FN(load_part)(c->gates + j, n), z = FN(load_part)(c->gates + H + j, n);
        const V g = FN(load_part)(c->gates + 2 * H + j, n), kept = FN(load_part)(c->kept + j, n);
        const V dr = FN(sigmoid_at)(small, c, j, n), dz = FN(sigmoid_at)(small, c, H + j, n);
        const V dkept = FN(load_part)(c->q + 2 * H + j, n);
        const V into = FN(load_part)(c->u + j, n) + dr * (kept + dkept) + r * dkept;
        const V dg = FN(tanh_change)(small, FN(load_part)(c->arguments + 2 * H + j, n),
                                     FN(load_part)(c->slopes + 2 * H + j, n), g, into);
        const V was = FN(load_part)(c->dstate + j, n), rest = FN(before)(c->state_before, j, n) - g;
        change = dg + dz * (rest + (was - dg)) + z * (was - dg);
        break;
    }
    }
    FN(store_part)(c->dstate + j, change, n);
}

#define NNF_CELL(id, small)                                                                                            \
    static void FN(change_##id##_##small)(const change_t *c) {                                                         \
        intptr_t j = 0;                                                                                                \
        for (; j + LANES <= c->units; j += LANES)                                                                      \
            FN(change_part)(id, small, c, j, LANES);                                                                   \
        if (j < c->units) FN(change_part)(id, small, c, j, c->units - j);                                              \
    }
NNF_CELL(NNF_RNN_TANH, 0)
NNF_CELL(NNF_RNN_TANH, 1)
NNF_CELL(NNF_RNN_RELU, 0)
NNF_CELL(NNF_LSTM, 0)
NNF_CELL(NNF_LSTM, 1)
NNF_CELL(NNF_GRU, 0)
NNF_CELL(NNF_GRU, 1)
#undef NNF_CELL

static T FN(largest_change)(const T *d, intptr_t n) {
    V most = v_set1(0);
    T lanes[LANES], largest = 0;
    for (intptr_t j = 0; j < n; j += LANES) {
        const V size = FN(vector_absolute)(FN(load_part)(d + j, n - j));
        most = v_select(size > most, size, most);
    }
    v_store(lanes, most);
    for (intptr_t j = 0; j < LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}

/* Whether no argument of a row's activations moves by more than SMALL_CHANGE. */
static int FN(is_small_change)(nnf_cell cell, intptr_t gates, const change_t *c) {
    const intptr_t H = c->units;
    const T q = FN(largest_change)(c->q, gates * H);
    T most = q;
    if (cell == NNF_LSTM) { /* |dc| <= |df| (|c| + |dc|) + |dc| + |di| + |di dg| + |dg| */
        const T was = FN(largest_change)(c->dkept, H),
                kept = c->kept_before ? FN(largest_change)(c->kept_before, H) : 0;
        most = was + q * (kept + was + 3);
    } else if (cell == NNF_GRU) /* |du| + |dr| (|q| + |dq|) + |dq| */
        most = FN(largest_change)(c->u, H) + q * (FN(largest_change)(c->kept, H) + q + 1);
    return q <= SMALL_CHANGE && most <= SMALL_CHANGE;
}

static void FN(change_cell)(nnf_cell cell, intptr_t gates, const change_t *c) {
    const int small = FN(is_small_change)(cell, gates, c);
    switch (cell) {
    case NNF_RNN_TANH:
        small ? FN(change_NNF_RNN_TANH_1)(c) : FN(change_NNF_RNN_TANH_0)(c);
        break;
    case NNF_RNN_RELU:
        FN(change_NNF_RNN_RELU_0)(c);
        break;
    case NNF_LSTM:
        small ? FN(change_NNF_LSTM_1)(c) : FN(change_NNF_LSTM_0)(c);
        break;
    case NNF_GRU:
        small ? FN(change_NNF_GRU_1)(c) : FN(change_NNF_GRU_0)(c);
        break;
    }
}

/* ---- slopes, with all their digits: s(x) s(-x), and 4 s(2x) s(-2x) of tanh ---- */

static void FN(gate_slopes)(int of_tanh, intptr_t n, const T *x, T *to) {
    const V scale = v_set1(of_tanh ? 2 : 1), factor = v_set1(of_tanh ? 4 : 1);
    for (intptr_t j = 0; j < n; j += LANES) {
        const V argument = scale * FN(load_part)(x + j, n - j);
        FN(store_part)(to + j, factor * v_sigmoid(argument) * v_sigmoid(-argument), n - j);
    }
}

/* Those of all rows of a step. */
static void FN(slopes_task)(void *context, intptr_t t) {
    const changes_t *all = context;
    const nnf_recurrent_change *p = all->p;
    const intptr_t H = p->units, G = all->sequence.gates * H;
    const intptr_t logistic = p->cell == NNF_LSTM || p->cell == NNF_GRU ? 2 * H : 0;
    for (intptr_t at = t * p->rows; at < (t + 1) * p->rows; at++) {
        const T *x = (const T *)p->arguments + at * G, *kept = (const T *)p->kept + (p->kept ? at * H : 0);
        T *to = all->slopes + at * all->width;
        FN(gate_slopes)(0, logistic, x, to);
        FN(gate_slopes)(1, H, x + logistic, to + logistic);
        if (p->cell != NNF_LSTM) continue;
        FN(gate_slopes)(0, H, x + 3 * H, to + 3 * H);
        FN(gate_slopes)(1, H, kept, to + 4 * H);
        for (intptr_t j = 0; j < H; j += LANES)
            FN(store_part)(to + 5 * H + j, v_tanh(FN(load_part)(kept + j, H - j)), H - j);
    }
}

/* ---- some rows of the stack through all steps ---- */

/* Adds to the changes of a row's gates what does not come through the state. */
static void FN(add_given)(const nnf_recurrent_change *p, intptr_t gates, intptr_t t, intptr_t row, const T *dstate,
                          T *q, T *u) {
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
        c.slopes = all->slopes + at * all->width;
        c.kept = p->kept ? (const T *)p->kept + at * H : (const T *)p->state + at * H;
        c.state_before = start ? NULL : (const T *)p->state + was * H;
        c.kept_before = start || !p->kept ? NULL : (const T *)p->kept + was * H;
        FN(change_cell)(p->cell, all->sequence.gates, &c);
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
    all.width = p->cell == NNF_LSTM ? 6 * H : p->cell == NNF_RNN_RELU ? 0 : G;
    size_t bytes = (size_t)(p->steps * p->rows * all.width) * sizeof(T) + 1;
    all.slopes = nnf_take(&bytes);
    if (!all.slopes) return NNF_NO_MEMORY;
    if (all.width) nnf_parallel(p->steps, FN(slopes_task), &all);
    const int answer = FN(run_sequence)(&all.sequence, FN(change_rows), G + 3 * H, poll);
    nnf_give(all.slopes, bytes);
    return answer;
}
