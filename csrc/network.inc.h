/* network.inc.h - a whole network in one call: forward, the loss, backward, the gradients of all weights.
 *
 * Two ways, chosen by sizes alone.
 *
 * Tiles, for small networks: TILE rows at a time go through all stages, the loss and back, so that what they need stays
 * in the caches. Arrays of a tile are (features, rows): lanes are rows, whatever the widths are. Tasks are ranges of
 * tiles; each sums its own gradients, and those are added in the order of the tasks.
 *
 * Layers, for wide networks: all rows through one stage after another, (rows, features), each product on all threads.
 *
 * A weight's gradient is a sum over rows. Where a layer has few inputs (or outputs) its sums are vectors of LOGICAL
 * lanes, 64 bytes on every instruction set, so that AVX2 adds in the order of AVX-512; they are added up at the end of
 * a task. Otherwise it is a product whose columns are inputs.
 */

#undef place_t
#undef network_plan_t
#undef tile_pass_t
#define place_t        FN(place_t)
#define network_plan_t FN(network_plan_t)
#define tile_pass_t    FN(tile_pass_t)

#undef TILE
#undef LOGICAL
#define LOGICAL ((intptr_t)(64 / sizeof(T)))
#define TILE    (NNF_TILE_LANES * LOGICAL) /* rows */

/* Where a stage keeps what, counted in elements from the start of an array. */
typedef struct {
    intptr_t inputs;            /* width of the stage below */
    intptr_t y;                 /* its output, among the values of a tile or of all rows */
    intptr_t slope;             /* activation of a tile: f'(x); -1 without a loss */
    intptr_t weight, bias;      /* linear: its gradients among the sums of a task; -1: not wanted */
    intptr_t lanes, bias_lanes; /* and among its sums of lanes; -1: the weight's are not in lanes */
} place_t;

typedef struct {
    const nnf_network *p;
    place_t *place;
    intptr_t lowest;               /* the lowest stage with a gradient that is wanted */
    intptr_t widest;               /* of the input and all stages */
    intptr_t tasks, rows_a_task;   /* tiles */
    intptr_t values, sums, lanes;  /* elements of a slot, of the sums of a task, of the sums of lanes of a slot */
    intptr_t slots;                /* buffers for tasks that run at the same time */
    _Atomic int *taken;            /* (slots): whether a task uses it */
    T *slot, *sum;                 /* (slots, values + lanes), (tasks, sums) */
    double *losses, *loss_of_task; /* (N), (tasks) */
} network_plan_t;

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

/* ---- the loss of some rows ---- */

/* y: (rows, classes), contiguous; grad, of the same shape, may be NULL. Returns the sum of the losses of the rows. */
static double FN(loss_of_rows)(const nnf_network *p, intptr_t first, intptr_t rows, const T *y, T *grad,
                               double *losses) {
    const intptr_t width = p->stage[p->stages - 1].width;
    double sum = 0;
    if (p->loss == NNF_CROSS_ENTROPY) {
        nnf_softmax_cross_entropy q = *p->cross_entropy;
        q.rows = rows, q.classes = width, q.logits = y, q.logits_row = width;
        if (q.labels) q.labels += first;
        if (q.targets) q.targets = (const T *)q.targets + first * width;
        q.grad = grad, q.losses = losses;
        FN(softmax_cross_entropy)(&q);
        for (intptr_t r = 0; r < rows; r++)
            sum += losses[r];
        return sum;
    }
    const T *t = (const T *)p->targets + first * width;
    const T factor = (T)(2 * p->scale);
    for (intptr_t i = 0; i < rows * width; i++) {
        const T residual = y[i] - t[i];
        sum += (double)residual * (double)residual;
        if (grad) grad[i] = residual * factor;
    }
    return sum;
}

/* ---- a tile ---- */

typedef struct {
    const network_plan_t *plan;
    intptr_t first, rows, n; /* rows of the tile; n: the same in whole logical vectors */
    T *values, *lanes;       /* of the slot */
    T *sum;                  /* of the task */
} tile_pass_t;

/* The input and the output of stage s in this tile, (width, TILE). */
NNF_INLINE T *FN(output_of)(const tile_pass_t *pass, intptr_t s) {
    return pass->values + (s < 0 ? 0 : pass->plan->place[s].y);
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

static void FN(forward_tile)(const tile_pass_t *pass) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        const T *x = FN(output_of)(pass, i - 1);
        T *y = FN(output_of)(pass, i);
        if (s->weight)
            FN(forward_linear)(s, plan->place[i].inputs, pass->n, x, y);
        else
            FN(activate)(s, pass->n, x, y, plan->place[i].slope < 0 ? NULL : pass->values + plan->place[i].slope);
    }
    const intptr_t width = p->stage[p->stages - 1].width;
    FN(pack_transposed)(pass->rows, width, FN(output_of)(pass, p->stages - 1), TILE, (T *)p->y + pass->first * width,
                        width);
}

