/* channel_stages.inc.h - what layers make of changes of some entries of a row.
 *
 * A tile holds changes (lines, n): n perturbations in lanes, a line for each entry of a layer's output that may have
 * changed, which are neighbours: a span. One channel stays one channel through elementwise layers, pooling and
 * normalisation of channels; a convolution or linear layer makes all entries change that read it. What layers read
 * beside the changes are plain numbers, as all lanes are of one row.
 */

#undef span_t
#undef packed_t
#undef moving_t
#define span_t   FN(span_t)
#define packed_t FN(packed_t)
#define moving_t FN(moving_t)

#undef LANES_OF_CHANNELS
#define LANES_OF_CHANNELS ((intptr_t)(64 / sizeof(T))) /* tiles have whole ones: the same on every instruction set */

typedef struct {
    intptr_t first, lines;
} span_t;

/* A convolution or pooling as the tiles read it. */
typedef struct {
    T *weight;                    /* strips of rows of each group, one tap after another; or of each output of a channel
                                     what the sum is multiplied with for the mean */
    intptr_t *start, *tap, *line; /* the taps of output i that meet an entry of a channel: start[i] .. start[i + 1] - 1,
                                     and which of its entries they meet */
} packed_t;

/* Changes on their way up: those of a span, and of the branches that are kept for later. */
typedef struct {
    intptr_t row, n;
    T *d, *next; /* two buffers; d holds the changes */
    span_t span;
    int open;
    T *kept[NNF_MOST_OPEN];
    span_t kept_span[NNF_MOST_OPEN];
    double *sums;      /* (2, n) */
    T *known;          /* (3, n) */
    const T *of_batch; /* (groups, 3, n): what is known of a normalisation over the mini-batch, from this group on: */
    intptr_t first_group;
} moving_t;

NNF_INLINE intptr_t FN(area)(const intptr_t *size) { return size[0] * size[1]; }

static void FN(swap_buffers)(moving_t *m) {
    T *const d = m->d;
    m->d = m->next, m->next = d;
}

/* ---- spans ---- */

/* The entries of whole units, such as channels, that hold a span. */
static span_t FN(whole_units)(span_t span, intptr_t unit) {
    const intptr_t first = span.first / unit * unit;
    return (span_t){first, (span.first + span.lines + unit - 1) / unit * unit - first};
}

static span_t FN(joined_span)(span_t a, span_t b) {
    const intptr_t first = a.first < b.first ? a.first : b.first;
    const intptr_t end_a = a.first + a.lines, end_b = b.first + b.lines;
    return (span_t){first, (end_a > end_b ? end_a : end_b) - first};
}

/* Which span of its inputs a stage reads where one of them has changed, and which outputs then change. */
static span_t FN(span_read)(const nnf_stage *s, span_t span) {
    if (s->pooling) return FN(whole_units)(span, FN(area)(s->pooling->in_size));
    if (s->convolution) return FN(whole_units)(span, FN(area)(s->convolution->in_size));
    return s->norm ? FN(whole_units)(span, s->norm->group) : span;
}

static span_t FN(span_after)(const nnf_stage *s, span_t span) {
    span = FN(span_read)(s, span);
    if (s->pooling) {
        const intptr_t in = FN(area)(s->pooling->in_size), out = FN(area)(s->pooling->out_size);
        return (span_t){span.first / in * out, span.lines / in * out};
    }
    if (s->convolution) {
        const nnf_convolution *c = s->convolution;
        const intptr_t in = c->in_channels * FN(area)(c->in_size), out = c->out_channels * FN(area)(c->out_size);
        span = FN(whole_units)(span, in);
        return (span_t){span.first / in * out, span.lines / in * out};
    }
    return s->weight ? (span_t){0, s->width} : span;
}

/* to (its lines, n) = d, 0 beyond */
static void FN(spread)(const T *d, span_t from, T *to, span_t span, intptr_t n) {
    const intptr_t before = from.first - span.first, after = span.lines - before - from.lines;
    memset(to, 0, (size_t)(before * n) * sizeof(T));
    memcpy(to + before * n, d, (size_t)(from.lines * n) * sizeof(T));
    memset(to + (before + from.lines) * n, 0, (size_t)(after * n) * sizeof(T));
}

static void FN(widen)(moving_t *m, span_t span) {
    if (span.first == m->span.first && span.lines == m->span.lines) return;
    FN(spread)(m->d, m->span, m->next, span, m->n);
    FN(swap_buffers)(m);
    m->span = span;
}

