//! The messages to the service manager, as in sd_notify(3).

#![cfg(target_os = "linux")]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use crate::common::{State, TIMEOUT, code, has, signal, wait};
use nix::sys::signal::Signal;

struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[track_caller]
    fn wait_for(&self, line: &str) -> String {
        loop {
            let message = self.next();
            if message.lines().any(|each| each == line) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_gets_each_state_and_the_command_gets_no_notify_socket() {
    let state = State::new();
    let path = state.file("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut run = state.run("web", &[], "echo \"[$NOTIFY_SOCKET$WATCHDOG_USEC]\"; exec sleep 100");
    let mut run = run.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let ready = manager.wait_for("READY=1");
    assert!(ready.lines().any(|line| line == format!("MAINPID={}", run.id())), "{ready}");
    assert!(ready.contains("STATUS=running, pid "), "{ready}");
    state.wait_for_log("web", b"[]\n");
    signal(&run, Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    let last = manager.wait_for("STATUS=stopped, exit code 143");
    assert!(last.contains("STOPPING=1"));
    assert_eq!(code(wait(&mut run)), 143);
}

#[test]
fn a_socket_in_the_abstract_namespace_and_the_watchdog() {
    let state = State::new();
    let name = format!("vmon-test-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let mut run = state.run("web", &[], "exec sleep 100");
    run.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "20000");
    let mut run = run.spawn().unwrap();
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn a_service_manager_whose_socket_is_full_gets_the_state_after_it_has_read() {
    let state = State::new();
    let path = state.file("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let others = UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"STATUS=another", &path).is_ok() {}
    let mut run = state.run("web", &[], "exec sleep 100");
    let mut run = run.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=running, pid "), "{ready}");
    signal(&run, Signal::SIGTERM);
    assert_eq!(code(wait(&mut run)), 143);
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let state = State::new();
    let path = state.file("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut run = state.run("web", &[], "sleep 0.2");
    run.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
    wait(&mut run.spawn().unwrap());
    loop {
        let message = manager.next();
        assert!(!message.contains("WATCHDOG"), "{message}");
        if message.contains("STATUS=exited") {
            break;
        }
    }
}

#[test]
fn a_missing_service_manager_does_not_prevent_the_run() {
    let state = State::new();
    let mut run = state.run("web", &[], "exit 7");
    run.env("NOTIFY_SOCKET", "/nonexistent/notify");
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("service manager"));
}

#[test]
fn the_manager_follows_a_detached_run_to_its_supervisor() {
    let state = State::new();
    let path = state.file("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut run = state.run("web", &["-d"], "exec sleep 100");
    assert_eq!(code(wait(&mut run.env("NOTIFY_SOCKET", &path).spawn().unwrap())), 0);
    let ready = manager.wait_for("READY=1");
    let supervisor = state.run_column("web", "supervisor_pid").unwrap();
    assert!(ready.lines().any(|line| line == format!("MAINPID={supervisor}")), "{ready}");
    let supervisor = nix::unistd::Pid::from_raw(supervisor.parse().unwrap());
    nix::sys::signal::kill(supervisor, Signal::SIGKILL).unwrap();
}

#[test]
fn systemd_accepts_the_units() {
    if !has("systemd-analyze") {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let scratch = State::new();
    let copied = |name: &str, copy: &str| {
        let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd");
        let unit = std::fs::read_to_string(format!("{units}/{name}")).unwrap();
        // The command has to exist; it is not installed here.
        let path = scratch.file(copy);
        std::fs::write(&path, unit.replace("/usr/bin/vmon", env!("CARGO_BIN_EXE_vmon"))).unwrap();
        path
    };
    for unit in [
        copied("vmon@.service", "vmon@.service"),
        copied("vmon@.service", "vmon@web.service"),
        copied("vmon-serve.socket", "vmon-serve.socket"),
        copied("vmon-serve.service", "vmon-serve.service"),
    ] {
        let output = Command::new("systemd-analyze").arg("verify").arg(unit).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
