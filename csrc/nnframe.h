/* nnframe.h - the contract of every kernel: shapes, strides, aliasing, what it writes.
 *
 * The C knows nothing of Python. Whoever calls it has checked the arrays: pointers are aligned to their
 * element, sizes are >= 0, strides count elements (not bytes), numbers are in the machine's byte order, and
 * outputs overlap no input unless a contract allows it. A size of zero is allowed everywhere and writes
 * nothing (a product over k = 0 writes zeros, as it must).
 *
 * Letters used for shapes throughout:
 *   m, n, k    a product C (m, n) = A (m, k) B (k, n)
 *   N          rows of a mini-batch
 *   C          classes
 *   I, O       inputs and outputs of a linear layer, whose weight is (O, I)
 *   S          stacked perturbations
 *
 * Each kernel is written once, in a *.inc.h template, and compiled for {instruction set} x {float, double};
 * a table of function pointers (nnf_kernels) holds the result. `void *` stands for the table's element type.
 */
#ifndef NNFRAME_H
#define NNFRAME_H

#include <stddef.h>
#include <stdint.h>

/* ---- element types and activations ------------------------------------------------------------------ */

enum { NNF_FLOAT32, NNF_FLOAT64, NNF_DTYPES };

typedef enum {
#define NNF_ACTIVATION(id, name, alpha) NNF_##id,
#include "activations.def"
} nnf_activation;

enum {
    NNF_ACTIVATIONS = 0 /* how many there are */
#define NNF_ACTIVATION(id, name, alpha) +1
#include "activations.def"
};

const char *nnf_activation_name(nnf_activation f);
double nnf_activation_alpha(nnf_activation f); /* the default of its parameter */

/* ---- matrix product --------------------------------------------------------------------------------- */

/* c[b] = activation(a[b] @ b[b] + bias) for each matrix b of the batch.
 * a: batch of (m, k), any row and column stride. b: batch of (k, n), any row and column stride.
 * c: batch of (m, n), contiguous columns, row stride c_row >= n; overlaps neither a nor b; is overwritten, never read.
 * A batch stride of 0 repeats one matrix. bias: n contiguous elements, or NULL.
 * add: c[b] += a[b] @ b[b] instead; without bias and activation.
 * any_order: how sums over k are ordered may depend on m as well; otherwise a row of c has the same bits whatever m.
 * Either way sizes and strides alone decide: same bits for any number of threads. */
typedef struct {
    intptr_t batch, m, n, k;
    const void *a;
    intptr_t a_batch, a_row, a_col;
    const void *b;
    intptr_t b_batch, b_row, b_col;
    void *c;
    intptr_t c_batch, c_row;
    const void *bias;
    int add, any_order;
    nnf_activation activation;
    double alpha; /* parameter of the activation, where it has one */
} nnf_matmul;

/* ---- softmax and cross-entropy ----------------------------------------------------------------------- */

/* Per row of logits (N, C), with targets q (C): loss = sum_c q_c (log(sum_k exp(x_k)) - x_c),
 * gradient = scale * (sum(q) softmax(x) - q), where q_c = weights_c ((1 - smoothing) t_c + smoothing / C), and t comes
 * from labels (N class indices, each in [0, C), or `ignored`: then q = 0), or from targets (N, C), contiguous; one of
 * them is NULL; both: q = 0 and sum(q) = 1, which makes the gradient a softmax. weights: C, or NULL for ones. grad: (N,
 * C) contiguous, may be NULL, may be the logits themselves when those are contiguous. losses: N doubles, one per row,
 * not scaled; may be NULL. */
typedef struct {
    intptr_t rows, classes;
    const void *logits;
    intptr_t logits_row;
    const int64_t *labels;
    int64_t ignored; /* below 0 or a class; NNF_NONE_IGNORED */
    const void *targets;
    const void *weights;
    double smoothing;
    double scale;
    void *grad;
    double *losses;
} nnf_softmax_cross_entropy;

#define NNF_NONE_IGNORED INT64_MIN

/* ---- optimizers --------------------------------------------------------------------------------------- */

/* One step of a parameter w from its gradient g, in one pass. m, s and k are the state, as the rule needs it. g is
 * first increased by decay w (L2 regularisation), and w multiplied by 1 - shrink (decoupled decay). rules.def has the
 * formulas. */
typedef enum {
#define NNF_RULE(id, name, m, s, k) NNF_##id,
#include "rules.def"
} nnf_rule;

