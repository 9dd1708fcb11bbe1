static void FN(softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) { (void)p; }
static void FN(softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) { (void)rows,(void)classes,(void)x,(void)y; }
