/*
 * vmon.h - monitor child processes from C
 *
 * A host (vmon *) monitors any number of sandboxes. A sandbox is a described command or an adopted
 * child, with a log and, if the host has a database, a record of its runs.
 *
 *   vmon *host;
 *   vmon_spec *spec;
 *   vmon_id id;
 *   vmon_end end = VMON_END_INIT;
 *   const char *const argv[] = { "web-server", "--port", "80", NULL };
 *   vmon_options options = VMON_OPTIONS_INIT;
 *
 *   options.state_dir = "/var/lib/host";
 *   vmon_open_thread(&options, &host);
 *   vmon_spec_new("web", &spec);
 *   vmon_spec_command(spec, argv);
 *   vmon_start(host, spec, &id);
 *   vmon_spec_free(spec);
 *   vmon_wait(host, id, -1, &end);
 *   printf("exit code %d\n", end.exit_code);
 *   vmon_close(host);
 *
 * Results. A function that returns int returns VMON_OK or one of the negative codes below. On
 * failure it has written nothing through its pointers, except as stated, and vmon_errmsg() or
 * vmon_spec_errmsg() has the reason. No function exits, aborts or unwinds because of its arguments,
 * and errno is the same after a call as before it.
 *
 * Threads. A handle, of a host or a description, is used by one thread at a time, and may be used
 * by another one afterwards. A call on a host's handle that another thread is using returns
 * VMON_EBUSY. For several threads at once: vmon_open_thread() and a handle for each by vmon_clone().
 * A handle is freed once and not used afterwards. Functions without a handle are called by any thread.
 * In a process that was made by fork(2) no handle is used; it may call execve(2).
 *
 * Blocking. Only vmon_turn(), vmon_wait(), vmon_next_event() and vmon_close() wait, as far as stated
 * there. The others return at once; with vmon_open_thread() after a round trip to that thread.
 *
 * Ownership. The caller keeps what it passes: strings, arrays, structs and descriptors are copied
 * or duplicated during the call. What the caller gets and has to free is stated with each function.
 *
 * Signals. The library installs no signal handler and changes no disposition and no signal mask, and
 * reaps only the children that it monitors. It raises no SIGPIPE in the host: unless the host ignores
 * it, the signal is blocked for the calling thread during a call, and one that another process sends
 * meanwhile may be lost. One exception: in a process with a terminal, a child on a PTY and
 * VMON_INPUT_FORWARD block SIGTTIN and SIGTTOU for the thread that drives the host. SIGCHLD must not be
 * ignored (wait(2)), or every exit status is unknown.
 *
 * Growth. Structs begin with their size, which the caller sets with the initializer below the struct.
 * Later versions append members only, and read and write no further than that size.
 */
#ifndef VMON_H
#define VMON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A host: a handle of it. */
typedef struct vmon vmon;

/* The description of a sandbox, which any number of sandboxes may be started from. */
typedef struct vmon_spec vmon_spec;

/* A sandbox of a host. Never 0, and never used twice in a process. */
typedef uint64_t vmon_id;

/* What functions return. */
enum {
    VMON_OK = 0,
    VMON_EINVAL = -1,       /* An argument is NULL, malformed or out of range. */
    VMON_EMISUSE = -2,      /* The function is not for this handle or its state. */
    VMON_EBUSY = -3,        /* Another thread is using the handle, or waits for that sandbox. */
    VMON_EAGAIN = -4,       /* Nothing yet, or not now; the timeout has passed. */
    VMON_ENOENT = -5,       /* There is no such sandbox: it has ended, or its end was taken. */
    VMON_ENOTRUNNING = -6,  /* The sandbox has no child now. */
    VMON_ENOTTY = -7,       /* The child has no terminal. */
    VMON_EATTACH = -8,      /* The client can't be attached. */
    VMON_ECHILD = -9,       /* The process is not a child of this process. */
    VMON_ERECORD = -10,     /* The database can't be used. */
    VMON_ESYSTEM = -11,     /* A system call failed: vmon_errno(). */
    VMON_ENOTSUP = -12,     /* This platform or build can't do it. */
    VMON_EENDED = -13,      /* The host has ended. */
    VMON_EPANIC = -14,      /* A fault of the library. Every call with the handle fails from now on,
                               but vmon_close() and vmon_free(), which kill the children. */
    VMON_ENOINPUT = -15     /* The child takes no input. */
};

