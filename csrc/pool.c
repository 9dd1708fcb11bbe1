/* pool.c - the thread pool: one job at a time, tasks taken from a shared counter.
 *
 * The calling thread works too. Idle workers spin for some microseconds, so that the next small job finds
 * them awake, then sleep on a condition variable, so that they never stand in the way of another library's
 * threads. All that the two sides must agree on is one atomic word, `state`:
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
    nnf_task run;
    void *context;
    intptr_t tasks;
    _Atomic int most_inside; /* a worker that comes late may read that of the next job, and then cannot join */
    pthread_mutex_t caller;  /* held by the thread whose job is running */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    int workers; /* started so far; changed under `caller` */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Atomic int num_threads = 1;
static int forks; /* that led to this process, while it had the pool */
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

static void run_tasks(void) {
    here.inside_a_task = 1;
    while (!atomic_load_explicit(&pool.cancelled, memory_order_relaxed)) {
        const intptr_t task = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (task >= pool.tasks) break;
        pool.run(pool.context, task);
    }
    here.inside_a_task = 0;
}

/* Spins, then sleeps, until there is a job newer than `seen`; returns the state that says so. */
static uint64_t wait_for_job(uint64_t seen) {
    for (int i = 0; i < NNF_SPINS; i++) {
        const uint64_t state = atomic_load(&pool.state);
        if (GENERATION(state) != seen) return state;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1);
    while (GENERATION(atomic_load(&pool.state)) == seen)
        pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load(&pool.state);
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

static void open_job(intptr_t tasks, nnf_task run, void *context, int helpers) {
    pool.run = run;
    pool.context = context;
    pool.tasks = tasks;
    atomic_store_explicit(&pool.most_inside, helpers, memory_order_relaxed);
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.cancelled, 0, memory_order_relaxed);
    const uint64_t generation = GENERATION(atomic_load(&pool.state)) + 1;
    atomic_store(&pool.state, (generation << 32) | OPEN);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
}

int64_t nnf_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
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

/* run_tasks for the calling thread, with a look at poll() every 50 ms. */
static void run_tasks_polled(int forks_before) {
    while (!nnf_should_stop() && forks == forks_before) {
        const intptr_t task = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (task >= pool.tasks) break;
        here.inside_a_task = 1;
        pool.run(pool.context, task);
        here.inside_a_task = 0;
    }
}

static void close_job(void) {
    uint64_t state = atomic_fetch_and(&pool.state, ~OPEN);
    while (state & INSIDE) {
        relax();
        state = atomic_load(&pool.state);
    }
}

static void run_serially(intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    for (intptr_t task = 0; task < tasks && !(poll && nnf_should_stop()); task++)
        run(context, task);
}

/* With pool.caller held. A child that poll forked has lost the tasks which other threads were running: there all of
 * them are run once more. */
static void run_in_pool(intptr_t tasks, nnf_task run, void *context, call *c, int threads) {
    const int helpers = (int)(tasks < threads ? tasks : threads) - 1, forks_before = forks;
    here.owns_pool = 1, c->owns_job = 1;
    start_workers(helpers);
    open_job(tasks, run, context, helpers);
    if (c->poll)
        run_tasks_polled(forks_before);
    else
        run_tasks();
    close_job();
    here.owns_pool = 0, c->owns_job = 0;
    pthread_mutex_unlock(&pool.caller);
    if (c->poll && forks != forks_before) run_serially(tasks, run, context, c->poll);
}

int nnf_parallel_polled(intptr_t tasks, nnf_task run, void *context, nnf_poll poll) {
    const int threads = atomic_load_explicit(&num_threads, memory_order_relaxed);
    call c = {.outer = here.innermost, .poll = poll};
    if (poll) c.polled = nnf_nanoseconds();
    here.innermost = &c;
    if (threads == 1 || tasks <= 1 || here.inside_a_task || pthread_mutex_trylock(&pool.caller) != 0)
        run_serially(tasks, run, context, poll);
    else
        run_in_pool(tasks, run, context, &c, threads);
    here.innermost = c.outer;
    return c.answer;
}

void nnf_parallel(intptr_t tasks, nnf_task run, void *context) {
    if (tasks == 1)
        run(context, 0);
    else
        nnf_parallel_polled(tasks, run, context, NULL);
}

void nnf_set_num_threads(int n) {
    pthread_once(&fork_handler_once, install_fork_handler); /* before there is a job */
    atomic_store(&num_threads, n < 1 ? 1 : n > NNF_MOST_WORKERS + 1 ? NNF_MOST_WORKERS + 1 : n);
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

void nnf_set_num_threads(int n) { (void)n; }

int64_t nnf_nanoseconds(void) { return 0; }

int nnf_should_stop(void) { return 0; }

int nnf_get_num_threads(void) { return 1; }

#endif
