//! A rotate command in a host that links the library: no subreaper, no signal handler, many
//! sandboxes on one loop, and a loop that continues after one of them has ended.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::time::Duration;

use crate::common::turning::{Loop, turn_until};
use crate::common::{State, is_alive, is_gone};
use vmon::child::{Command, Signal};
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{Monitor, Reason, Sandbox};
use vmon::reactor::{HandlerId, Reactor};

/// Logs of 2,000 bytes, and a command that waits while there is a file `hold`, then compresses.
fn sandbox(state: &State, name: &str, retention: Retention) -> Sandbox {
    let command = format!(
        "sh -c 'echo $$ >{0}/{name}.pid; while [ -e {0}/hold ]; do sleep 0.02; done; gzip \"$1\"' sh",
        state.path().display()
    );
    Sandbox::new(name, state.path().join("log"))
        .unwrap()
        .log(LogOptions::default().retention(retention.max_size(2_000).max_files(99)).index(false))
        .rotate_command(command)
}

fn spawn(reactor: &mut Loop, sandbox: Sandbox, script: &str) -> HandlerId {
    Monitor::builder(sandbox).spawn(reactor, Command::new("sh").args(["-c", script]))
}

/// `count` lines of 1,000 bytes.
fn lines(count: usize) -> String {
    format!("i=0; while [ $i -lt {count} ]; do printf '%0999d\\n' $i; i=$((i + 1)); done")
}

fn pid(state: &State, name: &str) -> Option<u32> {
    let text = fs::read_to_string(state.file(&format!("{name}.pid"))).ok()?;
    text.trim_end().parse().ok()
}

fn exists(state: &State, name: &str, ending: &str) -> bool {
    state.logs().join(format!("{name}.log.{ending}")).exists()
}

/// Turns until nothing that this thread, and so this test, has started is left, not even a zombie.
#[track_caller]
fn turn_until_all_are_reaped(reactor: &mut Loop) {
    turn_until(reactor, "all are reaped", |_| {
        fs::read_to_string("/proc/thread-self/children").unwrap().is_empty()
    });
}

#[test]
fn each_sandbox_has_one_rotate_command_at_a_time_and_delays_no_other() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let names = ["a", "b", "c"];
    let script = format!("{}; exec sleep 1000", lines(9));
    let ids =
        names.map(|name| spawn(&mut reactor, sandbox(&state, name, Retention::default()), &script));
    for name in names {
        turn_until(&mut reactor, "all are compressed", |_| {
            (1..=4).all(|number| exists(&state, name, &format!("{number:08}.gz")))
        });
    }
    for id in ids {
        reactor.call(id, Monitor::stop).unwrap();
    }
    reactor.run().unwrap();
    turn_until_all_are_reaped(&mut reactor);
}

#[test]
fn the_end_does_not_wait_for_a_rotate_command_which_the_loop_reaps_later() {
    let state = State::new();
    File::create(state.file("hold")).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let retention = Retention::default();
    let id = spawn(&mut reactor, sandbox(&state, "a", retention), &format!("{}; exit 3", lines(9)));
    // Two commands at once: each in a log of its own.
    let other = spawn(&mut reactor, sandbox(&state, "b", retention), "sleep 1000");
    turn_until(&mut reactor, "the end", |reactor| reactor.get(id).unwrap().end().is_some());
    turn_until(&mut reactor, "the command runs", |_| pid(&state, "a").is_some());
    let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
    assert_eq!((end.exit_code(), end.reason()), (3, Reason::Exited));
    let worker = pid(&state, "a").unwrap();
    assert!(is_alive(worker));
    fs::remove_file(state.file("hold")).unwrap();
    // Also those whose turn had not come.
    turn_until(&mut reactor, "all are compressed", |_| {
        (1..=4).all(|number| exists(&state, "a", &format!("{number:08}.gz")))
    });
    turn_until(&mut reactor, "it is reaped", |_| is_gone(worker));
    reactor.call(other, |monitor, _| monitor.signal_child(Signal::KILL)).unwrap().unwrap();
    reactor.run().unwrap();
    // So is the shell that did the others.
    turn_until_all_are_reaped(&mut reactor);
    assert!(!exists(&state, "a", "todo"));
}