/* ---- convolutions ---- */

/* C (R, N vectors) = A times what taps meet, of `channels` channels: A has R numbers for each tap of `kernel`, and
 * their entries lie n numbers apart, those of two channels `plane`. */
#define NNF_TAPPED(R, N)                                                                                               \
    NNF_TILE_ATTRIBUTE static void FN(tapped_##R##x##N)(intptr_t channels, intptr_t taps, const intptr_t *tap,         \
                                                        const intptr_t *line, const T *a, intptr_t kernel, const T *b, \
                                                        intptr_t n, intptr_t plane, T *c, intptr_t c_row) {            \
        V sum[R][N];                                                                                                   \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int v = 0; v < N; v++) sum[r][v] = v_set1(0);           \
        for (; channels > 0; channels--, a += kernel * R, b += plane)                                                  \
            for (intptr_t k = 0; k < taps; k++) {                                                                      \
                const T *view = b + line[k] * n, *weight = a + tap[k] * R;                                             \
                V columns[N];                                                                                          \
                NNF_UNROLL for (int v = 0; v < N; v++) columns[v] = v_load(view + v * LANES);                          \
                NNF_UNROLL for (int r = 0; r < R; r++) {                                                               \
                    const V number = v_set1(weight[r]);                                                                \
                    NNF_UNROLL for (int v = 0; v < N; v++) sum[r][v] += number * columns[v];                           \
                }                                                                                                      \
            }                                                                                                          \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int v = 0; v < N; v++)                                  \
            v_store(c + r * c_row + v * LANES, sum[r][v]);                                                             \
    }
NNF_EACH_ROWS(NNF_TAPPED, 1)
NNF_EACH_ROWS(NNF_TAPPED, 2)
NNF_FEW_ROWS(NNF_TAPPED, 4)

#undef tapped_function_t
#define tapped_function_t FN(tapped_function_t)
typedef void (*tapped_function_t)(intptr_t channels, intptr_t taps, const intptr_t *tap, const intptr_t *line,
                                  const T *a, intptr_t kernel, const T *b, intptr_t n, intptr_t plane, T *c,
                                  intptr_t c_row);
#define NNF_TAPPED_NAME(R, N) FN(tapped_##R##x##N),
static const tapped_function_t FN(tapped)[NNF_TILE_VECTORS][TILE_ROWS] = {{NNF_EACH_ROWS(NNF_TAPPED_NAME, 1)},
                                                                          {NNF_EACH_ROWS(NNF_TAPPED_NAME, 2)}};
static const tapped_function_t FN(tapped_wide)[WIDE_ROWS] = {NNF_FEW_ROWS(NNF_TAPPED_NAME, 4)};
#undef NNF_TAPPED_NAME
#undef NNF_TAPPED

/* One group: `channels` of its channels from `first` on have changed by d; to (O outputs, n). */
static void FN(group_convolution)(const nnf_convolution *c, const packed_t *packed, intptr_t group, intptr_t first,
                                  intptr_t channels, const T *d, T *to, intptr_t n) {
    const intptr_t in = FN(area)(c->in_size), out = FN(area)(c->out_size), kernel = FN(area)(c->kernel);
    const intptr_t all = c->in_channels * kernel, strips = FN(strips_of)(c->out_channels);
    const T *weight = packed->weight + group * c->out_channels * all;
    for (intptr_t at = 0; at < out; at++) {
        const intptr_t start = packed->start[at], taps = packed->start[at + 1] - start;
        const intptr_t *tap = packed->tap + start, *line = packed->line + start;
        for (intptr_t s = 0, row = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(c->out_channels, strips, s);
            const T *a = weight + row * all + first * kernel * height;
            T *y = to + (row * out + at) * n;
            for (intptr_t j = 0, vectors; j < n; j += vectors * LANES) {
                vectors = height <= WIDE_ROWS && j + 4 * LANES <= n ? 4 : j + 2 * LANES <= n ? 2 : 1;
                const tapped_function_t run =
                    vectors == 4 ? FN(tapped_wide)[height - 1] : FN(tapped)[vectors - 1][height - 1];
                run(channels, taps, tap, line, a, kernel, d + j, n, in * n, y + j, out * n);
            }
            row += height;
        }
    }
}

