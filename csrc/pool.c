/* pool.c - the thread pool: one job at a time, tasks taken from a shared counter.
 *
 * The calling thread works too. Idle workers spin for some microseconds, so that the next small job finds
 * them awake, then sleep on a condition variable, so that they never stand in the way of another library's
 * threads.
 *
 * Other threads may cost more than they bring: they have to be woken, and where another process is busy, the caller
 * may wait for one that does not get its processor back for milliseconds. So an account is kept of what they have
 * brought (see `settle`). When it is overdrawn they rest, while the caller does some times as much work alone.
 *
 * All that the two sides must agree on is one atomic word, `state`:
 *
 *     bits 32..63   generation: counts jobs
 *     bit  31       open: workers may still join this job
 *     bits 0..30    how many workers are inside
 *
 * A worker joins by raising the count while the job is open; the caller closes the job when no task is
 * left to take and waits only for those inside. A worker that slept through a job is never waited for.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <stdint.h>

#include "nnframe.h"
#include "tuning.h"

#if defined(__GNUC__) && !defined(_WIN32)

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define OPEN              ((uint64_t)1 << 31)
#define INSIDE            (OPEN - 1)
#define GENERATION(state) ((state) >> 32)

static struct {
    _Atomic uint64_t state;
    _Atomic intptr_t next; /* the first task that nobody has taken */
    _Atomic int cancelled;
    _Atomic int sleepers;
    _Atomic int64_t helped; /* nanoseconds that workers were inside this job */
    nnf_task run;
    void *context;
    intptr_t tasks;
    _Atomic int most_inside; /* a worker that comes late may read that of the next job, and then cannot join */
    pthread_mutex_t caller;  /* held by the thread whose job is running */
    pthread_mutex_t sleep;
    pthread_cond_t wake, done;
    _Atomic int caller_sleeps;
    int workers;    /* started so far; changed under `caller` */
    int64_t gained; /* the account, in nanoseconds; changed under `caller` */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static _Atomic int num_threads = 1;
static _Atomic int most_at_once = 1;
static _Atomic int64_t resting; /* nanoseconds of work that are still to be done on the calling thread alone */
static int forks;               /* that led to this process, while it had the pool */
static pthread_once_t fork_handler_once = PTHREAD_ONCE_INIT;

/* A call of nnf_parallel_polled. Calls of one thread nest: inside a task, and when poll runs a signal handler that uses
 * a kernel. Each has its own poll and its own answer. */
typedef struct call {
    struct call *outer;
    nnf_poll poll;  /* may be NULL */
    int64_t polled; /* when poll was called last */
    int answer;
    int owns_job; /* the pool runs this call's tasks: only this call may cancel them */
} call;

static __thread struct {
    call *innermost;
    int inside_a_task; /* of the pool */
    int owns_pool;     /* holds pool.caller */
} here;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int64_t nnf_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void run_tasks(void) {
    const int64_t start = nnf_nanoseconds();
    here.inside_a_task = 1;
    while (!atomic_load_explicit(&pool.cancelled, memory_order_relaxed)) {
        const intptr_t task = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (task >= pool.tasks) break;
        pool.run(pool.context, task);
    }
    here.inside_a_task = 0;
    atomic_fetch_add_explicit(&pool.helped, nnf_nanoseconds() - start, memory_order_relaxed);
}

/* Spins, then sleeps, until there is a job newer than `seen`; returns the state that says so. Whoever else waits for
 * this processor goes first: it may be the caller. */
static uint64_t wait_for_job(uint64_t seen) {
    const int64_t end = nnf_nanoseconds() + NNF_SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) { /* a pause takes 5 to 50 ns, by the processor */
            const uint64_t state = atomic_load(&pool.state);
            if (GENERATION(state) != seen) return state;
            relax();
        }
        sched_yield();
    } while (nnf_nanoseconds() < end);
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1);
    while (GENERATION(atomic_load(&pool.state)) == seen)
        pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load(&pool.state);
}

static void wake_caller(void) {
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_signal(&pool.done);
    pthread_mutex_unlock(&pool.sleep);
}

static void *worker(void *first_seen) {
    uint64_t seen = (uint64_t)(uintptr_t)first_seen;
    for (;;) {
        uint64_t state = wait_for_job(seen);
        seen = GENERATION(state);
        while (GENERATION(state) == seen && (state & OPEN) &&
               (int)(state & INSIDE) < atomic_load_explicit(&pool.most_inside, memory_order_relaxed)) {
            if (!atomic_compare_exchange_weak(&pool.state, &state, state + 1)) continue;
            run_tasks();
            atomic_fetch_sub(&pool.state, 1);
            if (atomic_load(&pool.caller_sleeps)) wake_caller();
            break;
        }
    }
    return NULL;
}