enum {
    NNF_RULES = 0 /* how many there are */
#define NNF_RULE(id, name, m, s, k) +1
#include "rules.def"
};

const char *nnf_rule_name(nnf_rule rule);
int nnf_rule_has_m(nnf_rule rule); /* whether it has this state */
int nnf_rule_has_s(nnf_rule rule);
int nnf_rule_has_k(nnf_rule rule);

/* w, g, m, s, k: n contiguous elements each, none shared; m, s and k NULL where the rule has none. */
typedef struct {
    nnf_rule rule;
    intptr_t n;
    void *w;
    const void *g;
    void *m, *s, *k;
    double rate, decay, shrink, beta1, beta2, eps, gain;
} nnf_update;

/* ---- convolution and pooling ----------------------------------------------------------------------------- */

/* y[n, g O + o, i, j] = bias[g O + o] + sum over c, a, b of weight[g O + o, c, a, b] x[n, g C + c, i', j'], with
 * i' = i stride[0] - padding[0] + a dilation[0], j' alike with b; x is 0 outside of itself. out_size may be any.
 *
 * x: (images, groups C, *in_size), weight: (groups O, C, *kernel), y: (images, groups O, *out_size), contiguous; C and
 * O are in_channels and out_channels, those of a group. kernel, stride, dilation, channels, groups >= 1, padding >= 0.
 *   convolution                  reads x, weight and bias (groups O, or NULL); overwrites y
 *   convolution_input_gradient   reads y, as the gradient of the outputs, and weight; overwrites x with that of the
 *                                inputs, plus bias (groups C, or NULL): a transposed convolution
 *   convolution_weight_gradient  reads x, and y as the gradient of the outputs; adds to weight and, unless NULL, to
 * bias (groups O) their gradients Each returns 0 or NNF_NO_MEMORY; then nothing was added to weight and bias, and y and
 * x hold anything. Sums run in an order that depends on sizes alone: same bits for any number of threads, and with AVX2
 * as with AVX-512. In the gradient of the weight an entry of x that is not finite may show in other entries of a
 * channel than those it takes part in. */
typedef struct {
    intptr_t images, groups, in_channels, out_channels;
    intptr_t in_size[2], out_size[2], kernel[2], stride[2], padding[2], dilation[2];
    void *x, *weight, *bias, *y;
} nnf_convolution;

/* Windows of planes, of which one at (i, j) has the entries i stride[0] - padding[0] + a dilation[0], a < kernel[0],
 * and alike for columns. Each window meets its plane. x: (planes, *in_size), y and index: (planes, *out_size),
 * contiguous. NNF_MAX           y = the largest of each window, NaN where it has one; index = where that is in the
 * plane: of equal ones the first, of NaNs the last NNF_MAX_GRADIENT  overwrites x with the sum of the y whose index it
 * is NNF_MAX_CHANGE    y = largest of x + change, less largest of x, without cancellation; index as NNF_MAX has found
 * it. change: (stack, planes, *in_size), y: (stack, planes, *out_size) NNF_MEAN          y = sum / divisor; where that
 * is 0, by the number of entries of the window in the plane, or (count_padding) in the padded plane. dilation is 1
 *   NNF_MEAN_GRADIENT overwrites x with the sum of y / divisor over the windows that hold it
 * stack: 1, but for NNF_MAX_CHANGE. in_size[0] in_size[1] < 2^31. */
typedef enum { NNF_MAX, NNF_MAX_GRADIENT, NNF_MAX_CHANGE, NNF_MEAN, NNF_MEAN_GRADIENT } nnf_pass;

typedef struct {
    nnf_pass which;
    intptr_t planes, stack;
    intptr_t in_size[2], out_size[2], kernel[2], stride[2], padding[2], dilation[2];
    double divisor;
    int count_padding;
    void *x, *y;
    int32_t *index;
    const void *change;
} nnf_pooling;

/* ---- batch normalisation of images ------------------------------------------------------------------------ */

/* y = (x - m) / a w + b, a = sqrt(v + eps), m and v being the mean and the biased variance of each channel over rows
 * and positions. x, y, dy, dx: (rows, channels, size), contiguous; weight, bias, grad_weight, grad_bias: (channels), or
 * NULL for ones, zeros, and not wanted. moments: (2, channels), m and v. forward   where dx is NULL, and so is dy:
 * overwrites moments, and y unless NULL backward  reads x, dy and moments; overwrites dx with the gradient of x, adds
 * to grad_weight and grad_bias Same bits for any number of threads, and with AVX2 as with AVX-512. */