/* What the end of a host does with its sandboxes. */
enum {
    VMON_STOP = 0, /* The stop signal, then KILL after the stop timeout of each; waits for the ends. */
    VMON_KILL = 1, /* The stop signal and KILL at once; waits for the ends. */
    VMON_LEAVE = 2 /* The children go on without their streams, and are the caller's to reap. They also
                      outlive a host that is killed. */
};

/* What a child that is started reads. */
enum {
    VMON_INPUT_NULL = 0,    /* The null device. */
    VMON_INPUT_FORWARD = 1, /* The standard input of this process. */
    VMON_INPUT_ATTACHED = 2 /* What attached clients send. */
};

/* The stream that vmon_attach() attaches to. */
enum {
    VMON_STREAM_DEFAULT = 0, /* The terminal of a child that has one, else its standard output. */
    VMON_STREAM_STDOUT = 1,
    VMON_STREAM_STDERR = 2,
    VMON_STREAM_TTY = 3
};

/* The type of an event. */
enum {
    VMON_EVENT_RUNNING = 1,    /* The child runs: pid. */
    VMON_EVENT_STOPPING = 2,   /* The stop signal has been sent. */
    VMON_EVENT_DRAINING = 3,   /* The child has been reaped; its output is read to the end. */
    VMON_EVENT_RESTARTING = 4, /* A run is over, and the command will be started again: end. */
    VMON_EVENT_STOPPED = 5,    /* It has ended, or could not be started: end. */
    VMON_EVENT_DONE = 6        /* The record has the end, and the name is free. Nothing follows. */
};

/* Why a run ended. Later versions may have more. */
enum {
    VMON_REASON_UNKNOWN = 0,         /* Not known to this version. */
    VMON_REASON_EXITED = 1,          /* By itself, with an exit code. */
    VMON_REASON_SIGNALLED = 2,       /* By a signal that vmon did not send. */
    VMON_REASON_STOPPED = 3,         /* After a stop request, within the stop timeout. */
    VMON_REASON_KILLED = 4,          /* By KILL, after the stop timeout. */
    VMON_REASON_MAX_DURATION = 5,    /* By a stop after the maximum duration. */
    VMON_REASON_IDLE_TIMEOUT = 6,    /* By a stop after the idle timeout. */
    VMON_REASON_OUT_OF_MEMORY = 7,   /* By the kernel's OOM killer. */
    VMON_REASON_PANICKED = 8,        /* By a stop after a fault of the library. */
    VMON_REASON_START_FAILED = 9,    /* It never ran: error. */
    VMON_REASON_SUPERVISOR_LOST = 10 /* The host ended first. */
};

/* ------------------------------------------------------------------------------------------------
 * The library
 */

/* The version of the library: "0.1.0". A static string. */
const char *vmon_version(void);

/* What a code means, in a few words. A static string, also for other numbers. */
const char *vmon_strerror(int code);

/* Frees a string that a function of this library gave to the caller. NULL is ignored. */
void vmon_free_string(char *string);

/* ------------------------------------------------------------------------------------------------
 * Hosts
 */

typedef struct vmon_options {
    size_t size;
    /* The state directory, or NULL. Made if it is missing. The database is STATE/sandbox.db, logs
       are in STATE/log, and each sandbox has a control socket in STATE/run, so that every command
       of vmon works for it: vmon ps --state-dir STATE, and likewise attach and stop. */
    const char *state_dir;
    /* The path of the database, or NULL for that of the state directory, or none without one. */
    const char *database;
    /* VMON_STOP, VMON_KILL or VMON_LEAVE. */
    int on_close;
} vmon_options;
#define VMON_OPTIONS_INIT { sizeof(vmon_options), NULL, NULL, VMON_STOP }

