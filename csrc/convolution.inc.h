/* convolution.inc.h - convolutions without a matrix of patches.
 *
 * A few images at a time are copied into scratch, with their padding. Along one axis, with stride s and dilation d,
 * output i meets tap a at i s + a d - padding: with a d = q s + f that is entry i + q of the plane that holds every
 * s-th entry from f - padding on. So with one plane for each such f (a phase) what a tap sees is a shifted view of a
 * plane, contiguous in memory, and a row of the matrix of patches never has to be written. Outputs are computed in
 * columns, for all rows of a plane one after another; those in the gap between two rows (`reach`) are left out when
 * they are copied to where they belong.
 *
 * The gradient of the input is, for each phase of the input, such a product again: of planes of the output's gradient,
 * with the taps that meet that phase. That of the weight sums products of a view and a row of the output's gradient
 * along columns, in 64 bytes of lanes.
 */

#undef axis_t
#undef grid_t
#undef chunk_t
#undef sums_t
#undef shifted_function_t
#undef columns_t
#undef sums_function_t
#define axis_t             FN(axis_t)
#define grid_t             FN(grid_t)
#define chunk_t            FN(chunk_t)
#define sums_t             FN(sums_t)
#define shifted_function_t FN(shifted_function_t)
#define columns_t          FN(columns_t)
#define sums_function_t    FN(sums_function_t)

#undef LOGICAL
#undef NNF_REGISTERS
#define LOGICAL ((intptr_t)(64 / sizeof(T)))
#if NNF_VECTOR_BYTES > 0
#define NNF_REGISTERS (64 / NNF_VECTOR_BYTES) /* that hold them */
#else
#define NNF_REGISTERS (64 / (int)sizeof(T))
#endif

/* One of the two axes. */
typedef struct {
    intptr_t taps, *tap, *phase, *shift; /* which entries of the kernel, and the views that they see */
    intptr_t phases, *first;             /* of each plane the entry of `from` that its entry 0 is, and */
    intptr_t from_size, from_step;       /* how far apart there two of its entries are; outside is 0 */
    intptr_t size, reach;                /* outputs; a plane has `reach` entries more */
    intptr_t to_size, to_first, to_step; /* where the outputs belong */
} axis_t;

typedef struct {
    intptr_t images, groups, channels, rows; /* channels that are read, and rows of outputs, of each group */
    axis_t axis[2];
    const T *from;
    T *to;
    const T *weights, *bias;
    intptr_t weight_group, weight_channel, weight_row; /* from one to the next in the weight */
    /* a chunk: some rows of some images of a group */
    intptr_t some_images, some_rows, width, image, plane; /* entries from a row, an image, a plane to the next */
    intptr_t columns, image_chunks, row_chunks;
    /* a task */
    intptr_t taps, *offset; /* where the view of each tap begins in scratch */
    const T *packed;
    intptr_t tasks, room;
    void *memory;
    atomic_int failed;
} grid_t;

typedef struct {
    intptr_t group, image, images, row, rows;
} chunk_t;

/* ---- the grids of a convolution ---- */

static void FN(forward_axis)(const nnf_convolution *p, int e, axis_t *axis, intptr_t *room) {
    const intptr_t taps = p->kernel[e], stride = p->stride[e];
    *axis = (axis_t){.taps = taps,
                     .tap = room,
                     .phase = room + taps,
                     .shift = room + 2 * taps,
                     .first = room + 3 * taps,
                     .from_size = p->in_size[e],
                     .from_step = stride,
                     .size = p->out_size[e],
                     .to_size = p->out_size[e],
                     .to_step = 1};
    for (intptr_t a = 0; a < taps; a++) {
        const intptr_t at = a * p->dilation[e], first = at % stride - p->padding[e];
        intptr_t phase = 0;
        while (phase < axis->phases && axis->first[phase] != first)
            phase++;
        if (phase == axis->phases) axis->first[axis->phases++] = first;
        axis->tap[a] = a, axis->phase[a] = phase, axis->shift[a] = at / stride;
        axis->reach = at / stride;
    }
}

