/* channels.inc.h - the central-difference gradient of a convolution's weights, weight by weight.
 *
 * Weight (o, c, a, b) moves by +-step: output (o, i, j) of row n moves by +-step times what the tap meets there, in
 * channel o alone. For one channel o and one row n, many weights travel upwards together, as a tile whose lanes are
 * perturbations (propagation.inc.h); its lines are the outputs that may have changed: one channel as far as the next
 * convolution or linear layer, then all. What a weight meets does not depend on o, so that it is gathered once for all
 * channels of a group.
 */

#undef channels_t
#undef channel_buffers_t
#define channels_t        FN(channels_t)
#define channel_buffers_t FN(channel_buffers_t)

typedef struct {
    const nnf_convolution_difference *p;
    const nnf_above *above;
    const entropy_row_t *known;
    T **packed;            /* the weight of each stage that is a convolution, as its tiles read it; else NULL */
    intptr_t entries;      /* weights of one channel, and its bias */
    intptr_t chunks, most; /* of the entries; lines of the largest tile */
    intptr_t lanes;        /* of a tile, at most */
    intptr_t blocks;       /* of the rows */
    intptr_t taps;         /* of the largest convolution above */
    double *sums;          /* (blocks, units, entries) */
    _Atomic int failed;
} channels_t;

typedef struct {
    T *start;         /* (outputs of a channel, n): the changes before the first stage */
    T *d, *next;      /* (most, n) each */
    T *change, *zero; /* n each */
    T *padded;        /* a row of x */
    intptr_t *offset, *meets;
} channel_buffers_t;

NNF_INLINE intptr_t FN(area)(const intptr_t *size) { return size[0] * size[1]; }

/* ---- stages ---- */

/* next (O outputs, n) = the convolution of the channels of which d holds the changes */
static void FN(convolution_stage)(const nnf_convolution *c, const T *packed, intptr_t first, intptr_t lines, intptr_t n,
                                  const channel_buffers_t *buffers) {
    const intptr_t in = FN(area)(c->in_size), out = FN(area)(c->out_size), kernel = FN(area)(c->kernel);
    const intptr_t channels = lines / in, all = c->in_channels * kernel, taps = channels * kernel;
    const intptr_t strips = FN(strips_of)(c->out_channels);
    for (intptr_t at = 0; at < out; at++) {
        intptr_t k = 0;
        for (intptr_t channel = 0; channel < channels; channel++)
            for (intptr_t a = 0; a < c->kernel[0]; a++)
                for (intptr_t b = 0; b < c->kernel[1]; b++) {
                    const intptr_t y = at / c->out_size[1] * c->stride[0] - c->padding[0] + a * c->dilation[0];
                    const intptr_t x = at % c->out_size[1] * c->stride[1] - c->padding[1] + b * c->dilation[1];
                    const int inside = y >= 0 && y < c->in_size[0] && x >= 0 && x < c->in_size[1];
                    buffers->offset[k++] =
                        inside ? (channel * in + y * c->in_size[1] + x) * n : buffers->zero - buffers->d;
                }
        for (intptr_t s = 0, row = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(c->out_channels, strips, s);
            const T *a = packed + row * all + first / in * kernel * height;
            T *to = buffers->next + (row * out + at) * n;
            intptr_t j = 0;
            for (; height <= WIDE_ROWS && j + 4 * LANES <= n; j += 4 * LANES)
                FN(shifted_wide)[height - 1](taps, buffers->offset, a, buffers->d + j, NULL, to + j, out * n);
            for (intptr_t step; j < n; j += step * LANES) {
                step = j + 2 * LANES <= n ? 2 : 1;
                FN(shifted)[step - 1][height - 1](taps, buffers->offset, a, buffers->d + j, NULL, to + j, out * n);
            }
            row += height;
        }
    }
}