/*
 * Opens a host that is driven by the caller's event loop: poll the descriptor of vmon_fd() for
 * readability, for at most vmon_timeout(), and then call vmon_turn().
 *
 * options may be NULL: no database, and each description names its log directory.
 *
 * On failure too, *host is a handle, or NULL if host is NULL or memory is short: it has the message,
 * and is freed with vmon_free().
 *
 * VMON_EINVAL, VMON_ERECORD (no directory, not a database, read-only), VMON_ESYSTEM.
 */
int vmon_open(const vmon_options *options, vmon **host);

/*
 * As vmon_open(), but a thread of its own drives the host. The thread blocks every signal, so the
 * caller's handlers run on the caller's threads.
 */
int vmon_open_thread(const vmon_options *options, vmon **host);

/*
 * A further handle of a host of vmon_open_thread(), for another thread. It has messages and events
 * of its own. Ends of sandboxes are common to all handles. Freed with vmon_free() or vmon_close().
 *
 * VMON_EMISUSE for a host of vmon_open().
 */
int vmon_clone(vmon *host, vmon **clone);

/*
 * Ends the host, for all its handles, as on_close of its options says, and frees this handle, whatever
 * it returns. Further handles are still to be freed; other calls with them return VMON_EENDED. NULL is
 * ignored.
 *
 * VMON_ESYSTEM, VMON_EPANIC: children may be left. VMON_EENDED: the host had ended. VMON_EBUSY: another
 * thread is using the handle, and nothing was done.
 */
int vmon_close(vmon *host);

/*
 * Frees a handle. With the last one the host ends as by vmon_close(). NULL is ignored, and so is a handle
 * that another thread is using.
 */
void vmon_free(vmon *host);

/*
 * Why the last call with this handle failed, as one line without a newline; empty if it did not.
 * Never NULL. Valid until the next call with this handle.
 */
const char *vmon_errmsg(vmon *host);

/* The errno behind the failure of the last call with this handle, or 0. */
int vmon_errno(vmon *host);

/*
 * Stores in *fd the descriptor that is readable when vmon_turn() has something to do (an epoll or
 * kqueue descriptor). It belongs to the host: the caller polls it and does nothing else with it.
 *
 * VMON_EMISUSE for a host with a thread of its own. VMON_ENOTSUP where polling has no descriptor.
 */
int vmon_fd(vmon *host, int *fd);

/*
 * Stores in *timeout_ms after how many milliseconds vmon_turn() is to be called even if the
 * descriptor is not readable: 0 for at once, -1 for never. To be asked before each wait.
 *
 * VMON_EMISUSE for a host with a thread of its own.
 */
int vmon_timeout(vmon *host, int *timeout_ms);

/*
 * Does what is due: starts, relays, reaps. Waits at most timeout_ms for something to do; 0 does not
 * wait, and -1 waits until something happens. Files of logs and the database are written in the call.
 *
 * On Linux, children that are started die with the calling thread (PR_SET_PDEATHSIG, prctl(2)), unless
 * vmon_spec_parent_death() or VMON_LEAVE says otherwise.
 *
 * VMON_EMISUSE for a host with a thread of its own. VMON_ESYSTEM: the poller's error; the sandboxes
 * are as they were.
 */
int vmon_turn(vmon *host, int timeout_ms);

/* ------------------------------------------------------------------------------------------------
 * Descriptions
 */

/*
 * A description of a sandbox of this name: one path component, [A-Za-z0-9][A-Za-z0-9_.+-]*, of at most
 * 128 bytes. Freed with vmon_spec_free().
 *
 * VMON_EINVAL: *spec is NULL.
 */
int vmon_spec_new(const char *name, vmon_spec **spec);

/* Frees a description. Sandboxes that were started from it do not need it. NULL is ignored. */
void vmon_spec_free(vmon_spec *spec);

