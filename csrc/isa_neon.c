/* isa_neon.c - every kernel for 64-bit ARM, where NEON is always present. */
#include "template.h"

#if defined(__aarch64__) && defined(__GNUC__)
#define NNF_ISA          nnf_isa_neon
#define NNF_ISA_NAME     "neon"
#define NNF_VECTOR_BYTES 16
#include "kernels.inc.h"
#endif
