/* changes.c - functions of which some entries have been moved: copies of an array with the moves in them, and quotients
 * from what the function gives there. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "nnframe.h"
#include "tuning.h"

void nnf_moved_copies(const nnf_copies *p) {
    for (intptr_t s = 0; s < p->moves; s++) {
        const intptr_t *index = p->index + s % p->rows * p->entries;
        const double *value = p->value + s * p->entries;
        double *out = p->out + s * p->n;
        memcpy(out, p->x, (size_t)p->n * sizeof(double));
        for (intptr_t j = 0; j < p->entries; j++)
            out[index[j]] = value[j];
    }
}

typedef struct { /* over the outputs of each of some entries */
    double wide[NNF_CHANGES_BLOCK], near[NNF_CHANGES_BLOCK], size[NNF_CHANGES_BLOCK], noise[NNF_CHANGES_BLOCK];
} sums;

/* Adds what lies at y, weight and noise: (count, after). */
static void add(sums *to, intptr_t count, intptr_t after, const double *y, intptr_t side, const double *weight,
                const double *noise) {
    const double *up = y, *down = y + side, *half_up = y + 2 * side, *half_down = y + 3 * side;
    for (intptr_t j = 0; j < count; j++) {
        double wide = 0, near = 0, size = 0, rounding = 0;
        for (intptr_t i = j * after; i < (j + 1) * after; i++) {
            const double change = (half_up[i] - half_down[i]) * weight[i];
            wide += (up[i] - down[i]) * weight[i];
            near += change;
            size += fabs(change);
            rounding += noise[i];
        }
        to->wide[j] += wide, to->near[j] += near, to->size[j] += size, to->noise[j] += rounding;
    }
}

static void add_columns(sums *to, intptr_t count, const double *y, intptr_t side, const double *weight,
                        const double *noise) {
    const double *up = y, *down = y + side, *half_up = y + 2 * side, *half_down = y + 3 * side;
    for (intptr_t j = 0; j < count; j++) {
        const double change = (half_up[j] - half_down[j]) * weight[j];
        to->wide[j] += (up[j] - down[j]) * weight[j];
        to->near[j] += change;
        to->size[j] += fabs(change);
        to->noise[j] += noise[j];
    }
}

/* Writes the quotients of a move for the entries from `first`. */
static void divide(const nnf_quotients *p, intptr_t s, intptr_t first, intptr_t count, const sums *from) {
    const intptr_t all = p->count, at = s * p->entries + first;
    double *value = p->out + at, *bound = value + all, *sizes = bound + all;
    for (intptr_t j = 0; j < count; j++) {
        const double *end = p->end + at + j, step = p->step[at + j];
        const double near = from->near[j] / (end[2 * all] - end[3 * all]);
        const double apart = near - from->wide[j] / (end[0] - end[all]);
        const double size = from->size[j] / step;
        const double noise = size == 0 && step < p->resolved ? INFINITY : from->noise[j] / step;
        value[j] = near + apart / 3;
        bound[j] = fabs(apart) + 8 * noise + 16 * DBL_EPSILON * size;
        sizes[j] = size;
    }
}

void nnf_change_quotients(const nnf_quotients *p) {
    for (intptr_t s = 0; s < p->moves; s++)
        for (intptr_t first = 0, count; first < p->entries; first += count) {
            sums found = {{0}};
            count = p->entries - first < NNF_CHANGES_BLOCK ? p->entries - first : NNF_CHANGES_BLOCK;
            for (intptr_t b = 0; b < p->before; b++) {
                const double *y = p->y + s * p->y_move + b * p->y_before + first * p->after;
                const intptr_t output = (b * p->entries + first) * p->after;
                if (p->after == 1)
                    add_columns(&found, count, y, p->y_side, p->weight + output, p->noise + output);
                else
                    add(&found, count, p->after, y, p->y_side, p->weight + output, p->noise + output);
            }
            divide(p, s, first, count, &found);
        }
}

void nnf_central_quotients(const nnf_central *p) {
    double *width = p->out, *quotient = width + p->count, *change = quotient + p->count;
    for (intptr_t i = 0; i < p->count; i++) {
        const double up = p->y[2 * i], down = p->y[2 * i + 1];
        const double size = fabs(up - down), bend = fabs((up - p->base) + (down - p->base));
        const double a = fabs(up), b = fabs(down), coarse = p->relative * (a > b ? a : b);
        const double noise = coarse > p->noise ? coarse : p->noise;
        width[i] = p->value[2 * i] - p->value[2 * i + 1];
        quotient[i] = (up - down) / width[i];
        change[i] = size;
        p->sure[i] = (bend <= p->curved * size + 4 * noise) & (noise <= p->rounded * size) & (size < INFINITY);
    }
}

/* How far x[i] has been moved, and what the function changes by. */
static void moves_of(const nnf_slopes *p, intptr_t i, double way[4], double change[4]) {
    static const double side[4] = {1, -1, 0.5, -0.5};
    for (intptr_t k = 0; k < 4; k++) {
        const double value = p->value[k * p->count + i];
        way[k] = p->way ? p->way[k * p->count + i] : (p->x[i] + side[k] * p->size[i]) - p->x[i];
        change[k] = p->base ? value - p->base[i] : value;
    }
}

static double largest_quotient(const nnf_slopes *p) {
    double most = 0;
    for (intptr_t i = 0; i < p->count; i++) {
        double w[4], c[4];
        moves_of(p, i, w, c);
        const double size = fabs((c[0] - c[1]) / (w[0] - w[1]));
        most = size > most && size < INFINITY ? size : most;
    }
    return most;
}

double nnf_measured_slopes(const nnf_slopes *p) {
    const double scale = largest_quotient(p);
    double bend = 0;
    for (intptr_t i = 0; i < p->count; i++) {
        double w[4], c[4];
        moves_of(p, i, w, c);
        const double whole = (c[0] - c[1]) / (w[0] - w[1]), half = (c[2] - c[3]) / (w[2] - w[3]);
        const double apart = c[0] / w[0] - c[1] / w[1], near = c[2] / w[2] - c[3] / w[3];
        const double beside = p->base ? (fabs(p->base[i]) + fabs(p->x[i] * whole)) / p->size[i] : fabs(whole);
        const double noise = 16 * p->eps * beside, most = noise > p->close * scale ? noise : p->close * scale;
        const int still = c[0] == 0 && c[1] == 0 && c[2] == 0 && c[3] == 0;
        if (!p->left[i] ||
            !(fabs(whole - half) <= most && fabs(apart - 2 * near) <= 4 * most && (noise <= p->noisy * scale || still)))
            continue;
        p->slope[i] = (4 * half - whole) / 3, p->reach[i] = p->size[i], p->left[i] = 0;
        bend = fabs(apart) / p->size[i] > bend ? fabs(apart) / p->size[i] : bend;
    }
    return bend;
}

void nnf_moved_along(intptr_t count, const double *start, const double *way, double distance, double *out) {
    for (intptr_t i = 0; i < count; i++)
        out[i] = start[i] + distance * way[i];
}
