/* interrupts.c - the thread pool under interrupts: every job that was not interrupted must have run all of its tasks.
 *
 * test_interrupts.py compiles it with csrc/pool.c, whose clock it replaces (-Dclock_gettime=fast_clock) by one that
 * goes 2,000 times as fast: poll is then called every 25 microseconds instead of every 50 milliseconds. Prints what
 * went wrong; the exit status is 1 where something did. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nnframe.h"

enum { ROUNDS = 1000, CALLERS = 3, TASKS = 24, STEPS = 40, STOPPED = 7 };

static _Atomic int failures, interrupts;
static int threads_now;

/* Threads that rest would show nothing; this ends their rest. */
static void wake_threads(void) { nnf_set_num_threads(threads_now, threads_now); }

int fast_clock(clockid_t clock, struct timespec *now); /* as pool.c declares it */

int fast_clock(clockid_t clock, struct timespec *now) {
    struct timespec real;
    (void)clock;
    timespec_get(&real, TIME_UTC);
    const int64_t fast = ((int64_t)real.tv_sec % 1000000 * 1000000000 + real.tv_nsec) * 2000;
    now->tv_sec = fast / 1000000000, now->tv_nsec = fast % 1000000000;
    return 0;
}

static void expect(int holds, const char *what) {
    if (!holds && atomic_fetch_add(&failures, 1) < 10) printf("%s\n", what);
}

/* ---- jobs: task i leaves its own number in done[i], unless it is told to stop ---- */

typedef struct {
    volatile int done[TASKS];
} job;

static void lasting_task(void *context, intptr_t i) {
    job *j = context;
    volatile double x = 1;
    for (int step = 0; step < STEPS; step++) {
        if (nnf_should_stop()) return;
        for (int k = 0; k < 100; k++)
            x = x * 1.0000001;
    }
    j->done[i] = (int)i + 1;
}

static int complete(const job *j) {
    int count = 0;
    for (int i = 0; i < TASKS; i++)
        count += j->done[i] == i + 1;
    return count == TASKS;
}

static int never(void) { return 0; }

static _Thread_local int polls_left;

static int after_some_polls(void) { return polls_left-- > 0 ? 0 : STOPPED; }

static void interrupted(int polls) {
    job j = {{0}};
    wake_threads();
    polls_left = polls;
    const int answer = nnf_parallel_polled(TASKS, lasting_task, &j, after_some_polls);
    atomic_fetch_add(&interrupts, answer != 0);
    expect(answer == STOPPED || (answer == 0 && complete(&j)), "an interrupted job: neither its answer nor all tasks");
}

static void uninterrupted(nnf_poll poll) {
    job j = {{0}};
    wake_threads();
    expect(nnf_parallel_polled(TASKS, lasting_task, &j, poll) == 0, "a job that nobody interrupted: an answer");
    expect(complete(&j), "a job that nobody interrupted: tasks were cut short");
}

static void *caller(void *which) {
    for (int round = 0; round < ROUNDS; round++)
        if ((round + (int)(intptr_t)which) % CALLERS == 0)
            interrupted(round % 4);
        else
            uninterrupted(round % 2 ? never : NULL);
    return NULL;
}

/* ---- calls that nest: poll stands for a signal handler that uses a kernel itself ---- */

static int nested_polls;

static int poll_with_a_job(void) {
    if (nested_polls++ == 1) { /* one is cut short, the other is not; neither is the call around them */
        interrupted(0);
        uninterrupted(never);
        uninterrupted(NULL);
    }
    return nested_polls > 3 ? STOPPED : 0;
}

static void nested(void) {
    job j = {{0}};
    nested_polls = 0;
    wake_threads();
    const int answer = nnf_parallel_polled(TASKS, lasting_task, &j, poll_with_a_job);
    expect(nested_polls <= 1 || nested_polls > 3 || complete(&j), "a call around others: no longer polled");
    expect(answer == (nested_polls > 3 ? STOPPED : 0), "a call around others: a wrong answer");
    expect(answer || complete(&j), "a call around others: tasks were cut short");
}

/* ---- fork inside poll: the child's job must be complete as well ---- */

static int has_forked;
static pid_t child;

static int poll_with_a_fork(void) {
    if (!has_forked) has_forked = 1, child = fork();
    return 0;
}

static void forked(void) {
    job j = {{0}};
    int status;
    has_forked = 0, child = -1;
    wake_threads();
    expect(nnf_parallel_polled(TASKS, lasting_task, &j, poll_with_a_fork) == 0, "fork: an answer");
    if (child == 0) {
        const int here = complete(&j);
        uninterrupted(never); /* and threads can be started anew */
        _exit(here && failures == 0 ? 0 : 1);
    }
    expect(complete(&j), "fork: tasks of the parent were cut short");
    if (child > 0) expect(waitpid(child, &status, 0) == child && status == 0, "fork: tasks of the child are missing");
}

int main(void) {
    pthread_t threads[CALLERS];
    for (int n = 1; n <= 3; n++) {
        threads_now = n;
        for (int round = 0; round < ROUNDS / 10; round++)
            nested(), forked();
        for (int i = 0; i < CALLERS; i++)
            pthread_create(threads + i, NULL, caller, (void *)(intptr_t)i);
        for (int i = 0; i < CALLERS; i++)
            pthread_join(threads[i], NULL);
    }
    expect(interrupts > ROUNDS / 10, "hardly anything was interrupted: the test shows nothing");
    printf("%d interrupts, %d failures\n", interrupts, failures);
    return failures > 0;
}
