/* straight.inc.h - curves that are straight lines to rounding, shown by bounds: one evaluation stands for six.
 *
 * A change of the layer's output by t moves what stands above it by d = u t + (the rest), u being the slopes and
 * weights on the way. `beyond` bounds the rest: an activation that bends (shapes.h) adds to it, a linear layer
 * multiplies it by the largest sum of |W| over a row. Of (phi(t) - phi(-t)) / 2t, the rest of even order drops out but
 * for its product with the bend of a later activation, so that it differs from a constant by 2 second beyond + third
 * d^2 of any part of the sums that it is made of. Where that is below rounding everywhere, u alone is propagated; what
 * it leaves out is less than what the rounding of those sums is.
 *
 * ReLU and its like are straight until an argument reaches their kink, which is seen exactly: |d| >= |x|; or, for kinks
 * at kink_at and -kink_at, |d| >= ||x| - kink_at|.
 */

#undef bound_t
#undef reach_t
#undef straight_plan_t
#undef straight_tile_t
#define bound_t         FN(bound_t)
#define reach_t         FN(reach_t)
#define straight_plan_t FN(straight_plan_t)
#define straight_tile_t FN(straight_tile_t)

/* What a change meets at a stage: the linear layers since the activation below, then a shape. */
typedef struct {
    double growth;
    int behind_first; /* whether the first linear layer is among them, of which a change meets one column alone */
    nnf_shape shape;
} bound_t;

/* How far the changes of a tile are known to lie from lines. */
typedef struct {
    double beyond;
    double column; /* the largest |W[k, o]| of the first linear layer */
    int lost;      /* not known: too far */
} reach_t;

/* ---- bounds ---- */

static double FN(largest_row_sum)(const nnf_stage *s, intptr_t inputs) {
    const T *weight = s->weight;
    double most = 0;
    for (intptr_t k = 0; k < s->width; k++, weight += inputs) {
        double sum = 0;
        for (intptr_t i = 0; i < inputs; i++)
            sum += fabs((double)weight[i]);
        most = sum <= most ? most : sum;
    }
    return most;
}

static double FN(largest_of)(const T *x, intptr_t n) {
    double most = 0;
    for (intptr_t i = 0; i < n; i++)
        most = fabs((double)x[i]) <= most ? most : fabs((double)x[i]);
    return most;
}

static double FN(least)(const T *x, intptr_t n) {
    T least = 0;
    for (intptr_t i = 0; i < n; i++)
        least = x[i] < least ? x[i] : least;
    return (double)least;
}

/* One for each stage, and one for the loss behind the last: the logarithm of a sum of exponentials bends like softplus,
 * and a square by what straight_at_loss says. */
static void FN(bounds_of)(const nnf_above *above, bound_t *bounds) {
    bound_t bound = {1, 0, {0}};
    intptr_t width = above->outputs;
    int linear = 0; /* how many so far */
    for (intptr_t i = 0; i < above->stages; i++) {
        const nnf_stage *s = above->stage + i;
        if (s->measured) {
            const double steepest = FN(largest_of)(s->x, above->rows * width);
            bound.shape = (nnf_shape){steepest, steepest > 0 ? s->alpha / steepest : 0, 0, 1};
            bounds[i] = bound, bound = (bound_t){1, 0, {0}};
        } else if (!s->weight) {
            const int deep = s->activation == NNF_GELU || s->activation == NNF_GELU_TANH;
            bound.shape = nnf_shape_of(s->activation, s->alpha, deep ? FN(least)(s->x, above->rows * width) : 0);
            bounds[i] = bound, bound = (bound_t){1, 0, {0}};
        } else if (linear++ > 0)
            bound.growth *= FN(largest_row_sum)(s, width);
        else
            bound.behind_first = 1;
        width = s->width;
    }
    bound.shape = nnf_shape_of(NNF_SOFTPLUS, 0, 0);
    bounds[above->stages] = bound;
}

