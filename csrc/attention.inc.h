/* attention.inc.h - scaled dot-product attention, forward and backward, a tile of queries at a time.
 *
 * A task is some heads of some rows of the batch. In a head, a tile of queries meets all keys: its scores, some tens of
 * KiB, are computed, exponentiated and multiplied with the values while they are in the cache; the matrix of all scores
 * is never there. Backward computes the scores of a tile once more, and needs one number per query of what forward
 * knew, the logarithm of the sum of exponentials (Dao et al. 2022). Gradients of keys and values are added tile after
 * tile. Sums along a row of scores have 64 bytes of lanes, so that AVX2 and AVX-512 agree.
 */

#undef attention_t
#undef head_t
#define attention_t FN(attention_t)
#define head_t      FN(head_t)

typedef struct {
    const nnf_attention *p;
    intptr_t tile_rows, heads_a_task;
    size_t scratch; /* numbers per task */
    T *memory;
} attention_t;

/* One head of one row of the batch; queries and keys are rows. */
typedef struct {
    const T *q, *k, *v, *factors, *dout;
    const uint8_t *mask;
    T *out, *lse, *dq, *dk, *dv;
} head_t;

static void FN(head_product)(nnf_matmul p, const T *a, const T *b, T *c) {
    p.batch = 1, p.activation = NNF_IDENTITY;
    FN(multiply_whole)(&p, a, b, c);
}

/* ---- rows of scores ---- */

NNF_INLINE intptr_t FN(lanes_left)(intptr_t n) { return n < 0 ? 0 : n < LANES ? n : LANES; }

/* Sum of 64 bytes of lanes, second half to first half. */
NNF_INLINE T FN(sum_of_parts)(V *sum) {
    NNF_UNROLL for (int half = DOT_PARTS / 2; half > 0; half /= 2) NNF_UNROLL for (int part = 0; part < half; part++)
        sum[part] += sum[part + half];
    return FN(sum_of_lanes)(sum[0]);
}

/* x = exp(x - shift), n > 0; returns the sum. */
static T FN(exponentials)(T *x, intptr_t n, T shift) {
    const V s = v_set1(shift);
    const VI lanes = FN(lane_numbers)();
    V sum[DOT_PARTS];
    intptr_t i = 0;
    NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) sum[part] = v_set1(0);
    for (; i + DOT_LANES <= n; i += DOT_LANES)
        NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) {
            const V e = v_exp_down(v_load(x + i + part * LANES) - s);
            v_store(x + i + part * LANES, e);
            sum[part] += e;
        }
    for (int part = 0; i + part * LANES < n; part++) {
        T *at = x + i + part * LANES;
        const intptr_t left = FN(lanes_left)(n - i - part * LANES);
        const V e = v_exp_down(v_load_n(at, left) - s);
        v_store_n(at, e, left);
        sum[part] += v_select(lanes < FN(vector_set1_bits)((TI)left), e, v_set1(0));
    }
    return FN(sum_of_parts)(sum);
}

static T FN(dot_of)(const T *a, const T *b, intptr_t n) {
    V sum[DOT_PARTS];
    intptr_t i = 0;
    NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) sum[part] = v_set1(0);
    for (; i + DOT_LANES <= n; i += DOT_LANES)
        NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) sum[part] +=
            v_load(a + i + part * LANES) * v_load(b + i + part * LANES);
    for (int part = 0; i + part * LANES < n; part++) {
        const intptr_t at = i + part * LANES, left = FN(lanes_left)(n - at);
        sum[part] += v_load_n(a + at, left) * v_load_n(b + at, left);
    }
    return FN(sum_of_parts)(sum);
}

static void FN(row_product)(T *y, const T *x, intptr_t n) {
    for (intptr_t i = 0; i < n; i += LANES)
        FN(store_part)(y + i, FN(load_part)(y + i, n - i) * FN(load_part)(x + i, n - i), n - i);
}

/* The scores (rows, columns) of the queries from `first` on; -infinity where a key is hidden. Returns how many columns
 * there are: no query of the tile sees more. scaled: (rows, width), the queries times the scale. */
