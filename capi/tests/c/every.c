/*
 * Uses every function of vmon.h, on the caller's loop and on a thread. The first argument is a directory
 * for its files, and a second one says that valgrind runs it. Ends with 0, or with the line of the check
 * that has failed.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"

/* Valgrind makes vfork(2) a fork(2), so a child can't tell its parent why it could not be started. */
static int on_valgrind;

static void pipe_of(int ends[2])
{
    CHECK(pipe(ends) == 0);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
}

static void misuse(void)
{
    vmon *host = NULL;
    vmon_spec *spec = NULL;
    vmon_options options = VMON_OPTIONS_INIT;
    vmon_end end = VMON_END_INIT;
    vmon_event event = VMON_EVENT_INIT;
    vmon_id id = 0;
    const char *argv[] = { NULL };
    int code, number;

    CHECK(strlen(vmon_version()) > 0);
    for (code = 1; code > -40; code--)
        CHECK(strlen(vmon_strerror(code)) > 0);
    vmon_free_string(NULL);
    vmon_free(NULL);
    vmon_spec_free(NULL);
    CHECK(vmon_close(NULL) == VMON_OK);
    CHECK(strlen(vmon_errmsg(NULL)) > 0);
    CHECK(strlen(vmon_spec_errmsg(NULL)) > 0);
    CHECK(vmon_errno(NULL) == 0);

    CHECK(vmon_spec_new("a/b", &spec) == VMON_EINVAL && spec == NULL);
    CHECK(vmon_spec_new(NULL, &spec) == VMON_EINVAL);
    CHECK(vmon_spec_new("web", NULL) == VMON_EINVAL);
    CHECK(vmon_spec_new("web", &spec) == VMON_OK);
    CHECK(vmon_spec_command(spec, argv) == VMON_EINVAL);
    CHECK(strlen(vmon_spec_errmsg(spec)) > 0);
    CHECK(vmon_spec_command(spec, NULL) == VMON_EINVAL);
    CHECK(vmon_spec_config_file(spec, "..") == VMON_EINVAL);
    CHECK(vmon_spec_input(spec, 9) == VMON_EINVAL);
    CHECK(vmon_spec_stop_signal(spec, 4711) == VMON_EINVAL);
    CHECK(vmon_spec_stop_timeout(spec, -1) == VMON_EINVAL);
    CHECK(vmon_spec_env(spec, "A=B", "C") == VMON_EINVAL);
    CHECK(vmon_spec_json(spec, "{\"restart\": \"sometimes\"}") == VMON_EINVAL);
    CHECK(vmon_spec_pty(NULL, 1) == VMON_EINVAL);

    CHECK(vmon_open(NULL, NULL) == VMON_EINVAL);
    options.size = 3;
    CHECK(vmon_open(&options, &host) == VMON_EINVAL && host);
    CHECK(strstr(vmon_errmsg(host), "size"));
    CHECK(vmon_turn(host, 0) == VMON_EENDED);
    CHECK(vmon_close(host) == VMON_OK);
    options.size = sizeof options;
    options.on_close = 17;
    CHECK(vmon_open(&options, &host) == VMON_EINVAL);
    vmon_free(host);
    options.on_close = VMON_KILL;
    options.database = directory;
    RETURNS(VMON_ERECORD, host, vmon_open(&options, &host));
    vmon_free(host);

    OK(host, vmon_open(NULL, &host));
    RETURNS(VMON_EINVAL, host, vmon_start(host, spec, &id)); /* no command */
    argv[0] = NULL;
    RETURNS(VMON_EINVAL, host, vmon_start(host, NULL, &id));
    RETURNS(VMON_EINVAL, host, vmon_start(host, spec, NULL));
    RETURNS(VMON_ENOENT, host, vmon_stop(host, 12345, -1));
    RETURNS(VMON_ENOENT, host, vmon_wait(host, 12345, 0, &end));
    RETURNS(VMON_ENOENT, host, vmon_forget(host, 12345));
    RETURNS(VMON_EINVAL, host, vmon_stop(host, 12345, -2));
    RETURNS(VMON_EINVAL, host, vmon_signal(host, 12345, 4711));
    RETURNS(VMON_EMISUSE, host, vmon_next_event(host, 0, &event));
    RETURNS(VMON_EMISUSE, host, vmon_wait(host, 1, -1, &end));
    RETURNS(VMON_EINVAL, host, vmon_fd(host, NULL));
    end.size = 1;
    RETURNS(VMON_EINVAL, host, vmon_wait(host, 1, 0, &end));
    RETURNS(VMON_EMISUSE, host, vmon_clone(host, &host));
    CHECK(vmon_fd(NULL, &number) == VMON_EINVAL);
    vmon_free(host);
    vmon_spec_free(spec);
}