static void FN(convolution_stage)(const nnf_convolution *c, const packed_t *packed, moving_t *m) {
    const intptr_t in = FN(area)(c->in_size), out = FN(area)(c->out_size), n = m->n;
    const intptr_t end = (m->span.first + m->span.lines) / in;
    const T *d = m->d;
    T *to = m->next;
    for (intptr_t channel = m->span.first / in, many; channel < end; channel += many) {
        const intptr_t group = channel / c->in_channels, first = channel % c->in_channels;
        many = c->in_channels - first < end - channel ? c->in_channels - first : end - channel;
        FN(group_convolution)(c, packed, group, first, many, d, to, n);
        d += many * in * n, to += c->out_channels * out * n;
    }
}

/* ---- pooling, linear layers, factors, branches ---- */

/* to (vectors) = the largest of (x - x_largest) + d over some entries of a channel; or the sum of d times share. */
NNF_INLINE void FN(pool_vectors)(intptr_t taps, const intptr_t *line, const T *x, const int32_t *index, T share,
                                 const T *d, intptr_t n, T *to, int vectors) {
    V found[2];
    NNF_UNROLL for (int v = 0; v < vectors; v++) found[v] = index ? v_load(d + *index * n + v * LANES) : v_set1(0);
    for (intptr_t k = 0; k < taps; k++) {
        const T *from = d + line[k] * n;
        const V below = v_set1(index ? x[line[k]] - x[*index] : 0);
        NNF_UNROLL for (int v = 0; v < vectors; v++) {
            const V change = v_load(from + v * LANES);
            found[v] = index ? v_max(below + change, found[v]) : found[v] + change;
        }
    }
    NNF_UNROLL for (int v = 0; v < vectors; v++) v_store(to + v * LANES, index ? found[v] : found[v] * v_set1(share));
}

/* One channel, of which x and index are those of its row. */
NNF_INLINE void FN(pool_channel)(const packed_t *packed, intptr_t out, const T *x, const int32_t *index, const T *d,
                                 intptr_t n, T *to) {
    for (intptr_t at = 0; at < out; at++, to += n) {
        const intptr_t taps = packed->start[at + 1] - packed->start[at], *line = packed->line + packed->start[at];
        const int32_t *largest = index ? index + at : NULL;
        intptr_t r = 0;
        for (; r + 2 * LANES <= n; r += 2 * LANES)
            FN(pool_vectors)(taps, line, x, largest, packed->weight[at], d + r, n, to + r, 2);
        if (r < n) FN(pool_vectors)(taps, line, x, largest, packed->weight[at], d + r, n, to + r, 1);
    }
}

static void FN(pooling_stage)(const nnf_pooling *p, const packed_t *packed, moving_t *m) {
    const intptr_t in = FN(area)(p->in_size), out = FN(area)(p->out_size);
    const intptr_t channel = m->row * p->planes + m->span.first / in;
    for (intptr_t c = 0; c < m->span.lines / in; c++) {
        const T *d = m->d + c * in * m->n;
        T *to = m->next + c * out * m->n;
        if (p->index)
            FN(pool_channel)(packed, out, (const T *)p->x + (channel + c) * in, p->index + (channel + c) * out, d, m->n,
                             to);
        else
            FN(pool_channel)(packed, out, NULL, NULL, d, m->n, to);
    }
}

/* next (width, n) = the columns of W (width, inputs) of the span @ d */
static void FN(columns_stage)(const nnf_stage *s, intptr_t inputs, moving_t *m) {
    const nnf_matmul product = {.batch = 1,
                                .m = s->width,
                                .n = m->n,
                                .k = m->span.lines,
                                .a = (const T *)s->weight + m->span.first,
                                .a_row = inputs,
                                .a_col = 1,
                                .b = m->d,
                                .b_row = m->n,
                                .b_col = 1,
                                .c = m->next,
                                .c_row = m->n};
    FN(matmul)(&product);
}

static void FN(factors_stage)(const nnf_stage *s, moving_t *m) {
    const T *factors = (const T *)s->factors + m->row * s->factors_row;
    for (intptr_t k = 0; k < m->span.lines; k++) {
        const V factor = v_set1(factors[(m->span.first + k) / s->each]);
        T *d = m->d + k * m->n;
        for (intptr_t r = 0; r < m->n; r += LANES)
            v_store(d + r, factor * v_load(d + r));
    }
}

/* d += what has been kept */
static void FN(join_stage)(moving_t *m) {
    const T *kept = m->kept[--m->open];
    const span_t other = m->kept_span[m->open];
    FN(widen)(m, FN(joined_span)(m->span, other));
    T *d = m->d + (other.first - m->span.first) * m->n;
    for (intptr_t i = 0; i < other.lines * m->n; i += LANES)
        v_store(d + i, v_load(d + i) + v_load(kept + i));
}

