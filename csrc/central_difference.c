/* central_difference.c - the loop over the coordinates of a compiled function, on all threads. */
#include <stdlib.h>
#include <string.h>

#include "nnframe.h"

/* Coordinates a task: few, so that poll is asked often, yet enough to pay for a copy of x. */
enum { COORDINATES = 16 };

typedef struct {
    nnf_function f;
    void *data;
    const double *x, *step;
    intptr_t n;
    double *grad;
    volatile int failed;
} job;

static void some_coordinates(void *context, intptr_t task) {
    job *j = context;
    const intptr_t first = task * COORDINATES;
    const intptr_t end = first + COORDINATES < j->n ? first + COORDINATES : j->n;
    double *x = malloc((size_t)j->n * sizeof(double));
    if (!x) {
        j->failed = 1;
        return;
    }
    memcpy(x, j->x, (size_t)j->n * sizeof(double));
    for (intptr_t i = first; i < end; i++) {
        const double above = j->x[i] + j->step[i], below = j->x[i] - j->step[i];
        x[i] = above;
        const double upper = j->f(x, j->n, j->data);
        x[i] = below;
        const double lower = j->f(x, j->n, j->data);
        x[i] = j->x[i];
        j->grad[i] = (upper - lower) / (above - below);
    }
    free(x);
}

int nnf_central_difference(nnf_function f, void *data, const double *x, intptr_t n, const double *step, double *grad,
                           nnf_poll poll) {
    job j = {f, data, x, step, n, grad, 0};
    const int answer = nnf_parallel_polled((n + COORDINATES - 1) / COORDINATES, some_coordinates, &j, poll);
    return j.failed ? NNF_NO_MEMORY : answer;
}