/* From the start to the end, with a record, events and everything that can be asked meanwhile. */
static void on_the_callers_loop(void)
{
    vmon_options options = VMON_OPTIONS_INIT;
    vmon_attach_options attach = VMON_ATTACH_INIT;
    vmon_event event = VMON_EVENT_INIT;
    vmon_end end;
    vmon *host;
    vmon_spec *spec;
    vmon_id id, other;
    char *json;
    int fd, count;
    struct stat status;
    char state[600];

    strcpy(state, path("state"));
    options.state_dir = state;
    OK(host, vmon_open(&options, &host));
    OK(host, vmon_subscribe(host, 64));
    RETURNS(VMON_EAGAIN, host, vmon_next_event(host, 0, &event));

    /* An exit code, and a log in the state directory. */
    CHECK(vmon_spec_new("code", &spec) == VMON_OK);
    {
        const char *argv[] = { "sh", "-c", "pwd; echo $GREETING; exit 7", NULL };
        SET(spec, vmon_spec_command(spec, argv));
    }
    SET(spec, vmon_spec_env_clear(spec));
    SET(spec, vmon_spec_env(spec, "GREETING", "hello"));
    SET(spec, vmon_spec_env(spec, "PATH", getenv("PATH")));
    SET(spec, vmon_spec_env(spec, "HOME", NULL));
    SET(spec, vmon_spec_directory(spec, "/"));
    SET(spec, vmon_spec_config_file(spec, "Hostfile"));
    SET(spec, vmon_spec_log_limit(spec, 1 << 20, 2));
    SET(spec, vmon_spec_parent_death(spec, 1));
    OK(host, vmon_start(host, spec, &id));
    CHECK(id != 0);
    event = until(host, id, VMON_EVENT_RUNNING);
    CHECK(event.pid > 0 && event.time_us > 0 && event.missed == 0);
    CHECK(!strcmp(event.name, "code") && !strcmp(event.config_file, "Hostfile"));
    CHECK(event.end == NULL);
    until(host, id, VMON_EVENT_DRAINING);
    event = until(host, id, VMON_EVENT_STOPPED);
    CHECK(event.end && event.end->size == sizeof end);
    CHECK(event.end->exit_code == 7 && event.end->reason == VMON_REASON_EXITED);
    until(host, id, VMON_EVENT_DONE);
    end = end_of(host, id);
    CHECK(end.exit_code == 7 && end.signal == 0 && end.reason == VMON_REASON_EXITED);
    CHECK(end.bytes_logged == 8 && end.bytes_dropped == 0 && end.error == NULL);
    RETURNS(VMON_ENOENT, host, vmon_wait(host, id, 0, &end));
    CHECK(file_has("state/log/Hostfile/code.log", "/\nhello\n"));
    CHECK(stat(path("state/sandbox.db"), &status) == 0);
    vmon_spec_free(spec);

    /* A start that fails. */
    CHECK(vmon_spec_new("missing", &spec) == VMON_OK);
    {
        const char *argv[] = { "/no/such/program", NULL };
        SET(spec, vmon_spec_command(spec, argv));
    }
    OK(host, vmon_start(host, spec, &id));
    end = end_of(host, id);
    if (!on_valgrind) {
        CHECK(end.exit_code == 127 && end.reason == VMON_REASON_START_FAILED);
        CHECK(end.start_errno == ENOENT && strstr(end.error, "/no/such/program"));
    }
    vmon_spec_free(spec);

    /* A child on a terminal that takes input, a size and a signal; one that has no input. */
    spec = shell("tty", "trap 'echo got-usr1' USR1; echo ready; read x; stty size; cat");
    SET(spec, vmon_spec_pty(spec, 1));
    SET(spec, vmon_spec_input(spec, VMON_INPUT_ATTACHED));
    SET(spec, vmon_spec_json(spec, "{\"labels\": {\"tier\": \"web\"}}"));
    OK(host, vmon_start(host, spec, &id));
    RETURNS(VMON_ENOENT, host, vmon_signal(host, id + ((uint64_t)1 << 40), SIGUSR1));
    until(host, id, VMON_EVENT_RUNNING);
    vmon_spec_free(spec);
    spec = shell("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
    SET(spec, vmon_spec_stop_timeout(spec, 100000));
    OK(host, vmon_start(host, spec, &other));
    until(host, other, VMON_EVENT_RUNNING);

    attach.tail = 1024;
    OK(host, vmon_attach(host, other, &attach, &fd));
    while (!file_has("log/Sandboxfile/deaf.log", "ready"))
        turn(host);
    close(fd);
    RETURNS(VMON_ENOTTY, host, vmon_resize(host, other, 10, 10));
    RETURNS(VMON_ENOINPUT, host, vmon_send(host, other, "x", 1));
    attach.stream = VMON_STREAM_TTY;
    RETURNS(VMON_EATTACH, host, vmon_attach(host, other, &attach, &fd));

    while (!file_has("log/Sandboxfile/tty.log", "ready"))
        turn(host);
    OK(host, vmon_resize(host, id, 33, 77));
    OK(host, vmon_signal(host, id, SIGUSR1));
    while (!file_has("log/Sandboxfile/tty.log", "got-usr1"))
        turn(host);
    OK(host, vmon_send(host, id, "\n", 1));
    OK(host, vmon_send(host, id, NULL, 0));
    while (!file_has("log/Sandboxfile/tty.log", "33 77"))
        turn(host);

    /* The log is moved away and opened again. */
    {
        char moved[600];
        strcpy(moved, path("moved.log"));
        CHECK(rename(path("log/Sandboxfile/tty.log"), moved) == 0);
    }
    OK(host, vmon_reopen_log(host, id));
    OK(host, vmon_send(host, id, "after\n", 6));
    while (!file_has("log/Sandboxfile/tty.log", "after"))
        turn(host);

    OK(host, vmon_list(host, &json));
    CHECK(strstr(json, "\"tty\"") && strstr(json, "\"deaf\"") && strstr(json, "\"RUNNING\""));
    vmon_free_string(json);
    OK(host, vmon_report(host, id, &json));
    CHECK(strstr(json, "\"tty\":true") && strstr(json, "\"sessions\":0"));
    CHECK(strstr(json, "\"labels\":{\"tier\":\"web\"}"));
    vmon_free_string(json);

    /* Many clients go away while their output comes: no SIGPIPE, which has its default action. */
    attach.stream = VMON_STREAM_DEFAULT;
    for (count = 0; count < 8; count++) {
        OK(host, vmon_attach(host, id, &attach, &fd));
        OK(host, vmon_send(host, id, "noise\n", 6));
        close(fd);
        OK(host, vmon_turn(host, 0));
    }

    /* The stop of the one, the kill of the other. */
    OK(host, vmon_stop(host, id, -1));
    until(host, id, VMON_EVENT_STOPPING);
    end = end_of(host, id);
    CHECK(end.reason == VMON_REASON_STOPPED && end.signal == SIGTERM && end.exit_code == 143);
    OK(host, vmon_stop(host, other, 0));
    end = end_of(host, other);
    CHECK(end.reason == VMON_REASON_KILLED && end.signal == SIGKILL && end.exit_code == 137);
    vmon_spec_free(spec);

    /* A queue of one: the others are counted. */
    OK(host, vmon_subscribe(host, 1));
    spec = shell("short", "exit 0");
    OK(host, vmon_start(host, spec, &id));
    vmon_spec_free(spec);
    end = end_of(host, id);
    OK(host, vmon_next_event(host, 0, &event));
    CHECK(event.type == VMON_EVENT_DONE && event.missed == 3 && event.time_us == 0);

    /* An end that is not wanted; and one more child, which the end of the host stops. */
    spec = shell("forgotten", "sleep 1000");
    OK(host, vmon_start(host, spec, &id));
    RETURNS(VMON_EAGAIN, host, vmon_wait(host, id, 0, &end));
    OK(host, vmon_forget(host, id));
    RETURNS(VMON_ENOENT, host, vmon_wait(host, id, 0, &end));
    vmon_spec_free(spec);
    CHECK(vmon_close(host) == VMON_OK);
}

/* Starts a shell on pipes, as a host does that vmon is to take children over from. */
static pid_t spawn(const char *script, vmon_child *child)
{
    int in[2], out[2];
    pid_t pid;

    pipe_of(in);
    pipe_of(out);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        execlp("sh", "sh", "-c", script, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    child->pid = pid;
    child->stdin_fd = in[1];
    child->stdout_fd = out[0];
    return pid;
}

static void adopted(void)
{
    vmon_options options = VMON_OPTIONS_INIT;
    vmon_child child = VMON_CHILD_INIT;
    vmon_spec *spec;
    vmon *host;
    vmon_end end;
    vmon_id id;
    int status;
    pid_t pid;

    options.on_close = VMON_KILL;
    OK(host, vmon_open(&options, &host));
    CHECK(vmon_spec_new("adopted", &spec) == VMON_OK);
    SET(spec, vmon_spec_log_dir(spec, path("log")));
    SET(spec, vmon_spec_input(spec, VMON_INPUT_ATTACHED));

    /* vmon reaps it. */
    spawn("read x; echo got-$x; exit 5", &child);
    OK(host, vmon_adopt(host, spec, &child, &id));
    close(child.stdin_fd);
    close(child.stdout_fd);
    turn(host);
    OK(host, vmon_send(host, id, "input\n", 6));
    end = end_of(host, id);
    CHECK(end.exit_code == 5 && end.bytes_logged == 10);
    CHECK(waitpid(child.pid, &status, 0) == -1 && errno == ECHILD);

    /* The host reaps it. */
    pid = spawn("kill -9 $$", &child);
    child.host_reaps = 1;
    OK(host, vmon_adopt(host, spec, &child, &id));
    close(child.stdin_fd);
    close(child.stdout_fd);
    CHECK(waitpid(pid, &status, 0) == pid);
    OK(host, vmon_reaped(host, id, (int)pid, status));
    end = end_of(host, id);
    CHECK(end.signal == SIGKILL && end.reason == VMON_REASON_SIGNALLED);

    /* What is refused leaves the descriptors alone. */
    child.pid = 1;
    child.stdin_fd = child.stdout_fd = -1;
    RETURNS(VMON_ECHILD, host, vmon_adopt(host, spec, &child, &id));
    child.stdout_fd = 4711;
    RETURNS(VMON_EINVAL, host, vmon_adopt(host, spec, &child, &id));
    CHECK(vmon_errno(host) == EBADF);
    child.tty_fd = 0;
    child.stdout_fd = 0;
    RETURNS(VMON_EINVAL, host, vmon_adopt(host, spec, &child, &id));
    child.size = sizeof child - 4;
    RETURNS(VMON_EINVAL, host, vmon_adopt(host, spec, &child, &id));
    vmon_spec_free(spec);
    vmon_free(host);
}

static volatile sig_atomic_t pipes;

static void count_pipe(int number)
{
    (void)number;
    pipes++;
}

/* A child that has closed its input: the host's handler of SIGPIPE is not called. */
static void closed_input(void)
{
    struct sigaction action, former;
    vmon_end end;
    vmon *host;
    vmon_spec *spec = shell("closed", "exec 0<&-; echo closed; exec sleep 1000");
    vmon_id id;
    int code;

    memset(&action, 0, sizeof action);
    action.sa_handler = count_pipe;
    CHECK(sigaction(SIGPIPE, &action, &former) == 0);
    SET(spec, vmon_spec_input(spec, VMON_INPUT_ATTACHED));
    OK(host, vmon_open(NULL, &host));
    OK(host, vmon_start(host, spec, &id));
    OK(host, vmon_turn(host, 0));
    while (!file_has("log/Sandboxfile/closed.log", "closed"))
        turn(host);
    code = vmon_send(host, id, "lost", 4);
    CHECK(code == VMON_OK || code == VMON_ENOINPUT);
    OK(host, vmon_stop(host, id, -1));
    end = end_of(host, id);
    CHECK(end.reason == VMON_REASON_STOPPED && pipes == 0);
    CHECK(raise(SIGPIPE) == 0 && pipes == 1);
    vmon_spec_free(spec);
    CHECK(vmon_close(host) == VMON_OK);
    CHECK(sigaction(SIGPIPE, &former, NULL) == 0);
}

struct waiter {
    vmon *host;
    vmon_id id;
    vmon_end end;
};

static void *wait_for_end(void *argument)
{
    struct waiter *waiter = argument;

    int code;

    /* The main thread tries it too. */
    while ((code = vmon_wait(waiter->host, waiter->id, -1, &waiter->end)) == VMON_EBUSY)
        sched_yield();
    OK(waiter->host, code);
    return NULL;
}

static void *wait_for_event(void *argument)
{
    struct waiter *waiter = argument;
    vmon_event event = VMON_EVENT_INIT;

    int code;

    /* The main thread tries the handle too. */
    while ((code = vmon_next_event(waiter->host, -1, &event)) == VMON_EBUSY)
        sched_yield();
    OK(waiter->host, code);
    CHECK(event.type == VMON_EVENT_RUNNING);
    waiter->id = event.id;
    return NULL;
}

static void on_a_thread(void)
{
    vmon_event event = VMON_EVENT_INIT;
    vmon_end end = VMON_END_INIT;
    struct waiter waiter;
    pthread_t thread;
    vmon *host, *second, *third;
    vmon_spec *spec;
    vmon_id id;
    char *json;
    int number, fd;

    OK(host, vmon_open_thread(NULL, &host));
    RETURNS(VMON_EMISUSE, host, vmon_fd(host, &number));
    RETURNS(VMON_EMISUSE, host, vmon_timeout(host, &number));
    RETURNS(VMON_EMISUSE, host, vmon_turn(host, 0));
    OK(host, vmon_clone(host, &second));
    OK(host, vmon_clone(host, &third));
    vmon_free(third);

    /* One thread waits for an event, with a handle that no other can use meanwhile. */
    OK(second, vmon_subscribe(second, 16));
    RETURNS(VMON_EAGAIN, second, vmon_next_event(second, 0, &event));
    RETURNS(VMON_EAGAIN, second, vmon_next_event(second, 1, &event));
    waiter.host = second;
    CHECK(pthread_create(&thread, NULL, wait_for_event, &waiter) == 0);
    while (vmon_subscribe(second, 16) != VMON_EBUSY)
        sched_yield();
    spec = shell("cat", "cat; exit 3");
    SET(spec, vmon_spec_input(spec, VMON_INPUT_ATTACHED));
    SET(spec, vmon_spec_json(spec, "{\"keep_runs\": 3, \"max_duration_seconds\": 600}"));
    SET(spec, vmon_spec_get_json(spec, &json));
    CHECK(strstr(json, "\"keep_runs\":3"));
    vmon_free_string(json);
    OK(host, vmon_start(host, spec, &id));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waiter.id == id);

    /* One thread waits for the end, which another one brings about. */
    {
        vmon_end init = VMON_END_INIT;
        waiter.end = init;
    }
    CHECK(pthread_create(&thread, NULL, wait_for_end, &waiter) == 0);
    OK(host, vmon_attach(host, id, NULL, &fd));
    CHECK(send(fd, "echo\n", 5, MSG_NOSIGNAL) == 5);
    CHECK(reads(fd, "echo\n"));
    while (vmon_wait(host, id, 0, &end) != VMON_EBUSY)
        sched_yield();
    RETURNS(VMON_EBUSY, host, vmon_forget(host, id));
    OK(host, vmon_list(host, &json));
    CHECK(strstr(json, "\"cat\""));
    vmon_free_string(json);
    OK(host, vmon_stop(host, id, -1));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waiter.end.signal == SIGTERM && waiter.end.reason == VMON_REASON_STOPPED);
    CHECK(!reads(fd, "nothing more"));
    close(fd);
    do
        OK(second, vmon_next_event(second, -1, &event));
    while (event.type != VMON_EVENT_DONE);
    RETURNS(VMON_EAGAIN, second, vmon_next_event(second, 0, &event));

    /* A timeout that passes, and a forgotten handle: the last one ends the host. */
    OK(host, vmon_start(host, spec, &id));
    RETURNS(VMON_EAGAIN, host, vmon_wait(host, id, 1, &end));
    vmon_spec_free(spec);
    CHECK(vmon_close(host) == VMON_OK);
    OK(second, vmon_wait(second, id, -1, &end));
    CHECK(end.reason == VMON_REASON_STOPPED);
    RETURNS(VMON_EENDED, second, vmon_list(second, &json));
    CHECK(vmon_close(second) == VMON_EENDED);
}

