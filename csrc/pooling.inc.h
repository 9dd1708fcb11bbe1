/* pooling.inc.h - the largest entry, or the mean, of windows of planes.
 *
 * A window begins at i stride - padding; entries outside of the plane are no candidates of the largest one, and count
 * for the mean where that is asked for. Planes are cut among tasks; no two of them share an output.
 */

#undef pooling_task_t
#undef window_t
#define pooling_task_t FN(pooling_task_t)
#define window_t       FN(window_t)

typedef struct {
    const nnf_pooling *p;
    intptr_t planes; /* of a task */
    void (*run)(const nnf_pooling *p, intptr_t plane);
} pooling_task_t;

/* The entries of a window that are in the plane, along one axis. */
typedef struct {
    intptr_t first, end, step; /* end: beyond the last one */
} window_t;

NNF_INLINE window_t FN(window)(const nnf_pooling *p, int e, intptr_t i) {
    const intptr_t start = i * p->stride[e] - p->padding[e], step = p->dilation[e], last = start + p->kernel[e] * step;
    window_t w = {start, last < p->in_size[e] ? last : p->in_size[e], step};
    if (start < 0) w.first = start + (-start + step - 1) / step * step;
    return w;
}

/* What a mean divides by. */
NNF_INLINE double FN(divisor)(const nnf_pooling *p, const intptr_t *at, const window_t *w) {
    double product = 1;
    if (p->divisor != 0) return p->divisor;
    for (int e = 0; e < 2; e++) {
        const intptr_t start = at[e] * p->stride[e] - p->padding[e], end = start + p->kernel[e];
        const intptr_t most = p->in_size[e] + p->padding[e];
        product *= (double)(p->count_padding ? (end < most ? end : most) - start : w[e].end - w[e].first);
    }
    return product;
}

/* The largest entry of the window (i, j), and its index. */
NNF_INLINE T FN(max_of_window)(const nnf_pooling *p, const T *x, window_t rows, window_t columns, int32_t *index) {
    intptr_t at = rows.first * p->in_size[1] + columns.first;
    T most = x[at];
    for (intptr_t r = rows.first; r < rows.end; r += rows.step)
        for (intptr_t c = columns.first; c < columns.end; c += columns.step) {
            const T value = x[r * p->in_size[1] + c];
            if (value > most || value != value) most = value, at = r * p->in_size[1] + c;
        }
    *index = (int32_t)at;
    return most;
}

/* n <= LANES entries of x, every step-th. */
NNF_INLINE V FN(load_apart)(const T *x, intptr_t step, intptr_t n) {
    T lane[LANES];
    if (step == 1) return v_load_n(x, n);
#if NNF_VECTOR_BYTES > 0
    if (step == 2 && 2 * n - 1 > LANES) return NNF_SHUFFLE(v_load(x), v_load_n(x + LANES, 2 * n - 1 - LANES), NNF_EVEN);
    if (step == 2) return NNF_SHUFFLE(v_load_n(x, 2 * n - 1), v_set1(0), NNF_EVEN);
#endif
    for (intptr_t i = 0; i < LANES; i++)
        lane[i] = i < n ? x[i * step] : 0;
    return v_load(lane);
}

#if NNF_VECTOR_BYTES > 0
NNF_INLINE VI FN(select_index)(VI mask, VI a, VI b) { return (mask & a) | (~mask & b); }
#else
NNF_INLINE VI FN(select_index)(VI mask, VI a, VI b) { return mask ? a : b; }
#endif

/* The largest entries of n <= LANES windows side by side, all of whose columns are in the plane. */
NNF_INLINE void FN(max_of_windows)(const nnf_pooling *p, const T *x, window_t rows, intptr_t column, intptr_t n, T *y,
                                   int32_t *index) {
    V most = v_set1(0);
    VI at = (VI)(v_set1(0) != v_set1(0));
    int first = 1;
    for (intptr_t r = rows.first; r < rows.end; r += rows.step)
        for (intptr_t b = 0; b < p->kernel[1]; b++, first = 0) {
            const intptr_t start = r * p->in_size[1] + column + b * p->dilation[1];
            const V value = FN(load_apart)(x + start, p->stride[1], n);
            const VI more =
                first ? (VI)(value == value) | (VI)(value != value) : (VI)(value > most) | (VI)(value != value);
            most = v_select(more, value, most);
            at = FN(select_index)(more, at - at + (TI)start, at);
        }
    TI lane[LANES];
    v_store_n(y, most, n);
    memcpy(lane, &at, sizeof lane);
    for (intptr_t i = 0; i < n; i++)
        index[i] = (int32_t)(lane[i] + (TI)(i * p->stride[1]));
}

static void FN(max_of_plane)(const nnf_pooling *p, intptr_t plane) {
    const T *x = (const T *)p->x + plane * p->in_size[0] * p->in_size[1];
    const intptr_t width = p->out_size[1], reach = (p->kernel[1] - 1) * p->dilation[1];
    const intptr_t low = (p->padding[1] + p->stride[1] - 1) / p->stride[1]; /* windows from here to `end` are inside */
    const intptr_t room = p->in_size[1] + p->padding[1] - reach - 1;
    intptr_t end = room < 0 ? 0 : room / p->stride[1] + 1;
    if (end > width) end = width;
    for (intptr_t i = 0; i < p->out_size[0]; i++) {
        const window_t rows = FN(window)(p, 0, i);
        T *y = (T *)p->y + (plane * p->out_size[0] + i) * width;
        int32_t *index = p->index + (plane * p->out_size[0] + i) * width;
        intptr_t j = 0;
        while (j < width)
            if (j >= low && j < end) {
                const intptr_t n = end - j < LANES ? end - j : LANES;
                FN(max_of_windows)(p, x, rows, j * p->stride[1] - p->padding[1], n, y + j, index + j);
                j += n;
            } else {
                y[j] = FN(max_of_window)(p, x, rows, FN(window)(p, 1, j), index + j);
                j++;
            }
    }
}

