/* channels.inc.h - the central-difference gradient of a convolution's weights, weight by weight.
 *
 * Weight (o, c, a, b) moves by +-step: output (o, i, j) of row n moves by +-step times what the tap meets there, in
 * channel o alone. For one channel o and one row n, many weights travel upwards together, as a tile whose lanes are
 * perturbations (channel_stages.inc.h); its lines are the outputs that may have changed: one channel as far as the
 * next convolution or linear layer, then all.
 *
 * Normalisation over the mini-batch couples rows: how it changes a row is known once all rows have reached it. So the
 * way up is cut there into segments. Each is walked for all rows, which adds up the sums of the normalisation that ends
 * it; what a row has become is stored for the next one. Where a segment ends with a convolution that makes much of
 * little (all channels of one), what it is given is stored instead and the convolution computed again: that is cheaper
 * than memory. What the first segment is given is not stored, if it is all there is: it is gathered again.
 */

#undef segment_t
#undef channels_t
#undef channel_buffers_t
#define segment_t         FN(segment_t)
#define channels_t        FN(channels_t)
#define channel_buffers_t FN(channel_buffers_t)

/* Stages begin .. end - 1, below a normalisation over the mini-batch or the loss. */
typedef struct {
    intptr_t begin, end;
    intptr_t keep;  /* what a row is before this stage is stored; -1: nothing is */
    intptr_t lines; /* that are stored of a row, at most */
} segment_t;

typedef struct {
    const nnf_convolution_difference *p;
    const nnf_above *above;
    const entropy_row_t *known;
    segment_t *segment;
    intptr_t segments;
    packed_t *packed;      /* of each stage that is a convolution or pooling */
    T *padded;             /* x, with its padding */
    intptr_t entries;      /* weights of one channel, and its bias */
    intptr_t chunks, most; /* of the entries; lines of the largest tile */
    intptr_t lanes;        /* of a tile, at most */
    intptr_t blocks;       /* of the rows */
    intptr_t groups;       /* of a normalisation over the mini-batch, at most */
    intptr_t stored[2];    /* lines of a row, of segments in turn */
    int open;              /* branches that are kept at once, at most */
    double *sums;          /* (blocks, units, entries) */
    _Atomic int failed;
} channels_t;

typedef struct {
    T *start;     /* (outputs of a channel, n): the changes before the first stage */
    T *change;    /* n */
    T *stored[2]; /* (rows, lines, n) */
    double *sums; /* (groups, 2, n), of a normalisation over the mini-batch, */
    T *known;     /* (groups, 3, n), and what it makes of them */
    T *tile[2 + NNF_MOST_OPEN];
    intptr_t *meets;
    double *row_sums; /* for a row by itself */
    T *row_known;
    moving_t at_stored[2]; /* spans of what is stored */
} channel_buffers_t;

/* ---- what the weights meet ---- */

static intptr_t FN(padded_size)(const nnf_convolution *c, intptr_t *width) {
    *width = (c->out_size[1] - 1) * c->stride[1] + (c->kernel[1] - 1) * c->dilation[1] + 1;
    return ((c->out_size[0] - 1) * c->stride[0] + (c->kernel[0] - 1) * c->dilation[0] + 1) * *width;
}

/* All channels of all rows of x, each with as much padding as the taps meet. */
static void FN(pad_planes)(const nnf_convolution *c, T *to) {
    intptr_t width;
    const intptr_t height = FN(padded_size)(c, &width) / width, planes = c->images * c->groups * c->in_channels;
    const T *x = c->x;
    for (intptr_t plane = 0; plane < planes; plane++, x += FN(area)(c->in_size))
        for (intptr_t i = 0; i < height; i++)
            for (intptr_t j = 0; j < width; j++) {
                const intptr_t y = i - c->padding[0], z = j - c->padding[1];
                const int inside = y >= 0 && y < c->in_size[0] && z >= 0 && z < c->in_size[1];
                *to++ = inside ? x[y * c->in_size[1] + z] : 0;
            }
}

