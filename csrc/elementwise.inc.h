/* elementwise.inc.h - the activations: forward, backward, difference.
 *
 * Each formula is one expression on vectors; the loops at the end serve them all. A new activation is a line of
 * activations.def and a case in each of the three switches. The functions *_of are called with a constant f, so that
 * the switch folds away.
 */

#undef elementwise_t
#define elementwise_t FN(elementwise_t)

/* ---- y = f(x) ---- */

/* P(Z < x) for normal Z, given g = v_gauss(x) */
NNF_INLINE V FN(normal_cdf)(V x, V g) {
    const V tail = v_normal_tail(FN(vector_absolute)(x), g);
    return v_select(x > v_set1(0), v_set1(1) - tail, tail);
}

/* 2 sqrt(2 / pi) (x + 0.044715 x^3): s of it stands in for the normal distribution (Hendrycks and Gimpel 2016) */
NNF_INLINE V FN(gelu_tanh_argument)(V x) {
    return v_set1((T)1.5957691216057308) * x * (v_set1(1) + v_set1((T)0.044715) * x * x);
}

/* g = tanh(log(1 + exp(x))) = E (E + 2) / (E (E + 2) + 2) and its derivative 4 E (E + 1) / (E (E + 2) + 2)^2, E =
 * exp(x): through e = exp(-|x|), so that nothing overflows */
NNF_INLINE V FN(mish_gate)(V x, V *slope) {
    const V one = v_set1(1), two = v_set1(2), e = v_exp(-FN(vector_absolute)(x)), u = e * (e + two), v = one + e + e;
    const VI left = x < v_set1(0);
    const V ee = v_select(left, e, e * e), part = one / (v_select(left, u, v) + v_select(left, two, ee + ee));
    *slope = v_set1(4) * ee * (one + e) * part * part;
    return v_select(left, u * part, v * part); /* no bare product: which of two is fused is the compiler's choice */
}

/* SELU is ELU with its own alpha, times a scale (Klambauer et al. 2017, eq. 14) */
#undef SELU_ALPHA
#undef SELU_SCALE
#define SELU_ALPHA 1.6732632423543772848170429916717
#define SELU_SCALE 1.0507009873554804934193349852946

NNF_INLINE V FN(forward_of)(nnf_activation f, double alpha, V x) {
    const V zero = v_set1(0), one = v_set1(1), slope = v_set1((T)alpha);
    /* x g(x), where g falls to 0 faster than x rises: so is it at -infinity */
    const V finite = v_max(v_set1((T)-1000), x);
    switch (f) {
    case NNF_SIGMOID:
        return v_sigmoid(x);
    case NNF_TANH:
        return v_tanh(x);
    case NNF_RELU:
        return v_select(x < zero, zero, x);
    case NNF_STEP:
        return v_select(x > zero, one, v_select(x != x, x, zero));
    case NNF_LEAKY_RELU:
        return v_select(x < zero, slope * x, x);
    case NNF_ELU:
        return v_select(x < zero, slope * v_expm1(v_min(zero, x)), x);
    case NNF_GELU:
        return finite * FN(normal_cdf)(x, v_gauss(x));
    case NNF_GELU_TANH:
        return finite * v_sigmoid(FN(gelu_tanh_argument)(finite));
    case NNF_SILU:
        return finite * v_sigmoid(x);
    case NNF_SOFTPLUS:
        return v_log1p_unit(v_exp(-FN(vector_absolute)(x))) + v_max(zero, x);
    case NNF_HARDSWISH:
        return finite * (FN(vector_limit)(x + v_set1(3), 0, 6) / v_set1(6));
    case NNF_MISH: {
        V slope_at;
        return finite * FN(mish_gate)(x, &slope_at);
    }
    case NNF_SELU:
        return v_set1((T)SELU_SCALE) * v_select(x < zero, v_set1((T)SELU_ALPHA) * v_expm1(v_min(zero, x)), x);
    case NNF_IDENTITY:
        break;
    }
    return x;
}

/* ---- dx = dy f'(x), y = f(x) ---- */

