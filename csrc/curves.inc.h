/* curves.inc.h - the loss of each row as a function of one number: an output of a linear layer.
 *
 * As in difference.inc.h a column of changes travels upwards, but here the changes of a tile are six for each row of
 * the mini-batch (NODES), and rows are the vector's lanes: the inputs and outputs of the layers above, the
 * probabilities and the labels are read as vectors, from transposed copies. What straight.inc.h has answered already is
 * left out.
 *
 * Six samples see no jump or kink that lies between them. So rows in which an argument reaches one are doubtful
 * whatever the samples say, and so are those in which one moves so far that more may happen in between.
 */

#undef curve_plan_t
#undef rows_tile_t
#define curve_plan_t FN(curve_plan_t)
#define rows_tile_t  FN(rows_tile_t)

typedef struct {
    const nnf_curves *p;
    const nnf_above *above;
    intptr_t padded;                   /* rows, up to whole vectors; the transposed copies have zeros there */
    T **x, **y;                        /* of each stage, (width, padded); NULL for a linear one */
    T *probability, *label, *residual; /* (width, padded) */
    double *inverse;                   /* (padded): 1 / (2 distance), or 0 */
    T *distance;                       /* (padded) */
    entropy_row_t *known;              /* (padded), for a cross-entropy */
    bound_t *bounds;
    const uint8_t *straight;   /* (units): 1 where nothing is left to do */
    intptr_t rows, most_width; /* of a tile; of what stands above */
    _Atomic int failed;
} curve_plan_t;

/* The changes of some rows, from `at` on. factor: room for `widest` numbers. marks: (rows), not 0 where a
 * row is doubtful whatever its samples say. */
typedef struct {
    const curve_plan_t *plan;
    intptr_t at, rows;
    T *factor, *marks;
    reach_t *reach;
} rows_tile_t;

/* ---- what lies between the samples ---- */

/* Marks the rows in which a change leaves the range where a few terms say all, of lines with NODES changes each. */
static void FN(mark_far)(const bound_t *bound, const reach_t *reach, const T *d, intptr_t lines, intptr_t rows,
                         T *marks) {
    const double second = bound->shape.second, limit = 0.5 / (2 * second > 1 ? 2 * second : 1) - reach->beyond;
    const V most = v_set1((T)(limit > 0 ? limit : 0)), zero = v_set1(0), one = v_set1(1);
    for (intptr_t line = 0; line < lines * NNF_NODES; line++)
        for (intptr_t n = 0; n < rows; n += LANES) {
            const V size = FN(vector_absolute)(v_load(d + line * rows + n));
            v_store(marks + n, v_load(marks + n) + v_select(size <= most, zero, one));
        }
}

/* What comes to an activation or the loss, seen before it is changed there. */
static void FN(look_between)(const rows_tile_t *tile, intptr_t stage, intptr_t first, intptr_t lines, const T *d) {
    const curve_plan_t *plan = tile->plan;
    const bound_t *bound = plan->bounds + stage;
    const intptr_t rows = tile->rows, line = NNF_NODES * rows;
    reach_t *reach = tile->reach;
    if (plan->p->tolerance < 0) return;
    FN(come_to)(bound, reach);
    if (bound->shape.kink)
        for (intptr_t k = 0; k < lines; k++)
            FN(mark_reached)(d + k * line, NNF_NODES, NULL, plan->x[stage] + (first + k) * plan->padded + tile->at,
                             bound->shape.kink_at, reach->beyond, rows, tile->marks);
    if (bound->shape.second > 0) FN(mark_far)(bound, reach, d, lines, rows, tile->marks);
    FN(bend_at)(bound, (double)FN(largest)(d, lines * line), reach);
    if (reach->lost) reach->beyond = HUGE_VAL, reach->lost = 0;
}