/* What is known of the changes of output o before they have met anything. */
static reach_t FN(reach_of)(const nnf_above *above, intptr_t o) {
    reach_t reach = {0, 0, 0};
    intptr_t width = above->outputs;
    for (intptr_t i = 0; i < above->stages; i++) {
        const nnf_stage *s = above->stage + i;
        for (intptr_t k = 0; s->weight && k < s->width; k++) {
            const double size = fabs((double)((const T *)s->weight)[k * width + o]);
            reach.column = size > reach.column ? size : reach.column;
        }
        if (s->weight) break;
    }
    return reach;
}

NNF_INLINE void FN(come_to)(const bound_t *bound, reach_t *reach) {
    reach->beyond *= bound->growth * (bound->behind_first ? reach->column : 1);
}

/* The changes of a tile, at most `most`, come to a stage. */
NNF_INLINE void FN(bend_at)(const bound_t *bound, double most, reach_t *reach) {
    const double second = bound->shape.second, steepest = bound->shape.steepest, far = most + reach->beyond;
    if (second > 0 && !(far * (2 * second > 1 ? 2 * second : 1) <= 0.5)) reach->lost = 1;
    const double bent = reach->beyond + (second > 0 ? 1.5 * second * far * far : 0);
    reach->beyond = steepest > 0 ? steepest * bent : 0;
}

/* How much of its odd part a change loses at a stage when it is taken for a line. */
NNF_INLINE double FN(lost_at)(const bound_t *bound, double most, const reach_t *reach) {
    const double far = most + reach->beyond;
    const double bent = bound->shape.third > 0 ? bound->shape.third * far * far : 0;
    return bent + (bound->shape.second > 0 ? 2 * bound->shape.second * reach->beyond : 0);
}

/* Marks the rows in which an argument x reaches a kink; d (nodes, rows). */
NNF_INLINE void FN(mark_reached)(const T *d, intptr_t nodes, const T *distance, const T *x, double kink_at,
                                 double beyond, intptr_t rows, T *marks) {
    const V at = v_set1((T)kink_at);
    const V slack = v_set1((T)1.001), rest = v_set1((T)(1.001 * beyond)), zero = v_set1(0), one = v_set1(1);
    for (intptr_t n = 0; n < rows; n += LANES) {
        V most = zero;
        for (intptr_t g = 0; g < nodes; g++)
            most = v_max(most, FN(vector_absolute)(v_load(d + g * rows + n)));
        if (distance) most = most * v_load(distance + n);
        most = most * slack + rest;
        const V marked = v_select(most > zero, one, zero);
        const V way = FN(vector_absolute)(FN(vector_absolute)(v_load(x + n)) - at);
        v_store(marks + n, v_select(most < way, v_load(marks + n), marked + v_load(marks + n)));
    }
}

static int FN(is_measured)(const nnf_above *above) {
    int any = 0;
    for (intptr_t i = 0; i < above->stages; i++)
        any |= above->stage[i].measured;
    return any;
}

/* ---- transposed copies: rows are the vector's lanes ---- */

/* from (N, width) -> room (width, padded), filled up with zeros; returns what follows. */
static T *FN(transposed)(intptr_t rows, intptr_t padded, const void *from, intptr_t width, T *room) {
    FN(pack_transposed)(width, rows, from, width, room, padded);
    for (intptr_t k = 0; k < width; k++)
        for (intptr_t n = rows; n < padded; n++)
            room[k * padded + n] = 0;
    return room + width * padded;
}

/* f'(x) */
NNF_INLINE void FN(slope_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, const T *y, T *slope) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(slope + i, FN(backward_of)(f, alpha, v_load(x + i), v_load(y + i), v_set1(1)));
    if (i < n)
        v_store_n(slope + i, FN(backward_of)(f, alpha, v_load_n(x + i, n - i), v_load_n(y + i, n - i), v_set1(1)),
                  n - i);
}

