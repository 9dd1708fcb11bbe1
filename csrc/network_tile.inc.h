/* network_tile.inc.h - a network a tile of rows at a time: see network.inc.h.
 *
 * TILE rows go through all stages, the loss and back, so that what they need stays in the caches. Arrays of a tile are
 * (features, rows): lanes are rows, whatever the widths are. Tasks are ranges of tiles; each sums its own gradients,
 * and those are added in the order of the tasks.
 *
 * A weight's gradient is a sum over rows. Where a layer has few inputs (or outputs) its sums are vectors of LOGICAL
 * lanes, 64 bytes on every instruction set, so that AVX2 adds in the order of AVX-512; they are added up at the end of
 * a task. Otherwise it is a product whose columns are inputs.
 */

#undef tile_pass_t
#define tile_pass_t FN(tile_pass_t)

/* ---- a product in place: C (m, n) = or += A (m, k) B (k, n), the columns of B and C contiguous ---- */

static void FN(product_in_place)(intptr_t m, intptr_t n, tile_t t, const T *a, const T *b, T *c) {
    for (intptr_t j = 0; j < n; j += PANEL) {
        const intptr_t columns = n - j < PANEL ? n - j : PANEL;
        const intptr_t vectors = (columns + LANES - 1) / LANES, most = FN(most_rows)(vectors);
        const intptr_t strips = (m + most - 1) / most;
        t.tail = columns - (vectors - 1) * LANES;
        for (intptr_t s = 0, i = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(m, strips, s);
            const tile_function_t tile = FN(tiles)[vectors - 1][height - 1][t.tail == LANES][t.a_row == 1];
            tile(&t, a + i * t.a_row, b + j, c + i * t.c_row + j);
            i += height;
        }
    }
}

/* ---- sums of lanes ---- */

/* sums[a, b] += sum over rows of dz[a, row] x[b, row], for A by B weights, each a vector of LOGICAL lanes. rows: whole
 * logical vectors. */
#undef NNF_LANE_BLOCK
#define NNF_LANE_BLOCK(A, B)                                                                                           \
    static void FN(lane_block_##A##x##B)(intptr_t rows, const T *dz, const T *x, T *sums, intptr_t inputs) {           \
        for (intptr_t g = 0; g < LOGICAL; g += LANES) {                                                                \
            V s[A][B];                                                                                                 \
            NNF_UNROLL for (int a = 0; a < A; a++) NNF_UNROLL for (int b = 0; b < B; b++) s[a][b] =                    \
                v_load(sums + (a * inputs + b) * LOGICAL + g);                                                         \
            for (intptr_t r = g; r < rows; r += LOGICAL) {                                                             \
                V d[A];                                                                                                \
                NNF_UNROLL for (int a = 0; a < A; a++) d[a] = v_load(dz + a * TILE + r);                               \
                NNF_UNROLL for (int b = 0; b < B; b++) {                                                               \
                    const V value = v_load(x + b * TILE + r);                                                          \
                    NNF_UNROLL for (int a = 0; a < A; a++) s[a][b] += d[a] * value;                                    \
                }                                                                                                      \
            }                                                                                                          \
            NNF_UNROLL for (int a = 0; a < A; a++) NNF_UNROLL for (int b = 0; b < B; b++)                              \
                v_store(sums + (a * inputs + b) * LOGICAL + g, s[a][b]);                                               \
        }                                                                                                              \
    }

/* as many as fit the registers, which are 32, or 16 for AVX2 */
#undef LANE_ROWS
#define LANE_ROWS (NNF_VECTOR_BYTES == 32 ? 2 : 4)
#if NNF_VECTOR_BYTES == 32
NNF_LANE_BLOCK(2, 4)
NNF_LANE_BLOCK(2, 1)
#define NNF_LANE_4 FN(lane_block_2x4)
#define NNF_LANE_1 FN(lane_block_2x1)
#else
NNF_LANE_BLOCK(4, 4)
NNF_LANE_BLOCK(4, 1)
#define NNF_LANE_4 FN(lane_block_4x4)
#define NNF_LANE_1 FN(lane_block_4x1)
#endif
NNF_LANE_BLOCK(1, 4)
NNF_LANE_BLOCK(1, 1)