/* d (lines, NODES, rows): lines first .. first + lines - 1 of a stage, for the rows from `at` on. */
NNF_INLINE void FN(curve_of_activation)(nnf_activation f, const curve_plan_t *plan, intptr_t stage, intptr_t first,
                                        intptr_t lines, intptr_t at, intptr_t rows, T *d) {
    const double alpha = plan->above->stage[stage].alpha;
    const int small = FN(largest)(d, lines * NNF_NODES * rows) * 2 <= (T)NNF_SMALL;
    for (intptr_t k = 0; k < lines; k++)
        for (intptr_t n = 0; n < rows; n += LANES) {
            const intptr_t where = (first + k) * plan->padded + at + n;
            const V x = v_load(plan->x[stage] + where), y = v_load(plan->y[stage] + where);
            const V slope = FN(backward_of)(f, alpha, x, y, v_set1(1));
            T *of_line = d + k * NNF_NODES * rows + n;
            if (small && (f == NNF_SIGMOID || f == NNF_TANH))
                for (int g = 0; g < NNF_NODES; g++, of_line += rows)
                    v_store(of_line, FN(difference_near)(f, alpha, x, y, slope, v_load(of_line), 1));
            else
                for (int g = 0; g < NNF_NODES; g++, of_line += rows)
                    v_store(of_line, FN(difference_near)(f, alpha, x, y, slope, v_load(of_line), 0));
        }
}

static void FN(activation_curve)(const void *context, intptr_t stage, intptr_t first, intptr_t lines, T *d) {
    const rows_tile_t *tile = context;
    FN(look_between)(tile, stage, first, lines, d);
    switch (tile->plan->above->stage[stage].activation) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        FN(curve_of_activation)(NNF_##id, tile->plan, stage, first, lines, tile->at, tile->rows, d);                   \
        break;
#include "activations.def"
    }
}

/* ---- losses: as in difference.inc.h, for vectors of rows ---- */

/* Of LANES rows: the number of each one's lead, `line` numbers from one class to the next, `row` from row to row. */
NNF_INLINE V FN(gathered)(const entropy_row_t *known, const T *from, intptr_t line, intptr_t row) {
    T lanes[LANES];
    for (intptr_t r = 0; r < LANES; r++)
        lanes[r] = from[known[r].lead * line + r * row];
    return v_load(lanes);
}

NNF_INLINE V FN(totals)(const entropy_row_t *known) {
    T lanes[LANES];
    for (intptr_t r = 0; r < LANES; r++)
        lanes[r] = known[r].total;
    return v_load(lanes);
}

/* As entropy_change in difference.inc.h, for vectors of rows. */
NNF_INLINE void FN(entropy_lines_of_rows)(const entropy_t *numbers, const entropy_row_t *known, intptr_t lines,
                                          const T *d, T *change, intptr_t rows, int small) {
    for (intptr_t n = 0; n < rows; n += LANES) {
        const entropy_t at = {numbers->p + n, numbers->q + n, numbers->r + n, numbers->stride};
        const V total = FN(totals)(known + n);
        for (intptr_t r = n; r < NNF_NODES * rows; r += rows) {
            const V lead = FN(gathered)(known + n, d + r, NNF_NODES * rows, 1);
            v_store(change + r, FN(entropy_of_lines)(&at, lines, d + r, NNF_NODES * rows, lead, total, 1, small));
        }
    }
}

NNF_INLINE void FN(entropy_one_of_rows)(const entropy_t *at, const entropy_row_t *known, intptr_t first, const T *d,
                                        T *change, intptr_t rows, int small) {
    for (intptr_t n = 0; n < rows; n += LANES) {
        T p[LANES], q[LANES], sign[LANES];
        for (intptr_t r = 0; r < LANES; r++) {
            const int leads = known[n + r].lead == first;
            p[r] = leads ? known[n + r].rest : at->p[n + r];
            q[r] = leads ? known[n + r].others : at->q[n + r];
            sign[r] = leads ? -1 : 1;
        }
        const V total = FN(totals)(known + n);
        for (intptr_t r = n; r < NNF_NODES * rows; r += rows)
            v_store(change + r, FN(entropy_of_one)(v_load(p), v_load(q), v_load(at->r + n), v_load(sign), total,
                                                   v_load(d + r), small));
    }
}

