/* Loaded into every process of a run (LD_PRELOAD): a disk that is full for some files, for as long as it is told to be.
 *
 * $FULL_DISK names a control file. While it exists, a write to a file whose path begins with the control file's content
 * takes half of what it is given, as a disk with some room left does, and the last byte fails with ENOSPC.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_full(int descriptor)
{
    char prefix[PATH_MAX], link[64], path[PATH_MAX];
    const char *control = getenv("FULL_DISK");
    int saved = errno, file = control ? (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = file < 0 ? -1 : syscall(SYS_read, file, prefix, sizeof prefix);
    if (file >= 0)
        syscall(SYS_close, file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    int full = length > 0 && readlink(link, path, sizeof path) >= length && memcmp(path, prefix, length) == 0;
    errno = saved;
    return full;
}

ssize_t write(int descriptor, const void *data, size_t count)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "write");
    if (descriptor > 2 && is_full(descriptor)) {
        if (count > 1)
            return real(descriptor, data, count / 2);
        errno = ENOSPC;
        return -1;
    }
    return real(descriptor, data, count);
}
