static void FN(activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) { (void)f,(void)alpha,(void)n,(void)x,(void)y; }
static void FN(activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y, const void *dy, void *dx) { (void)f,(void)alpha,(void)n,(void)x,(void)y,(void)dx,(void)dy; }
static void FN(activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x, const void *y, const void *dx, void *dy) { (void)f,(void)alpha,(void)n,(void)x,(void)y,(void)dx,(void)dy,(void)stack; }