static void FN(branch_stage)(nnf_branching which, moving_t *m) {
    if (which == NNF_JOIN) {
        FN(join_stage)(m);
    } else if (which == NNF_FORK) {
        m->kept_span[m->open] = m->span;
        memcpy(m->kept[m->open++], m->d, (size_t)(m->span.lines * m->n) * sizeof(T));
    } else {
        T *const kept = m->kept[m->open - 1];
        const span_t span = m->kept_span[m->open - 1];
        m->kept[m->open - 1] = m->d, m->kept_span[m->open - 1] = m->span;
        m->d = kept, m->span = span;
    }
}

/* ---- normalisation: docs/derivations/normalization.md ---- */

/* sums[0] (n) += the sum of d, sums[1] += that of d (2 x + d), over some lines. */
NNF_INLINE void FN(add_vectors)(const T *x, const T *d, intptr_t lines, intptr_t n, double *sums, int vectors) {
    V first[2] = {v_set1(0), v_set1(0)}, second[2] = {v_set1(0), v_set1(0)};
    for (intptr_t k = 0; k < lines; k++) {
        const V twice = v_set1(2 * x[k]);
        NNF_UNROLL for (int v = 0; v < vectors; v++) {
            const V change = v_load(d + k * n + v * LANES);
            first[v] = first[v] + change;
            second[v] = second[v] + change * (twice + change);
        }
    }
    T found[2][2 * LANES];
    NNF_UNROLL for (int v = 0; v < vectors; v++) {
        v_store(found[0] + v * LANES, first[v]);
        v_store(found[1] + v * LANES, second[v]);
    }
    for (intptr_t r = 0; r < vectors * LANES; r++)
        sums[r] += (double)found[0][r], sums[n + r] += (double)found[1][r];
}

static void FN(add_sums)(const T *x, const T *d, intptr_t lines, intptr_t n, double *sums) {
    for (intptr_t k = 0, some; k < lines; k += some) {
        some = lines - k < NNF_CHANNEL_SUM ? lines - k : NNF_CHANNEL_SUM;
        intptr_t r = 0;
        for (; r + 2 * LANES <= n; r += 2 * LANES)
            FN(add_vectors)(x + k, d + k * n + r, some, n, sums + r, 2);
        if (r < n) FN(add_vectors)(x + k, d + k * n + r, some, n, sums + r, 1);
    }
}

/* known (3, n): the y of a group changes by w (dx known[0] + known[1] - d known[2]). count: values of the group; at:
 * where its a and its total are. */
static void FN(norm_known)(const nnf_norm *p, double count, intptr_t at, const double *sums, intptr_t n, T *known) {
    const double a = (double)((const T *)p->a)[at], total = p->centred ? (double)((const T *)p->total)[at] : 0;
    for (intptr_t r = 0; r < n; r++) {
        const double mean = p->centred ? sums[r] / count : 0;
        const double grown = (sums[n + r] - mean * (2 * total + sums[r])) / count, square = a * a + grown;
        const double moved = sqrt(square > p->eps ? square : p->eps);
        known[r] = (T)(1 / moved);
        known[n + r] = (T)(-mean / moved);
        known[2 * n + r] = (T)(grown / (a * (a + moved) * moved));
    }
}

NNF_INLINE void FN(norm_vectors)(const T *x, const T *w, const T *d, intptr_t lines, intptr_t n, const T *known, T *to,
                                 int vectors) {
    V scale[2], shift[2], along[2];
    NNF_UNROLL for (int v = 0; v < vectors; v++) {
        scale[v] = v_load(known + v * LANES), shift[v] = v_load(known + n + v * LANES);
        along[v] = v_load(known + 2 * n + v * LANES);
    }
    for (intptr_t k = 0; k < lines; k++) {
        const V at = v_set1(x[k]), weight = v_set1(w ? w[k] : 1);
        NNF_UNROLL for (int v = 0; v < vectors; v++) {
            const intptr_t i = k * n + v * LANES;
            v_store(to + i, weight * (v_load(d + i) * scale[v] + shift[v] - at * along[v]));
        }
    }
}

/* to (lines, n): the change of y in some lines of a group. to may be d. */
static void FN(norm_lines)(const T *x, const T *w, const T *d, intptr_t lines, intptr_t n, const T *known, T *to) {
    intptr_t r = 0;
    for (; r + 2 * LANES <= n; r += 2 * LANES)
        FN(norm_vectors)(x, w, d + r, lines, n, known + r, to + r, 2);
    if (r < n) FN(norm_vectors)(x, w, d + r, lines, n, known + r, to + r, 1);
}

