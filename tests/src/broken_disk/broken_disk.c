/* A disk that breaks at the nth effect below a folder. Preloaded into a process (LD_PRELOAD, glibc on Linux), it stands before the
 * calls that change files and folders, counts those that concern paths below BROKEN_DISK_BELOW, and from or at number
 * BROKEN_DISK_NTH does what BROKEN_DISK_HOW says:
 *   enospc, eio    the call fails, once
 *   enospc+, eio+  this call and all after it fail
 *   kill           the process is killed before the call
 *   tear           a write is cut in half and the process is killed after it; only writes count
 * The first effect that is met is noted in the file BROKEN_DISK_REPORT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char below[PATH_MAX];
static size_t below_len;
static unsigned long nth;
static int error_code;
static int lasting, kills, tears;
static const char *report_path;
static atomic_ulong counter;

static void begin(void) {
    const char *folder = getenv("BROKEN_DISK_BELOW");
    const char *number = getenv("BROKEN_DISK_NTH");
    const char *how = getenv("BROKEN_DISK_HOW");
    report_path = getenv("BROKEN_DISK_REPORT");
    if (!folder || !number || !how || strlen(folder) >= sizeof below) return;
    nth = strtoul(number, NULL, 10);
    if (strncmp(how, "enospc", 6) == 0) error_code = ENOSPC;
    if (strncmp(how, "eio", 3) == 0) error_code = EIO;
    lasting = how[0] && how[strlen(how) - 1] == '+';
    tears = strcmp(how, "tear") == 0;
    kills = strcmp(how, "kill") == 0;
    strcpy(below, folder);
    below_len = strlen(below);
}

static int inside(const char *path) {
    return below_len && strncmp(path, below, below_len) == 0 && (path[below_len] == '/' || path[below_len] == 0);
}

/* The absolute path of a file descriptor. */
static int path_of(int fd, char *out, size_t size) {
    char link[64];
    char digits[16];
    int n = 0, at = 14;
    if (fd < 0) return 0;
    memcpy(link, "/proc/self/fd/", 14);
    do digits[n++] = (char)('0' + fd % 10); while ((fd /= 10) && n < 15);
    while (n) link[at++] = digits[--n];
    link[at] = 0;
    ssize_t length = readlink(link, out, size - 1);
    if (length <= 0) return 0;
    out[length] = 0;
    return 1;
}

static int absolute(int dir, const char *path, char *out, size_t size) {
    if (path[0] == '/') {
        if (strlen(path) >= size) return 0;
        strcpy(out, path);
        return 1;
    }
    if (dir == AT_FDCWD ? !getcwd(out, size) : !path_of(dir, out, size)) return 0;
    size_t length = strlen(out);
    if (length + strlen(path) + 2 > size) return 0;
    out[length] = '/';
    strcpy(out + length + 1, path);
    return 1;
}

static void note(const char *call, const char *path) {
    if (!report_path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, report_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, call, strlen(call));
    syscall(SYS_write, fd, " ", 1);
    syscall(SYS_write, fd, path, strlen(path));
    syscall(SYS_write, fd, "\n", 1);
    syscall(SYS_close, fd);
}

static void die(void) {
    for (;;) syscall(SYS_kill, getpid(), SIGKILL);
}

/* Whether the effect is met; `removes` says that it frees space, so that a full disk does not mind. */
static int met(const char *call, const char *path, int removes) {
    if (!nth || !inside(path) || (removes && error_code == ENOSPC)) return 0;
    unsigned long number = atomic_fetch_add(&counter, 1) + 1;
    if (number == nth) note(call, path);
    return lasting ? number >= nth : number == nth;
}

/* The error to return, or 0. */
static int strike(const char *call, const char *path, int removes) {
    if (tears) return 0;
    int saved = errno;
    int yes = met(call, path, removes);
    errno = saved;
    if (!yes) return 0;
    if (kills) die();
    errno = error_code;
    return error_code;
}