static intptr_t FN(scores)(const nnf_attention *p, const head_t *h, intptr_t first, intptr_t rows, T *scaled, T *s) {
    const intptr_t d = p->width, columns = p->causal && first + rows < p->keys ? first + rows : p->keys;
    for (intptr_t r = 0; r < rows; r++) {
        memcpy(scaled + r * d, h->q + (first + r) * p->q_row, (size_t)d * sizeof(T));
        FN(row_scale)(scaled + r * d, d, (T)p->scale);
    }
    FN(head_product)(
        (nnf_matmul){
            .m = rows, .n = columns, .k = d, .a_row = d, .a_col = 1, .b_row = 1, .b_col = p->k_row, .c_row = columns},
        scaled, h->k, s);
    for (intptr_t r = 0; r < rows && (p->causal || h->mask); r++) {
        T *row = s + r * columns;
        for (intptr_t j = p->causal ? first + r + 1 : columns; j < columns; j++)
            row[j] = -(T)HUGE_VAL;
        for (intptr_t j = 0; h->mask && j < columns; j++)
            row[j] = h->mask[j] ? row[j] : -(T)HUGE_VAL;
    }
    return columns;
}

/* ---- forward ---- */

static void FN(attend_tile)(const nnf_attention *p, const head_t *h, intptr_t first, intptr_t rows, T *scratch,
                            intptr_t tile_rows) {
    const intptr_t d = p->width, out_row = p->heads * d;
    T *scaled = scratch, *inverse = scaled + tile_rows * d, *s = inverse + tile_rows;
    const intptr_t columns = FN(scores)(p, h, first, rows, scaled, s);
    for (intptr_t r = 0; r < rows; r++) {
        T *row = s + r * columns;
        const T shift = FN(row_maximum)(row, columns);
        if (shift == -(T)HUGE_VAL) { /* no key is seen, unless there is a NaN, which is no maximum */
            intptr_t j = 0;
            while (j < columns && row[j] == row[j])
                j++;
            if (j == columns) {
                memset(row, 0, (size_t)columns * sizeof(T));
                inverse[r] = 0, h->lse[first + r] = (T)HUGE_VAL;
                continue;
            }
        }
        const T sum = FN(exponentials)(row, columns, shift);
        inverse[r] = 1 / sum;
        h->lse[first + r] = shift + (T)log((double)sum);
        if (h->factors) FN(row_product)(row, h->factors + (first + r) * p->keys, columns);
    }
    T *out = h->out + first * out_row;
    FN(head_product)((nnf_matmul){.m = rows,
                                  .n = d,
                                  .k = columns,
                                  .a_row = columns,
                                  .a_col = 1,
                                  .b_row = p->v_row,
                                  .b_col = 1,
                                  .c_row = out_row},
                     s, h->v, out);
    for (intptr_t r = 0; r < rows; r++)
        FN(row_scale)(out + r * out_row, d, inverse[r]);
}

/* ---- backward ---- */

/* For one row: s, the scores, become probabilities times factors; ds, the gradients of those, become those of the
 * scores: p (f ds - own), own = sum over keys of p f ds. */
static void FN(slope_row)(T *s, T *ds, const T *factors, T lse, T own, intptr_t n) {
    for (intptr_t i = 0; i < n; i += LANES) {
        const intptr_t left = n - i;
        const V f = factors ? FN(load_part)(factors + i, left) : v_set1(1);
        const V probability = v_exp_down(FN(load_part)(s + i, left) - v_set1(lse));
        FN(store_part)(s + i, probability * f, left);
        FN(store_part)(ds + i, probability * (f * FN(load_part)(ds + i, left) - v_set1(own)), left);
    }
}

static void FN(attend_tile_backward)(const nnf_attention *p, const head_t *h, intptr_t first, intptr_t rows, T *scratch,
                                     intptr_t tile_rows) {
    const intptr_t d = p->width, out_row = p->heads * d;
    T *scaled = scratch, *s = scaled + tile_rows * d, *ds = s + tile_rows * p->keys;
    const T *dout = h->dout + first * out_row;
    const intptr_t columns = FN(scores)(p, h, first, rows, scaled, s);
    FN(head_product)((nnf_matmul){.m = rows,
                                  .n = columns,
                                  .k = d,
                                  .a_row = out_row,
                                  .a_col = 1,
                                  .b_row = 1,
                                  .b_col = p->v_row,
                                  .c_row = columns},
                     dout, h->v, ds);
    for (intptr_t r = 0; r < rows; r++)
        FN(slope_row)(s + r * columns, ds + r * columns, h->factors ? h->factors + (first + r) * p->keys : NULL,
                      h->lse[first + r], FN(dot_of)(dout + r * out_row, h->out + (first + r) * out_row, d), columns);
    FN(head_product)((nnf_matmul){.m = columns,
                                  .n = d,
                                  .k = rows,
                                  .a_row = 1,
                                  .a_col = columns,
                                  .b_row = out_row,
                                  .b_col = 1,
                                  .c_row = p->dv_row,
                                  .add = 1},
                     s, dout, h->dv);
    FN(head_product)((nnf_matmul){.m = columns,
                                  .n = d,
                                  .k = rows,
                                  .a_row = 1,
                                  .a_col = columns,
                                  .b_row = d,
                                  .b_col = 1,
                                  .c_row = p->dk_row,
                                  .add = 1},
                     ds, scaled, h->dk);
    T *dq = h->dq + first * p->dq_row;
    FN(head_product)((nnf_matmul){.m = rows,
                                  .n = d,
                                  .k = columns,
                                  .a_row = columns,
                                  .a_col = 1,
                                  .b_row = p->k_row,
                                  .b_col = 1,
                                  .c_row = p->dq_row},
                     ds, h->k, dq);
    for (intptr_t r = 0; r < rows; r++)
        FN(row_scale)(dq + r * p->dq_row, d, (T)p->scale);
}

