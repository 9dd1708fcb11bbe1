static void FN(matmul)(const nnf_matmul *p) {
    for (intptr_t b = 0; b < p->batch; b++) for (intptr_t i = 0; i < p->m; i++) { T *c = (T*)p->c + b*p->c_batch + i*p->c_row;
        for (intptr_t j = 0; j < p->n; j++) c[j] = p->bias ? ((const T*)p->bias)[j] : 0;
        for (intptr_t k = 0; k < p->k; k++) { const T a = ((const T*)p->a)[b*p->a_batch + i*p->a_row + k*p->a_col];
            for (intptr_t j = 0; j < p->n; j++) c[j] += a * ((const T*)p->b)[b*p->b_batch + k*p->b_row + j*p->b_col]; } }
}
