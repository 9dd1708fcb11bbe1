/* loss_change.inc.h - by how much the cross-entropy of a row changes when its logits do: the end of a tile's way up.
 *
 * With q the targets, p the probabilities, m the class with the largest one (the lead), and e_k = d_k - d_m for changes
 * d of the logits, the loss changes by
 *
 *     sum(q) log1p(S) - sum_k q_k e_k,   S = sum over k != m of p_k expm1(e_k).
 *
 * p_m, nearly 1 once the label has been learnt, does not occur: nothing cancels, however small the loss. While changes
 * are small the first order is taken out, as r = sum(q) p - q, the gradient, has all its digits (losses.inc.h):
 *
 *     sum_k r_k e_k + sum(q) ((S - S1) - (S - log1p(S))),   S1 = sum_k p_k e_k.
 *
 * Large changes: the loss there minus the loss here, each with all its digits, from the logits.
 *
 * A tile has its changes in lanes. They belong to one row, whose p, q, r are plain numbers (difference.inc.h), or each
 * to a row of its own (curves.inc.h): the constant `lanes` says which.
 */

#undef entropy_row_t
#undef entropy_t
#define entropy_row_t FN(entropy_row_t)
#define entropy_t     FN(entropy_t)

/* Of one row: its lead; sum(q), and without the lead sum(p) = 1 - p_m and sum(q). */
typedef struct {
    int32_t lead;
    T total, rest, others;
} entropy_row_t;

/* p, q, r of a row, or of a vector of rows; `stride` numbers from one class to the next. */
typedef struct {
    const T *p, *q, *r;
    intptr_t stride;
} entropy_t;

NNF_INLINE V FN(entropy_value)(const T *a, int lanes) { return lanes ? v_load(a) : v_set1(*a); }

static intptr_t FN(last_width)(const nnf_above *above) {
    return above->stages ? above->stage[above->stages - 1].width : above->outputs;
}

/* What is known of each row, `padded` of them, the last ones zeros; NULL where there is no room. */
static entropy_row_t *FN(entropy_rows)(const nnf_above *above, intptr_t padded) {
    entropy_row_t *rows = calloc((size_t)padded + 1, sizeof *rows);
    const intptr_t width = FN(last_width)(above);
    if (!rows || above->loss != NNF_CROSS_ENTROPY) return rows;
    for (intptr_t n = 0; n < above->rows; n++) {
        const T *p = (const T *)above->p + n * width, *q = (const T *)above->t + n * width;
        intptr_t lead = 0;
        double rest = 0, others = 0;
        for (intptr_t k = 1; k < width; k++)
            lead = p[k] > p[lead] ? k : lead;
        for (intptr_t k = 0; k < width; k++)
            if (k != lead) rest += (double)p[k], others += (double)q[k];
        rows[n] = (entropy_row_t){(int32_t)lead, (T)(others + (double)q[lead]), (T)rest, (T)others};
    }
    return rows;
}

/* ---- small changes of one number: a short polynomial ---- */

/* How many terms leave a remainder below rounding, relative to the first: bound^terms / (terms + 1)! < eps / 4. */
#undef MOST_TERMS
#define MOST_TERMS 8
static int FN(terms_for)(double bound) {
    const double enough = sizeof(T) == 4 ? 1.5e-8 : 2.7e-17;
    double remainder = bound / 2;
    int terms = 2;
    while (terms < MOST_TERMS && remainder > enough)
        remainder *= bound / ++terms;
    return terms;
}

/* (S - log1p(S)) / S^2 = 1/2 - S/3 + S^2/4 - ..., to rounding for |S| <= expm1(NNF_SMALL). */
NNF_INLINE V FN(log1p_rest)(V s) {
    enum { TERMS = sizeof(T) == 4 ? 4 : 8 };
    V sum = v_set1(0);
    NNF_UNROLL for (int j = TERMS + 1; j >= 2; j--) sum = v_set1((T)(1.0 / j)) - s * sum;
    return sum;
}

/* Where d_k = w_k d for one number d, S is a power series in d: moment[j] = sum_k p_k (w_k - w_m)^j / j!, j = 1 ..
 * terms. Returns sum_k r_k (w_k - w_m). w: `w_stride` numbers from one class to the next; lead: w_m. */
NNF_INLINE V FN(entropy_moments)(const entropy_t *at, intptr_t classes, const T *w, intptr_t w_stride, V lead,
                                 int terms, V *moment, int lanes) {
    V slope = v_set1(0);
    for (int j = 1; j <= terms; j++)
        moment[j] = v_set1(0);
    for (intptr_t k = 0; k < classes; k++) {
        const V v = v_set1(w[k * w_stride]) - lead;
        V power = FN(entropy_value)(at->p + k * at->stride, lanes);
        slope = slope + FN(entropy_value)(at->r + k * at->stride, lanes) * v;
        for (int j = 1; j <= terms; j++) {
            power = power * v;
            moment[j] = moment[j] + power;
        }
    }
    T factorial = 1;
    for (int j = 2; j <= terms; j++)
        moment[j] = moment[j] * v_set1(1 / (factorial *= (T)j));
    return slope;
}