/* The axis for every stride-th entry of the input, those at `phase` when the padding is counted. */
static void FN(backward_axis)(const nnf_convolution *p, int e, intptr_t phase, axis_t *axis, intptr_t *room) {
    const intptr_t taps = p->kernel[e], stride = p->stride[e], padding = p->padding[e];
    const intptr_t low = padding > phase ? (padding - phase + stride - 1) / stride : 0;
    const intptr_t end =
        (padding + p->in_size[e] - phase + stride - 1) / stride; /* phase < stride: no division of -1 */
    *axis = (axis_t){.tap = room,
                     .phase = room + taps,
                     .shift = room + 2 * taps,
                     .first = room + 3 * taps,
                     .phases = 1,
                     .from_size = p->out_size[e],
                     .from_step = 1,
                     .size = end > low ? end - low : 0,
                     .to_size = p->in_size[e],
                     .to_first = low * stride + phase - padding,
                     .to_step = stride};
    intptr_t least = 0, most = 0;
    for (intptr_t a = 0; a < taps; a++) {
        const intptr_t at = a * p->dilation[e];
        if (at % stride != phase) continue;
        most = at / stride;
        if (axis->taps == 0) least = most;
        axis->tap[axis->taps] = a, axis->phase[axis->taps] = 0, axis->shift[axis->taps++] = most;
    }
    for (intptr_t i = 0; i < axis->taps; i++)
        axis->shift[i] = most - axis->shift[i];
    axis->reach = most - least;
    axis->first[0] = low - most;
}

/* How many images are taken together, up to `columns` columns: so many that columns in gaps, between images and in the
 * last tile, are few. aligned: whether gaps between images are left out. */
static intptr_t FN(images_of_chunk)(const grid_t *g, intptr_t columns, intptr_t most, int aligned) {
    const intptr_t one = (g->axis[0].size - 1) * g->width + g->axis[1].size;
    intptr_t best = 1;
    double least = 0;
    for (intptr_t images = 1; images <= g->images && (images == 1 || images <= most); images++) {
        const intptr_t all = (images - 1) * g->image + one;
        const intptr_t tiles =
            aligned ? images * ((one + LOGICAL - 1) / LOGICAL * LOGICAL) : (all + LANES - 1) / LANES * LANES;
        const double each = (double)(tiles + NNF_COLUMNS_PER_CHUNK) / (double)images;
        if (images == 1 || each < least) best = images, least = each;
        if (all >= columns) break;
    }
    return best;
}

/* Cut a grid into chunks of up to about so many columns, and find the views. aligned: whether each image begins at a
 * whole number of logical lanes. 0, or NNF_NO_MEMORY. */
static int FN(cut_grid)(grid_t *g, intptr_t columns, int aligned) {
    const axis_t *y = &g->axis[0], *x = &g->axis[1];
    const intptr_t planes = g->channels * y->phases * x->phases, most = NNF_CHUNK_BYTES / (intptr_t)sizeof(T);
    intptr_t k = 0;
    g->width = x->size + x->reach;
    g->taps = g->channels * y->taps * x->taps;
    g->some_rows = most / (planes * g->width) - y->reach;
    g->some_rows = g->some_rows < 1 ? 1 : g->some_rows > y->size ? y->size : g->some_rows;
    g->image = (g->some_rows + y->reach) * g->width;
    if (aligned) g->image = (g->image + LOGICAL - 1) / LOGICAL * LOGICAL;
    g->some_images = g->some_rows == y->size ? FN(images_of_chunk)(g, columns, most / (planes * g->image), aligned) : 1;
    g->plane = g->some_images * g->image;
    g->columns = (g->some_images - 1) * g->image + (g->some_rows - 1) * g->width + x->size;
    g->columns = (g->columns + 4 * LANES + LOGICAL - 1) / LOGICAL * LOGICAL;
    g->image_chunks = (g->images + g->some_images - 1) / g->some_images;
    g->row_chunks = (y->size + g->some_rows - 1) / g->some_rows;
    g->room = planes * g->plane + g->columns; /* the views of the last columns go beyond the planes */
    g->offset = malloc((size_t)(g->taps + 1) * sizeof(intptr_t));
    if (!g->offset) return NNF_NO_MEMORY;
    for (intptr_t c = 0; c < g->channels; c++)
        for (intptr_t a = 0; a < y->taps; a++)
            for (intptr_t b = 0; b < x->taps; b++)
                g->offset[k++] = ((c * y->phases + y->phase[a]) * x->phases + x->phase[b]) * g->plane +
                                 y->shift[a] * g->width + x->shift[b];
    return 0;
}