/* In a child made by fork only the forking thread lives on: forget the workers, start new ones when needed. Where that
 * thread owns the pool (a signal handler, run by poll, has forked), it goes on owning it; see run_in_pool. */
static void after_fork_in_child(void) {
    forks++;
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    atomic_store(&pool.caller_sleeps, 0);
    if (here.owns_pool)
        pthread_mutex_lock(&pool.caller);
    else
        here.inside_a_task = 0;
    atomic_store(&pool.state, 0);
    atomic_store(&pool.sleepers, 0);
    pool.workers = 0;
}

static void install_fork_handler(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }

static void start_workers(int needed) {
    while (pool.workers < needed) {
        pthread_attr_t attributes;
        pthread_t thread;
        void *seen = (void *)(uintptr_t)GENERATION(atomic_load(&pool.state));
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&thread, &attributes, worker, seen);
        pthread_attr_destroy(&attributes);
        if (failed) return; /* fewer threads do the same work */
        pool.workers++;
    }
}

static void open_job(intptr_t first, intptr_t tasks, nnf_task run, void *context, int helpers) {
    pool.run = run;
    pool.context = context;
    pool.tasks = tasks;
    atomic_store_explicit(&pool.most_inside, helpers, memory_order_relaxed);
    atomic_store_explicit(&pool.next, first, memory_order_relaxed);
    atomic_store_explicit(&pool.cancelled, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.helped, 0, memory_order_relaxed);
    const uint64_t generation = GENERATION(atomic_load(&pool.state)) + 1;
    atomic_store(&pool.state, (generation << 32) | OPEN);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.sleep);
        for (int i = 0; i < helpers; i++)
            pthread_cond_signal(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
}

int nnf_should_stop(void) {
    call *c = here.innermost;
    if (!c || !c->poll) return here.inside_a_task && atomic_load_explicit(&pool.cancelled, memory_order_relaxed);
    if (c->answer) return c->answer;
    const int64_t now = nnf_nanoseconds();
    if (now - c->polled < NNF_POLL_NANOSECONDS) return 0;
    c->polled = now;
    c->answer = c->poll();
    if (c->answer && c->owns_job) atomic_store(&pool.cancelled, 1);
    return c->answer;
}

/* run_tasks for the calling thread, with a look at poll() every 50 ms where there is one; returns how many. */
static intptr_t run_own_tasks(const call *c, int forks_before) {
    intptr_t own = 0;
    while (c->poll ? !nnf_should_stop() && forks == forks_before : 1) {
        const intptr_t task = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (task >= pool.tasks) break;
        here.inside_a_task = 1;
        pool.run(pool.context, task);
        here.inside_a_task = 0;
        own++;
    }
    return own;
}

/* Waits for the workers inside: spins, then sleeps, so that one that has lost its processor may have this one. */
static void close_job(void) {
    uint64_t state = atomic_fetch_and(&pool.state, ~OPEN);
    if (!(state & INSIDE)) return;
    const int64_t end = nnf_nanoseconds() + NNF_SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 16; i++) {
            if (!(atomic_load(&pool.state) & INSIDE)) return;
            relax();
        }
    } while (nnf_nanoseconds() < end);
    pthread_mutex_lock(&pool.sleep);
    atomic_store(&pool.caller_sleeps, 1);
    while (atomic_load(&pool.state) & INSIDE)
        pthread_cond_wait(&pool.done, &pool.sleep);
    atomic_store(&pool.caller_sleeps, 0);
    pthread_mutex_unlock(&pool.sleep);
}

/* Enters a job into the account: what others did would have taken the caller as long as it took them, or as its own
 * tasks took it; where the two differ, the longer one was interrupted. Against that stand the times to open the job and
 * to wait for the others at its end. Old gains do not count without end: a stall is to be answered soon. */
static void settle(intptr_t own, intptr_t others, int64_t to_open, int64_t worked, int64_t waited) {
    const int64_t helped = atomic_load_explicit(&pool.helped, memory_order_relaxed);
    const double alike = own > 0 ? (double)worked * (double)others / (double)own : (double)helped;
    pool.gained += (alike < (double)helped ? (int64_t)alike : helped) - to_open - waited;
    if (pool.gained > NNF_MOST_GAINED) pool.gained = NNF_MOST_GAINED;
    if (pool.gained >= -NNF_MOST_OVERDRAWN) return;
    atomic_store_explicit(&resting, -pool.gained * NNF_REST, memory_order_relaxed);
    pool.gained = 0;
}