/* ---- heads ---- */

static head_t FN(head_of)(const nnf_attention *p, intptr_t index) {
    const intptr_t n = index / p->heads, own = index % p->heads, d = p->width;
    const intptr_t out = n * p->queries * p->heads * d + own * d;
    head_t h = {.q = (const T *)p->q + n * p->q_batch + own * d,
                .k = (const T *)p->k + n * p->k_batch + own * d,
                .v = (const T *)p->v + n * p->v_batch + own * d,
                .out = (T *)p->out + out,
                .lse = (T *)p->lse + index * p->queries};
    if (p->mask) h.mask = p->mask + n * p->keys;
    if (p->factors) h.factors = (const T *)p->factors + index * p->queries * p->keys;
    if (!p->dout) return h;
    h.dout = (const T *)p->dout + out;
    h.dq = (T *)p->dq + n * p->dq_batch + own * d;
    h.dk = (T *)p->dk + n * p->dk_batch + own * d;
    h.dv = (T *)p->dv + n * p->dv_batch + own * d;
    return h;
}

static void FN(heads_task)(void *context, intptr_t task) {
    const attention_t *a = context;
    const nnf_attention *p = a->p;
    const intptr_t first = task * a->heads_a_task, all = p->batch * p->heads, end = first + a->heads_a_task;
    T *scratch = a->memory + (size_t)task * a->scratch;
    for (intptr_t i = first; i < (end < all ? end : all) && !nnf_should_stop(); i++) {
        const head_t h = FN(head_of)(p, i);
        for (intptr_t j = 0; p->dout && j < p->keys; j++) {
            memset(h.dk + j * p->dk_row, 0, (size_t)p->width * sizeof(T));
            memset(h.dv + j * p->dv_row, 0, (size_t)p->width * sizeof(T));
        }
        for (intptr_t row = 0; row < p->queries && !nnf_should_stop(); row += a->tile_rows) {
            const intptr_t rows = p->queries - row < a->tile_rows ? p->queries - row : a->tile_rows;
            (p->dout ? FN(attend_tile_backward) : FN(attend_tile))(p, &h, row, rows, scratch, a->tile_rows);
        }
    }
}

static int FN(attention)(const nnf_attention *p, int (*poll)(void)) {
    const intptr_t all = p->batch * p->heads;
    attention_t a = {.p = p, .tile_rows = NNF_ATTENTION_NUMBERS / (p->keys > 0 ? p->keys : 1)};
    if (all == 0 || p->queries == 0 || p->keys == 0 || p->width == 0) return 0;
    if (a.tile_rows < NNF_ATTENTION_LEAST) a.tile_rows = NNF_ATTENTION_LEAST;
    if (a.tile_rows > p->queries) a.tile_rows = p->queries;
    const double flops = 4.0 * (double)all * (double)p->queries * (double)p->keys * (double)p->width;
    const int threads = nnf_threads_for(FN(nanoseconds_of)(flops));
    intptr_t tasks = threads == 1 ? 1 : 4 * threads < all ? 4 * threads : all;
    a.heads_a_task = (all + tasks - 1) / tasks;
    tasks = (all + a.heads_a_task - 1) / a.heads_a_task;
    a.scratch = (size_t)a.tile_rows * (size_t)(2 * p->keys + p->width + 1) + (size_t)DOT_LANES;
    a.memory = malloc((size_t)tasks * a.scratch * sizeof(T));
    if (!a.memory) return NNF_NO_MEMORY;
    const int answer = nnf_parallel_polled(tasks, FN(heads_task), &a, poll);
    free(a.memory);
    return answer;
}