/* ---- copies ---- */

NNF_INLINE void FN(copy_row)(T *to, const T *from, intptr_t n) {
    for (; n >= LANES; n -= LANES, to += LANES, from += LANES)
        v_store(to, v_load(from));
    if (n > 0) v_store_n(to, v_load_n(from, n), n);
}

NNF_INLINE void FN(zero_row)(T *to, intptr_t n) {
    for (; n >= LANES; n -= LANES, to += LANES)
        v_store(to, v_set1(0));
    if (n > 0) v_store_n(to, v_set1(0), n);
}

/* One row of a plane: every step-th entry of `from`, from `first` on; 0 outside of it. */
NNF_INLINE void FN(fill_row)(const axis_t *x, intptr_t first, intptr_t width, const T *from, T *to) {
    const intptr_t step = x->from_step;
    intptr_t low = first < 0 ? (-first + step - 1) / step : 0;
    intptr_t end = x->from_size > first ? (x->from_size - first + step - 1) / step : 0;
    if (low > width) low = width;
    if (end > width) end = width;
    if (end < low) end = low;
    FN(zero_row)(to, low);
    if (step == 1)
        FN(copy_row)(to + low, from + first + low, end - low);
    else
        for (intptr_t j = low; j < end; j++)
            to[j] = from[first + j * step];
    FN(zero_row)(to + end, width - end);
}

/* One plane of one image, from row `row` of the outputs on. */
static void FN(fill_plane)(const grid_t *g, intptr_t first_y, intptr_t first_x, intptr_t row, const T *from, T *to) {
    const axis_t *y = &g->axis[0], *x = &g->axis[1];
    const intptr_t rows = g->some_rows + y->reach, top = first_y + row * y->from_step;
    const int apart = x->from_step > 1 || y->from_step > 1 || first_x != 0 || g->width != x->from_size;
    if (!apart && top >= 0 && top + rows <= y->from_size) {
        FN(copy_row)(to, from + top * g->width, rows * g->width);
        return;
    }
    for (intptr_t i = 0; i < rows; i++, to += g->width) {
        const intptr_t at = top + i * y->from_step;
        if (at < 0 || at >= y->from_size)
            FN(zero_row)(to, g->width);
        else
            FN(fill_row)(x, first_x, g->width, from + at * x->from_size, to);
    }
}

static chunk_t FN(chunk_of)(const grid_t *g, intptr_t index) {
    chunk_t c = {.row = index % g->row_chunks * g->some_rows};
    index /= g->row_chunks;
    c.image = index % g->image_chunks * g->some_images;
    c.group = index / g->image_chunks;
    c.images = g->images - c.image < g->some_images ? g->images - c.image : g->some_images;
    c.rows = g->axis[0].size - c.row < g->some_rows ? g->axis[0].size - c.row : g->some_rows;
    return c;
}

static void FN(fill_planes)(const grid_t *g, const chunk_t *c, T *to) {
    const axis_t *y = &g->axis[0], *x = &g->axis[1];
    const intptr_t area = y->from_size * x->from_size;
    for (intptr_t channel = 0; channel < g->channels; channel++)
        for (intptr_t fy = 0; fy < y->phases; fy++)
            for (intptr_t fx = 0; fx < x->phases; fx++, to += g->plane)
                for (intptr_t i = 0; i < c->images; i++)
                    FN(fill_plane)(g, y->first[fy], x->first[fx], c->row,
                                   g->from + (((c->image + i) * g->groups + c->group) * g->channels + channel) * area,
                                   to + i * g->image);
}

/* Columns of a chunk that are computed: from its first output to its last. */
NNF_INLINE intptr_t FN(columns_of)(const grid_t *g, const chunk_t *c) {
    return (c->images - 1) * g->image + (c->rows - 1) * g->width + g->axis[1].size;
}

/* Row `row` of the outputs of a chunk, at its first image and its first row. */
NNF_INLINE T *FN(to_of)(const grid_t *g, const chunk_t *c, intptr_t image, intptr_t row, intptr_t i) {
    const axis_t *y = &g->axis[0], *x = &g->axis[1];
    const intptr_t plane = ((c->image + image) * g->groups + c->group) * g->rows + row;
    return g->to + (plane * y->to_size + y->to_first + (c->row + i) * y->to_step) * x->to_size + x->to_first;
}

