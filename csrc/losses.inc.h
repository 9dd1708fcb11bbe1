/* losses.inc.h - softmax, and cross-entropy with its gradient, row by row.
 *
 * A row is read once from memory: its maximum, then exp(x - max) stored and summed, then scaled, while it is in the
 * cache. With few classes a row would leave most lanes of a vector empty; then LANES rows are transposed in registers
 * and go side by side, one row per lane, labels included. A NaN needs no care: it may slip past the maximum, but not
 * past the sum of the exponentials.
 *
 * Nothing is subtracted that could be nearly equal. With e_k = exp(x_k - max), the sum runs over all classes but one,
 *     rest = sum of e_k over k != lead,
 * so that 1 - p_lead = rest / sum keeps its digits however small it is. The lead is the row's label, or, where the
 * targets are not one class, the class with the largest logit. The losses of both are sums of numbers >= 0:
 *     one class:    log1p(rest) where the label has the largest logit, else log(sum) + (max - x_label);
 *     targets q:    sum(q) log1p(rest) + sum_c q_c (max - x_c).
 */

#undef softmax_job_t
#undef targets_of_row_t
#define softmax_job_t    FN(softmax_job_t)
#define targets_of_row_t FN(targets_of_row_t)

typedef struct {
    const nnf_softmax_cross_entropy *p;
    intptr_t rows_a_task;
} softmax_job_t;

/* Whether the target of each row is one class: then all of its q but one are 0. */
NNF_INLINE int FN(one_class)(const nnf_softmax_cross_entropy *p) { return !p->targets && p->smoothing == 0; }

/* ---- one row, vectors along it ---- */

/* 0, 1, 2, ... */
NNF_INLINE VI FN(lane_numbers)(void) {
    TI numbers[LANES];
    VI lanes;
    NNF_UNROLL for (int j = 0; j < (int)LANES; j++) numbers[j] = j;
    memcpy(&lanes, numbers, sizeof lanes);
    return lanes;
}

/* The sum of a vector's lanes: second half to first half, and so on. */
NNF_INLINE T FN(sum_of_lanes)(V a) {
    T lanes[LANES];
    v_store(lanes, FN(add_lanes)(1, &a));
    return lanes[0];
}

/* The largest lane, in the same way. */
NNF_INLINE T FN(largest_lane)(V a) {
    T lanes[LANES];
#if NNF_VECTOR_BYTES > 0
    NNF_UNROLL for (int round = 1; round < (int)LANES; round *= 2) a =
        v_max(NNF_SHUFFLE(a, a, NNF_LOW), NNF_SHUFFLE(a, a, NNF_HIGH));
#endif
    v_store(lanes, a);
    return lanes[0];
}

