/* normalization.inc.h - batch normalisation of images: docs/derivations/normalization.md.
 *
 * A task has some channels, so that no sum is shared. What a channel has in a mini-batch mostly stays in the cache from
 * its sums to its outputs. Sums run along 64 bytes of lanes, and in double from time to time; the mean is held as two
 * numbers, so that x - m has all its digits however large m is.
 */

#undef NNF_SUM_X
#undef NNF_SUM_SQUARES
#undef NNF_SUM_PRODUCTS
#define NNF_SUM_X        0 /* what is added up */
#define NNF_SUM_SQUARES  1
#define NNF_SUM_PRODUCTS 2

#undef channel_sums_t
#undef batch_norm_task_t
#define channel_sums_t    FN(channel_sums_t)
#define batch_norm_task_t FN(batch_norm_task_t)

typedef struct {
    V first[NNF_REGISTERS], second[NNF_REGISTERS];
    intptr_t waiting; /* times that something has been added to them */
    double total[2];
} channel_sums_t;

typedef struct {
    const nnf_batch_norm *p;
    intptr_t tasks;
} batch_norm_task_t;

static void FN(flush_sums)(channel_sums_t *s) {
    T lane[64 / sizeof(T)];
    for (int k = 0; k < 2; k++) {
        V *sum = k ? s->second : s->first;
        NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) {
            v_store(lane + v * LANES, sum[v]);
            sum[v] = v_set1(0);
        }
        for (intptr_t i = 0; i < LOGICAL; i++)
            s->total[k] += (double)lane[i];
    }
    s->waiting = 0;
}

/* What belongs to one number d: x itself; or, with d = x - m, d and d^2; or dy and dy d. */
NNF_INLINE void FN(add_vectors_of)(channel_sums_t *s, int what, int v, V value, V d, V gradient) {
    const V times = what == NNF_SUM_X ? value : what == NNF_SUM_SQUARES ? d : gradient;
    s->first[v] += times;
    if (what != NNF_SUM_X) s->second[v] += times * d;
}

/* Add up what belongs to n numbers; those that do not fill 64 bytes are followed by zeros. */
NNF_INLINE void FN(add_slice)(channel_sums_t *s, int what, const T *x, const T *dy, intptr_t n, T high, T low) {
    intptr_t j = 0;
    for (; j + LOGICAL <= n; j += LOGICAL) {
        NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) {
            const V value = v_load(x + j + v * LANES), d = (value - v_set1(high)) - v_set1(low);
            FN(add_vectors_of)(s, what, v, value, d, what == NNF_SUM_PRODUCTS ? v_load(dy + j + v * LANES) : d);
        }
        if (++s->waiting == NNF_SUMMED_LANES) FN(flush_sums)(s);
    }
    if (j == n) return;
    T rest[3][64 / sizeof(T)] = {{0}};
    for (intptr_t i = 0; i < n - j; i++) {
        rest[0][i] = x[j + i], rest[1][i] = (x[j + i] - high) - low;
        if (what == NNF_SUM_PRODUCTS) rest[2][i] = dy[j + i];
    }
    NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) {
        const intptr_t at = v * LANES;
        FN(add_vectors_of)(s, what, v, v_load(rest[0] + at), v_load(rest[1] + at), v_load(rest[2] + at));
    }
    if (++s->waiting == NNF_SUMMED_LANES) FN(flush_sums)(s);
}

/* The two sums over a channel. */
NNF_INLINE void FN(sum_channel)(const nnf_batch_norm *p, intptr_t channel, int what, double mean, double *total) {
    channel_sums_t s = {.waiting = 0};
    const T high = (T)mean, low = (T)(mean - (double)high);
    NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) s.first[v] = s.second[v] = v_set1(0);
    for (intptr_t row = 0; row < p->rows; row++) {
        const intptr_t at = (row * p->channels + channel) * p->size;
        FN(add_slice)(&s, what, (const T *)p->x + at, p->dy ? (const T *)p->dy + at : NULL, p->size, high, low);
    }
    FN(flush_sums)(&s);
    total[0] = s.total[0], total[1] = s.total[1];
}