NNF_INLINE void FN(entropy_curve)(const entropy_t *at, const entropy_row_t *known, intptr_t first, intptr_t lines,
                                  intptr_t width, const T *d, T *change, intptr_t rows, int small) {
    if (lines == width)
        FN(entropy_lines_of_rows)(at, known, lines, d, change, rows, small);
    else
        FN(entropy_one_of_rows)(at, known, first, d, change, rows, small);
}

static void FN(squared_error_rows)(nnf_loss loss, const T *residual, intptr_t stride, intptr_t width, const T *d,
                                   T *change, intptr_t rows) {
    const intptr_t line = NNF_NODES * rows;
    const V first = FN(residual_part)(loss), square = FN(square_part)(loss);
    for (intptr_t g = 0; g < NNF_NODES; g++)
        for (intptr_t n = 0; n < rows; n += LANES) {
            V sum = v_set1(0);
            for (intptr_t k = 0; k < width; k++) {
                const V v = v_load(d + k * line + g * rows + n), r = v_load(residual + k * stride + n);
                sum = sum + v * (first * r + square * v);
            }
            v_store(change + g * rows + n, sum);
        }
}

static void FN(far_curve)(const curve_plan_t *plan, intptr_t at, intptr_t first, intptr_t lines, const T *d, T *change,
                          intptr_t rows) {
    for (intptr_t n = 0; n < rows && at + n < plan->above->rows; n++)
        FN(entropy_far)(plan->above, at + n, first, lines, d + n, NNF_NODES * rows, change + n, NNF_NODES, rows);
}

static void FN(loss_curve)(const void *context, intptr_t first, intptr_t lines, intptr_t width, const T *d, T *change) {
    const rows_tile_t *tile = context;
    const curve_plan_t *plan = tile->plan;
    const intptr_t at = tile->at, rows = tile->rows;
    const intptr_t where = first * plan->padded + at;
    if (plan->above->loss != NNF_CROSS_ENTROPY) { /* of the second degree at most: samples say all */
        FN(squared_error_rows)(plan->above->loss, plan->residual + where, plan->padded, lines, d, change, rows);
        return;
    }
    FN(look_between)(tile, plan->above->stages, first, lines, d);
    const entropy_t numbers = {plan->probability + where, plan->label + where, plan->residual + where, plan->padded};
    const entropy_row_t *known = plan->known + at;
    const T most = FN(largest)(d, lines * NNF_NODES * rows);
    if (2 * most <= (T)NNF_SMALL)
        FN(entropy_curve)(&numbers, known, first, lines, width, d, change, rows, 1);
    else if (most <= 1)
        FN(entropy_curve)(&numbers, known, first, lines, width, d, change, rows, 0);
    else
        FN(far_curve)(plan, at, first, lines, d, change, rows);
}

/* ---- the last linear layer and the loss, for a column: as rank_one_loss ---- */

static void FN(entropy_of_column_rows)(const curve_plan_t *plan, intptr_t at, intptr_t classes, int terms,
                                       const T *factor, const T *d, T *change, intptr_t rows) {
    for (intptr_t n = 0; n < rows; n += LANES) {
        const entropy_row_t *known = plan->known + at + n;
        const entropy_t numbers = {plan->probability + at + n, NULL, plan->residual + at + n, plan->padded};
        V moment[MOST_TERMS + 1];
        const V total = FN(totals)(known), lead = FN(gathered)(known, factor, 1, 0);
        const V slope = FN(entropy_moments)(&numbers, classes, factor, 1, lead, terms, moment, 1);
        for (intptr_t r = n; r < NNF_NODES * rows; r += rows)
            v_store(change + r, FN(entropy_series)(moment, terms, slope, total, v_load(d + r)));
    }
}