/* Where entries begin .. begin + count - 1 begin in the padded channels of a group. */
static void FN(find_taps)(const nnf_convolution *c, intptr_t begin, intptr_t count, intptr_t *meets) {
    const intptr_t kernel = FN(area)(c->kernel);
    intptr_t width;
    const intptr_t plane = FN(padded_size)(c, &width);
    for (intptr_t e = 0; e < count; e++) {
        const intptr_t tap = (begin + e) % kernel;
        meets[e] = (begin + e) / kernel * plane + tap / c->kernel[1] * c->dilation[0] * width +
                   tap % c->kernel[1] * c->dilation[1];
    }
}

/* to: +step times what each entry meets in lanes 0 .. count - 1, its negative in as many more, then 0. */
static void FN(gather_start)(const channels_t *plan, const intptr_t *meets, intptr_t row, intptr_t group,
                             intptr_t begin, intptr_t count, intptr_t n, T *to) {
    const nnf_convolution *c = plan->p->layer;
    const T step = (T)plan->p->step;
    const intptr_t weights = c->in_channels * FN(area)(c->kernel);
    intptr_t width;
    const intptr_t plane = FN(padded_size)(c, &width);
    const T *padded = plan->padded + (row * c->groups + group) * c->in_channels * plane;
    const intptr_t met = begin + count > weights ? weights - begin : count; /* the last one is the bias */
    for (intptr_t i = 0; i < c->out_size[0]; i++)
        for (intptr_t j = 0; j < c->out_size[1]; j++, to += n) {
            const T *x = padded + i * c->stride[0] * width + j * c->stride[1];
            for (intptr_t e = 0; e < met; e++)
                to[e] = step * x[meets[e]];
            for (intptr_t e = met; e < count; e++)
                to[e] = step;
            for (intptr_t e = 0; e < count; e++)
                to[count + e] = -to[e];
            for (intptr_t e = 2 * count; e < n; e++)
                to[e] = 0;
        }
}

/* ---- a row on its way ---- */

static void FN(begin_row)(const channels_t *plan, const channel_buffers_t *buffers, intptr_t row, intptr_t o,
                          intptr_t n, moving_t *m) {
    const intptr_t out = FN(area)(plan->p->layer->out_size);
    *m = (moving_t){.row = row,
                    .n = n,
                    .d = buffers->tile[0],
                    .next = buffers->tile[1],
                    .span = {o * out, out},
                    .sums = buffers->row_sums,
                    .known = buffers->row_known};
    memcpy(m->kept, buffers->tile + 2, sizeof m->kept);
}

/* sum[e] += the change of the loss by +step less that by -step. */
static void FN(add_losses)(const channels_t *plan, const moving_t *m, intptr_t count, T *change, double *sum) {
    const nnf_above *above = plan->above;
    const row_tile_t tile = {above, m->row, m->n, plan->known + m->row};
    FN(loss_change)(&tile, m->span.first, m->span.lines, FN(last_width)(above), m->d, change);
    for (intptr_t e = 0; e < count; e++)
        sum[e] += (double)change[e] - (double)change[count + e];
}

/* ---- rows together ---- */

static void FN(store_row)(const channels_t *plan, channel_buffers_t *buffers, intptr_t segment, const moving_t *m) {
    T *to = buffers->stored[segment % 2] + m->row * plan->stored[segment % 2] * m->n;
    memcpy(to, m->d, (size_t)(m->span.lines * m->n) * sizeof(T));
    to += m->span.lines * m->n;
    for (int k = 0; k < m->open; k++) {
        memcpy(to, m->kept[k], (size_t)(m->kept_span[k].lines * m->n) * sizeof(T));
        to += m->kept_span[k].lines * m->n;
    }
    buffers->at_stored[segment % 2] = *m;
}

