/* compare.c - every kernel of every instruction set of this processor against the scalar ones, without Python.
 *
 * For processors that are at hand only as an emulator; tests/neon.sh runs it under qemu. Prints a line for each instruction
 * set; the exit status is the number of differences beyond rounding. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nnframe.h"

enum { MOST = 70 * 70 * 3 };

static int failures;
static uint64_t state = 1;

static double uniform(void) { /* xorshift64*, in -1 .. 1 */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (double)(int64_t)(state * 2685821657736338717u) / 9223372036854775808.0;
}

static void fill(int type, void *x, intptr_t n, double scale) {
    for (intptr_t i = 0; i < n; i++)
        if (type == NNF_FLOAT32)
            ((float *)x)[i] = (float)(scale * uniform());
        else
            ((double *)x)[i] = scale * uniform();
}

static double at(int type, const void *x, intptr_t i) {
    return type == NNF_FLOAT32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

/* Counts entries of a and b that lie further apart than `ulps` roundings of numbers of size 1 and of their own size. */
static void compare(const char *what, int type, const void *a, const void *b, intptr_t n, double ulps) {
    const double eps = type == NNF_FLOAT32 ? 0x1p-23 : 0x1p-52;
    for (intptr_t i = 0; i < n; i++) {
        const double x = at(type, a, i), y = at(type, b, i);
        if (fabs(x - y) <= ulps * eps * (1 + fabs(y)) || (x != x && y != y) || x == y) continue;
        if (failures++ < 20) printf("  %s: entry %ld of %ld is %.17g, not %.17g\n", what, (long)i, (long)n, x, y);
    }
}

static void *room(int type) { return calloc(MOST, type == NNF_FLOAT32 ? 4 : 8); }

static void products(int type, const nnf_kernels *fast, const nnf_kernels *slow) {
    void *a = room(type), *b = room(type), *c = room(type), *d = room(type), *bias = room(type);
    fill(type, a, MOST, 1), fill(type, b, MOST, 1), fill(type, bias, MOST, 1);
    const int sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 25, 32, 33, 70};
    for (int i = 0; i < 15; i++)
        for (int j = 0; j < 15; j++)
            for (int l = 0; l < 15; l++)
                for (int form = 0; form < 4; form++) {
                    const intptr_t m = sizes[i], n = sizes[j], k = sizes[l];
                    nnf_matmul p = {.batch = 3, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c};
                    p.a_batch = m * k, p.b_batch = k * n, p.c_batch = m * n, p.c_row = n;
                    p.a_row = form & 1 ? 1 : k, p.a_col = form & 1 ? m : 1;
                    p.b_row = form & 2 ? 1 : n, p.b_col = form & 2 ? k : 1;
                    p.add = form == 3;
                    p.bias = form == 1 ? bias : NULL, p.activation = form == 1 ? NNF_SIGMOID : NNF_IDENTITY;
                    fill(type, c, 3 * m * n, 1);
                    memcpy(d, c, (size_t)(3 * m * n) * (type == NNF_FLOAT32 ? 4 : 8));
                    fast->matmul(&p);
                    p.c = d;
                    slow->matmul(&p);
                    compare("matmul", type, c, d, 3 * m * n, 4 + (double)k);
                }
    free(a), free(b), free(c), free(d), free(bias);
}

static void activations(int type, const nnf_kernels *fast, const nnf_kernels *slow) {
    void *x = room(type), *y = room(type), *d = room(type), *z = room(type), *w = room(type);
    const intptr_t n = 4099;
    for (int f = 0; f < NNF_ACTIVATIONS; f++)
        for (int wide = 0; wide < 2; wide++) {
            fill(type, x, n, wide ? 90 : 4), fill(type, d, n, wide ? 5 : 1e-3);
            slow->activation_forward((nnf_activation)f, 0.1, n, x, y);
            fast->activation_forward((nnf_activation)f, 0.1, n, x, z);
            compare("activation_forward", type, z, y, n, 60);
            slow->activation_backward((nnf_activation)f, 0.1, n, x, y, d, w);
            fast->activation_backward((nnf_activation)f, 0.1, n, x, y, d, z);
            compare("activation_backward", type, z, w, n, 200);
            slow->activation_difference((nnf_activation)f, 0.1, 1, n, x, y, d, w);
            fast->activation_difference((nnf_activation)f, 0.1, 1, n, x, y, d, z);
            compare("activation_difference", type, z, w, n, 500);
        }
    free(x), free(y), free(d), free(z), free(w);
}

