/* isa_scalar.c - every kernel one number at a time, in plain C: runs everywhere. */
#include "template.h"

#define NNF_ISA          nnf_isa_scalar
#define NNF_ISA_NAME     "scalar"
#define NNF_VECTOR_BYTES 0
#include "kernels.inc.h"
