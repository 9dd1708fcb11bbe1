/* matmul.inc.h - the batched matrix product: which tiles, which copies, which threads.
 *
 * Small matrices are read in place. Otherwise BLIS's plan (Van Zee and van de Geijn 2015): k is cut into blocks
 * of BLOCK_K, B is packed into panels as wide as a tile, for all rows of A; rows are cut into blocks of BLOCK_M, packed
 * into panels as high as a tile; tiles run over a block that is in the L2 cache and a panel that is in the L1
 * cache. A matrix B whose columns are not contiguous (a transposed weight) is packed whatever its size, by transposing
 * in registers. Three kinds have ways of their own: few columns or few rows (matmul_dot.inc.h), a short k
 * (matmul_short.inc.h), and few columns with a transposed A, whose rows are then lanes (multiply_turned).
 */

#undef block_t
#undef batch_t
#undef slices_t
#define block_t  FN(block_t)
#define batch_t  FN(batch_t)
#define slices_t FN(slices_t)

#undef PANEL
#undef BLOCK_M
#undef FEW_ROWS
#undef MANY_ROWS
#define PANEL     (NNF_TILE_VECTORS * LANES) /* columns of a panel of B */
#define BLOCK_M   (NNF_BLOCK_M_TILES * TILE_ROWS)
#define FEW_ROWS  (NNF_FEW_ROWS_TILES * TILE_ROWS)
#define MANY_ROWS (NNF_MANY_ROWS_TILES * TILE_ROWS)

/* ---- packing ---- */

/* The vectors a = (a0, a1, ...) and b interleaved: low (a0, b0, a1, b1, ...) of their first halves, high of their last.
 */
#if NNF_VECTOR_BYTES > 0
#undef NNF_SHUFFLE
#if defined(__clang__)
#define NNF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define NNF_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VI){__VA_ARGS__})
#endif
#undef NNF_EVEN
#undef NNF_LOW
#undef NNF_HIGH
#if NNF_VECTOR_BYTES == 64 && !NNF_DOUBLE
#define NNF_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define NNF_LOW  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define NNF_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif (NNF_VECTOR_BYTES == 64 && NNF_DOUBLE) || (NNF_VECTOR_BYTES == 32 && !NNF_DOUBLE)
#define NNF_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define NNF_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define NNF_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif (NNF_VECTOR_BYTES == 32 && NNF_DOUBLE) || (NNF_VECTOR_BYTES == 16 && !NNF_DOUBLE)
#define NNF_EVEN 0, 2, 4, 6
#define NNF_LOW  0, 4, 1, 5
#define NNF_HIGH 2, 6, 3, 7
#else
#define NNF_EVEN 0, 2
#define NNF_LOW  0, 2
#define NNF_HIGH 1, 3
#endif

/* rows[i][j] -> rows[j][i]: log2(LANES) rounds of interleaving row i with row i + LANES / 2 */
NNF_INLINE void FN(transpose_square)(V *rows) {
    NNF_UNROLL for (int round = 1; round < (int)LANES; round *= 2) {
        V next[LANES];
        NNF_UNROLL for (int i = 0; i < (int)LANES / 2; i++) {
            next[2 * i] = NNF_SHUFFLE(rows[i], rows[i + LANES / 2], NNF_LOW);
            next[2 * i + 1] = NNF_SHUFFLE(rows[i], rows[i + LANES / 2], NNF_HIGH);
        }
        NNF_UNROLL for (int i = 0; i < (int)LANES; i++) rows[i] = next[i];
    }
}
#else
NNF_INLINE void FN(transpose_square)(V *rows) { (void)rows; }
#endif

/* to[i * to_row + j] = from[i + j * from_col], i < m, j < n: a transposition, a square at a time. */
static void FN(pack_transposed)(intptr_t m, intptr_t n, const T *from, intptr_t from_col, T *to, intptr_t to_row) {
    for (intptr_t j = 0; j < n; j += LANES) {
        const intptr_t columns = n - j < LANES ? n - j : LANES;
        for (intptr_t i = 0; i < m; i += LANES) {
            const intptr_t height = m - i < LANES ? m - i : LANES;
            const T *corner = from + i + j * from_col;
            V square[LANES];
            NNF_UNROLL for (int c = 0; c < (int)LANES; c++) square[c] = c >= columns ? v_set1(0)
                                                                        : height == LANES
                                                                            ? v_load(corner + c * from_col)
                                                                            : v_load_n(corner + c * from_col, height);
            FN(transpose_square)(square);
            if (columns == LANES)
                for (intptr_t r = 0; r < height; r++)
                    v_store(to + (i + r) * to_row + j, square[r]);
            else
                for (intptr_t r = 0; r < height; r++)
                    v_store_n(to + (i + r) * to_row + j, square[r], columns);
        }
    }
}