/* y = d scale + shift; or y = (dy + d along) scale + shift */
NNF_INLINE void FN(put_slice)(const T *x, const T *dy, intptr_t n, T high, T low, T along, T scale, T shift, T *y) {
    for (intptr_t j = 0; j < n; j += LANES) {
        const intptr_t some = n - j < LANES ? n - j : LANES;
        V value = some == LANES ? v_load(x + j) : v_load_n(x + j, some);
        value = (value - v_set1(high)) - v_set1(low);
        if (dy) value = value * v_set1(along) + (some == LANES ? v_load(dy + j) : v_load_n(dy + j, some));
        value = value * v_set1(scale) + v_set1(shift);
        if (some == LANES)
            v_store(y + j, value);
        else
            v_store_n(y + j, value, some);
    }
}

NNF_INLINE void FN(put_channel)(const nnf_batch_norm *p, intptr_t channel, double mean, T along, T scale, T shift,
                                T *to) {
    const T high = (T)mean, low = (T)(mean - (double)high);
    for (intptr_t row = 0; row < p->rows; row++) {
        const intptr_t at = (row * p->channels + channel) * p->size;
        if (p->dy)
            FN(put_slice)((const T *)p->x + at, (const T *)p->dy + at, p->size, high, low, along, scale, shift,
                          to + at);
        else
            FN(put_slice)((const T *)p->x + at, NULL, p->size, high, low, along, scale, shift, to + at);
    }
}

static void FN(norm_channel)(const nnf_batch_norm *p, intptr_t c) {
    const double count = (double)(p->rows * p->size);
    double total[2];
    FN(sum_channel)(p, c, NNF_SUM_X, 0, total);
    double mean = total[0] / count;
    FN(sum_channel)(p, c, NNF_SUM_SQUARES, mean, total);
    const double left = total[0] / count,
                 variance = total[1] / count - left * left; /* what rounding left of the mean */
    mean += left;
    p->moments[c] = mean, p->moments[p->channels + c] = variance > 0 ? variance : total[1] == total[1] ? 0 : total[1];
    if (!p->y) return;
    const double a = sqrt(p->moments[p->channels + c] + p->eps);
    const double scale = (p->weight ? (double)((const T *)p->weight)[c] : 1) / a;
    FN(put_channel)(p, c, mean, 0, (T)scale, p->bias ? ((const T *)p->bias)[c] : 0, p->y);
}

/* dx = (dy - mean(dy) - d mean(dy d) / a^2) w / a */
static void FN(norm_channel_backward)(const nnf_batch_norm *p, intptr_t c) {
    const double count = (double)(p->rows * p->size), mean = p->moments[c];
    const double square = p->moments[p->channels + c] + p->eps, a = sqrt(square);
    const double scale = (p->weight ? (double)((const T *)p->weight)[c] : 1) / a;
    double total[2];
    FN(sum_channel)(p, c, NNF_SUM_PRODUCTS, mean, total);
    if (p->grad_weight) ((T *)p->grad_weight)[c] += (T)(total[1] / a);
    if (p->grad_bias) ((T *)p->grad_bias)[c] += (T)total[0];
    FN(put_channel)(p, c, mean, (T)(-total[1] / (count * square)), (T)scale, (T)(-total[0] / count * scale), p->dx);
}

static void FN(batch_norm_task)(void *context, intptr_t task) {
    const batch_norm_task_t *t = context;
    const nnf_batch_norm *p = t->p;
    for (intptr_t c = p->channels * task / t->tasks; c < p->channels * (task + 1) / t->tasks; c++)
        if (p->dx)
            FN(norm_channel_backward)(p, c);
        else
            FN(norm_channel)(p, c);
}

static void FN(batch_norm)(const nnf_batch_norm *p) {
    const double flops = 8.0 * (double)(p->rows * p->size) * (double)p->channels; /* reading is what takes its time */
    batch_norm_task_t t = {p, FN(tasks_of)(8 * flops, p->channels)};
    if (p->rows * p->size == 0 || p->channels == 0) return;
    nnf_parallel(t.tasks, FN(batch_norm_task), &t);
}
