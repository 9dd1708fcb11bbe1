static void FN(softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) {
    for (intptr_t r = 0; r < rows; r++) { const T *a = (const T*)x + r*classes; T *b = (T*)y + r*classes; double m = -HUGE_VAL, s = 0;
        for (intptr_t c = 0; c < classes; c++) m = a[c] > m ? a[c] : m;
        for (intptr_t c = 0; c < classes; c++) s += exp(a[c] - m);
        for (intptr_t c = 0; c < classes; c++) b[c] = (T)(exp(a[c] - m) / s); }
}
static void FN(softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) {
    const intptr_t C = p->classes;
    for (intptr_t r = 0; r < p->rows; r++) { const T *a = (const T*)p->logits + r*p->logits_row; double m = -HUGE_VAL, s = 0, l = 0;
        for (intptr_t c = 0; c < C; c++) m = a[c] > m ? a[c] : m;
        for (intptr_t c = 0; c < C; c++) s += exp(a[c] - m);
        for (intptr_t c = 0; c < C; c++) { double t = p->labels ? p->labels[r] == c : (double)((const T*)p->targets)[r*C+c]; if (t) l += t * (a[c] - m);
            if (p->grad) ((T*)p->grad)[r*C+c] = (T)((exp(a[c]-m)/s - t) * p->scale); }
        if (p->losses) p->losses[r] = log(s) - l; }
}
