/* network.inc.h - a whole network in one call: forward, the loss, backward, the gradients of all weights.
 *
 * Two ways, chosen by sizes alone.
 *
 * Tiles, for small networks: TILE rows at a time go through all stages, the loss and back, so that what they need stays
 * in the caches. Arrays of a tile are (features, rows): lanes are rows, whatever the widths are. Tasks are ranges of
 * tiles; each sums its own gradients, and those are added in the order of the tasks.
 *
 * Layers, for wide networks: all rows through one stage after another, (rows, features), each product on all threads.
 * Central differences of these are taken in one call where no unit is below more than one linear layer: what a unit
 * does to the loss is then a sum of residuals times weights, as backward has it.
 */

#undef entries_t
#define entries_t FN(entries_t)

/* ---- layers: all rows through one stage after another ---- */

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

typedef struct {
    const nnf_stage *s;
    const T *dz, *x;
    intptr_t rows, inputs, each; /* entries of a task */
} entries_t;

static void FN(entries_task)(void *context, intptr_t task) {
    const entries_t *j = context;
    const intptr_t first = task * j->each, left = j->s->entries - first;
    for (intptr_t e = first; e < first + (left < j->each ? left : j->each); e++) {
        const intptr_t at = j->s->entry[e], o = at / j->inputs;
        const T *dz = j->dz + o, *x = j->x + (at - o * j->inputs);
        double sum[4] = {0}; /* of every fourth row: one sum would wait for itself */
        for (intptr_t r = 0; r < j->rows; r++)
            sum[r % 4] += (double)dz[r * j->s->width] * (double)x[r * j->inputs];
        ((T *)j->s->grad_weight)[at] = (T)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

/* The chosen entries of dz^T x, one by one. */
static void FN(few_products)(const network_plan_t *plan, intptr_t i, const T *dz) {
    const intptr_t rows = plan->p->rows, each = NNF_ENTRY_TASK / rows + 1;
    entries_t j = {plan->p->stage + i, dz, FN(rows_of)(plan, i - 1), rows, plan->place[i].inputs, each};
    nnf_parallel((j.s->entries + each - 1) / each, FN(entries_task), &j);
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
    if (plan->place[i].weight >= 0 && s->entry && NNF_FEW_ENTRIES * s->entries < s->width * inputs)
        FN(few_products)(plan, i, dz);
    else if (plan->place[i].weight >= 0)
        FN(matmul)(&weight);
    if (plan->place[i].bias >= 0) FN(matmul)(&bias);
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

static int FN(gradient_by_layers)(network_plan_t *plan, int (*poll)(void)) {
    const nnf_network *p = plan->p;
    const intptr_t last = p->stages - 1;
    int64_t polled = poll ? nnf_nanoseconds() : 0;
    int answer = 0;
    if (p->step > 0 && !FN(may_be_straight)(plan)) return NNF_NOT_STRAIGHT;
    T *dz = plan->slot + plan->values - 2 * p->rows * plan->widest, *other = dz + p->rows * plan->widest;
    for (intptr_t i = 0; i <= last && !answer; i++) {
        if (!p->stage[i].y) FN(forward_layer)(plan, i);
        answer = FN(asked)(poll, &polled);
    }
    *p->total = 0;
    if (answer || p->loss == NNF_NO_LOSS) return answer;
    *p->total =
        FN(loss_of_rows)(p, 0, p->rows, FN(rows_of)(plan, last), plan->lowest <= last ? dz : NULL, plan->losses);
    if (p->step > 0 && !(isfinite(*p->total) && FN(rows_are_straight)(plan, dz))) return NNF_NOT_STRAIGHT;
    for (intptr_t i = last; i >= plan->lowest && !answer; i--) {
        T *const below = FN(backward_layer)(plan, i, dz, other);
        if (below == other) other = dz, dz = below;
        answer = FN(asked)(poll, &polled);
    }
    return answer;
}

/* ---- which way ---- */

static size_t FN(network_memory)(const nnf_network *p) {
    network_plan_t plan;
    const size_t size = FN(make_plan)(&plan, p, NULL);
    return p->step > 0 && !plan.rows_a_task && FN(linear_stages)(p) > 2 ? 0 : size;
}

static int FN(network)(const nnf_network *p, void *memory, int (*poll)(void)) {
    network_plan_t plan;
    FN(make_plan)(&plan, p, memory);
    if (p->rows == 0) plan.tasks = 0;
    const int answer = plan.rows_a_task ? FN(gradient_by_tiles)(&plan, poll) : FN(gradient_by_layers)(&plan, poll);
    if (!answer && p->loss != NNF_NO_LOSS) FN(keep_chosen)(&plan);
    return answer;
}