#[test]
fn a_hanging_rotate_command_delays_neither_a_stop_nor_the_loop() {
    let state = State::new();
    File::create(state.file("hold")).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let script = format!("{}; exec sleep 1000", lines(3));
    let id = spawn(&mut reactor, sandbox(&state, "a", Retention::default()), &script);
    turn_until(&mut reactor, "the command runs", |_| pid(&state, "a").is_some());
    reactor.call(id, Monitor::stop).unwrap();
    reactor.run().unwrap();
    let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
    assert_eq!(end.reason(), Reason::Stopped);
    let worker = pid(&state, "a").unwrap();
    assert!(is_alive(worker));
    fs::remove_file(state.file("hold")).unwrap();
    turn_until_all_are_reaped(&mut reactor);
    assert!(is_gone(worker) && !exists(&state, "a", "todo"));
}

#[test]
fn a_log_that_was_rotated_in_its_time_leaves_no_timer() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let every = Duration::from_millis(200);
    let retention = Retention::default().rotate_every(Some(every));
    let id = spawn(&mut reactor, sandbox(&state, "a", retention), "echo one; exec sleep 1000");
    turn_until(&mut reactor, "it is compressed", |_| exists(&state, "a", "00000001.gz"));
    turn_until(&mut reactor, "nothing is to be done", |reactor| reactor.next_deadline().is_none());
    reactor.call(id, Monitor::stop).unwrap();
    reactor.run().unwrap();
    turn_until_all_are_reaped(&mut reactor);
}

#[test]
fn an_empty_rotate_command_disables_it() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state, "a", Retention::default()).rotate_command(" \n");
    let id = spawn(&mut reactor, sandbox, &lines(9));
    reactor.run().unwrap();
    assert_eq!(reactor.remove(id).and_then(Monitor::into_end).unwrap().exit_code(), 0);
    assert_eq!(state.generations("a").len(), 4);
    assert!(!exists(&state, "a", "todo"));
}

mod consoles {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use vmon::monitor::Restart;

    use super::*;

    /// Two generations and a line more, at a console.
    fn write_lines(mut console: &UnixStream) {
        let lines: String = (0..5).map(|number| format!("{number:0999}\n")).collect();
        console.write_all(lines.as_bytes()).unwrap();
    }

    #[test]
    fn generations_of_a_console_that_a_host_adds_are_processed() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "a", Retention::default()), "exec sleep 1000");
        turn_until(&mut reactor, "it runs", |reactor| reactor.get(id).unwrap().pid().is_some());
        let (ours, console) = UnixStream::pair().unwrap();
        let name = "serial".parse().unwrap();
        reactor.call(id, |monitor, cx| monitor.add_console(name, console, cx)).unwrap().unwrap();
        write_lines(&ours);
        turn_until(&mut reactor, "all are compressed", |_| {
            (1..=2).all(|number| exists(&state, "a@serial", &format!("{number:08}.gz")))
        });
        reactor.call(id, Monitor::stop).unwrap();
        reactor.run().unwrap();
        turn_until_all_are_reaped(&mut reactor);
        assert!(!exists(&state, "a@serial", "todo"));
    }

    #[test]
    fn generations_of_a_console_of_an_earlier_run_are_processed_in_the_next() {
        let state = State::new();
        File::create(state.file("hold")).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let (ours, console) = UnixStream::pair().unwrap();
        let script = "cd \"$0\"; if [ -e second ]; then : >runs; exec sleep 1000; fi; : >second; \
                      while [ ! -e go ]; do sleep 0.02; done; exit 1";
        let directory = state.path().to_str().unwrap();
        let sandbox = sandbox(&state, "a", Retention::default()).restart(Restart::Always);
        let id = Monitor::builder(sandbox)
            .console("serial".parse().unwrap(), console)
            .spawn(&mut reactor, Command::new("sh").args(["-c", script, directory]));
        write_lines(&ours);
        turn_until(&mut reactor, "the log is rotated", |_| exists(&state, "a@serial", "00000002"));
        File::create(state.file("go")).unwrap();
        turn_until(&mut reactor, "the next run", |_| state.file("runs").exists());
        fs::remove_file(state.file("hold")).unwrap();
        turn_until(&mut reactor, "all are compressed", |_| {
            (1..=2).all(|number| exists(&state, "a@serial", &format!("{number:08}.gz")))
        });
        reactor.call(id, Monitor::stop).unwrap();
        reactor.run().unwrap();
        turn_until_all_are_reaped(&mut reactor);
        assert!(!exists(&state, "a@serial", "todo"));
    }
}
