/* kernels.inc.h - every kernel for one instruction set, for float and for double, and its table. */

#define NNF_DOUBLE 0
#include "kernels_of_type.inc.h"
#undef NNF_DOUBLE

#define NNF_DOUBLE 1
#include "kernels_of_type.inc.h"
#undef NNF_DOUBLE

const nnf_isa NNF_ISA = {NNF_ISA_NAME, {&kernels_f32, &kernels_f64}};
