/*
 * What the test programs share: checks, descriptions, turns of a loop, and files.
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmon.h"

static char directory[512];

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

/* A call with a handle of a host that has to return this code. */
#define RETURNS(expected, host, call)                                        \
    do {                                                                     \
        int code_ = (call);                                                  \
        if (code_ != (expected)) {                                           \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__,       \
                    #call, vmon_strerror(code_), vmon_errmsg(host));         \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

#define OK(host, call) RETURNS(VMON_OK, host, call)

/* The same for a description. */
#define SET(spec, call)                                                      \
    do {                                                                     \
        int code_ = (call);                                                  \
        if (code_ != VMON_OK) {                                              \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__,       \
                    #call, vmon_strerror(code_), vmon_spec_errmsg(spec));    \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static const char *path(const char *name)
{
    static char joined[600];

    snprintf(joined, sizeof joined, "%s/%s", directory, name);
    return joined;
}

/* A description of a shell command. */
static vmon_spec *shell(const char *name, const char *script)
{
    const char *argv[4] = { "sh", "-c", NULL, NULL };
    vmon_spec *spec = NULL;

    argv[2] = script;
    CHECK(vmon_spec_new(name, &spec) == VMON_OK);
    SET(spec, vmon_spec_command(spec, argv));
    SET(spec, vmon_spec_log_dir(spec, path("log")));
    return spec;
}

/* One turn of a loop of the caller's, as poll(2) has it. */
static void turn(vmon *host)
{
    struct pollfd poll_fd;
    int timeout;

    OK(host, vmon_fd(host, &poll_fd.fd));
    OK(host, vmon_timeout(host, &timeout));
    poll_fd.events = POLLIN;
    CHECK(poll(&poll_fd, 1, timeout) >= 0 || errno == EINTR);
    OK(host, vmon_turn(host, 0));
}

/* Turns until there is an event of this type and sandbox. */
static vmon_event until(vmon *host, vmon_id id, int type)
{
    vmon_event event = VMON_EVENT_INIT;

    for (;;) {
        int code = vmon_next_event(host, 0, &event);
        if (code == VMON_OK && event.id == id && event.type == type)
            return event;
        if (code == VMON_OK)
            continue;
        RETURNS(VMON_EAGAIN, host, code);
        turn(host);
    }
}

static vmon_end end_of(vmon *host, vmon_id id)
{
    vmon_end end = VMON_END_INIT;
    int code;

    while ((code = vmon_wait(host, id, 0, &end)) == VMON_EAGAIN)
        turn(host);
    OK(host, code);
    return end;
}

/* Reads until the text has come, or the end of the file. */
static int reads(int fd, const char *text)
{
    char buffer[4096];
    size_t length = 0;

    while (length < sizeof buffer - 1) {
        ssize_t count = read(fd, buffer + length, sizeof buffer - 1 - length);
        if (count <= 0)
            return 0;
        length += (size_t)count;
        buffer[length] = 0;
        if (strstr(buffer, text))
            return 1;
    }
    return 0;
}

static int file_has(const char *name, const char *text)
{
    int fd = open(path(name), O_RDONLY);
    int found;

    CHECK(fd >= 0);
    found = reads(fd, text);
    close(fd);
    return found;
}

#endif