typedef struct {
    intptr_t rows, channels, size;
    double eps;
    const void *x, *weight, *bias;
    void *y;
    double *moments;
    const void *dy;
    void *dx, *grad_weight, *grad_bias;
} nnf_batch_norm;

/* ---- networks: stages, from the bottom up, and a loss --------------------------------------------------- */

/* Normalisation of groups of neighbouring entries of a row, y = w d / a + b with d = x - m, or d = x (not centred), and
 * a = sqrt(mean(d^2) + eps): means over `group` entries, and by_batch over those of all rows.
 * d: (N, width). a: (N, width / group), by_batch (width / group). total: like a, the sum of the d of each group, which
 * rounding has left; not centred: NULL. weight: (width), or NULL for ones. */
typedef struct {
    intptr_t group;
    int by_batch, centred;
    double eps;
    const void *d, *a, *total, *weight;
} nnf_norm;

/* y = x + f(x), or f(x) + g(x), as stages: fork keeps x for later; other goes on with what was kept last, and keeps
 * what there is in its place; join adds what was kept last. At most NNF_MOST_OPEN are kept at a time. */
typedef enum { NNF_NO_BRANCH, NNF_FORK, NNF_OTHER, NNF_JOIN } nnf_branching;
enum { NNF_MOST_OPEN = 4 };

/* A measured stage is an elementwise function that C does not know: x holds its slopes, y how far its argument may move
 * for it to be straight, both (N, width), and alpha is the largest |f''| / 2. Straight curves alone can be had above
 * it. */
typedef struct {
    const void *weight;        /* linear: (width, inputs), contiguous; NULL for an activation */
    nnf_activation activation; /* activation: its function, */
    double alpha;              /*             its parameter, */
    const void *x, *y;         /*             its input and output, (N, width), contiguous */
    int measured;              /* or a function of each entry, known from measurements: see above */
    intptr_t width;            /* outputs of this stage per row */
    const void *bias;          /* linear: width, or NULL; differences do not read it */
    /* For nnf_network alone, linear stages: */
    void *grad_weight, *grad_bias;      /* like weight and bias; NULL: not wanted */
    const intptr_t *entry, *bias_entry; /* NULL, or which entries of these are wanted, ascending; others are set to 0 */
    intptr_t entries, bias_entries;
    /* For nnf_convolution_difference alone, NULL otherwise, and weight is NULL where one is not: */
    const nnf_convolution *convolution; /* x, bias and y are not read */
    const nnf_pooling *pooling;         /* of planes as many as channels; x (N, planes, *in_size) and index, or (mean)
                                           index NULL */
    const nnf_norm *norm;
    const void *factors; /* y[n, i] = x[n, i] factors[n factors_row + i / each] */
    intptr_t factors_row, each;
    nnf_branching branching;
} nnf_stage;

typedef enum {
    NNF_CROSS_ENTROPY, /* sum over rows and classes of -t log(softmax(y)) */
    NNF_SQUARED_ERROR, /* sum over all entries of (y - t)^2 */
    NNF_LINEAR,        /* sum over all entries of r y: any loss, near the output at which r is its gradient */
    NNF_NO_LOSS        /* forward alone */
} nnf_loss;

/* y = the last stage(... the first stage(x)); and with a loss, that of y, and the gradients of all weights and biases.
 *
 * x: (N, inputs). y: (N, width of the last stage), overwritten. Both contiguous.
 * stage: its x is not read. Its y is NULL, or holds the output of that stage where it is known and need not be
 *   computed: for all stages or for none; the network's own y may then be NULL.
 * cross_entropy: labels, ignored, targets, weights, smoothing and scale count; NULL for another loss.
 * targets, scale: for the squared error, (N, width), contiguous; gradients are those of scale times the loss. For a
 *   linear one r in place of the targets.
 * total: the loss, not scaled; 0 without one, and for a linear one.
 * step: 0, or h > 0: gradients are those of central differences, (L(w + h) - L(w - h)) / 2h, if bounds show that
 *   all curves are straight to rounding (see nnf_curves); if not, the answer is NNF_NOT_STRAIGHT, y and total hold
 *   anything, and gradients are as they were. Not without a loss, nor where network_memory says 0.
 * doubtful: with a step, NULL or (N): 1 for a row in which a kink or jump may lie within the step, which the gradients
 *   then leave out, else 0. If NULL, such a row means NNF_NOT_STRAIGHT.
 * threads: how many tasks may run at a time; more than those wait for each other.
 * memory: aligned to 64 bytes, as many as network_memory says for the same p; nothing is kept in it.
 *
 * Gradients are overwritten. Nothing that is written shares memory with anything else. Stopped by poll, gradients and y
 * hold anything. Sums over rows run in an order that depends on sizes alone: same bits for any number of threads, and
 * with AVX2 as with AVX-512 (but for a softmax of more than NNF_FEW_CLASSES classes). */
