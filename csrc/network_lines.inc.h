/* network_lines.inc.h - the gradients of a network by central differences, in one call.
 *
 * As in straight.inc.h: where bounds show that the curves of a layer's units are straight to rounding, one change
 * upwards stands for all differences of a row. Forward pass and loss are those of network_tile.inc.h, and so are the
 * products of what the units answer with the layer's inputs: all of it while the tile is in the caches.
 * Wide networks of up to two linear layers are taken layer by layer, as in network.inc.h, after the same bounds.
 *
 * Of a unit o below two linear layers or more, a change by 1 above its activation is W1[k, o] in the outputs of the
 * next layer, slope[k] times that above their activation, and arrives in the layer after that as
 *
 *     sum over k of (W2[j, k] W1[k, o]) slope[k, row]:
 *
 * a product of weights, the same for all rows, with the slopes. From there on it is a row for each j, multiplied by
 * slopes and weights, up to the loss: the sum of residual times change.
 *
 * Bounds do not look at the changes, but for their start: at most step times the largest input of the tile; then they
 * grow by at most the sums of |W| over a row and the steepest slope. Steps as small as the default are far below what
 * these allow. What they do not show is left to difference_curves, as a whole.
 */

#undef lines_t
#define lines_t FN(lines_t)

/* ---- the network as linear stages with a slope each ---- */

/* The next linear stage above stage i; the number of stages where there is none. */
NNF_INLINE intptr_t FN(linear_above)(const nnf_network *p, intptr_t i) {
    do
        i++;
    while (i < p->stages && !p->stage[i].weight);
    return i;
}

/* Leaves in the slope of each linear stage that of all activations between it and the next one; what follows the last
 * linear stage belongs to the loss. */
static void FN(join_slopes)(const tile_pass_t *pass, T *residual) {
    const nnf_network *p = pass->plan->p;
    for (intptr_t i = 0, next; i < p->stages; i = next) {
        next = FN(linear_above)(p, i);
        if (!p->stage[i].weight) continue;
        T *const slope = pass->values + pass->plan->place[i].slope;
        const intptr_t from = next == p->stages ? i + 1 : i + 2, size = p->stage[i].width * TILE;
        for (intptr_t r = 0; next == i + 1 && next < p->stages && r < size; r++)
            slope[r] = 1;
        for (intptr_t k = from; k < next; k++)
            FN(times_slope)(p->stage[i].width, pass->n, pass->values + pass->plan->place[k].slope,
                            next == p->stages ? residual : slope);
    }
}

/* ---- bounds ---- */

/* The largest |x| of n numbers; a NaN is left out. */
static double FN(largest_in)(const T *x, intptr_t n) {
    V most = v_set1(0);
    T lanes[LANES];
    for (intptr_t i = 0; i < n; i += LANES)
        most = v_max(FN(vector_absolute)(n - i < LANES ? v_load_n(x + i, n - i) : v_load(x + i)), most);
    v_store(lanes, most);
    return (double)FN(largest)(lanes, LANES);
}

/* The largest |x| of a tile, (width, TILE). */
static double FN(largest_of_tile)(intptr_t width, intptr_t n, const T *x) {
    V most = v_set1(0);
    for (intptr_t k = 0; k < width; k++)
        for (intptr_t r = 0; r < n; r += LANES)
            most = v_max(FN(vector_absolute)(v_load(x + k * TILE + r)), most);
    T lanes[LANES];
    v_store(lanes, most);
    return (double)FN(largest)(lanes, LANES);
}

/* What is remembered of an activation's input in a tile: for each row how near an x is to a kink, should f have one:
 * changes must stay below that; and then the least x, on which the shape of a GELU depends. */
NNF_INLINE T *FN(range_of)(const tile_pass_t *pass, intptr_t i) {
    return pass->values + pass->plan->range + i * (pass->plan->range_rows + LOGICAL);
}

NNF_INLINE T *FN(least_of)(const tile_pass_t *pass, intptr_t i) {
    return FN(range_of)(pass, i) + pass->plan->range_rows;
}

static void FN(note_range)(const tile_pass_t *pass, intptr_t i, const T *x) {
    const nnf_stage *s = pass->plan->p->stage + i;
    T *range = FN(range_of)(pass, i), lanes[LANES];
    V low = v_set1(0);
    const V kink = v_set1((T)nnf_shape_of(s->activation, s->alpha, 0).kink_at);
    for (intptr_t r = 0; r < pass->n; r += LANES) {
        V near = v_set1((T)HUGE_VAL), odd = v_set1(0); /* NaN where x is not finite */
        for (intptr_t k = 0; k < s->width; k++) {
            const V v = v_load(x + k * TILE + r);
            near = v_min(FN(vector_absolute)(FN(vector_absolute)(v) - kink), near), low = v_min(v, low),
            odd = odd + (v - v);
        }
        v_store(range + r, near + odd);
    }
    v_store(lanes, low);
    *FN(least_of)(pass, i) = (T)FN(least)(lanes, LANES);
}

