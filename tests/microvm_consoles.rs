//! The consoles of a real microVM: its serial port at each kind of console that QEMU has, a virtio
//! console beside it, and a guest that resets itself.
//!
//! Where something that a microVM needs is missing, these tests are skipped and say so; with
//! `VMON_REQUIRE_QEMU` set, they fail.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;
#[path = "common/machine.rs"]
mod machine;

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::{PATIENCE, State, contains, eventually};
use machine::{Machine, READY, machine};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// One that runs in the background.
struct Vm {
    state: State,
}

/// QEMU's arguments with its serial port at another character device than stdio.
fn with_serial(machine: &Machine, chardev: &str) -> Vec<String> {
    let mut command = machine.command.clone();
    for argument in &mut command {
        if argument.starts_with("stdio,") {
            *argument = format!("{chardev},id=console");
        }
    }
    command
}

/// The kernel's command line, changed.
fn append(command: &mut [String], what: &str) {
    let at = command.iter().position(|argument| argument == "-append").unwrap() + 1;
    command[at].push_str(what);
}

impl Vm {
    fn start(state: State, consoles: &[String], command: &[String]) -> Self {
        let mut run = state.vmon();
        run.args(["run", "-d", "--name", "vm"]);
        run.args(consoles.iter().map(|console| format!("--console={console}")));
        let output = run.arg("--").args(command).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { state }
    }

    fn log(&self, console: &str) -> Vec<u8> {
        self.state.whole_log(&format!("vm@{console}"))
    }

    #[track_caller]
    fn wait_for(&self, console: &str, text: &str) {
        self.wait_for_times(console, text, 1);
    }

    #[track_caller]
    fn wait_for_times(&self, console: &str, text: &str, times: usize) {
        eventually(&format!("{text:?} at {console}"), || {
            let log = self.log(console);
            log.windows(text.len()).filter(|bytes| *bytes == text.as_bytes()).count() >= times
        });
    }

    fn attach(&self, console: &str) -> Attached {
        let mut command = self.state.vmon();
        command.args(["attach", "vm", "--console", console]);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        Attached { client, stdin, stdout }
    }

    /// Stops it; the VMM's own messages are in the log of its stdio.
    fn stop(self) {
        let output = self.state.vmon().args(["stop", "vm"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let own = self.state.whole_log("vm");
        assert!(!contains(&own, READY.as_bytes()), "{}", String::from_utf8_lossy(&own));
    }
}

struct Attached {
    client: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Attached {
    /// Types a line and reads until its answer has come.
    #[track_caller]
    fn ask(&mut self, line: &str, answer: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let give_up = std::time::Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !contains(&seen, answer.as_bytes()) {
            let mut buffer = [0; 4096];
            let count = self.stdout.read(&mut buffer).unwrap();
            assert!(count > 0 && std::time::Instant::now() < give_up, "{answer:?}: {seen:?}");
            seen.extend_from_slice(&buffer[..count]);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
fn a_serial_port_on_a_socket_that_qemu_serves_outlives_a_reset_of_the_guest() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let path = state.file("serial.sock").display().to_string();
    let mut command = with_serial(machine, &format!("socket,path={path},server=on,wait=off"));
    command.retain(|argument| argument != "-no-reboot");
    let vm = Vm::start(state, &[format!("serial=unix:{path}")], &command);
    vm.wait_for("serial", READY);
    let mut client = vm.attach("serial");
    client.ask("echo $((6 * 7)) is the answer", "42 is the answer");
    client.ask("reboot -f", READY);
    vm.wait_for_times("serial", READY, 2);
    client.ask("echo $((6 * 8)) is the next", "48 is the next");
    assert!(contains(&vm.log("serial"), b"48 is the next"));
    vm.stop();
}

#[test]
fn a_serial_port_and_a_virtio_console_have_a_log_each() {
    let Some(machine) = machine().filter(|machine| machine.has_virtio_console()) else { return };
    let state = State::new();
    let path = state.file("serial.sock").display().to_string();
    // QEMU connects to us, and opens a PTY of ours.
    let mut command = with_serial(machine, &format!("socket,path={path},server=off"));
    append(&mut command, " -- hvc0");
    command.extend(
        ["-device", "virtio-serial-device", "-chardev", "serial,id=hvc0,path={hvc0}"]
            .into_iter()
            .chain(["-device", "virtconsole,chardev=hvc0"])
            .map(str::to_owned),
    );
    let consoles = [format!("serial=listen:{path}"), "hvc0=pty".to_owned()];
    let vm = Vm::start(state, &consoles, &command);
    vm.wait_for("serial", READY);
    vm.wait_for("hvc0", "hvc0 ready");
    vm.attach("hvc0").ask("echo $((6 * 7)) on hvc0", "42 on hvc0");
    vm.attach("serial").ask("echo $((6 * 8)) on ttyS0", "48 on ttyS0");
    let (serial, hvc0) = (vm.log("serial"), vm.log("hvc0"));
    assert!(contains(&serial, b"48 on ttyS0") && !contains(&serial, b"on hvc0"));
    assert!(contains(&hvc0, b"42 on hvc0") && !contains(&hvc0, b"on ttyS0"));
    vm.stop();
}

#[test]
fn a_serial_port_on_a_pty_of_qemus_is_found_by_its_link() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let link = state.file("serial").display().to_string();
    // QEMU before 9.2 makes no link (path=), but says where its PTY is.
    let script = r#"link=$1; shift; "$@" 2>&1 | while read -r line; do
        echo "$line"
        case $line in *"redirected to "*) set -- ${line#*redirected to }; ln -s "$1" "$link" ;; esac
    done"#;
    let mut command = ["sh", "-c", script, "sh", &link].map(str::to_owned).to_vec();
    command.extend(with_serial(machine, "pty"));
    let vm = Vm::start(state, &[format!("serial=pty:{link}")], &command);
    vm.wait_for("serial", READY);
    vm.attach("serial").ask("echo $((6 * 7)) is the answer", "42 is the answer");
    assert!(contains(&vm.log("serial"), b"42 is the answer"));
    vm.stop();
}

#[test]
fn a_serial_port_on_a_fifo_is_logged() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let base = state.file("serial").display().to_string();
    // QEMU takes a pair: what it reads from is nobody's here.
    mkfifo(format!("{base}.in").as_str(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let command = with_serial(machine, &format!("pipe,path={base}"));
    let vm = Vm::start(state, &[format!("serial=fifo:{base}.out")], &command);
    vm.wait_for("serial", READY);
    assert!(contains(&vm.log("serial"), b"Linux version"));
    vm.stop();
}
