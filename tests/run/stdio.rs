//! The kinds of stdin, stdout and stderr that vmon can have, and that their flags are unchanged
//! afterwards.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::{
    State, Terminal, assert_same, code, contains, eventually, is_root, noise, wait,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::mkfifo;

const NOBODY: u32 = 65534;

/// Sizes of what goes through: more than a pipe or a terminal holds at a time.
const LEN: usize = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Fifo,
    Socket,
    Tcp,
    Terminal,
    File,
}

/// The two ends of what a stream of ours may be: the far one is what the test holds.
fn ends(state: &State, kind: Kind, name: &str, ours_reads: bool) -> (OwnedFd, File) {
    match kind {
        Kind::Pipe => {
            let (reader, writer) = pipe().unwrap();
            let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
            if ours_reads { (reader, writer.into()) } else { (writer, reader.into()) }
        }
        Kind::Fifo => {
            let path = state.file(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            // Without waiting for the other side; the flag goes again below.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let reader = open(&path, flags, Mode::empty()).unwrap();
            let writer = File::options().write(true).open(&path).unwrap();
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            if ours_reads { (reader, writer) } else { (writer.into(), reader.into()) }
        }
        Kind::Socket => {
            let (ours, far) = UnixStream::pair().unwrap();
            (ours.into(), OwnedFd::from(far).into())
        }
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0.into(), OwnedFd::from(far).into())
        }
        Kind::Terminal => {
            let (master, slave) = raw_pty();
            (slave, master)
        }
        Kind::File => {
            let path = state.file(name);
            let ours = File::options().read(true).append(true).create(true).open(&path).unwrap();
            (ours.into(), File::options().read(true).write(true).open(&path).unwrap())
        }
    }
}

/// A terminal that passes every byte as it is. It is not a controlling terminal.
fn raw_pty() -> (File, OwnedFd) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = open(ptsname_r(&master).unwrap().as_str(), flags, Mode::empty()).unwrap();
    let mut modes = tcgetattr(&slave).unwrap();
    cfmakeraw(&mut modes);
    tcsetattr(&slave, SetArg::TCSANOW, &modes).unwrap();
    (OwnedFd::from(master).into(), slave)
}

fn flags(fd: &impl AsFd) -> OFlag {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap())
}

