/* difference.inc.h - the central-difference gradient of a linear layer, weight by weight.
 *
 * Weight (o, i) moves by +-step: output o of row n moves by d = +-step x[n, i], and nothing else does. For one unit o
 * and one row n, all the weights (o, i) with x[n, i] != 0 travel upwards together as a tile (propagation.inc.h). As
 * they share the row n, the inputs and outputs of the layers above (x[n, k], y[n, k]), the probabilities p[n, k] and
 * the weights are plain numbers, and every loop runs over r without tails: the tile holds `half` perturbations by
 * +step, then as many by -step, filled up with zeros to whole vectors.
 */

#undef difference_plan_t
#undef row_tile_t
#define difference_plan_t FN(difference_plan_t)
#define row_tile_t        FN(row_tile_t)

typedef struct {
    const nnf_difference *p;
    const nnf_above *above;
    /* of each row, for a cross-entropy */
    const entropy_row_t *known;
    intptr_t blocks;       /* the inputs of a unit are cut into so many tasks */
    const intptr_t *start; /* (blocks, N + 1): where a block's entries of row n begin in input and value */
    const int32_t *input;  /* which weight of the unit: i, or I for its bias */
    const T *value;        /* step * x[n, i] */
    intptr_t half;         /* capacity of a tile: perturbations by +step */
    intptr_t most_width;   /* of rows */
    _Atomic int failed;
} difference_plan_t;

/* The perturbations of one row. */
typedef struct {
    const nnf_above *above;
    intptr_t row, n;
    const entropy_row_t *known;
} row_tile_t;

/* ---- elementwise layers ---- */

/* d[r] = f(x + d[r]) - f(x) for one x with y = f(x) */
NNF_INLINE void FN(difference_at)(nnf_activation f, double alpha, T x, T y, T *d, intptr_t n, int small) {
    const V vx = v_set1(x), vy = v_set1(y);
    const V slope = FN(backward_of)(f, alpha, vx, vy, v_set1(1));
    if (small && (f == NNF_SIGMOID || f == NNF_TANH))
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(d + r, FN(difference_near)(f, alpha, vx, vy, slope, v_load(d + r), 1));
    else
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(d + r, FN(difference_near)(f, alpha, vx, vy, slope, v_load(d + r), 0));
}

/* Lines first .. first + lines - 1 of an activation's outputs, for row `row`. */
static void FN(activation_stage)(const void *context, intptr_t stage, intptr_t first, intptr_t lines, T *d) {
    const row_tile_t *tile = context;
    const nnf_stage *s = tile->above->stage + stage;
    const intptr_t row = tile->row, n = tile->n;
    const T *x = (const T *)s->x + row * s->width + first, *y = (const T *)s->y + row * s->width + first;
    const int differs = s->activation == NNF_SIGMOID || s->activation == NNF_TANH;
    const int small = differs && FN(largest)(d, lines * n) * 2 <= (T)NNF_SMALL;
    switch (s->activation) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        for (intptr_t k = 0; k < lines; k++)                                                                           \
            FN(difference_at)(NNF_##id, s->alpha, x[k], y[k], d + k * n, n, small);                                    \
        break;
#include "activations.def"
    }
}

/* ---- losses ---- */

/* d (lines, n), of which `small` says that all are at most NNF_SMALL / 2. */
NNF_INLINE void FN(entropy_change)(const entropy_t *at, const entropy_row_t *row, intptr_t first, intptr_t lines,
                                   intptr_t width, const T *d, T *change, intptr_t n, int small) {
    const V total = v_set1(row->total);
    if (lines == width) {
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(change + r,
                    FN(entropy_of_lines)(at, lines, d + r, n, v_load(d + row->lead * n + r), total, 0, small));
        return;
    }
    const int leads = row->lead == first;
    const V p = v_set1(leads ? row->rest : *at->p), q = v_set1(leads ? row->others : *at->q), r_one = v_set1(*at->r);
    const V sign = v_set1(leads ? -1 : 1);
    for (intptr_t r = 0; r < n; r += LANES)
        v_store(change + r, FN(entropy_of_one)(p, q, r_one, sign, total, v_load(d + r), small));
}

