/* kernels_of_type.inc.h - every kernel for one instruction set and one element type. */

#include "vector.inc.h"
#include "vector_math.inc.h"

#include "elementwise.inc.h"
#include "matmul_tile.inc.h"
#include "matmul_short.inc.h"
#include "matmul.inc.h"
#include "losses.inc.h"
#include "propagation.inc.h"
#include "difference.inc.h"
#include "curves.inc.h"
#include "optimizer.inc.h"

static const nnf_kernels FN(kernels) = {
    .matmul = FN(matmul),
    .softmax_cross_entropy = FN(softmax_cross_entropy),
    .softmax = FN(softmax),
    .activation_forward = FN(activation_forward),
    .activation_backward = FN(activation_backward),
    .activation_difference = FN(activation_difference),
    .update = FN(update),
    .all_finite = FN(all_finite),
    .difference_gradient = FN(difference_gradient),
    .difference_curves = FN(difference_curves),
};