/* Marks the rows in which a change by `most` may reach a kink. */
static void FN(mark_near)(const tile_pass_t *pass, const T *near, double most) {
    const V limit = v_set1((T)(1.001 * most)), one = v_set1(1);
    T *marks = FN(range_of)(pass, pass->plan->p->stages);
    for (intptr_t r = 0; r < pass->n; r += LANES)
        v_store(marks + r, v_select(limit < v_load(near + r), v_load(marks + r), one));
}

/* A change of at most `most`, `reach` from a line, meets an activation: whether it may still be taken for one. */
static int FN(passes)(const tile_pass_t *pass, intptr_t i, bound_t *bound, double *most, reach_t *reach) {
    *most *= bound->growth;
    FN(come_to)(bound, reach);
    if (pass && bound->shape.kink && *most > 0) FN(mark_near)(pass, FN(range_of)(pass, i), *most + reach->beyond);
    if (!(FN(lost_at)(bound, *most, reach) <= ROUNDING)) return 0;
    FN(bend_at)(bound, *most, reach);
    *most *= bound->shape.steepest;
    return !reach->lost;
}

/* Whether changes by at most `most` of the outputs of linear stage i are straight all the way up, but for kinks: rows
 * in which one may be reached are marked. pass: NULL: as if nothing were known of a tile. beside: what a squared error
 * is compared with. */
static int FN(stays_straight)(const network_plan_t *plan, const tile_pass_t *pass, intptr_t i, double most,
                              double beside) {
    const nnf_network *p = plan->p;
    bound_t bound = {1, 0, {0}};
    reach_t reach = {0, 0, 0};
    for (int linear = 0; ++i < p->stages;) {
        const nnf_stage *s = p->stage + i;
        if (s->weight) {
            bound.growth *= linear++ ? plan->place[i].row_sum : plan->place[i].entry;
            continue;
        }
        bound.shape = nnf_shape_of(s->activation, s->alpha, pass ? (double)*FN(least_of)(pass, i) : 0);
        if (!FN(passes)(pass, i, &bound, &most, &reach)) return 0;
        bound = (bound_t){1, 0, {0}};
    }
    if (p->loss == NNF_LINEAR) return 1;
    bound.shape = nnf_shape_of(NNF_SOFTPLUS, 0, 0);
    FN(come_to)(&bound, &reach);
    if (p->loss == NNF_SQUARED_ERROR) return reach.beyond <= ROUNDING * beside;
    return FN(lost_at)(&bound, most * bound.growth, &reach) <= ROUNDING;
}

/* Sets what bounds need of the weights. Returns 0 where the step alone is too large, whatever the inputs are. */
static int FN(may_be_straight)(network_plan_t *plan) {
    const nnf_network *p = plan->p;
    for (intptr_t i = plan->lowest + 1; i < p->stages; i++) { /* what is moved in the lowest one meets those above */
        place_t *place = plan->place + i;
        if (!p->stage[i].weight) continue;
        place->row_sum = FN(largest_row_sum)(p->stage + i, place->inputs);
        place->entry = FN(largest_in)(p->stage[i].weight, p->stage[i].width * place->inputs);
    }
    for (intptr_t i = plan->lowest; i < p->stages; i++)
        if (plan->place[i].bias >= 0 && !FN(stays_straight)(plan, NULL, i, p->step, HUGE_VAL)) return 0;
    return 1;
}

/* ---- the units of a linear stage ---- */

/* What the slots hold for differences, beside what every pass needs. */
typedef struct {
    const T *residual; /* (width of the last stage, TILE) */
    T *level;          /* (units, TILE): by how much the loss of each row changes */
    T *rows;           /* (units that share a product times their width, TILE) */
    T *next, *other;   /* (width, TILE): of one unit, further up */
    T *folded, *column;
} lines_t;

/* W2[j, k] W1[k, o] for `units` units from o on: (units K2, K1) */
static void FN(fold_weights)(const nnf_stage *first, const nnf_stage *second, intptr_t inputs, intptr_t o,
                             intptr_t units, T *column, T *folded) {
    for (intptr_t u = 0; u < units; u++) {
        for (intptr_t k = 0; k < first->width; k++)
            column[k] = ((const T *)first->weight)[k * inputs + o + u];
        const T *weight = second->weight;
        for (intptr_t j = 0; j < second->width; j++, weight += first->width, folded += first->width)
            for (intptr_t k = 0; k < first->width; k++)
                folded[k] = weight[k] * column[k];
    }
}