typedef struct {
    intptr_t rows, inputs, stages; /* stages >= 1 */
    const nnf_stage *stage;
    const void *x;
    void *y;
    nnf_loss loss;
    const nnf_softmax_cross_entropy *cross_entropy;
    const void *targets;
    double scale, step;
    uint8_t *doubtful;
    double *total;
    int threads;
} nnf_network;

/* ---- central differences of a linear layer --------------------------------------------------------------- */

/* For a cross-entropy: logits y; p, their softmax; targets t >= 0 with any sum, 0 throughout where a row is left out;
 * residual, the gradient sum(t) p - t with all its digits. For the squared error: residual y - t; linear: residual r;
 * the others NULL. Each is (N, width), contiguous, with the width of the last stage. */
typedef struct {
    intptr_t rows, outputs; /* N; of the perturbed layer */
    intptr_t stages;
    const nnf_stage *stage;
    nnf_loss loss;
    const void *logits, *p, *t, *residual;
    intptr_t first, units; /* which of the outputs are selected */
} nnf_above;

/* grad_weight[o, i] = scale * (L(W[o, i] + step) - L(W[o, i] - step)) / (2 step), and the same for the biases, where
 * L is the sum over rows of the loss of stages(x W^T + b), for o in [first, first + units). Differences are propagated,
 * never values: nothing cancels.
 * x: (N, I), contiguous; entries that are zero are skipped, as their weights change nothing.
 * columns: NULL, or (2, O, E), contiguous: how output o changes, as stage 0 sees it, by +step ([0]) and by -step ([1])
 * in each of the E entries of x that are not zero, row by row; with biases each row has one more entry at its end. It
 *   stands in for +-step x[n, i].
 * No stage is measured.
 * wanted: NULL, or (O, I + 1), without columns: 1 where an entry is selected (the bias is last), else 0; those that are
 *   not become 0.
 * counted: NULL, or (O, N): 0 where a row is left out of L.
 * grad_weight: (O, I). grad_bias: O numbers, or NULL. Each entry is summed over rows in one order, in double: same
 * bits for any number of threads. Memory beyond the arguments: proportional to x, plus some 2 MB per thread. */
typedef struct {
    nnf_above above;
    intptr_t inputs;
    const void *x;
    const void *columns;
    const uint8_t *wanted, *counted;
    double step, scale;
    void *grad_weight, *grad_bias;
} nnf_difference;

/* The same for a convolution: every weight and bias of the output channels first .. first + units - 1 of `above`, whose
 * outputs are those of a row, (groups O, *out_size). layer: x is read, weight, bias and y are not. Stages may be
 * convolutions, pooling and the others of nnf_stage as well. grad_weight: (groups O, C, *kernel), grad_bias: (groups
 * O), or NULL; written in these channels, unless stopped by poll or out of memory. Same bits for any number of threads,
 * and with AVX2 as with AVX-512. Memory beyond the arguments: a padded copy of x; some tiles per thread, of 512 KB or
 * of 128 bytes for each output of a row; and with normalisation by_batch, as much for each row. */
typedef struct {
    nnf_above above;
    const nnf_convolution *layer;
    double step, scale;
    void *grad_weight, *grad_bias;
} nnf_convolution_difference;