/* change[r] = sum_k d_k (a residual_k + b d_k), d (width, n) */
static void FN(squared_error_change)(nnf_loss loss, const T *residual, intptr_t width, const T *d, T *change,
                                     intptr_t n) {
    const V first = FN(residual_part)(loss), square = FN(square_part)(loss);
    for (intptr_t r = 0; r < n; r += LANES) {
        V sum = v_set1(0);
        for (intptr_t k = 0; k < width; k++) {
            const V v = v_load(d + k * n + r);
            sum = sum + v * (first * v_set1(residual[k]) + square * v);
        }
        v_store(change + r, sum);
    }
}

static void FN(loss_change)(const void *context, intptr_t first, intptr_t lines, intptr_t width, const T *d,
                            T *change) {
    const row_tile_t *tile = context;
    const nnf_above *p = tile->above;
    const intptr_t at = tile->row * width + first, n = tile->n;
    if (p->loss != NNF_CROSS_ENTROPY) {
        FN(squared_error_change)(p->loss, (const T *)p->residual + at, lines, d, change, n);
        return;
    }
    const entropy_t numbers = {(const T *)p->p + at, (const T *)p->t + at, (const T *)p->residual + at, 1};
    const T most = FN(largest)(d, lines * n);
    if (2 * most <= (T)NNF_SMALL)
        FN(entropy_change)(&numbers, tile->known, first, lines, width, d, change, n, 1);
    else if (most <= 1)
        FN(entropy_change)(&numbers, tile->known, first, lines, width, d, change, n, 0);
    else
        FN(entropy_far)(p, tile->row, first, lines, d, n, change, n, 1);
}

/* ---- the last linear layer and the loss, for a column ---- */

/* sum_k w_k d (a residual_k + b w_k d) */
static void FN(squared_error_of_column)(nnf_loss loss, const T *residual, const T *weight, intptr_t stride,
                                        intptr_t width, const T *d, T *change, intptr_t n) {
    double slope = 0, square = 0;
    for (intptr_t k = 0; k < width; k++) {
        const double w = (double)weight[k * stride];
        slope += w * (double)residual[k];
        square += w * w;
    }
    const V first = v_set1((T)slope) * FN(residual_part)(loss), second = v_set1((T)square) * FN(square_part)(loss);
    for (intptr_t r = 0; r < n; r += LANES) {
        const V v = v_load(d + r);
        v_store(change + r, v * (first + second * v));
    }
}

/* The change of the loss for a column d of unit o below the last linear layer s. Returns 0 where |w d| is too large for
 * the series: then the rows must be made. */
static int FN(rank_one_loss)(const void *context, const nnf_stage *s, intptr_t inputs, intptr_t o, const T *d,
                             T *change) {
    const row_tile_t *tile = context;
    const nnf_above *p = tile->above;
    const intptr_t row = tile->row, n = tile->n;
    const T *weight = (const T *)s->weight + o, *residual = (const T *)p->residual + row * s->width;
    if (p->loss != NNF_CROSS_ENTROPY) {
        FN(squared_error_of_column)(p->loss, residual, weight, inputs, s->width, d, change, n);
        return 1;
    }
    const T lead = weight[tile->known->lead * inputs];
    T most = 0;
    for (intptr_t k = 0; k < s->width; k++) {
        const T w = weight[k * inputs] - lead;
        most = w > most ? w : -w > most ? -w : most;
    }
    const double bound = (double)most * (double)FN(largest)(d, n);
    if (!(bound <= NNF_SMALL)) return 0;
    const int terms = FN(terms_for)(bound);
    const entropy_t at = {(const T *)p->p + row * s->width, NULL, residual, 1};
    V moment[MOST_TERMS + 1];
    const V total = v_set1(tile->known->total);
    const V slope = FN(entropy_moments)(&at, s->width, weight, inputs, v_set1(lead), terms, moment, 0);
    for (intptr_t r = 0; r < n; r += LANES)
        v_store(change + r, FN(entropy_series)(moment, terms, slope, total, v_load(d + r)));
    return 1;
}

/* ---- the tiles of a unit ---- */

/* The column that stage 0 sees: step * x for the + half, its negative for the - half; or what the caller measured. */
static void FN(fill)(const difference_plan_t *plan, T *d, intptr_t at, intptr_t count, intptr_t half, intptr_t o) {
    const T *columns = plan->p->columns; /* then there is one block, and entries count as columns do */
    const intptr_t entries = plan->start[plan->above->rows];
    for (intptr_t r = 0; r < half; r++) {
        const int there = r < count;
        if (columns) {
            d[r] = there ? columns[o * entries + at + r] : 0;
            d[half + r] = there ? columns[(plan->above->outputs + o) * entries + at + r] : 0;
        } else {
            d[r] = there ? plan->value[at + r] : 0;
            d[half + r] = -d[r];
        }
    }
}

