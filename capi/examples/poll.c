/*
 * A host with a poll(2) loop of its own: it starts a command, forwards its own standard input to it,
 * and prints its events. Ends with the command's exit code.
 *
 *   cc poll.c $(pkg-config --cflags --libs vmon) -o poll
 *   ./poll /var/lib/host sh -c 'echo hello; exit 7'
 */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include <vmon.h>

static int failed(const char *what, vmon *host)
{
    fprintf(stderr, "%s: %s\n", what, vmon_errmsg(host));
    return 125;
}

/* Prints what has happened; returns whether that was the last event. */
static int print(const vmon_event *event)
{
    switch (event->type) {
    case VMON_EVENT_RUNNING:
        printf("%s runs with the pid %d\n", event->name, event->pid);
        break;
    case VMON_EVENT_STOPPED:
        if (event->end->error)
            printf("%s did not start: %s\n", event->name, event->end->error);
        else
            printf("%s has ended with the code %d\n", event->name, event->end->exit_code);
        break;
    }
    fflush(stdout);
    return event->type == VMON_EVENT_DONE;
}

int main(int argc, char **argv)
{
    vmon_options options = VMON_OPTIONS_INIT;
    vmon_event event = VMON_EVENT_INIT;
    vmon_end end = VMON_END_INIT;
    struct pollfd fds[2] = { { -1, POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };
    vmon *host;
    vmon_spec *spec;
    vmon_id id;
    int timeout, done = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: poll STATE PROGRAM [ARGUMENT]...\n");
        return 125;
    }
    options.state_dir = argv[1];
    if (vmon_open(&options, &host) != VMON_OK)
        return failed("open", host);
    if (vmon_spec_new("poll", &spec) != VMON_OK ||
        vmon_spec_command(spec, (const char *const *)argv + 2) != VMON_OK ||
        vmon_spec_input(spec, VMON_INPUT_ATTACHED) != VMON_OK)
        return failed("describe", host);
    if (vmon_subscribe(host, 64) != VMON_OK || vmon_fd(host, &fds[0].fd) != VMON_OK ||
        vmon_start(host, spec, &id) != VMON_OK)
        return failed("start", host);
    vmon_spec_free(spec);

    while (!done) {
        if (vmon_timeout(host, &timeout) != VMON_OK)
            return failed("timeout", host);
        poll(fds, 2, timeout);
        if (fds[1].revents) {
            char bytes[4096];
            ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);

            if (count <= 0)
                fds[1].fd = -1;
            else if (vmon_send(host, id, bytes, (size_t)count) != VMON_OK)
                fprintf(stderr, "input: %s\n", vmon_errmsg(host));
        }
        if (vmon_turn(host, 0) != VMON_OK)
            return failed("turn", host);
        while (vmon_next_event(host, 0, &event) == VMON_OK)
            done = print(&event);
    }
    if (vmon_wait(host, id, 0, &end) != VMON_OK)
        return failed("wait", host);
    vmon_close(host);
    return end.exit_code;
}