/* All weights into output o move the loss of row n through one number, t = +-step x[n, i]. With phi(t) the change of
 * that loss and T[n] the largest |t|, the curve (phi(t) - phi(-t)) / 2t is even in t and written as
 * level + bend (t / T)^2, from its values at T, 0.8 T and T / 2: the first and the last give the two numbers, that in
 * the middle says how far off they are.
 * distance: T, N numbers >= 0; where it is 0 both are 0.
 * columns: NULL, or (O, 6, N): what output o changes by, as stage 0 sees it, in place of T, -T, 0.8 T, -0.8 T, T/2,
 * -T/2.
 * chosen: NULL, or (O): 0 where nothing is to be written for a unit.
 * level, bend: (O, N), written for o in [first, first + units). doubtful: (O, N), 1 where the curve is farther off than
 * `tolerance` times the mean level of the unit (each times T): level and bend are 0 there. Where no bend of a unit is
 * larger than that, half of each is added to the level and it becomes 0. state: (O), the sum of NNF_HAS_DOUBTFUL and
 * NNF_HAS_BEND where they hold. Rows are doubtful as well where an argument of a function with a kink or a jump may
 * reach it, or one of a smooth function moves so far that more may happen between the samples: see shapes.h. A
 * tolerance below 0 means the quotient at T alone: that is the level then, the bend is 0 and no row is doubtful.
 * Units whose curves are shown by bounds to be constant to rounding are answered from one evaluation instead of six:
 * straight.inc.h. Where a stage is measured, a unit that has doubtful rows or is not straight has the state
 * NNF_UNKNOWN, and nothing else of it counts. */
enum { NNF_NODES = 6, NNF_HAS_DOUBTFUL = 1, NNF_HAS_BEND = 2, NNF_UNKNOWN = 4 };

typedef struct {
    nnf_above above;
    const void *distance;
    const void *columns;
    const uint8_t *chosen;
    double tolerance;
    void *level, *bend;
    uint8_t *doubtful, *state;
} nnf_curves;

/* out[e] = sum over n of a[o, n] b[n, i] for each entry[e] = o I + i, e < count, ascending. a: (O, N), b: (N, I),
 * contiguous. Returns 0 or NNF_NO_MEMORY. */
typedef struct {
    intptr_t count, inputs, rows;
    const void *a, *b;
    const intptr_t *entry;
    void *out;
} nnf_selected;

/* out = S b, where row i of S (rows, inner) has value[e] in column[e] for e in [start[i], start[i + 1]), in any order;
 * a column may come more than once. start: rows + 1, ascending. b: (inner, columns), out: (rows, columns), contiguous,
 * out apart from the others. Sums run in the order of e: same bits for any number of threads. */
typedef struct {
    intptr_t rows, columns;
    const intptr_t *start, *column;
    const void *value, *b;
    void *out;
} nnf_sparse;

/* ---- recurrent layers ---------------------------------------------------------------------------------- */

/* One direction of one layer through a sequence of T steps. With u[t] what the input gives, (N, G H), and
 * q[t] = W h[t - 1] + b, the state h[t] is
 *   RNN    (G = 1)           f(u + q), f = tanh or max(., 0)
 *   LSTM   (G = 4: i f g o)  o tanh(c[t]), c[t] = f c[t - 1] + i g; i, f, o = sigmoid(u + q), g = tanh(u + q)
 *   GRU    (G = 3: r z n)    n + z (h[t - 1] - n); r, z = sigmoid(u + q), n = tanh(u + r q)
 * Before the first step h and c are 0. reverse: from the last step to the first; then t - 1 above is t + 1.
 *
 * weight: (G H, H); bias: G H, or NULL. Contiguous.
 * mask: (T, N), or NULL; 0 where a step is passed over: the state stays what it was, and y is 0.
 * gates: (T, N, G H). forward: holds u, and is overwritten by the values of the gates (RNN: it is left as it is).
 * state: (T, N, H). kept: (T, N, H), c of an LSTM, the last H of q of a GRU; NULL for an RNN. Contiguous; forward
 *   writes them, backward reads them.
 * y: NULL, or (N, T, H) of any strides but the last, which is 1: the states once more. For forward alone.
 *
 * For backward alone: dy: like y, the gradient of y, or NULL. dlast: that of the state after the last step, (N, H),
 * rows dlast_row apart, or NULL. dgates, drecurrent: (T, N, G H), contiguous, overwritten: the gradients of u and q;
 * drecurrent is NULL for all but the GRU, where it is the same.
 *
 * Both return 0, the answer of poll when that stopped them (outputs then hold anything), or NNF_NO_MEMORY. Rows do not
 * depend on each other, and have the same bits whatever N and the number of threads. */
typedef enum { NNF_RNN_TANH, NNF_RNN_RELU, NNF_LSTM, NNF_GRU } nnf_cell;

typedef struct {
    nnf_cell cell;
    intptr_t steps, rows, units; /* T, N, H */
    int reverse;
    const void *weight, *bias;
    const uint8_t *mask;
    void *gates, *state, *kept;
    void *y;
    intptr_t y_row, y_step;
    const void *dy;
    intptr_t dy_row, dy_step;
    const void *dlast;
    intptr_t dlast_row;
    void *dgates, *drecurrent;
} nnf_recurrent;