static void FN(add_products_in_lanes)(intptr_t outputs, intptr_t inputs, intptr_t rows, const T *dz, const T *x,
                                      T *sums) {
    for (intptr_t o = 0; o < outputs;) {
        const int many = outputs - o >= LANE_ROWS;
        T *row = sums + o * inputs * LOGICAL;
        intptr_t i = 0;
        for (; i + 4 <= inputs; i += 4)
            (many ? NNF_LANE_4 : FN(lane_block_1x4))(rows, dz + o * TILE, x + i * TILE, row + i * LOGICAL, inputs);
        for (; i < inputs; i++)
            (many ? NNF_LANE_1 : FN(lane_block_1x1))(rows, dz + o * TILE, x + i * TILE, row + i * LOGICAL, inputs);
        o += many ? LANE_ROWS : 1;
    }
}
#undef NNF_LANE_4
#undef NNF_LANE_1

static void FN(add_rows_in_lanes)(intptr_t outputs, intptr_t rows, const T *dz, T *sums) {
    for (intptr_t o = 0; o < outputs; o++)
        for (intptr_t g = 0; g < LOGICAL; g += LANES) {
            V s = v_load(sums + o * LOGICAL + g);
            for (intptr_t r = g; r < rows; r += LOGICAL)
                s = s + v_load(dz + o * TILE + r);
            v_store(sums + o * LOGICAL + g, s);
        }
}

/* to[i] = the sum of sums[i]'s lanes: l and l + LOGICAL / 2 first, then halves of that. LANES of them are transposed,
 * so that lanes become vectors. */
static void FN(fold_lanes)(intptr_t count, const T *sums, T *to) {
    for (intptr_t i = 0; i < count; i += LANES) {
        const intptr_t n = count - i < LANES ? count - i : LANES;
        V square[LANES];
        NNF_UNROLL for (int w = 0; w < (int)LANES; w++) {
            const T *lanes = sums + (i + (w < n ? w : 0)) * LOGICAL;
            V part[64 / sizeof(T)];
            for (intptr_t g = 0; g < LOGICAL; g += LANES)
                part[g / LANES] = v_load(lanes + g);
            for (intptr_t half = LOGICAL / LANES / 2; half > 0; half /= 2)
                for (intptr_t g = 0; g < half; g++)
                    part[g] = part[g] + part[g + half];
            square[w] = part[0];
        }
        FN(transpose_square)(square);
        NNF_UNROLL for (int half = (int)LANES / 2; half > 0; half /= 2) NNF_UNROLL for (int l = 0; l < half; l++)
            square[l] = square[l] + square[l + half];
        v_store_n(to + i, square[0], n);
    }
}

/* ---- activations of a tile ---- */

/* f(x) and f'(x), as dx = dy f'(x) */
NNF_INLINE V FN(forward_and_slope)(nnf_activation f, double alpha, V x, V *slope) {
    if (f == NNF_TANH) return v_tanh_slope(x, slope);
    if (f == NNF_SIGMOID) return v_sigmoid_slope(x, slope);
    const V y = FN(forward_of)(f, alpha, x);
    *slope = FN(backward_of)(f, alpha, x, y, v_set1(1));
    return y;
}

NNF_INLINE void FN(forward_and_slope_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, T *y, T *slope) {
    for (intptr_t i = 0; i < n; i += LANES) {
        V at;
        v_store(y + i, FN(forward_and_slope)(f, alpha, v_load(x + i), &at));
        v_store(slope + i, at);
    }
}