/* ---- sums over taps ---- */

typedef void (*shifted_function_t)(intptr_t taps, const intptr_t *offset, const T *a, const T *b, const T *bias, T *c,
                                   intptr_t c_row);

/* C (R, N vectors) = bias + A (R, taps) times the views from b on; A is packed, R numbers for each tap. */
#define NNF_SHIFTED(R, N)                                                                                              \
    NNF_TILE_ATTRIBUTE static void FN(shifted_##R##x##N)(intptr_t taps, const intptr_t *offset, const T *a,            \
                                                         const T *b, const T *bias, T *c, intptr_t c_row) {            \
        V sum[R][N];                                                                                                   \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int n = 0; n < N; n++) sum[r][n] =                      \
            v_set1(bias ? bias[r] : 0);                                                                                \
        for (intptr_t k = 0; k < taps; k++, a += R) {                                                                  \
            const T *view = b + offset[k];                                                                             \
            V columns[N];                                                                                              \
            NNF_UNROLL for (int n = 0; n < N; n++) columns[n] = v_load(view + n * LANES);                              \
            NNF_UNROLL for (int r = 0; r < R; r++) {                                                                   \
                const V number = v_set1(a[r]);                                                                         \
                NNF_UNROLL for (int n = 0; n < N; n++) sum[r][n] += number * columns[n];                               \
            }                                                                                                          \
        }                                                                                                              \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int n = 0; n < N; n++)                                  \
            v_store(c + r * c_row + n * LANES, sum[r][n]);                                                             \
    }
NNF_EACH_ROWS(NNF_SHIFTED, 1)
NNF_EACH_ROWS(NNF_SHIFTED, 2)
NNF_FEW_ROWS(NNF_SHIFTED, 4)

#define NNF_SHIFTED_NAME(R, N) FN(shifted_##R##x##N),
static const shifted_function_t FN(shifted)[NNF_TILE_VECTORS][TILE_ROWS] = {{NNF_EACH_ROWS(NNF_SHIFTED_NAME, 1)},
                                                                            {NNF_EACH_ROWS(NNF_SHIFTED_NAME, 2)}};
static const shifted_function_t FN(shifted_wide)[WIDE_ROWS] = {NNF_FEW_ROWS(NNF_SHIFTED_NAME, 4)};
#undef NNF_SHIFTED_NAME
#undef NNF_SHIFTED

NNF_INLINE intptr_t FN(strips_of)(intptr_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }

/* The weight as the tiles read it: strips of rows of each group, one tap after another. */
static void FN(pack_weights)(const grid_t *g, T *to) {
    const axis_t *y = &g->axis[0], *x = &g->axis[1];
    const intptr_t strips = FN(strips_of)(g->rows);
    for (intptr_t group = 0; group < g->groups; group++)
        for (intptr_t s = 0, first = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(g->rows, strips, s);
            const T *from = g->weights + group * g->weight_group + first * g->weight_row;
            for (intptr_t c = 0; c < g->channels; c++)
                for (intptr_t a = 0; a < y->taps; a++)
                    for (intptr_t b = 0; b < x->taps; b++)
                        for (intptr_t r = 0; r < height; r++)
                            *to++ = from[r * g->weight_row + c * g->weight_channel + y->tap[a] + x->tap[b]];
            first += height;
        }
}

/* The strip's rows of a chunk: C (height, columns). */
static void FN(shifted_sums)(const grid_t *g, intptr_t columns, intptr_t height, const T *a, const T *b, const T *bias,
                             T *c) {
    intptr_t j = 0;
    if (height <= WIDE_ROWS)
        for (; j + 2 * LANES < columns; j += 4 * LANES)
            FN(shifted_wide)[height - 1](g->taps, g->offset, a, b + j, bias, c + j, g->columns);
    for (; j < columns; j += 2 * LANES)
        FN(shifted)[j + LANES < columns][height - 1](g->taps, g->offset, a, b + j, bias, c + j, g->columns);
}

