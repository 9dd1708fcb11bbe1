/* matmul_tile.inc.h - the innermost products: C (rows, columns) += A (rows, k) B (k, columns), C held in registers.
 *
 * A tile is R rows by N vectors of columns, R and N literal, so that its sums are registers. For each k it reads N
 * vectors of B and multiplies them with R numbers of A. Four forms of each:
 *
 *     whole or tail         the last vector of columns is full, or has `tail` lanes that must not be overstepped
 *     packed or strided     the R numbers of A are contiguous (a_row == 1), or not
 *
 * Each sum runs over k from first to last, one fused or unfused multiplication and addition after another, whatever the
 * tile: an entry of C has the same bits in any tile and however C is cut among threads.
 */

#undef tile_function_t
#undef tile_t
#define tile_function_t FN(tile_function_t)
#define tile_t          FN(tile_t)

typedef struct {
    intptr_t k;
    intptr_t a_row, a_col, b_row, c_row;
    intptr_t ahead; /* of the row of B that is multiplied, what is asked for: NNF_ROWS_AHEAD rows, or the next matrix */
    intptr_t tail;  /* lanes of the last vector of columns, 1 .. LANES */
    int add;        /* add to what C holds; otherwise C is not read */
    const T *bias;  /* of the first column; NULL: none; only read if add is 0 */
} tile_t;

typedef void (*tile_function_t)(const tile_t *t, const T *a, const T *b, T *c);

#undef TILE_ROWS
#undef TALL_ROWS
#define TILE_ROWS        NNF_TILE_ROWS(NNF_VECTOR_BYTES)
#define TALL_ROWS        NNF_TALL_ROWS(NNF_VECTOR_BYTES)
#define NNF_TILE_VECTORS 2

/* gcc 12 turns the scalar tiles' loop over k into vectors of its own that read a row of B beyond the last one. The
 * tiles of the other instruction sets leave it nothing to do. */
#undef NNF_TILE_ATTRIBUTE
#if NNF_VECTOR_BYTES == 0 && defined(__GNUC__) && !defined(__clang__)
#define NNF_TILE_ATTRIBUTE __attribute__((optimize("no-tree-loop-vectorize")))
#else
#define NNF_TILE_ATTRIBUTE
#endif

/* Asks for the line of the cache at p; nothing is read, so that p may lie beyond the end. write: 1 if it will be
 * written. */
#undef NNF_FETCH
#if defined(__GNUC__)
#define NNF_FETCH(p, write) __builtin_prefetch((const void *)(p), write)
#else
#define NNF_FETCH(p, write) ((void)0)
#endif

#undef NNF_LOAD_COLUMNS
#define NNF_LOAD_COLUMNS(p, n, N, whole)                                                                               \
    ((whole) || (n) + 1 < (N) ? v_load((p) + (n) * LANES) : v_load_n((p) + (n) * LANES, t->tail))

/* A's rows that come next, as many as this tile has, are asked for at each k in turn, where they are not packed. */
#undef NNF_FETCH_NEXT
#define NNF_FETCH_NEXT(next, R)                                                                                        \
    NNF_UNROLL for (int line = 0; line < ((R) * (int)sizeof(T) + 63) / 64; line++) NNF_FETCH(next + 64 * line, 0);     \
    next += (R) * sizeof(T)

#define NNF_TILE(R, N, form, whole, row)                                                                               \
    NNF_TILE_ATTRIBUTE static void FN(tile_##R##x##N##_##form)(const tile_t *t, const T *a, const T *b, T *c) {        \
        V sum[R][N];                                                                                                   \
        const intptr_t a_row = row, a_col = t->a_col, b_row = t->b_row, c_row = t->c_row;                              \
        const intptr_t ahead = t->ahead;                                                                               \
        const char *next = (const char *)(a + R * a_row);                                                              \
        NNF_UNROLL for (int n = 0; n < N; n++) {                                                                       \
            const V start = t->bias && !t->add ? NNF_LOAD_COLUMNS(t->bias, n, N, whole) : v_set1(0);                   \
            NNF_UNROLL for (int r = 0; r < R; r++) sum[r][n] = start;                                                  \
        }                                                                                                              \
        if (t->add) NNF_UNROLL                                                                                         \
        for (int r = 0; r < R; r++)                                                                                    \
            NNF_UNROLL for (int n = 0; n < N; n++) sum[r][n] = NNF_LOAD_COLUMNS(c + r * c_row, n, N, whole);           \
        if (!t->add) NNF_UNROLL                                                                                        \
        for (int r = 0; r < R; r++)                                                                                    \
            NNF_UNROLL for (int n = 0; n < N; n++) NNF_FETCH(c + r * c_row + n * LANES, 1);                            \
        for (intptr_t k = t->k; k > 0; k--) {                                                                          \
            V columns[N];                                                                                              \
            NNF_UNROLL for (int n = 0; n < N; n++) NNF_FETCH(b + ahead + n * LANES, 0);                                \
            if ((row) != 1) {                                                                                          \
                NNF_FETCH_NEXT(next, R);                                                                               \
            }                                                                                                          \
            NNF_UNROLL for (int n = 0; n < N; n++) columns[n] = NNF_LOAD_COLUMNS(b, n, N, whole);                      \
            NNF_UNROLL for (int r = 0; r < R; r++) {                                                                   \
                const V number = v_set1(a[r * a_row]);                                                                 \
                NNF_UNROLL for (int n = 0; n < N; n++) sum[r][n] += number * columns[n];                               \
            }                                                                                                          \
            a += a_col;                                                                                                \
            b += b_row;                                                                                                \
        }                                                                                                              \
        NNF_UNROLL for (int r = 0; r < R; r++) {                                                                       \
            NNF_UNROLL for (int n = 0; n + 1 < N; n++) v_store(c + r * c_row + n * LANES, sum[r][n]);                  \
            if (whole)                                                                                                 \
                v_store(c + r * c_row + (N - 1) * LANES, sum[r][N - 1]);                                               \
            else                                                                                                       \
                v_store_n(c + r * c_row + (N - 1) * LANES, sum[r][N - 1], t->tail);                                    \
        }                                                                                                              \
    }