/* VMON_LEAVE: the child goes on, and is this process's to reap. */
static void left(void)
{
    vmon_options options = VMON_OPTIONS_INIT;
    vmon_event event;
    vmon *host;
    vmon_spec *spec = shell("left", "exec sleep 1000");
    vmon_id id;
    int status;

    options.on_close = VMON_LEAVE;
    OK(host, vmon_open(&options, &host));
    OK(host, vmon_subscribe(host, 16));
    OK(host, vmon_start(host, spec, &id));
    event = until(host, id, VMON_EVENT_RUNNING);
    CHECK(vmon_close(host) == VMON_OK);
    CHECK(kill(event.pid, SIGKILL) == 0);
    CHECK(waitpid(event.pid, &status, 0) == event.pid && WIFSIGNALED(status));
    vmon_spec_free(spec);
}

/* The dispositions of all signals, and the mask of this thread. */
static void signals(char *into, size_t size)
{
    struct sigaction action;
    sigset_t mask;
    int number;
    size_t length = 0;

    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    for (number = 1; number < 32; number++) {
        CHECK(sigaction(number, NULL, &action) == 0);
        length += (size_t)snprintf(into + length, size - length, "%d:%d:%d ", number,
                                   action.sa_handler == SIG_DFL, sigismember(&mask, number));
        CHECK(length < size);
    }
}

int main(int argc, char **argv)
{
    char before[1024], after[1024];

    CHECK(argc >= 2 && strlen(argv[1]) < sizeof directory);
    strcpy(directory, argv[1]);
    on_valgrind = argc > 2;
    signals(before, sizeof before);
    errno = 4711;
    CHECK(vmon_open(NULL, NULL) == VMON_EINVAL && errno == 4711);

    misuse();
    on_the_callers_loop();
    adopted();
    closed_input();
    on_a_thread();
    left();

    signals(after, sizeof after);
    CHECK(!strcmp(before, after));
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    puts("every function was used");
    return 0;
}
