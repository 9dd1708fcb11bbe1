/* tuning.h - sizes of blocks, tiles and tasks: what was measured, and may be measured anew for another processor.
 *
 * No result depends on them, but for the rounding of sums: over k, which are cut at NNF_BLOCK_K, and taken along lanes
 * up to NNF_MOST_FEW and NNF_PACKED_FEW; and over the rows of a network or the images of a
 * convolution, which are cut into tasks. */
#ifndef NNFRAME_TUNING_H
#define NNFRAME_TUNING_H

/* ---- matrix product: see matmul.inc.h ---- */

/* Most rows of a tile with two vectors of columns: 2 rows + 2 + 1 vectors must be registers, of which there are 32 for
 * 64 bytes, 16 for 32 bytes, 32 for 16 bytes (NEON). */
#define NNF_TILE_ROWS(vector_bytes)                                                                                    \
    ((vector_bytes) == 64 ? 14 : (vector_bytes) == 32 ? 6 : (vector_bytes) == 16 ? 12 : 4)
/* With one vector of columns: a sum waits 4 to 5 cycles for itself, at two a cycle, so that 6 rows would not do. */
#define NNF_TALL_ROWS(vector_bytes)                                                                                    \
    ((vector_bytes) == 64 ? 14 : (vector_bytes) == 32 ? 12 : (vector_bytes) == 16 ? 12 : 4)

enum {
    NNF_BLOCK_K = 256,      /* a panel of B, 32 KiB, and a strip of A are in the L1 cache */
    NNF_BLOCK_M_TILES = 12, /* so many tiles of rows: a block of A is in the L2 cache */
    NNF_BLOCK_N = 4096,     /* the packed part of B is in the L3 cache */
    NNF_FEW_ROWS_TILES =
        2, /* with so few tiles of rows B is read once or twice: in place, if its columns are contiguous */
    NNF_MANY_ROWS_TILES = 8, /* up to so many matrices of one panel go one after another, all in one way */
    NNF_NEAR_ROWS = 2048,    /* bytes from one row of B to the next, up to which it is read in place as well */
    NNF_SMALL_B = 1 << 12,   /* elements of B that are in the L1 cache anyhow; what is packed is packed on the stack */
    NNF_SHARED_B = 1 << 16,  /* elements of B; a larger one is packed once, by all threads */
    NNF_SHARED_PACK = 1 << 15,   /* elements of a block of B that are worth packing on several threads */
    NNF_MOST_FEW = 24,           /* rows of A or columns of B that may be taken as dots, with lanes along k */
    NNF_PACKED_FEW = 1 << 13,    /* elements of those few that are packed, on the stack */
    NNF_STREAM = 1 << 24,        /* bytes that come from memory */
    NNF_SHORT_ROWS = 16,         /* of a short k, for all columns, */
    NNF_SHORT_LEAST = 4,         /* and how many are worth loading B first */
    NNF_STREAM_ROWS = 6,         /* of A, for which a B that comes from memory is packed */
    NNF_TURNED_ROWS = 256,       /* of a transposed A, taken at a time as columns */
    NNF_ROWS_AHEAD = 8,          /* of B, asked for by a tile */
    NNF_NEAR_B = 1 << 19,        /* bytes of a block of B that stay in the L2 cache */
    NNF_SUM_BYTES = 200,         /* a nanosecond: 50 float32 multiplications and additions */
    NNF_STREAM_BYTES = 20,       /* a nanosecond, of operands and result */
    NNF_TASK_NANOSECONDS = 10000 /* of work: well above what it costs to hand a task over */
};

/* ---- convolution: see convolution.inc.h ---- */

enum {
    NNF_CHUNK_BYTES = 1 << 17,  /* of planes in scratch: they stay in the L2 cache */
    NNF_CHUNK_COLUMNS = 256,    /* from small images as many as fill so many columns; */
    NNF_COLUMNS_PER_CHUNK = 16, /* that what comes with each chunk costs as much as; */
    NNF_SUM_COLUMNS = 2048,     /* more where they are summed, as lanes are added up after each chunk */
    NNF_SUM_PARTS = 16,         /* tasks of a weight's gradient, */
    NNF_MOST_SUMS = 1 << 22     /* and doubles for their sums */
};

/* ---- elements per task: some 10 us of work ---- */