/// Reads to the end, beside whatever the test does. A terminal's end is an error.
fn reader(mut source: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// All output of a child reaches a stdout and a stderr of this kind, whose flags are unchanged.
fn output_may_be(kind: Kind) {
    let state = State::new();
    let (out, err) = (noise(LEN, 1), noise(LEN + 1, 2));
    fs::write(state.file("out"), &out).unwrap();
    fs::write(state.file("err"), &err).unwrap();
    let (our_out, far_out) = ends(&state, kind, "far out", false);
    let (our_err, far_err) = ends(&state, kind, "far err", false);
    let before = (flags(&our_out), flags(&our_err));
    assert!(!before.0.contains(OFlag::O_NONBLOCK));
    let script = r#"cat out; cat err >&2; read _ < "$GO""#;
    let mut command = state.run("child", &["--tty", "never"], script);
    state.gate(&mut command);
    command.current_dir(state.path());
    command.stdout(our_out.try_clone().unwrap()).stderr(our_err.try_clone().unwrap());
    let mut supervisor = command.spawn().unwrap();
    drop(command);
    // A file is read when all is there.
    let readers = (kind != Kind::File)
        .then(|| (reader(far_out.try_clone().unwrap()), reader(far_err.try_clone().unwrap())));
    eventually("all is in the log", || size(&state.log_path("child")) == 2 * LEN as u64 + 1);
    assert_eq!((flags(&our_out), flags(&our_err)), before, "during the run");
    state.open_gate();
    assert_eq!(code(wait(&mut supervisor)), 0);
    assert_eq!((flags(&our_out), flags(&our_err)), before, "after the run");
    drop((our_out, our_err));
    let (out_reader, err_reader) = readers.unwrap_or_else(|| (reader(far_out), reader(far_err)));
    assert_same(&out_reader.join().unwrap(), &out, "stdout");
    assert_same(&err_reader.join().unwrap(), &err, "stderr");
}

/// All input from a stdin of this kind reaches the child, including its end, and its flags are
/// unchanged.
fn input_may_be(kind: Kind) {
    let state = State::new();
    let bytes = noise(LEN, 3);
    let (ours, mut far) = ends(&state, kind, "far in", true);
    if kind == Kind::File {
        far.write_all(&bytes).unwrap();
    }
    let before = flags(&ours);
    assert!(!before.contains(OFlag::O_NONBLOCK));
    let script = r#"cat > copy; echo ended; read _ < "$GO""#;
    let mut command = state.run("child", &["--tty", "never"], script);
    state.gate(&mut command);
    command.current_dir(state.path()).stdin(ours.try_clone().unwrap()).stdout(Stdio::null());
    let mut supervisor = command.spawn().unwrap();
    drop(command);
    if kind != Kind::File {
        far.write_all(&bytes).unwrap();
    }
    eventually("all has reached the child", || size(&state.file("copy")) == LEN as u64);
    assert_eq!(flags(&ours), before, "during the run");
    drop(far);
    state.wait_for_log("child", b"ended");
    state.open_gate();
    assert_eq!(code(wait(&mut supervisor)), 0);
    assert_eq!(flags(&ours), before, "after the run");
    assert_same(&fs::read(state.file("copy")).unwrap(), &bytes, "what the child read");
}

#[test]
fn stdout_and_stderr_may_be_pipes() {
    output_may_be(Kind::Pipe);
}

#[test]
fn stdout_and_stderr_may_be_fifos() {
    output_may_be(Kind::Fifo);
}

#[test]
fn stdout_and_stderr_may_be_sockets() {
    output_may_be(Kind::Socket);
}

#[test]
fn stdout_and_stderr_may_be_tcp_connections() {
    output_may_be(Kind::Tcp);
}

#[test]
fn stdout_and_stderr_may_be_terminals() {
    output_may_be(Kind::Terminal);
}

#[test]
fn stdout_and_stderr_may_be_files() {
    output_may_be(Kind::File);
}

#[test]
fn stdin_may_be_a_pipe() {
    input_may_be(Kind::Pipe);
}

#[test]
fn stdin_may_be_a_fifo() {
    input_may_be(Kind::Fifo);
}

#[test]
fn stdin_may_be_a_socket() {
    input_may_be(Kind::Socket);
}

#[test]
fn stdin_may_be_a_tcp_connection() {
    input_may_be(Kind::Tcp);
}

#[test]
fn stdin_may_be_a_terminal() {
    input_may_be(Kind::Terminal);
}

#[test]
fn stdin_may_be_a_file() {
    input_may_be(Kind::File);
}

#[test]
fn a_stdin_that_does_not_block_stays_so() {
    let state = State::new();
    let (reader, mut writer) = pipe().unwrap();
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut command = state.run("child", &[], "cat");
    let child = command.stdin(reader.try_clone().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    writer.write_all(b"bytes").unwrap();
    drop(writer);
    assert_eq!(child.wait_with_output().unwrap().stdout, b"bytes");
    assert!(flags(&reader).contains(OFlag::O_NONBLOCK));
}

/// A shell's line with `$VMON` in it; gives its exit code and what is in the file `out` afterwards.
fn shell(state: &State, line: &str) -> (i32, Vec<u8>) {
    let vmon = state.vmon();
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(state.path()).stdin(Stdio::null());
    command.env("VMON_STATE_DIR", state.path()).env("VMON", vmon.get_program());
    let mut child = command.spawn().unwrap();
    let code = code(wait(&mut child));
    (code, fs::read(state.file("out")).unwrap_or_default())
}

#[test]
fn a_file_that_is_shared_with_the_shell_keeps_the_order() {
    let state = State::new();
    let line = r#"(echo a; "$VMON" run -- sh -c 'echo b; echo c >&2'; echo d) > out 2>&1"#;
    let (code, out) = shell(&state, line);
    assert_eq!(code, 0);
    let text = String::from_utf8(out).unwrap();
    assert!(["a\nb\nc\nd\n", "a\nc\nb\nd\n"].contains(&text.as_str()), "{text:?}");
}

#[test]
fn a_file_on_stdin_is_read_from_where_the_shell_is() {
    let state = State::new();
    fs::write(state.file("in"), "first\nsecond\nthird\n").unwrap();
    let (code, out) = shell(&state, r#"(read -r line; "$VMON" run -- cat) < in > out"#);
    assert_eq!((code, out.as_slice()), (0, &b"second\nthird\n"[..]));
}

#[test]
fn all_three_may_be_the_null_device() {
    let state = State::new();
    let line = r#""$VMON" run --name child -- sh -c 'cat; echo out; echo err >&2; exit 3' \
        < /dev/null > /dev/null 2> /dev/null"#;
    assert_eq!(shell(&state, line).0, 3);
    let log = state.log("child");
    assert!(contains(&log, b"out\n") && contains(&log, b"err\n") && log.len() == 8);
}

#[test]
fn a_device_that_never_ends_may_be_stdin() {
    let state = State::new();
    let (code, out) = shell(&state, r#""$VMON" run -- head -c 100000 < /dev/zero > out"#);
    assert_eq!((code, out.len()), (0, 100_000));
}

#[test]
fn a_closed_stdin_is_at_its_end() {
    let state = State::new();
    let (code, out) = shell(&state, r#""$VMON" run -- sh -c 'cat; echo end' <&- > out"#);
    assert_eq!((code, out.as_slice()), (0, &b"end\n"[..]));
}

#[test]
fn a_closed_stdout_leaves_stderr_and_the_log() {
    let state = State::new();
    let line = r#""$VMON" run --name child -- sh -c 'echo out; echo err >&2; exit 3' >&- 2> out"#;
    assert_eq!(shell(&state, line), (3, b"err\n".to_vec()));
    assert_eq!(state.log("child").len(), 8);
}

#[test]
fn a_closed_stderr_leaves_stdout_and_the_log() {
    let state = State::new();
    let line = r#""$VMON" run --name child -- sh -c 'echo out; echo err >&2; exit 3' 2>&- > out"#;
    assert_eq!(shell(&state, line), (3, b"out\n".to_vec()));
    assert_eq!(state.log("child").len(), 8);
}

#[test]
fn all_three_may_be_closed() {
    let state = State::new();
    let line = r#""$VMON" run --name child -- sh -c 'cat; echo out; exit 3' <&- >&- 2>&-"#;
    assert_eq!(shell(&state, line).0, 3);
    assert_eq!(state.log("child"), b"out\n");
}

#[test]
fn stdin_and_stdout_may_be_one_socket() {
    let state = State::new();
    let bytes = noise(5 * LEN, 4);
    let (ours, far) = UnixStream::pair().unwrap();
    let mut command = state.run("echo", &[], "cat; echo end >&2");
    command.stdin(OwnedFd::from(ours.try_clone().unwrap()));
    command.stdout(OwnedFd::from(ours.try_clone().unwrap())).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    let before = flags(&ours);
    let back = reader(far.try_clone().unwrap());
    (&far).write_all(&bytes).unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b"end\n"[..]));
    assert_eq!(flags(&ours), before);
    drop(ours);
    assert_same(&back.join().unwrap(), &bytes, "what came back");
}

#[test]
fn a_socket_whose_peer_has_left_unread_bytes_behind_ends_quietly() {
    let state = State::new();
    let (ours, far) = UnixStream::pair().unwrap();
    // Unread by the peer that goes: the next read of ours answers ECONNRESET.
    (&ours).write_all(b"unread").unwrap();
    drop(far);
    let mut command = state.run("child", &[], "cat; exit 3");
    command.stdin(OwnedFd::from(ours)).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(3), &b""[..]));
}

#[test]
fn stdout_and_stderr_may_be_one_pipe() {
    let state = State::new();
    let out: Vec<u8> = noise(5 * LEN, 5).into_iter().map(|byte| byte & 0x7f).collect();
    let err: Vec<u8> = noise(5 * LEN, 6).into_iter().map(|byte| byte | 0x80).collect();
    fs::write(state.file("out"), &out).unwrap();
    fs::write(state.file("err"), &err).unwrap();
    let (far, ours) = pipe().unwrap();
    let mut command = state.run("child", &[], "cat out & cat err >&2; wait");
    command.current_dir(state.path()).stdout(ours.try_clone().unwrap()).stderr(ours);
    let mut child = command.spawn().unwrap();
    drop(command);
    let (seen_err, seen_out): (Vec<u8>, Vec<u8>) =
        reader(far).join().unwrap().into_iter().partition(|byte| byte & 0x80 != 0);
    assert_eq!(code(wait(&mut child)), 0);
    assert_same(&seen_out, &out, "stdout");
    assert_same(&seen_err, &err, "stderr");
}

#[test]
fn a_fifo_that_has_ended_before_we_came_is_at_its_end() {
    let state = State::new();
    let (ours, far) = ends(&state, Kind::Fifo, "in", true);
    drop(far);
    let mut child = state.run("child", &[], "cat").stdin(ours).spawn().unwrap();
    assert_eq!(code(wait(&mut child)), 0);
}

#[test]
fn a_fifo_whose_writer_has_left_bytes_behind_is_read_to_its_end() {
    let state = State::new();
    let (ours, mut far) = ends(&state, Kind::Fifo, "in", true);
    far.write_all(b"bytes").unwrap();
    drop(far);
    let mut command = state.run("child", &[], "cat");
    let child = command.stdin(ours).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"bytes");
}