static T FN(row_maximum)(const T *x, intptr_t n) {
    enum { AT_ONCE = 4 };
    const V least = v_set1(-(T)HUGE_VAL);
    V most[AT_ONCE];
    intptr_t i = 0;
    NNF_UNROLL for (int j = 0; j < AT_ONCE; j++) most[j] = least;
    for (; i + AT_ONCE * LANES <= n; i += AT_ONCE * LANES)
        NNF_UNROLL for (int j = 0; j < AT_ONCE; j++) most[j] = v_max(v_load(x + i + j * LANES), most[j]);
    for (; i + LANES <= n; i += LANES)
        most[0] = v_max(v_load(x + i), most[0]);
    if (i < n)
        most[1] = v_max(v_select(FN(lane_numbers)() < FN(vector_set1_bits)((TI)(n - i)), v_load_n(x + i, n - i), least),
                        most[1]);
    return FN(largest_lane)(v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
}

/* a where the mask is set, else b */
NNF_INLINE VI FN(vector_choose)(VI mask, VI a, VI b) {
    return LANES == 1 ? (mask & 1) * a + (1 - (mask & 1)) * b : (mask & a) | (~mask & b);
}

/* y = exp(x - shift) for whole vectors from `at` to `end`, added to two sums; y may be NULL. */
NNF_INLINE void FN(exp_vectors)(const T *x, intptr_t at, intptr_t end, V shift, T *y, V *even, V *odd) {
    for (; at + 2 * LANES <= end; at += 2 * LANES) {
        const V e = v_exp_down(v_load(x + at) - shift), f = v_exp_down(v_load(x + at + LANES) - shift);
        if (y) v_store(y + at, e), v_store(y + at + LANES, f);
        *even = *even + e, *odd = *odd + f;
    }
    if (at < end) {
        const V e = v_exp_down(v_load(x + at) - shift);
        if (y) v_store(y + at, e);
        *even = *even + e;
    }
}

/* The same for `count` numbers of one vector; entry `lead` is left out of the sum and goes to *own. */
NNF_INLINE void FN(exp_part)(const T *x, intptr_t count, V shift, T *y, intptr_t lead, V *sum, T *own) {
    const VI lanes = FN(lane_numbers)();
    T last[LANES];
    V e = v_exp_down(v_load_n(x, count) - shift);
    if (y) v_store_n(y, e, count);
    if (lead >= 0 && lead < count) {
        v_store(last, e);
        *own = last[lead];
    }
    e = v_select(lanes == FN(vector_set1_bits)((TI)lead), v_set1(0), e);
    *sum = *sum + v_select(lanes < FN(vector_set1_bits)((TI)count), e, v_set1(0));
}

/* y = exp(x - shift), unless y is NULL; returns the sum of all but entry `lead`, which goes to *own; lead < 0: of all,
 * and *own is 0. The order of the sum depends on n and lead alone. */
static T FN(row_exp)(const T *x, intptr_t n, T shift, T *y, intptr_t lead, T *own) {
    const V s = v_set1(shift);
    const intptr_t whole = n / LANES * LANES, at = lead < 0 || lead >= whole ? whole : lead / LANES * LANES;
    V even = v_set1(0), odd = v_set1(0);
    *own = 0;
    FN(exp_vectors)(x, 0, at, s, y, &even, &odd);
    if (at < whole) {
        FN(exp_part)(x + at, LANES, s, y ? y + at : NULL, lead - at, &odd, own);
        FN(exp_vectors)(x, at + LANES, whole, s, y, &even, &odd);
    }
    if (whole < n) FN(exp_part)(x + whole, n - whole, s, y ? y + whole : NULL, lead - whole, &even, own);
    return FN(sum_of_lanes)(even + odd);
}

static void FN(row_scale)(T *y, intptr_t n, T factor) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, v_load(y + i) * v_set1(factor));
    if (i < n) v_store_n(y + i, v_load_n(y + i, n - i) * v_set1(factor), n - i);
}

/* Whether a row is ignored; then it is done. */
NNF_INLINE int FN(left_out)(const nnf_softmax_cross_entropy *p, intptr_t row, T *y) {
    if (!p->labels || p->labels[row] != p->ignored) return 0;
    if (p->losses) p->losses[row] = 0;
    if (y) memset(y, 0, (size_t)p->classes * sizeof(T));
    return 1;
}

/* What some rows leave for their losses, q (log1p(rest) - behind): logarithms are taken of LANES rows at a time. */
#undef losses_t
#define losses_t FN(losses_t)
typedef struct {
    T rest[LANES], behind[LANES], q[LANES];
} losses_t;

static void FN(put_losses)(const losses_t *of, intptr_t rows, double *losses) {
    T lanes[LANES];
    v_store(lanes, v_load(of->q) * (v_log1p_up(v_load(of->rest)) - v_load(of->behind)));
    for (intptr_t r = 0; r < rows; r++)
        losses[r] = (double)lanes[r];
}

static void FN(row_of_one_class)(const nnf_softmax_cross_entropy *p, intptr_t row, losses_t *losses, intptr_t lane) {
    const intptr_t n = p->classes, label = p->labels ? (intptr_t)p->labels[row] : -1;
    const T *x = (const T *)p->logits + row * p->logits_row;
    T *y = p->grad ? (T *)p->grad + row * n : NULL, own;
    losses->rest[lane] = losses->behind[lane] = losses->q[lane] = 0;
    if (FN(left_out)(p, row, y)) return;
    const T shift = FN(row_maximum)(x, n), q = p->weights && p->labels ? ((const T *)p->weights)[label] : 1;
    const T behind = label < 0 ? 0 : x[label] - shift; /* before y overwrites x */
    const T rest = FN(row_exp)(x, n, shift, y, label, &own);
    losses->rest[lane] = behind == 0 ? rest : rest - 1 + own; /* where another class has e = 1 */
    losses->behind[lane] = behind, losses->q[lane] = q;
    if (!y) return;
    const T factor = (T)p->scale * q / (rest + own);
    FN(row_scale)(y, n, factor);
    if (label >= 0) y[label] = -rest * factor;
}

/* ---- one row, targets of any kind ---- */

/* Where the q of one row come from, as in the contract. */
typedef struct {
    const T *weights, *t;
    int64_t label;
    V rest, even;
} targets_of_row_t;