/* How the states change, for a stack of S changes; row s N + n of the stack is that of row n. Differences are
 * propagated, never values: nothing cancels. weight, mask: as above. arguments: (T, N, G H), what sigmoid, tanh and max
 * were given: u + q, and u + r q in the last H of a GRU. gates, state, kept: as forward has left them; gates are not
 * read for an RNN. du: (T, S N, G H), how u changes; or NULL: then one entry changes in each of the stack, that in
 * column at[s] of u, or of q with `recurrent`, by drive (T, S N), and by step times how entry from[s] of the state
 * before has changed; from is NULL, or from[s] < 0, where none moves it. y: (S N, T, H), strides as above, the changes,
 * 0 where a step is passed over; or NULL. last: (S N, H), those of the state after the last step, or NULL. All others
 * contiguous. Returns as above; same bits for any number of threads. */
typedef struct {
    nnf_cell cell;
    intptr_t steps, rows, units, stack; /* T, N, H, S */
    int reverse, recurrent;
    const void *weight;
    const uint8_t *mask;
    const void *arguments, *gates, *state, *kept;
    const void *du;
    const intptr_t *at, *from;
    const void *drive;
    double step;
    void *y;
    intptr_t y_row, y_step;
    void *last;
} nnf_recurrent_change;

/* ---- attention ----------------------------------------------------------------------------------------- */

/* out[n, i, h] = sum over keys j of p[i, j] f[i, j] v[n, j, h], p[i] = softmax over j of scale q[n, i, h] . k[n, j, h].
 *
 * q: (N, L, heads, d); k, v: (N, S, heads, d): any strides q_batch and q_row over the first two axes, the last two
 *   contiguous; S >= 1.
 * causal: query i sees keys 0 to i. mask: (N, S), or NULL; 0 where a key is hidden. A query that sees none gives 0.
 * factors: f, (N, heads, L, S), contiguous, or NULL for ones.
 * out: (N, L, heads, d), contiguous. lse: (N, heads, L), contiguous: the logarithm of the sum of exponentials of the
 *   scores; infinity where no key is seen. Forward writes them, backward reads them.
 * dout: the gradient of out, like it; NULL: forward. dq, dk, dv: like q, k, v with strides of their own; overwritten.
 *
 * Returns 0, the answer of poll when that stopped it (outputs then hold anything), or NNF_NO_MEMORY. Heads and rows do
 * not depend on each other, and have the same bits whatever N and the number of threads, with AVX2 as with AVX-512. */
typedef struct {
    intptr_t batch, queries, keys, heads, width; /* N, L, S, heads, d */
    const void *q;
    intptr_t q_batch, q_row;
    const void *k;
    intptr_t k_batch, k_row;
    const void *v;
    intptr_t v_batch, v_row;
    double scale;
    int causal;
    const uint8_t *mask;
    const void *factors;
    void *out, *lse;
    const void *dout;
    void *dq;
    intptr_t dq_batch, dq_row;
    void *dk;
    intptr_t dk_batch, dk_row;
    void *dv;
    intptr_t dv_batch, dv_row;
} nnf_attention;

/* ---- a function where one variable has been moved -------------------------------------------------------- */

/* out[i, k] = f(x with x[index[i]] = value[i, k]), i < count, k < values. x: n numbers, copied once per task; index,
 * value, out: contiguous. f is called from several threads at once. Returns 0, the answer of poll when that stopped it,
 * or NNF_NO_MEMORY. */
typedef double (*nnf_function)(const double *x, intptr_t n, void *data);

typedef struct {
    nnf_function f;
    void *data;
    const double *x;
    intptr_t n, count, values;
    const intptr_t *index;
    const double *value;
    double *out;
} nnf_moved;

/* ---- functions of which some entries have been moved ----------------------------------------------------- */

/* out[s] = x but for out[s, index[s % rows, j]] = value[s, j], s < moves, j < entries; of equal indices the last one
 * counts. x: n numbers; index: (rows, entries), each in [0, n); value: (moves, entries); out: (moves, n). All are
 * contiguous. On the calling thread. */
typedef struct {
    intptr_t n, moves, entries, rows;
    const double *x;
    const intptr_t *index;
    const double *value;
    double *out;
} nnf_copies;

void nnf_moved_copies(const nnf_copies *p);