/* One panel of B: to[k * PANEL + j] = from[k * row + j * col], j < columns <= PANEL. */
static void FN(pack_panel)(intptr_t k, intptr_t columns, const T *from, intptr_t row, intptr_t col, T *to) {
    if (row == 1 && LANES > 1) {
        FN(pack_transposed)(k, columns, from, col, to, PANEL);
        return;
    }
    for (intptr_t i = 0; i < k; i++, from += row, to += PANEL) {
        if (col == 1) {
            intptr_t j = 0;
            for (; j + LANES <= columns; j += LANES)
                v_store(to + j, v_load(from + j));
            if (j < columns) v_store_n(to + j, v_load_n(from + j, columns - j), columns - j);
        } else {
            intptr_t j = 0;
#if NNF_VECTOR_BYTES > 0
            for (; col == 2 && j + LANES < columns; j += LANES) /* never beyond the last entry */
                v_store(to + j, NNF_SHUFFLE(v_load(from + 2 * j), v_load(from + 2 * j + LANES), NNF_EVEN));
#endif
            for (; j < columns; j++)
                to[j] = from[j * col];
        }
    }
}

/* All of B's block, a row after another where its columns are not far apart, so that it is read from first to last. */
static void FN(pack_rows)(intptr_t k, intptr_t n, const T *from, intptr_t row, intptr_t col, T *to) {
    for (intptr_t i = 0; i < k; i++, from += row, to += PANEL)
        for (intptr_t j = 0; j < n; j += PANEL)
            FN(pack_panel)(1, n - j < PANEL ? n - j : PANEL, from + j * col, row, col, to + j * k);
}

/* A strip of A: to[k * rows + i] = from[i * row + k * col], i < rows. */
static void FN(pack_strip)(intptr_t k, intptr_t rows, const T *from, intptr_t row, intptr_t col, T *to) {
    if (col == 1 && LANES > 1 && rows > 1) {
        FN(pack_transposed)(k, rows, from, row, to, rows);
        return;
    }
    for (intptr_t i = 0; i < k; i++, from += col, to += rows)
        for (intptr_t r = 0; r < rows; r++)
            to[r] = from[r * row];
}

#include "matmul_dot.inc.h"

/* ---- one product, a block of k and of columns at a time ---- */

typedef struct {
    const nnf_matmul *p;
    const T *a;                      /* of this product: (m, k) */
    const T *b;                      /* (k, n) */
    T *c;                            /* (m, n) */
    intptr_t first_k, k, first_n, n; /* the block of k and of columns */
    const T *panels;                 /* B's part of it, as the tiles read it: */
    intptr_t panel_row, panel;       /* from one k to the next, from one panel to the next */
    T *packed;                       /* where it is packed; NULL: B is read in place */
    intptr_t rows_a_task;
} block_t;

/* Row `i` of the strip `s`, when `rows` are cut into strips of nearly equal height: no thin rest. */
NNF_INLINE intptr_t FN(strip_height)(intptr_t rows, intptr_t strips, intptr_t s) {
    return rows / strips + (s < rows % strips);
}

/* Columns `first` .. `last` of C (rows, n) = or += A (rows, k) B (k, n), a strip of rows at a time. A's strips are in
 * `strip` when they have been packed, else in A itself. */
