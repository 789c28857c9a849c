//! Guests that print without end, at a rate of 1 MiB a second: the host's cost in disk, wake-ups and
//! memory, and that nothing else is affected.
//!
//! For some seconds each; with `VMON_FULL_SIZE` set, for a minute. Skipped as the other tests of a
//! microVM are.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::common::machine::{READY, append, machine};
use crate::common::vm::{Attached, Vm, with_serial};
use crate::common::{Detached, State, contains, eventually, process_state};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A guest's console that is flooded from its other one, or from a job on itself.
struct Flood {
    vm: Vm,
    console: &'static str,
    bound: u64,
}

/// Where QEMU has the virtio console.
enum Hvc0 {
    Pty,
    Fifo,
}

/// How long a flood is watched, and at full size.
const MINUTE: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(5);

/// How many bytes each wake-up of the supervisor brings at least. A serial port sends single bytes.
/// The CPU time depends on the machine, so it is printed only.
const A_WAKE_UP: u64 = 32;

/// Where no flood is coalesced, each byte of a serial port is read by itself.
const EACH_BYTE: bool = cfg!(vmon_coalesce = "never");

/// What a process has used until now.
struct Used {
    at: Instant,
    processor: Duration,
    /// How often it has slept.
    waits: u64,
    /// Bytes of private memory.
    anonymous: u64,
}

impl Used {
    fn by(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        // utime and stime (proc(5)), of what follows the name.
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        Self {
            at: Instant::now(),
            processor: Duration::from_millis(ticks * 1000 / second as u64),
            waits: waits.unwrap().trim().parse().unwrap(),
            anonymous: kib << 10,
        }
    }
}

impl Flood {
    /// Boots a guest with a serial port at a socket and `hvc0` at a console of the kind `hvc0`, and
    /// has it run `script`.
    fn start(console: &'static str, hvc0: Hvc0, over: &str, script: &str) -> Option<Self> {
        let machine = machine().filter(|machine| machine.has_virtio_console())?;
        let state = State::new();
        let path = state.file("serial.sock").display().to_string();
        let mut command = with_serial(machine, &format!("socket,path={path},server=off"));
        append(&mut command, " -- hvc0");
        let fifo = state.file("hvc0").display().to_string();
        let (chardev, hvc0) = match hvc0 {
            Hvc0::Pty => ("serial,id=hvc0,path={hvc0}".to_owned(), "hvc0=pty".to_owned()),
            Hvc0::Fifo => (format!("file,id=hvc0,path={fifo}"), format!("hvc0=fifo:{fifo}")),
        };
        command.extend(
            ["-device", "virtio-serial-device", "-chardev", &chardev]
                .into_iter()
                .chain(["-device", "virtconsole,chardev=hvc0"])
                .map(str::to_owned),
        );
        let rate = ["--log-rate", "1MiB/s,burst=64KiB", "--over-rate", over];
        let size = ["--log-max-size", "64KiB", "--log-max-files", "3"];
        let consoles = [format!("serial=listen:{path}"), hvc0];
        let vm = Vm::start(state, &[rate, size].concat(), &consoles, &command);
        vm.wait_for("serial", READY);
        vm.wait_for("hvc0", "hvc0 ready");
        let mut flood = Self { vm, console, bound: 0 };
        flood.bound = flood.inspect()["disk_bound"].as_u64().unwrap();
        flood.vm.attach("serial").ask(&format!("{script} & echo $((6 * 7)) begins"), "42 begins");
        let burst = flood.bytes("bytes_logged") + (256 << 10);
        eventually("the burst is over", || flood.bytes("bytes_logged") > burst);
        Some(flood)
    }

    fn inspect(&self) -> Value {
        let output = self.vm.state.vmon().args(["inspect", "vm"]).output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list[0].clone()
    }

    /// The console as the supervisor reports it.
    fn bytes(&self, what: &str) -> u64 {
        let live = &self.inspect()["live"];
        let consoles = live["consoles"].as_array().unwrap().iter();
        let mut found = consoles.filter(|console| console["name"] == self.console);
        found.next().unwrap()[what].as_u64().unwrap()
    }

    /// The bytes of all of its files.
    fn disk(&self) -> u64 {
        let own = |name: &str| name.starts_with("vm.") || name.starts_with("vm@");
        let entries = fs::read_dir(self.vm.state.logs()).unwrap().map(Result::unwrap);
        let own = entries.filter(|entry| own(entry.file_name().to_str().unwrap()));
        own.map(|entry| entry.metadata().unwrap().size()).sum()
    }