/* y, slope: (width, TILE), of which n columns count, whole vectors; slope may be NULL */
static void FN(activate)(const nnf_stage *s, intptr_t n, const T *x, T *y, T *slope) {
    const intptr_t lines = n == TILE ? 1 : s->width, length = n == TILE ? s->width * TILE : n;
    for (intptr_t line = 0; line < lines; line++, x += TILE, y += TILE) {
        switch (s->activation) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        if (slope)                                                                                                     \
            FN(forward_and_slope_loop)(NNF_##id, s->alpha, length, x, y, slope);                                       \
        else                                                                                                           \
            FN(forward_loop)(NNF_##id, s->alpha, length, x, y);                                                        \
        break;
#include "activations.def"
        }
        if (slope) slope += TILE;
    }
}

/* dz *= slope */
static void FN(times_slope)(intptr_t width, intptr_t n, const T *slope, T *dz) {
    for (intptr_t o = 0; o < width; o++, slope += TILE, dz += TILE)
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(dz + r, v_load(dz + r) * v_load(slope + r));
}

/* ---- the loss of a tile ---- */

/* Whether each row has one class, and few of them: then rows are in lanes for the loss as well. */
NNF_INLINE int FN(few_plain_classes)(const nnf_network *p) {
    const nnf_softmax_cross_entropy *q = p->cross_entropy;
    return p->loss == NNF_CROSS_ENTROPY && q->labels && FN(one_class)(q) && q->ignored == NNF_NONE_IGNORED &&
           p->stage[p->stages - 1].width <= NNF_FEW_CLASSES;
}

/* The losses of `rows` rows of x (classes, TILE), from row `first` on, and their gradient in dz; zeros beyond, to n. */
static double FN(loss_of_tile)(const nnf_network *p, intptr_t first, intptr_t rows, intptr_t n, const T *x, T *dz) {
    nnf_softmax_cross_entropy q = *p->cross_entropy;
    double sum = 0;
    q.classes = p->stage[p->stages - 1].width, q.grad = dz;
    for (intptr_t r = 0; r < n; r += LANES) {
        T block[NNF_FEW_CLASSES * LANES], losses[LANES];
        const VI labels = FN(labels_of_rows)(&q, first + r, rows - r), none = FN(vector_set1_bits)(-1);
        for (intptr_t c = 0; c < q.classes; c++)
            v_store(block + c * LANES, v_load(x + c * TILE + r));
        FN(few_of_one_class)(&q, block, labels, losses, 1);
        for (intptr_t c = 0; c < q.classes; c++)
            v_store(dz + c * TILE + r, v_select(labels == none, v_set1(0), v_load(block + c * LANES)));
        for (intptr_t j = 0; j < LANES && r + j < rows; j++)
            sum += (double)losses[j];
    }
    return sum;
}

/* ---- a tile ---- */

typedef struct {
    const network_plan_t *plan;
    intptr_t part;           /* of the tile's units, for differences */
    intptr_t first, rows, n; /* rows of the tile; n: the same in whole logical vectors */
    T *values, *lanes;       /* of the slot */
    T *sum;                  /* of the task */
} tile_pass_t;

/* The input and the output of stage s in this tile, (width, TILE). */
NNF_INLINE T *FN(output_of)(const tile_pass_t *pass, intptr_t s) {
    return pass->values + (s < 0 ? 0 : pass->plan->place[s].y);
}

/* Where the output of this tile is written, (rows, width). */
NNF_INLINE T *FN(output_rows)(const tile_pass_t *pass) {
    const network_plan_t *plan = pass->plan;
    const intptr_t width = plan->p->stage[plan->p->stages - 1].width;
    T *const all = pass->part ? plan->copies + (pass->part - 1) * plan->p->rows * width : plan->p->y;
    return all + pass->first * width;
}

/* The rows of x as columns. The last tile is filled up with its last row: what that gives is as finite as the row is,
 * and counts for nothing. */
static void FN(load_rows)(const tile_pass_t *pass) {
    const nnf_network *p = pass->plan->p;
    T *to = pass->values;
    FN(pack_transposed)(p->inputs, pass->rows, (const T *)p->x + pass->first * p->inputs, p->inputs, to, TILE);
    for (intptr_t i = 0; i < p->inputs && pass->rows < pass->n; i++)
        for (intptr_t r = pass->rows; r < pass->n; r++)
            to[i * TILE + r] = to[i * TILE + pass->rows - 1];
}

static void FN(forward_linear)(const nnf_stage *s, intptr_t inputs, intptr_t n, const T *x, T *y) {
    const T *bias = s->bias;
    for (intptr_t o = 0; bias && o < s->width; o++)
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(y + o * TILE + r, v_set1(bias[o]));
    const tile_t t = {.k = inputs, .a_row = inputs, .a_col = 1, .b_row = TILE, .c_row = TILE, .add = bias != NULL};
    FN(product_in_place)(s->width, n, t, s->weight, x, y);
}

/* network_lines.inc.h */
static int FN(may_be_straight)(network_plan_t *plan);
static void FN(note_range)(const tile_pass_t *pass, intptr_t i, const T *x);
static void FN(differences_of_tile)(const tile_pass_t *pass, T *residual, T *spare);

static void FN(forward_tile)(const tile_pass_t *pass) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        const T *x = FN(output_of)(pass, i - 1);
        T *y = FN(output_of)(pass, i);
        if (!s->weight && p->step > 0) FN(note_range)(pass, i, x);
        if (s->weight)
            FN(forward_linear)(s, plan->place[i].inputs, pass->n, x, y);
        else
            FN(activate)(s, pass->n, x, y, plan->place[i].slope < 0 ? NULL : pass->values + plan->place[i].slope);
    }
    const intptr_t width = p->stage[p->stages - 1].width;
    FN(pack_transposed)(pass->rows, width, FN(output_of)(pass, p->stages - 1), TILE, FN(output_rows)(pass), width);
}