static void FN(multiply_columns)(const block_t *block, intptr_t first, intptr_t last, intptr_t rows, const T *a,
                                 const T *strip, T *c) {
    const nnf_matmul *p = block->p;
    const int wide = !block->packed && (rows <= WIDE_ROWS || last - first > PANEL);
    const intptr_t width = wide ? WIDE_VECTORS * LANES : PANEL;
    const intptr_t widest = (last - first < width ? last - first + LANES - 1 : width) / LANES;
    const intptr_t most = wide && widest > NNF_TILE_VECTORS ? WIDE_ROWS : FN(most_rows)(widest);
    const intptr_t strips = (rows + most - 1) / most;
    const int packed = strip && most == TILE_ROWS;
    tile_t t = {.k = block->k,
                .a_row = p->a_row,
                .a_col = p->a_col,
                .b_row = block->panel_row,
                .c_row = p->c_row,
                .ahead = NNF_ROWS_AHEAD * block->panel_row,
                .add = p->add || block->first_k > 0};
    for (intptr_t s = 0, i = 0; s < strips; s++) {
        const intptr_t height = FN(strip_height)(rows, strips, s);
        const T *numbers = packed ? strip + i * block->k : a + i * p->a_row;
        if (packed) t.a_row = 1, t.a_col = height;
        for (intptr_t j = first; j < last; j += width) {
            const intptr_t columns = last - j < width ? last - j : width, vectors = (columns + LANES - 1) / LANES;
            const T *b = block->panels + (block->packed ? j / PANEL * block->panel : j);
            t.tail = columns - (vectors - 1) * LANES;
            t.bias = p->bias ? (const T *)p->bias + block->first_n + j : NULL;
            FN(tile_of)(vectors, height, t.tail, t.a_row == 1)(&t, numbers, b, c + i * p->c_row + j);
        }
        i += height;
    }
}

/* Vectors of B that are taken at a time where k is short; 0: it is not, or rows are too few. */
NNF_INLINE intptr_t FN(short_vectors)(const nnf_matmul *p, intptr_t n, int packed) {
    const intptr_t vectors = (n + LANES - 1) / LANES;
    intptr_t most = packed ? NNF_TILE_VECTORS : vectors < NNF_SHORT_VECTORS ? vectors : NNF_SHORT_VECTORS;
    if (p->k == 0 || (p->m < NNF_SHORT_LEAST && p->k > 1)) return 0;
    while (most > 0 && p->k > FN(short_k)(most))
        most--;
    return packed && most < NNF_TILE_VECTORS && vectors > most ? 0 : most;
}

/* The same for a k so short that B's columns are registers: some rows at a time, so that C is written from first to
 * last. */
static void FN(multiply_short)(const block_t *block, intptr_t rows, const T *a, T *c) {
    const nnf_matmul *p = block->p;
    const intptr_t width = FN(short_vectors)(p, block->n, block->packed != NULL) * LANES;
    tile_t t = {.a_row = p->a_row, .a_col = p->a_col, .b_row = block->panel_row, .c_row = p->c_row, .add = p->add};
    for (intptr_t i = 0; i < rows; i += NNF_SHORT_ROWS) {
        const intptr_t here = block->n <= width || rows - i < NNF_SHORT_ROWS ? rows - i : NNF_SHORT_ROWS;
        for (intptr_t j = 0; j < block->n; j += width) {
            const intptr_t columns = block->n - j < width ? block->n - j : width, last = (columns + LANES - 1) / LANES;
            const T *b = block->panels + (block->packed ? j / PANEL * block->panel : j);
            t.tail = columns - (last - 1) * LANES;
            t.bias = p->bias ? (const T *)p->bias + block->first_n + j : NULL;
            FN(shorts)[last - 1][p->k - 1][t.tail == LANES](&t, here, a + i * p->a_row, b, c + i * p->c_row + j);
        }
        if (here > NNF_SHORT_ROWS) break;
    }
}
/* All columns of a strip before the next strip, where B's block stays in the L2 cache: C is then written, and A read,
 * from first to last. Otherwise a panel of B stays in the L1 cache while all strips pass by. */
static void FN(multiply_rows)(const block_t *block, intptr_t rows, const T *a, const T *strip, T *c) {
    const nnf_matmul *p = block->p;
    const int near = block->k * block->n * (intptr_t)sizeof(T) <= NNF_NEAR_B;
    const intptr_t step = near ? block->n : PANEL;
    if (FN(short_vectors)(p, block->n, block->packed != NULL))
        FN(multiply_short)(block, rows, a, c);
    else
        for (intptr_t j = 0; j < block->n; j += step)
            FN(multiply_columns)(block, j, block->n - j < step ? block->n : j + step, rows, a, strip, c);
    if (p->activation != NNF_IDENTITY && block->first_k + block->k >= p->k)
        for (intptr_t i = 0; i < rows; i++)
            FN(activation_forward)(p->activation, p->alpha, block->n, c + i * p->c_row, c + i * p->c_row);
}

