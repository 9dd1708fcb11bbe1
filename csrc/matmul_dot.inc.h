/* matmul_dot.inc.h - products of many rows with a few, both contiguous along k: C (many, few) = M (many, k) F (few,
 * k)^T.
 *
 * That is A B with few columns of B, where tiles would leave most lanes of a vector idle; or its transpose, B^T A^T,
 * with few rows of A and a transposed B, where tiles would have to transpose all of B for a few rows. Here lanes run
 * along k. A sum has 64 bytes of lanes whatever the instruction set (one vector, or several), which are added at the
 * end, second half to first half, and so on: an entry has the same bits for every instruction set with fused
 * operations.
 */

#undef DOT_LANES
#undef DOT_PARTS
#undef DOT_BLOCK
#undef dot_function_t
#undef dots_t
#define DOT_LANES      ((intptr_t)(64 / sizeof(T)))
#define DOT_PARTS      ((int)(DOT_LANES / LANES))
#define DOT_BLOCK      (1 << 13) /* bytes of rows that are in the L1 cache while all of the few pass by */
#define dot_function_t FN(dot_function_t)
#define dots_t         FN(dots_t)

/* The sum of the lanes of each of `count` vectors, a power of 2 up to LANES, in the first lanes of one. A round folds
 * the second half of what lanes there are onto the first, and interleaves two vectors, or one with itself. */
NNF_INLINE V FN(add_lanes)(const int count, const V *from) {
    V sum[LANES];
    NNF_UNROLL for (int i = 0; i < count; i++) sum[i] = from[i];
#if NNF_VECTOR_BYTES > 0
    int vectors = count;
    NNF_UNROLL for (int round = 1; round < (int)LANES; round *= 2) {
        const int apart = vectors / 2;
        vectors = vectors > 1 ? apart : 1;
        NNF_UNROLL for (int i = 0; i < vectors; i++) sum[i] =
            NNF_SHUFFLE(sum[i], sum[i + apart], NNF_LOW) + NNF_SHUFFLE(sum[i], sum[i + apart], NNF_HIGH);
    }
    NNF_UNROLL for (int each = count; each < (int)LANES; each *= 2) sum[0] = NNF_SHUFFLE(sum[0], sum[0], NNF_EVEN);
#endif
    return sum[0];
}

/* sums[r * (F, rounded up to a power of 2) + f] = many[r] . few[f] */
typedef void (*dot_function_t)(intptr_t k, const T *many, intptr_t many_row, const T *few, intptr_t few_row, T *sums);

#define NNF_ROUND_UP(F) ((F) <= 2 ? (F) : (F) <= 4 ? 4 : 8)
#define NNF_DOT_STEP(R, F, load)                                                                                       \
    NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) {                                                          \
        V b[F];                                                                                                        \
        const intptr_t at = part * LANES;                                                                              \
        NNF_UNROLL for (int f = 0; f < F; f++) b[f] = load(few + f * few_row + at, k - at);                            \
        NNF_UNROLL for (int r = 0; r < R; r++) {                                                                       \
            const V a = load(many + r * many_row + at, k - at);                                                        \
            NNF_UNROLL for (int f = 0; f < F; f++) sum[part][r * NNF_ROUND_UP(F) + f] += a * b[f];                     \
        }                                                                                                              \
    }
#define NNF_DOT_WHOLE(p, left) v_load(p)
#define NNF_DOT_REST(p, left)  v_load_n(p, (left) < 0 ? 0 : (left) < LANES ? (left) : LANES)

#define NNF_DOT(R, F)                                                                                                  \
    static void FN(dot_##R##x##F)(intptr_t k, const T *many, intptr_t many_row, const T *few, intptr_t few_row,        \
                                  T *sums) {                                                                           \
        V sum[DOT_PARTS][R * NNF_ROUND_UP(F)];                                                                         \
        NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++)                                                        \
            NNF_UNROLL for (int i = 0; i < R * NNF_ROUND_UP(F); i++) sum[part][i] = v_set1(0);                         \
        for (; k >= DOT_LANES; k -= DOT_LANES, many += DOT_LANES, few += DOT_LANES)                                    \
            NNF_DOT_STEP(R, F, NNF_DOT_WHOLE)                                                                          \
        if (k > 0) NNF_DOT_STEP(R, F, NNF_DOT_REST)                                                                    \
        NNF_UNROLL for (int half = DOT_PARTS / 2; half > 0; half /= 2)                                                 \
            NNF_UNROLL for (int part = 0; part < half; part++)                                                         \
                NNF_UNROLL for (int i = 0; i < R * NNF_ROUND_UP(F); i++) sum[part][i] += sum[part + half][i];          \
        enum { COUNT = R * NNF_ROUND_UP(F) < LANES ? R * NNF_ROUND_UP(F) : LANES };                                    \
        NNF_UNROLL for (int i = 0; i < R * NNF_ROUND_UP(F); i += COUNT)                                                \
            v_store(sums + i, FN(add_lanes)(COUNT, sum[0] + i));                                                       \
    }