/* The gradients of stage i's weight and bias, from dz (width, TILE). spare: (inputs, TILE) */
static void FN(add_gradients)(const tile_pass_t *pass, intptr_t i, const T *dz, T *spare) {
    const nnf_stage *s = pass->plan->p->stage + i;
    const place_t *place = pass->plan->place + i;
    const intptr_t inputs = place->inputs;
    const T *x = FN(output_of)(pass, i - 1);
    if (place->bias >= 0) FN(add_rows_in_lanes)(s->width, pass->n, dz, pass->lanes + place->bias_lanes);
    if (place->weight < 0) return;
    if (place->lanes >= 0) {
        FN(add_products_in_lanes)(s->width, inputs, pass->n, dz, x, pass->lanes + place->lanes);
        return;
    }
    const T *rows = (const T *)pass->plan->p->x + pass->first * inputs;
    if (i > 0) {
        FN(pack_transposed)(pass->rows, inputs, x, TILE, spare, inputs);
        rows = spare;
    }
    const tile_t t = {.k = pass->rows, .a_row = TILE, .a_col = 1, .b_row = inputs, .c_row = inputs, .add = 1};
    FN(product_in_place)(s->width, inputs, t, dz, rows, pass->sum + place->weight);
}

/* From the gradient of the output, (width, TILE), down to the lowest stage with gradients. */
static void FN(backward_tile)(const tile_pass_t *pass, T *dz, T *other) {
    const network_plan_t *plan = pass->plan;
    for (intptr_t i = plan->p->stages - 1; i >= plan->lowest; i--) {
        const nnf_stage *s = plan->p->stage + i;
        const place_t *place = plan->place + i;
        if (!s->weight) {
            FN(times_slope)(s->width, pass->n, pass->values + place->slope, dz);
            continue;
        }
        FN(add_gradients)(pass, i, dz, other);
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
    const T *y = (const T *)p->y + pass->first * width;
    const int back = plan->lowest < p->stages;
    const double loss =
        FN(loss_of_rows)(p, pass->first, pass->rows, y, back ? other : NULL, plan->losses + pass->first);
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
    const intptr_t slot = FN(take_slot)(plan), first = task * plan->rows_a_task, left = plan->p->rows - first;
    const intptr_t end = first + (left < plan->rows_a_task ? left : plan->rows_a_task);
    T *values = plan->slot + slot * (plan->values + plan->lanes), *lanes = values + plan->values;
    tile_pass_t pass = {.plan = plan, .values = values, .lanes = lanes, .sum = plan->sum + task * plan->sums};
    double loss = 0;
    memset(lanes, 0, (size_t)plan->lanes * sizeof(T));
    memset(pass.sum, 0, (size_t)plan->sums * sizeof(T));
    for (pass.first = first; pass.first < end && !nnf_should_stop(); pass.first += TILE) {
        pass.rows = end - pass.first < TILE ? end - pass.first : TILE;
        pass.n = (pass.rows + LOGICAL - 1) / LOGICAL * LOGICAL;
        loss += FN(one_tile)(&pass);
    }
    FN(fold_all)(plan, lanes, pass.sum);
    plan->loss_of_task[task] = loss;
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
    for (intptr_t i = 0; i < plan->slots; i++)
        atomic_store(&plan->taken[i], 0);
    const int answer = nnf_parallel_polled(plan->tasks, FN(tiles_task), plan, poll);
    if (answer) return answer;
    *p->total = 0;
    for (intptr_t task = 0; task < plan->tasks; task++)
        *p->total += plan->loss_of_task[task];
    for (intptr_t i = plan->lowest; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        const place_t *place = plan->place + i;
        if (place->weight >= 0) FN(add_tasks)(plan, place->weight, s->width * place->inputs, s->grad_weight);
        if (place->bias >= 0) FN(add_tasks)(plan, place->bias, s->width, s->grad_bias);
    }
    return 0;
}

/* ---- layers: all rows through one stage after another ---- */

/* What a layer gave, (N, width). */
NNF_INLINE T *FN(rows_of)(const network_plan_t *plan, intptr_t s) {
    if (s < 0) return (T *)plan->p->x;                        /* is only read, */
    if (plan->p->stage[s].y) return (T *)plan->p->stage[s].y; /* and so is this */
    return s + 1 == plan->p->stages ? plan->p->y : plan->slot + plan->place[s].y;
}

static void FN(forward_layer)(const network_plan_t *plan, intptr_t i) {
    const nnf_network *p = plan->p;
    const nnf_stage *s = p->stage + i;
    const intptr_t inputs = plan->place[i].inputs;
    if (!s->weight) {
        FN(activation_forward)(s->activation, s->alpha, p->rows * s->width, FN(rows_of)(plan, i - 1),
                               FN(rows_of)(plan, i));
        return;
    }
    const nnf_matmul product = {.batch = 1,
                                .m = p->rows,
                                .n = s->width,
                                .k = inputs,
                                .a = FN(rows_of)(plan, i - 1),
                                .a_row = inputs,
                                .a_col = 1,
                                .b = s->weight,
                                .b_row = 1,
                                .b_col = inputs,
                                .c = FN(rows_of)(plan, i),
                                .c_row = s->width,
                                .bias = s->bias};
    FN(matmul)(&product);
}

/* The gradients of a linear layer from dz (N, width): dz^T x, and a row of ones times dz. */
static void FN(gradients_of_layer)(const network_plan_t *plan, intptr_t i, const T *dz) {
    static const T one = 1;
    const nnf_network *p = plan->p;
    const nnf_stage *s = p->stage + i;
    const intptr_t inputs = plan->place[i].inputs;
    const nnf_matmul weight = {.batch = 1,
                               .m = s->width,
                               .n = inputs,
                               .k = p->rows,
                               .a = dz,
                               .a_row = 1,
                               .a_col = s->width,
                               .b = FN(rows_of)(plan, i - 1),
                               .b_row = inputs,
                               .b_col = 1,
                               .c = s->grad_weight,
                               .c_row = inputs};
    const nnf_matmul bias = {.batch = 1,
                             .m = 1,
                             .n = s->width,
                             .k = p->rows,
                             .a = &one,
                             .b = dz,
                             .b_row = s->width,
                             .b_col = 1,
                             .c = s->grad_bias,
                             .c_row = s->width};
    if (s->grad_weight) FN(matmul)(&weight);
    if (s->grad_bias) FN(matmul)(&bias);
}

/* dz: the gradient of stage i's output; returns that of its input, in `other` or in place. */
static T *FN(backward_layer)(const network_plan_t *plan, intptr_t i, T *dz, T *other) {
    const nnf_network *p = plan->p;
    const nnf_stage *s = p->stage + i;
    const intptr_t inputs = plan->place[i].inputs;
    if (!s->weight) {
        FN(activation_backward)(s->activation, s->alpha, p->rows * s->width, FN(rows_of)(plan, i - 1),
                                FN(rows_of)(plan, i), dz, dz);
        return dz;
    }
    FN(gradients_of_layer)(plan, i, dz);
    if (i == plan->lowest) return dz;
    const nnf_matmul product = {.batch = 1,
                                .m = p->rows,
                                .n = inputs,
                                .k = s->width,
                                .a = dz,
                                .a_row = s->width,
                                .a_col = 1,
                                .b = s->weight,
                                .b_row = inputs,
                                .b_col = 1,
                                .c = other,
                                .c_row = inputs};
    FN(matmul)(&product);
    return other;
}

/* Whether to stop: calls poll every 50 ms. */
static int FN(asked)(int (*poll)(void), int64_t *polled) {
    if (!poll) return 0;
    const int64_t now = nnf_nanoseconds();
    if (now - *polled < NNF_POLL_NANOSECONDS) return 0;
    *polled = now;
    return poll();
}

static int FN(gradient_by_layers)(const network_plan_t *plan, int (*poll)(void)) {
    const nnf_network *p = plan->p;
    const intptr_t last = p->stages - 1;
    int64_t polled = poll ? nnf_nanoseconds() : 0;
    int answer = 0;
    T *dz = plan->slot + plan->values - 2 * p->rows * plan->widest, *other = dz + p->rows * plan->widest;
    for (intptr_t i = 0; i <= last && !answer; i++) {
        if (!p->stage[i].y) FN(forward_layer)(plan, i);
        answer = FN(asked)(poll, &polled);
    }
    *p->total = 0;
    if (answer || p->loss == NNF_NO_LOSS) return answer;
    *p->total =
        FN(loss_of_rows)(p, 0, p->rows, FN(rows_of)(plan, last), plan->lowest <= last ? dz : NULL, plan->losses);
    for (intptr_t i = last; i >= plan->lowest && !answer; i--) {
        T *const below = FN(backward_layer)(plan, i, dz, other);
        if (below == other) other = dz, dz = below;
        answer = FN(asked)(poll, &polled);
    }
    return answer;
}

/* ---- the plan ---- */

static double FN(flops_of_row)(const nnf_network *p) {
    double flops = 0, inputs = (double)p->inputs;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        flops += (double)s->width * (s->weight ? 6 * inputs : 60);
        inputs = (double)s->width;
    }
    return flops;
}

