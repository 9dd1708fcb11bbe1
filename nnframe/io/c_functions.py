"""The functions that exported C files are made of, by name: C99, on float, without allocation.

Each stands in a file only if the model needs it. Where a sum is long, `-DNNFRAME_SUM=double` takes it in double.
"""

MACROS = """\
#ifndef NNFRAME_SUM
#define NNFRAME_SUM float
#endif
"""

ACTIVATIONS = {
    "Sigmoid": "1.0f / (1.0f + expf(-v))",
    "Tanh": "tanhf(v)",
    "ReLU": "v < 0.0f ? 0.0f : v",
    "LeakyReLU": "v < 0.0f ? a * v : v",
    "ELU": "v < 0.0f ? a * expm1f(v) : v",
    "SELU": "1.0507009873554805f * (v < 0.0f ? 1.6732632423543772f * expm1f(v) : v)",
    "GELU": "0.5f * v * (1.0f + erff(v * 0.70710678118654752f))",
    "GELU tanh": "0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)))",
    "SiLU": "v / (1.0f + expf(-v))",
    "Softplus": "v > 0.0f ? v + log1pf(expf(-v)) : log1pf(expf(v))",
    "Mish": "v * tanhf(v > 0.0f ? v + log1pf(expf(-v)) : log1pf(expf(v)))",
    "Hardswish": "v <= -3.0f ? 0.0f : v >= 3.0f ? v : v * (v + 3.0f) / 6.0f",
    "Step": "v > 0.0f ? 1.0f : v <= 0.0f ? 0.0f : v",
    "Round": "rintf(v)",
    "Sign": "v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v",
}