/* Rows at a time: sums, the few's vectors and one of the many must be registers. */
#define NNF_DOT_FEW 6
#undef NNF_EACH_DOT
#if NNF_VECTOR_BYTES == 64
#define NNF_EACH_DOT(x)                                                                                                \
    x(1, 1) x(2, 1) x(4, 1) x(8, 1) x(1, 2) x(2, 2) x(4, 2) x(8, 2) x(1, 3) x(2, 3) x(4, 3) x(1, 4) x(2, 4) x(4, 4)    \
        x(1, 5) x(2, 5) x(4, 5) x(1, 6) x(2, 6) x(4, 6)
NNF_INLINE intptr_t FN(most_dots)(intptr_t few) { return few <= 2 ? 8 : 4; }
#else
#define NNF_EACH_DOT(x) x(1, 1) x(2, 1) x(4, 1) x(1, 2) x(2, 2) x(1, 3) x(2, 3) x(1, 4) x(1, 5) x(1, 6)
NNF_INLINE intptr_t FN(most_dots)(intptr_t few) { return few <= 1 ? 4 : few <= 3 ? 2 : 1; }
#endif
NNF_EACH_DOT(NNF_DOT)

#define NNF_DOT_ENTRY(R, F) [(F) - 1][(R) / 2] = FN(dot_##R##x##F),
static const dot_function_t FN(dot_functions)[NNF_DOT_FEW][5] = {NNF_EACH_DOT(NNF_DOT_ENTRY)};

#undef NNF_DOT_ENTRY
#undef NNF_DOT
#undef NNF_DOT_REST
#undef NNF_DOT_WHOLE
#undef NNF_DOT_STEP

/* ---- when, and over which rows ---- */

typedef struct {
    const nnf_matmul *p;
    int turned;         /* the many are B's columns, the few A's rows */
    intptr_t many, few; /* how many */
    intptr_t many_row, few_row, few_col;
    int streams; /* the many come from memory: then one row after another, which the processor fetches in time */
    intptr_t rows_a_task, matrices_a_task, tasks_a_matrix;
} dots_t;

/* Whether dots take fewer vectors than tiles, in units of one multiplication of vectors; as 64 bytes for every
 * instruction set, so that all choose alike. */
static int FN(by_dots)(const nnf_matmul *p, dots_t *d) {
    *d = (dots_t){.p = p};
    d->turned = p->m == 1 && p->b_row == 1;
    if (p->k == 0 || (p->a_col != 1 && !(d->turned && p->any_order))) return 0;
    d->many = d->turned ? p->n : p->m, d->few = d->turned ? 1 : p->n;
    d->many_row = d->turned ? p->b_col : p->a_row;
    d->few_row = d->turned ? p->a_row : p->b_col, d->few_col = d->turned ? p->a_col : p->b_row;
    if (p->n > NNF_MOST_FEW && (!p->any_order || p->b_row != 1 || p->m > NNF_MOST_FEW)) return 0;
    if (p->b_row != 1 && p->n * p->k > NNF_PACKED_FEW) return 0;
    if (d->turned && p->a_col != 1 && p->k > NNF_PACKED_FEW) return 0;
    if (p->m == 1 && p->n == 1 && p->b_row == 1 && p->a_col == 1 && p->any_order && p->batch > 1) return 1;
    const intptr_t matrices = (d->turned ? p->b_batch : p->a_batch) == 0 ? 1 : p->batch;
    d->streams = (double)matrices * (double)d->many * (double)p->k * sizeof(T) > NNF_STREAM;
    const intptr_t vectors = (p->n + DOT_LANES - 1) / DOT_LANES, m = p->any_order ? p->m : 1 << 10;
    const intptr_t by_tiles = (m < 4 ? 4 : m) * p->k * vectors + (p->b_col != 1 && p->n > 1 ? p->k * p->n / 3 : 0);
    const intptr_t by_dots = m * p->n * ((p->k + DOT_LANES - 1) / DOT_LANES + 4) + (p->b_row == 1 ? 0 : p->k * p->n);
    return by_dots < by_tiles;
}