NNF_INLINE V FN(backward_of)(nnf_activation f, double alpha, V x, V y, V dy) {
    const V zero = v_set1(0), one = v_set1(1), slope = v_set1((T)alpha);
    /* (x g(x))' = g + x g', and x g' is 0 long before x is infinite */
    const V finite = v_max(v_set1((T)-1000), v_min(v_set1((T)1000), x));
    switch (f) {
    case NNF_SIGMOID: /* y (1 - y) loses the digits of 1 - y where y is near 1 */
        return dy * y * v_sigmoid(-x);
    case NNF_TANH: {
        V slope_at; /* 1 - tanh^2(x) = 4 s(2x) s(-2x) */
        v_sigmoid_slope(x + x, &slope_at);
        return dy * v_set1(4) * slope_at;
    }
    case NNF_RELU:
        return v_select(x > zero, dy, v_select(x != x, x, zero));
    case NNF_STEP:
        return zero * dy;
    case NNF_LEAKY_RELU:
        return v_select(x > zero, dy, v_select(x != x, x, slope * dy));
    case NNF_ELU:
        return v_select(x > zero, dy, dy * slope * v_exp(v_min(zero, x)));
    case NNF_GELU: {
        const V g = v_gauss(x);
        return dy * (FN(normal_cdf)(x, g) + finite * v_set1((T)0.3989422804014327) * g);
    }
    case NNF_GELU_TANH: {
        V slope_at;
        const V a = v_sigmoid_slope(FN(gelu_tanh_argument)(finite), &slope_at);
        const V slope_of_z = v_set1((T)1.5957691216057308) * (one + v_set1((T)0.134145) * finite * finite);
        return dy * (a + finite * slope_of_z * slope_at);
    }
    case NNF_SILU: {
        V slope_at;
        const V a = v_sigmoid_slope(x, &slope_at);
        return dy * (a + finite * slope_at);
    }
    case NNF_SOFTPLUS:
        return dy * v_sigmoid(x);
    case NNF_HARDSWISH: {
        const V inside = dy * ((x + x + v_set1(3)) / v_set1(6));
        return v_select(x <= v_set1(-3), zero, v_select(x >= v_set1(3), dy, inside));
    }
    case NNF_MISH: {
        V slope_at;
        const V a = FN(mish_gate)(x, &slope_at);
        return dy * (a + finite * slope_at);
    }
    case NNF_SELU: {
        const V scaled = v_set1((T)SELU_SCALE) * dy;
        return v_select(x > zero, scaled, scaled * v_set1((T)SELU_ALPHA) * v_exp(v_min(zero, x)));
    }
    case NNF_IDENTITY:
        break;
    }
    return dy * one;
}

/* ---- dy = f(x + d) - f(x) without cancellation ---- */

/* s(x + d) - s(x) = s(x + d) s(-x) (1 - exp(-d)) = -s(x) s(-x - d) (1 - exp(d)): the one whose exp does not overflow */
NNF_INLINE V FN(sigmoid_difference)(V x, V d) {
    const V zero = v_set1(0), moved = x + d, size = FN(vector_absolute)(d);
    const VI up = d >= zero;
    const V change = -v_expm1(-size) * v_sigmoid(v_select(up, moved, x)) * v_sigmoid(v_select(up, -x, -moved));
    return v_select(up, change, -change);
}

/* ELU, alpha (exp(x) - 1) below 0. On one side of 0, exp(x) expm1(d), from the end whose exp is larger; else no
 * cancellation. */
NNF_INLINE V FN(elu_difference)(V slope, V x, V d) {
    const V zero = v_set1(0), moved = x + d, size = FN(vector_absolute)(d);
    const V end = v_min(zero, v_select(d > zero, moved, x)), below = slope * v_exp(end) * -v_expm1(-size);
    const V up = v_select(moved > zero, moved - slope * v_expm1(v_min(zero, x)), v_select(d > zero, below, -below));
    return v_select(x > zero, v_select(moved > zero, d, slope * v_expm1(v_min(zero, moved)) - x), up);
}

/* The normal distribution between x and x + d. Short ways: the density in the middle, times a series in Hermite
 * polynomials, d sum_k He_2k(m) h^2k / (2k + 1)! with h = d / 2 and m = x + h. Long ways: two tails on one side of 0
 * subtracted. */
NNF_INLINE V FN(normal_cdf_difference)(V x, V d) {
    const V one = v_set1(1), moved = x + d, h = d * v_set1((T)0.5), middle = x + h;
    const V reach = FN(vector_absolute)(h) * (one + FN(vector_absolute)(middle));
    const V mh = middle * h, hh = h * h;
    const V density = v_set1((T)0.3989422804014327) * v_gauss(x) * v_exp(-h * (x + h * v_set1((T)0.5)));
    V before = one, now = mh, sum = one;
    T factorial = 1;
    for (int k = 1; k < (sizeof(T) == 8 ? 12 : 6); k++) { /* now = He_k h^k */
        const V next = mh * now - v_set1((T)k) * hh * before;
        before = now, now = next;
        if (k % 2 == 0) continue;
        factorial *= (T)((k + 1) * (k + 2));
        sum = sum + now * v_set1(1 / factorial);
    }
    const VI right = x + moved > v_set1(0);
    const V low = v_select(right, -moved, x), high = v_select(right, -x, moved); /* mirrored, if need be */
    const V far = FN(normal_cdf)(high, v_gauss(high)) - FN(normal_cdf)(low, v_gauss(low));
    return v_select(reach < v_set1((T)0.25), density * d * sum, far);
}