static intptr_t FN(weights_of)(const nnf_network *p) {
    intptr_t weights = 0, inputs = p->inputs;
    for (intptr_t i = 0; i < p->stages; i++) {
        if (p->stage[i].weight) weights += inputs * p->stage[i].width;
        inputs = p->stage[i].width;
    }
    return weights;
}

/* A product with inputs for columns needs as many as a vector has lanes to be worth it, and some outputs to be worth
 * the transposition of its inputs, which those of the lowest stage do not need. */
NNF_INLINE int FN(sums_in_lanes)(intptr_t stage, intptr_t inputs, intptr_t width) {
    return inputs < LOGICAL || (stage > 0 && width < LOGICAL / 2);
}

NNF_INLINE intptr_t FN(whole_lines)(intptr_t n) { return (n + LOGICAL - 1) / LOGICAL * LOGICAL; }

/* Where everything is. places: (stages), or NULL: to count alone. */
static void FN(place_all)(network_plan_t *plan, intptr_t rows, int tiles, place_t *places) {
    const nnf_network *p = plan->p;
    intptr_t inputs = p->inputs, at = 0, y = 0;
    plan->widest = inputs, plan->lowest = p->stages;
    plan->values = plan->sums = plan->lanes = 0;
    if (tiles) at = inputs * rows;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        place_t place = {inputs, y, -1, -1, -1, -1, -1};
        if (s->weight || !tiles) { /* in a tile, f(x) takes the place of x */
            place.y = y = at;
            at += FN(whole_lines)(s->width * rows);
        }
        if (!s->weight && tiles && p->loss != NNF_NO_LOSS) {
            place.slope = at;
            at += s->width * rows;
        }
        if ((s->grad_weight || s->grad_bias) && plan->lowest > i) plan->lowest = i;
        if (s->grad_weight) {
            place.weight = plan->sums;
            plan->sums += FN(whole_lines)(inputs * s->width);
            if (FN(sums_in_lanes)(i, inputs, s->width)) {
                place.lanes = plan->lanes;
                plan->lanes += inputs * s->width * LOGICAL;
            }
        }
        if (s->grad_bias) {
            place.bias = plan->sums, place.bias_lanes = plan->lanes;
            plan->sums += FN(whole_lines)(s->width);
            plan->lanes += s->width * LOGICAL;
        }
        inputs = s->width;
        if (inputs > plan->widest) plan->widest = inputs;
        if (places) places[i] = place;
    }
    plan->values = at + 2 * FN(whole_lines)(plan->widest * rows);
}

