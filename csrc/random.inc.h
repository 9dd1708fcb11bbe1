/* random.inc.h - random numbers that depend on where they are alone: SplitMix64 (Steele, Lea and Flood 2014) with
 * Stafford's mix 13, as a hash of a counter. Whole numbers alone until the last line: the same bits everywhere. */

#undef uniform_t
#define uniform_t FN(uniform_t)

typedef struct {
    intptr_t rows, columns, rows_a_task;
    const uint64_t *keys;
    T *out;
} uniform_t;

static void FN(uniform_rows)(void *context, intptr_t task) {
    const uniform_t *u = context;
    const intptr_t first = task * u->rows_a_task, end = first + u->rows_a_task;
    for (intptr_t row = first; row < (end < u->rows ? end : u->rows); row++) {
        T *restrict y = u->out + row * u->columns;
        const uint64_t key = u->keys[row];
        for (intptr_t i = 0; i < u->columns; i++) {
            uint64_t z = key + ((uint64_t)i + 1) * UINT64_C(0x9E3779B97F4A7C15);
            z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
            z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
            y[i] = (T)(int32_t)((z ^ (z >> 31)) >> 40) * (T)0x1p-24; /* exact in both types */
        }
    }
}

static void FN(uniform)(intptr_t rows, intptr_t columns, const uint64_t *keys, void *out) {
    uniform_t u = {rows, columns, columns < NNF_UPDATE_TASK ? NNF_UPDATE_TASK / (columns + 1) + 1 : 1, keys, out};
    nnf_parallel((rows + u.rows_a_task - 1) / u.rows_a_task, FN(uniform_rows), &u);
}
