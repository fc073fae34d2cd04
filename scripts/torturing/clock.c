/* A wall clock that can be set for one process: LD_PRELOAD this, TORTURE_CLOCK names a file with a double, the seconds
 * to add. The file is mapped, so a change shows at once. All other clocks are left alone. (libfaketime, which does the
 * same, also intercepts sleeping, and its clock_nanosleep fails where CPython sleeps until a monotonic time.) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *offset;

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("TORTURE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) _exit(97);
    void *at = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) _exit(97);
    close(file);
    offset = at;
}

static void add(struct timespec *at) {
    double seconds = offset ? *offset : 0;
    long long nanoseconds = (long long)(seconds * 1e9) + at->tv_nsec;
    at->tv_sec += nanoseconds / 1000000000;
    at->tv_nsec = nanoseconds % 1000000000;
    if (at->tv_nsec < 0) {
        at->tv_nsec += 1000000000;
        at->tv_sec -= 1;
    }
}

int clock_gettime(clockid_t which, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, which, at);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) add(at);
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