NNF_INLINE targets_of_row_t FN(targets_of)(const nnf_softmax_cross_entropy *p, intptr_t row) {
    const targets_of_row_t targets = {.weights = p->weights,
                                      .t = p->targets ? (const T *)p->targets + row * p->classes : NULL,
                                      .label = p->labels ? p->labels[row] : 0,
                                      .rest = v_set1((T)(1 - p->smoothing)),
                                      .even = v_set1((T)(p->smoothing / (double)p->classes))};
    return targets;
}

/* q of the classes c to c + count - 1; 0 in other lanes */
NNF_INLINE V FN(targets_at)(const targets_of_row_t *from, intptr_t c, intptr_t count) {
    const V zero = v_set1(0);
    const VI lanes = FN(lane_numbers)();
    V q = from->t ? v_load_n(from->t + c, count) * from->rest
                  : v_select(lanes == FN(vector_set1_bits)((TI)(from->label - c)), from->rest, zero);
    q = q + from->even;
    if (from->weights) q = q * v_load_n(from->weights + c, count);
    return count < LANES ? v_select(lanes < FN(vector_set1_bits)((TI)count), q, zero) : q;
}

NNF_INLINE T FN(target_at)(const targets_of_row_t *from, intptr_t c) {
    T lanes[LANES];
    v_store(lanes, FN(targets_at)(from, c, 1));
    return lanes[0];
}

/* The class with the largest logit, `shift`; any of several. */
NNF_INLINE intptr_t FN(lead_of_row)(const T *x, intptr_t n, T shift) {
    VI found = FN(vector_set1_bits)(0), at = FN(lane_numbers)();
    TI lanes[LANES];
    intptr_t c = 0, lead = 0;
    for (; c + LANES <= n; c += LANES, at = at + FN(vector_set1_bits)((TI)LANES)) {
        found = FN(vector_choose)(v_load(x + c) == v_set1(shift), at, found);
    }
    memcpy(lanes, &found, sizeof found);
    for (intptr_t j = 0; j < LANES; j++)
        lead = lanes[j] > lead ? lanes[j] : lead;
    for (; c < n; c++)
        lead = x[c] == shift ? c : lead;
    return lead;
}

/* Returns sum_c q_c (max - x_c), where q_c = 0 counts for nothing; others: sum_c q_c without the lead. */
static double FN(sums_of_targets)(const targets_of_row_t *targets, const T *x, intptr_t n, T shift, intptr_t lead,
                                  double *others) {
    enum { BLOCK = 64 * LANES }; /* so many in the precision of T */
    const V zero = v_set1(0);
    double behind = 0;
    *others = 0;
    for (intptr_t first = 0; first < n; first += BLOCK) {
        V all = zero, weighted = zero;
        for (intptr_t c = first; c < n && c < first + BLOCK; c += LANES) {
            const intptr_t count = n - c < LANES ? n - c : LANES;
            const V q = FN(targets_at)(targets, c, count), gap = v_set1(shift) - v_load_n(x + c, count);
            const VI is_lead = FN(lane_numbers)() == FN(vector_set1_bits)((TI)(lead - c));
            all = all + v_select(is_lead, zero, q);
            weighted = weighted + v_select(q == zero, zero, q * gap);
        }
        *others += (double)FN(sum_of_lanes)(all);
        behind += (double)FN(sum_of_lanes)(weighted);
    }
    return behind;
}

NNF_NOINLINE void FN(row_of_targets)(const nnf_softmax_cross_entropy *p, intptr_t row) {
    const intptr_t n = p->classes;
    const T *x = (const T *)p->logits + row * p->logits_row;
    T *y = p->grad ? (T *)p->grad + row * n : NULL, own;
    if (FN(left_out)(p, row, y)) return;
    const targets_of_row_t targets = FN(targets_of)(p, row);
    const T shift = FN(row_maximum)(x, n);
    const intptr_t lead = FN(lead_of_row)(x, n, shift);
    double others, behind = FN(sums_of_targets)(&targets, x, n, shift, lead, &others);
    const double total = others + (double)FN(target_at)(&targets, lead);
    const T rest = FN(row_exp)(x, n, shift, y, lead, &own);
    if (p->losses) p->losses[row] = total == 0 ? 0 : total * log1p((double)rest + ((double)own - 1)) + behind;
    if (!y) return;
    const T factor = (T)(p->scale * total) / (rest + own);
    for (intptr_t c = 0; c < n; c += LANES) {
        const intptr_t count = n - c < LANES ? n - c : LANES;
        const V q = FN(targets_at)(&targets, c, count);
        v_store_n(y + c, v_load_n(y + c, count) * v_set1(factor) - v_set1((T)p->scale) * q, count);
    }
    if (rest < own) y[lead] = (T)(p->scale * others) - rest * factor; /* 1 - p by what the others have */
}