static void FN(load_row)(const channels_t *plan, const channel_buffers_t *buffers, intptr_t segment, moving_t *m) {
    const moving_t *at = &buffers->at_stored[segment % 2];
    const T *from = buffers->stored[segment % 2] + m->row * plan->stored[segment % 2] * m->n;
    m->span = at->span, m->open = at->open;
    memcpy(m->kept_span, at->kept_span, sizeof m->kept_span);
    memcpy(m->d, from, (size_t)(m->span.lines * m->n) * sizeof(T));
    from += m->span.lines * m->n;
    for (int k = 0; k < m->open; k++) {
        memcpy(m->kept[k], from, (size_t)(m->kept_span[k].lines * m->n) * sizeof(T));
        from += m->kept_span[k].lines * m->n;
    }
}

/* Of the groups of a normalisation over the mini-batch that have changed: add up a row's part of their sums. */
static void FN(add_row)(const nnf_stage *s, const channel_buffers_t *buffers, const moving_t *m) {
    const intptr_t group = s->norm->group, n = m->n;
    const T *x = (const T *)s->norm->d + m->row * s->width + m->span.first;
    for (intptr_t g = 0; g < m->span.lines / group; g++)
        FN(add_sums)(x + g * group, m->d + g * group * n, group, n, buffers->sums + 2 * g * n);
}

static void FN(know_groups)(const channels_t *plan, const nnf_stage *s, const channel_buffers_t *buffers,
                            const moving_t *m) {
    const nnf_norm *p = s->norm;
    const intptr_t first = m->span.first / p->group, n = m->n;
    for (intptr_t g = 0; g < m->span.lines / p->group; g++)
        FN(norm_known)(p, (double)(p->group * plan->above->rows), first + g, buffers->sums + 2 * g * n, n,
                       buffers->known + 3 * g * n);
}

/* Bring row m->row as far as segment i begins: past the normalisation that ends the one before. */
static void FN(enter_segment)(const channels_t *plan, const channel_buffers_t *buffers, intptr_t i, intptr_t group,
                              intptr_t begin, intptr_t count, moving_t *m) {
    const segment_t *before = plan->segment + i - 1;
    const int again = i > 0 && before->keep >= 0;
    if (again)
        FN(load_row)(plan, buffers, i - 1, m);
    else
        FN(gather_start)(plan, buffers->meets, m->row, group, begin, count, m->n, m->d);
    if (i == 0) return;
    const intptr_t end = before->end;
    FN(walk)(plan->above, plan->packed, again ? before->keep : before->begin, end, m);
    FN(widen)(m, FN(span_read)(plan->above->stage + end, m->span));
    m->of_batch = buffers->known, m->first_group = m->span.first / plan->above->stage[end].norm->group;
}

/* The changes of entries begin .. begin + count - 1 of channel o: sum (count) += the differences of the loss. */
static void FN(all_rows)(const channels_t *plan, channel_buffers_t *buffers, intptr_t o, intptr_t begin, intptr_t count,
                         intptr_t n, double *sum) {
    const nnf_above *above = plan->above;
    const intptr_t group = o / plan->p->layer->out_channels;
    for (intptr_t i = 0; i < plan->segments; i++) {
        const segment_t *at = plan->segment + i;
        const nnf_stage *norm = above->stage + at->end;
        moving_t m = {0};
        memset(buffers->sums, 0, (size_t)(2 * plan->groups * n) * sizeof(double));
        for (intptr_t row = 0; row < above->rows; row++) {
            if (nnf_should_stop()) return;
            FN(begin_row)(plan, buffers, row, o, n, &m);
            FN(enter_segment)(plan, buffers, i, group, begin, count, &m);
            intptr_t from = i > 0 ? at->begin - 1 : 0; /* the normalisation */
            if (at->keep >= 0) {
                FN(walk)(above, plan->packed, from, at->keep, &m);
                FN(store_row)(plan, buffers, i, &m);
                from = at->keep;
            }
            FN(walk)(above, plan->packed, from, at->end, &m);
            if (i + 1 == plan->segments) {
                FN(add_losses)(plan, &m, count, buffers->change, sum);
            } else {
                FN(widen)(&m, FN(span_read)(norm, m.span));
                FN(add_row)(norm, buffers, &m);
            }
        }
        if (i + 1 < plan->segments) FN(know_groups)(plan, norm, buffers, &m);
    }
}

