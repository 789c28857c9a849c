//! Containers with a terminal.

use std::ffi::OsString;
use std::fs;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;

use crate::engine::Engine;
use crate::eventually;

/// Not a test: the part of the runtime that makes a terminal. It starts the container on it, and
/// sends the master to the console socket.
#[test]
#[ignore = "a program that the runtime of other tests runs"]
#[allow(clippy::zombie_processes)] // the monitor reaps the container
fn sends_a_terminal() {
    let variable = |name: &str| -> OsString { std::env::var_os(name).unwrap() };
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname_r(&master).unwrap();
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let slave = open(path.as_str(), flags, Mode::empty()).unwrap();
    let stream = UnixStream::connect(variable("SOCKET")).unwrap();
    let rights = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&rights)];
    let parts = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
    let container = Command::new("setsid")
        .args(["--ctty", "sh"])
        .arg(variable("CONTAINER"))
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    fs::write(variable("PID_FILE"), container.id().to_string()).unwrap();
}

#[test]
fn a_terminal_comes_from_the_runtime_and_has_no_size_at_first() {
    let container = "stty size; stty -a | grep -c ' onlcr'; while [ -e container ] && ! [ -e go ]; do sleep 0.01; done
        stty size; exit 4";
    let mut engine = Engine::new(container, &["-t"]).start();
    assert_eq!(engine.first_end().0, 0);
    assert!(engine.sync.number() > 0);
    eventually("the first lines are logged", || engine.log().len() == 2);
    assert_eq!(engine.log(), ["stdout F 0 0\r", "stdout F 1\r"]);
    engine.order("1 24 80\n1 0x1 3\n1 25 ");
    engine.order("81\n");
    let container: i32 = engine.text("pid").parse().unwrap();
    let stdin = format!("/proc/{container}/fd/0");
    eventually("the terminal has the last size", || {
        let size = Command::new("stty").arg("-F").arg(&stdin).arg("size").output().unwrap();
        size.stdout == b"25 81\n"
    });
    fs::write(engine.path("go"), "").unwrap();
    assert_eq!(engine.exit_file(), "4");
    assert_eq!(engine.log().last().unwrap(), "stdout F 25 81\r");
    // The console socket is gone.
    let words = fs::read_to_string(engine.path("args")).unwrap();
    let console = words.lines().skip_while(|word| *word != "--console-socket").nth(1).unwrap();
    assert!(console.contains("/conmon-term.") && fs::symlink_metadata(console).is_err());
}

#[test]
fn a_size_that_comes_before_the_terminal_is_kept() {
    let words = ["-e", "--exec-process-spec", "/s", "--api-version", "--exec-attach", "-t", "-i"];
    let container = "while [ -e container ] && ! [ -e go ]; do sleep 0.01; done; stty size";
    let mut engine = Engine::new(container, &words).with_attach_pipe().start();
    assert_eq!(engine.attach.take().unwrap().number(), 0);
    engine.order("1 30 90\n");
    engine.go_on();
    // It is in effect before the pid is reported.
    assert!(engine.sync.number() > 0);
    fs::write(engine.path("go"), "").unwrap();
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(engine.log(), ["stdout F 30 90\r"]);
}

#[test]
fn a_runtime_that_sends_no_terminal_is_reported() {
    let engine = Engine::new("exit 0", &["-t"]);
    let mut engine = engine.runtime_runs("printf %s $$ >\"$pid_file\"; exit 0").start();
    let expected = "{\"pid\": -1, \"message\": \"Runtime did not set up terminal\"}\n";
    assert_eq!(engine.sync.message(), expected);
}

#[test]
fn the_words_of_a_runtime_go_to_the_log_of_a_terminal() {
    let mut engine = Engine::new("echo out", &["-t"]).runtime_runs("echo careful >&2").start();
    assert!(engine.sync.number() > 0);
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(engine.log(), ["stderr F careful", "stdout F out\r"]);
}

#[test]
fn a_terminal_outlives_its_last_user() {
    let container = "exec <&- >&- 2>&-; trap 'exit 8' TERM; : >silent
        while [ -e container ]; do sleep 0.01; done";
    let mut engine = Engine::new(container, &["-t"]).start();
    assert!(engine.sync.number() > 0);
    eventually("no process has the terminal open", || engine.path("silent").exists());
    engine.signal(engine.monitor(), Signal::SIGTERM);
    assert_eq!(engine.exit_file(), "8");
}