/* to (n) = the largest of (x - x_largest) + d, over the window at (i, j); or the mean of d. d and x: of one channel */
static void FN(pool_window)(const nnf_pooling *p, intptr_t i, intptr_t j, const T *x, const int32_t *index, const T *d,
                            T *to, intptr_t n) {
    const window_t w[2] = {FN(window)(p, 0, i), FN(window)(p, 1, j)};
    const V share = v_set1(index ? 0 : (T)(1 / FN(divisor)(p, (intptr_t[2]){i, j}, w)));
    const T base = index ? x[*index] : 0;
    for (intptr_t r = 0; r < n; r += LANES) {
        V found = index ? v_load(d + *index * n + r) : v_set1(0);
        for (intptr_t y = w[0].first; y < w[0].end; y += w[0].step)
            for (intptr_t z = w[1].first; z < w[1].end; z += w[1].step) {
                const intptr_t at = y * p->in_size[1] + z;
                const V v = v_load(d + at * n + r);
                found = index ? v_max(v_set1(x[at] - base) + v, found) : found + v;
            }
        v_store(to + r, index ? found : found * share);
    }
}

static void FN(pooling_stage)(const nnf_pooling *p, intptr_t row, intptr_t first, intptr_t lines, intptr_t n,
                              const channel_buffers_t *buffers) {
    const intptr_t in = FN(area)(p->in_size), out = FN(area)(p->out_size), channel = row * p->planes + first / in;
    for (intptr_t c = 0; c < lines / in; c++)
        for (intptr_t at = 0; at < out; at++)
            FN(pool_window)(p, at / p->out_size[1], at % p->out_size[1],
                            p->index ? (const T *)p->x + (channel + c) * in : NULL,
                            p->index ? p->index + (channel + c) * out + at : NULL, buffers->d + c * in * n,
                            buffers->next + (c * out + at) * n, n);
}

/* next (width, n) = the columns of W (width, inputs) from `first` on @ d (lines, n) */
static void FN(columns_stage)(const nnf_stage *s, intptr_t inputs, intptr_t first, intptr_t lines, intptr_t n,
                              const channel_buffers_t *buffers) {
    const nnf_matmul product = {.batch = 1,
                                .m = s->width,
                                .n = n,
                                .k = lines,
                                .a = (const T *)s->weight + first,
                                .a_row = inputs,
                                .a_col = 1,
                                .b = buffers->d,
                                .b_row = n,
                                .b_col = 1,
                                .c = buffers->next,
                                .c_row = n};
    FN(matmul)(&product);
}

/* From the changes of channel o of a row to those of the loss. */
static void FN(propagate_channel)(const channels_t *plan, channel_buffers_t *buffers, intptr_t row, intptr_t o,
                                  intptr_t n) {
    const nnf_above *above = plan->above;
    const row_tile_t tile = {above, row, n, plan->known + row};
    const intptr_t out = FN(area)(plan->p->layer->out_size);
    intptr_t width = above->outputs, first = o * out, lines = out;
    memcpy(buffers->d, buffers->start, (size_t)(out * n) * sizeof(T));
    for (intptr_t i = 0; i < above->stages; i++) {
        const nnf_stage *s = above->stage + i;
        if (s->pooling) {
            const intptr_t in = FN(area)(s->pooling->in_size), pooled = FN(area)(s->pooling->out_size);
            FN(pooling_stage)(s->pooling, row, first, lines, n, buffers);
            first = first / in * pooled, lines = lines / in * pooled;
        } else if (s->convolution) {
            FN(convolution_stage)(s->convolution, plan->packed[i], first, lines, n, buffers);
            first = 0, lines = s->width;
        } else if (s->weight) {
            FN(columns_stage)(s, width, first, lines, n, buffers);
            first = 0, lines = s->width;
        } else {
            FN(activation_stage)(&tile, i, first, lines, buffers->d);
            continue;
        }
        T *const swap = buffers->d;
        buffers->d = buffers->next, buffers->next = swap;
        width = s->width;
    }
    FN(loss_change)(&tile, first, lines, width, buffers->d, buffers->change);
}

/* ---- what the weights meet ---- */

/* Row `row` of the channels of a group, with its padding; and where entries begin .. begin + count - 1 begin in it. */
static void FN(pad_row)(const nnf_convolution *c, intptr_t row, intptr_t group, T *to) {
    const T *x = (const T *)c->x + (row * c->groups + group) * c->in_channels * FN(area)(c->in_size);
    intptr_t size[2];
    for (int e = 0; e < 2; e++)
        size[e] = (c->out_size[e] - 1) * c->stride[e] + (c->kernel[e] - 1) * c->dilation[e] + 1;
    for (intptr_t channel = 0; channel < c->in_channels; channel++, x += FN(area)(c->in_size))
        for (intptr_t i = 0; i < size[0]; i++)
            for (intptr_t j = 0; j < size[1]; j++) {
                const intptr_t y = i - c->padding[0], z = j - c->padding[1];
                const int inside = y >= 0 && y < c->in_size[0] && z >= 0 && z < c->in_size[1];
                *to++ = inside ? x[y * c->in_size[1] + z] : 0;
            }
}

