/* matmul_short.inc.h - products of a short k: C (rows, columns) = or += A (rows, k) B (k, columns), B held in
 * registers.
 *
 * A tile has to set up its sums and their addresses, which takes longer than a few k. Here all K rows of N vectors of B
 * are registers while the rows of A and C pass by one after another. K and N are literal; sums run over k as in a tile.
 */

#undef short_function_t
#define short_function_t FN(short_function_t)

typedef void (*short_function_t)(const tile_t *t, intptr_t rows, const T *a, const T *b, T *c);

#define NNF_SHORT(K, N, form, whole)                                                                                   \
    static void FN(short_##K##x##N##_##form)(const tile_t *t, intptr_t rows, const T *a, const T *b, T *c) {           \
        V columns[K][N];                                                                                               \
        const T *start = t->add ? c : t->bias;                                                                         \
        const intptr_t a_row = t->a_row, a_col = t->a_col, c_row = t->c_row, start_row = t->add ? c_row : 0;           \
        NNF_UNROLL for (int k = 0; k < K; k++) NNF_UNROLL for (int n = 0; n < N; n++) columns[k][n] =                  \
            NNF_LOAD_COLUMNS(b + k * t->b_row, n, N, whole);                                                           \
        for (; rows > 0; rows--, a += a_row, c += c_row) {                                                             \
            V sum[N];                                                                                                  \
            NNF_UNROLL for (int n = 0; n < N; n++) sum[n] = v_set1(0);                                                 \
            if (start) {                                                                                               \
                NNF_UNROLL for (int n = 0; n < N; n++) sum[n] = NNF_LOAD_COLUMNS(start, n, N, whole);                  \
                start += start_row;                                                                                    \
            }                                                                                                          \
            NNF_UNROLL for (int k = 0; k < K; k++) {                                                                   \
                const V number = v_set1(a[k * a_col]);                                                                 \
                NNF_UNROLL for (int n = 0; n < N; n++) sum[n] += number * columns[k][n];                               \
            }                                                                                                          \
            NNF_UNROLL for (int n = 0; n + 1 < N; n++) v_store(c + n * LANES, sum[n]);                                 \
            if (whole)                                                                                                 \
                v_store(c + (N - 1) * LANES, sum[N - 1]);                                                              \
            else                                                                                                       \
                v_store_n(c + (N - 1) * LANES, sum[N - 1], t->tail);                                                   \
        }                                                                                                              \
    }
#define NNF_SHORT_FORMS(K, N) NNF_SHORT(K, N, whole, 1) NNF_SHORT(K, N, tail, 0)

/* K N vectors of B, N sums and a number of A must be registers. */
#define NNF_SHORT_VECTORS 4
#undef NNF_EACH_SHORT
#if NNF_VECTOR_BYTES == 64 || NNF_VECTOR_BYTES == 16
#define NNF_EACH_SHORT(x)                                                                                              \
    x(1, 1) x(2, 1) x(3, 1) x(4, 1) x(5, 1) x(6, 1) x(7, 1) x(8, 1) x(9, 1) x(10, 1) x(11, 1) x(12, 1) x(13, 1)        \
        x(14, 1) x(15, 1) x(16, 1) x(1, 2) x(2, 2) x(3, 2) x(4, 2) x(5, 2) x(6, 2) x(7, 2) x(8, 2) x(9, 2) x(10, 2)    \
            x(11, 2) x(12, 2) x(1, 3) x(2, 3) x(3, 3) x(4, 3) x(5, 3) x(6, 3) x(7, 3) x(8, 3) x(1, 4) x(2, 4) x(3, 4)  \
                x(4, 4) x(5, 4) x(6, 4)
NNF_INLINE intptr_t FN(short_k)(intptr_t vectors) {
    return vectors == 1 ? 16 : vectors == 2 ? 12 : vectors == 3 ? 8 : 6;
}
#else
#define NNF_EACH_SHORT(x)                                                                                              \
    x(1, 1) x(2, 1) x(3, 1) x(4, 1) x(5, 1) x(6, 1) x(7, 1) x(8, 1) x(1, 2) x(2, 2) x(3, 2) x(4, 2) x(5, 2) x(1, 3)    \
        x(2, 3) x(3, 3) x(1, 4) x(2, 4)
NNF_INLINE intptr_t FN(short_k)(intptr_t vectors) { return vectors == 1 ? 8 : vectors == 2 ? 5 : vectors == 3 ? 3 : 2; }
#endif
NNF_EACH_SHORT(NNF_SHORT_FORMS)

/* [vectors - 1][k - 1][whole] */
#define NNF_SHORT_ENTRY(K, N) [(N) - 1][(K) - 1] = {FN(short_##K##x##N##_tail), FN(short_##K##x##N##_whole)},
static const short_function_t FN(shorts)[NNF_SHORT_VECTORS][16][2] = {NNF_EACH_SHORT(NNF_SHORT_ENTRY)};

#undef NNF_SHORT_ENTRY
#undef NNF_SHORT_FORMS
#undef NNF_SHORT