static void FN(put_strip)(const grid_t *g, const chunk_t *c, intptr_t first, intptr_t height, const T *from) {
    const intptr_t size = g->axis[1].size, step = g->axis[1].to_step;
    for (intptr_t image = 0; image < c->images; image++)
        for (intptr_t r = 0; r < height; r++)
            for (intptr_t i = 0; i < c->rows; i++) {
                const T *row = from + r * g->columns + image * g->image + i * g->width;
                T *to = FN(to_of)(g, c, image, first + r, i);
                if (step == 1)
                    FN(copy_row)(to, row, size);
                else
                    for (intptr_t j = 0; j < size; j++)
                        to[j * step] = row[j];
            }
}

static void FN(grid_task)(void *context, intptr_t task) {
    grid_t *g = context;
    const intptr_t chunks = g->groups * g->image_chunks * g->row_chunks, strips = FN(strips_of)(g->rows);
    size_t bytes = (size_t)(g->room + TILE_ROWS * g->columns) * sizeof(T);
    T *planes = nnf_take(&bytes), *sums = planes + g->room;
    if (!planes) {
        g->failed = 1;
        return;
    }
    memset(planes, 0, (size_t)g->room * sizeof(T));
    for (intptr_t at = chunks * task / g->tasks; at < chunks * (task + 1) / g->tasks; at++) {
        const chunk_t c = FN(chunk_of)(g, at);
        const intptr_t columns = FN(columns_of)(g, &c);
        if (g->taps > 0) FN(fill_planes)(g, &c, planes);
        for (intptr_t s = 0, first = 0; s < strips; s++) {
            const intptr_t height = FN(strip_height)(g->rows, strips, s);
            FN(shifted_sums)(g, columns, height, g->packed + (c.group * g->rows + first) * g->taps, planes,
                             g->bias ? g->bias + c.group * g->rows + first : NULL, sums);
            FN(put_strip)(g, &c, first, height, sums);
            first += height;
        }
    }
    nnf_give(planes, bytes);
}

static double FN(nanoseconds_of)(double flops) { return flops / 2 * sizeof(T) / NNF_SUM_BYTES; }

static intptr_t FN(tasks_of)(double flops, intptr_t chunks) {
    const int threads = nnf_threads_for(FN(nanoseconds_of)(flops));
    const intptr_t tasks = threads == 1 ? 1 : 4 * threads;
    return tasks < chunks ? tasks : chunks;
}

/* All outputs of a grid. */
static int FN(run_grid)(grid_t *g) {
    if (g->images == 0 || g->axis[0].size == 0 || g->axis[1].size == 0) return 0;
    int failed = FN(cut_grid)(g, NNF_CHUNK_COLUMNS, 0);
    T *packed = failed ? NULL : malloc((size_t)(g->groups * g->rows * g->taps + 1) * sizeof(T));
    if (packed) {
        const intptr_t chunks = g->groups * g->image_chunks * g->row_chunks;
        FN(pack_weights)(g, packed);
        g->packed = packed;
        g->tasks = FN(tasks_of)(2.0 * (double)(chunks * g->columns) * (double)(g->rows * (g->taps + 1)), chunks);
        nnf_parallel(g->tasks, FN(grid_task), g);
    }
    failed = !packed || g->failed;
    free(packed);
    free(g->offset);
    return failed ? NNF_NO_MEMORY : 0;
}

static int FN(convolution)(const nnf_convolution *p) {
    const intptr_t taps = p->kernel[0] * p->kernel[1];
    intptr_t *room = malloc((size_t)(4 * (p->kernel[0] + p->kernel[1])) * sizeof(intptr_t));
    if (!room) return NNF_NO_MEMORY;
    grid_t g = {.images = p->images,
                .groups = p->groups,
                .channels = p->in_channels,
                .rows = p->out_channels,
                .from = p->x,
                .to = p->y,
                .weights = p->weight,
                .bias = p->bias,
                .weight_group = p->out_channels * p->in_channels * taps,
                .weight_row = p->in_channels * taps,
                .weight_channel = taps};
    FN(forward_axis)(p, 0, &g.axis[0], room);
    FN(forward_axis)(p, 1, &g.axis[1], room + 4 * p->kernel[0]);
    for (intptr_t a = 0; a < p->kernel[0]; a++)
        g.axis[0].tap[a] *= p->kernel[1];
    const int failed = FN(run_grid)(&g);
    free(room);
    return failed;
}

