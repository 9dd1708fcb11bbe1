/* elementwise.inc.h - the activations: forward, backward, difference.
 *
 * Each formula is one expression on vectors; the loops at the end serve them all. A new activation is a line in each of
 * the three switches. The functions *_of are called with a constant f, so that the switch folds away.
 */

/* ---- y = f(x) ---- */

NNF_INLINE V FN(forward_of)(nnf_activation f, double alpha, V x) {
    const V zero = v_set1(0), one = v_set1(1);
    (void)alpha;
    switch (f) {
    case NNF_SIGMOID:
        return v_sigmoid(x);
    case NNF_TANH:
        return v_tanh(x);
    case NNF_RELU:
        return v_select(x < zero, zero, x);
    case NNF_STEP:
        return v_select(x > zero, one, v_select(x != x, x, zero));
    default:
        return x;
    }
}

/* ---- dx = dy f'(x), y = f(x) ---- */

NNF_INLINE V FN(backward_of)(nnf_activation f, double alpha, V x, V y, V dy) {
    const V zero = v_set1(0), one = v_set1(1);
    (void)alpha;
    switch (f) {
    case NNF_SIGMOID: /* y (1 - y) loses the digits of 1 - y where y is near 1 */
        return dy * y * v_sigmoid(-x);
    case NNF_TANH: {
        const V a = v_sigmoid(x + x); /* 1 - tanh^2(x) = 4 s(2x) s(-2x) */
        return dy * v_set1(4) * a * v_sigmoid(-x - x);
    }
    case NNF_RELU:
        return v_select(x > zero, dy, v_select(x != x, x, zero));
    case NNF_STEP:
        return zero * dy;
    default:
        return dy * one;
    }
}

/* ---- dy = f(x + d) - f(x) without cancellation ---- */

/* s(x + d) - s(x) = s(x + d) s(-x) (1 - exp(-d)) = -s(x) s(-x - d) (1 - exp(d)): the one whose exp does not overflow */
NNF_INLINE V FN(sigmoid_difference)(V x, V d) {
    const V zero = v_set1(0), moved = x + d, size = FN(vector_absolute)(d);
    const VI up = d >= zero;
    const V change = -v_expm1(-size) * v_sigmoid(v_select(up, moved, x)) * v_sigmoid(v_select(up, -x, -moved));
    return v_select(up, change, -change);
}

NNF_INLINE V FN(difference_of)(nnf_activation f, double alpha, V x, V y, V d) {
    const V zero = v_set1(0), moved = x + d;
    switch (f) {
    case NNF_SIGMOID:
        return FN(sigmoid_difference)(x, d);
    case NNF_TANH: /* tanh(x) = 2 s(2x) - 1 */
        return v_set1(2) * FN(sigmoid_difference)(x + x, d + d);
    case NNF_RELU:
        return v_select(x > zero, v_select(moved > zero, d, -x), v_select(moved < zero, zero, moved));
    case NNF_STEP:
        return FN(forward_of)(f, alpha, moved) - y;
    default:
        return d;
    }
}

/* ---- the loops ---- */

enum { FN(ELEMENTS_A_TASK) = 1 << 15 }; /* some 10 us of work: well above a launch */

typedef struct {
    nnf_activation f;
    double alpha;
    intptr_t n;
    const T *x, *y, *dy;
    T *out;
} FN(elementwise);

/* Runs `body` - with `f` a constant in it - for the activation of the call. */
#define NNF_FOR_ACTIVATION(activation, body)                                                                           \
    switch (activation) {                                                                                              \
    case NNF_SIGMOID:                                                                                                  \
        body(NNF_SIGMOID);                                                                                             \
        break;                                                                                                         \
    case NNF_TANH:                                                                                                     \
        body(NNF_TANH);                                                                                                \
        break;                                                                                                         \
    case NNF_RELU:                                                                                                     \
        body(NNF_RELU);                                                                                                \
        break;                                                                                                         \
    case NNF_STEP:                                                                                                     \
        body(NNF_STEP);                                                                                                \
        break;                                                                                                         \
    default:                                                                                                           \
        body(NNF_IDENTITY);                                                                                            \
        break;                                                                                                         \
    }

