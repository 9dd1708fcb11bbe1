/* vector.inc.h - one vector type for every instruction set.
 *
 * A template: included once for each instruction set and element type, with
 *   NNF_DOUBLE         0 for float, 1 for double
 *   NNF_VECTOR_BYTES   64, 32, 16; 0 means one number at a time, in plain C
 * It defines
 *   T, TI, TU          the element, and the signed and unsigned integers of its size
 *   V, VI, VU          a vector of them (the elements themselves when NNF_VECTOR_BYTES is 0)
 *   LANES              elements in a vector
 *   FN(name)           name with the element type appended, for functions; all of them are static
 *   v_set1 v_load v_store v_load_n v_store_n v_select v_max v_min v_sqrt
 *   v_max(a, b), v_min(a, b): b where one of them is NaN
 * Arithmetic and comparison are the plain operators: a + b, a * b, a < b. A comparison yields a VI mask, all
 * bits set where true (for LANES 1: 0 or 1); only v_select and the bitwise operators take masks.
 * The contraction of a * b + c into one fused operation is left to the compiler, in every template alike.
 */
#undef T
#undef TI
#undef TU
#undef V
#undef VI
#undef VU
#undef FN
#undef LANES
#undef v_set1
#undef v_load
#undef v_store
#undef v_load_n
#undef v_store_n
#undef v_select
#undef v_max
#undef v_min
#undef v_sqrt
#undef v_scalef

#if NNF_DOUBLE
#define T        double
#define TI       int64_t
#define TU       uint64_t
#define FN(name) name##_f64
#else
#define T        float
#define TI       int32_t
#define TU       uint32_t
#define FN(name) name##_f32
#endif

#undef vector_unaligned_t
#undef vector_int_t
#undef vector_unsigned_t
#undef vector_t
#define vector_unaligned_t FN(vector_unaligned_t)
#define vector_int_t       FN(vector_int_t)
#define vector_unsigned_t  FN(vector_unsigned_t)
#define vector_t           FN(vector_t)

#define v_set1    FN(vector_set1)
#define v_load    FN(vector_load)
#define v_store   FN(vector_store)
#define v_load_n  FN(vector_load_n)
#define v_store_n FN(vector_store_n)
#define v_select  FN(vector_select)
#define v_max     FN(vector_max)
#define v_min     FN(vector_min)
#define v_sqrt    FN(vector_sqrt)

#if NNF_VECTOR_BYTES == 0

#define V     T
#define VI    TI
#define VU    TU
#define LANES 1

NNF_INLINE V v_set1(T a) { return a; }
NNF_INLINE V v_load(const T *p) { return *p; }
NNF_INLINE void v_store(T *p, V a) { *p = a; }
NNF_INLINE V v_load_n(const T *p, intptr_t n) { return n > 0 ? *p : 0; }
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) {
    if (n > 0) *p = a;
}
NNF_INLINE V v_select(VI mask, V a, V b) { return mask ? a : b; }
NNF_INLINE V v_max(V a, V b) { return a > b ? a : b; }
NNF_INLINE V v_min(V a, V b) { return a < b ? a : b; }
#if NNF_DOUBLE
NNF_INLINE V v_sqrt(V a) { return sqrt(a); }
#else
NNF_INLINE V v_sqrt(V a) { return sqrtf(a); }
#endif

#else

typedef T vector_t __attribute__((vector_size(NNF_VECTOR_BYTES)));
typedef T vector_unaligned_t __attribute__((vector_size(NNF_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
typedef TI vector_int_t __attribute__((vector_size(NNF_VECTOR_BYTES)));
typedef TU vector_unsigned_t __attribute__((vector_size(NNF_VECTOR_BYTES)));
#define V     vector_t
#define VI    vector_int_t
#define VU    vector_unsigned_t
#define LANES ((intptr_t)(NNF_VECTOR_BYTES / sizeof(T)))

NNF_INLINE V v_set1(T a) { return a - (V){0}; }
NNF_INLINE V v_load(const T *p) { return *(const vector_unaligned_t *)p; }
NNF_INLINE void v_store(T *p, V a) { *(vector_unaligned_t *)p = a; }
NNF_INLINE V v_select(VI mask, V a, V b) { return (V)((mask & (VI)a) | (~mask & (VI)b)); }

/* What the operators cannot say. */
#undef NNF_X86
#if defined(__x86_64__) && NNF_DOUBLE && NNF_VECTOR_BYTES == 64
#define NNF_X86(name) _mm512_##name##_pd
#elif defined(__x86_64__) && NNF_VECTOR_BYTES == 64
#define NNF_X86(name) _mm512_##name##_ps
#elif defined(__x86_64__) && NNF_DOUBLE && NNF_VECTOR_BYTES == 32
#define NNF_X86(name) _mm256_##name##_pd
#elif defined(__x86_64__) && NNF_VECTOR_BYTES == 32
#define NNF_X86(name) _mm256_##name##_ps
#endif
#ifdef NNF_X86
NNF_INLINE V v_max(V a, V b) { return (V)NNF_X86(max)(a, b); }
NNF_INLINE V v_min(V a, V b) { return (V)NNF_X86(min)(a, b); }
NNF_INLINE V v_sqrt(V a) { return (V)NNF_X86(sqrt)(a); }
#if NNF_VECTOR_BYTES == 64
#define v_scalef(a, n) ((V)NNF_X86(scalef)(a, n))
#endif
#else
NNF_INLINE V v_max(V a, V b) { return v_select(a > b, a, b); }
NNF_INLINE V v_min(V a, V b) { return v_select(a < b, a, b); }
NNF_INLINE V v_sqrt(V a) {
    for (int i = 0; i < (int)LANES; i++)
        a[i] = NNF_DOUBLE ? (T)sqrt((double)a[i]) : (T)sqrtf((float)a[i]);
    return a;
}
#endif

/* The first n lanes, n <= LANES: the others are read as zero and not written; no byte beyond n is touched. */
#if NNF_VECTOR_BYTES == 64 && defined(__x86_64__)
#if NNF_DOUBLE
NNF_INLINE V v_load_n(const T *p, intptr_t n) { return (V)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)a); }
#else
NNF_INLINE V v_load_n(const T *p, intptr_t n) { return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a); }
#endif
#elif NNF_VECTOR_BYTES == 32 && defined(__x86_64__)
NNF_INLINE __m256i FN(vector_first)(intptr_t n) {
    static const TI first[2 * NNF_VECTOR_BYTES / sizeof(T)] = {
#if NNF_DOUBLE
        -1, -1, -1, -1
#else
        -1, -1, -1, -1, -1,
        -1, -1, -1
#endif
    };
    return _mm256_loadu_si256((const __m256i *)(first + LANES - n));
}
#if NNF_DOUBLE
NNF_INLINE V v_load_n(const T *p, intptr_t n) { return (V)_mm256_maskload_pd(p, FN(vector_first)(n)); }
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) { _mm256_maskstore_pd(p, FN(vector_first)(n), (__m256d)a); }
#else
NNF_INLINE V v_load_n(const T *p, intptr_t n) { return (V)_mm256_maskload_ps(p, FN(vector_first)(n)); }
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) { _mm256_maskstore_ps(p, FN(vector_first)(n), (__m256)a); }
#endif
#else
NNF_INLINE V v_load_n(const T *p, intptr_t n) {
    V a = {0};
    memcpy(&a, p, (size_t)n * sizeof(T));
    return a;
}
NNF_INLINE void v_store_n(T *p, V a, intptr_t n) { memcpy(p, &a, (size_t)n * sizeof(T)); }
#endif

#endif