enum {
    NNF_ACTIVATION_TASK = 1 << 15,
    NNF_SOFTMAX_TASK = 1 << 14,
    NNF_UPDATE_TASK = 1 << 15,
    NNF_FEW_CLASSES = 32 /* up to here rows are side by side, one per lane */
};

/* ---- networks: see network.inc.h ---- */

enum {
    NNF_TILE_LANES = 8,            /* 64-byte vectors of rows in a tile */
    NNF_TILED_WEIGHTS = 1 << 14,   /* of a network that is small enough to be taken a tile of rows at a time */
    NNF_TILE_TASK_FLOPS = 1 << 19, /* some 10 us of work, */
    NNF_LINES = 16,                /* of a product that several units share, by differences: a strip of rows or so */
    NNF_TILE_TASKS = 32,           /* and not more sums of gradients to add up than so many */
    NNF_FEW_ENTRIES = 96,          /* so many times fewer entries than all are summed one by one, */
    NNF_ENTRY_TASK = 1 << 14       /* so many products a task */
};

/* ---- normalisation: see normalization.inc.h ---- */

enum { NNF_SUMMED_LANES = 64 }; /* numbers that are summed in the element type, before they are added in double */

/* ---- sequences: see recurrent.inc.h and attention.inc.h ---- */

enum {
    NNF_CELL_ROWS = 56,              /* of a task, at most: what they read and write in a step stays in the L2 cache */
    NNF_ATTENTION_NUMBERS = 1 << 14, /* scores of a tile of queries, two of which are in the L2 cache, */
    NNF_ATTENTION_LEAST = 14         /* and the least queries that are worth a pass over all keys */
};

/* ---- central differences: see propagation.inc.h ---- */

enum {
    NNF_MOST_HALF = 256,             /* perturbations by +step in a tile: enough to fill vectors, */
    NNF_TILE_BYTES = 1 << 19,        /* few enough that two sets of rows stay in the L2 cache */
    NNF_UNIT_TASK_FLOPS = 200000000, /* a task of some 20 ms at most */
    NNF_LEAST_UNIT_TASKS = 8,        /* and some for every thread */
    NNF_CURVE_ROWS = 16,             /* rows of a tile of curves are a multiple of it: of every number of lanes */
    NNF_SELECTED_TASK = 512,         /* products of a task */
    NNF_SPARSE_TASK = 32,            /* rows of a sparse matrix of a task, */
    NNF_SPARSE_VECTORS = 8,          /* and vectors of a row of the product that are summed at once */
    NNF_ROWS_PER_POLL = 16,
    NNF_CHANNEL_BYTES = 1 << 19, /* of a tile of a convolution's changes, */
    NNF_CHANNEL_ROWS = 4,        /* rows of a task, */
    NNF_CHANNEL_BLOCKS = 64,     /* and not more sums to add up than so many; */
    NNF_CHANNEL_SUM = 64,        /* lines that are summed in the element type, before they are added in double; */
    NNF_CHANNEL_AGAIN = 4        /* so many times more outputs than inputs: rather computed again than stored */
};

/* ---- functions of which one variable has been moved: see moved.c ---- */

enum {
    NNF_LINE = 64,                       /* bytes, to which f is given x aligned: its vectors then lie in one line */
    NNF_MOVED_TASK_ENTRIES = 64,         /* enough to amortise the task's copy of x, */
    NNF_MOVED_TASK_NANOSECONDS = 5000000 /* few enough that poll is called in between */
};

/* ---- functions of which some entries have been moved: see changes.c ---- */

enum { NNF_CHANGES_BLOCK = 64 }; /* entries of a move whose sums are held at a time */

/* ---- memory that is used again: see spare.c ---- */

enum {
    NNF_SPARE_BYTES = 1 << 27, /* kept at most, */
    NNF_SPARE_BLOCKS = 64      /* in so many blocks */
};

/* ---- threads: see pool.c ---- */

enum {
    NNF_SPIN_NANOSECONDS = 50000, /* of an idle worker, before it sleeps: as long as it takes to wake one */
    NNF_LEAST_SHARED = 20000, /* nanoseconds of work that may be worth a second thread: one that is awake costs 1000 */
    NNF_MOST_GAINED = 10000000, /* nanoseconds of the pool's account */
    NNF_MOST_OVERDRAWN = 50000,
    NNF_REST = 15, /* times as much work on one thread as was lost */
    NNF_MOST_WORKERS = 255,
    NNF_POLL_NANOSECONDS = 50000000
};

#endif