static void losses(int type, const nnf_kernels *fast, const nnf_kernels *slow) {
    void *x = room(type), *g = room(type), *h = room(type), *weights = room(type);
    double one[200], other[200];
    int64_t labels[200];
    fill(type, weights, 70, 1);
    for (intptr_t classes = 1; classes <= 70; classes++)
        for (int form = 0; form < 4; form++) {
            const intptr_t rows = 41;
            fill(type, x, rows * classes, 10);
            for (intptr_t i = 0; i < rows; i++) labels[i] = form == 1 && i % 5 == 0 ? -7 : i % classes;
            nnf_softmax_cross_entropy p = {.rows = rows, .classes = classes, .logits = x, .logits_row = classes};
            p.labels = labels, p.ignored = form == 1 ? -7 : NNF_NONE_IGNORED, p.scale = 0.5, p.grad = g, p.losses = one;
            p.smoothing = form >= 2 ? 0.1 : 0, p.weights = form == 3 ? weights : NULL;
            fast->softmax_cross_entropy(&p);
            p.grad = h, p.losses = other;
            slow->softmax_cross_entropy(&p);
            compare("softmax_cross_entropy, gradient", type, g, h, rows * classes, 40);
            for (intptr_t i = 0; i < rows; i++)
                if (!(fabs(one[i] - other[i]) <= (type == NNF_FLOAT32 ? 2e-5 : 1e-13))) {
                    if (failures++ < 20) printf("  a loss is %g, not %g\n", one[i], other[i]);
                }
        }
    free(x), free(g), free(h), free(weights);
}

static void updates(int type, const nnf_kernels *fast, const nnf_kernels *slow) {
    void *state_of[2][4];
    const intptr_t n = 1003;
    for (int i = 0; i < 8; i++) state_of[i / 4][i % 4] = room(type);
    for (int rule = NNF_SGD; rule <= NNF_ADAM; rule++) {
        for (int i = 0; i < 4; i++) {
            fill(type, state_of[0][i], n, 1);
            if (i == 3) /* squares are not negative */
                for (intptr_t j = 0; j < n; j++) {
                    float *single = state_of[0][i];
                    double *twice = state_of[0][i];
                    if (type == NNF_FLOAT32) single[j] = fabsf(single[j]);
                    else twice[j] = fabs(twice[j]);
                }
            memcpy(state_of[1][i], state_of[0][i], (size_t)n * (type == NNF_FLOAT32 ? 4 : 8));
        }
        for (int which = 0; which < 2; which++) {
            void **s = state_of[which];
            const nnf_update p = {(nnf_rule)rule, n, s[0], s[1], s[2], s[3], 0.1, 0.01, 0.001, 0.9, 0.99, 1e-3};
            (which ? slow : fast)->update(&p);
        }
        for (int i = 0; i < 4; i++) compare("update", type, state_of[0][i], state_of[1][i], n, 100);
    }
    for (int i = 0; i < 8; i++) free(state_of[i / 4][i % 4]);
}