/* The gradients of stage i's weight and bias, those of `units` outputs from `first` on, from their dz (units, TILE).
 * spare: (inputs, TILE) */
static void FN(add_gradients)(const tile_pass_t *pass, intptr_t i, intptr_t first, intptr_t units, const T *dz,
                              T *spare) {
    const place_t *place = pass->plan->place + i;
    const intptr_t inputs = place->inputs;
    const T *x = FN(output_of)(pass, i - 1);
    if (place->bias >= 0) FN(add_rows_in_lanes)(units, pass->n, dz, pass->lanes + place->bias_lanes + first * LOGICAL);
    if (place->weight < 0) return;
    if (place->lanes >= 0) {
        FN(add_products_in_lanes)(units, inputs, pass->n, dz, x, pass->lanes + place->lanes + first * inputs * LOGICAL);
        return;
    }
    const T *rows = (const T *)pass->plan->p->x + pass->first * inputs;
    if (i > 0) {
        FN(pack_transposed)(pass->rows, inputs, x, TILE, spare, inputs);
        rows = spare;
    }
    const tile_t t = {.k = pass->rows, .a_row = TILE, .a_col = 1, .b_row = inputs, .c_row = inputs, .add = 1};
    FN(product_in_place)(units, inputs, t, dz, rows, pass->sum + place->weight + first * inputs);
}

/* From the gradient of the output, (width, TILE), down to the lowest stage with gradients. */
static void FN(backward_tile)(const tile_pass_t *pass, T *dz, T *other) {
    const network_plan_t *plan = pass->plan;
    if (plan->p->step > 0) {
        FN(differences_of_tile)(pass, dz, other);
        return;
    }
    for (intptr_t i = plan->p->stages - 1; i >= plan->lowest; i--) {
        const nnf_stage *s = plan->p->stage + i;
        const place_t *place = plan->place + i;
        if (!s->weight) {
            FN(times_slope)(s->width, pass->n, pass->values + place->slope, dz);
            continue;
        }
        FN(add_gradients)(pass, i, 0, s->width, dz, other);
        if (i == plan->lowest) return;
        const tile_t t = {.k = s->width, .a_row = 1, .a_col = place->inputs, .b_row = TILE, .c_row = TILE};
        FN(product_in_place)(place->inputs, pass->n, t, s->weight, dz, other);
        T *const swap = dz;
        dz = other, other = swap;
    }
}

static double FN(one_tile)(const tile_pass_t *pass) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    const intptr_t width = p->stage[p->stages - 1].width;
    T *dz = pass->values + plan->values - 2 * plan->widest * TILE, *other = dz + plan->widest * TILE;
    FN(load_rows)(pass);
    FN(forward_tile)(pass);
    if (p->loss == NNF_NO_LOSS) return 0;
    double *losses = plan->losses + pass->part * p->rows + pass->first;
    const int back = plan->lowest < p->stages;
    if (FN(few_plain_classes)(p)) {
        const double loss =
            FN(loss_of_tile)(p, pass->first, pass->rows, pass->n, FN(output_of)(pass, p->stages - 1), dz);
        if (back) FN(backward_tile)(pass, dz, other);
        return loss;
    }
    const double loss =
        FN(loss_of_rows)(p, pass->first, pass->rows, FN(output_rows)(pass), back ? other : NULL, losses);
    if (!back) return loss;
    if (pass->rows < pass->n) memset(dz, 0, (size_t)(width * TILE) * sizeof(T));
    FN(pack_transposed)(width, pass->rows, other, width, dz, TILE);
    FN(backward_tile)(pass, dz, other);
    return loss;
}

