/* vector_math.inc.h - exp, expm1, log1p, tanh, the logistic function and the normal distribution on vectors.
 *
 * A template like vector.inc.h, which comes before it. Arguments may be anything: NaN gives NaN, overflow gives
 * infinity, results may be subnormal. The bound beside each function is in ULP of the result; tests/accuracy.py
 * measures what comes of it in the activations, over all floats and a sample of doubles, on every instruction set.
 *
 * Reductions are the classical ones: exp(x) = 2^n exp(r) with |r| <= ln(2)/2; log(1 + f) through s = f / (2 + f), whose
 * series in s^2 converges fast. Polynomials interpolate at Chebyshev points, computed with 50 digits.
 */
#undef v_exp
#undef v_exp_down
#undef v_expm1
#undef v_log1p
#undef v_log1p_up
#undef v_tanh
#undef v_sigmoid
#undef v_normal_tail
#undef v_gauss
#undef v_expm1_small
#undef v_expm1_rest
#undef v_log1p_unit
#undef v_sigmoid_slope
#undef v_tanh_slope
#undef MANTISSA
#undef BIAS
#undef ROUNDER
#undef LN2_HIGH
#undef LN2_LOW

#define v_exp           FN(vector_exp)
#define v_exp_down      FN(vector_exp_down)
#define v_expm1         FN(vector_expm1)
#define v_log1p         FN(vector_log1p)
#define v_log1p_up      FN(vector_log1p_up)
#define v_tanh          FN(vector_tanh)
#define v_sigmoid       FN(vector_sigmoid)
#define v_gauss         FN(vector_gauss)
#define v_normal_tail   FN(vector_normal_tail)
#define v_expm1_small   FN(vector_expm1_small)
#define v_expm1_rest    FN(vector_expm1_rest)
#define v_log1p_unit    FN(vector_log1p_unit)
#define v_sigmoid_slope FN(vector_sigmoid_slope)
#define v_tanh_slope    FN(vector_tanh_slope)

#ifndef NNF_SMALL
#define NNF_SMALL 0.0078125 /* largest |x| for the *_small functions */
#endif

#if NNF_DOUBLE
#define MANTISSA 52
#define BIAS     1023
#define ROUNDER  0x1.8p52 /* a + ROUNDER - ROUNDER rounds a to a whole number */
#define LN2_HIGH 0.693147180559890330187
#define LN2_LOW  5.497923018708371174712e-14
#else
#define MANTISSA 23
#define BIAS     127
#define ROUNDER  0x1.8p23f
#define LN2_HIGH 0.693145751953125f
#define LN2_LOW  1.42860682031e-6f
#endif

/* ---- bits ---- */

NNF_INLINE VI FN(vector_bits)(V a) {
    VI bits;
    memcpy(&bits, &a, sizeof bits);
    return bits;
}
NNF_INLINE V FN(vector_from_bits)(VI bits) {
    V a;
    memcpy(&a, &bits, sizeof a);
    return a;
}
NNF_INLINE VI FN(vector_set1_bits)(TI a) { return a - (VI){0}; }
/* Integers wrap around as they do unsigned. */
NNF_INLINE VI FN(vector_shift)(VI bits) { return (VI)((VU)bits << MANTISSA); }
NNF_INLINE VI FN(vector_plus)(VI a, VI b) { return (VI)((VU)a + (VU)b); }
NNF_INLINE V FN(vector_absolute)(V a) {
    return FN(vector_from_bits)(FN(vector_bits)(a) & FN(vector_set1_bits)((TI)(((TU)1 << (8 * sizeof(T) - 1)) - 1)));
}
/* |a| with the sign of b, a >= 0 */
NNF_INLINE V FN(vector_with_sign)(V a, V b) {
    const VI sign = FN(vector_set1_bits)((TI)((TU)1 << (8 * sizeof(T) - 1)));
    return FN(vector_from_bits)(FN(vector_bits)(a) | (FN(vector_bits)(b) & sign));
}
/* 2^n for whole n (as a floating-point number) from 1 - BIAS to BIAS */
NNF_INLINE V FN(vector_power_of_two)(V n) {
    const V shifted = n + v_set1((T)ROUNDER); /* n stands in the lowest bits of the mantissa */
    return FN(vector_from_bits)(
        FN(vector_shift)(FN(vector_plus)(FN(vector_bits)(shifted), FN(vector_set1_bits)(BIAS))));
}
NNF_INLINE V FN(vector_round)(V a) { return (a + v_set1((T)ROUNDER)) - v_set1((T)ROUNDER); }
NNF_INLINE V FN(vector_limit)(V a, T low, T high) { return v_max(v_set1(low), v_min(v_set1(high), a)); } /* NaN stays */
/* p 2^n for whole n, |n| < 2 BIAS, rounded once where that is subnormal */
NNF_INLINE V FN(vector_scale)(V p, V n) {
#if NNF_VECTOR_BYTES == 64 && defined(__x86_64__)
    return v_scalef(p, n);
#else
    const V half = FN(vector_round)(n * v_set1((T)0.5)); /* in two steps: 2^n itself may be out of range */
    return p * FN(vector_power_of_two)(half) * FN(vector_power_of_two)(n - half);
#endif
}