/* ---- few classes: LANES rows side by side, block[c][row] ---- */

/* The rows' class indices in lanes: -1 beyond them. */
NNF_INLINE VI FN(labels_of_rows)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows) {
    TI lanes[LANES];
    VI labels;
    for (intptr_t r = 0; r < LANES; r++)
        lanes[r] = r < rows ? (TI)p->labels[first + r] : -1;
    memcpy(&labels, lanes, sizeof labels);
    return labels;
}

/* Takes the rows that are ignored out of a block: their logits become zeros, their labels -1. */
NNF_NOINLINE void FN(take_out)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows, T *block,
                               VI *labels) {
    TI lanes[LANES];
    memcpy(lanes, labels, sizeof lanes);
    for (intptr_t r = 0; r < rows; r++) {
        if (p->labels[first + r] != p->ignored) continue;
        lanes[r] = -1;
        for (intptr_t c = 0; c < p->classes; c++)
            block[c * LANES + r] = 0;
    }
    memcpy(labels, lanes, sizeof lanes);
}

/* weights[label] for each row; 0 where there is no label, 1 without weights. */
NNF_NOINLINE V FN(weights_of_rows)(const nnf_softmax_cross_entropy *p, VI labels) {
    TI lanes[LANES];
    T weights[LANES];
    memcpy(lanes, &labels, sizeof lanes);
    for (intptr_t r = 0; r < LANES; r++)
        weights[r] = lanes[r] < 0 ? 0 : p->weights ? ((const T *)p->weights)[lanes[r]] : 1;
    return v_load(weights);
}

/* Each row's target is one class, or (labelled = 0) none: a softmax. block: the logits; becomes the gradient. */
NNF_INLINE void FN(few_of_one_class)(const nnf_softmax_cross_entropy *p, T *block, VI labels, T *losses, int labelled) {
    const intptr_t n = p->classes;
    const V zero = v_set1(0);
    V rest = zero, sum = zero, behind = zero, q = v_set1(1), shift = v_load(block);
    if (p->weights || p->ignored != NNF_NONE_IGNORED) q = FN(weights_of_rows)(p, labels);
    for (intptr_t c = 1; c < n; c++)
        shift = v_max(v_load(block + c * LANES), shift);
    for (intptr_t c = 0; c < n; c++) {
        const V x = v_load(block + c * LANES) - shift, e = v_exp_down(x);
        const VI is_label = labels == FN(vector_set1_bits)((TI)c);
        const V other = labelled ? v_select(is_label, zero, e) : e;
        sum = sum + e;
        if (labelled) rest = rest + other, behind = behind + v_select(is_label, x, zero);
        v_store(block + c * LANES, other);
    }
    if (labelled) /* sum >= 1 */
        v_store(losses, q * (v_log1p_up(v_select(behind == zero, rest, sum - v_set1(1))) - behind));
    if (!p->grad) return;
    const V factor = v_set1((T)p->scale) * q / sum, own = rest * factor;
    for (intptr_t c = 0; c < n; c++) {
        const VI is_label = labels == FN(vector_set1_bits)((TI)c);
        const V y = v_load(block + c * LANES) * factor;
        v_store(block + c * LANES, labelled ? y - v_select(is_label, own, zero) : y);
    }
}

/* q (classes, LANES) of some rows. */
NNF_NOINLINE void FN(few_targets)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows, VI labels, T *q) {
    const V rest = v_set1((T)(1 - p->smoothing)), even = v_set1((T)(p->smoothing / (double)p->classes));
    const V zero = v_set1(0);
    const VI none = labels == FN(vector_set1_bits)(-1);
    if (p->targets)
        FN(pack_transposed)(p->classes, rows, (const T *)p->targets + first * p->classes, p->classes, q, LANES);
    for (intptr_t c = 0; c < p->classes; c++) {
        const V share =
            p->targets ? v_load(q + c * LANES) * rest : v_select(labels == FN(vector_set1_bits)((TI)c), rest, zero);
        const V weight = v_set1(p->weights ? ((const T *)p->weights)[c] : 1);
        v_store(q + c * LANES, p->labels ? v_select(none, zero, (share + even) * weight) : (share + even) * weight);
    }
}