static void run_serially(intptr_t first, intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    for (intptr_t task = first; task < tasks && !(poll && nnf_should_stop()); task++)
        run(context, task);
}

/* Tasks on the calling thread, while the others rest; returns the first that has not run. */
static intptr_t run_while_others_rest(intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    int64_t left = atomic_load_explicit(&resting, memory_order_relaxed);
    if (left <= 0) return 0;
    int64_t before = nnf_nanoseconds();
    intptr_t task = 0;
    for (; task < tasks && left > 0 && !(poll && nnf_should_stop()); task++) {
        run(context, task);
        const int64_t now = nnf_nanoseconds();
        left -= now - before, before = now;
    }
    atomic_store_explicit(&resting, left, memory_order_relaxed);
    return task;
}

/* With pool.caller held. A child that poll forked has lost the tasks which other threads were running: there all of
 * them are run once more. */
static void run_in_pool(intptr_t first, intptr_t tasks, nnf_task run, void *context, call *c, int helpers) {
    const int forks_before = forks;
    here.owns_pool = 1, c->owns_job = 1;
    start_workers(helpers);
    const int64_t start = nnf_nanoseconds();
    open_job(first, tasks, run, context, helpers);
    const int64_t opened = nnf_nanoseconds();
    const intptr_t own = run_own_tasks(c, forks_before);
    const int64_t worked = nnf_nanoseconds();
    close_job();
    if (!c->answer && forks == forks_before)
        settle(own, tasks - first - own, opened - start, worked - opened, nnf_nanoseconds() - worked);
    here.owns_pool = 0, c->owns_job = 0;
    pthread_mutex_unlock(&pool.caller);
    if (c->poll && forks != forks_before) run_serially(0, tasks, run, context, c->poll);
}

int nnf_parallel_polled(intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    const int threads = atomic_load_explicit(&most_at_once, memory_order_relaxed);
    call c = {.outer = here.innermost, .poll = poll};
    if (poll) c.polled = nnf_nanoseconds();
    here.innermost = &c;
    const int alone = threads == 1 || tasks <= 1 || here.inside_a_task;
    const intptr_t first = alone ? 0 : run_while_others_rest(tasks, run, context, poll);
    const int helpers = (int)(tasks - first < threads ? tasks - first : threads) - 1; /* -1: all tasks have run */
    if (alone || helpers < 1 || c.answer || pthread_mutex_trylock(&pool.caller) != 0)
        run_serially(first, tasks, run, context, poll);
    else
        run_in_pool(first, tasks, run, context, &c, helpers);
    here.innermost = c.outer;
    return c.answer;
}

void nnf_parallel(intptr_t tasks, nnf_task run, void *context) {
    if (tasks == 1)
        run(context, 0);
    else
        nnf_parallel_polled(tasks, run, context, NULL);
}

/* Work that the resting threads are spared, by estimate: what is not cut into tasks is not timed. */
int nnf_threads_for(double nanoseconds) {
    const int threads = atomic_load_explicit(&num_threads, memory_order_relaxed);
    if (nanoseconds < NNF_LEAST_SHARED || here.inside_a_task || most_at_once == 1) return 1;
    const int64_t left = atomic_load_explicit(&resting, memory_order_relaxed);
    if ((double)left < nanoseconds) return threads;
    atomic_store_explicit(&resting, left - (int64_t)nanoseconds, memory_order_relaxed);
    return 1;
}

static int within_limits(int n) { return n < 1 ? 1 : n > NNF_MOST_WORKERS + 1 ? NNF_MOST_WORKERS + 1 : n; }

void nnf_set_num_threads(int n, int at_once) {
    pthread_once(&fork_handler_once, install_fork_handler); /* before there is a job */
    atomic_store(&num_threads, within_limits(n));
    atomic_store(&most_at_once, within_limits(at_once < n ? at_once : n));
    atomic_store(&resting, 0);
}

int nnf_get_num_threads(void) { return atomic_load(&num_threads); }

#else /* no POSIX threads: the same results on the calling thread alone */

int nnf_parallel_polled(intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    for (intptr_t task = 0; task < tasks; task++) {
        run(context, task);
        const int answer = poll ? poll() : 0;
        if (answer) return answer;
    }
    return 0;
}

void nnf_parallel(intptr_t tasks, nnf_task run, void *context) { nnf_parallel_polled(tasks, run, context, NULL); }

void nnf_set_num_threads(int n, int at_once) { (void)n, (void)at_once; }

int nnf_threads_for(double nanoseconds) { return (void)nanoseconds, 1; }

int64_t nnf_nanoseconds(void) { return 0; }

int nnf_should_stop(void) { return 0; }

int nnf_get_num_threads(void) { return 1; }

#endif
