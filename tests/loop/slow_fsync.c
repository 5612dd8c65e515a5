/* A disk whose syncs take half a second while the file named by SLOW_FSYNC_WHILE exists; each one leaves a mark beside it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void linger(void) {
    char mark[4096];
    const char *flag = getenv("SLOW_FSYNC_WHILE");
    if (!flag || access(flag, F_OK)) return;
    snprintf(mark, sizeof mark, "%s.felt", flag);
    close(open(mark, O_CREAT | O_WRONLY, 0600));
    usleep(500000);
}

int fsync(int descriptor) {
    linger();
    return syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
    linger();
    return syscall(SYS_fdatasync, descriptor);
}