static void FN(slopes_of)(const nnf_stage *s, intptr_t n, T *slope) {
    switch (s->activation) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        FN(slope_loop)(NNF_##id, s->alpha, n, s->x, s->y, slope);                                                      \
        break;
#include "activations.def"
    }
}

/* ---- a tile ---- */

/* What may be lost of a sum: some of the rounding of its terms, or of what measurements leave in doubt. */
#undef ROUNDING
#undef MEASURED
#define ROUNDING (sizeof(T) == 4 ? 3e-8 : 5.5e-17)
#define MEASURED (sizeof(T) == 4 ? 3e-8 : 1e-9)

typedef struct {
    const nnf_curves *p;
    const nnf_above *above;
    intptr_t padded; /* rows, up to whole vectors */
    T **slope, **x;  /* of each activation, (width, padded); x where it has a kink, else NULL */
    bound_t *bounds;
    T *residual;       /* of the loss in its outputs, (width, padded) */
    T *distance;       /* (padded) */
    double far;        /* the largest of them */
    double beside;     /* what `beyond` at the loss is compared with */
    double most_lost;  /* by an odd part at a stage */
    uint8_t *straight; /* (units) */
    intptr_t rows, most_width;
    _Atomic int failed;
} straight_plan_t;

/* d: changes by 1 in `rows` rows from `at` on; those by the distance of a row are so many times as large. */
typedef struct {
    const straight_plan_t *plan;
    intptr_t at, rows;
    reach_t *reach;
    T *marks; /* (rows): not 0 where a kink is reached */
} straight_tile_t;

static void FN(straight_activation)(const void *context, intptr_t stage, intptr_t first, intptr_t lines, T *d) {
    const straight_tile_t *tile = context;
    const straight_plan_t *plan = tile->plan;
    const bound_t *bound = plan->bounds + stage;
    const intptr_t rows = tile->rows, where = first * plan->padded + tile->at;
    reach_t *reach = tile->reach;
    if (reach->lost) return;
    FN(come_to)(bound, reach);
    if (bound->shape.kink)
        for (intptr_t k = 0; k < lines; k++)
            FN(mark_reached)(d + k * rows, 1, plan->distance + tile->at, plan->x[stage] + where + k * plan->padded,
                             bound->shape.kink_at, reach->beyond, rows, tile->marks);
    const double most = bound->shape.second > 0 ? (double)FN(largest)(d, lines * rows) * plan->far : 0;
    if (!(FN(lost_at)(bound, most, reach) <= plan->most_lost)) reach->lost = 1;
    FN(bend_at)(bound, most, reach);
    for (intptr_t k = 0; k < lines; k++)
        for (intptr_t n = 0; n < rows; n += LANES)
            v_store(d + k * rows + n,
                    v_load(d + k * rows + n) * v_load(plan->slope[stage] + where + k * plan->padded + n));
}

/* ---- the loss: the sum of residual times change ---- */

static void FN(straight_at_loss)(const straight_tile_t *tile, double most) {
    const straight_plan_t *plan = tile->plan;
    const bound_t *bound = plan->bounds + plan->above->stages;
    reach_t *reach = tile->reach;
    if (plan->above->loss == NNF_LINEAR) return; /* an even rest drops out, and nothing bends it */
    FN(come_to)(bound, reach);
    if (plan->above->loss == NNF_CROSS_ENTROPY)
        reach->lost |= !(FN(lost_at)(bound, most * plan->far, reach) <= plan->most_lost);
    else
        reach->lost |= !(reach->beyond <= plan->most_lost * plan->beside);
}

static void FN(straight_loss)(const void *context, intptr_t first, intptr_t lines, intptr_t width, const T *d,
                              T *change) {
    const straight_tile_t *tile = context;
    const straight_plan_t *plan = tile->plan;
    const T *residual = plan->residual + first * plan->padded + tile->at;
    (void)width;
    if (tile->reach->lost) return;
    FN(straight_at_loss)(tile, (double)FN(largest)(d, lines * tile->rows));
    for (intptr_t n = 0; n < tile->rows; n += LANES) {
        V sum = v_set1(0);
        for (intptr_t k = 0; k < lines; k++)
            sum = sum + v_load(residual + k * plan->padded + n) * v_load(d + k * tile->rows + n);
        v_store(change + n, sum);
    }
}

