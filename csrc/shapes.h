/* shapes.h - how far activations lie from straight lines: what bounds on moved arguments are made of. */
#ifndef NNFRAME_SHAPES_H
#define NNFRAME_SHAPES_H

#include "nnframe.h"

/* f(x + d) - f(x) = s (d + a d^2 + b d^3 + ...), where s is the slope f'(x), or where that is small beside the terms
 * that it is the sum of, the largest of these: |s| <= steepest, |a| <= second, |b| <= third, and for |d| times the
 * larger of 1 and 2 second up to 1/2 all terms behind the first are together at most 1.5 second d^2. This holds while x
 * and x + d are on one side of each kink or jump of f, which are at kink_at and -kink_at.
 *
 * All derivatives of s(x), tanh, softplus, ELU and SELU are the slope times a polynomial in the function, at most 1.
 * Those of x g(x) fall off like g on the left, where the logarithm of g has the slope |x| (GELU) or 1.6 (1 + 0.13 x^2):
 * low is the least x there is. Beyond 40 g is 0. The slope of hardswish between its kinks is (x + 3) / 6 + x / 6, of
 * which the larger is at least 1/4. */
typedef struct {
    double steepest, second, third;
    int kink;
    double kink_at;
} nnf_shape;

static inline nnf_shape nnf_shape_of(nnf_activation f, double alpha, double low) {
    const double left = low > -1 ? 1 : low < -40 ? 40 : -low;
    const double steep = f == NNF_GELU ? 1 + left : 2 + 1.6 * (1 + 0.13 * left * left);
    const double slope = alpha < 0 ? -alpha : alpha, steepest = slope > 1 ? slope : 1;
    switch (f) {
    case NNF_SIGMOID:
        return (nnf_shape){0.25, 0.5, 0.5, 0, 0};
    case NNF_TANH:
        return (nnf_shape){1, 1, 1, 0, 0};
    case NNF_RELU:
        return (nnf_shape){1, 0, 0, 1, 0};
    case NNF_STEP:
        return (nnf_shape){0, 0, 0, 1, 0};
    case NNF_LEAKY_RELU:
        return (nnf_shape){steepest, 0, 0, 1, 0};
    case NNF_ELU:
        return (nnf_shape){steepest, 0.5, 0.5, 1, 0};
    case NNF_GELU:
    case NNF_GELU_TANH:
        return (nnf_shape){1.2, steep / 2, steep * steep / 4, 0, 0};
    case NNF_SILU:
        return (nnf_shape){1.2, 2, 2, 0, 0};
    case NNF_SOFTPLUS:
        return (nnf_shape){1, 0.5, 0.5, 0, 0};
    case NNF_HARDSWISH:
        return (nnf_shape){1.5, 0.7, 0, 1, 3};
    case NNF_MISH:
        return (nnf_shape){1.2, 1, 0.5, 0, 0};
    case NNF_SELU:
        return (nnf_shape){1.76, 0.5, 0.5, 1, 0};
    case NNF_IDENTITY:
        break;
    }
    return (nnf_shape){1, 0, 0, 0, 0};
}

#endif
