/*
 * Makes system calls of one program fail, and sets its wall clock, as the environment says; all
 * other calls pass.
 *
 * VMON_INJECT_RULES holds one rule a line:
 *
 *     CALL ERRNO [arg=N] [fd=TEXT] [while=FILE] [skip=N]
 *
 * CALL    read, write, flock, kill (killpg too), pidfd_send_signal, epoll_ctl or inotify_init1.
 * ERRNO   its number.
 * arg     only for this signal (kill, pidfd_send_signal), this operation without LOCK_NB (flock)
 *         or this operation (epoll_ctl).
 * fd      only for a descriptor whose link in /proc/self/fd contains the text: a path, "pipe:",
 *         "[pidfd]", "/dev/ptmx". For epoll_ctl it is the descriptor that is watched.
 * while   only as long as the file exists.
 * skip    the first N calls that match pass.
 *
 * The rule "clock SECONDS [while=FILE]" adds to CLOCK_REALTIME. The monotonic clock and the times
 * that the kernel gives to files stay as they are.
 *
 * VMON_INJECT_PROGRAM is the program whose calls fail (program_invocation_short_name).
 * Children inherit the library, but have another name.
 *
 * The table is read before main. Between fork and exec nothing here allocates or takes a lock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define RULES 16
#define TEXT 512

struct rule {
    char call[24];
    int error;
    long arg;
    char fd[TEXT];
    char file[TEXT];
    int skip;
};

static struct rule rules[RULES];
static int count;

static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_flock)(int, int);
static int (*real_kill)(pid_t, int);
static int (*real_killpg)(pid_t, int);
static int (*real_epoll_ctl)(int, int, int, struct epoll_event *);
static int (*real_inotify_init1)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static long (*real_syscall)(long, ...);

static void parse(char *line)
{
    struct rule *rule = &rules[count];
    char *rest;
    char *word = strtok_r(line, " ", &rest);
    if (!word || count == RULES)
        return;
    snprintf(rule->call, sizeof rule->call, "%s", word);
    rule->arg = -1;
    if ((word = strtok_r(NULL, " ", &rest)))
        rule->error = atoi(word);
    while ((word = strtok_r(NULL, " ", &rest))) {
        if (!strncmp(word, "arg=", 4))
            rule->arg = atol(word + 4);
        else if (!strncmp(word, "fd=", 3))
            snprintf(rule->fd, TEXT, "%s", word + 3);
        else if (!strncmp(word, "while=", 6))
            snprintf(rule->file, TEXT, "%s", word + 6);
        else if (!strncmp(word, "skip=", 5))
            rule->skip = atoi(word + 5);
        else
            abort();
    }
    count++;
}

__attribute__((constructor)) static void begin(void)
{
    real_read = dlsym(RTLD_NEXT, "read");
    real_write = dlsym(RTLD_NEXT, "write");
    real_flock = dlsym(RTLD_NEXT, "flock");
    real_kill = dlsym(RTLD_NEXT, "kill");
    real_killpg = dlsym(RTLD_NEXT, "killpg");
    real_epoll_ctl = dlsym(RTLD_NEXT, "epoll_ctl");
    real_inotify_init1 = dlsym(RTLD_NEXT, "inotify_init1");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    const char *program = getenv("VMON_INJECT_PROGRAM");
    const char *given = getenv("VMON_INJECT_RULES");
    if (!program || !given || strcmp(program, program_invocation_short_name))
        return;
    char *text = strdup(given);
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        parse(line);
    free(text);
}

static int is_fd(const struct rule *rule, int fd)
{
    char path[64];
    char link[TEXT];
    if (!rule->fd[0])
        return 1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length < 0)
        return 0;
    link[length] = '\0';
    return strstr(link, rule->fd) != NULL;
}

/* The errno that this call fails with; 0 where it passes. Leaves errno as it is. */
static int fails(const char *call, int fd, long arg)
{
    int before = errno;
    int error = 0;
    for (int i = 0; i < count && !error; i++) {
        struct rule *rule = &rules[i];
        if (strcmp(rule->call, call) || (rule->arg != -1 && rule->arg != arg))
            continue;
        if (!is_fd(rule, fd) || (rule->file[0] && access(rule->file, F_OK)))
            continue;
        if (__atomic_fetch_sub(&rule->skip, 1, __ATOMIC_RELAXED) > 0)
            continue;
        __atomic_store_n(&rule->skip, 0, __ATOMIC_RELAXED);
        error = rule->error;
    }
    errno = before;
    return error;
}

#define FAIL(call, fd, arg)                    \
    do {                                       \
        int error = fails(call, fd, arg);      \
        if (error) {                           \
            errno = error;                     \
            return -1;                         \
        }                                      \
    } while (0)

ssize_t read(int fd, void *buffer, size_t size)
{
    FAIL("read", fd, -1);
    return real_read(fd, buffer, size);
}

ssize_t write(int fd, const void *buffer, size_t size)
{
    FAIL("write", fd, -1);
    return real_write(fd, buffer, size);
}

int flock(int fd, int operation)
{
    FAIL("flock", fd, operation & ~LOCK_NB);
    return real_flock(fd, operation);
}

int kill(pid_t pid, int signal)
{
    FAIL("kill", -1, signal);
    return real_kill(pid, signal);
}

int killpg(pid_t group, int signal)
{
    FAIL("kill", -1, signal);
    return real_killpg(group, signal);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    FAIL("epoll_ctl", fd, operation);
    return real_epoll_ctl(epoll, operation, fd, event);
}

int inotify_init1(int flags)
{
    FAIL("inotify_init1", -1, -1);
    return real_inotify_init1(flags);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real_clock_gettime)
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, now);
    if (!result && clock == CLOCK_REALTIME)
        now->tv_sec += fails("clock", -1, -1);
    return result;
}

/* SQLite's clock. */
int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

long syscall(long number, ...)
{
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_pidfd_send_signal)
        FAIL("pidfd_send_signal", (int)a[0], a[1]);
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