/* ---- tasks ---- */

/* The next `count` numbers of a task's memory, where there is any yet. */
static T *FN(cut_off)(T *memory, intptr_t *at, intptr_t count) {
    T *const found = memory ? memory + *at : NULL;
    *at += (count + LANES_OF_CHANNELS - 1) / LANES_OF_CHANNELS * LANES_OF_CHANNELS;
    return found;
}

/* Lay out what a task needs from `memory` on; returns how many numbers that is. */
static intptr_t FN(lay_out)(const channels_t *plan, channel_buffers_t *buffers, T *memory) {
    const intptr_t n = plan->lanes, rows = plan->above->rows;
    intptr_t at = 0;
    buffers->start = FN(cut_off)(memory, &at, plan->segments > 1 ? 0 : n * FN(area)(plan->p->layer->out_size));
    buffers->change = FN(cut_off)(memory, &at, n);
    for (int k = 0; k < 2; k++)
        buffers->stored[k] = FN(cut_off)(memory, &at, rows * plan->stored[k] * n);
    for (int k = 0; k < 2 + plan->open; k++)
        buffers->tile[k] = FN(cut_off)(memory, &at, plan->most * n);
    buffers->known = FN(cut_off)(memory, &at, 3 * plan->groups * n);
    buffers->row_known = FN(cut_off)(memory, &at, 3 * n);
    return at;
}

static int FN(channel_room)(const channels_t *plan, channel_buffers_t *buffers, void **memory, size_t *bytes) {
    memset(buffers, 0, sizeof *buffers);
    *bytes = (size_t)FN(lay_out)(plan, buffers, NULL) * sizeof(T) + 64; /* and room to align it */
    *memory = nnf_take(bytes);
    buffers->meets = malloc((size_t)(plan->lanes + 1) * sizeof(intptr_t));
    buffers->sums = malloc((size_t)(2 * (plan->groups + 1) * plan->lanes) * sizeof(double));
    if (!*memory || !buffers->meets || !buffers->sums) return 0;
    FN(lay_out)(plan, buffers, (T *)(((uintptr_t)*memory + 63) & ~(uintptr_t)63));
    buffers->row_sums = buffers->sums + 2 * plan->groups * plan->lanes;
    return 1;
}

/* A block of rows and a chunk of the entries, all channels that are selected. */
static void FN(block_of_rows)(const channels_t *plan, channel_buffers_t *buffers, intptr_t block, intptr_t begin,
                              intptr_t count, intptr_t n) {
    const nnf_convolution *c = plan->p->layer;
    const intptr_t rows = plan->above->rows, units = plan->above->units, out = FN(area)(c->out_size);
    for (intptr_t row = rows * block / plan->blocks; row < rows * (block + 1) / plan->blocks; row++) {
        if (nnf_should_stop()) return;
        for (intptr_t u = 0, group = -1; u < units; u++) {
            const intptr_t o = plan->above->first + u;
            moving_t m;
            if (o / c->out_channels != group)
                FN(gather_start)(plan, buffers->meets, row, group = o / c->out_channels, begin, count, n,
                                 buffers->start);
            FN(begin_row)(plan, buffers, row, o, n, &m);
            memcpy(m.d, buffers->start, (size_t)(out * n) * sizeof(T));
            FN(walk)(plan->above, plan->packed, 0, plan->above->stages, &m);
            FN(add_losses)(plan, &m, count, buffers->change, plan->sums + (block * units + u) * plan->entries + begin);
        }
    }
}

