/* A library to preload: it makes file operations below one folder fail, or kills the process at one of them.
 *
 * Environment: FAULT_FOLDER, the folder (absolute, resolved); FAULT_CONTROL, the control file, mapped into
 * memory; FAULT_TRACE, a file that gets one line per operation (optional).
 *
 * The control file holds one line: `1 generation action classes first count argument`, or `0` for no rule. The
 * counter of operations begins at 1 with each new generation. Operations `first` to `first + count - 1` (count 0: all from `first`
 * on) of the classes are treated by the action:
 *   error   the operation fails with errno `argument`
 *   before  SIGKILL before the operation
 *   after   SIGKILL after the operation
 *   tear    half of a write, then SIGKILL; other operations: as `before`
 * Classes: w write, truncate, allocate; s fsync, fdatasync; c open that creates; o other open for writing;
 * r rename, link; u unlink; d mkdir, rmdir; t pthread_create (of every thread, not only below the folder). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { OFF, ERROR, BEFORE, AFTER, TEAR };
struct rule { long generation, first, count, argument; enum action action; char classes[16]; };

static volatile const char *control;
static char folder[PATH_MAX];
static size_t folder_length;
static int trace = -1;
static long counted_generation, counter;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
  REAL(open);
  const char *control_file = getenv("FAULT_CONTROL"), *below = getenv("FAULT_FOLDER");
  const char *trace_file = getenv("FAULT_TRACE");
  if (!control_file || !below) return;
  int fd = real(control_file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) { perror("fault shim: control file"); _exit(99); }
  void *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) { perror("fault shim: map"); _exit(99); }
  close(fd);
  folder_length = strlen(below);
  memcpy(folder, below, folder_length + 1);
  if (trace_file) trace = real(trace_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  control = mapped;
}

static int below_folder(const char *path) {
  return path && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static const char *path_of(int fd, char *buffer) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, buffer, PATH_MAX - 1);
  if (length < 0) return NULL;
  buffer[length] = 0;
  return buffer;
}

static const char *path_at(int dir, const char *path, char *buffer) {
  if (!path || path[0] == '/' || dir == AT_FDCWD) return path;
  if (!path_of(dir, buffer)) return NULL;
  size_t length = strlen(buffer);
  snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  return buffer;
}

/* Whether operations have to be looked at. */
static int active(void) { return control && (control[0] == '1' || trace >= 0); }

static struct rule read_rule(void) {
  struct rule rule = {0};
  char line[128], action[16];
  for (size_t at = 0; at < sizeof line; at++) line[at] = control[at];
  line[sizeof line - 1] = 0;
  int found = sscanf(line, "1 %ld %15s %15s %ld %ld %ld", &rule.generation, action, rule.classes, &rule.first,
                     &rule.count, &rule.argument);
  if (found != 6) return rule;
  if (!strcmp(action, "error")) rule.action = ERROR;
  if (!strcmp(action, "before")) rule.action = BEFORE;
  if (!strcmp(action, "after")) rule.action = AFTER;
  if (!strcmp(action, "tear")) rule.action = TEAR;
  return rule;
}

/* The action for this operation. */
static enum action judge(char class, const char *path, long *argument) {
  if (!active() || (class != 't' && !below_folder(path))) return OFF;
  int saved = errno;
  if (trace >= 0 && class != 't') dprintf(trace, "%c %s\n", class, path);
  struct rule rule = read_rule();
  enum action action = OFF;
  if (rule.action != OFF && strchr(rule.classes, class)) {
    pthread_mutex_lock(&lock);
    if (rule.generation != counted_generation) { counted_generation = rule.generation; counter = 0; }
    long number = ++counter;
    pthread_mutex_unlock(&lock);
    if (number >= rule.first && (!rule.count || number < rule.first + rule.count)) action = rule.action;
  }
  *argument = rule.argument;
  errno = saved;
  return action;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* Runs `call` under the rule; `half` is what is done before a tear. */
#define GUARDED(class, path, failed, half, call)                                  \
  do {                                                                            \
    long argument = 0;                                                            \
    enum action action = judge(class, path, &argument);                           \
    if (action == ERROR) { errno = (int)argument; return failed; }                \
    if (action == TEAR) { half; }                                                 \
    if (action == BEFORE || action == TEAR) die();                                \
    __typeof__(call) result = call;                                               \
    if (action == AFTER) die();                                                   \
    return result;                                                                \
  } while (0)

#define PATH_BUFFER char buffer[PATH_MAX]
#define FD_PATH (active() ? path_of(fd, buffer) : NULL)

static mode_t mode_of(int flags, va_list list) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, mode_t) : 0;
}

static char class_of_open(int flags) {
  if (flags & O_CREAT) return 'c';
  return (flags & O_ACCMODE) == O_RDONLY ? 0 : 'o';
}

