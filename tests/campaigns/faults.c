/* Counts the file operations of a process under a folder, and lets the one with a given number fail.

   cc -shared -fPIC -O1 -o faults.so faults.c -ldl;  LD_PRELOAD=./faults.so FAULT_FOLDER=/a/folder FAULT_AT=7 ...

   FAULT_ERRNO: the error of the operation, or 0: the process is killed before it.
   FAULT_STAYS: 1: all later operations fail, too, as on a full or read-only disk; but a full disk still renames and
   removes files. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long count;

long fault_count(void) { return count; }

static int inside(const char *path)
{
    const char *folder = getenv("FAULT_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int descriptor_inside(int descriptor)
{
    char link[64], path[PATH_MAX];
    if (!getenv("FAULT_FOLDER"))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return inside(path);
}

/* Whether the operation that begins fails; it then has set errno. */
static int fails(int needs_space)
{
    const char *at = getenv("FAULT_AT"), *error = getenv("FAULT_ERRNO"), *stays = getenv("FAULT_STAYS");
    long number = ++count, first = at ? atol(at) : 0;
    if (first == 0 || number < first || (number > first && !(stays && stays[0] == '1')))
        return 0;
    int code = error ? atoi(error) : 0;
    if (code == 0)
        kill(getpid(), SIGKILL);
    if (code == ENOSPC && !needs_space)
        return 0;
    errno = code;
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR)) && inside(path) && fails(1)) \
            return -1; \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int descriptor, const void *data, size_t size)
{
    REAL(write);
    if (descriptor > 2 && descriptor_inside(descriptor) && fails(1)) {
        if (size > 1) /* the beginning of the data arrives before the disk is full */
            (void)!real(descriptor, data, size / 2);
        return -1;
    }
    return real(descriptor, data, size);
}

int fsync(int descriptor)
{
    REAL(fsync);
    return descriptor_inside(descriptor) && fails(1) ? -1 : real(descriptor);
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    return inside(to) && fails(0) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    REAL(unlink);
    return inside(path) && fails(0) ? -1 : real(path);
}

int rmdir(const char *path)
{
    REAL(rmdir);
    return inside(path) && fails(0) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return inside(path) && fails(1) ? -1 : real(path, mode);
}