/* As vmon_errmsg(), for a description. */
const char *vmon_spec_errmsg(vmon_spec *spec);

/*
 * The setters below replace what was set before and return VMON_EINVAL for a value that can't be
 * set: the description is as it was.
 */

/* The namespace of the log and the record, named as a sandbox is; "Sandboxfile" by default. */
int vmon_spec_config_file(vmon_spec *spec, const char *name);

/* The directory above CONFIG_FILE/NAME.log; by default STATE/log of the host's state directory. */
int vmon_spec_log_dir(vmon_spec *spec, const char *directory);

/*
 * The program and its arguments; NULL ends the array, which has at least the program. A program
 * without a slash is looked up in PATH. Not needed for vmon_adopt().
 */
int vmon_spec_command(vmon_spec *spec, const char *const *argv);

/* Sets a variable of the child's environment, or removes it if value is NULL. */
int vmon_spec_env(vmon_spec *spec, const char *name, const char *value);

/* The child gets none of this process's variables. Earlier vmon_spec_env() are forgotten. */
int vmon_spec_env_clear(vmon_spec *spec);

/* The child's working directory; by default that of this process. */
int vmon_spec_directory(vmon_spec *spec, const char *directory);

/* Whether the child runs on a PTY (not 0) or on pipes (0, the default). */
int vmon_spec_pty(vmon_spec *spec, int pty);

/* What the child reads: VMON_INPUT_NULL by default. */
int vmon_spec_input(vmon_spec *spec, int input);

/* The signal of a stop: SIGTERM by default. */
int vmon_spec_stop_signal(vmon_spec *spec, int signal);

/* How long after the stop signal KILL follows: 10,000 ms by default. Not negative. */
int vmon_spec_stop_timeout(vmon_spec *spec, int64_t timeout_ms);

/*
 * The size in bytes at which the log rotates (0: never), and how many rotated files are kept (0:
 * none).
 */
int vmon_spec_log_limit(vmon_spec *spec, uint64_t max_size, uint32_t max_files);

/*
 * Whether the child is killed when the thread that has started it ends (not 0, the default). That
 * thread calls vmon_turn(), or is the host's own. Linux only.
 */
int vmon_spec_parent_death(vmon_spec *spec, int parent_death);

/*
 * Sets every option that the JSON object names and leaves the others: restart, max_duration_seconds,
 * log_format and the rest, with the keys and values of "spec" in the output of vmon inspect
 * (docs/json.md), null for the default. A key or value that is not known there is VMON_EINVAL, and
 * nothing is set. So is preserve_fds: descriptors can't be given in JSON.
 */
int vmon_spec_json(vmon_spec *spec, const char *json);

/*
 * Stores the description as JSON in *json, as vmon_spec_json() reads it; without the name, the
 * config file and the environment. Freed with vmon_free_string().
 */
int vmon_spec_get_json(vmon_spec *spec, char **json);

/* ------------------------------------------------------------------------------------------------
 * Sandboxes
 */

/*
 * Starts the command of the description and stores the sandbox in *id. The start takes place in the
 * next turn. Whether it succeeds is an event, and part of the end: a name that is taken, a program
 * that is not found.
 *
 * The end is kept until vmon_wait() or vmon_forget() takes it, as a zombie is by the kernel.
 *
 * VMON_EINVAL: no command, no log directory, or a path of the control socket that is too long.
 */
int vmon_start(vmon *host, vmon_spec *spec, vmon_id *id);

/* A child that the caller has started. */
typedef struct vmon_child {
    size_t size;
    int pid;
    /* The caller's ends of its pipes or stream sockets; -1 for one that is not relayed. */
    int stdin_fd;
    int stdout_fd;
    int stderr_fd;
    /* The master of its PTY, instead of the three; else -1. */
    int tty_fd;
    /* Not 0: the caller reaps the child and hands each status in with vmon_reaped(). */
    int host_reaps;
} vmon_child;
#define VMON_CHILD_INIT { sizeof(vmon_child), 0, -1, -1, -1, -1, 0 }