static int FN(convolution_input_gradient)(const nnf_convolution *p) {
    const intptr_t taps = p->kernel[0] * p->kernel[1];
    intptr_t *room = malloc((size_t)(4 * (p->kernel[0] + p->kernel[1])) * sizeof(intptr_t));
    int failed = room ? 0 : NNF_NO_MEMORY;
    for (intptr_t phase = 0; !failed && phase < p->stride[0] * p->stride[1]; phase++) {
        grid_t g = {.images = p->images,
                    .groups = p->groups,
                    .channels = p->out_channels,
                    .rows = p->in_channels,
                    .from = p->y,
                    .to = p->x,
                    .weights = p->weight,
                    .bias = p->bias,
                    .weight_group = p->out_channels * p->in_channels * taps,
                    .weight_row = taps,
                    .weight_channel = p->in_channels * taps};
        FN(backward_axis)(p, 0, phase / p->stride[1], &g.axis[0], room);
        FN(backward_axis)(p, 1, phase % p->stride[1], &g.axis[1], room + 4 * p->kernel[0]);
        for (intptr_t a = 0; a < g.axis[0].taps; a++)
            g.axis[0].tap[a] *= p->kernel[1];
        failed = FN(run_grid)(&g);
    }
    free(room);
    return failed;
}

/* ---- sums over columns ---- */

typedef struct {
    intptr_t images, image, columns; /* of each image; from one to the next; to be summed of each */
    const T *views, *rows;
    intptr_t row, to_row; /* from one to the next */
} columns_t;

typedef void (*sums_function_t)(const columns_t *p, const intptr_t *offset, intptr_t first, double *to);

NNF_INLINE T FN(sum_logical)(T *lane) {
    for (intptr_t half = LOGICAL / 2; half > 0; half /= 2)
        for (intptr_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

/* to (R, K) += rows (R, columns) from row `first` on times K views, transposed. */
#define NNF_COLUMN_SUMS(R, K)                                                                                          \
    NNF_TILE_ATTRIBUTE static void FN(column_sums_##R##x##K)(const columns_t *p, const intptr_t *offset,               \
                                                             intptr_t first, double *to) {                             \
        V sum[R][K][NNF_REGISTERS];                                                                                    \
        const intptr_t row = p->row, columns = p->columns;                                                             \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int k = 0; k < K; k++)                                  \
            NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) sum[r][k][v] = v_set1(0);                               \
        for (intptr_t i = 0; i < p->images; i++) {                                                                     \
            const T *rows = p->rows + first * row + i * p->image, *view[K];                                            \
            NNF_UNROLL for (int k = 0; k < K; k++) view[k] = p->views + i * p->image + offset[k];                      \
            for (intptr_t j = 0; j < columns; j += LOGICAL)                                                            \
                NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) {                                                   \
                    V numbers[R];                                                                                      \
                    NNF_UNROLL for (int r = 0; r < R; r++) numbers[r] = v_load(rows + r * row + j + v * LANES);        \
                    NNF_UNROLL for (int k = 0; k < K; k++) {                                                           \
                        const V seen = v_load(view[k] + j + v * LANES);                                                \
                        NNF_UNROLL for (int r = 0; r < R; r++) sum[r][k][v] += numbers[r] * seen;                      \
                    }                                                                                                  \
                }                                                                                                      \
        }                                                                                                              \
        NNF_UNROLL for (int r = 0; r < R; r++) NNF_UNROLL for (int k = 0; k < K; k++) {                                \
            T lane[64 / sizeof(T)];                                                                                    \
            NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) v_store(lane + v * LANES, sum[r][k][v]);                \
            to[r * p->to_row + k] += (double)FN(sum_logical)(lane);                                                    \
        }                                                                                                              \
    }
#undef MOST_SUM_ROWS
#undef MOST_SUM_TAPS
#undef NNF_EACH_SUM
#if NNF_VECTOR_BYTES == 64
#define MOST_SUM_ROWS 4
#define MOST_SUM_TAPS 5
#define NNF_EACH_SUM(x)                                                                                                \
    x(1, 1) x(1, 2) x(1, 3) x(1, 4) x(1, 5) x(2, 1) x(2, 2) x(2, 3) x(2, 4) x(2, 5) x(3, 1) x(3, 2) x(3, 3) x(3, 4)    \
        x(3, 5) x(4, 1) x(4, 2) x(4, 3) x(4, 4) x(4, 5)