#define NNF_TILE_FORMS(R, N)                                                                                           \
    NNF_TILE(R, N, whole_packed, 1, 1)                                                                                 \
    NNF_TILE(R, N, whole_strided, 1, t->a_row)                                                                         \
    NNF_TILE(R, N, tail_packed, 0, 1)                                                                                  \
    NNF_TILE(R, N, tail_strided, 0, t->a_row)

#define NNF_TILE_NAMES(R, N)                                                                                           \
    {                                                                                                                  \
        {FN(tile_##R##x##N##_tail_strided), FN(tile_##R##x##N##_tail_packed)}, {                                       \
            FN(tile_##R##x##N##_whole_strided), FN(tile_##R##x##N##_whole_packed)                                      \
        }                                                                                                              \
    }

#undef NNF_EACH_ROWS
#undef NNF_MORE_ROWS
#if TILE_ROWS == 14
#define NNF_EACH_ROWS(x, N)                                                                                            \
    x(1, N) x(2, N) x(3, N) x(4, N) x(5, N) x(6, N) x(7, N) x(8, N) x(9, N) x(10, N) x(11, N) x(12, N) x(13, N) x(14, N)
#define NNF_MORE_ROWS(x, N)
#elif TILE_ROWS == 12
#define NNF_EACH_ROWS(x, N)                                                                                            \
    x(1, N) x(2, N) x(3, N) x(4, N) x(5, N) x(6, N) x(7, N) x(8, N) x(9, N) x(10, N) x(11, N) x(12, N)
#define NNF_MORE_ROWS(x, N)
#elif TILE_ROWS == 6
#define NNF_EACH_ROWS(x, N) x(1, N) x(2, N) x(3, N) x(4, N) x(5, N) x(6, N)
#define NNF_MORE_ROWS(x, N) x(7, N) x(8, N) x(9, N) x(10, N) x(11, N) x(12, N)
#else
#define NNF_EACH_ROWS(x, N) x(1, N) x(2, N) x(3, N) x(4, N)
#define NNF_MORE_ROWS(x, N)
#endif

NNF_EACH_ROWS(NNF_TILE_FORMS, 1)
NNF_MORE_ROWS(NNF_TILE_FORMS, 1)
NNF_EACH_ROWS(NNF_TILE_FORMS, 2)

/* Few rows by 3 or 4 vectors of columns: as many sums at once, in fewer passes over A. */
#undef WIDE_ROWS
#undef NNF_FEW_ROWS
#define WIDE_VECTORS 4
#if NNF_VECTOR_BYTES == 64 || NNF_VECTOR_BYTES == 16
#define WIDE_ROWS          6
#define NNF_FEW_ROWS(x, N) x(1, N) x(2, N) x(3, N) x(4, N) x(5, N) x(6, N)
#else
#define WIDE_ROWS          2
#define NNF_FEW_ROWS(x, N) x(1, N) x(2, N)
#endif
NNF_FEW_ROWS(NNF_TILE_FORMS, 3)
NNF_FEW_ROWS(NNF_TILE_FORMS, 4)

/* [vectors - 1][rows - 1][whole][packed] */
NNF_INLINE intptr_t FN(most_rows)(intptr_t vectors) { return vectors == 1 ? TALL_ROWS : TILE_ROWS; }

#define NNF_TILE_ENTRY(R, N) NNF_TILE_NAMES(R, N),
static const tile_function_t FN(tiles)[NNF_TILE_VECTORS][TALL_ROWS][2][2] = {
    {NNF_EACH_ROWS(NNF_TILE_ENTRY, 1) NNF_MORE_ROWS(NNF_TILE_ENTRY, 1)},
    {NNF_EACH_ROWS(NNF_TILE_ENTRY, 2)},
};
static const tile_function_t FN(wide_tiles)[WIDE_VECTORS - NNF_TILE_VECTORS][WIDE_ROWS][2][2] = {
    {NNF_FEW_ROWS(NNF_TILE_ENTRY, 3)},
    {NNF_FEW_ROWS(NNF_TILE_ENTRY, 4)},
};

/* Tiles whose last vector is at most half full, after W whole ones: some processors with 64-byte vectors multiply two
 * halves at a time. */
#if NNF_VECTOR_BYTES == 64 && defined(__x86_64__)
#undef HV
#define HV FN(half_vector)
typedef T HV __attribute__((vector_size(32)));
#if NNF_DOUBLE
NNF_INLINE HV FN(half_load)(const T *p, intptr_t n) { return (HV)_mm256_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
NNF_INLINE void FN(half_store)(T *p, HV a, intptr_t n) {
    _mm256_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m256d)a);
}
#else
NNF_INLINE HV FN(half_load)(const T *p, intptr_t n) { return (HV)_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1), p); }
NNF_INLINE void FN(half_store)(T *p, HV a, intptr_t n) {
    _mm256_mask_storeu_ps(p, (__mmask8)((1u << n) - 1), (__m256)a);
}
#endif