/* A task: some rows of the block, their part of A packed where each number of it is read often enough. */
static void FN(rows_task)(void *context, intptr_t task) {
    const block_t *block = context;
    const nnf_matmul *p = block->p;
    const intptr_t first = task * block->rows_a_task;
    const intptr_t rows = p->m - first < block->rows_a_task ? p->m - first : block->rows_a_task;
    const T *a = block->a + first * p->a_row + block->first_k * p->a_col;
    T *c = block->c + first * p->c_row + block->first_n;
    /* a strip of a transposed A is in many lines of the cache, but must be read by some panels to be worth packing */
    const int often = p->a_col != 1 ? block->n >= 8 * PANEL : block->packed && block->n > 4 * PANEL;
    const int pays = often && rows * block->k > NNF_SMALL_B;
    T *strip = pays ? malloc((size_t)rows * (size_t)block->k * sizeof(T)) : NULL; /* without it, A itself will do */
    if (strip) {
        const intptr_t strips = (rows + TILE_ROWS - 1) / TILE_ROWS;
        for (intptr_t s = 0, i = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(rows, strips, s);
            FN(pack_strip)(block->k, height, a + i * p->a_row, p->a_row, p->a_col, strip + i * block->k);
            i += height;
        }
    }
    FN(multiply_rows)(block, rows, a, strip, c);
    free(strip);
}

/* A task: one panel of B. */
static void FN(panel_task)(void *context, intptr_t task) {
    const block_t *block = context;
    const nnf_matmul *p = block->p;
    const intptr_t j = task * PANEL, columns = block->n - j < PANEL ? block->n - j : PANEL;
    const T *from = block->b + block->first_k * p->b_row + (block->first_n + j) * p->b_col;
    FN(pack_panel)(block->k, columns, from, p->b_row, p->b_col, block->packed + task * block->panel);
}

static void FN(multiply_block)(block_t *block, int threads) {
    const nnf_matmul *p = block->p;
    if (block->packed) {
        const intptr_t panels = (block->n + PANEL - 1) / PANEL;
        block->panels = block->packed, block->panel_row = PANEL, block->panel = block->k * PANEL;
        if (threads > 1 && block->k * block->n > NNF_SHARED_PACK)
            nnf_parallel(panels, FN(panel_task), block);
        else if (p->b_row != 1)
            FN(pack_rows)(block->k, block->n, block->b + block->first_k * p->b_row + block->first_n * p->b_col,
                          p->b_row, p->b_col, block->packed);
        else
            for (intptr_t j = 0; j < panels; j++)
                FN(panel_task)(block, j);
    } else {
        block->panels = block->b + block->first_k * p->b_row + block->first_n;
        block->panel_row = p->b_row, block->panel = PANEL;
    }
    intptr_t tasks = (p->m + BLOCK_M - 1) / BLOCK_M;
    if (threads > 1) tasks = (tasks + threads - 1) / threads * threads;
    block->rows_a_task = (p->m + tasks - 1) / tasks;
    tasks = (p->m + block->rows_a_task - 1) / block->rows_a_task;
    if (threads > 1)
        nnf_parallel(tasks, FN(rows_task), block);
    else
        for (intptr_t i = 0; i < tasks; i++)
            FN(rows_task)(block, i);
}

/* B must be packed where its columns are strided; it should be where it is large and read often, and its row stride so
 * large that a panel is in many pages, or in few sets of the cache. */
NNF_INLINE int FN(must_pack)(const nnf_matmul *p) { return p->b_col != 1 && p->n > 1; }
NNF_INLINE int FN(should_pack)(const nnf_matmul *p) {
    return FN(must_pack)(p) ||
           (p->m >= NNF_STREAM_ROWS && p->k * p->n * (intptr_t)sizeof(T) > NNF_NEAR_B &&
            p->b_row * (intptr_t)sizeof(T) > NNF_NEAR_ROWS) ||
           (p->k * p->n > NNF_SMALL_B && p->m > FEW_ROWS && p->b_row * (intptr_t)sizeof(T) > NNF_NEAR_ROWS);
}

/* How much of k is summed at a time. */
static intptr_t FN(block_of_k)(intptr_t k) {
    const intptr_t blocks = k / NNF_BLOCK_K + (k % NNF_BLOCK_K > NNF_BLOCK_K / 4); /* a short rest joins the others */
    return blocks < 2 ? (k > 0 ? k : 1) : (k + blocks - 1) / blocks;
}