/* The changes d of linear stage i's outputs, (width, TILE), up to the loss; into one line of `level`. */
static void FN(up_to_loss)(const tile_pass_t *pass, const lines_t *lines, intptr_t i, T *d, T *level) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    T *to = lines->next, *other = lines->other;
    for (intptr_t next; (next = FN(linear_above)(p, i)) < p->stages; i = next) {
        const nnf_stage *s = p->stage + next;
        const tile_t t = {
            .k = plan->place[next].inputs, .a_row = plan->place[next].inputs, .a_col = 1, .b_row = TILE, .c_row = TILE};
        FN(times_slope)(t.k, pass->n, pass->values + plan->place[i].slope, d);
        FN(product_in_place)(s->width, pass->n, t, s->weight, d, to);
        d = to, to = other, other = d;
    }
    for (intptr_t r = 0; r < pass->n; r += LANES) {
        V sum = v_set1(0);
        for (intptr_t k = 0; k < p->stage[i].width; k++)
            sum += v_load(lines->residual + k * TILE + r) * v_load(d + k * TILE + r);
        v_store(level + r, sum);
    }
}

/* The levels of `units` units of linear stage i from `first` on; returns where they are. */
static const T *FN(levels_of)(const tile_pass_t *pass, const lines_t *lines, intptr_t i, intptr_t first,
                              intptr_t units) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    const intptr_t next = FN(linear_above)(p, i), inputs = p->stage[i].width;
    if (next == p->stages) return lines->residual + first * TILE;
    const nnf_stage *s = p->stage + next;
    const intptr_t after = FN(linear_above)(p, next);
    if (after == p->stages) {
        const tile_t t = {.k = s->width, .a_row = 1, .a_col = inputs, .b_row = TILE, .c_row = TILE};
        FN(product_in_place)(units, pass->n, t, (const T *)s->weight + first, lines->residual, lines->level);
    } else {
        const tile_t t = {.k = s->width, .a_row = s->width, .a_col = 1, .b_row = TILE, .c_row = TILE};
        const T *slope = pass->values + plan->place[next].slope;
        const intptr_t width = p->stage[after].width, block = width < NNF_LINES / 2 ? NNF_LINES / width : 1;
        for (intptr_t o = 0; o < units; o += block) {
            const intptr_t some = units - o < block ? units - o : block;
            FN(fold_weights)(s, p->stage + after, inputs, first + o, some, lines->column, lines->folded);
            FN(product_in_place)(some * width, pass->n, t, lines->folded, slope, lines->rows);
            for (intptr_t u = 0; u < some; u++)
                FN(up_to_loss)(pass, lines, after, lines->rows + u * width * TILE, lines->level + (o + u) * TILE);
        }
    }
    FN(times_slope)(units, pass->n, pass->values + plan->place[i].slope + first * TILE, lines->level);
    return lines->level;
}

/* ---- a tile, or all rows: output k of row r of what is called residual is at [k * k_step + r * r_step] ---- */

/* Whether all wanted gradients are straight, but for the rows that are marked. */
static int FN(is_straight)(const tile_pass_t *pass, const T *residual, intptr_t k_step, intptr_t r_step) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    const intptr_t width = p->stage[p->stages - 1].width;
    double size = 0;
    for (intptr_t k = 0; p->loss == NNF_SQUARED_ERROR && k < width; k++)
        for (intptr_t r = 0; r < pass->rows; r++)
            size += fabs((double)residual[k * k_step + r * r_step]);
    const double beside = size / (2 * p->scale * (double)(width * pass->rows));
    memset(FN(range_of)(pass, p->stages), 0, (size_t)plan->range_rows * sizeof(T));
    for (intptr_t i = p->stages - 1; i >= plan->lowest; i--) {
        const place_t *place = plan->place + i;
        if (place->weight < 0 && place->bias < 0) continue;
        const double x = plan->rows_a_task ? FN(largest_of_tile)(place->inputs, pass->n, FN(output_of)(pass, i - 1))
                                           : FN(largest_in)(FN(rows_of)(plan, i - 1), pass->rows * place->inputs);
        const double most = p->step * (place->bias >= 0 && x < 1 ? 1 : x);
        if (!FN(stays_straight)(plan, pass, i, most, beside)) return 0;
    }
    return 1;
}

/* Leaves marked rows out of the gradients, and tells which they are; those that count for nothing need not be told.
 * Returns 0 where nobody is there to be told. */