static void FN(squared_error_of_column_rows)(const curve_plan_t *plan, intptr_t at, intptr_t width, const T *factor,
                                             const T *d, T *change, intptr_t rows) {
    V square = v_set1(0);
    for (intptr_t k = 0; k < width; k++)
        square = square + v_set1(factor[k] * factor[k]);
    square = square * FN(square_part)(plan->above->loss);
    for (intptr_t n = 0; n < rows; n += LANES) {
        V slope = v_set1(0);
        for (intptr_t k = 0; k < width; k++)
            slope = slope + v_load(plan->residual + k * plan->padded + at + n) * v_set1(factor[k]);
        slope = slope * FN(residual_part)(plan->above->loss);
        for (intptr_t r = n; r < NNF_NODES * rows; r += rows)
            v_store(change + r, v_load(d + r) * (slope + square * v_load(d + r)));
    }
}

static int FN(column_curve)(const void *context, const nnf_stage *s, intptr_t inputs, intptr_t o, const T *d,
                            T *change) {
    const rows_tile_t *tile = context;
    const curve_plan_t *plan = tile->plan;
    const intptr_t at = tile->at, rows = tile->rows;
    T *factor = tile->factor;
    const T *weight = (const T *)s->weight + o;
    double most = -HUGE_VAL, least = HUGE_VAL;
    for (intptr_t k = 0; k < s->width; k++) {
        factor[k] = weight[k * inputs];
        most = (double)factor[k] > most ? (double)factor[k] : most;
        least = (double)factor[k] < least ? (double)factor[k] : least;
    }
    if (plan->above->loss != NNF_CROSS_ENTROPY) {
        FN(squared_error_of_column_rows)(plan, at, s->width, factor, d, change, rows);
        return 1;
    }
    const double bound = (most - least) * (double)FN(largest)(d, NNF_NODES * rows);
    if (!(bound <= NNF_SMALL)) return 0;
    FN(come_to)(plan->bounds + plan->above->stages, tile->reach);
    if (!(tile->reach->beyond <= 0.4))
        for (intptr_t n = 0; n < rows; n++)
            tile->marks[n] = 1;
    FN(entropy_of_column_rows)(plan, at, s->width, FN(terms_for)(bound), factor, d, change, rows);
    return 1;
}

/* ---- a tile ---- */

static const double FN(node)[] = {1, 0.8, 0.5};

static void FN(fill_nodes)(const curve_plan_t *plan, T *d, intptr_t at, intptr_t o, intptr_t rows) {
    const T *columns = plan->p->columns;
    for (int g = 0; g < NNF_NODES; g++)
        for (intptr_t n = 0; n < rows; n++) {
            const T t = (T)FN(node)[g / 2] * plan->distance[at + n];
            const intptr_t row = at + n;
            if (!columns)
                d[g * rows + n] = g % 2 ? -t : t;
            else
                d[g * rows + n] = row < plan->above->rows ? columns[(o * NNF_NODES + g) * plan->above->rows + row] : 0;
        }
}

/* (phi(t) - phi(-t)) / 2t at the nodes, and from it level, bend, and the error in the middle; that of marked rows is
 * infinite. */
static void FN(fit)(const curve_plan_t *plan, const T *change, const T *marks, intptr_t at, intptr_t rows, T *level,
                    T *bend, T *off) {
    const intptr_t count = plan->above->rows - at < rows ? plan->above->rows - at : rows;
    for (intptr_t n = 0; n < count; n++) {
        const double inverse = plan->inverse[at + n];
        double value[3];
        for (int j = 0; j < 3; j++)
            value[j] =
                ((double)change[2 * j * rows + n] - (double)change[(2 * j + 1) * rows + n]) * (inverse / FN(node)[j]);
        const double bent = (value[0] - value[2]) / 0.75, flat = value[0] - bent;
        level[at + n] = (T)flat;
        bend[at + n] = (T)bent;
        off[at + n] = marks[n] > 0 && inverse > 0 ? (T)HUGE_VAL : (T)fabs(value[1] - (flat + 0.64 * bent));
    }
}