/* A chunk of the entries, with a block of rows, or all rows of a channel. */
static void FN(channels_task)(void *context, intptr_t task) {
    channels_t *plan = context;
    const intptr_t part = task / plan->chunks, chunk = task % plan->chunks;
    const intptr_t begin = plan->entries * chunk / plan->chunks;
    const intptr_t count = plan->entries * (chunk + 1) / plan->chunks - begin;
    const intptr_t n = (2 * count + LANES_OF_CHANNELS - 1) / LANES_OF_CHANNELS * LANES_OF_CHANNELS;
    channel_buffers_t buffers;
    void *memory;
    size_t bytes;
    if (!FN(channel_room)(plan, &buffers, &memory, &bytes)) {
        plan->failed = 1;
    } else {
        FN(find_taps)(plan->p->layer, begin, count, buffers.meets);
        if (plan->segments > 1)
            FN(all_rows)(plan, &buffers, plan->above->first + part, begin, count, n,
                         plan->sums + part * plan->entries + begin);
        else
            FN(block_of_rows)(plan, &buffers, part, begin, count, n);
    }
    nnf_give(memory, bytes);
    free(buffers.meets);
    free(buffers.sums);
}

/* ---- the plan ---- */

/* Where the way is cut, and which convolutions are computed again. */
static int FN(cut_segments)(channels_t *plan) {
    const nnf_above *above = plan->above;
    plan->segment = calloc((size_t)above->stages + 1, sizeof *plan->segment);
    if (!plan->segment) return 0;
    for (intptr_t i = 0, begin = 0; i <= above->stages; i++) {
        const nnf_norm *norm = i < above->stages ? above->stage[i].norm : NULL;
        if (i < above->stages && !(norm && norm->by_batch)) continue;
        const intptr_t keep = i == above->stages || i == 0 ? -1 : i;
        plan->segment[plan->segments++] = (segment_t){.begin = begin, .end = i, .keep = keep};
        begin = i + 1;
    }
    return 1;
}

static void FN(at_least)(intptr_t *most, intptr_t found) { *most = found > *most ? found : *most; }

/* Of the changes of channel o: how many lines they have at most, at each place where they are kept. */
static void FN(size_of_channel)(channels_t *plan, intptr_t o) {
    const intptr_t out = FN(area)(plan->p->layer->out_size);
    span_t span = {o * out, out}, kept[NNF_MOST_OPEN];
    int open = 0;
    for (intptr_t s = 0; s < plan->segments; s++) {
        segment_t *at = plan->segment + s;
        FN(at_least)(&plan->most, span.lines);
        for (intptr_t i = at->begin; i <= at->end && i < plan->above->stages; i++) {
            const nnf_stage *stage = plan->above->stage + i;
            const span_t before = FN(span_read)(stage, span);
            FN(at_least)(&plan->most, before.lines);
            if (stage->branching == NNF_FORK) kept[open++] = span;
            if (stage->branching == NNF_JOIN) span = FN(joined_span)(span, kept[--open]);
            if (stage->branching == NNF_OTHER) {
                const span_t swap = span;
                span = kept[open - 1], kept[open - 1] = swap;
            }
            if (open > plan->open) plan->open = open;
            const span_t after = FN(span_after)(stage, span);
            if (at->keep == i + 1 && i + 1 == at->end && stage->convolution &&
                after.lines >= NNF_CHANNEL_AGAIN * before.lines)
                at->keep = i;
            if (at->keep == i) {
                intptr_t lines = span.lines;
                for (int k = 0; k < open; k++)
                    lines += kept[k].lines;
                FN(at_least)(&at->lines, lines);
            }
            span = after;
            FN(at_least)(&plan->most, span.lines);
            if (i == at->end) FN(at_least)(&plan->groups, span.lines / stage->norm->group);
        }
    }
}