#elif NNF_VECTOR_BYTES >= 16
#define MOST_SUM_ROWS   2
#define MOST_SUM_TAPS   3
#define NNF_EACH_SUM(x) x(1, 1) x(1, 2) x(1, 3) x(2, 1) x(2, 2) x(2, 3)
#else
#define MOST_SUM_ROWS   1
#define MOST_SUM_TAPS   1
#define NNF_EACH_SUM(x) x(1, 1)
#endif
NNF_EACH_SUM(NNF_COLUMN_SUMS)

#define NNF_SUM_ENTRY(R, K) [(R) - 1][(K) - 1] = FN(column_sums_##R##x##K),
static const sums_function_t FN(column_sums)[MOST_SUM_ROWS][MOST_SUM_TAPS] = {NNF_EACH_SUM(NNF_SUM_ENTRY)};
#undef NNF_SUM_ENTRY
#undef NNF_COLUMN_SUMS

/* A task: the sums of some rows of a group over a part of its chunks. */
typedef struct {
    grid_t grid;            /* what was read is `from`, the gradient of the outputs stands in `to` */
    intptr_t parts, blocks; /* of the chunks, and of the rows */
    int with_bias;
    double *sums; /* (parts, groups rows, taps + 1), the last one of the bias */
} sums_t;

/* Rows first .. first + height - 1 of the gradient as columns, 0 in the gaps. */
static void FN(fill_gradient)(const grid_t *g, const chunk_t *c, intptr_t first, intptr_t height, T *to) {
    const intptr_t size = g->axis[1].size;
    for (intptr_t r = 0; r < height; r++, to += g->columns) {
        T *at = to;
        for (intptr_t image = 0; image < c->images; image++)
            for (intptr_t i = 0; i < c->rows; i++) {
                T *row = to + image * g->image + i * g->width;
                FN(zero_row)(at, row - at);
                FN(copy_row)(row, FN(to_of)(g, c, image, first + r, i), size);
                at = row + size;
            }
        FN(zero_row)(at, to + g->columns - at);
    }
}

static void FN(sum_of_columns)(intptr_t columns, const T *row, double *to) {
    V sum[NNF_REGISTERS];
    T lane[64 / sizeof(T)];
    NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) sum[v] = v_set1(0);
    for (intptr_t j = 0; j < columns; j += LOGICAL)
        NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) sum[v] += v_load(row + j + v * LANES);
    NNF_UNROLL for (int v = 0; v < NNF_REGISTERS; v++) v_store(lane + v * LANES, sum[v]);
    *to += (double)FN(sum_logical)(lane);
}

static void FN(sum_chunk)(const sums_t *p, const columns_t *c, intptr_t height, double *to) {
    const grid_t *g = &p->grid;
    const intptr_t strips = (height + MOST_SUM_ROWS - 1) / MOST_SUM_ROWS;
    const intptr_t parts = (g->taps + MOST_SUM_TAPS - 1) / MOST_SUM_TAPS;
    for (intptr_t s = 0, r = 0; s < strips; s++) {
        const intptr_t some_rows = FN(strip_height)(height, strips, s);
        double *sums = to + r * c->to_row;
        for (intptr_t q = 0, k = 0; q < parts; q++) {
            const intptr_t some_taps = FN(strip_height)(g->taps, parts, q);
            FN(column_sums)[some_rows - 1][some_taps - 1](c, g->offset + k, r, sums + k);
            k += some_taps;
        }
        for (intptr_t i = 0; p->with_bias && i < some_rows; i++)
            FN(sum_of_columns)(g->columns, c->rows + (r + i) * c->row, sums + i * c->to_row + g->taps);
        r += some_rows;
    }
}