/* The changes in d, count by +step and as many by -step, half apart, of the weights from input[] into unit o. */
static void FN(run_tile)(const difference_plan_t *plan, buffers_t *buffers, intptr_t row, intptr_t o,
                         const int32_t *input, intptr_t count, intptr_t half) {
    const row_tile_t tile = {plan->above, row, 2 * half, plan->known + row};
    const tile_of_changes_t changes = {tile.n, FN(activation_stage), FN(rank_one_loss), FN(loss_change), &tile};
    FN(propagate)(plan->above, &changes, buffers, o);
    for (intptr_t r = 0; r < count; r++)
        buffers->sum[input[r]] += (double)buffers->change[r] - (double)buffers->change[half + r];
}

static void FN(one_row)(const difference_plan_t *plan, buffers_t *buffers, intptr_t block, intptr_t row, intptr_t o) {
    const intptr_t *start = plan->start + block * (plan->above->rows + 1) + row;
    for (intptr_t at = start[0]; at < start[1]; at += plan->half) {
        const intptr_t count = start[1] - at < plan->half ? start[1] - at : plan->half;
        const intptr_t half = (count + LANES - 1) / LANES * LANES;
        FN(fill)(plan, buffers->d, at, count, half, o);
        FN(run_tile)(plan, buffers, row, o, plan->input + at, count, half);
    }
}

/* As one_row, for the inputs in wanted[], the bias being input I. */
static void FN(some_of_row)(const difference_plan_t *plan, buffers_t *buffers, intptr_t row, intptr_t o,
                            const int32_t *wanted, intptr_t many) {
    const nnf_difference *p = plan->p;
    const T *x = (const T *)p->x + row * p->inputs, step = (T)p->step;
    int32_t input[NNF_MOST_HALF];
    T *d = buffers->d;
    for (intptr_t at = 0; at < many;) {
        intptr_t count = 0;
        for (; at < many && count < plan->half; at++) {
            d[count] = wanted[at] < p->inputs ? step * x[wanted[at]] : step;
            input[count] = wanted[at];
            count += d[count] != 0;
        }
        const intptr_t half = (count + LANES - 1) / LANES * LANES;
        for (intptr_t r = 0; r < half; r++)
            d[r] = r < count ? d[r] : 0, d[half + r] = -d[r];
        if (count > 0) FN(run_tile)(plan, buffers, row, o, input, count, half);
    }
}

/* Writes which inputs of unit o from `begin` on, and before `end`, are wanted: how many. */
static intptr_t FN(list_wanted)(const nnf_difference *p, intptr_t o, intptr_t begin, intptr_t end, int32_t *to) {
    const uint8_t *row = p->wanted + o * (p->inputs + 1), *at = row + begin;
    intptr_t count = 0;
    while (at < row + end && (at = memchr(at, 1, (size_t)(row + end - at))))
        to[count++] = (int32_t)(at++ - row);
    return count;
}

/* One task: the weights from one block of inputs into unit o. */
static void FN(one_unit)(void *context, intptr_t task) {
    difference_plan_t *plan = context;
    const nnf_difference *p = plan->p;
    const intptr_t o = plan->above->first + task / plan->blocks, block = task % plan->blocks;
    const intptr_t begin = block * p->inputs / plan->blocks, end = (block + 1) * p->inputs / plan->blocks;
    const size_t line = 2 * (size_t)plan->half, rows = line * (size_t)plan->most_width;
    T *memory = malloc((2 * rows + line) * sizeof(T));
    double *sum = calloc((size_t)p->inputs + 1, sizeof(double));
    int32_t *wanted = malloc(((size_t)p->inputs + 1) * sizeof *wanted);
    buffers_t buffers = {memory, memory + rows, memory + 2 * rows, sum};
    if (!memory || !sum || !wanted)
        plan->failed = 1;
    else {
        const double factor = p->scale / (2 * p->step);
        const int with_bias = p->grad_bias && block + 1 == plan->blocks;
        const intptr_t many = p->wanted ? FN(list_wanted)(p, o, begin, end + with_bias, wanted) : 1;
        for (intptr_t row = 0; row < plan->above->rows && many > 0 &&
                               !(row % NNF_ROWS_PER_POLL == NNF_ROWS_PER_POLL - 1 && nnf_should_stop());
             row++) {
            if (p->counted && !p->counted[o * plan->above->rows + row]) continue;
            if (p->wanted)
                FN(some_of_row)(plan, &buffers, row, o, wanted, many);
            else
                FN(one_row)(plan, &buffers, block, row, o);
        }
        T *grad = (T *)p->grad_weight + o * p->inputs;
        for (intptr_t i = begin; i < end; i++)
            grad[i] = (T)(sum[i] * factor);
        if (p->grad_bias && block + 1 == plan->blocks) ((T *)p->grad_bias)[o] = (T)(sum[p->inputs] * factor);
    }
    free(memory);
    free(sum);
    free(wanted);
}