static int FN(straight_column)(const void *context, const nnf_stage *s, intptr_t inputs, intptr_t o, const T *d,
                               T *change) {
    const straight_tile_t *tile = context;
    const straight_plan_t *plan = tile->plan;
    const T *weight = (const T *)s->weight + o, *residual = plan->residual + tile->at;
    if (tile->reach->lost) return 1;
    FN(straight_at_loss)(tile, tile->reach->column * (double)FN(largest)(d, tile->rows));
    for (intptr_t n = 0; n < tile->rows; n += LANES) {
        V slope = v_set1(0);
        for (intptr_t k = 0; k < s->width; k++)
            slope = slope + v_load(residual + k * plan->padded + n) * v_set1(weight[k * inputs]);
        v_store(change + n, slope * v_load(d + n));
    }
    return 1;
}

/* ---- a unit ---- */

/* Returns 0 where a tile is not known to be straight. */
static int FN(straight_tiles)(const straight_plan_t *plan, intptr_t o, const buffers_t *given, T *marks) {
    const intptr_t all = plan->above->rows;
    T *level = (T *)plan->p->level + o * all, *bend = (T *)plan->p->bend + o * all;
    uint8_t *doubtful = plan->p->doubtful + o * all;
    int marked = 0;
    for (intptr_t at = 0; at < all && !(at > 0 && nnf_should_stop()); at += plan->rows) {
        const intptr_t rows = plan->padded - at < plan->rows ? plan->padded - at : plan->rows;
        const intptr_t count = all - at < rows ? all - at : rows;
        buffers_t buffers = *given;
        reach_t reach = FN(reach_of)(plan->above, o);
        const straight_tile_t tile = {plan, at, rows, &reach, marks};
        const tile_of_changes_t changes = {rows, FN(straight_activation), FN(straight_column), FN(straight_loss),
                                           &tile};
        for (intptr_t n = 0; n < rows; n++)
            buffers.d[n] = plan->distance[at + n] > 0, marks[n] = 0;
        FN(propagate)(plan->above, &changes, &buffers, o);
        if (reach.lost) return 0;
        for (intptr_t n = 0; n < count; n++) {
            doubtful[at + n] = marks[n] > 0;
            level[at + n] = marks[n] > 0 ? 0 : buffers.change[n], bend[at + n] = 0;
            marked |= marks[n] > 0;
        }
    }
    plan->p->state[o] = (uint8_t)(marked * NNF_HAS_DOUBTFUL);
    return !marked || (plan->p->tolerance >= 0 && !FN(is_measured)(plan->above));
}

static void FN(straight_unit)(void *context, intptr_t task) {
    straight_plan_t *plan = context;
    const size_t rows = (size_t)plan->rows, lines = rows * (size_t)plan->most_width;
    T *memory = malloc((2 * lines + 2 * rows) * sizeof(T));
    const buffers_t buffers = {memory, memory + lines, memory + 2 * lines, NULL};
    if (!memory)
        plan->failed = 1;
    else if (!plan->p->chosen || plan->p->chosen[plan->above->first + task])
        plan->straight[task] =
            (uint8_t)FN(straight_tiles)(plan, plan->above->first + task, &buffers, memory + 2 * lines + rows);
    free(memory);
}

/* ---- the plan ---- */

