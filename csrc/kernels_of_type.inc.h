/* kernels_of_type.inc.h - every kernel for one instruction set and one element type. */

#include "vector.inc.h"
#include "vector_math.inc.h"

#include "elementwise.inc.h"
#include "matmul_tile.inc.h"
#include "matmul_short.inc.h"
#include "matmul.inc.h"
#include "losses.inc.h"
#include "propagation.inc.h"
#include "loss_change.inc.h"
#include "difference.inc.h"
#include "straight.inc.h"
#include "curves.inc.h"
#include "selected.inc.h"
#include "sparse.inc.h"
#include "network_plan.inc.h"
#include "network_tile.inc.h"
#include "network_lines.inc.h"
#include "network.inc.h"
#include "optimizer.inc.h"
#include "recurrent.inc.h"
#include "recurrent_change.inc.h"
#include "attention.inc.h"
#include "random.inc.h"

#include "convolution.inc.h"
#include "pooling.inc.h"
#include "normalization.inc.h"
#include "channel_stages.inc.h"
#include "channels.inc.h"

static const nnf_kernels FN(kernels) = {
    .matmul = FN(matmul),
    .softmax_cross_entropy = FN(softmax_cross_entropy),
    .softmax = FN(softmax),
    .activation_forward = FN(activation_forward),
    .activation_backward = FN(activation_backward),
    .activation_difference = FN(activation_difference),
    .update = FN(update),
    .all_finite = FN(all_finite),
    .network_memory = FN(network_memory),
    .network = FN(network),
    .difference_gradient = FN(difference_gradient),
    .difference_curves = FN(difference_curves),
    .selected_products = FN(selected_products),
    .sparse_product = FN(sparse_product),

    .convolution = FN(convolution),
    .convolution_input_gradient = FN(convolution_input_gradient),
    .convolution_weight_gradient = FN(convolution_weight_gradient),
    .pooling = FN(pooling),
    .batch_norm = FN(batch_norm),
    .convolution_difference = FN(convolution_difference),
    .recurrent = FN(recurrent),
    .recurrent_backward = FN(recurrent_backward),
    .recurrent_change = FN(recurrent_change),
    .attention = FN(attention),
    .uniform = FN(uniform),
};