/* Targets of any kind, as row_of_targets. */
NNF_NOINLINE void FN(few_of_targets)(const nnf_softmax_cross_entropy *p, T *block, const T *q, T *losses) {
    const intptr_t n = p->classes;
    const V zero = v_set1(0), scale = v_set1((T)p->scale);
    V rest = zero, others = zero, own = zero, behind = zero, shift = v_load(block);
    VI lead = FN(vector_set1_bits)(0);
    for (intptr_t c = 1; c < n; c++) {
        const V x = v_load(block + c * LANES);
        lead = FN(vector_choose)(x > shift, FN(vector_set1_bits)((TI)c), lead);
        shift = v_max(x, shift);
    }
    for (intptr_t c = 0; c < n; c++) {
        const V x = v_load(block + c * LANES) - shift, e = v_exp_down(x), target = v_load(q + c * LANES);
        const VI is_lead = lead == FN(vector_set1_bits)((TI)c);
        rest = rest + v_select(is_lead, e - v_set1(1), e), others = others + v_select(is_lead, zero, target);
        own = v_select(is_lead, target, own);
        behind = behind + v_select(target == zero, zero, target * x);
        v_store(block + c * LANES, e);
    }
    const V total = others + own;
    v_store(losses, total * v_log1p_up(rest) - behind);
    if (!p->grad) return;
    const V factor = scale * total / (rest + v_set1(1));
    for (intptr_t c = 0; c < n; c++) {
        const VI is_lead = lead == FN(vector_set1_bits)((TI)c), near_one = rest < v_set1(1);
        const V plain = v_load(block + c * LANES) * factor - scale * v_load(q + c * LANES);
        v_store(block + c * LANES, v_select(is_lead & near_one, scale * others - rest * factor, plain));
    }
}

static void FN(few_classes)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t rows) {
    T block[NNF_FEW_CLASSES * LANES], q[NNF_FEW_CLASSES * LANES], losses[LANES] = {0};
    const intptr_t n = p->classes;
    if (rows < LANES || LANES == 1) { /* gcc does not see that one row is full */
        memset(block, 0, (size_t)n * sizeof(V));
        memset(q, 0, (size_t)n * sizeof(V));
    }
    FN(pack_transposed)(n, rows, (const T *)p->logits + first * p->logits_row, p->logits_row, block, LANES);
    VI labels = FN(vector_set1_bits)(-1);
    if (p->labels) labels = FN(labels_of_rows)(p, first, rows);
    if (p->labels && p->ignored != NNF_NONE_IGNORED) FN(take_out)(p, first, rows, block, &labels);
    if (!FN(one_class)(p)) {
        FN(few_targets)(p, first, rows, labels, q);
        FN(few_of_targets)(p, block, q, losses);
    } else if (p->labels)
        FN(few_of_one_class)(p, block, labels, losses, 1);
    else
        FN(few_of_one_class)(p, block, labels, losses, 0);
    for (intptr_t r = 0; r < rows && p->losses; r++)
        p->losses[first + r] = (double)losses[r];
    if (p->grad) FN(pack_transposed)(rows, n, block, LANES, (T *)p->grad + first * n, n);
}

/* ---- tasks ---- */

/* Rows first .. end - 1, on the calling thread. */
static void FN(softmax_cross_entropy_rows)(const nnf_softmax_cross_entropy *p, intptr_t first, intptr_t end) {
    const int few = p->classes <= NNF_FEW_CLASSES, one_class = FN(one_class)(p);
    losses_t losses = {0};
    for (intptr_t row = first; row < end; row += LANES) {
        const intptr_t rows = end - row < LANES ? end - row : LANES;
        if (few) {
            FN(few_classes)(p, row, rows);
            continue;
        }
        for (intptr_t lane = 0; lane < rows; lane++)
            if (one_class)
                FN(row_of_one_class)(p, row + lane, &losses, lane);
            else
                FN(row_of_targets)(p, row + lane);
        if (one_class && p->losses) FN(put_losses)(&losses, rows, p->losses + row);
    }
}

static void FN(softmax_task)(void *context, intptr_t task) {
    const softmax_job_t *job = context;
    const intptr_t first = task * job->rows_a_task, end = first + job->rows_a_task;
    FN(softmax_cross_entropy_rows)(job->p, first, end < job->p->rows ? end : job->p->rows);
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