/* Central differences for the entries of some moves, of a function whose outputs belong to one entry each. With y+
 * and y- where an entry is moved up and down by a step, sums over the outputs of that entry:
 *     wide = sum w (y+ - y-) / (x+ - x-)
 *     near = the same for half of the step
 *     size = sum |w (y+ - y-)| / step, for half of the step
 *     noise = sum noise / step, inf where size = 0 and step < resolved
 * out: near + (near - wide) / 3, |near - wide| + 8 noise + 16 eps size, and size.
 * y: (4, moves, before, entries, after) at +step, -step, +step/2, -step/2, with strides of sides, moves and before; the
 *   others are contiguous.
 * weight (w), noise: (before, entries, after). end: (4, count), what the entries become. step: (count). out: (3,
 * count). Of the last three, moves x entries of each row are read or written. All are contiguous. On the calling
 * thread. */
typedef struct {
    intptr_t moves, before, entries, after, count;
    const double *y;
    intptr_t y_side, y_move, y_before;
    const double *weight, *noise, *end, *step;
    double resolved;
    double *out;
} nnf_quotients;

void nnf_change_quotients(const nnf_quotients *p);

/* Central differences of a function, and which of them can be relied on. value: (count, 2), what an entry becomes on
 * either side; y: (count, 2), the function there; base: the function where nothing is moved. Of each entry, with what
 * the function's values may be off by, n = max(noise, relative max(|y+|, |y-|)):
 *     width = x+ - x-, quotient = (y+ - y-) / width, change = |y+ - y-|
 *     sure: |(y+ - base) + (y- - base)| <= curved change + 4 n, n <= rounded change, and change is finite
 * out: (3, count), the first three. sure: count. All are contiguous. On the calling thread. */
typedef struct {
    intptr_t count;
    const double *value, *y;
    double base, noise, relative, curved, rounded;
    double *out;
    uint8_t *sure;
} nnf_central;

void nnf_central_quotients(const nnf_central *p);

/* The slopes of a smooth function of one number, at many numbers x at a time. base: (count), the function at x; value:
 * (4, count), the function where x is moved by size, -size, and half of both; way: NULL, it is (x + size) - x and so
 * on, what rounding leaves of them. Or base and x are NULL, value is what the function changes by, and way: (4, count),
 * where x is moved by way. With quotients over both sides, whole and half, and over one, up, down, and near ones: noise
 * = 16 eps (|base| + |x whole|) / size, or 16 eps |whole| without a base most = max(close max|whole|, noise), of whole
 * that are finite smooth: |whole - half| <= most, |(up - down) - 2 (near_up - near_down)| <= 4 most, and noise <= noisy
 * max|whole| or nothing moves Of those that are smooth and left: slope = (4 half - whole) / 3, reach = size, left = 0;
 * the others stay as they are. Returns the largest |up - down| / size of these: about |f''|. All are contiguous, (4,
 * count) or (count). On the calling thread. */
typedef struct {
    intptr_t count;
    const double *way, *value, *base, *x, *size;
    double eps, close, noisy;
    double *slope, *reach;
    uint8_t *left;
} nnf_slopes;

double nnf_measured_slopes(const nnf_slopes *p);

/* out = start + distance way; (count) each, contiguous. On the calling thread. */
void nnf_moved_along(intptr_t count, const double *start, const double *way, double distance, double *out);

/* ---- the tables --------------------------------------------------------------------------------------- */

