"""The C that runs the steps of a program: alone, by threads that share each step, or by threads that take a sample each."""

__all__ = ["RUNTIME"]

RUNTIME = r"""
// ---- the runtime: threads share each step of one sample, or take whole samples
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

typedef struct pool pool;
typedef struct { pool *owner; long number; pthread_t thread; } worker;
struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    long workers, job, arrived, left, quit;
    char *arenas;
    long arena_bytes, samples, first, last;
    const char *constants;
    void *const *arguments;
    const long *sample_bytes;
    long count;
    worker *all;
};

// each thread waits here until all have come; the counts only grow, so no thread can miss its turn
static void meet(pool *p, long *round) {
    long target = p->workers * ++*round;
    __atomic_add_fetch(&p->arrived, 1, __ATOMIC_ACQ_REL);
    for (long spins = 0; __atomic_load_n(&p->arrived, __ATOMIC_ACQUIRE) < target; spins++)
        if (spins > 4000) sched_yield();
}

static void run_sample(char *arena, const char *constants, void *const *arguments, const long *bytes, long count, long sample,
                       long first, long last) {
    void *here[count + 1];
    for (long i = 0; i < count; i++) here[i] = (char *)arguments[i] + sample * bytes[i];
    for (long s = first; s < last; s++) steps[s](arena, constants, here, 0, 1);
}

static void share(pool *p, long number) {
    long round = 0;
    if (p->samples > 1) {
        for (long n = number; n < p->samples; n += p->workers)
            run_sample(p->arenas + number * p->arena_bytes, p->constants, p->arguments, p->sample_bytes, p->count, n, p->first, p->last);
        return;
    }
    for (long s = p->first; s < p->last; s++) {
        steps[s](p->arenas, p->constants, p->arguments, number, p->workers);
        meet(p, &round);
    }
}

static void *work(void *argument) {
    worker *me = argument;
    pool *p = me->owner;
    for (long seen = 0;;) {
        for (long spins = 0; spins < 20000 && __atomic_load_n(&p->job, __ATOMIC_ACQUIRE) == seen; spins++);
        pthread_mutex_lock(&p->lock);
        while (p->job == seen) pthread_cond_wait(&p->wake, &p->lock);
        seen = p->job;
        pthread_mutex_unlock(&p->lock);
        if (p->quit) return 0;
        share(p, me->number);
        __atomic_sub_fetch(&p->left, 1, __ATOMIC_ACQ_REL);
    }
}

void attar_stop(pool *p) {
    pthread_mutex_lock(&p->lock);
    p->quit = 1;
    __atomic_add_fetch(&p->job, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (long n = 1; n < p->workers; n++) pthread_join(p->all[n].thread, 0);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->all);
    free(p);
}

// a pool of `workers` threads, of which the caller is one; fewer where the system gives no more, 0 where it gives no memory
pool *attar_start(long workers) {
    pool *p = calloc(1, sizeof *p);
    if (!p) return 0;
    p->all = calloc(workers, sizeof *p->all);
    if (!p->all) return free(p), (pool *)0;
    pthread_mutex_init(&p->lock, 0);
    pthread_cond_init(&p->wake, 0);
    for (p->workers = 1; p->workers < workers; p->workers++) {
        worker *w = &p->all[p->workers];
        w->owner = p, w->number = p->workers;
        if (pthread_create(&w->thread, 0, work, w)) break;
    }
    return p;
}

long attar_workers(const pool *p) { return p->workers; }

// Steps [first, last) on each of `samples` samples: argument i of the next sample lies `sample_bytes[i]` further. Without a
// pool on this thread, in one arena; with a pool of n in n arenas, `arena_bytes` apart. One call at a time for a pool.
void attar_run(pool *p, char *arenas, long arena_bytes, const char *constants, void *const *arguments, const long *sample_bytes, long count,
               long samples, long first, long last) {
    if (!p || p->workers == 1) {
        for (long n = 0; n < samples; n++) run_sample(arenas, constants, arguments, sample_bytes, count, n, first, last);
        return;
    }
    p->arenas = arenas, p->arena_bytes = arena_bytes, p->constants = constants, p->arguments = arguments;
    p->sample_bytes = sample_bytes, p->count = count, p->samples = samples, p->first = first, p->last = last;
    __atomic_store_n(&p->arrived, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&p->left, p->workers - 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&p->lock);
    __atomic_add_fetch(&p->job, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    share(p, 0);
    for (long spins = 0; __atomic_load_n(&p->left, __ATOMIC_ACQUIRE) > 0; spins++)
        if (spins > 4000) sched_yield();
}
"""