/*
 * Monitors a child of this process that the caller has started, and stores the sandbox in *id.
 *
 * The descriptors are duplicated, and O_NONBLOCK is set on what they share with the caller's, which
 * reads and writes nothing there any more. The caller closes its own after the call, on success and
 * on failure: while its end of the child's input is open, the child sees no end of it.
 *
 * Without host_reaps, vmon reaps the child. If the sandbox can't start (its name is taken), the child
 * is left to the caller; the end says so. Its end is kept as with vmon_start().
 *
 * VMON_ECHILD; VMON_EINVAL also for a descriptor that is not open; VMON_ESYSTEM without a free one.
 */
int vmon_adopt(vmon *host, vmon_spec *spec, const vmon_child *child, vmon_id *id);

/*
 * Hands in the status of a child that the caller has reaped, as waitpid(2) stored it. Another pid
 * than that of the current child is ignored, and so is a sandbox that has ended: vmon may have seen the
 * end first. A status that is not handed in within five seconds after that is unknown.
 */
int vmon_reaped(vmon *host, vmon_id id, int pid, int status);

/*
 * Asks the sandbox to end: the stop signal to the child's process group, then KILL after timeout_ms,
 * or after the stop timeout of the description if that is -1. Of several requests the earliest KILL
 * counts. Does not wait for the end.
 *
 * VMON_ENOENT.
 */
int vmon_stop(vmon *host, vmon_id id, int64_t timeout_ms);

/*
 * Sends a signal to the child's process group.
 *
 * VMON_EINVAL for a number that is no signal, VMON_ENOENT, VMON_ENOTRUNNING, VMON_ESYSTEM.
 */
int vmon_signal(vmon *host, vmon_id id, int signal);

typedef struct vmon_attach_options {
    size_t size;
    /* One of VMON_STREAM_. */
    int stream;
    /* Not 0: what the client sends is discarded. */
    int read_only;
    /* How many of the log's last bytes come first, at most. */
    uint64_t tail;
    /* The name of a console to attach to, instead of the stream; else NULL. */
    const char *console;
} vmon_attach_options;
#define VMON_ATTACH_INIT { sizeof(vmon_attach_options), VMON_STREAM_DEFAULT, 0, 0, NULL }

/*
 * Attaches the caller to the output and the input of a sandbox. Stores in *fd a stream socket, in
 * blocking mode and close-on-exec, that belongs to the caller. Reads from it return the output, first
 * the tail of the log; end of file is the end of the sandbox. What is written to it is the child's
 * input, with VMON_INPUT_ATTACHED or an adopted child's stdin_fd: with send(2) and MSG_NOSIGNAL. A reader
 * that does not keep up is skipped forward and gets a line that says so.
 *
 * options may be NULL. VMON_EATTACH, VMON_ENOENT, VMON_ESYSTEM.
 */
int vmon_attach(vmon *host, vmon_id id, const vmon_attach_options *options, int *fd);

/*
 * Gives the child's terminal this size in characters.
 *
 * VMON_ENOENT, VMON_ENOTRUNNING, VMON_ENOTTY, VMON_ESYSTEM.
 */
int vmon_resize(vmon *host, vmon_id id, uint16_t rows, uint16_t columns);

/*
 * Gives the child input, all of it or none, with VMON_INPUT_ATTACHED or an adopted child's stdin_fd. At most 64 KiB wait for a child that does not read;
 * vmon_attach() is for more.
 *
 * VMON_EAGAIN: the child has not taken its earlier input. VMON_ENOINPUT, VMON_ENOENT, VMON_ENOTRUNNING.
 */
int vmon_send(vmon *host, vmon_id id, const void *bytes, size_t count);

/*
 * Closes the logs of the sandbox and opens them again by their names, after they have been moved away.
 *
 * VMON_ENOENT, VMON_ENOTRUNNING, VMON_ESYSTEM.
 */
int vmon_reopen_log(vmon *host, vmon_id id);

