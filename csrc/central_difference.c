/* central_difference.c - the loop over the coordinates of a compiled function, on all threads. */
#include <stdlib.h>
#include <string.h>

#include "nnframe.h"

/* Coordinates of a task: so many that a copy of x is paid for, so few that a task lasts some milliseconds, after
 * which poll is asked. */
enum { MOST_COORDINATES = 64, TASK_NANOSECONDS = 5000000 };

typedef struct {
    nnf_function f;
    void *data;
    const double *x, *step;
    intptr_t n;
    double *grad;
    intptr_t coordinates;
    volatile int failed;
} job;

static void some_coordinates(void *context, intptr_t task) {
    job *j = context;
    const intptr_t first = task * j->coordinates;
    const intptr_t end = first + j->coordinates < j->n ? first + j->coordinates : j->n;
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
    job j = {f, data, x, step, n, grad, 1, 0};
    if (n == 0) return 0;
    const int64_t start = nnf_nanoseconds();
    some_coordinates(&j, 0); /* once more below: it tells how long one takes */
    const int64_t one = nnf_nanoseconds() - start;
    while (j.coordinates < MOST_COORDINATES && 2 * j.coordinates * one < TASK_NANOSECONDS)
        j.coordinates *= 2;
    const int answer = nnf_parallel_polled((n + j.coordinates - 1) / j.coordinates, some_coordinates, &j, poll);
    return j.failed ? NNF_NO_MEMORY : answer;
}