/* c[0] + c[1] x + ... + c[n - 1] x^(n - 1): even and odd powers in two sums, as a processor that holds some 100
 * operations in flight waits for each sum rather than for its units */
NNF_INLINE V FN(vector_polynomial)(V x, const T *c, int n) {
    const V square = x * x;
    V even = v_set1(c[(n - 1) / 2 * 2]), odd = v_set1(c[n / 2 * 2 - 1]);
    NNF_UNROLL for (int i = (n - 1) / 2 * 2 - 2; i >= 0; i -= 2) even = even * square + v_set1(c[i]);
    NNF_UNROLL for (int i = n / 2 * 2 - 3; i >= 1; i -= 2) odd = odd * square + v_set1(c[i]);
    return even + odd * x;
}

/* ---- exp and expm1 ---- */

/* expm1(r), |r| <= ln(2)/2 and a little more by rounding */
NNF_INLINE V FN(vector_expm1_polynomial)(V r) {
    static const T c[] = {
#if NNF_DOUBLE
        0.500000000000000102,   0.166666666666666675,    0.0416666666666241279,    0.00833333333333006183,
        0.00138888889172137169, 0.000198412698630536169, 0.0000248015212959543751, 2.75572684599970648e-6,
        2.76200884454097482e-7, 2.51003854955103191e-8
#else
        0.5f, 0.166665769896987757f, 0.0416665546172045742f, 0.00836317905272257737f, 0.00139261835877134945f
#endif
    };
    return r + r * r * FN(vector_polynomial)(r, c, sizeof c / sizeof *c);
}

/* x = n ln(2) + r, n whole, |r| <= ln(2)/2; returns expm1(r) */
NNF_INLINE V FN(vector_reduced_expm1)(V x, V *n) {
    *n = FN(vector_round)(x * v_set1((T)1.4426950408889634));
    return FN(vector_expm1_polynomial)((x - *n * v_set1((T)LN2_HIGH)) - *n * v_set1((T)LN2_LOW));
}

/* exp(x) for x <= 0: 1.1 ULP */
NNF_INLINE V v_exp_down(V x) {
    V n;
    x = v_max(v_set1(sizeof(T) == 8 ? (T)-746 : (T)-105), x); /* NaN stays */
    const V p = FN(vector_reduced_expm1)(x, &n) + v_set1(1);
    return FN(vector_scale)(p, n);
}

/* exp(x): 1.1 ULP */
NNF_INLINE V v_exp(V x) { return v_exp_down(v_min(v_set1(sizeof(T) == 8 ? (T)710 : (T)89), x)); }

/* expm1(x) = exp(x) - 1, small results to full relative precision: 2.3 ULP */
NNF_INLINE V v_expm1(V x) {
    V n;
    const V limited = FN(vector_limit)(x, sizeof(T) == 8 ? (T)-40 : (T)-20, sizeof(T) == 8 ? (T)710 : (T)89);
    const V p = FN(vector_reduced_expm1)(limited, &n);
    /* 2^n (p + 1) - 1, halved so that n = BIAS + 1 fits */
    const V s = FN(vector_power_of_two)(n - v_set1(1));
    const V y = (s * p + (s - v_set1((T)0.5))) * v_set1(2);
    return v_select(FN(vector_absolute)(x) < v_set1((T)1e-30), x, y); /* halving a subnormal would lose a bit */
}

/* expm1(x) - x for |x| <= NNF_SMALL */
NNF_INLINE V v_expm1_rest(V x) {
    static const T c[] = {
#if NNF_DOUBLE
        1.0 / 2,   1.0 / 6,   1.0 / 24, 1.0 / 120,
        1.0 / 720, 1.0 / 5040
#else
        1.0f / 2, 1.0f / 6, 1.0f / 24
#endif
    };
    return x * x * FN(vector_polynomial)(x, c, sizeof c / sizeof *c);
}

/* expm1(x) for |x| <= NNF_SMALL: 0.6 ULP */
NNF_INLINE V v_expm1_small(V x) { return x + v_expm1_rest(x); }