static void FN(multiply)(const nnf_matmul *p, const T *a, const T *b, T *c, int threads) {
    T few[NNF_SMALL_B], *many = NULL;
    intptr_t block_k = FN(block_of_k)(p->k), block_n = NNF_BLOCK_N;
    block_t block = {.p = p, .a = a, .b = b, .c = c};
    if (FN(should_pack)(p)) {
        const intptr_t k = p->k < block_k ? p->k : block_k, n = p->n < block_n ? p->n : block_n;
        const intptr_t room = k * ((n + PANEL - 1) / PANEL * PANEL);
        block.packed = room <= NNF_SMALL_B ? few : (many = malloc((size_t)room * sizeof(T)));
        if (!block.packed && FN(must_pack)(p)) /* out of memory: smaller blocks, which fit on the stack */
            block.packed = few, block_n = PANEL, block_k = NNF_SMALL_B / PANEL;
    }
    for (block.first_n = 0; block.first_n < p->n; block.first_n += block_n) {
        block.n = p->n - block.first_n < block_n ? p->n - block.first_n : block_n;
        block.first_k = 0;
        do { /* once even for k = 0, which writes the bias */
            block.k = p->k - block.first_k < block_k ? p->k - block.first_k : block_k;
            FN(multiply_block)(&block, threads);
            block.first_k += block_k;
        } while (block.first_k < p->k);
    }
    free(many);
}

/* ---- narrow products of a transposed A ---- */

/* C^T = B^T A^T: lanes are rows of A, which lie side by side. */
NNF_INLINE int FN(should_turn)(const nnf_matmul *p) {
    const intptr_t columns = (p->n + LANES - 1) / LANES, rows = (p->m + LANES - 1) / LANES;
    return p->a_row == 1 && p->m > 1 && p->n <= NNF_MOST_FEW &&
           rows * (p->n < 4 ? 4 : p->n) * (p->k + 2) + p->m * p->n < (p->m < 4 ? 4 : p->m) * (p->k + 2) * columns;
}

/* C (rows, n) = the transpose of what is in `from` (n, NNF_TURNED_ROWS). */
static void FN(put_turned)(const nnf_matmul *p, const T *from, intptr_t rows, T *c) {
    intptr_t done = 0;
    if (p->n > 4) {
        FN(pack_transposed)(rows, p->n, from, NNF_TURNED_ROWS, c, p->c_row);
        return;
    }
#if NNF_VECTOR_BYTES > 0
    for (; p->n == 2 && p->c_row == 2 && done + LANES <= rows; done += LANES) {
        const V one = v_load(from + done), other = v_load(from + NNF_TURNED_ROWS + done);
        v_store(c + 2 * done, NNF_SHUFFLE(one, other, NNF_LOW));
        v_store(c + 2 * done + LANES, NNF_SHUFFLE(one, other, NNF_HIGH));
    }
#endif
    for (intptr_t j = 0; j < p->n; j++)
        for (intptr_t i = done; i < rows; i++)
            c[i * p->c_row + j] = from[j * NNF_TURNED_ROWS + i];
}

/* C's rows `first` .. `first + rows`, at most NNF_TURNED_ROWS unless C is one column. */
static void FN(multiply_turned)(const nnf_matmul *p, const T *a, const T *b, T *c, intptr_t first, intptr_t rows) {
    T scratch[NNF_MOST_FEW * NNF_TURNED_ROWS];
    const int direct = p->n == 1 && p->c_row == 1;
    T *to = direct ? c + first : scratch;
    nnf_matmul turned = {.m = p->n,
                         .k = p->k,
                         .n = rows,
                         .a_row = p->b_col,
                         .a_col = p->b_row,
                         .b_row = p->a_col,
                         .b_col = 1,
                         .c_row = direct ? rows : NNF_TURNED_ROWS,
                         .add = p->add || p->bias};
    if (p->add && !direct) FN(pack_transposed)(p->n, rows, c + first * p->c_row, p->c_row, to, NNF_TURNED_ROWS);
    if (p->bias && !p->add)
        for (intptr_t j = 0; j < p->n; j++)
            for (intptr_t i = 0; i < rows; i++)
                to[j * turned.c_row + i] = ((const T *)p->bias)[j];
    block_t block = {.p = &turned, .k = FN(block_of_k)(p->k), .n = rows, .panel_row = p->a_col};
    do {
        if (block.k > p->k - block.first_k) block.k = p->k - block.first_k;
        block.panels = a + first + block.first_k * p->a_col;
        FN(multiply_rows)(&block, p->n, b + block.first_k * p->b_row, NULL, to);
        block.first_k += block.k;
    } while (block.first_k < p->k);
    if (!direct) FN(put_turned)(p, to, rows, c + first * p->c_row);
    if (p->activation != NNF_IDENTITY)
        for (intptr_t i = first; i < first + rows; i++)
            FN(activation_forward)(p->activation, p->alpha, p->n, c + i * p->c_row, c + i * p->c_row);
}

