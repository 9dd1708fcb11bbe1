/* isa_avx512.c - every kernel for x86-64 with AVX-512 F, BW, DQ and VL. */
#include "template.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define NNF_ISA          nnf_isa_avx512
#define NNF_ISA_NAME     "avx512"
#define NNF_VECTOR_BYTES 64
NNF_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels.inc.h"
NNF_TARGET_END
#endif