/* to[j] = from[j] + start[j], j < n, where `from` is part of the whole vector that was stored at `vector`: a load of
 * just that part would wait until the store is in the cache. */
NNF_INLINE void FN(put_part)(T *to, const T *vector, const T *from, const T *start, intptr_t n) {
#if NNF_VECTOR_BYTES == 64 && defined(__x86_64__)
    const intptr_t first = from - vector;
    const uint32_t lanes = ((1u << n) - 1) << first;
    V sum = v_load(vector);
#if NNF_DOUBLE
    if (start) sum += (V)_mm512_maskz_loadu_pd((__mmask8)lanes, start - first);
    _mm512_mask_storeu_pd(to - first, (__mmask8)lanes, (__m512d)sum);
#else
    if (start) sum += (V)_mm512_maskz_loadu_ps((__mmask16)lanes, start - first);
    _mm512_mask_storeu_ps(to - first, (__mmask16)lanes, (__m512)sum);
#endif
#else
    (void)vector;
    for (intptr_t j = 0; j < n; j++)
        to[j] = from[j] + (start ? start[j] : 0);
#endif
}

/* C = or += sums, `rows` of the many by `few`; i and f are the first of them. */
NNF_INLINE void FN(put_dots)(const dots_t *d, const T *sums, intptr_t i, intptr_t rows, intptr_t f, intptr_t few,
                             T *c) {
    const nnf_matmul *p = d->p;
    const intptr_t apart = NNF_ROUND_UP(few);
    const T *bias = p->add ? NULL : p->bias;
    if (d->turned || (!bias && few == apart && p->c_row == few)) { /* C's entries lie side by side, as sums do */
        c += d->turned ? i : i * p->c_row + f;
        for (intptr_t at = 0; at < rows * few; at += LANES) {
            const intptr_t n = rows * few - at < LANES ? rows * few - at : LANES;
            FN(put_part)(c + at, sums + at, sums + at, p->add ? c + at : bias ? bias + i + at : NULL, n);
        }
    } else
        for (intptr_t r = 0; r < rows; r++) {
            T *to = c + (i + r) * p->c_row + f;
            const T *from = sums + r * apart, *vector = sums + r * apart / LANES * LANES;
            FN(put_part)(to, vector, from, p->add ? to : bias ? bias + f : NULL, few);
        }
}

/* C's rows `first` .. `first + rows` of the many. */
static void FN(dots_of_rows)(const dots_t *d, intptr_t first, intptr_t rows, const T *many, const T *few,
                             intptr_t few_row, T *c) {
    const intptr_t groups = (d->few + NNF_DOT_FEW - 1) / NNF_DOT_FEW;
    T sums[8 * 4 + 64 / sizeof(T)] = {0}; /* whole vectors are stored and loaded */
    for (intptr_t g = 0, f = 0; g < groups; g++) {
        const intptr_t few_here = d->few / groups + (g < d->few % groups);
        intptr_t height = FN(most_dots)(few_here);
        while (d->streams && height > 1 && height * d->many_row * (intptr_t)sizeof(T) > NNF_NEAR_ROWS / 2)
            height /= 2;
        for (intptr_t i = first; i < first + rows; i += height) {
            while (height > first + rows - i)
                height /= 2;
            FN(dot_functions)
            [few_here - 1][height / 2](d->p->k, many + i *d->many_row, d->many_row, few + f *few_row, few_row, sums);
            FN(put_dots)(d, sums, i, height, f, few_here, c);
        }
        f += few_here;
    }
}

/* Rows of one product, as many at a time as stay in the L1 cache; `packed` has room for the few. */
static void FN(dots_of_matrix)(const dots_t *d, intptr_t matrix, intptr_t first, intptr_t rows, T *packed) {
    const nnf_matmul *p = d->p;
    const T *a = (const T *)p->a + matrix * p->a_batch, *b = (const T *)p->b + matrix * p->b_batch;
    const T *many = d->turned ? b : a, *few = d->turned ? a : b;
    T *c = (T *)p->c + matrix * p->c_batch;
    intptr_t few_row = d->few_row, block = DOT_BLOCK / (intptr_t)sizeof(T) / p->k / 8 * 8;
    if (d->few_col != 1) {
        if (d->few_row == 1 && d->few > 4)
            FN(pack_transposed)(d->few, p->k, few, d->few_col, packed, p->k);
        else
            for (intptr_t f = 0; f < d->few; f++)
                for (intptr_t i = 0; i < p->k; i++)
                    packed[f * p->k + i] = few[f * d->few_row + i * d->few_col];
        few = packed, few_row = p->k;
    }
    if (block < 8) block = 8;
    for (intptr_t i = first; i < first + rows; i += block)
        FN(dots_of_rows)(d, i, first + rows - i < block ? first + rows - i : block, many, few, few_row, c);
    if (p->activation == NNF_IDENTITY) return;
    if (d->turned)
        for (intptr_t r = 0; r < p->m; r++)
            FN(activation_forward)(p->activation, p->alpha, rows, c + r * p->c_row + first, c + r * p->c_row + first);
    else
        for (intptr_t r = first; r < first + rows; r++)
            FN(activation_forward)(p->activation, p->alpha, p->n, c + r * p->c_row, c + r * p->c_row);
}