/* The plan for memory at `memory`, or NULL to count; returns how many bytes it takes. */
static size_t FN(make_plan)(network_plan_t *plan, const nnf_network *p, char *memory) {
    const int tiles = FN(weights_of)(p) <= NNF_TILED_WEIGHTS;
    const double flops = FN(flops_of_row)(p) * (double)TILE;
    size_t size = 0;
    *plan = (network_plan_t){.p = p, .tasks = 1, .slots = 1};
    if (tiles) {
        const intptr_t all = (p->rows + TILE - 1) / TILE;
        intptr_t each = (all + NNF_TILE_TASKS - 1) / NNF_TILE_TASKS;
        if ((double)each < NNF_TILE_TASK_FLOPS / flops) each = (intptr_t)(NNF_TILE_TASK_FLOPS / flops) + 1;
        plan->rows_a_task = each * TILE;
        plan->tasks = (all + each - 1) / each;
        plan->slots = plan->tasks < p->threads ? plan->tasks : p->threads;
        if (plan->slots < 1) plan->slots = 1;
    }
#define NNF_TAKE(member, type, count)                                                                                  \
    plan->member = (type *)(memory ? memory + size : NULL);                                                            \
    size += ((size_t)(count) * sizeof(type) + 63) / 64 * 64
    NNF_TAKE(place, place_t, p->stages);
    FN(place_all)(plan, tiles ? TILE : p->rows, tiles, plan->place);
    if (!tiles) plan->sums = plan->lanes = 0;
    NNF_TAKE(taken, _Atomic int, plan->slots);
    NNF_TAKE(losses, double, p->rows);
    NNF_TAKE(loss_of_task, double, plan->tasks);
    NNF_TAKE(slot, T, plan->slots * (plan->values + plan->lanes));
    NNF_TAKE(sum, T, plan->tasks * plan->sums);
#undef NNF_TAKE
    return size;
}

static size_t FN(network_memory)(const nnf_network *p) {
    network_plan_t plan;
    return FN(make_plan)(&plan, p, NULL);
}

static int FN(network)(const nnf_network *p, void *memory, int (*poll)(void)) {
    network_plan_t plan;
    FN(make_plan)(&plan, p, memory);
    if (p->rows == 0) plan.tasks = 0;
    return plan.rows_a_task ? FN(gradient_by_tiles)(&plan, poll) : FN(gradient_by_layers)(&plan, poll);
}