/* Fills the transposed copies; temporary: N times the largest width. */
static void FN(fill_straight)(straight_plan_t *plan, T *room, T *temporary) {
    const nnf_above *above = plan->above;
    const intptr_t rows = above->rows;
    const T factor = above->loss == NNF_SQUARED_ERROR ? 2 : 1, *residual = above->residual;
    intptr_t width = above->outputs;
    for (intptr_t i = 0; i < above->stages; i++) {
        const nnf_stage *s = above->stage + i;
        width = s->width;
        plan->slope[i] = plan->x[i] = NULL;
        if (s->weight) continue;
        if (!s->measured) FN(slopes_of)(s, rows * width, temporary);
        plan->slope[i] = room;
        room = FN(transposed)(rows, plan->padded, s->measured ? s->x : temporary, width, room);
        if (!plan->bounds[i].shape.kink) continue;
        plan->x[i] = room, room = FN(transposed)(rows, plan->padded, s->measured ? s->y : s->x, width, room);
    }
    double size = 0;
    for (intptr_t i = 0; i < rows * width; i++)
        temporary[i] = factor * residual[i], size += fabs((double)residual[i]);
    plan->residual = room, plan->distance = FN(transposed)(rows, plan->padded, temporary, width, room);
    plan->beside = size / (double)(rows * width);
    for (intptr_t n = 0; n < plan->padded; n++) {
        plan->distance[n] = n < rows ? ((const T *)plan->p->distance)[n] : 0;
        plan->far = (double)plan->distance[n] <= plan->far ? plan->far : (double)plan->distance[n];
    }
}

/* Whether the first activation that bends shows already that nothing is straight. */
static int FN(bends_at_once)(const straight_plan_t *plan) {
    const reach_t reach = {0, 0, 0};
    double far = 0;
    for (intptr_t n = 0; n < plan->above->rows; n++)
        far = (double)((const T *)plan->p->distance)[n] <= far ? far : (double)((const T *)plan->p->distance)[n];
    return plan->above->stages > 0 && !plan->above->stage->weight &&
           !(FN(lost_at)(plan->bounds, far, &reach) <= plan->most_lost);
}

/* Fills in the curves of the units that are straight, and says in straight[] which they are. */
static int FN(straight_curves)(const nnf_curves *p, uint8_t *straight, int (*poll)(void)) {
    const nnf_above *above = &p->above;
    straight_plan_t plan = {.p = p, .above = above, .straight = straight};
    intptr_t width = above->outputs, numbers = 1, widest = width;
    plan.padded = (above->rows + LANES - 1) / LANES * LANES;
    plan.most_width = FN(widest)(above);
    plan.most_lost = FN(is_measured)(above) ? MEASURED : ROUNDING;
    /* the same for every instruction set: whether a tile is straight depends on what is in it */
    plan.rows = NNF_TILE_BYTES / (intptr_t)sizeof(T) / (2 * plan.most_width) / NNF_CURVE_ROWS * NNF_CURVE_ROWS;
    plan.rows = plan.rows < NNF_CURVE_ROWS ? NNF_CURVE_ROWS : plan.rows > NNF_MOST_HALF ? NNF_MOST_HALF : plan.rows;
    for (intptr_t i = 0; i < above->stages; i++) {
        width = above->stage[i].width, widest = width > widest ? width : widest;
        numbers += above->stage[i].weight ? 0 : 2 * width;
    }
    numbers += width + 1;
    const size_t stages = (size_t)above->stages + 1;
    T *memory = malloc(((size_t)numbers * (size_t)plan.padded + (size_t)widest * (size_t)above->rows) * sizeof(T));
    T **arrays = malloc(2 * stages * sizeof *arrays);
    plan.bounds = malloc(stages * sizeof *plan.bounds);
    int answer = memory && arrays && plan.bounds ? 0 : NNF_NO_MEMORY;
    if (!answer) {
        FN(bounds_of)(above, plan.bounds);
        plan.slope = arrays, plan.x = arrays + stages;
        if (!FN(bends_at_once)(&plan)) {
            FN(fill_straight)(&plan, memory, memory + numbers * plan.padded);
            answer = nnf_parallel_polled(above->units, FN(straight_unit), &plan, poll);
        }
        if (plan.failed && !answer) answer = NNF_NO_MEMORY;
    }
    free(memory);
    free(arrays);
    free(plan.bounds);
    return answer;
}
