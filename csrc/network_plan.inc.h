/* network_plan.inc.h - where a network in one call keeps what, and its loss: see network.inc.h. */

#undef place_t
#undef network_plan_t
#define place_t        FN(place_t)
#define network_plan_t FN(network_plan_t)

#undef TILE
#undef LOGICAL
#define LOGICAL ((intptr_t)(64 / sizeof(T)))
#define TILE    (NNF_TILE_LANES * LOGICAL) /* rows */

/* Where a stage keeps what, counted in elements from the start of an array. */
typedef struct {
    intptr_t inputs;            /* width of the stage below */
    intptr_t y;                 /* its output, among the values of a tile or of all rows */
    intptr_t slope;             /* activation of a tile: f'(x); -1 without a loss. Linear: see network_lines.inc.h */
    intptr_t weight, bias;      /* linear: its gradients among the sums of a task; -1: not wanted */
    intptr_t lanes, bias_lanes; /* and among its sums of lanes; -1: the weight's are not in lanes */
    double row_sum, entry;      /* linear, for differences: the largest sum of |W| over a row, the largest |W| */
} place_t;

typedef struct {
    const nnf_network *p;
    place_t *place;
    intptr_t lowest;               /* the lowest stage with a gradient that is wanted */
    intptr_t widest;               /* of the input and all stages */
    intptr_t tasks, rows_a_task;   /* tiles */
    intptr_t parts;                /* differences: so many tasks share a tile's units, each with a pass of its own */
    intptr_t range, range_rows;    /* differences: where a slot notes ranges, of so many rows; */
    intptr_t most_lines;           /*              lines of a buffer there */
    _Atomic int *bent;             /* differences: set where a curve is not known to be straight */
    T *copies;                     /* (parts - 1, N, width of the last stage): the output for all parts but the first */
    intptr_t values, sums, lanes;  /* elements of a slot, of the sums of a task, of the sums of lanes of a slot */
    intptr_t slots;                /* buffers for tasks that run at the same time */
    _Atomic int *taken;            /* (slots): whether a task uses it */
    T *slot, *sum;                 /* (slots, values + lanes), (tasks, sums) */
    T *kept;                       /* as many as the most entries that are chosen of a gradient */
    double *losses, *loss_of_task; /* (parts, N), (tasks) */
} network_plan_t;

/* ---- sizes ---- */

static double FN(flops_of_row)(const nnf_network *p) {
    double flops = 0, inputs = (double)p->inputs;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        flops += (double)s->width * (s->weight ? 6 * inputs : 60);
        inputs = (double)s->width;
    }
    return flops;
}

/* As flops_of_row, of what differences take beside: from each linear stage up to the loss, unit by unit. */
static double FN(flops_of_lines)(const nnf_network *p) {
    double all = 0;
    for (intptr_t i = 0; i < p->stages; i++) {
        double each = 0, width = 0;
        if (!p->stage[i].weight) continue;
        for (intptr_t k = i + 1; k < p->stages; k++)
            if (p->stage[k].weight) each += 2 * width * (double)p->stage[k].width, width = (double)p->stage[k].width;
        all += each * (double)p->stage[i].width;
    }
    return all;
}

static intptr_t FN(weights_of)(const nnf_network *p) {
    intptr_t weights = 0, inputs = p->inputs;
    for (intptr_t i = 0; i < p->stages; i++) {
        if (p->stage[i].weight) weights += inputs * p->stage[i].width;
        inputs = p->stage[i].width;
    }
    return weights;
}

static intptr_t FN(linear_stages)(const nnf_network *p) {
    intptr_t count = 0;
    for (intptr_t i = 0; i < p->stages; i++)
        count += p->stage[i].weight != NULL;
    return count;
}

/* The most entries that are chosen of a gradient. */
static intptr_t FN(most_entries)(const nnf_network *p) {
    intptr_t most = 0;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        if (s->entry && s->entries > most) most = s->entries;
        if (s->bias_entry && s->bias_entries > most) most = s->bias_entries;
    }
    return most;
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
    plan->widest = inputs, plan->lowest = p->stages, plan->most_lines = NNF_LINES;
    plan->values = plan->sums = plan->lanes = 0;
    if (tiles) at = inputs * rows;
    for (intptr_t i = 0; i < p->stages; i++) {
        const nnf_stage *s = p->stage + i;
        place_t place = {inputs, y, -1, -1, -1, -1, -1, 0, 0};
        if (s->weight || !tiles) { /* in a tile, f(x) takes the place of x */
            place.y = y = at;
            at += FN(whole_lines)(s->width * rows);
        }
        if (!s->weight && tiles && p->loss != NNF_NO_LOSS) {
            place.slope = at;
            at += s->width * rows;
        }
        if (s->weight && tiles && p->step > 0 &&
            i + 1 < p->stages) { /* the activation's above; of ones where there is none */
            place.slope = at;
            at += p->stage[i + 1].weight ? s->width * rows : 0;
        }
        const int weight = s->grad_weight && !(s->entry && s->entries == 0);
        const int bias = s->grad_bias && !(s->bias_entry && s->bias_entries == 0);
        if ((weight || bias) && plan->lowest > i) plan->lowest = i;
        if (weight) {
            place.weight = plan->sums;
            plan->sums += FN(whole_lines)(inputs * s->width);
            if (FN(sums_in_lanes)(i, inputs, s->width)) {
                place.lanes = plan->lanes;
                plan->lanes += inputs * s->width * LOGICAL;
            }
        }
        if (bias) {
            place.bias = plan->sums, place.bias_lanes = plan->lanes;
            plan->sums += FN(whole_lines)(s->width);
            plan->lanes += s->width * LOGICAL;
        }
        inputs = s->width;
        if (inputs > plan->widest) plan->widest = inputs;
        if (inputs > plan->most_lines) plan->most_lines = FN(whole_lines)(inputs);
        if (places) places[i] = place;
    }
    if (p->step > 0) {
        plan->range = at, plan->range_rows = FN(whole_lines)(rows);
        at += (p->stages + 1) * (plan->range_rows + LOGICAL);
        at += tiles ? plan->most_lines * (4 * rows + plan->most_lines + 1) : 0;
    }
    plan->values = at + 2 * FN(whole_lines)(plan->widest * rows);
}