#define OPEN(name)                                                                \
  int name(const char *path, int flags, ...) {                                    \
    REAL(name);                                                                   \
    va_list list;                                                                 \
    va_start(list, flags);                                                        \
    mode_t mode = mode_of(flags, list);                                           \
    va_end(list);                                                                 \
    char class = class_of_open(flags);                                            \
    if (!class) return real(path, flags, mode);                                   \
    GUARDED(class, path, -1, (void)0, real(path, flags, mode));                   \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                              \
  int name(int dir, const char *path, int flags, ...) {                           \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    va_list list;                                                                 \
    va_start(list, flags);                                                        \
    mode_t mode = mode_of(flags, list);                                           \
    va_end(list);                                                                 \
    char class = class_of_open(flags);                                            \
    if (!class) return real(dir, path, flags, mode);                              \
    GUARDED(class, path_at(dir, path, buffer), -1, (void)0, real(dir, path, flags, mode)); \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  PATH_BUFFER;
  GUARDED('w', FD_PATH, -1, (void)!real(fd, data, size / 2), real(fd, data, size));
}

#define PWRITE(name, offset_type)                                                 \
  ssize_t name(int fd, const void *data, size_t size, offset_type offset) {       \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    GUARDED('w', FD_PATH, -1, (void)!real(fd, data, size / 2, offset), real(fd, data, size, offset)); \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  PATH_BUFFER;
  GUARDED('w', FD_PATH, -1, (void)!write(fd, parts->iov_base, parts->iov_len / 2), real(fd, parts, count));
}

#define PWRITEV(name, offset_type)                                                \
  ssize_t name(int fd, const struct iovec *parts, int count, offset_type offset) { \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    GUARDED('w', FD_PATH, -1, (void)0, real(fd, parts, count, offset));           \
  }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
  REAL(copy_file_range);
  PATH_BUFFER;
  GUARDED('w', (active() ? path_of(to, buffer) : NULL), -1, (void)0,
          real(from, from_at, to, to_at, size, flags));
}

#define OF_FD(class, name, parameters, arguments)                                 \
  int name parameters {                                                           \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    GUARDED(class, FD_PATH, -1, (void)0, real arguments);                         \
  }
OF_FD('s', fsync, (int fd), (fd))
OF_FD('s', fdatasync, (int fd), (fd))
OF_FD('s', syncfs, (int fd), (fd))
OF_FD('s', sync_file_range, (int fd, off64_t from, off64_t size, unsigned flags), (fd, from, size, flags))
OF_FD('w', ftruncate, (int fd, off_t size), (fd, size))
OF_FD('w', ftruncate64, (int fd, off64_t size), (fd, size))
OF_FD('w', fallocate, (int fd, int mode, off_t from, off_t size), (fd, mode, from, size))
OF_FD('w', fallocate64, (int fd, int mode, off64_t from, off64_t size), (fd, mode, from, size))

#define ALLOCATE(name, offset_type)                                               \
  int name(int fd, offset_type from, offset_type size) {                          \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    GUARDED('w', FD_PATH, (int)argument, (void)0, real(fd, from, size));          \
  }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define OF_PATH(class, name, parameters, arguments, subject)                      \
  int name parameters {                                                           \
    REAL(name);                                                                   \
    GUARDED(class, subject, -1, (void)0, real arguments);                         \
  }
OF_PATH('r', rename, (const char *from, const char *to), (from, to), to)
OF_PATH('r', link, (const char *from, const char *to), (from, to), to)
OF_PATH('u', unlink, (const char *path), (path), path)
OF_PATH('d', mkdir, (const char *path, mode_t mode), (path, mode), path)
OF_PATH('d', rmdir, (const char *path), (path), path)

#define OF_PATH_AT(class, name, parameters, arguments, dir, subject)              \
  int name parameters {                                                           \
    REAL(name);                                                                   \
    PATH_BUFFER;                                                                  \
    GUARDED(class, path_at(dir, subject, buffer), -1, (void)0, real arguments);   \
  }
OF_PATH_AT('r', renameat, (int old, const char *from, int new, const char *to), (old, from, new, to), new, to)
OF_PATH_AT('r', renameat2, (int old, const char *from, int new, const char *to, unsigned flags),
           (old, from, new, to, flags), new, to)
OF_PATH_AT('r', linkat, (int old, const char *from, int new, const char *to, int flags),
           (old, from, new, to, flags), new, to)
OF_PATH_AT('u', unlinkat, (int dir, const char *path, int flags), (dir, path, flags), dir, path)
OF_PATH_AT('d', mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), dir, path)

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *given) {
  REAL(pthread_create);
  GUARDED('t', NULL, (int)argument, (void)0, real(thread, attributes, start, given));
}
