//! The consoles of a real microVM: its serial port at each kind of console that QEMU has, a virtio
//! console beside it, and a guest that resets itself.
//!
//! Where something that a microVM needs is missing, these tests are skipped and say so; with
//! `VMON_REQUIRE_QEMU` set, they fail.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::machine::{Machine, READY, machine};
use crate::common::vm::{Attached, Vm, with_serial};
use crate::common::{self, Detached, State, contains, eventually};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use vmon::logfile::Mark;
use vmon::logfile::read::{Entry, LogReader};

/// The commands of docs/vmm.md that contain this, for this machine.
fn documented(machine: &Machine, what: &str) -> String {
    let page = include_str!("../../docs/vmm.md");
    let mut blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains(what)).unwrap();
    let value = |option: &str| {
        let at = machine.command.iter().position(|argument| argument == option).unwrap();
        machine.command[at + 1].as_str()
    };
    let parameters = value("-append");
    ["-accel kvm", "-kernel vmlinuz", "-initrd initramfs.cpio", "console=ttyS0 reboot=t panic=-1"]
        .into_iter()
        .zip(
            ["-accel", "-kernel", "-initrd"]
                .map(|it| format!("{it} {}", value(it)))
                .into_iter()
                .chain([parameters.to_owned()]),
        )
        .fold(block.to_owned(), |block, (documented, here)| {
            assert!(block.contains(documented), "{documented}");
            block.replace(documented, &here)
        })
}

#[test]
fn a_serial_port_on_a_socket_that_qemu_serves_outlives_a_reset_of_the_guest() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let path = state.file("serial.sock").display().to_string();
    let mut command = with_serial(machine, &format!("socket,path={path},server=on,wait=off"));
    command.retain(|argument| argument != "-no-reboot");
    let vm = Vm::start(state, &[], &[format!("serial=unix:{path}")], &command);
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
fn a_serial_port_that_qemu_closes_is_opened_again_with_a_mark_in_the_index() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let chardev = |path: &Path| format!("socket,path={},server=on,wait=off", path.display());
    // QEMU removes the socket that it closes when it has made the next one.
    let (link, first, second) = (state.file("link"), state.file("first"), state.file("second"));
    symlink(&first, &link).unwrap();
    let mut command = with_serial(machine, &chardev(&first));
    // QEMU's own commands come at its stdin.
    command.extend(["-monitor", "stdio"].map(str::to_owned));
    command.retain(|argument| argument != "-no-reboot");
    let options = ["--stdin", "forward", "--interactive", "stdio"];
    let vm = Vm::start(state, &options, &[format!("serial=unix:{}", link.display())], &command);
    vm.wait_for("serial", READY);
    fs::remove_file(&link).unwrap();
    symlink(&second, &link).unwrap();
    let mut monitor = Attached::start(vm.state.vmon().args(["attach", "vm"]));
    monitor.send(&format!("chardev-change console {}", chardev(&second)));
    eventually("it is open again", || {
        let inspected = vm.state.vmon().args(["inspect", "vm"]).output().unwrap();
        contains(&inspected.stdout, b"\"opened\": 2")
    });
    // The guest does not notice; a reset is not an end either.
    monitor.send("system_reset");
    vm.wait_for_times("serial", READY, 2);
    vm.attach("serial").ask("echo $((6 * 7)) is the answer", "42 is the answer");
    vm.stop();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let logs = vm.state.path().join("log");
    let mut reader = LogReader::open(&logs, common::CONFIG, "vm@serial").unwrap();
    let mut marks = 0;
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Bytes { bytes, .. } if marks == 0 => before.extend_from_slice(bytes),
            Entry::Bytes { bytes, .. } => after.extend_from_slice(bytes),
            Entry::Mark { mark: Mark::Reopen, .. } => marks += 1,
            Entry::Mark { .. } => {}
        }
    }
    assert_eq!(marks, 1);
    assert!(contains(&before, READY.as_bytes()) && contains(&after, READY.as_bytes()));
}

#[test]
fn a_serial_port_and_a_virtio_console_have_a_log_each() {
    let Some(machine) = machine().filter(|machine| machine.has_virtio_console()) else { return };
    let state = State::new();
    // QEMU connects to us, and opens a PTY of ours.
    let script = documented(machine, "hvc0=pty");
    let (script, attach) = script.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(attach, "vmon attach vm --console hvc0");
    let program = state.vmon().get_program().to_owned();
    let mut run = Command::new("sh");
    run.args(["-euc", &format!("vmon() {{ \"$0\" \"$@\"; }}\n{script}")]).arg(program);
    run.env("VMON_STATE_DIR", state.path()).env("dir", state.path());
    let run = Detached::start(&state, &mut run);
    let vm = Vm { run, state };
    vm.wait_for("serial", READY);
    vm.wait_for("hvc0", "hvc0 ready");
    vm.attach("hvc0").ask("echo $((6 * 7)) on hvc0", "42 on hvc0");
    // The guest's terminals end lines as a terminal needs them.
    vm.attach("serial").ask("echo $((6 * 8)) on ttyS0", "48 on ttyS0\r\n");
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
    // QEMU before 9.2 makes no link (path=), but prints where its PTY is.
    let script = r#"link=$1; shift; "$@" 2>&1 | while read -r line; do
        echo "$line"
        case $line in *"redirected to "*) set -- ${line#*redirected to }; ln -s "$1" "$link" ;; esac
    done"#;
    let mut command = ["sh", "-c", script, "sh", &link].map(str::to_owned).to_vec();
    command.extend(with_serial(machine, "pty"));
    let vm = Vm::start(state, &[], &[format!("serial=pty:{link}")], &command);
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
    // QEMU opens a pair of FIFOs: the one that it reads has no writer here.
    mkfifo(format!("{base}.in").as_str(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let command = with_serial(machine, &format!("pipe,path={base}"));
    let vm = Vm::start(state, &[], &[format!("serial=fifo:{base}.out")], &command);
    vm.wait_for("serial", READY);
    assert!(contains(&vm.log("serial"), b"Linux version"));
    vm.stop();
}
