/* softmax_cross_entropy.inc.h - softmax, and cross-entropy with its gradient, row by row.
 *
 * A row is read once from memory: its maximum, then exp(x - max) stored and summed, then scaled, while it lies in the
 * cache. With few classes a row would leave most lanes of a vector empty; then LANES rows are transposed into a block
 * and go side by side, one row a lane.
 */

enum { FN(FEW_CLASSES) = 32, FN(SOFTMAX_ELEMENTS_A_TASK) = 1 << 14 };

typedef struct {
    const nnf_softmax_cross_entropy *p;
    intptr_t rows_a_task;
} FN(softmax_job);

/* ---- many classes: one row, vectors along it ---- */

NNF_INLINE T FN(row_maximum)(const T *x, intptr_t n) {
    V most = v_set1(-(T)HUGE_VAL), wrong = v_set1(0);
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const V a = v_load(x + i);
        most = v_select(a > most, a, most);
        wrong = v_select(a != a, a, wrong);
    }
    T lanes[LANES], bad[LANES], largest = -(T)HUGE_VAL;
    v_store(lanes, most);
    v_store(bad, wrong);
    for (intptr_t j = 0; j < LANES; j++) {
        largest = lanes[j] > largest ? lanes[j] : largest;
        if (bad[j] != bad[j]) return bad[j];
    }
    for (; i < n; i++) {
        if (x[i] != x[i]) return x[i];
        largest = x[i] > largest ? x[i] : largest;
    }
    return largest;
}

/* y = exp(x - shift); returns the sum, in an order that depends on n alone */
NNF_INLINE T FN(row_exp)(const T *x, intptr_t n, T shift, T *y) {
    V sum = v_set1(0);
    T tail[LANES], total = 0;
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const V e = v_exp(v_load(x + i) - v_set1(shift));
        v_store(y + i, e);
        sum = sum + e;
    }
    v_store(tail, sum);
    for (intptr_t j = 0; j < LANES; j++)
        total += tail[j];
    if (i < n) {
        v_store(tail, v_exp(v_load_n(x + i, n - i) - v_set1(shift)));
        for (intptr_t j = 0; i < n; i++, j++)
            total += y[i] = tail[j];
    }
    return total;
}

NNF_INLINE void FN(row_scale)(T *y, intptr_t n, T factor) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, v_load(y + i) * v_set1(factor));
    for (; i < n; i++)
        y[i] *= factor;
}

/* The row's loss but for log(sum): sum_c t_c (x_c - max). Classes of probability 0 count for nothing, even at -inf. */
NNF_INLINE double FN(row_labelled)(const nnf_softmax_cross_entropy *p, intptr_t row, const T *x, T shift) {
    if (p->labels) return (double)x[p->labels[row]] - (double)shift;
    const T *t = (const T *)p->targets + row * p->classes;
    double sum = 0;
    for (intptr_t c = 0; c < p->classes; c++)
        if (t[c] != 0) sum += (double)t[c] * ((double)x[c] - (double)shift);
    return sum;
}

static void FN(one_wide_row)(const nnf_softmax_cross_entropy *p, intptr_t row, T *scratch) {
    const intptr_t n = p->classes;
    const T *x = (const T *)p->logits + row * p->logits_row;
    T *y = p->grad ? (T *)p->grad + row * n : scratch;
    const T shift = FN(row_maximum)(x, n);
    const double labelled = p->losses ? FN(row_labelled)(p, row, x, shift) : 0; /* before y overwrites x */
    const T sum = FN(row_exp)(x, n, shift, y);
    if (p->losses) p->losses[row] = log((double)sum) - labelled;
    if (!p->grad) return;
    FN(row_scale)(y, n, (T)p->scale / sum);
    if (p->labels)
        y[p->labels[row]] -= (T)p->scale;
    else if (p->targets)
        for (intptr_t c = 0; c < n; c++)
            y[c] -= (T)p->scale * ((const T *)p->targets)[row * n + c];
}

/* ---- few classes: LANES rows side by side, block[c][row] ---- */

static void FN(few_classes)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows) {
    T block[FN(FEW_CLASSES)][LANES];
    T shifts[LANES], sums[LANES];
    const intptr_t n = p->classes;
    const T *x = (const T *)p->logits + first * p->logits_row;
    for (intptr_t c = 0; c < n; c++)
        for (intptr_t r = 0; r < LANES; r++)
            block[c][r] = r < rows ? x[r * p->logits_row + c] : 0;
    V shift = v_load(block[0]), sum = v_set1(0);
    for (intptr_t c = 1; c < n; c++) {
        const V a = v_load(block[c]);
        shift = v_select((a > shift) | (a != a), a, shift); /* a NaN is taken, and stays: nothing is greater */
    }
    v_store(shifts, shift);
    for (intptr_t r = 0; p->losses && r < rows; r++)
        p->losses[first + r] = -FN(row_labelled)(p, first + r, x + r * p->logits_row, shifts[r]);
    for (intptr_t c = 0; c < n; c++) {
        const V e = v_exp(v_load(block[c]) - shift);
        v_store(block[c], e);
        sum = sum + e;
    }
    v_store(sums, sum);
    for (intptr_t r = 0; p->losses && r < rows; r++)
        p->losses[first + r] += log((double)sums[r]);
    if (!p->grad) return;
    const V factor = v_set1((T)p->scale) / sum;
    for (intptr_t c = 0; c < n; c++)
        v_store(block[c], v_load(block[c]) * factor);
    T *y = (T *)p->grad + first * n;
    for (intptr_t r = 0; r < rows; r++) {
        for (intptr_t c = 0; c < n; c++)
            y[r * n + c] = block[c][r];
        if (p->labels) y[r * n + p->labels[first + r]] -= (T)p->scale;
    }
    if (p->targets)
        for (intptr_t i = 0; i < rows * n; i++)
            y[i] -= (T)p->scale * ((const T *)p->targets)[first * n + i];
}

/* ---- tasks ---- */

static void FN(softmax_task)(void *context, intptr_t task) {
    const FN(softmax_job) *job = context;
    const nnf_softmax_cross_entropy *p = job->p;
    const intptr_t first = task * job->rows_a_task;
    const intptr_t end = first + job->rows_a_task < p->rows ? first + job->rows_a_task : p->rows;
    if (p->classes <= FN(FEW_CLASSES)) {
        for (intptr_t row = first; row < end; row += LANES)
            FN(few_classes)(p, row, end - row < LANES ? end - row : LANES);
        return;
    }
    T *scratch = p->grad ? NULL : malloc((size_t)p->classes * sizeof(T));
    for (intptr_t row = first; row < end; row++) {
        if (p->grad || scratch)
            FN(one_wide_row)(p, row, scratch);
        else if (p->losses)
            p->losses[row] = NAN; /* out of memory: an answer that cannot be mistaken for one */
    }
    free(scratch);
}

static void FN(softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) {
    intptr_t rows = FN(SOFTMAX_ELEMENTS_A_TASK) / p->classes / LANES * LANES;
    FN(softmax_job) job = {p, rows < 1 ? 1 : rows};
    nnf_parallel((p->rows + job.rows_a_task - 1) / job.rows_a_task, FN(softmax_task), &job);
}

static void FN(softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) {
    const nnf_softmax_cross_entropy p = {
        .rows = rows, .classes = classes, .logits = x, .logits_row = classes, .scale = 1, .grad = y};
    FN(softmax_cross_entropy)(&p);
}
