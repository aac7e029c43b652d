/* Loaded before libc: kills its process at one of the steps it makes. A step is a call that changes
 * files, or that speaks with a peer. Nothing counts before scythe_set.
 *
 * Calls are passed on as they are, but for flushes: what a killed process wrote is there without
 * them, and hundreds of deaths should not wait for a disk that others use. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long made;
static long fatal; /* the step not to be survived, from 1 on; 0: count only; -1: do not count */
static int torn;   /* only writes are steps, and half of the bytes go out before the end */

void scythe_set(long step, int halves)
{
    torn = halves;
    fatal = step;
    atomic_store(&made, 0);
}

long scythe_made(void)
{
    return atomic_load(&made);
}

static void end(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static __attribute__((constructor)) void rest(void)
{
    fatal = -1;
}

/* Whether this step is the last; without tearing it is not even made. */
static int last(int writes)
{
    if (fatal < 0 || (torn && !writes) || atomic_fetch_add(&made, 1) + 1 != fatal)
        return 0;
    if (!torn)
        end();
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define STEP(type, name, given, passed) \
    type name given                     \
    {                                   \
        last(0);                        \
        return REAL(name) passed;       \
    }

#define FLUSH(name)                             \
    int name(int fd)                            \
    {                                           \
        last(0);                                \
        return fatal < 0 ? REAL(name)(fd) : 0;  \
    }

/* A call that puts out n bytes from data. */
#define WRITE(name, given, passed, half) \
    ssize_t name given                   \
    {                                    \
        if (last(1)) {                   \
            (void)!REAL(name) half;      \
            end();                       \
        }                                \
        return REAL(name) passed;        \
    }

#define OPEN(name)                                    \
    int name(const char *path, int flags, ...)        \
    {                                                 \
        mode_t mode = 0;                              \
        if (flags & O_CREAT) {                        \
            va_list more;                             \
            va_start(more, flags);                    \
            mode = va_arg(more, mode_t);              \
            va_end(more);                             \
            last(0);                                  \
        }                                             \
        return REAL(name)(path, flags, mode);         \
    }

OPEN(open)
OPEN(open64)
FLUSH(fsync)
FLUSH(fdatasync)
STEP(int, ftruncate, (int fd, off_t size), (fd, size))
STEP(int, ftruncate64, (int fd, off64_t size), (fd, size))
STEP(int, rename, (const char *from, const char *to), (from, to))
STEP(int, unlink, (const char *path), (path))
STEP(int, mkdir, (const char *path, mode_t mode), (path, mode))
STEP(int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size))
STEP(ssize_t, recv, (int fd, void *data, size_t n, int flags), (fd, data, n, flags))
WRITE(write, (int fd, const void *data, size_t n), (fd, data, n), (fd, data, n / 2))
WRITE(pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at),
      (fd, data, n / 2, at))
WRITE(pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at),
      (fd, data, n / 2, at))
WRITE(send, (int fd, const void *data, size_t n, int flags), (fd, data, n, flags),
      (fd, data, n / 2, flags))