NNF_INLINE void FN(forward_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, T *y) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(y + i, FN(forward_of)(f, alpha, v_load(x + i)));
    if (i < n) v_store_n(y + i, FN(forward_of)(f, alpha, v_load_n(x + i, n - i)), n - i);
}

NNF_INLINE void FN(backward_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, const T *y, const T *dy,
                                  T *dx) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dx + i, FN(backward_of)(f, alpha, v_load(x + i), v_load(y + i), v_load(dy + i)));
    if (i < n) {
        const V part = FN(backward_of)(f, alpha, v_load_n(x + i, n - i), v_load_n(y + i, n - i), v_load_n(dy + i, n - i));
        v_store_n(dx + i, part, n - i);
    }
}

NNF_INLINE void FN(difference_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, const T *y, const T *dx,
                                    T *dy) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dy + i, FN(difference_of)(f, alpha, v_load(x + i), v_load(y + i), v_load(dx + i)));
    if (i < n) {
        const V part =
            FN(difference_of)(f, alpha, v_load_n(x + i, n - i), v_load_n(y + i, n - i), v_load_n(dx + i, n - i));
        v_store_n(dy + i, part, n - i);
    }
}

static void FN(forward_task)(void *context, intptr_t task) {
    const FN(elementwise) *e = context;
    const intptr_t first = task * FN(ELEMENTS_A_TASK), left = e->n - first;
    const intptr_t n = left < FN(ELEMENTS_A_TASK) ? left : FN(ELEMENTS_A_TASK);
#define NNF_BODY(f) FN(forward_loop)(f, e->alpha, n, e->x + first, e->out + first)
    NNF_FOR_ACTIVATION(e->f, NNF_BODY)
#undef NNF_BODY
}

static void FN(backward_task)(void *context, intptr_t task) {
    const FN(elementwise) *e = context;
    const intptr_t first = task * FN(ELEMENTS_A_TASK), left = e->n - first;
    const intptr_t n = left < FN(ELEMENTS_A_TASK) ? left : FN(ELEMENTS_A_TASK);
#define NNF_BODY(f) FN(backward_loop)(f, e->alpha, n, e->x + first, e->y + first, e->dy + first, e->out + first)
    NNF_FOR_ACTIVATION(e->f, NNF_BODY)
#undef NNF_BODY
}

/* A task is one of the stack. */
static void FN(difference_task)(void *context, intptr_t task) {
    const FN(elementwise) *e = context;
    const intptr_t at = task * e->n;
#define NNF_BODY(f) FN(difference_loop)(f, e->alpha, e->n, e->x, e->y, e->dy + at, e->out + at)
    NNF_FOR_ACTIVATION(e->f, NNF_BODY)
#undef NNF_BODY
}

static void FN(activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) {
    FN(elementwise) e = {f, alpha, n, x, NULL, NULL, y};
    nnf_parallel((n + FN(ELEMENTS_A_TASK) - 1) / FN(ELEMENTS_A_TASK), FN(forward_task), &e);
}

static void FN(activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                    const void *dy, void *dx) {
    FN(elementwise) e = {f, alpha, n, x, y, dy, dx};
    nnf_parallel((n + FN(ELEMENTS_A_TASK) - 1) / FN(ELEMENTS_A_TASK), FN(backward_task), &e);
}

static void FN(activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                      const void *y, const void *dx, void *dy) {
    FN(elementwise) e = {f, alpha, n, x, y, dx, dy};
    if (stack * n < 2 * FN(ELEMENTS_A_TASK))
        for (intptr_t s = 0; s < stack; s++) FN(difference_task)(&e, s);
    else
        nnf_parallel(stack, FN(difference_task), &e);
}