typedef struct {
    void (*matmul)(const nnf_matmul *p);
    void (*softmax_cross_entropy)(const nnf_softmax_cross_entropy *p);
    /* y = softmax(x) over each row; x, y: (rows, classes), contiguous; y may be x. */
    void (*softmax)(intptr_t rows, intptr_t classes, const void *x, void *y);

    /* y[i] = f(x[i]), i < n. y may be x. */
    void (*activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y);
    /* dx[i] = dy[i] f'(x[i]), where y[i] = f(x[i]). dx may be dy. */
    void (*activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                const void *dy, void *dx);
    /* dy[s, i] = f(x[i] + dx[s, i]) - f(x[i]) without cancellation, where y[i] = f(x[i]).
     * x, y: n; dx, dy: (stack, n). dy may be dx. */
    void (*activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                  const void *y, const void *dx, void *dy);

    void (*update)(const nnf_update *p);
    /* Whether none of n numbers is infinite or NaN. */
    int (*all_finite)(intptr_t n, const void *x);

    /* Bytes; 0 where the network is too large for differences in one call. */
    size_t (*network_memory)(const nnf_network *p);
    /* 0; or what poll answered when it stopped the loop; or NNF_NOT_STRAIGHT. poll may be NULL. */
    int (*network)(const nnf_network *p, void *memory, int (*poll)(void));

    /* 0; or what poll answered when it stopped the loop; or NNF_NO_MEMORY. poll may be NULL. */
    int (*difference_gradient)(const nnf_difference *p, int (*poll)(void));
    int (*difference_curves)(const nnf_curves *p, int (*poll)(void));
    int (*selected_products)(const nnf_selected *p);
    void (*sparse_product)(const nnf_sparse *p);

    int (*convolution)(const nnf_convolution *p);
    int (*convolution_input_gradient)(const nnf_convolution *p);
    int (*convolution_weight_gradient)(const nnf_convolution *p);
    void (*pooling)(const nnf_pooling *p);
    void (*batch_norm)(const nnf_batch_norm *p);
    int (*convolution_difference)(const nnf_convolution_difference *p, int (*poll)(void));
    int (*recurrent)(const nnf_recurrent *p, int (*poll)(void));
    int (*recurrent_backward)(const nnf_recurrent *p, int (*poll)(void));
    int (*recurrent_change)(const nnf_recurrent_change *p, int (*poll)(void));
    int (*attention)(const nnf_attention *p, int (*poll)(void));
    /* out[n, i] = a hash of keys[n] and i, in [0, 1), a multiple of 2^-24; out: (rows, columns), contiguous. */
    void (*uniform)(intptr_t rows, intptr_t columns, const uint64_t *keys, void *out);
} nnf_kernels;

/* One table per instruction set and element type; NULL where the compiler could not make it. */
typedef struct {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    const nnf_kernels *kernels[NNF_DTYPES];
} nnf_isa;

const char *nnf_compiler(void); /* cpu.c: name and version of the compiler */

/* cpu.c: the instruction sets that this build has and this processor runs, best first. */
int nnf_isa_count(void);
const nnf_isa *nnf_isa_at(int index);
const nnf_isa *nnf_isa_find(const char *name); /* NULL if unknown or not runnable here */

/* ---- pool.c: threads ----------------------------------------------------------------------------------- */

/* Runs run(context, i) for each i in [0, tasks), on the calling thread and up to threads - 1 others. Which thread runs
 * which task is not defined; results may depend on the task alone. Called from inside a task, or while another thread
 * uses the pool, it runs all tasks on the calling thread. */
typedef void (*nnf_task)(void *context, intptr_t index);
void nnf_parallel(intptr_t tasks, nnf_task run, void *context);

/* The same, but every 50 ms the calling thread calls poll(); once that answers non-zero no further task is begun, and
 * the answer is returned when the running ones have ended. 0: all tasks have run. It ends the tasks of this call alone:
 * not those of another thread, nor of a call around this one. poll may itself make such calls, and may fork; in the
 * child, tasks that other threads were running are lost, and all are run once more: they must overwrite what they
 * write. */
typedef int (*nnf_poll)(void);
int nnf_parallel_polled(intptr_t tasks, nnf_task run, void *context, nnf_poll poll);

/* For a task that lasts: whether it may as well end, as poll has answered non-zero. On the calling thread it calls poll
 * itself, every 50 ms. */
int nnf_should_stop(void);

enum { NNF_NO_MEMORY = -1000, NNF_NOT_STRAIGHT = -1001 };

int nnf_evaluate_moved(const nnf_moved *p, nnf_poll poll);

/* ---- spare.c: memory that is used again ------------------------------------------------------------------ */

/* At least `bytes` bytes, as malloc gives them, with anything in them; NULL where there is no room. bytes becomes how
 * many there are, for nnf_give, which takes them back: some of it is kept for the next that asks for about as many. */
void *nnf_take(size_t *bytes);
void nnf_give(void *memory, size_t bytes); /* memory may be NULL */

int64_t nnf_nanoseconds(void); /* of a clock that never goes back */

/* How many threads that much work, as one thread would take for it, is worth now: those of nnf_set_num_threads, or 1.
 */
int nnf_threads_for(double nanoseconds);

/* n >= 1: into how many parts work is cut; at_once: how many of them run at a time, at most n: more than there are
 * processors only stand in each other's way. Threads are started when first needed. */
void nnf_set_num_threads(int n, int at_once);
int nnf_get_num_threads(void);

#endif
