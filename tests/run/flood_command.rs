//! Floods through the command: the capacity of its pipes, and the cost of reading them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};

use crate::common::{State, Terminal, assert_same, code, eventually, has, is_alive, noise, wait};

/// The pipes that vmon reads its child's output from, opened again.
fn output_pipes(vmon: &Child, child: u32) -> Vec<File> {
    let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/fd/{name}"));
    let theirs: Vec<PathBuf> = ["1", "2"].iter().map(|fd| link(child, fd).unwrap()).collect();
    let names = fs::read_dir(format!("/proc/{}/fd", vmon.id())).unwrap();
    let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    let ours = names.filter(|name| {
        name.parse::<u32>().unwrap() > 2
            && link(vmon.id(), name).is_ok_and(|target| theirs.contains(&target))
    });
    let open = |name: String| {
        let path = format!("/proc/{}/fd/{name}", vmon.id());
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    };
    ours.map(open).collect()
}

fn size(pipe: &File) -> usize {
    fcntl(pipe, FcntlArg::F_GETPIPE_SZ).unwrap() as usize
}

/// Private memory of a process in kB (`/proc/PID/smaps_rollup`, Anonymous).
fn anonymous(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A child that floods its stdout from one line of its input to the next, three times.
struct Flooding {
    state: State,
    vmon: Child,
    input: std::process::ChildStdin,
    child: u32,
}

impl Flooding {
    fn start(flood: &str, options: &[&str]) -> Self {
        let script = format!(
            "echo here; for flood in 1 2 3; do
            read x; {flood} & read x; kill $!; wait; echo over $flood; done; read x"
        );
        let state = State::new();
        let mut vmon = state
            .run("x", &[&["--log-max-size", "1MiB"], options].concat(), &script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = vmon.stdin.take().unwrap();
        state.wait_for_log("x", b"here");
        state.wait_for_status("x", "RUNNING");
        let child = state.run_column("x", "pid").unwrap().parse().unwrap();
        Self { state, vmon, input, child }
    }

    fn line(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn finish(&mut self) {
        self.line();
        assert_eq!(code(wait(&mut self.vmon)), 0);
    }
}

#[test]
fn the_memory_that_a_flood_takes_is_given_back_after_it() {
    let mut run = Flooding::start("yes", &["--no-forward"]);
    let pid = run.vmon.id();
    let pipes = output_pipes(&run.vmon, run.child);
    assert_eq!(pipes.len(), 2);
    let usual = size(&pipes[0]);
    let total = || pipes.iter().map(size).sum::<usize>();
    let mut memory = None;
    for flood in 1..=3 {
        run.line();
        if cfg!(not(vmon_coalesce = "never")) {
            eventually("the flooded pipe has grown", || total() > 2 * usual);
        }
        run.line();
        run.state.wait_for_log("x", format!("over {flood}").as_bytes());
        eventually("it has its own size again", || total() == 2 * usual);
        // What the first one left: the scratch buffer alone is 512 kB when all of it is used.
        let first = *memory.get_or_insert_with(|| anonymous(pid));
        eventually("the memory is given back", || anonymous(pid) < first + 100);
    }
    run.finish();
}

#[test]
fn a_flooded_pipe_is_out_of_the_poller_from_time_to_time_and_back_in_afterwards() {
    if cfg!(any(vmon_coalesce = "never", mio_unsupported_force_poll_poll)) {
        return;
    }
    // Slower than any disk: a pipe that fills up while the log is written is not left alone.
    let mut run = Flooding::start("dd if=/dev/zero bs=1 status=none", &["--no-forward"]);
    // proc_pid_fdinfo(5): an epoll instance has a line for each file that it watches.
    let pipe = fs::metadata(format!("/proc/{}/fd/1", run.child)).unwrap().ino();
    let watched = format!(" ino:{pipe:x} ");
    let fds = format!("/proc/{}/fdinfo", run.vmon.id());
    let is_watched = || {
        let infos = fs::read_dir(&fds).unwrap().map(|info| info.unwrap().path());
        let mut infos = infos.filter_map(|info| fs::read_to_string(info).ok());
        let watches = |line: &str| line.starts_with("tfd:") && line.contains(&watched);
        infos.any(|info| info.lines().any(watches))
    };
    eventually("the pipe is in the poller", is_watched);
    run.line();
    eventually("the flooded pipe is out of it", || !is_watched());
    run.line();
    run.state.wait_for_log("x", b"over 1");
    eventually("it is back in", is_watched);
    for _ in 0..4 {
        run.line();
    }
    run.finish();
}

#[test]
fn a_reader_that_stops_in_a_flood_costs_no_wake_ups_and_keeps_nothing_afterwards() {
    let mut run = Flooding::start("dd if=/dev/zero bs=1000 status=none", &[]);
    let status = format!("/proc/{}/status", run.vmon.id());
    let switches = || {
        let status = fs::read_to_string(&status).unwrap();
        let mut lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
        lines.next().unwrap().to_owned()
    };
    let pipes = output_pipes(&run.vmon, run.child);
    let usual = size(&pipes[0]);
    let total = || pipes.iter().map(size).sum::<usize>();
    let mut reader = run.vmon.stdout.take().unwrap();
    run.line();
    let mut buffer = vec![0; 1 << 16];
    let grows = cfg!(not(vmon_coalesce = "never"));
    while grows && total() == 2 * usual {
        assert_ne!(reader.read(&mut buffer).unwrap(), 0);
    }
    // vmon's stdout has no reader. It has come to rest when it sleeps through the life of a
    // process that sleeps itself.
    eventually("it waits", || {
        let before = switches();
        assert!(Command::new("sleep").arg("1").status().unwrap().success());
        switches() == before
    });
    run.line();
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    run.state.wait_for_log("x", b"over 1");
    eventually("the pipe has its own size again", || total() == 2 * usual);
    for _ in 0..4 {
        run.line();
    }
    run.finish();
    reading.join().unwrap().unwrap();
}

#[test]
fn a_poller_that_is_full_for_a_while_delays_a_flood_and_loses_nothing_of_it() {
    // Every second call fails, from when everything is set up: disarming and arming are among them.
    let inject = "inject=epoll_ctl:error=ENOSPC:when=12+2";
    let strace = ["--seccomp-bpf", "-f", "-qq", "-o", "/dev/null", "-e", inject];
    let probe = Command::new("strace").args(strace).arg("true").status();
    if !probe.is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: a poller that is full: no strace");
        return;
    }
    let state = State::new();
    // After each burst it waits until the log has all of it: a lost edge is a hang.
    let script = "for burst in 0 1 2 3 4 5 6 7 8 9; do
        dd if=/dev/zero bs=100 count=3000 status=none; echo end $burst; read x; done";
    let run = state.run("x", &["--no-forward", "--log-max-size", "0"], script);
    let mut command = Command::new("strace");
    command.args(strace).arg(run.get_program()).args(run.get_args());
    command.env("VMON_STATE_DIR", state.path()).stdin(Stdio::piped());
    let mut traced = command.spawn().unwrap();
    let mut input = traced.stdin.take().unwrap();
    for burst in 0..10 {
        state.wait_for_log("x", format!("end {burst}\n").as_bytes());
        input.write_all(b"\n").unwrap();
    }
    assert_eq!(code(wait(&mut traced)), 0);
    assert_eq!(state.log("x").len(), 10 * (300_000 + "end 0\n".len()));
}

#[test]
fn floods_with_pauses_between_them_lose_and_change_nothing() {
    let state = State::new();
    let sent = noise(4 << 20, 7);
    let file = state.file("sent");
    fs::write(&file, &sent).unwrap();
    // Small writes and large ones, bursts and pauses, one byte at the end.
    let script = format!(
        "f={}; i=0; while [ $i -lt 16 ]; do
            case $((i % 4)) in 0) b=64;; 1) b=1000;; 2) b=65536;; 3) b=262144;; esac
            dd if=$f iflag=skip_bytes,count_bytes skip=$((i * 262144)) count=262144 bs=$b status=none
            [ $((i % 3)) != 0 ] || sleep 0.02
            i=$((i + 1))
        done",
        file.display()
    );
    let output = state.run("x", &["--log-max-files", "100"], &script).output().unwrap();
    assert_eq!(code(output.status), 0);
    assert_same(&output.stdout, &sent, "what was forwarded");
    assert_same(&state.whole_log("x"), &sent, "the log");
}