/* ---- the batch ---- */

typedef struct {
    const nnf_matmul *p;
    intptr_t matrices_a_task;
} batch_t;

/* Products whose columns fit one panel, read in place. A transposed B is packed, as many matrices of the batch as
 * fit a panel at a time: their rows are then one matrix, and a square of vectors is transposed once for all of them. */
static void FN(one_panel_each)(const nnf_matmul *p, intptr_t first, intptr_t count) {
    T packed[NNF_SMALL_B];
    const intptr_t vectors = (p->n + LANES - 1) / LANES, most = FN(most_rows)(vectors);
    const intptr_t strips = (p->m + most - 1) / most;
    const intptr_t together = p->b_batch == p->n * p->b_col ? PANEL / p->n : 1;
    tile_t t = {.k = p->k,
                .a_row = p->a_row,
                .a_col = p->a_col,
                .b_row = p->b_row,
                .c_row = p->c_row,
                .tail = p->n - (vectors - 1) * LANES,
                .bias = p->bias,
                .add = p->add};
    const intptr_t height = FN(strip_height)(p->m, strips, 0), low = FN(strip_height)(p->m, strips, strips - 1);
    const intptr_t high_strips = p->m % strips;
    const int pack = FN(must_pack)(p);
    const tile_function_t high_tile = FN(tile_of)(vectors, height, t.tail, t.a_row == 1);
    const tile_function_t low_tile = FN(tile_of)(vectors, low, t.tail, t.a_row == 1);
    intptr_t at = 0; /* of this matrix among those packed together */
    if (pack) t.b_row = PANEL;
    const intptr_t near = NNF_ROWS_AHEAD * t.b_row, far = pack || p->b_batch == 0 ? near : p->b_batch;
    const short_function_t by_rows =
        FN(short_vectors)(p, p->n, 0) == vectors ? FN(shorts)[vectors - 1][p->k - 1][t.tail == LANES] : NULL;
    for (intptr_t i = 0; i < count; i++) {
        const T *a = (const T *)p->a + (first + i) * p->a_batch, *b = (const T *)p->b + (first + i) * p->b_batch;
        T *c = (T *)p->c + (first + i) * p->c_batch;
        if (pack) {
            const intptr_t left = count - i < together ? count - i : together;
            if (at == 0) FN(pack_panel)(p->k, left * p->n, b, p->b_row, p->b_col, packed);
            b = packed + at * p->n;
            at = at + 1 < together ? at + 1 : 0;
        }
        if (by_rows) by_rows(&t, p->m, a, b, c);
        intptr_t row = 0;
        t.ahead = near;
        for (intptr_t s = 0; !by_rows && s + 1 < strips; s++) {
            const int is_high = s < high_strips;
            (is_high ? high_tile : low_tile)(&t, a + row * p->a_row, b, c + row * p->c_row);
            row += is_high ? height : low;
        }
        t.ahead = far; /* the last strip asks for the next matrix B */
        if (!by_rows) low_tile(&t, a + row * p->a_row, b, c + row * p->c_row);
        if (p->activation != NNF_IDENTITY)
            for (intptr_t row = 0; row < p->m; row++)
                FN(activation_forward)(p->activation, p->alpha, p->n, c + row * p->c_row, c + row * p->c_row);
    }
}

/* One product on one thread. */
static void FN(multiply_whole)(const nnf_matmul *p, const T *a, const T *b, T *c) {
    const intptr_t step = p->n == 1 && p->c_row == 1 ? p->m : NNF_TURNED_ROWS; /* one column needs no scratch */
    if (FN(should_turn)(p))
        for (intptr_t i = 0; i < p->m; i += step)
            FN(multiply_turned)(p, a, b, c, i, p->m - i < step ? p->m - i : step);
    else
        FN(multiply)(p, a, b, c, 1);
}