static void FN(sums_task)(void *context, intptr_t task) {
    sums_t *p = context;
    grid_t *g = &p->grid;
    const intptr_t block = task % p->blocks, group = task / p->blocks % g->groups, part = task / p->blocks / g->groups;
    const intptr_t chunks = g->image_chunks * g->row_chunks; /* of a group */
    const intptr_t first = g->rows * block / p->blocks, height = g->rows * (block + 1) / p->blocks - first;
    double *to = p->sums + ((part * g->groups + group) * g->rows + first) * (g->taps + 1);
    size_t bytes = (size_t)(g->room + height * g->columns) * sizeof(T);
    T *planes = nnf_take(&bytes), *rows = planes + g->room;
    if (!planes) {
        g->failed = 1;
        return;
    }
    memset(planes, 0, (size_t)g->room * sizeof(T));
    for (intptr_t at = chunks * part / p->parts; at < chunks * (part + 1) / p->parts; at++) {
        const chunk_t c = FN(chunk_of)(g, group * chunks + at);
        const intptr_t one = (c.rows - 1) * g->width + g->axis[1].size;
        const columns_t columns = {.images = c.images,
                                   .image = g->image,
                                   .columns = (one + LOGICAL - 1) / LOGICAL * LOGICAL,
                                   .views = planes,
                                   .rows = rows,
                                   .row = g->columns,
                                   .to_row = g->taps + 1};
        FN(fill_planes)(g, &c, planes);
        FN(fill_gradient)(g, &c, first, height, rows);
        FN(sum_chunk)(p, &columns, height, to);
    }
    nnf_give(planes, bytes);
}

/* Add up the parts, in order. */
static void FN(add_parts)(const sums_t *p, T *weight, T *bias) {
    const grid_t *g = &p->grid;
    const intptr_t rows = g->groups * g->rows, size = rows * (g->taps + 1);
    for (intptr_t r = 0; r < rows; r++)
        for (intptr_t k = 0; k <= g->taps; k++) {
            double sum = 0;
            for (intptr_t part = 0; part < p->parts; part++)
                sum += p->sums[part * size + r * (g->taps + 1) + k];
            if (k < g->taps)
                weight[r * g->taps + k] += (T)sum;
            else if (bias)
                bias[r] += (T)sum;
        }
}

/* How the work is cut, by sizes alone: as many parts of the chunks as their sums have room for, else blocks of rows. */
static void FN(cut_sums)(sums_t *p) {
    const grid_t *g = &p->grid;
    const intptr_t chunks = g->image_chunks * g->row_chunks, size = g->groups * g->rows * (g->taps + 1);
    p->parts = NNF_MOST_SUMS / size < NNF_SUM_PARTS ? NNF_MOST_SUMS / size : NNF_SUM_PARTS;
    if (p->parts > chunks) p->parts = chunks;
    if (p->parts < 1) p->parts = 1;
    p->blocks = (NNF_SUM_PARTS + p->parts * g->groups - 1) / (p->parts * g->groups);
    if (p->blocks > (g->rows + MOST_SUM_ROWS - 1) / MOST_SUM_ROWS)
        p->blocks = (g->rows + MOST_SUM_ROWS - 1) / MOST_SUM_ROWS;
}

static int FN(convolution_weight_gradient)(const nnf_convolution *p) {
    if (p->images == 0 || p->out_size[0] == 0 || p->out_size[1] == 0) return 0;
    intptr_t *room = malloc((size_t)(4 * (p->kernel[0] + p->kernel[1])) * sizeof(intptr_t));
    if (!room) return NNF_NO_MEMORY;
    sums_t s = {.with_bias = p->bias != NULL,
                .grid = {.images = p->images,
                         .groups = p->groups,
                         .channels = p->in_channels,
                         .rows = p->out_channels,
                         .from = p->x,
                         .to = p->y}};
    grid_t *g = &s.grid;
    FN(forward_axis)(p, 0, &g->axis[0], room);
    FN(forward_axis)(p, 1, &g->axis[1], room + 4 * p->kernel[0]);
    int failed = FN(cut_grid)(g, NNF_SUM_COLUMNS, 1);
    if (!failed) {
        FN(cut_sums)(&s);
        s.sums = calloc((size_t)(s.parts * g->groups * g->rows * (g->taps + 1)), sizeof(double));
        failed = s.sums ? 0 : NNF_NO_MEMORY;
    }
    if (!failed) {
        const intptr_t tasks = s.parts * g->groups * s.blocks;
        const double flops = 2.0 * (double)(g->images * g->columns) * (double)(g->rows * g->groups * (g->taps + 1));
        if (nnf_threads_for(FN(nanoseconds_of)(flops)) == 1)
            for (intptr_t i = 0; i < tasks; i++)
                FN(sums_task)(&s, i);
        else
            nnf_parallel(tasks, FN(sums_task), &s);
        failed = g->failed ? NNF_NO_MEMORY : 0;
    }
    if (!failed) FN(add_parts)(&s, p->weight, p->bias);
    free(s.sums);
    free(g->offset);
    free(room);
    return failed;
}