#[test]
fn a_flooding_child_that_is_stopped_leaves_all_it_wrote_in_the_log() {
    let state = State::new();
    let count = state.file("count");
    // It counts what it has written when TERM comes, and writes it on the way out.
    let script = format!(
        "trap 'echo $i >{}; exit 0' TERM; i=0; while :; do echo $i; i=$((i + 1)); done",
        count.display()
    );
    let mut vmon =
        state.run("x", &["--no-forward", "--log-max-files", "1000"], &script).spawn().unwrap();
    state.wait_for_log("x", b"5000");
    crate::common::signal(&vmon, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon)), 0);
    let last: usize = fs::read_to_string(count).unwrap().trim().parse().unwrap();
    let log = String::from_utf8(state.whole_log("x")).unwrap();
    let lines: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    // The trap may come between the echo and the sum.
    assert!(lines.len() == last || lines.len() == last + 1, "{} of {last}", lines.len());
    assert!(lines.iter().copied().eq(0..lines.len()));
}

/// A keystroke and its echo: two polls; two reads; the child's input, the log, the terminal.
const CALLS_A_KEYSTROKE: usize = 7;

#[test]
fn an_echoed_keystroke_costs_seven_system_calls() {
    if cfg!(mio_unsupported_force_poll_poll) {
        return; // that back end has calls of its own
    }
    if !has("strace") {
        let _ = writeln!(std::io::stderr(), "skipped: an echoed keystroke: no strace");
        return;
    }
    let state = State::new();
    let trace = state.file("trace");
    let echo = "stty raw -echo; printf ready; exec cat";
    let run = state.run("x", &[], echo);
    let mut strace = Command::new("strace");
    strace.arg("-o").arg(&trace).arg(run.get_program()).args(run.get_args());
    strace.env("VMON_STATE_DIR", state.path());
    let mut terminal = Terminal::spawn(&mut strace);
    terminal.wait_for("ready");
    // What follows 50 ms after a start: room for the end, and further signal handlers.
    eventually("the start is complete", || {
        let calls = fs::read_to_string(&trace).unwrap();
        calls.contains("/.reserved") && calls.contains("rt_sigaction(SIGUSR2, {")
    });
    let calls = || fs::read_to_string(&trace).unwrap().lines().count();
    // Until the first keys are through, the record is written and the terminal set up.
    let type_keys = |terminal: &mut Terminal, keys: usize| {
        for _ in 0..keys {
            terminal.send("k");
            terminal.wait_for("k");
        }
    };
    type_keys(&mut terminal, 20);
    let before = calls();
    type_keys(&mut terminal, 100);
    let after = calls();
    // Once a second the log is looked for by its name.
    let looks = 60;
    assert!(
        (after - before) <= 100 * CALLS_A_KEYSTROKE + looks,
        "{} calls for 100 keystrokes",
        after - before
    );
    let vmon = fs::read_to_string(format!("/proc/{0}/task/{0}/children", terminal.child.id()));
    let vmon: u32 = vmon.unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(vmon as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    terminal.finish();
    eventually("vmon has ended", || !is_alive(vmon));
}
