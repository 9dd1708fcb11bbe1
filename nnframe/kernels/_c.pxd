# What csrc/nnframe.h declares; the contracts are there.

from libc.stdint cimport int32_t, int64_t, intptr_t, uint8_t, uint64_t

cdef extern from "nnframe.h" nogil:
    ctypedef enum nnf_activation:
        NNF_IDENTITY
    int NNF_ACTIVATIONS
    const char *nnf_activation_name(nnf_activation f)
    double nnf_activation_alpha(nnf_activation f)
    ctypedef enum nnf_rule:
        pass
    int NNF_RULES
    const char *nnf_rule_name(nnf_rule rule)
    int nnf_rule_has_m(nnf_rule rule)
    int nnf_rule_has_s(nnf_rule rule)
    int nnf_rule_has_k(nnf_rule rule)
    ctypedef struct nnf_update:
        nnf_rule rule
        intptr_t n
        void *w
        const void *g
        void *m
        void *s
        void *k
        double rate, decay, shrink, beta1, beta2, eps, gain
    ctypedef struct nnf_matmul:
        intptr_t batch, m, n, k
        const void *a
        intptr_t a_batch, a_row, a_col
        const void *b
        intptr_t b_batch, b_row, b_col
        void *c
        intptr_t c_batch, c_row
        const void *bias
        int add, any_order
        nnf_activation activation
        double alpha
    ctypedef struct nnf_softmax_cross_entropy:
        intptr_t rows, classes
        const void *logits
        intptr_t logits_row
        const int64_t *labels
        int64_t ignored
        const void *targets
        const void *weights
        double smoothing
        double scale
        void *grad
        double *losses
    ctypedef struct nnf_convolution:
        intptr_t images, groups, in_channels, out_channels
        intptr_t[2] in_size, out_size, kernel, stride, padding, dilation
        void *x
        void *weight
        void *bias
        void *y
    ctypedef enum nnf_pass:
        NNF_MAX
        NNF_MAX_GRADIENT
        NNF_MAX_CHANGE
        NNF_MEAN
        NNF_MEAN_GRADIENT
    ctypedef struct nnf_pooling:
        nnf_pass which
        intptr_t planes, stack
        intptr_t[2] in_size, out_size, kernel, stride, padding, dilation
        double divisor
        int count_padding
        void *x
        void *y
        int32_t *index
        const void *change
    ctypedef struct nnf_batch_norm:
        intptr_t rows, channels, size
        double eps
        const void *x
        const void *weight
        const void *bias
        void *y
        double *moments
        const void *dy
        void *dx
        void *grad_weight
        void *grad_bias
    ctypedef struct nnf_norm:
        intptr_t group
        int by_batch, centred
        double eps
        const void *d
        const void *a
        const void *total
        const void *weight
    ctypedef enum nnf_branching:
        NNF_NO_BRANCH
        NNF_FORK
        NNF_OTHER
        NNF_JOIN
    int NNF_MOST_OPEN
    ctypedef struct nnf_stage:
        const void *weight
        nnf_activation activation
        double alpha
        const void *x
        const void *y
        int measured
        intptr_t width
        const void *bias
        void *grad_weight
        void *grad_bias
        const intptr_t *entry
        const intptr_t *bias_entry
        intptr_t entries, bias_entries
        const nnf_convolution *convolution
        const nnf_pooling *pooling
        const nnf_norm *norm
        const void *factors
        intptr_t factors_row, each
        nnf_branching branching
    ctypedef enum nnf_loss:
        NNF_CROSS_ENTROPY
        NNF_SQUARED_ERROR
        NNF_LINEAR
        NNF_NO_LOSS
    ctypedef struct nnf_network:
        intptr_t rows, inputs, stages
        const nnf_stage *stage
        const void *x
        void *y
        nnf_loss loss
        const nnf_softmax_cross_entropy *cross_entropy
        const void *targets
        double scale, step
        uint8_t *doubtful
        double *total
        int threads
    ctypedef struct nnf_above:
        intptr_t rows, outputs
        intptr_t stages
        const nnf_stage *stage
        nnf_loss loss
        const void *logits
        const void *p
        const void *t
        const void *residual
        intptr_t first, units
    ctypedef struct nnf_difference:
        nnf_above above
        intptr_t inputs
        const void *x
        const void *columns
        const uint8_t *wanted
        const uint8_t *counted
        double step, scale
        void *grad_weight
        void *grad_bias
    ctypedef struct nnf_convolution_difference:
        nnf_above above
        const nnf_convolution *layer
        double step, scale
        void *grad_weight
        void *grad_bias
    ctypedef struct nnf_curves:
        nnf_above above
        const void *distance
        const void *columns
        const uint8_t *chosen
        double tolerance
        void *level
        void *bend
        uint8_t *doubtful
        uint8_t *state
    ctypedef struct nnf_selected:
        intptr_t count, inputs, rows
        const void *a
        const void *b
        const intptr_t *entry
        void *out
    ctypedef struct nnf_sparse:
        intptr_t rows, columns
        const intptr_t *start
        const intptr_t *column
        const void *value
        const void *b
        void *out
    ctypedef enum nnf_cell:
        NNF_RNN_TANH
        NNF_RNN_RELU
        NNF_LSTM
        NNF_GRU
    ctypedef struct nnf_recurrent:
        nnf_cell cell
        intptr_t steps, rows, units
        int reverse
        const void *weight
        const void *bias
        const uint8_t *mask
        void *gates
        void *state
        void *kept
        void *y
        intptr_t y_row, y_step
        const void *dy
        intptr_t dy_row, dy_step
        const void *dlast
        intptr_t dlast_row
        void *dgates
        void *drecurrent
    ctypedef struct nnf_recurrent_change:
        nnf_cell cell
        intptr_t steps, rows, units, stack
        int reverse, recurrent
        const void *weight
        const uint8_t *mask
        const void *arguments
        const void *gates
        const void *state
        const void *kept
        const void *du
        const intptr_t *at
        const intptr_t *from_ "from"
        const void *drive
        double step
        void *y
        intptr_t y_row, y_step
        void *last
    ctypedef struct nnf_attention:
        intptr_t batch, queries, keys, heads, width
        const void *q
        intptr_t q_batch, q_row
        const void *k
        intptr_t k_batch, k_row
        const void *v
        intptr_t v_batch, v_row
        double scale
        int causal
        const uint8_t *mask
        const void *factors
        void *out
        void *lse
        const void *dout
        void *dq
        intptr_t dq_batch, dq_row
        void *dk
        intptr_t dk_batch, dk_row
        void *dv
        intptr_t dv_batch, dv_row
    ctypedef struct nnf_kernels:
        void (*matmul)(const nnf_matmul *p) noexcept nogil
        void (*softmax_cross_entropy)(const nnf_softmax_cross_entropy *p) noexcept nogil
        void (*softmax)(intptr_t rows, intptr_t classes, const void *x, void *y) noexcept nogil
        void (*activation_forward)(nnf_activation f, double alpha, intptr_t n, const void *x, void *y) noexcept nogil
        void (*activation_backward)(nnf_activation f, double alpha, intptr_t n, const void *x, const void *y,
                                    const void *dy, void *dx) noexcept nogil
        void (*activation_difference)(nnf_activation f, double alpha, intptr_t stack, intptr_t n, const void *x,
                                      const void *y, const void *dx, void *dy) noexcept nogil
        void (*update)(const nnf_update *p) noexcept nogil
        int (*all_finite)(intptr_t n, const void *x) noexcept nogil
        size_t (*network_memory)(const nnf_network *p) noexcept nogil
        int (*network)(const nnf_network *p, void *memory, int (*poll)() noexcept nogil) noexcept nogil
        int (*difference_gradient)(const nnf_difference *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*difference_curves)(const nnf_curves *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*selected_products)(const nnf_selected *p) noexcept nogil
        void (*sparse_product)(const nnf_sparse *p) noexcept nogil
        int (*convolution)(const nnf_convolution *p) noexcept nogil
        int (*convolution_input_gradient)(const nnf_convolution *p) noexcept nogil
        int (*convolution_weight_gradient)(const nnf_convolution *p) noexcept nogil
        void (*pooling)(const nnf_pooling *p) noexcept nogil
        void (*batch_norm)(const nnf_batch_norm *p) noexcept nogil
        int (*convolution_difference)(const nnf_convolution_difference *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*recurrent)(const nnf_recurrent *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*recurrent_backward)(const nnf_recurrent *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*recurrent_change)(const nnf_recurrent_change *p, int (*poll)() noexcept nogil) noexcept nogil
        int (*attention)(const nnf_attention *p, int (*poll)() noexcept nogil) noexcept nogil
        void (*uniform)(intptr_t rows, intptr_t columns, const uint64_t *keys, void *out) noexcept nogil
    ctypedef struct nnf_isa:
        const char *name
        const nnf_kernels *kernels[2]
    const char *nnf_compiler()
    int nnf_isa_count()
    const nnf_isa *nnf_isa_at(int index)
    const nnf_isa *nnf_isa_find(const char *name)
    ctypedef double (*nnf_function)(const double *x, intptr_t n, void *data) noexcept nogil
    int NNF_NO_MEMORY, NNF_NOT_STRAIGHT
    int64_t NNF_NONE_IGNORED
    ctypedef struct nnf_moved:
        nnf_function f
        void *data
        const double *x
        intptr_t n, count, values
        const intptr_t *index
        const double *value
        double *out
    int nnf_evaluate_moved(const nnf_moved *p, int (*poll)() noexcept nogil)
    ctypedef struct nnf_copies:
        intptr_t n, moves, entries, rows
        const double *x
        const intptr_t *index
        const double *value
        double *out
    void nnf_moved_copies(const nnf_copies *p)
    ctypedef struct nnf_quotients:
        intptr_t moves, before, entries, after, count
        const double *y
        intptr_t y_side, y_move, y_before
        const double *weight
        const double *noise
        const double *end
        const double *step
        double resolved
        double *out
    void nnf_change_quotients(const nnf_quotients *p)
    ctypedef struct nnf_central:
        intptr_t count
        const double *value
        const double *y
        double base, noise, relative, curved, rounded
        double *out
        uint8_t *sure
    void nnf_central_quotients(const nnf_central *p)
    ctypedef struct nnf_slopes:
        intptr_t count
        const double *way
        const double *value
        const double *base
        const double *x
        const double *size
        double eps, close, noisy
        double *slope
        double *reach
        uint8_t *left
    double nnf_measured_slopes(const nnf_slopes *p)
    void nnf_moved_along(intptr_t count, const double *start, const double *way, double distance, double *out)
    void *nnf_take(size_t *bytes)
    void nnf_give(void *memory, size_t bytes)
    void nnf_set_num_threads(int n, int at_once)
    int nnf_get_num_threads()