static void FN(matrices_task)(void *context, intptr_t task) {
    const batch_t *batch = context;
    const nnf_matmul *p = batch->p;
    const intptr_t first = task * batch->matrices_a_task, left = p->batch - first;
    const intptr_t count = left < batch->matrices_a_task ? left : batch->matrices_a_task;
    if (p->n <= PANEL && p->m <= MANY_ROWS && p->k * PANEL <= NNF_SMALL_B && !FN(should_turn)(p)) {
        FN(one_panel_each)(p, first, count);
        return;
    }
    for (intptr_t i = first; i < first + count; i++)
        FN(multiply_whole)(p, (const T *)p->a + i * p->a_batch, (const T *)p->b + i * p->b_batch,
                           (T *)p->c + i * p->c_batch);
}

/* Some rows of one product, with a copy of B of their own where it is packed. */
typedef struct {
    const nnf_matmul *p;
    const T *a, *b;
    T *c;
    intptr_t rows_a_task;
} slices_t;

static void FN(slice_task)(void *context, intptr_t task) {
    const slices_t *slices = context;
    const intptr_t first = task * slices->rows_a_task;
    nnf_matmul p = *slices->p;
    p.m = p.m - first < slices->rows_a_task ? p.m - first : slices->rows_a_task;
    FN(multiply_whole)(&p, slices->a + first * p.a_row, slices->b, slices->c + first * p.c_row);
}

/* One product on all threads. A small B is packed by each of them: that takes less than to wait for each other. */
static void FN(share)(const nnf_matmul *p, const T *a, const T *b, T *c, int threads) {
    if (p->k * p->n > NNF_SHARED_B || p->m < threads * TILE_ROWS) {
        FN(multiply)(p, a, b, c, threads);
        return;
    }
    slices_t slices = {p, a, b, c, (p->m + threads - 1) / threads};
    nnf_parallel((p->m + slices.rows_a_task - 1) / slices.rows_a_task, FN(slice_task), &slices);
}

/* A stack of matrices times one matrix is one tall matrix times it. */
static nnf_matmul FN(folded)(const nnf_matmul *p) {
    nnf_matmul one = *p;
    if (p->batch > 1 && p->b_batch == 0 && p->a_batch == p->m * p->a_row && p->c_batch == p->m * p->c_row) {
        one.m *= p->batch;
        one.batch = 1;
    }
    return one;
}

/* About how long one matrix takes, in nanoseconds: by its sums, in vectors that are partly empty, or by its bytes. */
static double FN(time_of_matrix)(const nnf_matmul *p, int by_dots) {
    const double m = (double)p->m, n = (double)p->n, k = (double)p->k;
    const double columns = (double)((p->n + LANES - 1) / LANES * LANES), entries = m * k + k * n + m * n;
    const double sums = by_dots ? m * n * (k + 4 * DOT_LANES) : m * columns * (k + 1), bytes = entries * sizeof(T);
    return sums * sizeof(T) / NNF_SUM_BYTES > bytes / NNF_STREAM_BYTES ? sums * sizeof(T) / NNF_SUM_BYTES
                                                                       : bytes / NNF_STREAM_BYTES;
}

static void FN(matmul)(const nnf_matmul *given) {
    const nnf_matmul p = FN(folded)(given);
    if (p.batch == 0 || p.m == 0 || p.n == 0) return;
    batch_t batch = {&p, p.batch};
    dots_t dots;
    const int by_dots = FN(by_dots)(&p, &dots);
    const double time = FN(time_of_matrix)(&p, by_dots);
    const int threads = nnf_threads_for(time * (double)p.batch);
    if (by_dots)
        FN(dots)(&dots, threads);
    else if (threads == 1)
        FN(matrices_task)(&batch, 0);
    else if (p.batch >= 2 * threads || time < 2 * NNF_TASK_NANOSECONDS) {
        const double enough = NNF_TASK_NANOSECONDS / time; /* matrices of a task */
        batch.matrices_a_task = (p.batch + 4 * threads - 1) / (4 * threads);
        if ((double)batch.matrices_a_task < enough) batch.matrices_a_task = (intptr_t)enough;
        nnf_parallel((p.batch + batch.matrices_a_task - 1) / batch.matrices_a_task, FN(matrices_task), &batch);
    } else
        for (intptr_t i = 0; i < p.batch; i++)
            FN(share)(&p, (const T *)p.a + i * p.a_batch, (const T *)p.b + i * p.b_batch, (T *)p.c + i * p.c_batch,
                      threads);
}
