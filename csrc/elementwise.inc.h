NNF_INLINE V FN(forward_of)(nnf_activation f, double alpha, V x) {
    (void)alpha;
    switch (f) {
    case NNF_SIGMOID: return v_sigmoid(x);
    case NNF_TANH: return v_tanh(x);
    case NNF_RELU: return v_select(x < v_set1(0), v_set1(0), x);
    case NNF_STEP: return v_select(x > v_set1(0), v_set1(1), v_select(x != x, x, v_set1(0)));
    default: return x;
    }
}
NNF_INLINE V FN(backward_of)(nnf_activation f, double alpha, V x, V y, V dy) {
    (void)alpha;
    const V one = v_set1(1);
    switch (f) {
    case NNF_SIGMOID: return dy * y * v_sigmoid(-x);
    case NNF_TANH: return dy * (one - y) * (one + y);
    case NNF_RELU: return v_select(x > v_set1(0), dy, v_set1(0));
    case NNF_STEP: return v_set1(0);
    default: return dy;
    }
}
NNF_INLINE V FN(difference_of)(nnf_activation f, double alpha, V x, V y, V d) {
    (void)alpha;
    const V zero = v_set1(0), moved = x + d;
    switch (f) {
    case NNF_SIGMOID: {
        const V up = v_sigmoid(moved) * v_sigmoid(-x) * -v_expm1(-d), down = y * v_sigmoid(-moved) * v_expm1(d);
        return v_select(d > zero, up, down);
    }
    case NNF_TANH: {
        const V t = v_tanh(d);
        return (v_set1(1) - y) * (v_set1(1) + y) * t / (v_set1(1) + y * t);
    }
    case NNF_RELU: return v_select(x > zero, v_select(moved > zero, d, -x), v_select(moved > zero, moved, zero));
    case NNF_STEP: return FN(forward_of)(f, alpha, moved) - y;
    default: return d;
    }
}
#define EACH(expr) for (intptr_t i = 0; i < n; i += LANES) { intptr_t m = n - i < LANES ? n - i : LANES; V vx = v_load_n(X + i, m); (void)vx; V r = expr; v_store_n(Y + i, r, m); }
static void FN(activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) { const T *X = x; T *Y = y; EACH(FN(forward_of)(f, alpha, vx)) }
static void FN(activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y, const void *dy, void *dx) { const T *X = x, *B=y, *C=dy; T *Y = dx; EACH(FN(backward_of)(f, alpha, vx, v_load_n(B+i,m), v_load_n(C+i,m))) }
static void FN(activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x, const void *y, const void *dx, void *dy) { const T *X = x, *B=y; for (intptr_t s = 0; s < stack; s++) { const T *C=(const T*)dx + s*n; T *Y = (T*)dy + s*n; EACH(FN(difference_of)(f, alpha, vx, v_load_n(B+i,m), v_load_n(C+i,m))) } }
#undef EACH