/* ---- the plan ---- */

/* Which inputs of each row are not zero, block by block; with a bias, input I of the last block is always there. */
static void FN(find_entries)(const difference_plan_t *plan, intptr_t *start, int32_t *input, T *value) {
    const nnf_difference *p = plan->p;
    const T *x = p->x;
    intptr_t at = 0;
    if (p->wanted) return;
    for (intptr_t block = 0; block < plan->blocks; block++) {
        const intptr_t begin = block * p->inputs / plan->blocks, end = (block + 1) * p->inputs / plan->blocks;
        for (intptr_t row = 0; row < plan->above->rows; row++) {
            *start++ = at;
            for (intptr_t i = begin; i < end; i++) {
                input[at] = (int32_t)i;
                value[at] = (T)p->step * x[row * p->inputs + i];
                at += x[row * p->inputs + i] != 0;
            }
            if (p->grad_bias && block + 1 == plan->blocks) {
                input[at] = (int32_t)p->inputs;
                value[at++] = (T)p->step;
            }
        }
        *start++ = at;
    }
}

/* About how many operations one unit costs, if no input is zero. */
static double FN(work)(const nnf_difference *p) {
    double each = 20, width = 1;
    for (intptr_t i = 0; i < p->above.stages; i++) {
        const nnf_stage *s = p->above.stage + i;
        each += (double)s->width * (s->weight ? 2 * width : 30);
        width = (double)s->width;
    }
    return each * 2 * (double)p->above.rows * (double)(p->inputs + 1);
}

static void FN(size_tiles)(difference_plan_t *plan) {
    const nnf_difference *p = plan->p;
    const double blocks = FN(work)(p) / NNF_UNIT_TASK_FLOPS;
    plan->most_width = FN(widest)(plan->above);
    intptr_t half = NNF_TILE_BYTES / (intptr_t)sizeof(T) / (4 * plan->most_width) / LANES * LANES;
    half = half < LANES ? LANES : half > NNF_MOST_HALF ? NNF_MOST_HALF : half;
    const intptr_t most = (p->inputs + half) / half; /* no task smaller than a tile */
    plan->blocks = blocks > (double)most ? most : (intptr_t)blocks;
    if (plan->blocks * plan->above->units < NNF_LEAST_UNIT_TASKS)
        plan->blocks = (NNF_LEAST_UNIT_TASKS + plan->above->units - 1) / plan->above->units;
    if (plan->blocks > most) plan->blocks = most;
    if (plan->blocks < 1 || p->columns) plan->blocks = 1;
    plan->half = half;
}

static int FN(difference_gradient)(const nnf_difference *p, int (*poll)(void)) {
    difference_plan_t plan = {.p = p, .above = &p->above};
    if (p->above.units == 0) return 0;
    FN(size_tiles)(&plan);
    /* one more than can be needed: find_entries writes before it knows whether the entry stays */
    const size_t rows = (size_t)p->above.rows, entries = p->wanted ? 1 : rows * (size_t)(p->inputs + 1) + 1;
    intptr_t *start = malloc((size_t)plan.blocks * (rows + 1) * sizeof *start);
    int32_t *input = malloc(entries * sizeof *input);
    T *value = malloc(entries * sizeof *value);
    entropy_row_t *known = FN(entropy_rows)(plan.above, plan.above->rows);
    int answer = NNF_NO_MEMORY;
    if (start && input && value && known) {
        FN(find_entries)(&plan, start, input, value);
        plan.start = start, plan.input = input, plan.value = value, plan.known = known;
        answer = nnf_parallel_polled(p->above.units * plan.blocks, FN(one_unit), &plan, poll);
        if (plan.failed && !answer) answer = NNF_NO_MEMORY;
    }
    free(known);
    free(start);
    free(input);
    free(value);
    return answer;
}
