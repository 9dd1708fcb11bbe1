/* propagation.inc.h - how changes of one unit of a linear layer travel upwards to the loss: what difference.inc.h,
 * weight by weight, and curves.inc.h, row by row, have in common.
 *
 * A tile is a set of n changes of one output o of the perturbed layer:
 *
 *     column   d[r]        one number per change: above the perturbed layer and the activations on it
 *     rows     d[k][r]     above the next linear layer: k counts its outputs, and r is the vector's lanes
 *
 * Linear layers treat every tile alike. What activations and losses read beside the changes, plain numbers or vectors,
 * depends on what r counts: a tile brings its own functions for them. Where the column meets the last linear layer, the
 * loss is a function of one number, a short polynomial. Otherwise the rows are multiplied by each next weight in
 * place: (width, inputs) @ (inputs, r).
 */

#undef tile_of_changes_t
#undef buffers_t
#define tile_of_changes_t FN(tile_of_changes_t)
#define buffers_t         FN(buffers_t)

/* The buffers of one task. */
typedef struct {
    T *d, *other; /* rows, (most_width, 2 half) each; a column is their first line */
    T *change;    /* the loss's change for each perturbation */
    double *sum;  /* (I + 1): the gradient of the unit's weights, and of its bias */
} buffers_t;

/* What a tile knows of its changes. first, lines: which of a layer's outputs d holds. */
typedef struct {
    intptr_t n; /* changes, whole vectors */
    void (*activation)(const void *context, intptr_t stage, intptr_t first, intptr_t lines, T *d);
    /* The loss of a column below the last linear layer, whose weight is (width, inputs); 0 where it cannot be had so.
     */
    int (*column_loss)(const void *context, const nnf_stage *s, intptr_t inputs, intptr_t first, const T *d, T *change);
    void (*loss)(const void *context, intptr_t first, intptr_t lines, intptr_t width, const T *d, T *change);
    const void *context;
} tile_of_changes_t;

NNF_INLINE T FN(largest)(const T *d, intptr_t n) {
    V most = v_set1(0);
    for (intptr_t r = 0; r < n; r += LANES) {
        const V a = v_load(d + r), b = -a;
        const V absolute = v_select(a > b, a, b);
        most = v_select(absolute > most, absolute, most);
    }
    T lanes[LANES], largest = 0;
    v_store(lanes, most);
    for (intptr_t r = 0; r < LANES; r++)
        largest = lanes[r] > largest ? lanes[r] : largest;
    return largest;
}

/* ---- elementwise layers ---- */

/* f(x + d) - f(x), with y = f(x) and slope = f'(x). small: |d| is at most NNF_SMALL / 2. */
NNF_INLINE V FN(difference_near)(nnf_activation f, double alpha, V x, V y, V slope, V d, int small) {
    if (small && f == NNF_SIGMOID) {
        const V e = v_expm1_small(d);
        return slope * e / (v_set1(1) + y * e);
    }
    if (small && f == NNF_TANH) {
        const V e = v_expm1_small(d + d);
        const V t = e / (e + v_set1(2));
        return slope * t / (v_set1(1) + y * t);
    }
    return FN(difference_of)(f, alpha, x, y, d);
}

/* ---- linear layers ---- */

/* A column becomes rows: next[k][r] = W[k, o] d[r]. */
static void FN(rank_one_stage)(const nnf_stage *s, intptr_t inputs, intptr_t o, const T *d, T *next, intptr_t n) {
    const T *weight = (const T *)s->weight + o;
    for (intptr_t k = 0; k < s->width; k++) {
        const V w = v_set1(weight[k * inputs]);
        for (intptr_t r = 0; r < n; r += LANES)
            v_store(next + k * n + r, w * v_load(d + r));
    }
}

/* next (width, n) = W (width, inputs) @ d (inputs, n) */
static void FN(linear_stage)(const nnf_stage *s, intptr_t inputs, const T *d, T *next, intptr_t n) {
    const nnf_matmul product = {.batch = 1,
                                .m = s->width,
                                .n = n,
                                .k = inputs,
                                .a = s->weight,
                                .a_row = inputs,
                                .a_col = 1,
                                .b = d,
                                .b_row = n,
                                .b_col = 1,
                                .c = next,
                                .c_row = n};
    FN(matmul)(&product);
}

/* ---- a tile through all stages ---- */

static intptr_t FN(widest)(const nnf_above *above) {
    intptr_t most = 1;
    for (intptr_t i = 0; i < above->stages; i++)
        if (above->stage[i].weight && above->stage[i].width > most) most = above->stage[i].width;
    return most;
}

/* buffers->d: a column of changes of output o. Leaves the changes of the loss in buffers->change. */
static void FN(propagate)(const nnf_above *above, const tile_of_changes_t *tile, buffers_t *buffers, intptr_t o) {
    intptr_t width = above->outputs, first = o, lines = 1;
    T *d = buffers->d, *next = buffers->other;
    for (intptr_t i = 0; i < above->stages; i++) {
        const nnf_stage *s = above->stage + i;
        if (!s->weight) {
            tile->activation(tile->context, i, first, lines, d);
            continue;
        }
        if (lines == 1 && i + 1 == above->stages &&
            tile->column_loss(tile->context, s, width, first, d, buffers->change))
            return;
        if (lines == 1)
            FN(rank_one_stage)(s, width, first, d, next, tile->n);
        else
            FN(linear_stage)(s, width, d, next, tile->n);
        T *const swap = d;
        d = next, next = swap;
        width = lines = s->width, first = 0;
    }
    tile->loss(tile->context, first, lines, width, d, buffers->change);
}