/* Which rows are farther off than the mean level of the unit allows; and whether the others may do without a bend. */
static uint8_t FN(judge)(const curve_plan_t *plan, T *level, T *bend, const T *off, uint8_t *doubtful) {
    const intptr_t rows = plan->above->rows;
    const T *distance = plan->distance;
    double mean = 0;
    if (plan->p->tolerance < 0) {
        for (intptr_t n = 0; n < rows; n++) {
            doubtful[n] = 0;
            level[n] += bend[n], bend[n] = 0;
        }
        return 0;
    }
    for (intptr_t n = 0; n < rows; n++)
        mean += fabs((double)level[n] * (double)distance[n]);
    const double most = plan->p->tolerance * mean / (double)rows;
    int some_doubtful = 0, some_bend = 0;
    for (intptr_t n = 0; n < rows; n++) {
        doubtful[n] = !((double)off[n] * (double)distance[n] <= most);
        if (doubtful[n]) level[n] = bend[n] = 0;
        some_doubtful |= doubtful[n];
        some_bend |= fabs((double)bend[n] * (double)distance[n]) > most;
    }
    for (intptr_t n = 0; n < rows && !some_bend; n++)
        level[n] += bend[n] / 2, bend[n] = 0;
    return (uint8_t)(some_doubtful * NNF_HAS_DOUBTFUL + some_bend * NNF_HAS_BEND);
}

static void FN(unit_curve)(void *context, intptr_t task) {
    curve_plan_t *plan = context;
    const nnf_above *above = plan->above;
    const intptr_t o = above->first + task, at_unit = o * above->rows;
    const size_t line = NNF_NODES * (size_t)plan->rows, lines = line * (size_t)plan->most_width;
    const size_t factors = (size_t)plan->most_width;
    if (plan->straight[task]) return;
    T *memory = malloc((2 * lines + line + factors + (size_t)above->rows + (size_t)plan->rows) * sizeof(T));
    if (!memory) {
        plan->failed = 1;
        return;
    }
    buffers_t buffers = {memory, memory + lines, memory + 2 * lines, NULL};
    T *factor = memory + 2 * lines + line, *off = factor + factors, *marks = off + above->rows;
    T *level = (T *)plan->p->level + at_unit, *bend = (T *)plan->p->bend + at_unit;
    for (intptr_t at = 0; at < above->rows && !(at > 0 && nnf_should_stop()); at += plan->rows) {
        const intptr_t rows = plan->padded - at < plan->rows ? plan->padded - at : plan->rows;
        FN(fill_nodes)(plan, buffers.d, at, o, rows);
        memset(marks, 0, (size_t)rows * sizeof(T));
        reach_t reach = FN(reach_of)(above, o);
        const rows_tile_t tile = {plan, at, rows, factor, marks, &reach};
        const tile_of_changes_t changes = {NNF_NODES * rows, FN(activation_curve), FN(column_curve), FN(loss_curve),
                                           &tile};
        FN(propagate)(above, &changes, &buffers, o);
        FN(fit)(plan, buffers.change, marks, at, rows, level, bend, off);
    }
    plan->p->state[o] = FN(judge)(plan, level, bend, off, plan->p->doubtful + at_unit);
    free(memory);
}

/* ---- the plan ---- */

/* As `transposed`, but NULL gives NULL and takes no room. */
static T *FN(transposed_or_null)(const curve_plan_t *plan, const void *from, intptr_t width, T *room, T **to) {
    *to = from ? room : NULL;
    return from ? FN(transposed)(plan->above->rows, plan->padded, from, width, room) : room;
}