/* ---- a task: some tiles ---- */

static intptr_t FN(take_slot)(network_plan_t *plan) {
    for (;;)
        for (intptr_t i = 0; i < plan->slots; i++)
            if (!atomic_exchange(&plan->taken[i], 1)) return i;
}

/* Adds up the lanes of a task into its sums. */
static void FN(fold_all)(const network_plan_t *plan, const T *lanes, T *sum) {
    for (intptr_t i = plan->lowest; i < plan->p->stages; i++) {
        const place_t *place = plan->place + i;
        const intptr_t width = plan->p->stage[i].width;
        if (place->weight >= 0 && place->lanes >= 0)
            FN(fold_lanes)(width * place->inputs, lanes + place->lanes, sum + place->weight);
        if (place->bias >= 0) FN(fold_lanes)(width, lanes + place->bias_lanes, sum + place->bias);
    }
}

static void FN(tiles_task)(void *context, intptr_t task) {
    network_plan_t *plan = context;
    const intptr_t slot = FN(take_slot)(plan), first = task / plan->parts * plan->rows_a_task;
    const intptr_t left = plan->p->rows - first;
    const intptr_t end = first + (left < plan->rows_a_task ? left : plan->rows_a_task);
    T *values = plan->slot + slot * (plan->values + plan->lanes), *lanes = values + plan->values;
    tile_pass_t pass = {.plan = plan, .values = values, .lanes = lanes, .sum = plan->sum + task * plan->sums};
    pass.part = task % plan->parts;
    double loss = 0;
    memset(lanes, 0, (size_t)plan->lanes * sizeof(T));
    memset(pass.sum, 0, (size_t)plan->sums * sizeof(T));
    for (pass.first = first; pass.first < end; pass.first += TILE) {
        if (*plan->bent || ((pass.first - first) % (16 * TILE) == 15 * TILE && nnf_should_stop())) break;
        pass.rows = end - pass.first < TILE ? end - pass.first : TILE;
        pass.n = (pass.rows + LOGICAL - 1) / LOGICAL * LOGICAL;
        loss += FN(one_tile)(&pass);
    }
    FN(fold_all)(plan, lanes, pass.sum);
    plan->loss_of_task[task] = pass.part ? 0 : loss;
    atomic_store(&plan->taken[slot], 0);
}

/* grad[i] = the sum over tasks of sum[task][i]; 0 without any */
static void FN(add_tasks)(const network_plan_t *plan, intptr_t at, intptr_t n, T *grad) {
    const T *sum = plan->sum + at;
    for (intptr_t i = 0; i < n; i += LANES) {
        const intptr_t lanes = n - i < LANES ? n - i : LANES;
        V total = plan->tasks ? v_load_n(sum + i, lanes) : v_set1(0);
        for (intptr_t task = 1; task < plan->tasks; task++)
            total = total + v_load_n(sum + task * plan->sums + i, lanes);
        v_store_n(grad + i, total, lanes);
    }
}

static int FN(gradient_by_tiles)(network_plan_t *plan, int (*poll)(void)) {
    const nnf_network *p = plan->p;
    if (p->step > 0 && !FN(may_be_straight)(plan)) return NNF_NOT_STRAIGHT;
    for (intptr_t i = 0; i < plan->slots; i++)
        atomic_store(&plan->taken[i], 0);
    atomic_store(plan->bent, 0);
    const int answer = nnf_parallel_polled(plan->tasks, FN(tiles_task), plan, poll);
    if (answer) return answer;
    *p->total = 0;
    for (intptr_t task = 0; task < plan->tasks; task++)
        *p->total += plan->loss_of_task[task];
    if (p->step > 0 && (*plan->bent || !isfinite(*p->total))) return NNF_NOT_STRAIGHT;
    for (intptr_t i = plan->lowest; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        const place_t *place = plan->place + i;
        if (place->weight >= 0) FN(add_tasks)(plan, place->weight, s->width * place->inputs, s->grad_weight);
        if (place->bias >= 0) FN(add_tasks)(plan, place->bias, s->width, s->grad_bias);
    }
    return 0;
}
