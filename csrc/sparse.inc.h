/* sparse.inc.h - a sparse matrix in compressed rows times a dense one: gradients down through a layer whose terms are
 * known. Lanes are columns of the dense one, and a row of the product stays in registers over all of its entries. */

static void FN(sparse_row)(const nnf_sparse *p, intptr_t i, intptr_t n) {
    const T *value = p->value, *b = (const T *)p->b + n;
    T *out = (T *)p->out + i * p->columns + n;
    const intptr_t left = p->columns - n, full = left / LANES;
    const intptr_t many = full < NNF_SPARSE_VECTORS ? full : NNF_SPARSE_VECTORS;
    const intptr_t rest = many < NNF_SPARSE_VECTORS ? left - many * LANES : 0;
    V sum[NNF_SPARSE_VECTORS], last = v_set1(0);
    for (intptr_t j = 0; j < NNF_SPARSE_VECTORS; j++)
        sum[j] = v_set1(0);
    for (intptr_t e = p->start[i]; e < p->start[i + 1]; e++) {
        const T *from = b + p->column[e] * p->columns;
        const V factor = v_set1(value[e]);
        if (many == NNF_SPARSE_VECTORS) {
            NNF_UNROLL for (intptr_t j = 0; j < NNF_SPARSE_VECTORS; j++) sum[j] =
                sum[j] + factor * v_load(from + j * LANES);
            continue;
        }
        for (intptr_t j = 0; j < many; j++)
            sum[j] = sum[j] + factor * v_load(from + j * LANES);
        if (rest) last = last + factor * v_load_n(from + many * LANES, rest);
    }
    for (intptr_t j = 0; j < many; j++)
        v_store(out + j * LANES, sum[j]);
    if (rest) v_store_n(out + many * LANES, last, rest);
}

static void FN(sparse_task)(void *context, intptr_t task) {
    const nnf_sparse *p = context;
    const intptr_t first = task * NNF_SPARSE_TASK, left = p->rows - first;
    const intptr_t end = first + (left < NNF_SPARSE_TASK ? left : NNF_SPARSE_TASK);
    for (intptr_t n = 0; n < p->columns; n += NNF_SPARSE_VECTORS * LANES)
        for (intptr_t i = first; i < end; i++)
            FN(sparse_row)(p, i, n);
}

static void FN(sparse_product)(const nnf_sparse *p) {
    nnf_parallel((p->rows + NNF_SPARSE_TASK - 1) / NNF_SPARSE_TASK, FN(sparse_task), (void *)p);
}