/*
 * Stores in *json an array of the sandboxes that have not ended: objects with id, name, config_file,
 * state and pid (null without a child). Freed with vmon_free_string().
 */
int vmon_list(vmon *host, char **json);

/*
 * Stores in *json what is known of one sandbox: an object with id, name, config_file, state, pid,
 * labels, restarts, tty, log, bytes_logged, bytes_dropped, sessions (the number of attached clients) and waits:
 * what holds it up, as objects with kind and reason. Freed with vmon_free_string().
 *
 * VMON_ENOENT.
 */
int vmon_report(vmon *host, vmon_id id, char **json);

/* ------------------------------------------------------------------------------------------------
 * Ends and events
 */

/* How a run ended. */
typedef struct vmon_end {
    size_t size;
    /* The child's own, 128+n for signal n; 127 for a program that was not found, 126 for one that
       can't be executed, 125 for whatever else kept it from running and for an unknown status. */
    int exit_code;
    /* The signal that ended the child, or 0. */
    int signal;
    /* One of VMON_REASON_. */
    int reason;
    /* The errno that kept it from running, or 0. */
    int start_errno;
    /* Bytes of output in the log. */
    uint64_t bytes_logged;
    /* Bytes that the log or another output left out. */
    uint64_t bytes_dropped;
    /* Why it never ran; else NULL. */
    const char *error;
} vmon_end;
#define VMON_END_INIT { sizeof(vmon_end), 0, 0, 0, 0, 0, 0, NULL }

/*
 * Takes the end of a sandbox that was started or adopted with any handle of this host: over all runs,
 * if the command is restarted. It comes when the record has it and the name is free. error is valid
 * until the next call with this handle.
 *
 * Waits at most timeout_ms; -1 is without limit. For a host of the caller's loop timeout_ms is 0.
 *
 * VMON_EAGAIN: it has not ended. VMON_ENOENT: not a sandbox of this host, or its end was taken.
 * VMON_EBUSY: another thread waits for it. VMON_EENDED: the host ended before the sandbox.
 */
int vmon_wait(vmon *host, vmon_id id, int timeout_ms, vmon_end *end);

/*
 * Gives the end of a sandbox up, as if vmon_wait() had taken it. The sandbox goes on.
 *
 * VMON_ENOENT, VMON_EBUSY as vmon_wait().
 */
int vmon_forget(vmon *host, vmon_id id);

/* What has happened to a sandbox. */
typedef struct vmon_event {
    size_t size;
    vmon_id id;
    /* One of VMON_EVENT_. Later versions may have more. */
    int type;
    /* With VMON_EVENT_RUNNING; else 0. */
    int pid;
    /* When, in microseconds since 1970 by the wall clock; for VMON_EVENT_DONE 0. */
    int64_t time_us;
    /* How many events are missing before this one, because the queue was full. */
    uint64_t missed;
    /* Of the sandbox. */
    const char *name;
    const char *config_file;
    /* With VMON_EVENT_RESTARTING and VMON_EVENT_STOPPED; else NULL. Its size is the library's. */
    const vmon_end *end;
} vmon_event;
#define VMON_EVENT_INIT { sizeof(vmon_event), 0, 0, 0, 0, 0, NULL, NULL, NULL }

/*
 * Keeps the events of all sandboxes from now on for this handle, at most limit of them and at least
 * one. When more come, the oldest are removed and counted. Again: the queue is emptied.
 */
int vmon_subscribe(vmon *host, uint32_t limit);

/*
 * Takes the oldest event. Its pointers are valid until the next call with this handle.
 *
 * Waits at most timeout_ms for one; -1 is without limit. For a host of the caller's loop timeout_ms
 * is 0.
 *
 * VMON_EAGAIN: there is none. VMON_EMISUSE without vmon_subscribe(). VMON_EENDED.
 */
int vmon_next_event(vmon *host, int timeout_ms, vmon_event *event);

#ifdef __cplusplus
}
#endif

#endif