/* log1p(s(x) expm1(d)) upwards, and the same from the other end downwards. Where expm1 would overflow the two ends are
 * so distant that nothing cancels: f(z) = z + f(-z), from whichever side is small. */
NNF_INLINE V FN(softplus_difference)(V x, V d) {
    const V zero = v_set1(0), moved = x + d, size = FN(vector_absolute)(d);
    const VI up = d >= zero;
    const V low = v_select(up, x, moved), high = v_select(up, moved, x);
    const V near = v_log1p(v_sigmoid(low) * v_expm1(size));
    const V from_left = FN(forward_of)(NNF_SOFTPLUS, 0, high) - FN(forward_of)(NNF_SOFTPLUS, 0, low);
    const V from_right = size + (FN(forward_of)(NNF_SOFTPLUS, 0, -high) - FN(forward_of)(NNF_SOFTPLUS, 0, -low));
    const V change = v_select(size < v_set1(80), near, v_select(low < zero, from_left, from_right));
    return v_select(up, change, -change);
}

/* In the middle d (2 x + d + 3) / 6, on the right d; where x and x + d are in two pieces nothing cancels. */
NNF_INLINE V FN(hardswish_difference)(V x, V d) {
    const V three = v_set1(3), moved = x + d;
    const V from = FN(vector_limit)(x, -3, 3), to = FN(vector_limit)(moved, -3, 3);
    const V inside = v_select((from == x) & (to == moved), d, to - from) * ((from + to + three) / v_set1(6));
    const V outside = v_select(v_min(x, moved) >= three, d, v_max(three, moved) - v_max(three, x));
    return inside + outside;
}

/* Of the gate of Mish: with r = 2 / (E (E + 2) + 2) = 1 - g, from a up to b = a + size,
 * r_a r_b E_b (1 - exp(-size)) (E_a + E_b + 2) / 2 */
NNF_INLINE V FN(mish_gate_difference)(V x, V d) {
    const V one = v_set1(1), two = v_set1(2), size = FN(vector_absolute)(d), moved = x + d;
    const VI up = d >= v_set1(0);
    const V a = v_select(up, x, moved), b = v_select(up, moved, x);
    const V ea = v_exp(-FN(vector_absolute)(a)), eb = v_exp(-FN(vector_absolute)(b)), fall = -v_expm1(-size);
    const V rest_right = two * ea * ea / (one + two * ea * (one + ea)), rest_left = two / (ea * (ea + two) + two);
    const V right = (two - fall + two * eb) / (one + two * eb * (one + eb));
    const V left = eb * (eb * (two - fall) + two) / (eb * (eb + two) + two);
    const V change = v_select(a < v_set1(0), rest_left, rest_right) * v_select(b < v_set1(0), left, right) * fall;
    return v_select(up, change, -change);
}

