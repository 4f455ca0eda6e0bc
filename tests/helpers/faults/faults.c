/* Stands between a program and the C library (LD_PRELOAD): counts the calls that change files below given folders, and makes the
   k-th of them fail, write a part only, or end the process. Python, PyAV's ffmpeg and Rust's safetensors all pass here. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FAIL, SHORT, KILL_BEFORE, KILL_HALFWAY, KILL_AFTER };
enum { MOST_CALLS = 100000, MOST_FILES = 65536, KILLED = 77 };

static char folders[2][4096];
static int armed, mode, error_number;
static long calls, chosen;
static const char *names[MOST_CALLS];
static unsigned char ours[MOST_FILES];

void faults_arm(const char *first, const char *second, long number, int how, int error) {
    strncpy(folders[0], first, sizeof folders[0] - 1);
    strncpy(folders[1], second, sizeof folders[1] - 1);
    chosen = number, mode = how, error_number = error, calls = 0, armed = 1;
}

long faults_disarm(void) { armed = 0; return calls; }

const char *faults_name(long number) { return number < MOST_CALLS && number < calls ? names[number] : ""; }

static int below(int at, const char *path) {
    if (!armed || !path) return 0;
    if (path[0] != '/') return at >= 0 && at < MOST_FILES && ours[at];
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(folders[i]);
        if (length && !strncmp(path, folders[i], length) && (!path[length] || path[length] == '/')) return 1;
    }
    return 0;
}

static int is_ours(int fd) { return armed && fd >= 0 && fd < MOST_FILES && ours[fd]; }

/* What is to become of this call: COUNT lets it through. */
static int fate(const char *name) {
    long number = calls++;
    if (number < MOST_CALLS) names[number] = name;
    if (number != chosen || mode == COUNT) return COUNT;
    if (mode == KILL_BEFORE) _exit(KILLED);
    if (mode == FAIL) errno = error_number;
    return mode;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define PASS(concerns, name, call) do { \
        int what = (concerns) ? fate(name) : COUNT; \
        if (what == FAIL) return -1; \
        __typeof__(call) result = call; \
        if (what >= KILL_HALFWAY) _exit(KILLED); \
        return result; \
    } while (0)
/* A writer gets through a part; `half` does that. */
#define PASS_WRITE(fd, name, call, half) do { \
        int what = is_ours(fd) ? fate(name) : COUNT; \
        if (what == FAIL) return -1; \
        if (what == SHORT) return half; \
        if (what == KILL_HALFWAY) { (void)!(half); _exit(KILLED); } \
        __typeof__(call) result = call; \
        if (what == KILL_AFTER) _exit(KILLED); \
        return result; \
    } while (0)

static int opened(int fd, int concerns, int what) {
    if (what >= KILL_HALFWAY) _exit(KILLED);
    if (fd >= 0 && fd < MOST_FILES) ours[fd] = concerns;
    return fd;
}

#define OPEN(name, at, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        mode_t bits = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); bits = va_arg(rest, mode_t); va_end(rest); } \
        int concerns = below(at, path), what = concerns ? fate("open") : COUNT; \
        if (what == FAIL) return -1; \
        return opened(real arguments, concerns, what); \
    }

OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, bits))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, bits))
OPEN(openat, at, (int at, const char *path, int flags, ...), (at, path, flags, bits))
OPEN(openat64, at, (int at, const char *path, int flags, ...), (at, path, flags, bits))

int close(int fd) { REAL(close); if (fd >= 0 && fd < MOST_FILES) ours[fd] = 0; return real(fd); }

ssize_t write(int fd, const void *data, size_t size) { REAL(write); PASS_WRITE(fd, "write", real(fd, data, size), real(fd, data, (size + 1) / 2)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); PASS_WRITE(fd, "write", real(fd, data, size, at), real(fd, data, (size + 1) / 2, at)); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); PASS_WRITE(fd, "write", real(fd, data, size, at), real(fd, data, (size + 1) / 2, at)); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); PASS_WRITE(fd, "write", real(fd, parts, count), real(fd, parts, (count + 1) / 2)); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) { REAL(sendfile); PASS_WRITE(to, "write", real(to, from, at, size), real(to, from, at, 100)); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { REAL(sendfile64); PASS_WRITE(to, "write", real(to, from, at, size), real(to, from, at, 100)); }
ssize_t copy_file_range(int from, off64_t *here, int to, off64_t *there, size_t size, unsigned flags) {
    REAL(copy_file_range);
    PASS_WRITE(to, "write", real(from, here, to, there, size, flags), real(from, here, to, there, 100, flags));
}

int ftruncate(int fd, off_t size) { REAL(ftruncate); PASS(is_ours(fd), "truncate", real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); PASS(is_ours(fd), "truncate", real(fd, size)); }
int fsync(int fd) { REAL(fsync); PASS(is_ours(fd), "fsync", real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); PASS(is_ours(fd), "fsync", real(fd)); }

int rename(const char *from, const char *to) { REAL(rename); PASS(below(AT_FDCWD, from) || below(AT_FDCWD, to), "rename", real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); PASS(below(a, from) || below(b, to), "rename", real(a, from, b, to)); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2);
    PASS(below(a, from) || below(b, to), "rename", real(a, from, b, to, flags));
}
int link(const char *from, const char *to) { REAL(link); PASS(below(AT_FDCWD, from) || below(AT_FDCWD, to), "link", real(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) { REAL(linkat); PASS(below(a, from) || below(b, to), "link", real(a, from, b, to, flags)); }
int unlink(const char *path) { REAL(unlink); PASS(below(AT_FDCWD, path), "unlink", real(path)); }
int unlinkat(int at, const char *path, int flags) { REAL(unlinkat); PASS(below(at, path), "unlink", real(at, path, flags)); }
int mkdir(const char *path, mode_t bits) { REAL(mkdir); PASS(below(AT_FDCWD, path), "mkdir", real(path, bits)); }
int mkdirat(int at, const char *path, mode_t bits) { REAL(mkdirat); PASS(below(at, path), "mkdir", real(at, path, bits)); }
int rmdir(const char *path) { REAL(rmdir); PASS(below(AT_FDCWD, path), "unlink", real(path)); }