#[test]
fn a_stdin_that_is_open_for_writing_only_is_at_its_end() {
    let state = State::new();
    // Reopened for reading, it would swallow what others write.
    let (mut far, ours) = pipe().unwrap();
    (&ours).write_all(b"not for us").unwrap();
    let mut child =
        state.run("child", &[], "cat").stdin(ours.try_clone().unwrap()).spawn().unwrap();
    assert_eq!(code(wait(&mut child)), 0);
    assert_eq!(state.log("child"), b"");
    let mut left = [0; 10];
    far.read_exact(&mut left).unwrap();
    assert_eq!(&left, b"not for us");
}

#[test]
fn a_stdout_that_is_open_for_reading_only_gets_nothing() {
    let state = State::new();
    // Reopened for writing, the child's output would become its input.
    let (ours, mut far) = pipe().unwrap();
    far.write_all(b"once\n").unwrap();
    drop(far);
    let mut command = state.run("child", &[], "cat");
    command.stdin(ours.try_clone().unwrap()).stdout(ours);
    let mut child = command.spawn().unwrap();
    drop(command);
    assert_eq!(code(wait(&mut child)), 0);
    assert_eq!(state.log("child"), b"once\n");
}

/// A run ends with its child, however long its input stays open.
fn an_open_input_may_be(kind: Kind) {
    let state = State::new();
    let (ours, mut far) = ends(&state, kind, "in", true);
    let script = "read line; echo got $line; exit 3";
    let mut command = state.run("child", &["--tty", "never"], script);
    let child = command.stdin(ours).stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    far.write_all(b"one\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"got one\n"[..]));
    drop(far);
}

#[test]
fn an_open_stdin_pipe_does_not_delay_the_end() {
    an_open_input_may_be(Kind::Pipe);
}

#[test]
fn an_open_stdin_fifo_does_not_delay_the_end() {
    an_open_input_may_be(Kind::Fifo);
}

#[test]
fn an_open_stdin_socket_does_not_delay_the_end() {
    an_open_input_may_be(Kind::Socket);
}

#[test]
fn an_open_stdin_terminal_does_not_delay_the_end() {
    an_open_input_may_be(Kind::Terminal);
}

/// The part of `bytes` that has arrived, before the line with the number of missing bytes.
#[track_caller]
fn assert_the_rest_is_reported(seen: &[u8], bytes: &[u8]) {
    let prefix = seen.iter().zip(bytes).take_while(|(seen, byte)| seen == byte).count();
    assert!(prefix >= 256 * 1024, "{prefix}");
    // The line may begin with the byte that comes next.
    let notice = |prefix| format!("\r\n[vmon: {} bytes left out]\r\n", bytes.len() - prefix);
    let is_reported =
        (prefix - 2..=prefix).any(|prefix| &seen[prefix..] == notice(prefix).as_bytes());
    assert!(
        is_reported,
        "{:?}",
        String::from_utf8_lossy(&seen[prefix..seen.len().min(prefix + 100)])
    );
}

/// The output has no reader, and the child and its log continue.
fn an_unread_output_may_be(kind: Kind) {
    let state = State::new();
    let bytes = noise(20 * LEN + 1, 9);
    fs::write(state.file("noise"), &bytes).unwrap();
    let (ours, far) = ends(&state, kind, "out", false);
    let options = ["--tty", "never", "--forward-overflow", "drop"];
    let mut command = state.run("child", &options, "cat noise; exit 3");
    let mut supervisor = command.current_dir(state.path()).stdout(ours).spawn().unwrap();
    drop(command);
    eventually("all is in the log", || size(&state.log_path("child")) == bytes.len() as u64);
    let seen = reader(far).join().unwrap();
    assert_eq!(code(wait(&mut supervisor)), 3);
    assert_the_rest_is_reported(&seen, &bytes);
}

#[test]
fn a_fifo_without_a_reader_does_not_block_the_log() {
    an_unread_output_may_be(Kind::Fifo);
}

#[test]
fn a_socket_that_is_not_read_does_not_block_the_log() {
    an_unread_output_may_be(Kind::Socket);
}

#[test]
fn a_terminal_that_is_not_read_does_not_block_the_log() {
    an_unread_output_may_be(Kind::Terminal);
}

/// `vmon run` as the user nobody, which may not reopen the files of this test; `None`, visibly,
/// where we are not root.
pub(crate) fn as_nobody(state: &State, options: &[&str], script: &str) -> Option<Command> {
    if !is_root() {
        eprintln!("skipped: only root has descriptors that another user may not reopen");
        return None;
    }
    // The user nobody may not have access to the build directory.
    let vmon = state.file("vmon");
    // By a process of its own: a descriptor of ours that is open for writing would reach the
    // children of other tests, and a file that a process has open for writing can't be executed
    // (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_vmon")).arg(&vmon).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&vmon, fs::Permissions::from_mode(0o755)).unwrap();
    chown(state.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(vmon);
    command.args(["run", "--name", "nobody"]).args(options).args(["--", "sh", "-c", script]);
    command.env("VMON_STATE_DIR", state.path()).current_dir(state.path());
    command.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
    Some(command)
}

/// Whether the user nobody is refused to reopen the streams of this test, which the tests rely on.
fn is_refused(stream: &OwnedFd, mode: &str) -> bool {
    let mut test = Command::new("sh");
    test.args(["-c", &format!("test ! -{mode} /proc/self/fd/0")]).uid(NOBODY).gid(NOBODY);
    test.stdin(stream.try_clone().unwrap()).status().unwrap().success()
}

/// A child of the user nobody gets this input and gives it back on streams of root's.
fn another_users_streams_may_be(kind: Kind) {
    let state = State::new();
    let script = r#"cat; echo end >&2; read _ < "$GO""#;
    let Some(mut command) = as_nobody(&state, &["--tty", "never"], script) else { return };
    let (our_in, mut far_in) = ends(&state, kind, "in", true);
    let (our_out, far_out) = ends(&state, kind, "out", false);
    let (our_err, far_err) = ends(&state, kind, "err", false);
    assert!(is_refused(&our_in, "r") && is_refused(&our_out, "w"));
    state.gate(&mut command);
    chown(state.file("go"), Some(NOBODY), Some(NOBODY)).unwrap();
    command.stdin(our_in.try_clone().unwrap());
    command.stdout(our_out.try_clone().unwrap()).stderr(our_err.try_clone().unwrap());
    let before = (flags(&our_in), flags(&our_out), flags(&our_err));
    let mut supervisor = command.spawn().unwrap();
    drop(command);
    let (out, err) = (reader(far_out), reader(far_err));
    let bytes = noise(LEN, 7);
    far_in.write_all(&bytes).unwrap();
    eventually("all is in the log", || size(&state.log_path("nobody")) == LEN as u64);
    assert_eq!((flags(&our_in), flags(&our_out), flags(&our_err)), before, "during the run");
    drop(far_in);
    state.wait_for_log("nobody", b"end\n");
    state.open_gate();
    assert_eq!(code(wait(&mut supervisor)), 0);
    assert_eq!((flags(&our_in), flags(&our_out), flags(&our_err)), before, "after the run");
    drop((our_in, our_out, our_err));
    assert_same(&out.join().unwrap(), &bytes, "stdout");
    assert_eq!(err.join().unwrap(), b"end\n");
}

#[test]
fn another_users_pipes_work_as_ours_do() {
    another_users_streams_may_be(Kind::Pipe);
}

#[test]
fn another_users_fifos_work_as_ours_do() {
    another_users_streams_may_be(Kind::Fifo);
}

#[test]
fn another_users_terminals_work_as_ours_do() {
    another_users_streams_may_be(Kind::Terminal);
}

#[test]
fn another_users_controlling_terminal_works_as_ours_does() {
    let state = State::new();
    let script = "read line; echo \"got $line\"";
    let Some(mut command) = as_nobody(&state, &["--tty", "never"], script) else { return };
    let mut terminal = Terminal::spawn(&mut command);
    terminal.send("hello\n");
    terminal.wait_for("got hello");
    assert_eq!(terminal.finish(), 0);
}

/// Root's output streams are not read and its input stays empty, and the loop continues.
fn another_users_idle_streams_do_not_block(kind: Kind) {
    let state = State::new();
    let bytes = noise(5 * LEN, 8);
    let options = ["--tty", "never", "--forward-overflow", "drop"];
    let Some(mut command) = as_nobody(&state, &options, "cat noise; exit 3") else { return };
    fs::write(state.file("noise"), &bytes).unwrap();
    let (our_in, far_in) = ends(&state, kind, "in", true);
    let (our_out, far_out) = ends(&state, kind, "out", false);
    assert!(is_refused(&our_in, "r") && is_refused(&our_out, "w"));
    let mut supervisor: Child = command.stdin(our_in).stdout(our_out).spawn().unwrap();
    drop(command);
    eventually("all is in the log", || size(&state.log_path("nobody")) == bytes.len() as u64);
    let seen = reader(far_out).join().unwrap();
    assert_eq!(code(wait(&mut supervisor)), 3);
    drop(far_in);
    assert_the_rest_is_reported(&seen, &bytes);
    assert_same(&state.log("nobody"), &bytes, "the log");
}

#[test]
fn another_users_pipe_that_is_not_read_does_not_block_the_loop() {
    another_users_idle_streams_do_not_block(Kind::Pipe);
}

#[test]
fn another_users_terminal_that_is_not_read_does_not_block_the_loop() {
    another_users_idle_streams_do_not_block(Kind::Terminal);
}