static int FN(leave_out)(const tile_pass_t *pass, T *residual, intptr_t k_step, intptr_t r_step) {
    const nnf_network *p = pass->plan->p;
    const intptr_t width = p->stage[p->stages - 1].width;
    const T *marks = FN(range_of)(pass, p->stages);
    for (intptr_t r = 0; r < pass->rows; r++) {
        int counts = 0;
        for (intptr_t k = 0; marks[r] > 0 && k < width; k++) {
            T *const at = residual + k * k_step + r * r_step;
            counts |= *at != 0;
            *at = 0;
        }
        if (counts && !p->doubtful) return 0;
        if (p->doubtful && !pass->part) p->doubtful[pass->first + r] = (uint8_t)counts;
    }
    return 1;
}

/* Adds the gradients of this part's units, from the gradient of the loss in the outputs. spare: (inputs, TILE) */
static void FN(differences_of_tile)(const tile_pass_t *pass, T *residual, T *spare) {
    const network_plan_t *plan = pass->plan;
    const nnf_network *p = plan->p;
    T *const room = FN(range_of)(pass, p->stages + 1);
    lines_t lines = {.residual = residual, .level = room};
    lines.rows = lines.level + plan->most_lines * TILE;
    lines.next = lines.rows + plan->most_lines * TILE;
    lines.other = lines.next + plan->most_lines * TILE;
    lines.column = lines.other + plan->most_lines * TILE;
    lines.folded = lines.column + plan->most_lines;
    if (!FN(is_straight)(pass, residual, TILE, 1) || !FN(leave_out)(pass, residual, TILE, 1)) {
        atomic_store(plan->bent, 1);
        return;
    }
    FN(join_slopes)(pass, residual);
    for (intptr_t i = p->stages - 1; i >= plan->lowest; i--) {
        if (plan->place[i].weight < 0 && plan->place[i].bias < 0) continue;
        const intptr_t first = pass->part * p->stage[i].width / plan->parts;
        const intptr_t units = (pass->part + 1) * p->stage[i].width / plan->parts - first;
        FN(add_gradients)(pass, i, first, units, FN(levels_of)(pass, &lines, i, first, units), spare);
    }
}

/* ---- all rows, layer by layer ---- */

/* As note_range, of x (N, width). */
static void FN(note_range_of_rows)(const tile_pass_t *pass, intptr_t i, const T *x) {
    const nnf_stage *s = pass->plan->p->stage + i;
    const T kink = (T)nnf_shape_of(s->activation, s->alpha, 0).kink_at;
    T *range = FN(range_of)(pass, i), lanes[LANES];
    V low = v_set1(0);
    for (intptr_t r = 0; r < pass->rows; r++, x += s->width) {
        V near = v_set1((T)HUGE_VAL), odd = v_set1(0);
        for (intptr_t k = 0; k < s->width; k += LANES) { /* what is beyond the row's end counts as its last entry */
            T tail[LANES];
            for (intptr_t l = 0; s->width - k < LANES && l < LANES; l++)
                tail[l] = x[k + l < s->width ? k + l : s->width - 1];
            const V v = v_load(s->width - k < LANES ? tail : x + k);
            near = v_min(FN(vector_absolute)(FN(vector_absolute)(v) - v_set1(kink)), near), low = v_min(v, low);
            odd = odd + (v - v);
        }
        v_store(lanes, near + odd);
        range[r] = (T)HUGE_VAL;
        for (intptr_t l = 0; l < LANES; l++)
            range[r] = lanes[l] >= range[r] || range[r] != range[r] ? range[r] : lanes[l]; /* a NaN stays */
    }
    for (intptr_t r = pass->rows; r < pass->n; r++)
        range[r] = (T)HUGE_VAL;
    v_store(lanes, low);
    *FN(least_of)(pass, i) = (T)FN(least)(lanes, LANES);
}

/* Whether all wanted gradients are straight; rows that are not are left out of dz (N, width), and told. */
static int FN(rows_are_straight)(const network_plan_t *plan, T *dz) {
    const nnf_network *p = plan->p;
    const intptr_t width = p->stage[p->stages - 1].width;
    const tile_pass_t pass = {.plan = plan, .rows = p->rows, .n = plan->range_rows, .values = plan->slot};
    for (intptr_t i = plan->lowest + 1; i < p->stages; i++)
        if (!p->stage[i].weight) FN(note_range_of_rows)(&pass, i, FN(rows_of)(plan, i - 1));
    return FN(is_straight)(&pass, dz, 1, width) && FN(leave_out)(&pass, dz, 1, width);
}
