/* moved.c - a compiled function where one of its variables has been moved, on all threads. */
#include <stdlib.h>
#include <string.h>

#include "nnframe.h"
#include "tuning.h"

typedef struct {
    const nnf_moved *p;
    intptr_t entries; /* of a task */
    _Atomic int failed;
} job;

static void some_entries(void *context, intptr_t task) {
    job *j = context;
    const nnf_moved *p = j->p;
    const intptr_t first = task * j->entries, end = first + j->entries < p->count ? first + j->entries : p->count;
    void *memory = malloc(((size_t)p->n + NNF_LINE / sizeof(double)) * sizeof(double));
    if (!memory) {
        j->failed = 1;
        return;
    }
    double *x = (double *)(((uintptr_t)memory + NNF_LINE - 1) / NNF_LINE * NNF_LINE);
    memcpy(x, p->x, (size_t)p->n * sizeof(double));
    for (intptr_t i = first; i < end; i++) {
        for (intptr_t k = 0; k < p->values; k++) {
            x[p->index[i]] = p->value[i * p->values + k];
            p->out[i * p->values + k] = p->f(x, p->n, p->data);
        }
        x[p->index[i]] = p->x[p->index[i]];
    }
    free(memory);
}

int nnf_evaluate_moved(const nnf_moved *p, nnf_poll poll) {
    job j = {p, 1, 0};
    if (p->count == 0) return 0;
    const int64_t start = nnf_nanoseconds();
    some_entries(&j, 0); /* by itself: to see how long one takes */
    const int64_t one = nnf_nanoseconds() - start;
    if (p->count == 1) return j.failed ? NNF_NO_MEMORY : 0;
    while (j.entries < NNF_MOVED_TASK_ENTRIES && 2 * j.entries * one < NNF_MOVED_TASK_NANOSECONDS)
        j.entries *= 2;
    nnf_moved rest = *p;
    rest.count--, rest.index++, rest.value += p->values, rest.out += p->values;
    j.p = &rest;
    const int answer = nnf_parallel_polled((rest.count + j.entries - 1) / j.entries, some_entries, &j, poll);
    return j.failed && !answer ? NNF_NO_MEMORY : answer;
}