static void FN(size_channels)(channels_t *plan) {
    const nnf_convolution *c = plan->p->layer;
    const intptr_t most_lanes = 2 * NNF_MOST_HALF;
    plan->entries = c->in_channels * FN(area)(c->kernel) + (plan->p->grad_bias != NULL);
    for (intptr_t u = 0; u < plan->above->units; u++)
        FN(size_of_channel)(plan, plan->above->first + u);
    for (intptr_t s = 0; s < plan->segments; s++)
        if (plan->segment[s].keep >= 0) FN(at_least)(&plan->stored[s % 2], plan->segment[s].lines);
    intptr_t lanes = NNF_CHANNEL_BYTES / (intptr_t)sizeof(T) / plan->most / LANES_OF_CHANNELS * LANES_OF_CHANNELS;
    if (plan->segments > 1) lanes = 0;
    lanes = lanes < 2 * LANES_OF_CHANNELS ? 2 * LANES_OF_CHANNELS : lanes > most_lanes ? most_lanes : lanes;
    plan->chunks = (2 * plan->entries + lanes - 1) / lanes;
    plan->lanes = 2 * ((plan->entries + plan->chunks - 1) / plan->chunks);
    plan->lanes = (plan->lanes + LANES_OF_CHANNELS - 1) / LANES_OF_CHANNELS * LANES_OF_CHANNELS;
    plan->blocks = (plan->above->rows + NNF_CHANNEL_ROWS - 1) / NNF_CHANNEL_ROWS;
    if (plan->blocks > NNF_CHANNEL_BLOCKS) plan->blocks = NNF_CHANNEL_BLOCKS;
    if (plan->segments > 1) plan->blocks = 1;
}

/* The entries of each window, and by how much to multiply their sum. 0 where there is no room. */
static int FN(pack_pooling)(const nnf_pooling *p, packed_t *to) {
    const intptr_t out = FN(area)(p->out_size);
    to->weight = malloc((size_t)out * sizeof(T));
    to->start = malloc((size_t)(out + 1 + out * FN(area)(p->kernel)) * sizeof(intptr_t));
    if (!to->weight || !to->start) return 0;
    to->line = to->start + out + 1;
    intptr_t k = 0;
    for (intptr_t at = 0; at < out; at++) {
        const intptr_t i = at / p->out_size[1], j = at % p->out_size[1];
        const window_t w[2] = {FN(window)(p, 0, i), FN(window)(p, 1, j)};
        to->weight[at] = p->index ? 1 : (T)(1 / FN(divisor)(p, (intptr_t[2]){i, j}, w));
        to->start[at] = k;
        for (intptr_t y = w[0].first; y < w[0].end; y += w[0].step)
            for (intptr_t z = w[1].first; z < w[1].end; z += w[1].step)
                to->line[k++] = y * p->in_size[1] + z;
    }
    to->start[out] = k;
    return 1;
}

/* The taps of each output, and the weight in strips of rows. 0 where there is no room. */
static int FN(pack_convolution)(const nnf_convolution *c, packed_t *to) {
    const intptr_t kernel = FN(area)(c->kernel), out = FN(area)(c->out_size), all = c->in_channels * kernel;
    const intptr_t strips = FN(strips_of)(c->out_channels);
    T *w = to->weight = malloc((size_t)(c->groups * c->out_channels * all) * sizeof(T));
    to->start = malloc((size_t)(out + 1 + 2 * out * kernel) * sizeof(intptr_t));
    if (!to->weight || !to->start) return 0;
    to->tap = to->start + out + 1, to->line = to->tap + out * kernel;
    intptr_t k = 0;
    for (intptr_t at = 0; at < out; at++) {
        to->start[at] = k;
        for (intptr_t tap = 0; tap < kernel; tap++) {
            const intptr_t y = at / c->out_size[1] * c->stride[0] - c->padding[0] + tap / c->kernel[1] * c->dilation[0];
            const intptr_t x = at % c->out_size[1] * c->stride[1] - c->padding[1] + tap % c->kernel[1] * c->dilation[1];
            if (y < 0 || y >= c->in_size[0] || x < 0 || x >= c->in_size[1]) continue;
            to->tap[k] = tap, to->line[k++] = y * c->in_size[1] + x;
        }
    }
    to->start[out] = k;
    for (intptr_t group = 0; group < c->groups; group++)
        for (intptr_t s = 0, row = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(c->out_channels, strips, s);
            const T *from = (const T *)c->weight + (group * c->out_channels + row) * all;
            for (intptr_t i = 0; i < all; i++)
                for (intptr_t r = 0; r < height; r++)
                    *w++ = from[r * all + i];
            row += height;
        }
    return 1;
}