/* Weights into 7 sigmoid units below 5 classes, one-hot labels. */
static void gradients(int type, const nnf_kernels *fast, const nnf_kernels *slow) {
    enum { ROWS = 13, INPUTS = 21, UNITS = 7, CLASSES = 5 };
    void *x = room(type), *w = room(type), *v = room(type), *z = room(type), *y = room(type), *o = room(type);
    void *p = room(type), *t = room(type), *r = room(type), *g = room(type), *h = room(type);
    int64_t labels[ROWS];
    fill(type, x, ROWS * INPUTS, 1), fill(type, w, UNITS * INPUTS, 1), fill(type, v, CLASSES * UNITS, 1);
    nnf_matmul first = {.batch = 1, .m = ROWS, .n = UNITS, .k = INPUTS, .a = x, .a_row = INPUTS, .a_col = 1, .b = w,
                        .b_row = 1, .b_col = INPUTS, .c = z, .c_row = UNITS};
    slow->matmul(&first);
    slow->activation_forward(NNF_SIGMOID, 0, ROWS * UNITS, z, y);
    nnf_matmul second = {.batch = 1, .m = ROWS, .n = CLASSES, .k = UNITS, .a = y, .a_row = UNITS, .a_col = 1, .b = v,
                         .b_row = 1, .b_col = UNITS, .c = o, .c_row = CLASSES};
    slow->matmul(&second);
    slow->softmax(ROWS, CLASSES, o, p);
    for (int i = 0; i < ROWS; i++) {
        labels[i] = i % CLASSES;
        if (type == NNF_FLOAT32) ((float *)t)[i * CLASSES + labels[i]] = 1;
        else ((double *)t)[i * CLASSES + labels[i]] = 1;
    }
    nnf_softmax_cross_entropy loss = {.rows = ROWS, .classes = CLASSES, .logits = o, .logits_row = CLASSES,
                                      .labels = labels, .ignored = NNF_NONE_IGNORED, .scale = 1, .grad = r};
    slow->softmax_cross_entropy(&loss);
    const nnf_stage stages[] = {{.activation = NNF_SIGMOID, .x = z, .y = y, .width = UNITS},
                                {.weight = v, .width = CLASSES}};
    const nnf_above above = {.rows = ROWS, .outputs = UNITS, .stages = 2, .stage = stages, .loss = NNF_CROSS_ENTROPY,
                             .p = p, .t = t, .residual = r, .units = UNITS};
    nnf_difference d = {.above = above, .inputs = INPUTS, .x = x, .step = 1e-3, .scale = 1, .grad_weight = g};
    if (fast->difference_gradient(&d, NULL)) failures++;
    d.grad_weight = h;
    if (slow->difference_gradient(&d, NULL)) failures++;
    compare("difference_gradient", type, g, h, UNITS * INPUTS, 100);
    uint8_t doubtful[UNITS * ROWS], state[UNITS];
    double bend[UNITS * ROWS];
    nnf_curves c = {.above = above, .distance = p, .tolerance = -1, .level = g, .bend = bend, .doubtful = doubtful,
                    .state = state};
    if (fast->difference_curves(&c, NULL)) failures++;
    c.level = h;
    if (slow->difference_curves(&c, NULL)) failures++;
    compare("difference_curves", type, g, h, UNITS * ROWS, 100);
    free(x), free(w), free(v), free(z), free(y), free(o), free(p), free(t), free(r), free(g), free(h);
}

int main(void) {
    const nnf_isa *scalar = nnf_isa_find("scalar");
    for (int i = 0; i < nnf_isa_count(); i++) {
        const nnf_isa *isa = nnf_isa_at(i);
        const int before = failures;
        if (isa == scalar) continue;
        for (int type = 0; type < NNF_DTYPES; type++) {
            products(type, isa->kernels[type], scalar->kernels[type]);
            activations(type, isa->kernels[type], scalar->kernels[type]);
            losses(type, isa->kernels[type], scalar->kernels[type]);
            updates(type, isa->kernels[type], scalar->kernels[type]);
            gradients(type, isa->kernels[type], scalar->kernels[type]);
        }
        printf("%s against scalar: %d differences\n", isa->name, failures - before);
    }
    return failures > 100 ? 100 : failures;
}