static intptr_t FN(padded_size)(const nnf_convolution *c, intptr_t *width) {
    *width = (c->out_size[1] - 1) * c->stride[1] + (c->kernel[1] - 1) * c->dilation[1] + 1;
    return ((c->out_size[0] - 1) * c->stride[0] + (c->kernel[0] - 1) * c->dilation[0] + 1) * *width;
}

/* start: +step times what each entry meets in lanes 0 .. count - 1, its negative in as many more, then 0. */
static void FN(gather_start)(const channels_t *plan, channel_buffers_t *buffers, intptr_t row, intptr_t group,
                             intptr_t begin, intptr_t count, intptr_t n) {
    const nnf_convolution *c = plan->p->layer;
    const T step = (T)plan->p->step;
    const intptr_t kernel = FN(area)(c->kernel), weights = c->in_channels * kernel;
    intptr_t width;
    const intptr_t plane = FN(padded_size)(c, &width);
    FN(pad_row)(c, row, group, buffers->padded);
    for (intptr_t e = 0; e < count; e++) {
        const intptr_t entry = begin + e, tap = entry % kernel;
        if (entry < weights)
            buffers->meets[e] = entry / kernel * plane + tap / c->kernel[1] * c->dilation[0] * width +
                                tap % c->kernel[1] * c->dilation[1];
    }
    const intptr_t met = begin + count > weights ? weights - begin : count; /* the last one is the bias */
    for (intptr_t i = 0; i < c->out_size[0]; i++)
        for (intptr_t j = 0; j < c->out_size[1]; j++) {
            T *to = buffers->start + (i * c->out_size[1] + j) * n;
            const T *x = buffers->padded + i * c->stride[0] * width + j * c->stride[1];
            for (intptr_t e = 0; e < met; e++)
                to[e] = step * x[buffers->meets[e]];
            for (intptr_t e = met; e < count; e++)
                to[e] = step;
            for (intptr_t e = 0; e < count; e++)
                to[count + e] = -to[e];
            for (intptr_t e = 2 * count; e < n; e++)
                to[e] = 0;
        }
}

/* ---- tasks ---- */

static int FN(channel_room)(const channels_t *plan, channel_buffers_t *buffers) {
    const nnf_convolution *c = plan->p->layer;
    const size_t n = (size_t)plan->lanes, out = (size_t)FN(area)(c->out_size);
    intptr_t width;
    const size_t row = (size_t)(c->in_channels * FN(padded_size)(c, &width));
    T *memory = malloc((n * (out + 2 * (size_t)plan->most + 2) + row) * sizeof(T));
    intptr_t *numbers = malloc(((size_t)plan->taps + n + 1) * sizeof *numbers);
    if (!memory || !numbers) {
        free(memory);
        free(numbers);
        return 0;
    }
    *buffers = (channel_buffers_t){memory,
                                   memory + n * out,
                                   memory + n * (out + (size_t)plan->most),
                                   memory + n * (out + 2 * (size_t)plan->most),
                                   memory + n * (out + 2 * (size_t)plan->most + 1),
                                   memory + n * (out + 2 * (size_t)plan->most + 2),
                                   numbers,
                                   numbers + plan->taps};
    memset(buffers->zero, 0, n * sizeof(T));
    return 1;
}

/* A task: a block of rows and a chunk of the entries, all channels that are selected. */
static void FN(channels_task)(void *context, intptr_t task) {
    channels_t *plan = context;
    const nnf_convolution *c = plan->p->layer;
    const intptr_t block = task / plan->chunks, chunk = task % plan->chunks, rows = plan->above->rows;
    const intptr_t begin = plan->entries * chunk / plan->chunks;
    const intptr_t count = plan->entries * (chunk + 1) / plan->chunks - begin;
    const intptr_t n = (2 * count + LANES - 1) / LANES * LANES;
    channel_buffers_t buffers;
    if (!FN(channel_room)(plan, &buffers)) {
        plan->failed = 1;
        return;
    }
    T *const memory = buffers.start;
    for (intptr_t row = rows * block / plan->blocks; row < rows * (block + 1) / plan->blocks; row++) {
        if (nnf_should_stop()) break;
        for (intptr_t u = 0, group = -1; u < plan->above->units; u++) {
            const intptr_t o = plan->above->first + u;
            if (o / c->out_channels != group)
                FN(gather_start)(plan, &buffers, row, group = o / c->out_channels, begin, count, n);
            FN(propagate_channel)(plan, &buffers, row, o, n);
            double *sum = plan->sums + (block * plan->above->units + u) * plan->entries + begin;
            for (intptr_t e = 0; e < count; e++)
                sum[e] += (double)buffers.change[e] - (double)buffers.change[count + e];
        }
    }
    free(memory);
    free(buffers.offset);
}