static int FN(pack_stages)(const channels_t *plan) {
    for (intptr_t i = 0; i < plan->above->stages; i++) {
        const nnf_stage *s = plan->above->stage + i;
        if (s->convolution && !FN(pack_convolution)(s->convolution, plan->packed + i)) return 0;
        if (s->pooling && !FN(pack_pooling)(s->pooling, plan->packed + i)) return 0;
    }
    return 1;
}

static void FN(write_channels)(const channels_t *plan) {
    const nnf_convolution_difference *p = plan->p;
    const intptr_t weights = plan->entries - (p->grad_bias != NULL), units = plan->above->units;
    const double factor = p->scale / (2 * p->step);
    for (intptr_t u = 0; u < units; u++)
        for (intptr_t e = 0; e < plan->entries; e++) {
            double sum = 0;
            for (intptr_t block = 0; block < plan->blocks; block++)
                sum += plan->sums[(block * units + u) * plan->entries + e];
            if (e < weights)
                ((T *)p->grad_weight)[(plan->above->first + u) * weights + e] = (T)(sum * factor);
            else
                ((T *)p->grad_bias)[plan->above->first + u] = (T)(sum * factor);
        }
}

/* 0 where there is no room. */
static int FN(plan_channels)(channels_t *plan, entropy_row_t **known) {
    const nnf_convolution *c = plan->p->layer;
    intptr_t width;
    const intptr_t padded = c->images * c->groups * c->in_channels * FN(padded_size)(c, &width);
    if (!FN(cut_segments)(plan)) return 0;
    FN(size_channels)(plan);
    plan->packed = calloc((size_t)plan->above->stages + 1, sizeof *plan->packed);
    plan->sums = calloc((size_t)(plan->blocks * plan->above->units * plan->entries) + 1, sizeof(double));
    plan->padded = malloc((size_t)(padded + 1) * sizeof(T));
    plan->known = *known = FN(entropy_rows)(plan->above, plan->above->rows);
    if (!plan->packed || !plan->sums || !plan->padded || !plan->known || !FN(pack_stages)(plan)) return 0;
    FN(pad_planes)(c, plan->padded);
    return 1;
}

static int FN(convolution_difference)(const nnf_convolution_difference *p, int (*poll)(void)) {
    channels_t plan = {.p = p, .above = &p->above, .most = 1};
    entropy_row_t *known = NULL;
    int answer = NNF_NO_MEMORY;
    if (p->above.units == 0) return 0;
    if (FN(plan_channels)(&plan, &known)) {
        const intptr_t parts = plan.segments > 1 ? p->above.units : plan.blocks;
        answer = nnf_parallel_polled(parts * plan.chunks, FN(channels_task), &plan, poll);
        if (plan.failed && !answer) answer = NNF_NO_MEMORY;
        if (!answer) FN(write_channels)(&plan);
    }
    for (intptr_t i = 0; plan.packed && i < p->above.stages; i++) {
        free(plan.packed[i].weight);
        free(plan.packed[i].start);
    }
    free(plan.packed);
    free(plan.segment);
    free(plan.sums);
    free(plan.padded);
    free(known);
    return answer;
}