static void FN(max_gradient)(const nnf_pooling *p, intptr_t plane) {
    const intptr_t outputs = p->out_size[0] * p->out_size[1], inputs = p->in_size[0] * p->in_size[1];
    const T *dy = (const T *)p->y + plane * outputs;
    const int32_t *index = p->index + plane * outputs;
    T *dx = (T *)p->x + plane * inputs;
    memset(dx, 0, (size_t)inputs * sizeof(T));
    for (intptr_t i = 0; i < outputs; i++)
        dx[index[i]] += dy[i];
}

/* The largest of (x - y) + dx, where y is that of x: what the largest one changes by. */
static void FN(max_change)(const nnf_pooling *p, intptr_t plane) {
    const intptr_t outputs = p->out_size[0] * p->out_size[1], inputs = p->in_size[0] * p->in_size[1];
    const intptr_t below = plane % p->planes; /* planes are those of a stack of changes; x and index repeat */
    const T *x = (const T *)p->x + below * inputs, *dx = (const T *)p->change + plane * inputs;
    const int32_t *index = p->index + below * outputs;
    T *dy = (T *)p->y + plane * outputs;
    for (intptr_t i = 0; i < p->out_size[0]; i++) {
        const window_t rows = FN(window)(p, 0, i);
        for (intptr_t j = 0; j < p->out_size[1]; j++) {
            const window_t columns = FN(window)(p, 1, j);
            const T base = x[*index];
            T most = dx[*index++];
            for (intptr_t r = rows.first; r < rows.end; r += rows.step)
                for (intptr_t c = columns.first; c < columns.end; c += columns.step) {
                    const T value = (x[r * p->in_size[1] + c] - base) + dx[r * p->in_size[1] + c];
                    most = value > most || value != value ? value : most;
                }
            *dy++ = most;
        }
    }
}

static void FN(mean_of_plane)(const nnf_pooling *p, intptr_t plane) {
    const T *x = (const T *)p->x + plane * p->in_size[0] * p->in_size[1];
    T *y = (T *)p->y + plane * p->out_size[0] * p->out_size[1];
    for (intptr_t i = 0; i < p->out_size[0]; i++)
        for (intptr_t j = 0; j < p->out_size[1]; j++) {
            const window_t w[2] = {FN(window)(p, 0, i), FN(window)(p, 1, j)};
            T sum = 0;
            for (intptr_t r = w[0].first; r < w[0].end; r++)
                for (intptr_t c = w[1].first; c < w[1].end; c++)
                    sum += x[r * p->in_size[1] + c];
            *y++ = sum / (T)FN(divisor)(p, (intptr_t[2]){i, j}, w);
        }
}

static void FN(mean_gradient)(const nnf_pooling *p, intptr_t plane) {
    const T *dy = (const T *)p->y + plane * p->out_size[0] * p->out_size[1];
    T *dx = (T *)p->x + plane * p->in_size[0] * p->in_size[1];
    memset(dx, 0, (size_t)(p->in_size[0] * p->in_size[1]) * sizeof(T));
    for (intptr_t i = 0; i < p->out_size[0]; i++)
        for (intptr_t j = 0; j < p->out_size[1]; j++) {
            const window_t w[2] = {FN(window)(p, 0, i), FN(window)(p, 1, j)};
            const T share = *dy++ / (T)FN(divisor)(p, (intptr_t[2]){i, j}, w);
            for (intptr_t r = w[0].first; r < w[0].end; r++)
                for (intptr_t c = w[1].first; c < w[1].end; c++)
                    dx[r * p->in_size[1] + c] += share;
        }
}

static void FN(pooling_task)(void *context, intptr_t task) {
    const pooling_task_t *t = context;
    const intptr_t end = (task + 1) * t->planes;
    const intptr_t last = t->p->planes * t->p->stack;
    for (intptr_t plane = task * t->planes; plane < (end < last ? end : last); plane++)
        t->run(t->p, plane);
}

static void FN(pooling)(const nnf_pooling *p) {
    static void (*const run[])(const nnf_pooling *, intptr_t) = {[NNF_MAX] = FN(max_of_plane),
                                                                 [NNF_MAX_GRADIENT] = FN(max_gradient),
                                                                 [NNF_MAX_CHANGE] = FN(max_change),
                                                                 [NNF_MEAN] = FN(mean_of_plane),
                                                                 [NNF_MEAN_GRADIENT] = FN(mean_gradient)};
    const intptr_t planes = p->planes * p->stack, size = p->out_size[0] * p->out_size[1] * p->kernel[0] * p->kernel[1];
    pooling_task_t t = {p, planes, run[p->which]};
    if (planes == 0) return;
    t.planes = NNF_ACTIVATION_TASK / (size + 1) + 1;
    nnf_parallel((planes + t.planes - 1) / t.planes, FN(pooling_task), &t);
}