/* A sum before its lanes are added. */
NNF_INLINE V FN(dot_lanes)(intptr_t k, const T *x, const T *y) {
    V sum[DOT_PARTS];
    NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) sum[part] = v_set1(0);
    for (; k > 0; k -= DOT_LANES, x += DOT_LANES, y += DOT_LANES)
        NNF_UNROLL for (int part = 0; part < DOT_PARTS; part++) {
            const intptr_t left = k - part * LANES;
            if (left >= LANES)
                sum[part] += v_load(x + part * LANES) * v_load(y + part * LANES);
            else if (left > 0)
                sum[part] += v_load_n(x + part * LANES, left) * v_load_n(y + part * LANES, left);
        }
    NNF_UNROLL for (int half = DOT_PARTS / 2; half > 0; half /= 2) NNF_UNROLL for (int part = 0; part < half; part++)
        sum[part] += sum[part + half];
    return sum[0];
}

/* Products of one row and one column: the lanes of some matrices' sums are added at once. */
static void FN(single_dots)(const nnf_matmul *p, intptr_t first, intptr_t count) {
    enum { AT_ONCE = LANES < 4 ? LANES : 4 };
    T sums[LANES];
    for (intptr_t i = first; i < first + count; i += AT_ONCE) {
        const intptr_t here = first + count - i < AT_ONCE ? first + count - i : AT_ONCE;
        V sum[AT_ONCE];
        NNF_UNROLL for (int j = 0; j < AT_ONCE; j++) {
            const intptr_t matrix = i + (j < here ? j : 0);
            sum[j] = FN(dot_lanes)(p->k, (const T *)p->a + matrix * p->a_batch, (const T *)p->b + matrix * p->b_batch);
        }
        v_store(sums, FN(add_lanes)(AT_ONCE, sum));
        for (intptr_t j = 0; j < here; j++)
            ((T *)p->c)[(i + j) * p->c_batch] = sums[j];
    }
}

static void FN(dots_task)(void *context, intptr_t task) {
    const dots_t *d = context;
    T packed[NNF_PACKED_FEW];
    const intptr_t matrix = task / d->tasks_a_matrix * d->matrices_a_task,
                   first = task % d->tasks_a_matrix * d->rows_a_task;
    const intptr_t rows = d->many - first < d->rows_a_task ? d->many - first : d->rows_a_task;
    const nnf_matmul *p = d->p;
    if (p->m == 1 && p->n == 1 && d->few_col == 1 && !p->add && !p->bias && p->activation == NNF_IDENTITY) {
        const intptr_t left = p->batch - matrix;
        FN(single_dots)(p, matrix, left < d->matrices_a_task ? left : d->matrices_a_task);
        return;
    }
    for (intptr_t i = matrix; i < matrix + d->matrices_a_task && i < d->p->batch; i++)
        FN(dots_of_matrix)(d, i, first, rows, packed);
}

static void FN(dots)(dots_t *d, int threads) {
    const intptr_t batch = d->p->batch;
    d->matrices_a_task = batch >= 2 * threads ? (batch + 4 * threads - 1) / (4 * threads) : 1;
    d->tasks_a_matrix = batch >= 2 * threads ? 1 : threads;
    if (threads == 1) d->matrices_a_task = batch, d->tasks_a_matrix = 1;
    d->rows_a_task = (d->many + d->tasks_a_matrix - 1) / d->tasks_a_matrix;
    d->rows_a_task = (d->rows_a_task + 7) / 8 * 8;
    d->tasks_a_matrix = (d->many + d->rows_a_task - 1) / d->rows_a_task;
    nnf_parallel((batch + d->matrices_a_task - 1) / d->matrices_a_task * d->tasks_a_matrix, FN(dots_task), d);
}