/* ---- log1p ---- */

/* log(1 + x) + exponent ln(2), small results to full relative precision; x > -1 so small that 1 + x is no infinity, or
 * NaN */
NNF_INLINE V FN(vector_log1p_scaled)(V x, V exponent) {
    static const T c[] = {
#if NNF_DOUBLE
        0.66666666666666697,  0.399999999998991979, 0.285714286261145183, 0.222222111121049474,
        0.181828907780261303, 0.153316666765971743, 0.146171283998072999
#else
        0.666666665542697262f, 0.400001220257123254f, 0.285507997302090686f, 0.233310408340293527f
#endif
    };
    const V one = v_set1(1), half = v_set1((T)0.5);
    /* 1 + x = 2^k m with sqrt(1/2) <= m < sqrt(2): how many times sqrt(1/2) fits, read from the exponent */
    const VI from_one =
        FN(vector_set1_bits)((TI)((TU)BIAS << MANTISSA)) - FN(vector_bits)(v_set1((T)0.70710678118654752440));
    const VI bits = FN(vector_plus)(FN(vector_bits)(one + x), from_one);
    const VI biased = (bits >> MANTISSA) & FN(vector_set1_bits)(2 * BIAS + 1);
    const V k = FN(vector_from_bits)(biased | FN(vector_bits)(v_set1((T)((TU)1 << MANTISSA)))) -
                v_set1((T)((TU)1 << MANTISSA) + (T)BIAS);
    const V inverse = FN(vector_from_bits)(FN(vector_shift)(FN(vector_set1_bits)(2 * BIAS) - biased)); /* 2^-k */
    const V f = x * inverse + (inverse - one);                                                         /* m - 1 */
    const V s = f / (f + v_set1(2)), w = s * s;
    const V rest = w * FN(vector_polynomial)(w, c, sizeof c / sizeof *c);
    const V square = half * f * f;
    exponent = k + exponent;
    return exponent * v_set1((T)LN2_HIGH) - ((square - (s * (square + rest) + exponent * v_set1((T)LN2_LOW))) - f);
}

/* log1p(x) = log(1 + x), small results to full relative precision: 1.4 ULP */
NNF_INLINE V v_log1p(V x) {
    const T many = sizeof(T) == 8 ? (T)512 : (T)64;
    const T huge = sizeof(T) == 8 ? (T)0x1p600 : (T)0x1p90f; /* from here on x 2^-many stands in for x */
    const VI is_huge = x > v_set1(huge);
    const V scaled = v_select(is_huge, x * v_set1(sizeof(T) == 8 ? (T)0x1p-512 : (T)0x1p-64f), x);
    V y = FN(vector_log1p_scaled)(scaled, v_select(is_huge, v_set1(many), v_set1(0)));
    y = v_select(x == v_set1((T)HUGE_VAL), x, y);
    y = v_select(x == v_set1(-1), v_set1(-(T)HUGE_VAL), y);
    y = v_select(x < v_set1(-1), v_set1((T)NAN), y);
    return v_select(x == v_set1(0), x, v_select(x != x, x, y));
}

/* log1p(x) for 0 <= x, far from overflow: 1.4 ULP */
NNF_INLINE V v_log1p_up(V x) { return FN(vector_log1p_scaled)(x, v_set1(0)); }

/* log1p(x) for 0 <= x <= 1, without taking an exponent out: 1.3 ULP */
NNF_INLINE V v_log1p_unit(V x) {
    static const T c[] = {
#if NNF_DOUBLE
        0.666666666666666669, 0.399999999999995225, 0.285714285716000993, 0.222222221982367706,
        0.181818198979627144, 0.153845439648605493, 0.133351786314492558, 0.117342790613031975,
        0.108451783948800148, 0.074921437955507673, 0.156305778009228504
#else
        0.666666673f, 0.399997063f, 0.28592358f, 0.217065758f, 0.232243292f
#endif
    };
    const V s = x / (x + v_set1(2)), w = s * s, square = v_set1((T)0.5) * x * x;
    return x - (square - s * (square + w * FN(vector_polynomial)(w, c, sizeof c / sizeof *c)));
}

/* ---- tanh and the logistic function ---- */

/* tanh(x) = e / (e + 2), e = expm1(2 |x|), with the sign of x: 2.5 ULP */
NNF_INLINE V v_tanh(V x) {
    const V a = FN(vector_limit)(FN(vector_absolute)(x), 0, sizeof(T) == 8 ? (T)20 : (T)10); /* 1 from there on */
    const V e = v_expm1(a + a);
    return FN(vector_with_sign)(e / (e + v_set1(2)), x);
}