static void FN(fill_curves)(curve_plan_t *plan, T *room) {
    const nnf_above *above = plan->above;
    intptr_t width = above->outputs;
    for (intptr_t i = 0; i < above->stages; i++) {
        width = above->stage[i].width;
        room = FN(transposed_or_null)(plan, above->stage[i].x, width, room, plan->x + i);
        room = FN(transposed_or_null)(plan, above->stage[i].y, width, room, plan->y + i);
    }
    room = FN(transposed_or_null)(plan, above->p, width, room, &plan->probability);
    room = FN(transposed_or_null)(plan, above->t, width, room, &plan->label);
    room = FN(transposed_or_null)(plan, above->residual, width, room, &plan->residual);
    plan->distance = room;
    for (intptr_t n = 0; n < plan->padded; n++) {
        room[n] = n < above->rows ? ((const T *)plan->p->distance)[n] : 0;
        plan->inverse[n] = room[n] > 0 ? 0.5 / (double)room[n] : 0;
    }
}

/* Samples the curves of the units that are not straight. */
static int FN(sampled_curves)(const nnf_curves *p, const uint8_t *straight, int (*poll)(void)) {
    const nnf_above *above = &p->above;
    curve_plan_t plan = {.p = p, .above = above, .straight = straight};
    plan.padded = (above->rows + LANES - 1) / LANES * LANES;
    plan.most_width = FN(widest)(above);
    plan.rows =
        NNF_TILE_BYTES / (intptr_t)sizeof(T) / (2 * NNF_NODES * plan.most_width) / NNF_CURVE_ROWS * NNF_CURVE_ROWS;
    plan.rows = plan.rows < NNF_CURVE_ROWS      ? NNF_CURVE_ROWS
                : plan.rows > NNF_MOST_HALF / 4 ? NNF_MOST_HALF / 4
                                                : plan.rows;
    intptr_t width = above->outputs, numbers = 1;
    for (intptr_t i = 0; i < above->stages; i++) {
        width = above->stage[i].width;
        numbers += above->stage[i].weight ? 0 : 2 * width;
    }
    numbers += 3 * width;
    const size_t stages = (size_t)above->stages + 1;
    T *memory = malloc((size_t)numbers * (size_t)plan.padded * sizeof(T));
    T **arrays = malloc(2 * stages * sizeof *arrays);
    plan.inverse = malloc((size_t)plan.padded * sizeof(double));
    plan.known = FN(entropy_rows)(above, plan.padded);
    plan.bounds = malloc(stages * sizeof *plan.bounds);
    int answer = NNF_NO_MEMORY;
    if (memory && arrays && plan.inverse && plan.known && plan.bounds) {
        plan.x = arrays, plan.y = arrays + stages;
        FN(bounds_of)(above, plan.bounds);
        FN(fill_curves)(&plan, memory);
        answer = nnf_parallel_polled(above->units, FN(unit_curve), &plan, poll);
        if (plan.failed && !answer) answer = NNF_NO_MEMORY;
    }
    free(memory);
    free(arrays);
    free(plan.inverse);
    free(plan.known);
    free(plan.bounds);
    return answer;
}

static int FN(difference_curves)(const nnf_curves *p, int (*poll)(void)) {
    const intptr_t units = p->above.units;
    if (p->above.rows == 0 || units == 0) return 0;
    uint8_t *straight = calloc((size_t)units, 1);
    int answer = straight ? 0 : NNF_NO_MEMORY;
    if (!answer && !p->columns) answer = FN(straight_curves)(p, straight, poll);
    for (intptr_t i = 0; straight && p->chosen && i < units; i++)
        straight[i] |= !p->chosen[p->above.first + i];
    const int unknown = !answer && FN(is_measured)(&p->above);
    for (intptr_t i = 0; i < units && unknown; i++)
        if (!straight[i]) p->state[p->above.first + i] = NNF_UNKNOWN;
    if (!answer && !unknown && memchr(straight, 0, (size_t)units)) answer = FN(sampled_curves)(p, straight, poll);
    free(straight);
    return answer;
}
