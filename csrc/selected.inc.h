/* selected.inc.h - some entries of a product A (O, N) B (N, I), one by one: what curves are multiplied with where few
 * weights are selected. */

#undef selected_plan_t
#define selected_plan_t FN(selected_plan_t)

typedef struct {
    const nnf_selected *p;
    const T *b; /* transposed: (I, padded) */
    intptr_t padded;
} selected_plan_t;

/* Sums n in NNF_CURVE_ROWS parts, whatever the number of lanes. */
static T FN(dot)(const T *a, const T *b, intptr_t n) {
    V part[NNF_CURVE_ROWS / LANES];
    T parts[NNF_CURVE_ROWS];
    double sum = 0;
    for (intptr_t j = 0; j < NNF_CURVE_ROWS / LANES; j++)
        part[j] = v_set1(0);
    for (intptr_t i = 0; i < n; i += NNF_CURVE_ROWS)
        for (intptr_t j = 0, at = i; j < NNF_CURVE_ROWS / LANES && at < n; j++, at += LANES)
            part[j] = part[j] + (n - at < LANES ? v_load_n(a + at, n - at) : v_load(a + at)) * v_load(b + at);
    for (intptr_t j = 0; j < NNF_CURVE_ROWS / LANES; j++)
        v_store(parts + j * LANES, part[j]);
    for (int j = 0; j < NNF_CURVE_ROWS; j++)
        sum += (double)parts[j];
    return (T)sum;
}

static void FN(selected_task)(void *context, intptr_t task) {
    const selected_plan_t *plan = context;
    const nnf_selected *p = plan->p;
    const intptr_t first = task * NNF_SELECTED_TASK, left = p->count - first;
    const intptr_t last = first + (left < NNF_SELECTED_TASK ? left : NNF_SELECTED_TASK);
    for (intptr_t e = first; e < last; e++) {
        const intptr_t o = p->entry[e] / p->inputs, i = p->entry[e] - o * p->inputs;
        ((T *)p->out)[e] = FN(dot)((const T *)p->a + o * p->rows, plan->b + i * plan->padded, p->rows);
    }
}

static int FN(selected_products)(const nnf_selected *p) {
    selected_plan_t plan = {.p = p, .padded = (p->rows + LANES - 1) / LANES * LANES};
    T *b = malloc(((size_t)p->inputs * (size_t)plan.padded + 1) * sizeof(T));
    if (!b) return NNF_NO_MEMORY;
    FN(transposed)(p->rows, plan.padded, p->b, p->inputs, b);
    plan.b = b;
    nnf_parallel((p->count + NNF_SELECTED_TASK - 1) / NNF_SELECTED_TASK, FN(selected_task), &plan);
    free(b);
    return 0;
}
