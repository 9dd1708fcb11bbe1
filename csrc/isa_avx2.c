/* isa_avx2.c - every kernel for x86-64 with AVX2 and FMA. */
#include "template.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define NNF_ISA          nnf_isa_avx2
#define NNF_ISA_NAME     "avx2"
#define NNF_VECTOR_BYTES 32
NNF_TARGET_BEGIN("avx2,fma")
#include "kernels.inc.h"
NNF_TARGET_END
#endif
