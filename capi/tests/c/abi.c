/*
 * Prints the layout of the structs and the values of the constants of vmon.h, for comparison with
 * capi/abi.txt. Also compiled as C++, for the header and its initializers.
 */
#include <stdio.h>

#include "vmon.h"

#define STRUCT(type) printf("struct %s %lu\n", #type, (unsigned long)sizeof(type))
#define MEMBER(type, member) \
    printf("  %lu %s\n", (unsigned long)offsetof(type, member), #member)
#define VALUE(name) printf("  %s %d\n", #name, (int)name)

int main(void)
{
    const vmon_options options = VMON_OPTIONS_INIT;
    const vmon_child child = VMON_CHILD_INIT;
    const vmon_attach_options attach = VMON_ATTACH_INIT;
    const vmon_end end = VMON_END_INIT;
    const vmon_event event = VMON_EVENT_INIT;

    (void)options, (void)child, (void)attach, (void)end, (void)event;

    STRUCT(vmon_options);
    MEMBER(vmon_options, size);
    MEMBER(vmon_options, state_dir);
    MEMBER(vmon_options, database);
    MEMBER(vmon_options, on_close);
    STRUCT(vmon_child);
    MEMBER(vmon_child, size);
    MEMBER(vmon_child, pid);
    MEMBER(vmon_child, stdin_fd);
    MEMBER(vmon_child, stdout_fd);
    MEMBER(vmon_child, stderr_fd);
    MEMBER(vmon_child, tty_fd);
    MEMBER(vmon_child, host_reaps);
    STRUCT(vmon_attach_options);
    MEMBER(vmon_attach_options, size);
    MEMBER(vmon_attach_options, stream);
    MEMBER(vmon_attach_options, read_only);
    MEMBER(vmon_attach_options, tail);
    MEMBER(vmon_attach_options, console);
    STRUCT(vmon_end);
    MEMBER(vmon_end, size);
    MEMBER(vmon_end, exit_code);
    MEMBER(vmon_end, signal);
    MEMBER(vmon_end, reason);
    MEMBER(vmon_end, start_errno);
    MEMBER(vmon_end, bytes_logged);
    MEMBER(vmon_end, bytes_dropped);
    MEMBER(vmon_end, error);
    STRUCT(vmon_event);
    MEMBER(vmon_event, size);
    MEMBER(vmon_event, id);
    MEMBER(vmon_event, type);
    MEMBER(vmon_event, pid);
    MEMBER(vmon_event, time_us);
    MEMBER(vmon_event, missed);
    MEMBER(vmon_event, name);
    MEMBER(vmon_event, config_file);
    MEMBER(vmon_event, end);

    printf("values\n");
    VALUE(VMON_OK);
    VALUE(VMON_EINVAL);
    VALUE(VMON_EMISUSE);
    VALUE(VMON_EBUSY);
    VALUE(VMON_EAGAIN);
    VALUE(VMON_ENOENT);
    VALUE(VMON_ENOTRUNNING);
    VALUE(VMON_ENOTTY);
    VALUE(VMON_EATTACH);
    VALUE(VMON_ECHILD);
    VALUE(VMON_ERECORD);
    VALUE(VMON_ESYSTEM);
    VALUE(VMON_ENOTSUP);
    VALUE(VMON_EENDED);
    VALUE(VMON_EPANIC);
    VALUE(VMON_ENOINPUT);
    VALUE(VMON_STOP);
    VALUE(VMON_KILL);
    VALUE(VMON_LEAVE);
    VALUE(VMON_INPUT_NULL);
    VALUE(VMON_INPUT_FORWARD);
    VALUE(VMON_INPUT_ATTACHED);
    VALUE(VMON_STREAM_DEFAULT);
    VALUE(VMON_STREAM_STDOUT);
    VALUE(VMON_STREAM_STDERR);
    VALUE(VMON_STREAM_TTY);
    VALUE(VMON_EVENT_RUNNING);
    VALUE(VMON_EVENT_STOPPING);
    VALUE(VMON_EVENT_DRAINING);
    VALUE(VMON_EVENT_RESTARTING);
    VALUE(VMON_EVENT_STOPPED);
    VALUE(VMON_EVENT_DONE);
    VALUE(VMON_REASON_UNKNOWN);
    VALUE(VMON_REASON_EXITED);
    VALUE(VMON_REASON_SIGNALLED);
    VALUE(VMON_REASON_STOPPED);
    VALUE(VMON_REASON_KILLED);
    VALUE(VMON_REASON_MAX_DURATION);
    VALUE(VMON_REASON_IDLE_TIMEOUT);
    VALUE(VMON_REASON_OUT_OF_MEMORY);
    VALUE(VMON_REASON_PANICKED);
    VALUE(VMON_REASON_START_FAILED);
    VALUE(VMON_REASON_SUPERVISOR_LOST);
    return 0;
}