/* slope d + sum(q) ((S - moment[1] d) - (S - log1p(S))), S = sum_j moment[j] d^j */
NNF_INLINE V FN(entropy_series)(const V *moment, int terms, V slope, V total, V d) {
    V higher = moment[terms];
    for (int j = terms - 1; j >= 2; j--)
        higher = higher * d + moment[j];
    higher = higher * d * d;
    const V sum = moment[1] * d + higher;
    return slope * d + total * (higher - sum * sum * FN(log1p_rest)(sum));
}

/* ---- changes of all logits ---- */

/* d: (classes, line), |d| <= 1, or <= NNF_SMALL / 2 where `small`; lead: d of the lead. */
NNF_INLINE V FN(entropy_of_lines)(const entropy_t *at, intptr_t classes, const T *d, intptr_t line, V lead, V total,
                                  int lanes, int small) {
    V sum = v_set1(0), first = v_set1(0), higher = v_set1(0);
    for (intptr_t k = 0; k < classes; k++) {
        const V e = v_load(d + k * line) - lead, p = FN(entropy_value)(at->p + k * at->stride, lanes);
        if (small) {
            sum = sum + p * e;
            higher = higher + p * v_expm1_rest(e);
            first = first + FN(entropy_value)(at->r + k * at->stride, lanes) * e;
        } else {
            sum = sum + p * v_expm1(e);
            first = first + FN(entropy_value)(at->q + k * at->stride, lanes) * e;
        }
    }
    if (!small) return total * v_log1p(sum) - first;
    sum = sum + higher;
    return first + total * (higher - sum * sum * FN(log1p_rest)(sum));
}

/* The same where one logit changes alone, by d. p, q, r: its own, or, where it is the lead (sign = -1), p and q of all
 * others: seen from it these all change by -d. */
NNF_INLINE V FN(entropy_of_one)(V p, V q, V r, V sign, V total, V d, int small) {
    if (!small) return total * v_log1p(p * v_expm1(sign * d)) - q * (sign * d);
    const V e = sign * d, higher = p * v_expm1_rest(e), sum = p * e + higher;
    return r * d + total * (higher - sum * sum * FN(log1p_rest)(sum));
}

/* ---- large changes ---- */

/* The loss of a row of logits x, of which those from `first` on, `lines` of them, are moved by d (lines, stride); d may
 * be NULL. */
static double FN(entropy_moved)(const T *x, const T *q, intptr_t width, intptr_t first, intptr_t lines, const T *d,
                                intptr_t stride) {
    double most = -HUGE_VAL, rest = 0, total = 0, behind = 0;
    intptr_t lead = 0;
    for (intptr_t k = 0; k < width; k++) {
        const double moved =
            (double)x[k] + (d && k >= first && k < first + lines ? (double)d[(k - first) * stride] : 0);
        if (moved > most) most = moved, lead = k;
    }
    for (intptr_t k = 0; k < width; k++) {
        const double moved =
            (double)x[k] + (d && k >= first && k < first + lines ? (double)d[(k - first) * stride] : 0);
        rest += k == lead ? 0 : exp(moved - most);
        total += (double)q[k];
        behind += q[k] == 0 ? 0 : (double)q[k] * (most - moved);
    }
    return total == 0 ? 0 : total * log1p(rest) + behind;
}

/* change[r * step] for n changes d[r * step] (lines, stride) of one row, in double. */
NNF_NOINLINE void FN(entropy_far)(const nnf_above *above, intptr_t row, intptr_t first, intptr_t lines, const T *d,
                                  intptr_t stride, T *change, intptr_t n, intptr_t step) {
    const intptr_t width = FN(last_width)(above);
    const T *x = (const T *)above->logits + row * width, *q = (const T *)above->t + row * width;
    const double here = FN(entropy_moved)(x, q, width, first, lines, NULL, stride);
    for (intptr_t r = 0; r < n * step; r += step)
        change[r] = (T)(FN(entropy_moved)(x, q, width, first, lines, d + r, stride) - here);
}

/* ---- the squared error, and a linear loss ---- */

/* Both change by sum_k d_k (a r_k + b d_k), with the residual r. */
NNF_INLINE V FN(residual_part)(nnf_loss loss) { return v_set1(loss == NNF_LINEAR ? 1 : 2); }
NNF_INLINE V FN(square_part)(nnf_loss loss) { return v_set1(loss == NNF_LINEAR ? 0 : 1); }
