/* Preloaded into the program: lets one call that changes a file below a folder fail, or ends the process instead.
 *
 * The calls of a kind are counted over all threads, so that each of them can be chosen. strace counts per thread:
 * the nth call of one thread hides the nth call of every other.
 *
 *   INJECT_BELOW  the folder; other files and sockets are not touched
 *   INJECT_FILE   receives the number of calls of each kind, and last the number of calls that were injected
 *   INJECT_CALL   the kind, as its place in the list below
 *   INJECT_AT     which call of this kind, counted from 1
 *   INJECT_END    "EIO", "ENOSPC", "KILL", or "TORN": half of the bytes are written before the process ends
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE, MKDIR, WRITE, WRITEV, PWRITE, COPY, TRUNCATE, RENAME, UNLINK, SYNC, DATASYNC, RANGE, KINDS };

static const char *below;
static size_t length;
static _Atomic unsigned long *counts;
static int kind = -1;
static unsigned long at;
static const char *end = "";

__attribute__((constructor)) static void begin(void) {
  const char *file = getenv("INJECT_FILE");
  if (!file) return;
  int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  size_t size = (KINDS + 1) * sizeof *counts;
  if (fd < 0 || syscall(SYS_ftruncate, fd, size)) abort();
  counts = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (counts == MAP_FAILED) abort();
  if (getenv("INJECT_CALL")) {
    kind = atoi(getenv("INJECT_CALL"));
    at = strtoul(getenv("INJECT_AT"), 0, 10);
    end = getenv("INJECT_END");
  }
  below = getenv("INJECT_BELOW");
  length = strlen(below);
}

static int is_below(const char *path) {
  return !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

static int is_fd_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return is_below(path);
}

/* Counts a call. Returns true if it is to fail; does not return if the process ends here. */
static int fails(int call, int fd, const char *path, int (*half)(void *), void *what) {
  int saved = errno;
  if (!below) return 0;
  int counted = path && (path[0] == '/' || fd == AT_FDCWD) ? is_below(path) : is_fd_below(fd);
  errno = saved;
  if (!counted || atomic_fetch_add(&counts[call], 1) + 1 != at || call != kind) return 0;
  atomic_fetch_add(&counts[KINDS], 1);
  if (!strcmp(end, "EIO")) errno = EIO;
  else if (!strcmp(end, "ENOSPC")) errno = ENOSPC;
  else {
    if (!strcmp(end, "TORN") && half) half(what);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
  }
  return 1;
}

#define FAIL(call, fd, path) if (fails(call, fd, path, 0, 0)) return -1

struct bytes { int fd; const void *from; size_t size; off_t at; };

static int half(void *what) {
  struct bytes *bytes = what;
  if (bytes->at < 0) return syscall(SYS_write, bytes->fd, bytes->from, bytes->size / 2);
  return syscall(SYS_pwrite64, bytes->fd, bytes->from, bytes->size / 2, bytes->at);
}

ssize_t write(int fd, const void *from, size_t size) {
  struct bytes bytes = {fd, from, size, -1};
  if (fails(WRITE, fd, 0, half, &bytes)) return -1;
  return syscall(SYS_write, fd, from, size);
}

ssize_t writev(int fd, const struct iovec *from, int count) {
  FAIL(WRITEV, fd, 0);
  return syscall(SYS_writev, fd, from, count);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
  struct bytes bytes = {fd, from, size, at};
  if (fails(PWRITE, fd, 0, half, &bytes)) return -1;
  return syscall(SYS_pwrite64, fd, from, size, at);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { return pwrite64(fd, from, size, at); }

ssize_t copy_file_range(int from, off64_t *here, int to, off64_t *there, size_t size, unsigned flags) {
  FAIL(COPY, to, 0);
  return syscall(SYS_copy_file_range, from, here, to, there, size, flags);
}

int ftruncate64(int fd, off64_t size) {
  FAIL(TRUNCATE, fd, 0);
  return syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  FAIL(RENAME, to, new);
  return syscall(SYS_renameat2, from, old, to, new, flags);
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int fd, const char *path, int flags) {
  FAIL(UNLINK, fd, path);
  return syscall(SYS_unlinkat, fd, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int fd, const char *path, mode_t mode) {
  FAIL(MKDIR, fd, path);
  return syscall(SYS_mkdirat, fd, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int fsync(int fd) {
  FAIL(SYNC, fd, 0);
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  FAIL(DATASYNC, fd, 0);
  return syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t from, off64_t size, unsigned flags) {
  FAIL(RANGE, fd, 0);
  return syscall(SYS_sync_file_range, fd, from, size, flags);
}

static int open_at(int fd, const char *path, int flags, mode_t mode) {
  if (flags & O_CREAT) FAIL(CREATE, fd, path);
  return syscall(SYS_openat, fd, path, flags, mode);
}
#define MODE(flags) va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more)
int openat64(int fd, const char *path, int flags, ...) { MODE(flags); return open_at(fd, path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { MODE(flags); return open_at(fd, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); return open_at(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags); return open_at(AT_FDCWD, path, flags, mode); }