FUNCTIONS = {
    "linear": """\
/* y = x W^T + b for each of `rows` rows */
static void linear(const float *x, float *y, const float *w, const float *b, int rows, int inputs, int outputs)
{
    for (int n = 0; n < rows; n++, x += inputs, y += outputs)
        for (int o = 0; o < outputs; o++) {
            NNFRAME_SUM sum = 0;
            for (int i = 0; i < inputs; i++)
                sum += w[o * inputs + i] * x[i];
            y[o] = (float)sum + (b ? b[o] : 0.0f);
        }
}
""",
    "convolution": """\
/* g: channels in, height, width; channels out, height, width; then along each axis: kernel, stride, padding before,
   dilation; groups */
static void convolution(const float *x, float *y, const float *w, const float *b, const int *g)
{
    const int in = g[0] / g[14], out = g[3] / g[14];
    for (int o = 0; o < g[3]; o++)
        for (int i = 0; i < g[4]; i++)
            for (int j = 0; j < g[5]; j++) {
                NNFRAME_SUM sum = 0;
                for (int c = 0; c < in; c++) {
                    const float *plane = x + (o / out * in + c) * g[1] * g[2];
                    const float *kernel = w + (o * in + c) * g[6] * g[7];
                    for (int a = 0; a < g[6]; a++) {
                        const int row = i * g[8] - g[10] + a * g[12];
                        if (row < 0 || row >= g[1])
                            continue;
                        for (int d = 0; d < g[7]; d++) {
                            const int column = j * g[9] - g[11] + d * g[13];
                            if (column >= 0 && column < g[2])
                                sum += kernel[a * g[7] + d] * plane[row * g[2] + column];
                        }
                    }
                }
                *y++ = (float)sum + (b ? b[o] : 0.0f);
            }
}
""",
    "max_pool": """\
/* g: as for convolution */
static void max_pool(const float *x, float *y, const int *g)
{
    for (int c = 0; c < g[0]; c++, x += g[1] * g[2])
        for (int i = 0; i < g[4]; i++)
            for (int j = 0; j < g[5]; j++) {
                float largest = -INFINITY;
                for (int a = 0; a < g[6]; a++) {
                    const int row = i * g[8] - g[10] + a * g[12];
                    for (int d = 0; d < g[7]; d++) {
                        const int column = j * g[9] - g[11] + d * g[13];
                        if (row < 0 || row >= g[1] || column < 0 || column >= g[2])
                            continue;
                        if (!(x[row * g[2] + column] <= largest) && largest == largest) /* a NaN stays */
                            largest = x[row * g[2] + column];
                    }
                }
                *y++ = largest;
            }
}
""",
    "mean_pool": """\
/* g: as for convolution; divisors: one for each entry of a plane of y */
static void mean_pool(const float *x, float *y, const int *g, const float *divisors)
{
    for (int c = 0; c < g[0]; c++, x += g[1] * g[2])
        for (int i = 0; i < g[4]; i++)
            for (int j = 0; j < g[5]; j++) {
                NNFRAME_SUM sum = 0;
                for (int a = 0; a < g[6]; a++) {
                    const int row = i * g[8] - g[10] + a;
                    for (int d = 0; d < g[7]; d++) {
                        const int column = j * g[9] - g[11] + d;
                        if (row >= 0 && row < g[1] && column >= 0 && column < g[2])
                            sum += x[row * g[2] + column];
                    }
                }
                *y++ = (float)sum / divisors[i * g[5] + j];
            }
}
""",
    "pad": """\
/* rows, columns: which entry of a plane of x each one of y is; -1 for a zero */
static void pad(const float *x, float *y, int channels, int height, int width, const int *rows, int tall,
                const int *columns, int wide)
{
    for (int c = 0; c < channels; c++, x += height * width)
        for (int i = 0; i < tall; i++)
            for (int j = 0; j < wide; j++)
                *y++ = rows[i] < 0 || columns[j] < 0 ? 0.0f : x[rows[i] * width + columns[j]];
}
""",
    "scale": """\
/* x = x w + b, for each channel of `entries` entries; w or b may be missing */
static void scale(float *x, const float *w, const float *b, int channels, int entries)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < entries; i++, x++)
            *x = *x * (w ? w[c] : 1.0f) + (b ? b[c] : 0.0f);
}
""",
    "normalize": """\
/* x = (x - m) / sqrt(v + eps) for each of `rows` rows; m = 0 unless `centred` */
static void normalize(float *x, int rows, int entries, float eps, int centred)
{
    for (int n = 0; n < rows; n++, x += entries) {
        NNFRAME_SUM sum = 0, squares = 0;
        for (int i = 0; i < entries; i++)
            sum += x[i];
        const float mean = centred ? (float)sum / (float)entries : 0.0f;
        for (int i = 0; i < entries; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        const float root = sqrtf((float)squares / (float)entries + eps);
        for (int i = 0; i < entries; i++)
            x[i] = (x[i] - mean) / root;
    }
}
""",
    "softmax": """\
/* along entries that are `stride` apart; the logarithm of it if `log_of` */
static void softmax(float *x, int blocks, int entries, int stride, int log_of)
{
    for (int n = 0; n < blocks; n++, x += entries * stride)
        for (int s = 0; s < stride; s++) {
            float *p = x + s, largest = p[0];
            NNFRAME_SUM sum = 0;
            for (int i = 1; i < entries; i++)
                largest = p[i * stride] > largest ? p[i * stride] : largest;
            for (int i = 0; i < entries; i++)
                sum += expf(p[i * stride] - largest);
            for (int i = 0; i < entries; i++)
                p[i * stride] = log_of ? p[i * stride] - largest - logf((float)sum)
                                       : expf(p[i * stride] - largest) / (float)sum;
        }
}
""",
    "prelu": """\
/* slopes: one for each of `channels` channels */
static void prelu(float *x, const float *slopes, int channels, int entries)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < entries; i++, x++)
            *x = *x < 0.0f ? slopes[c] * *x : *x;
}
""",
    "recurrent": """\
/* One direction of one layer. kind: 0 tanh, 1 ReLU, 2 GRU, 3 LSTM; y has `width` columns, of which this writes `hidden`
   from y on; work: 2 * gates * hidden + hidden numbers; the states before the first step are 0 */
static void recurrent(const float *x, float *y, float *work, const float *w_ih, const float *w_hh, const float *b_ih,
                      const float *b_hh, int kind, int steps, int inputs, int hidden, int width, int reverse)
{
    const int gates = kind == 3 ? 4 : kind == 2 ? 3 : 1, many = gates * hidden;
    float *u = work, *q = work + many, *c = work + 2 * many;
    for (int i = 0; i < hidden; i++)
        c[i] = 0.0f;
    for (int s = 0; s < steps; s++) {
        const int t = reverse ? steps - 1 - s : s;
        const float *given = x + t * inputs, *before = y + (reverse ? t + 1 : t - 1) * width;
        float *h = y + t * width;
        for (int g = 0; g < many; g++) {
            NNFRAME_SUM from_input = 0, from_state = 0;
            for (int i = 0; i < inputs; i++)
                from_input += w_ih[g * inputs + i] * given[i];
            for (int i = 0; s && i < hidden; i++)
                from_state += w_hh[g * hidden + i] * before[i];
            u[g] = (float)from_input + (b_ih ? b_ih[g] : 0.0f);
            q[g] = (float)from_state + (b_hh ? b_hh[g] : 0.0f);
        }
        for (int i = 0; i < hidden; i++) {
            const float old = s ? before[i] : 0.0f, sum = u[i] + q[i];
            if (kind == 0)
                h[i] = tanhf(sum);
            else if (kind == 1)
                h[i] = sum < 0.0f ? 0.0f : sum;
            else if (kind == 2) {
                const float r = 1.0f / (1.0f + expf(-sum));
                const float z = 1.0f / (1.0f + expf(-(u[hidden + i] + q[hidden + i])));
                const float n = tanhf(u[2 * hidden + i] + r * q[2 * hidden + i]);
                h[i] = n + z * (old - n);
            } else {
                const float f = 1.0f / (1.0f + expf(-(u[hidden + i] + q[hidden + i])));
                const float o = 1.0f / (1.0f + expf(-(u[3 * hidden + i] + q[3 * hidden + i])));
                c[i] = f * c[i] + tanhf(u[2 * hidden + i] + q[2 * hidden + i]) / (1.0f + expf(-sum));
                h[i] = o * tanhf(c[i]);
            }
        }
    }
}
""",
}
