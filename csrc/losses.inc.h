/* losses.inc.h - softmax, and cross-entropy with its gradient, row by row.
 *
 * A row is read once from memory: its maximum, then exp(x - max) stored and summed, then scaled, while it is in the
 * cache. With few classes a row would leave most lanes of a vector empty; then LANES rows are transposed in registers
 * and go side by side, one row per lane, labels included. A NaN needs no care: it may slip past the maximum, but not
 * past the sum of the exponentials.
 */

#undef softmax_job_t
#undef row_of_targets_t
#define softmax_job_t    FN(softmax_job_t)
#define row_of_targets_t FN(row_of_targets_t)

typedef struct {
    const nnf_softmax_cross_entropy *p;
    intptr_t rows_a_task;
} softmax_job_t;

/* ---- targets other than plain class indices ---- */

NNF_INLINE int FN(plain_labels)(const nnf_softmax_cross_entropy *p) {
    return !p->targets && !p->weights && p->smoothing == 0;
}

/* The q of one row, as in the contract. */
typedef struct {
    const T *weights, *t;
    int64_t label;
    int ignored;
    T rest, even;
} row_of_targets_t;

static row_of_targets_t FN(targets_of)(const nnf_softmax_cross_entropy *p, intptr_t row) {
    const row_of_targets_t targets = {.weights = p->weights,
                                      .t = p->targets ? (const T *)p->targets + row * p->classes : NULL,
                                      .label = p->labels ? p->labels[row] : 0,
                                      .ignored = p->labels && p->labels[row] == p->ignored,
                                      .rest = (T)(1 - p->smoothing),
                                      .even = (T)(p->smoothing / (double)p->classes)};
    return targets;
}

NNF_INLINE T FN(target)(const row_of_targets_t *targets, intptr_t c) {
    const T share = targets->rest * (targets->t ? targets->t[c] : (T)(c == targets->label)) + targets->even;
    return targets->ignored ? 0 : targets->weights ? targets->weights[c] * share : share;
}

/* Returns sum_c q_c; weighted: sum_c q_c (x_c - shift), where classes of probability 0 count for nothing, even at -inf.
 * Writes q, unless it is NULL. */
NNF_NOINLINE double FN(sums_of_targets)(const row_of_targets_t *targets, intptr_t classes, const T *x, T shift, T *q,
                                        double *weighted) {
    double sum = 0, products = 0;
    for (intptr_t c = 0; c < classes; c++) {
        const T target = FN(target)(targets, c);
        if (q) q[c] = target;
        sum += (double)target;
        if (target != 0) products += (double)target * ((double)x[c] - (double)shift);
    }
    *weighted = products;
    return sum;
}

/* ---- many classes: one row, vectors along it ---- */

static T FN(row_maximum)(const T *x, intptr_t n) {
    enum { AT_ONCE = 4 };
    V most[AT_ONCE];
    T lanes[LANES], largest = -(T)HUGE_VAL;
    intptr_t i = 0;
    NNF_UNROLL for (int j = 0; j < AT_ONCE; j++) most[j] = v_set1(-(T)HUGE_VAL);
    for (; i + AT_ONCE * LANES <= n; i += AT_ONCE * LANES)
        NNF_UNROLL for (int j = 0; j < AT_ONCE; j++) most[j] = v_max(v_load(x + i + j * LANES), most[j]);
    for (; i + LANES <= n; i += LANES)
        most[0] = v_max(v_load(x + i), most[0]);
    v_store(lanes, v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
    for (intptr_t j = 0; j < LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    for (; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* y = exp(x - shift), unless y is NULL; returns the sum, in an order that depends on n alone */
static T FN(row_exp)(const T *x, intptr_t n, T shift, T *y) {
    V even = v_set1(0), odd = v_set1(0);
    T tail[LANES], total = 0;
    intptr_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const V e = v_exp(v_load(x + i) - v_set1(shift)), f = v_exp(v_load(x + i + LANES) - v_set1(shift));
        if (y) v_store(y + i, e), v_store(y + i + LANES, f);
        even = even + e, odd = odd + f;
    }
    for (; i + LANES <= n; i += LANES) {
        const V e = v_exp(v_load(x + i) - v_set1(shift));
        if (y) v_store(y + i, e);
        even = even + e;
    }
    v_store(tail, even + odd);
    for (intptr_t j = 0; j < LANES; j++)
        total += tail[j];
    if (i < n) {
        const V e = v_exp(v_load_n(x + i, n - i) - v_set1(shift));
        if (y) v_store_n(y + i, e, n - i);
        v_store(tail, e);
        for (intptr_t j = 0; j < n - i; j++)
            total += tail[j];
    }
    return total;
}

static void FN(row_scale)(T *y, intptr_t n, T factor) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, v_load(y + i) * v_set1(factor));
    for (; i < n; i++)
        y[i] *= factor;
}

static void FN(one_wide_row)(const nnf_softmax_cross_entropy *p, intptr_t row) {
    const intptr_t n = p->classes;
    const T *x = (const T *)p->logits + row * p->logits_row;
    const int plain = FN(plain_labels)(p), counts = !p->labels || p->labels[row] != p->ignored;
    const int64_t label = plain && p->labels && counts ? p->labels[row] : -1;
    const row_of_targets_t targets = FN(targets_of)(p, row);
    T *y = p->grad ? (T *)p->grad + row * n : NULL;
    const T shift = FN(row_maximum)(x, n);
    double total = counts, labelled = 0; /* before y overwrites x */
    if (!plain)
        total = FN(sums_of_targets)(&targets, n, x, shift, NULL, &labelled);
    else if (label >= 0)
        labelled = (double)x[label] - (double)shift;
    const T sum = FN(row_exp)(x, n, shift, y);
    if (p->losses) p->losses[row] = total != 0 ? total * log((double)sum) - labelled : 0;
    if (!y) return;
    FN(row_scale)(y, n, (T)(p->scale * total) / sum);
    if (label >= 0) y[label] -= (T)p->scale;
    for (intptr_t c = 0; !plain && c < n; c++)
        y[c] -= (T)p->scale * FN(target)(&targets, c);
}

/* ---- few classes: LANES rows side by side, block[c][row] ---- */

/* Targets of each row, and sum(q) and sum_c q_c (x_c - max). */
NNF_NOINLINE void FN(few_targets)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows, V shift, T *q,
                                  V *totals, V *labelled) {
    T shifts[LANES], total[LANES] = {0}, weighted[LANES] = {0};
    v_store(shifts, shift);
    for (intptr_t r = 0; r < rows; r++, q += p->classes) {
        const T *x = (const T *)p->logits + (first + r) * p->logits_row;
        const row_of_targets_t targets = FN(targets_of)(p, first + r);
        double labelled_row;
        total[r] = (T)FN(sums_of_targets)(&targets, p->classes, x, shifts[r], q, &labelled_row);
        weighted[r] = (T)labelled_row;
    }
    *totals = v_load(total), *labelled = v_load(weighted);
}