/* How many tasks share the units of a tile: where tasks are fewer than threads might be, and the pass that each of them
 * repeats is less than half of what it saves. Every unit is one part's, so that the gradients' bits do not depend on
 * it. */
static intptr_t FN(parts_of)(const nnf_network *p, intptr_t tasks) {
    const double over = p->step > 0 && p->threads > 1 ? FN(flops_of_lines)(p) / FN(flops_of_row)(p) : 0;
    intptr_t parts = over > 8 ? 4 : over > 1 ? 2 : 1;
    while (parts > 1 && parts * tasks > NNF_LEAST_UNIT_TASKS)
        parts /= 2;
    return parts;
}

/* The plan for memory at `memory`, or NULL to count; returns how many bytes it takes. */
static size_t FN(make_plan)(network_plan_t *plan, const nnf_network *p, char *memory) {
    const int tiles = FN(weights_of)(p) <= NNF_TILED_WEIGHTS;
    const double flops = (FN(flops_of_row)(p) + (p->step > 0 ? FN(flops_of_lines)(p) : 0)) * (double)TILE;
    size_t size = 0;
    *plan = (network_plan_t){.p = p, .tasks = 1, .slots = 1, .parts = 1};
    if (tiles) {
        const intptr_t all = (p->rows + TILE - 1) / TILE;
        intptr_t each = (all + NNF_TILE_TASKS - 1) / NNF_TILE_TASKS;
        if ((double)each < NNF_TILE_TASK_FLOPS / flops) each = (intptr_t)(NNF_TILE_TASK_FLOPS / flops) + 1;
        plan->rows_a_task = each * TILE;
        plan->tasks = (all + each - 1) / each;
        plan->parts = FN(parts_of)(p, plan->tasks), plan->tasks *= plan->parts;
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
    NNF_TAKE(bent, _Atomic int, 1);
    NNF_TAKE(copies, T, (plan->parts - 1) * p->rows * p->stage[p->stages - 1].width);
    NNF_TAKE(losses, double, plan->parts * p->rows);
    NNF_TAKE(loss_of_task, double, plan->tasks);
    NNF_TAKE(slot, T, plan->slots * (plan->values + plan->lanes));
    NNF_TAKE(sum, T, plan->tasks * plan->sums);
    NNF_TAKE(kept, T, FN(most_entries)(p));
#undef NNF_TAKE
    return size;
}

/* ---- chosen entries ---- */

/* Sets all of n numbers but those that are chosen to 0. */
static void FN(keep)(const network_plan_t *plan, T *grad, intptr_t n, const intptr_t *entry, intptr_t entries) {
    if (!grad || !entry) return;
    for (intptr_t e = 0; e < entries; e++)
        plan->kept[e] = grad[entry[e]];
    memset(grad, 0, (size_t)n * sizeof(T));
    for (intptr_t e = 0; e < entries; e++)
        grad[entry[e]] = plan->kept[e];
}

static void FN(keep_chosen)(const network_plan_t *plan) {
    for (intptr_t i = 0; i < plan->p->stages; i++) {
        const nnf_stage *s = plan->p->stage + i;
        FN(keep)(plan, s->grad_weight, s->width * plan->place[i].inputs, s->entry, s->entries);
        FN(keep)(plan, s->grad_bias, s->width, s->bias_entry, s->bias_entries);
    }
}

/* What a layer gave, (N, width). */
NNF_INLINE T *FN(rows_of)(const network_plan_t *plan, intptr_t s) {
    if (s < 0) return (T *)plan->p->x;                        /* is only read, */
    if (plan->p->stage[s].y) return (T *)plan->p->stage[s].y; /* and so is this */
    return s + 1 == plan->p->stages ? plan->p->y : plan->slot + plan->place[s].y;
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
    if (p->loss == NNF_LINEAR) {
        for (intptr_t i = 0; grad && i < rows * width; i++)
            grad[i] = t[i] * (T)p->scale;
        return 0;
    }
    const T factor = (T)(2 * p->scale);
    for (intptr_t i = 0; i < rows * width; i++) {
        const T residual = y[i] - t[i];
        sum += (double)residual * (double)residual;
        if (grad) grad[i] = residual * factor;
    }
    return sum;
}
