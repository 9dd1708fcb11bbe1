/* cpu.c - which instruction sets this build has and this processor runs. */
#include <string.h>

#include "nnframe.h"

extern const nnf_isa nnf_isa_scalar;
#if defined(__x86_64__) && defined(__GNUC__)
extern const nnf_isa nnf_isa_avx2, nnf_isa_avx512;
#endif
#if defined(__aarch64__) && defined(__GNUC__)
extern const nnf_isa nnf_isa_neon;
#endif

#define MOST_ISAS 4

/* The compiler's own test takes the operating system into account (XCR0), and follows Valgrind, which hides AVX-512. */
static int find_all(const nnf_isa **found) {
    int count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found[count++] = &nnf_isa_avx512;
    if (avx2) found[count++] = &nnf_isa_avx2;
#endif
#if defined(__aarch64__) && defined(__GNUC__)
    found[count++] = &nnf_isa_neon;
#endif
    found[count++] = &nnf_isa_scalar;
    return count;
}

int nnf_isa_count(void) {
    const nnf_isa *found[MOST_ISAS];
    return find_all(found);
}

const nnf_isa *nnf_isa_at(int index) {
    const nnf_isa *found[MOST_ISAS];
    return index >= 0 && index < find_all(found) ? found[index] : NULL;
}

const nnf_isa *nnf_isa_find(const char *name) {
    const nnf_isa *found[MOST_ISAS];
    const int count = find_all(found);
    for (int i = 0; i < count; i++)
        if (strcmp(found[i]->name, name) == 0) return found[i];
    return NULL;
}

const char *nnf_compiler(void) {
#if defined(__clang__)
    return __VERSION__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}