static int strike_at(const char *call, int dir, const char *path, int removes) {
    char whole[PATH_MAX];
    pthread_once(&once, begin);
    if (!nth) return 0;
    int saved = errno;
    int known = absolute(dir, path, whole, sizeof whole);
    errno = saved;
    return known ? strike(call, whole, removes) : 0;
}

static int strike_fd(const char *call, int fd) {
    char whole[PATH_MAX];
    pthread_once(&once, begin);
    if (!nth) return 0;
    int saved = errno;
    int known = path_of(fd, whole, sizeof whole);
    errno = saved;
    return known ? strike(call, whole, 0) : 0;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A torn write leaves its first half. */
static void tear(const char *call, int fd, const void *data, size_t size, off_t at) {
    char whole[PATH_MAX];
    pthread_once(&once, begin);
    if (!tears || !path_of(fd, whole, sizeof whole) || !met(call, whole, 0)) return;
    if (at < 0) syscall(SYS_write, fd, data, size / 2);
    else syscall(SYS_pwrite64, fd, data, size / 2, at);
    die();
}

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write);
    tear("half a write", fd, data, size, -1);
    return strike_fd("write", fd) ? -1 : next(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    NEXT(pwrite);
    tear("half a write", fd, data, size, at);
    return strike_fd("pwrite", fd) ? -1 : next(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(pwrite64);
    tear("half a write", fd, data, size, at);
    return strike_fd("pwrite64", fd) ? -1 : next(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(writev);
    return strike_fd("writev", fd) ? -1 : next(fd, parts, count);
}

int fsync(int fd) {
    NEXT(fsync);
    return strike_fd("fsync", fd) ? -1 : next(fd);
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    return strike_fd("fdatasync", fd) ? -1 : next(fd);
}

int ftruncate(int fd, off_t size) {
    NEXT(ftruncate);
    return strike_fd("ftruncate", fd) ? -1 : next(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    NEXT(ftruncate64);
    return strike_fd("ftruncate64", fd) ? -1 : next(fd, size);
}

int link(const char *from, const char *to) {
    NEXT(link);
    return strike_at("link", AT_FDCWD, to, 0) ? -1 : next(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    NEXT(linkat);
    return strike_at("linkat", to_dir, to, 0) ? -1 : next(from_dir, from, to_dir, to, flags);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    return strike_at("rename", AT_FDCWD, to, 0) ? -1 : next(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    NEXT(renameat);
    return strike_at("renameat", to_dir, to, 0) ? -1 : next(from_dir, from, to_dir, to);
}

int unlink(const char *path) {
    NEXT(unlink);
    return strike_at("unlink", AT_FDCWD, path, 1) ? -1 : next(path);
}

int unlinkat(int dir, const char *path, int flags) {
    NEXT(unlinkat);
    return strike_at("unlinkat", dir, path, 1) ? -1 : next(dir, path, flags);
}

int rmdir(const char *path) {
    NEXT(rmdir);
    return strike_at("rmdir", AT_FDCWD, path, 1) ? -1 : next(path);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    return strike_at("mkdir", AT_FDCWD, path, 0) ? -1 : next(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    NEXT(mkdirat);
    return strike_at("mkdirat", dir, path, 0) ? -1 : next(dir, path, mode);
}

/* Only opening that may create a file is an effect. */
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    NEXT(open);
    MODE(flags)
    return (flags & O_CREAT) && strike_at("open", AT_FDCWD, path, 0) ? -1 : next(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    NEXT(open64);
    MODE(flags)
    return (flags & O_CREAT) && strike_at("open64", AT_FDCWD, path, 0) ? -1 : next(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    NEXT(openat);
    MODE(flags)
    return (flags & O_CREAT) && strike_at("openat", dir, path, 0) ? -1 : next(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    NEXT(openat64);
    MODE(flags)
    return (flags & O_CREAT) && strike_at("openat64", dir, path, 0) ? -1 : next(dir, path, flags, mode);
}
