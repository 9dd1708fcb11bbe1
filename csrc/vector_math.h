/* vector_math.h - temporary: libm, one lane at a time. */
#define NNF_SMALL 0x1p-7
#define NNF_LANEWISE(name, expression) \
    NNF_INLINE V FN(vector_##name)(V v) { T a[LANES]; v_store(a, v); for (int i = 0; i < LANES; i++) { const double x = a[i]; a[i] = (T)(expression); } return v_load(a); }
#undef v_exp
#undef v_expm1
#undef v_log1p
#undef v_tanh
#undef v_sigmoid
#undef v_expm1_small
#undef v_log1p_small
NNF_LANEWISE(exp, exp(x))
NNF_LANEWISE(expm1, expm1(x))
NNF_LANEWISE(log1p, log1p(x))
NNF_LANEWISE(tanh, tanh(x))
NNF_LANEWISE(sigmoid, 1 / (1 + exp(-x)))
#define v_exp FN(vector_exp)
#define v_expm1 FN(vector_expm1)
#define v_log1p FN(vector_log1p)
#define v_tanh FN(vector_tanh)
#define v_sigmoid FN(vector_sigmoid)
#define v_expm1_small FN(vector_expm1)
#define v_log1p_small FN(vector_log1p)