/* The rows' class indices in lanes: -1 where a row is ignored, -2 where there are none. */
NNF_INLINE VI FN(few_labels)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows) {
    TI lanes[LANES];
    VI labels;
    for (intptr_t r = 0; r < LANES; r++) {
        const int64_t label = p->labels && r < rows ? p->labels[first + r] : -2;
        lanes[r] = p->labels && label == p->ignored ? -1 : (TI)label;
    }
    memcpy(&labels, lanes, sizeof labels);
    return labels;
}

static void FN(few_classes)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows) {
    T block[NNF_FEW_CLASSES * LANES], q[NNF_FEW_CLASSES * LANES];
    const intptr_t n = p->classes;
    const int plain = FN(plain_labels)(p);
    const V zero = v_set1(0);
    if (rows < LANES || LANES == 1) memset(block, 0, (size_t)n * sizeof(V)); /* gcc does not see that one row is full */
    FN(pack_transposed)(n, rows, (const T *)p->logits + first * p->logits_row, p->logits_row, block, LANES);
    V shift = v_load(block), sum = zero, labelled = zero, totals = v_set1(1);
    const VI labels = FN(few_labels)(p, first, rows), none = FN(vector_set1_bits)(-1);
    for (intptr_t c = 1; c < n; c++)
        shift = v_max(v_load(block + c * LANES), shift);
    if (plain)
        totals = v_select(labels == none, zero, totals);
    else
        FN(few_targets)(p, first, rows, shift, q, &totals, &labelled);
    for (intptr_t c = 0; c < n; c++) {
        const V x = v_load(block + c * LANES) - shift, e = v_exp(x);
        if (plain) labelled = v_select(labels == FN(vector_set1_bits)((TI)c), x, labelled);
        v_store(block + c * LANES, e);
        sum = sum + e;
    }
    if (p->losses) { /* sum >= 1 */
        T lanes[LANES];
        const V loss = totals * v_log1p(sum - v_set1(1)) - labelled;
        v_store(lanes, v_select(totals == zero, zero, loss));
        for (intptr_t r = 0; r < rows; r++)
            p->losses[first + r] = (double)lanes[r];
    }
    if (!p->grad) return;
    const V factor = v_set1((T)p->scale) * totals / sum, scale = v_set1((T)p->scale);
    for (intptr_t c = 0; c < n; c++) {
        const V own = plain ? v_select(labels == FN(vector_set1_bits)((TI)c), scale, zero) : zero;
        v_store(block + c * LANES, v_load(block + c * LANES) * factor - own);
    }
    T *y = (T *)p->grad + first * n;
    FN(pack_transposed)(rows, n, block, LANES, y, n);
    for (intptr_t i = 0; !plain && i < rows * n; i++)
        y[i] -= (T)p->scale * q[i];
}

/* ---- tasks ---- */

static void FN(softmax_task)(void *context, intptr_t task) {
    const softmax_job_t *job = context;
    const nnf_softmax_cross_entropy *p = job->p;
    const intptr_t first = task * job->rows_a_task;
    const intptr_t end = first + job->rows_a_task < p->rows ? first + job->rows_a_task : p->rows;
    if (p->classes <= NNF_FEW_CLASSES) {
        for (intptr_t row = first; row < end; row += LANES)
            FN(few_classes)(p, row, end - row < LANES ? end - row : LANES);
        return;
    }
    for (intptr_t row = first; row < end; row++)
        FN(one_wide_row)(p, row);
}

static void FN(softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) {
    intptr_t rows = NNF_SOFTMAX_TASK / p->classes / LANES * LANES;
    softmax_job_t job = {p, rows < 1 ? 1 : rows};
    nnf_parallel((p->rows + job.rows_a_task - 1) / job.rows_a_task, FN(softmax_task), &job);
}

static void FN(softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) {
    const nnf_softmax_cross_entropy p = {.rows = rows,
                                         .classes = classes,
                                         .logits = x,
                                         .logits_row = classes,
                                         .ignored = NNF_NONE_IGNORED,
                                         .scale = 1,
                                         .grad = y};
    FN(softmax_cross_entropy)(&p);
}