/* 1 / (1 + exp(-x)) with exp of negative numbers only, so that nothing overflows: 2.4 ULP */
NNF_INLINE V v_sigmoid(V x) {
    const V e = v_exp(-FN(vector_absolute)(x));
    return v_select(x < v_set1(0), e, v_set1(1)) / (v_set1(1) + e);
}

/* v_sigmoid(x), and its derivative s(x) s(-x) = e / (1 + e)^2 with e = exp(-|x|), from one exp and one division */
NNF_INLINE V v_sigmoid_slope(V x, V *slope) {
    const V e = v_exp(-FN(vector_absolute)(x)), part = v_set1(1) / (v_set1(1) + e);
    *slope = e * part * part;
    return v_select(x < v_set1(0), e * part, part);
}

/* v_tanh(x), and its derivative 1 - tanh^2(x) = 4 e / (1 + e)^2 with e = exp(-2 |x|), from one exp and one division:
 * tanh(|x|) = -expm1(-2 |x|) / (1 + e), 3.5 ULP */
NNF_INLINE V v_tanh_slope(V x, V *slope) {
    V n;
    const V a = FN(vector_limit)(FN(vector_absolute)(x), 0, sizeof(T) == 8 ? (T)354 : (T)43);
    const V p = FN(vector_reduced_expm1)(a * v_set1(-2), &n), s = FN(vector_power_of_two)(n);
    const V e = s * p + s, part = v_set1(1) / (v_set1(1) + e);
    *slope = v_set1(4) * e * part * part;
    return FN(vector_with_sign)(((v_set1(1) - s) - s * p) * part, x);
}

/* ---- the normal distribution ---- */

/* exp(-x^2 / 2): 2.5 ULP. x is cut into two parts of half the digits, as the rounding of x^2 itself would cost x^2 / 2
 * ULP. */
NNF_INLINE V v_gauss(V x) {
    const V a = FN(vector_limit)(FN(vector_absolute)(x), 0, sizeof(T) == 8 ? (T)40 : (T)15); /* 0 from there on */
    const VI first = FN(vector_set1_bits)((TI)((TU) ~(TU)0 << (sizeof(T) == 8 ? 27 : 12)));
    const V high = FN(vector_from_bits)(FN(vector_bits)(a) & first);
    const V square = high * high * v_set1((T)-0.5), rest = (a - high) * (a + high) * v_set1((T)-0.5);
    const V n = FN(vector_round)((square + rest) * v_set1((T)1.4426950408889634));
    const V r = (square - n * v_set1((T)LN2_HIGH)) + (rest - n * v_set1((T)LN2_LOW));
    return FN(vector_scale)(FN(vector_expm1_polynomial)(r) + v_set1(1), n);
}

/* P(Z > a) = erfc(a / sqrt(2)) / 2 for a >= 0, given g = v_gauss(a): 4 ULP. The ratio of the two, times 1 + a, is a
 * polynomial in u = (a - 4) / (a + 4), which maps 0 .. infinity to -1 .. 1 (after Shepherd and Laframboise 1981). */
NNF_INLINE V v_normal_tail(V a, V g) {
    static const T c[] = {
#if NNF_DOUBLE
        0.472053206509844677,     -0.0967034773265259119,    0.0139996347244273062,     0.0286003640535545075,
        -0.0321978374282171059,   0.0179360974797399809,     -0.00500237858772587138,   -0.000285623100869627756,
        0.000694897062787180307,  -0.0000944302210508421007, -0.0000878528805906453353, 0.0000212498744054704313,
        0.0000136255052994366996, -3.43172873358125852e-6,   -2.60897032268799103e-6,   4.03998173345859748e-7,
        5.44701569103718597e-7,   9.23635665398200903e-10,   -1.02595949258290597e-7,   -1.78438872197052128e-8,
        1.2171219383199083e-8,    4.10389977178349618e-9
#else
        0.472053219f,    -0.0967033957f,   0.0139985378f,   0.0285975606f, -0.0321839078f, 0.0179660544f,
        -0.00505424649f, -0.000411906581f, 0.000726245818f, 9.1524745e-5f
#endif
    };
    a = FN(vector_limit)(a, 0, 100);
    const V part = v_set1(1) / ((a + v_set1(4)) * (a + v_set1(1))); /* one division for two */
    const V u = (a - v_set1(4)) * ((a + v_set1(1)) * part);
    return g * ((a + v_set1(4)) * part) * FN(vector_polynomial)(u, c, sizeof c / sizeof *c);
}