    #[track_caller]
    fn check_disk(&self) {
        // Nothing is renamed while it is looked at.
        self.vm.run.signal(Signal::SIGSTOP);
        eventually("it is stopped", || process_state(self.vm.run.supervisor) == Some('T'));
        let disk = self.disk();
        self.vm.run.signal(Signal::SIGCONT);
        assert!(disk <= self.bound, "{disk} of {}", self.bound);
    }

    /// Looks at everything while it goes on.
    fn watch(&self) {
        let time = if std::env::var_os("VMON_FULL_SIZE").is_some() { MINUTE } else { SHORTEST };
        let (_other, mut echo) = echo(&self.vm.state);
        let supervisor = self.vm.run.supervisor;
        let (logged, before) = (self.bytes("bytes_logged"), Used::by(supervisor));
        let mut looks = 0;
        let after = loop {
            looks += 1;
            let line = format!("look {looks}");
            echo.ask(&line, &line);
            self.check_disk();
            let _ = poll(&mut [], PollTimeout::from(200_u8));
            let after = Used::by(supervisor);
            if after.at - before.at >= time {
                break after;
            }
        };
        let (wall, processor) = (after.at - before.at, after.processor - before.processor);
        let waits = after.waits - before.waits;
        let logged = self.bytes("bytes_logged") - logged;
        let memory = (before.anonymous, after.anonymous);
        eprintln!(
            "{}: {processor:?} in {wall:?}, {waits} wake-ups, {logged} bytes, memory {memory:?}, disk {} of {}",
            self.console,
            self.disk(),
            self.bound
        );
        if !EACH_BYTE {
            assert!(waits * A_WAKE_UP < logged, "{waits} wake-ups for {logged} bytes");
        }
        assert!(memory.1 <= memory.0 + (128 << 10), "{memory:?}");
        assert!(logged > 64 << 10, "{logged} in {wall:?}");
    }

    /// Stops it, which takes no force.
    fn stop(&self) {
        self.vm.stop();
        let column = |name| self.vm.state.run_column("vm", name);
        assert_eq!(column("state").as_deref(), Some("STOPPED"));
        assert_eq!(column("reason").as_deref(), Some("stopped"));
        assert_eq!(column("exit_code").as_deref(), Some("0"));
        assert!(self.disk() <= self.bound, "{} of {}", self.disk(), self.bound);
    }
}

/// A second sandbox, which sends back what it is sent.
fn echo(state: &State) -> (Detached, Attached) {
    let mut run = state.vmon();
    run.args(["run", "-d", "--name", "echo", "--stdin", "forward", "--", "cat"]);
    let other = Detached::start(state, &mut run);
    (other, Attached::start(state.vmon().args(["attach", "echo"])))
}

#[test]
fn a_flood_of_lines_at_a_serial_port_stays_within_its_limits() {
    let Some(flood) = Flood::start("serial", Hvc0::Pty, "block", "yes >/dev/console") else {
        return;
    };
    flood.watch();
    assert_eq!(flood.bytes("bytes_dropped"), 0);
    flood.stop();
    assert!(contains(&flood.vm.log("serial"), b"y\r\ny\r\ny\r\n"));
}

#[test]
fn a_flood_of_random_bytes_at_a_serial_port_stays_within_its_limits() {
    let script = "stty raw </dev/console; cat /dev/urandom >/dev/console";
    let Some(flood) = Flood::start("serial", Hvc0::Pty, "block", script) else { return };
    flood.watch();
    assert_eq!(flood.bytes("bytes_dropped"), 0);
    flood.stop();
}

#[test]
fn a_flood_at_hvc0_that_the_rate_blocks_stays_within_its_limits() {
    let script = "stty raw </dev/hvc0; cat /dev/urandom >/dev/hvc0";
    let Some(flood) = Flood::start("hvc0", Hvc0::Pty, "block", script) else { return };
    flood.watch();
    assert_eq!(flood.bytes("bytes_dropped"), 0);
    flood.stop();
}

#[test]
fn a_flood_at_hvc0_that_the_rate_drops_stays_within_its_limits() {
    let script = "stty raw </dev/hvc0; cat /dev/urandom >/dev/hvc0";
    let Some(flood) = Flood::start("hvc0", Hvc0::Fifo, "drop", script) else { return };
    flood.watch();
    assert!(flood.bytes("bytes_dropped") > 0);
    flood.stop();
    assert!(contains(&flood.vm.log("hvc0"), b" bytes left out]\r\n"));
}