/* The groups of a row, each by itself or as is known of those of the mini-batch. */
static void FN(norm_stage)(const nnf_stage *s, moving_t *m) {
    const nnf_norm *p = s->norm;
    const intptr_t n = m->n, groups = s->width / p->group;
    for (intptr_t g = 0; g < m->span.lines / p->group; g++) {
        const intptr_t first = m->span.first + g * p->group, at = m->row * groups + first / p->group;
        const T *x = (const T *)p->d + m->row * s->width + first, *w = p->weight ? (const T *)p->weight + first : NULL;
        const T *known = m->known;
        T *d = m->d + g * p->group * n;
        if (p->by_batch) {
            known = m->of_batch + 3 * (first / p->group - m->first_group) * n;
        } else {
            memset(m->sums, 0, (size_t)(2 * n) * sizeof(double));
            FN(add_sums)(x, d, p->group, n, m->sums);
            FN(norm_known)(p, (double)p->group, at, m->sums, n, m->known);
        }
        FN(norm_lines)(x, w, d, p->group, n, known, d);
    }
}

/* ---- a stage ---- */

/* Stage i of `above`. width: its inputs. */
static void FN(channel_stage)(const nnf_above *above, intptr_t i, intptr_t width, const packed_t *packed, moving_t *m) {
    const nnf_stage *s = above->stage + i;
    FN(widen)(m, FN(span_read)(s, m->span));
    if (s->branching) {
        FN(branch_stage)(s->branching, m);
    } else if (s->factors) {
        FN(factors_stage)(s, m);
    } else if (s->norm) {
        FN(norm_stage)(s, m);
    } else if (s->pooling || s->convolution || s->weight) {
        if (s->pooling)
            FN(pooling_stage)(s->pooling, packed, m);
        else if (s->convolution)
            FN(convolution_stage)(s->convolution, packed, m);
        else
            FN(columns_stage)(s, width, m);
        m->span = FN(span_after)(s, m->span);
        FN(swap_buffers)(m);
    } else {
        const row_tile_t tile = {above, m->row, m->n, NULL};
        FN(activation_stage)(&tile, i, m->span.first, m->span.lines, m->d);
    }
}

/* How many stages from `from` on, up to `to`, change each channel by itself: those before a pooling, and that one; and
 * of how many entries a channel is. 0 where that is not worth it. */
static intptr_t FN(stages_of_channels)(const nnf_above *above, intptr_t from, intptr_t to, intptr_t *unit) {
    intptr_t i = from;
    *unit = 1;
    for (; i < to; i++) {
        const nnf_stage *s = above->stage + i;
        if (s->convolution || s->weight || s->branching) break;
        const intptr_t own = s->pooling ? FN(area)(s->pooling->in_size) : s->norm ? s->norm->group : 1;
        if (own > *unit) {
            if (own % *unit) break;
            *unit = own;
        } else if (*unit % own) {
            break;
        }
        if (s->pooling) return i + 1 - from;
    }
    return i - from;
}

/* Stages from .. to - 1: where they leave channels to themselves, one channel after another, which stays in the cache.
 */
static void FN(walk)(const nnf_above *above, const packed_t *packed, intptr_t from, intptr_t to, moving_t *m) {
    for (intptr_t i = from, unit, many; i < to; i += many) {
        many = FN(stages_of_channels)(above, i, to, &unit);
        if (many < 2) {
            many = 1;
            FN(channel_stage)(above, i, i ? above->stage[i - 1].width : above->outputs, packed + i, m);
            continue;
        }
        const nnf_stage *last = above->stage + i + many - 1;
        FN(widen)(m, FN(whole_units)(m->span, unit));
        const span_t span = m->span, after = FN(span_after)(last, span);
        const intptr_t channels = span.lines / unit;
        for (intptr_t c = 0; c < channels; c++) {
            moving_t one = *m;
            one.span = (span_t){span.first + c * unit, unit};
            one.d = m->d + c * unit * m->n, one.next = m->next + c * (after.lines / channels) * m->n;
            for (intptr_t k = i; k < i + many; k++)
                FN(channel_stage)(above, k, 0, packed + k, &one);
        }
        m->span = after;
        if (last->pooling) FN(swap_buffers)(m);
    }
}