#define NNF_HALF_TILE(R, W, form, row)                                                                                 \
    static void FN(half_tile_##R##x##W##_##form)(const tile_t *t, const T *a, const T *b, T *c) {                      \
        V sum[R];                                                                                                      \
        HV half[R];                                                                                                    \
        const intptr_t a_row = row, a_col = t->a_col, b_row = t->b_row, c_row = t->c_row, n = t->tail;                 \
        const intptr_t ahead = t->ahead, at = W * LANES;                                                               \
        const char *next = (const char *)(a + R * a_row);                                                              \
        const T *start = t->add ? c : t->bias;                                                                         \
        const intptr_t start_row = t->add ? c_row : 0;                                                                 \
        NNF_UNROLL for (int r = 0; r < R; r++) {                                                                       \
            sum[r] = W && start ? v_load(start + r * start_row) : v_set1(0);                                           \
            half[r] = start ? FN(half_load)(start + r * start_row + at, n) : (HV){0};                                  \
        }                                                                                                              \
        for (intptr_t k = t->k; k > 0; k--, a += a_col, b += b_row) {                                                  \
            NNF_FETCH(b + ahead, 0);                                                                                   \
            if (W) NNF_FETCH(b + ahead + at, 0);                                                                       \
            if ((row) != 1) {                                                                                          \
                NNF_FETCH_NEXT(next, R);                                                                               \
            }                                                                                                          \
            const V columns = W ? v_load(b) : v_set1(0);                                                               \
            const HV last = FN(half_load)(b + at, n);                                                                  \
            NNF_UNROLL for (int r = 0; r < R; r++) {                                                                   \
                if (W) sum[r] += v_set1(a[r * a_row]) * columns;                                                       \
                half[r] += a[r * a_row] * last;                                                                        \
            }                                                                                                          \
        }                                                                                                              \
        NNF_UNROLL for (int r = 0; r < R; r++) {                                                                       \
            if (W) v_store(c + r * c_row, sum[r]);                                                                     \
            FN(half_store)(c + r * c_row + at, half[r], n);                                                            \
        }                                                                                                              \
    }
#define NNF_HALF_FORMS(R, W) NNF_HALF_TILE(R, W, strided, t->a_row) NNF_HALF_TILE(R, W, packed, 1)
NNF_EACH_ROWS(NNF_HALF_FORMS, 0)
NNF_EACH_ROWS(NNF_HALF_FORMS, 1)

/* [whole vectors][rows - 1][packed] */
#define NNF_HALF_ENTRY(R, W) {FN(half_tile_##R##x##W##_strided), FN(half_tile_##R##x##W##_packed)},
static const tile_function_t FN(half_tiles)[2][TALL_ROWS][2] = {{NNF_EACH_ROWS(NNF_HALF_ENTRY, 0)},
                                                                {NNF_EACH_ROWS(NNF_HALF_ENTRY, 1)}};
#undef NNF_HALF_ENTRY
#undef NNF_HALF_FORMS
#undef NNF_HALF_TILE
#endif

/* The tile for so many rows and vectors of columns, of which the last has `tail` lanes. */
NNF_INLINE tile_function_t FN(tile_of)(intptr_t vectors, intptr_t rows, intptr_t tail, int packed) {
    const int whole = tail == LANES;
#if NNF_VECTOR_BYTES == 64 && defined(__x86_64__)
    if (vectors <= 2 && tail <= LANES / 2) return FN(half_tiles)[vectors - 1][rows - 1][packed];
#endif
    return (vectors > NNF_TILE_VECTORS ? FN(wide_tiles)[vectors - NNF_TILE_VECTORS - 1]
                                       : FN(tiles)[vectors - 1])[rows - 1][whole][packed];
}

#undef NNF_TILE_ENTRY
#undef NNF_TILE_NAMES
#undef NNF_TILE_FORMS
#undef NNF_TILE