NNF_INLINE V FN(difference_of)(nnf_activation f, double alpha, V x, V y, V d) {
    const V zero = v_set1(0), moved = x + d, slope = v_set1((T)alpha);
    switch (f) {
    case NNF_SIGMOID:
        return FN(sigmoid_difference)(x, d);
    case NNF_TANH: /* tanh(x) = 2 s(2x) - 1 */
        return v_set1(2) * FN(sigmoid_difference)(x + x, d + d);
    case NNF_RELU:
        return v_select(x > zero, v_select(moved > zero, d, -x), v_select(moved < zero, zero, moved));
    case NNF_STEP:
        return FN(forward_of)(f, alpha, moved) - y;
    case NNF_LEAKY_RELU: {
        const V up = v_select(moved > zero, moved - slope * x, slope * d);
        return v_select(x > zero, v_select(moved > zero, d, slope * moved - x), up);
    }
    case NNF_ELU:
        return FN(elu_difference)(slope, x, d);
    case NNF_GELU: /* (x + d) g(x + d) - x g(x) = d g(x) + (x + d) (g(x + d) - g(x)) */
        return d * FN(normal_cdf)(x, v_gauss(x)) + moved * FN(normal_cdf_difference)(x, d);
    case NNF_GELU_TANH: {
        const V cubes = x * x + x * moved + moved * moved; /* (x + d)^3 - x^3 = d cubes, a sum without cancellation */
        const V dz = v_set1((T)1.5957691216057308) * d * (v_set1(1) + v_set1((T)0.044715) * cubes);
        const V z = FN(gelu_tanh_argument)(x);
        return d * v_sigmoid(z) + moved * FN(sigmoid_difference)(z, dz);
    }
    case NNF_SILU:
        return d * v_sigmoid(x) + moved * FN(sigmoid_difference)(x, d);
    case NNF_SOFTPLUS:
        return FN(softplus_difference)(x, d);
    case NNF_HARDSWISH:
        return FN(hardswish_difference)(x, d);
    case NNF_MISH: {
        V slope_at;
        return d * FN(mish_gate)(x, &slope_at) + moved * FN(mish_gate_difference)(x, d);
    }
    case NNF_SELU:
        return v_set1((T)SELU_SCALE) * FN(elu_difference)(v_set1((T)SELU_ALPHA), x, d);
    case NNF_IDENTITY:
        break;
    }
    return d;
}

/* ---- the loops ---- */

typedef struct {
    nnf_activation f;
    double alpha;
    intptr_t n;
    const T *x, *y, *dy;
    T *out;
} elementwise_t;

NNF_INLINE void FN(forward_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, T *y) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, FN(forward_of)(f, alpha, v_load(x + i)));
    if (i < n) v_store_n(y + i, FN(forward_of)(f, alpha, v_load_n(x + i, n - i)), n - i);
}

NNF_INLINE void FN(backward_loop)(nnf_activation f, double alpha, intptr_t n, const T *x, const T *y, const T *dy,
                                  T *dx) {
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dx + i, FN(backward_of)(f, alpha, v_load(x + i), v_load(y + i), v_load(dy + i)));
    if (i < n) {
        const V part =
            FN(backward_of)(f, alpha, v_load_n(x + i, n - i), v_load_n(y + i, n - i), v_load_n(dy + i, n - i));
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
    const elementwise_t *e = context;
    const intptr_t first = task * NNF_ACTIVATION_TASK, left = e->n - first;
    const intptr_t n = left < NNF_ACTIVATION_TASK ? left : NNF_ACTIVATION_TASK;
    switch (e->f) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        FN(forward_loop)(NNF_##id, e->alpha, n, e->x + first, e->out + first);                                         \
        break;
#include "activations.def"
    }
}

static void FN(backward_task)(void *context, intptr_t task) {
    const elementwise_t *e = context;
    const intptr_t first = task * NNF_ACTIVATION_TASK, left = e->n - first;
    const intptr_t n = left < NNF_ACTIVATION_TASK ? left : NNF_ACTIVATION_TASK;
    switch (e->f) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        FN(backward_loop)(NNF_##id, e->alpha, n, e->x + first, e->y + first, e->dy + first, e->out + first);           \
        break;
#include "activations.def"
    }
}

/* A task is one of the stack. */
static void FN(difference_task)(void *context, intptr_t task) {
    const elementwise_t *e = context;
    const intptr_t at = task * e->n;
    switch (e->f) {
#define NNF_ACTIVATION(id, ...)                                                                                        \
    case NNF_##id:                                                                                                     \
        FN(difference_loop)(NNF_##id, e->alpha, e->n, e->x, e->y, e->dy + at, e->out + at);                            \
        break;
#include "activations.def"
    }
}

static void FN(activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) {
    elementwise_t e = {f, alpha, n, x, NULL, NULL, y};
    nnf_parallel((n + NNF_ACTIVATION_TASK - 1) / NNF_ACTIVATION_TASK, FN(forward_task), &e);
}

static void FN(activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                    const void *dy, void *dx) {
    elementwise_t e = {f, alpha, n, x, y, dy, dx};
    nnf_parallel((n + NNF_ACTIVATION_TASK - 1) / NNF_ACTIVATION_TASK, FN(backward_task), &e);
}

static void FN(activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                      const void *y, const void *dx, void *dy) {
    elementwise_t e = {f, alpha, n, x, y, dx, dy};
    if (stack * n < 2 * NNF_ACTIVATION_TASK)
        for (intptr_t s = 0; s < stack; s++)
            FN(difference_task)(&e, s);
    else
        nnf_parallel(stack, FN(difference_task), &e);
}