/* ---- the plan ---- */

static void FN(size_channels)(channels_t *plan) {
    const nnf_convolution *c = plan->p->layer;
    intptr_t lines = FN(area)(c->out_size);
    plan->entries = c->in_channels * FN(area)(c->kernel) + (plan->p->grad_bias != NULL);
    plan->most = lines;
    for (intptr_t i = 0; i < plan->above->stages; i++) {
        const nnf_stage *s = plan->above->stage + i;
        if (s->pooling)
            lines = lines / FN(area)(s->pooling->in_size) * FN(area)(s->pooling->out_size);
        else if (s->convolution || s->weight)
            lines = s->width;
        if (lines > plan->most) plan->most = lines;
        if (s->convolution) {
            const intptr_t taps = s->convolution->in_channels * FN(area)(s->convolution->kernel);
            if (taps > plan->taps) plan->taps = taps;
        }
    }
    intptr_t lanes = NNF_CHANNEL_BYTES / (intptr_t)sizeof(T) / plan->most / LANES * LANES;
    lanes = lanes < 4 * LANES ? 4 * LANES : lanes > 2 * NNF_MOST_HALF ? 2 * NNF_MOST_HALF : lanes;
    plan->chunks = (2 * plan->entries + lanes - 1) / lanes;
    plan->lanes = (2 * ((plan->entries + plan->chunks - 1) / plan->chunks) + LANES - 1) / LANES * LANES;
    plan->blocks = (plan->above->rows + NNF_CHANNEL_ROWS - 1) / NNF_CHANNEL_ROWS;
    if (plan->blocks > NNF_CHANNEL_BLOCKS) plan->blocks = NNF_CHANNEL_BLOCKS;
}

/* The weights of convolutions above, in strips of rows. 0 where there is no room. */
static int FN(pack_stages)(const channels_t *plan) {
    for (intptr_t i = 0; i < plan->above->stages; i++) {
        const nnf_convolution *c = plan->above->stage[i].convolution;
        if (!c) continue;
        const intptr_t taps = c->in_channels * FN(area)(c->kernel), strips = FN(strips_of)(c->out_channels);
        T *to = plan->packed[i] = malloc((size_t)(c->out_channels * taps) * sizeof(T));
        if (!to) return 0;
        for (intptr_t s = 0, row = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(c->out_channels, strips, s);
            for (intptr_t k = 0; k < taps; k++)
                for (intptr_t r = 0; r < height; r++)
                    *to++ = ((const T *)c->weight)[(row + r) * taps + k];
            row += height;
        }
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

static int FN(convolution_difference)(const nnf_convolution_difference *p, int (*poll)(void)) {
    channels_t plan = {.p = p, .above = &p->above};
    if (p->above.units == 0) return 0;
    FN(size_channels)(&plan);
    plan.packed = calloc((size_t)p->above.stages + 1, sizeof *plan.packed);
    plan.sums = calloc((size_t)(plan.blocks * p->above.units * plan.entries) + 1, sizeof(double));
    entropy_row_t *known = FN(entropy_rows)(plan.above, p->above.rows);
    int answer = NNF_NO_MEMORY;
    if (plan.packed && plan.sums && known && FN(pack_stages)(&plan)) {
        plan.known = known;
        answer = nnf_parallel_polled(plan.blocks * plan.chunks, FN(channels_task), &plan, poll);
        if (plan.failed && !answer) answer = NNF_NO_MEMORY;
        if (!answer) FN(write_channels)(&plan);
    }
    for (intptr_t i = 0; plan.packed && i < p->above.stages; i++)
        free(plan.packed[i]);
    free(plan.packed);
    free(plan.sums);
    free(known);
    return answer;
}
