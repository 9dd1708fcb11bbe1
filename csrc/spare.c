/* spare.c - memory that is kept for the next array of its size.
 *
 * A large block of malloc is mapped anew each time, and every page of it costs more when it is first written to than
 * what is written. A step of training makes the same arrays again and again. */
#include "nnframe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tuning.h"

typedef struct {
    void *memory;
    size_t bytes;
} block_t;

static block_t spare[NNF_SPARE_BLOCKS]; /* the oldest first */
static int count;
static size_t held;
static atomic_flag busy = ATOMIC_FLAG_INIT; /* whoever finds it set does without */

static block_t removed(int i) {
    const block_t block = spare[i];
    memmove(spare + i, spare + i + 1, (size_t)(--count - i) * sizeof *spare);
    held -= block.bytes;
    return block;
}

void *nnf_take(size_t *bytes) {
    const size_t need = (*bytes + 4095) / 4096 * 4096;
    block_t block = {NULL, need};
    if (!atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        int best = -1;
        for (int i = count - 1; i >= 0; i--)
            if (spare[i].bytes >= need && spare[i].bytes - need <= need / 4 &&
                (best < 0 || spare[i].bytes < spare[best].bytes))
                best = i;
        if (best >= 0) block = removed(best);
        atomic_flag_clear_explicit(&busy, memory_order_release);
    }
    *bytes = block.bytes;
    return block.memory ? block.memory : malloc(block.bytes);
}

void nnf_give(void *memory, size_t bytes) {
    void *old[NNF_SPARE_BLOCKS];
    int olds = 0;
    if (!memory) return;
    if (bytes <= NNF_SPARE_BYTES && !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        while (count == NNF_SPARE_BLOCKS || held + bytes > NNF_SPARE_BYTES)
            old[olds++] = removed(0).memory;
        spare[count++] = (block_t){memory, bytes};
        held += bytes;
        atomic_flag_clear_explicit(&busy, memory_order_release);
        memory = NULL;
    }
    free(memory);
    while (olds > 0)
        free(old[--olds]);
}
