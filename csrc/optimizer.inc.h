/* optimizer.inc.h - one step of a parameter: every rule in one pass over value, gradient and state. */

/* Rprop (Riedmiller and Braun 1993; as in PyTorch without weight backtracking): a step of its own for each entry,
 * longer by beta2 where the gradient keeps its sign, shorter by beta1 where it changes, within eps and gain; after a
 * change of sign the entry rests, and its gradient counts as 0 in the next step. */
NNF_INLINE V FN(rprop)(const nnf_update *p, V w, V g, V *m, V *s) {
    const V zero = v_set1(0), product = g * *m;
    const V factor =
        v_select(product > zero, v_set1((T)p->beta2), v_select(product < zero, v_set1((T)p->beta1), v_set1(1)));
    *s = v_max(v_set1((T)p->eps), v_min(v_set1((T)p->gain), *s * factor));
    *m = v_select(product < zero, zero, g);
    return w - v_select(*m > zero, *s, v_select(*m < zero, -*s, *m)); /* NaN stays */
}

/* The new w; m, s and k are changed. Called with a constant rule, so that the switch folds away. */
NNF_INLINE V FN(update_of)(nnf_rule rule, const nnf_update *p, V w, V g, V *m, V *s, V *k) {
    const V rate = v_set1((T)p->rate), beta1 = v_set1((T)p->beta1), rest2 = v_set1((T)(1 - p->beta2));
    const V rest1 = v_set1((T)(1 - p->beta1)), eps = v_set1((T)p->eps), gain = v_set1((T)p->gain);
    g = g + v_set1((T)p->decay) * w;
    w = w - v_set1((T)p->shrink) * w;
    switch (rule) {
    case NNF_MOMENTUM:
        *m = beta1 * *m + gain * g;
        return w - rate * *m;
    case NNF_NESTEROV:
        *m = beta1 * *m + g;
        return w - rate * (g + beta1 * *m);
    case NNF_ADAGRAD:
        *s = *s + g * g;
        return w - rate * g / (v_sqrt(*s) + eps);
    case NNF_RMSPROP:
        *s = *s + rest2 * (g * g - *s);
        return w - rate * g / (v_sqrt(*s) + eps);
    case NNF_CENTERED:
        *m = *m + rest2 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        return w - rate * g / (v_sqrt(v_max(v_set1(0), *s - *m * *m)) + eps);
    case NNF_RMSPROP_MOMENTUM:
        *s = *s + rest2 * (g * g - *s);
        *m = beta1 * *m + g / (v_sqrt(*s) + eps);
        return w - rate * *m;
    case NNF_CENTERED_MOMENTUM:
        *m = *m + rest2 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        *k = beta1 * *k + g / (v_sqrt(v_max(v_set1(0), *s - *m * *m)) + eps);
        return w - rate * *k;
    case NNF_ADAM:
        *m = *m + rest1 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        return w - rate * *m / (v_sqrt(*s) + eps);
    case NNF_AMSGRAD:
        *m = *m + rest1 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        *k = v_max(*k, *s);
        return w - rate * *m / (v_sqrt(*k) + eps);
    case NNF_NADAM:
        *m = *m + rest1 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        return w - rate * (*m + gain * g) / (v_sqrt(*s) + eps);
    case NNF_RADAM:
        *m = *m + rest1 * (g - *m);
        *s = *s + rest2 * (g * g - *s);
        return w - rate * *m / (gain * v_sqrt(*s) + eps);
    case NNF_LION: {
        const V way = *m + rest1 * (g - *m), zero = v_set1(0);
        *m = *m + rest2 * (g - *m);
        return w - v_select(way > zero, rate, v_select(way < zero, -rate, way)); /* NaN stays */
    }
    case NNF_RPROP:
        return FN(rprop)(p, w, g, m, s);
    case NNF_SGD:
        break;
    }
    return w - rate * g;
}

NNF_INLINE void FN(update_loop)(nnf_rule rule, int has_m, int has_s, int has_k, const nnf_update *p, intptr_t first,
                                intptr_t n) {
    T *w = (T *)p->w + first, *m = has_m ? (T *)p->m + first : NULL, *s = has_s ? (T *)p->s + first : NULL;
    T *k = has_k ? (T *)p->k + first : NULL;
    const T *g = (const T *)p->g + first;
    V mean = v_set1(0), square = v_set1(0), most = v_set1(0);
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        if (has_m) mean = v_load(m + i);
        if (has_s) square = v_load(s + i);
        if (has_k) most = v_load(k + i);
        v_store(w + i, FN(update_of)(rule, p, v_load(w + i), v_load(g + i), &mean, &square, &most));
        if (has_m) v_store(m + i, mean);
        if (has_s) v_store(s + i, square);
        if (has_k) v_store(k + i, most);
    }
    if (i == n) return;
    if (has_m) mean = v_load_n(m + i, n - i);
    if (has_s) square = v_load_n(s + i, n - i);
    if (has_k) most = v_load_n(k + i, n - i);
    v_store_n(w + i, FN(update_of)(rule, p, v_load_n(w + i, n - i), v_load_n(g + i, n - i), &mean, &square, &most),
              n - i);
    if (has_m) v_store_n(m + i, mean, n - i);
    if (has_s) v_store_n(s + i, square, n - i);
    if (has_k) v_store_n(k + i, most, n - i);
}

static void FN(update_task)(void *context, intptr_t task) {
    const nnf_update *p = context;
    const intptr_t first = task * NNF_UPDATE_TASK, left = p->n - first;
    const intptr_t n = left < NNF_UPDATE_TASK ? left : NNF_UPDATE_TASK;
    switch (p->rule) {
#define NNF_RULE(id, name, m, s, k)                                                                                    \
    case NNF_##id:                                                                                                     \
        FN(update_loop)(NNF_##id, m, s, k, p, first, n);                                                               \
        break;
#include "rules.def"
    }
}

static void FN(update)(const nnf_update *p) {
    nnf_parallel((p->n + NNF_UPDATE_TASK - 1) / NNF_UPDATE_TASK, FN(update_task), (void *)p);
}

/* 0 x is 0 for every finite x, and NaN for the others. */
static int FN(all_finite)(intptr_t n, const void *x) {
    const T *numbers = x;
    V sum = v_set1(0);
    T lanes[LANES];
    intptr_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum = sum + v_load(numbers + i) * v_set1(0);
    if (i < n) sum = sum + v_load_n(numbers + i, n - i) * v_set1(0);
    v_store(lanes, sum);
    for (intptr_t j = 0; j < LANES; j++)
        if (lanes[j] != 0) return 0;
    return 1;
}
