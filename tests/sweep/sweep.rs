//! The runs, and the sweep over their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::errors;
use crate::runs::{Kind, Plan, Run};
use crate::strace::{self, Call, Fault};
use crate::verdict;

/// Runs at the same time: most of them wait for the kernel.
const WORKERS: usize = 4;

/// Faults that were found by the whole sweep once, which are in every selection: the call, a part of
/// it, and the error. Of the calls that match, the first three fail, each in a run of its own.
const FOUND: &[(&str, &str, &str)] = &[
    // A supervisor that could not read its own start time was taken for dead, and its command killed.
    ("openat", "/stat\"", "EMFILE"),
    // A client whose answer could not be sent waited for it.
    ("sendto", "\"parameters", "ENOMEM"),
    // A run without a descriptor for its terminal read no input, and did not say so.
    ("fcntl F_DUPFD_CLOEXEC", "/dev/pts/", "EMFILE"),
];

/// All faults of these calls, or a selection: the first call of each kind with one of its errors, and
/// what was found before.
fn faults(calls: &[Call]) -> Vec<Fault> {
    // One of them alone, as a failure prints it: `VMON_SWEEP='openat EMFILE 22'`. Those that last: `+`.
    let only = std::env::var("VMON_SWEEP").ok();
    let whole = only.is_some() || std::env::var_os("VMON_FULL_SIZE").is_some();
    let mut seen = BTreeSet::new();
    let mut matches = [0; FOUND.len()];
    let mut faults = Vec::new();
    for call in calls {
        let is_first = seen.insert(&call.name);
        let errors = errors::of(&call.name);
        // The number of kinds so far chooses the error: each error is chosen somewhere.
        let chosen = seen.len() % errors.len().max(1);
        for (number, error) in errors.iter().enumerate() {
            if whole || (is_first && number == chosen) {
                faults.push(Fault { call: call.name.clone(), error, at: call.at, lasts: false });
            }
        }
        for ((name, part, error), matches) in FOUND.iter().zip(&mut matches) {
            if call.name == *name && call.text.contains(part) && *matches < 3 {
                *matches += 1;
                faults.push(Fault { call: call.name.clone(), error, at: call.at, lasts: false });
            }
        }
    }
    if whole {
        faults.extend(lasting_faults(calls));
    }
    // A child has the same number of calls as its parent again.
    let mut unique = BTreeSet::new();
    faults.retain(|fault| unique.insert(fault.to_string()));
    faults.retain(|fault| {
        only.as_ref().is_none_or(|only| match only.as_str() {
            "+" => fault.lasts,
            only => fault.to_string().starts_with(only),
        })
    });
    faults
}

/// The first, second, middle and last call of each kind, and all later ones.
fn lasting_faults(calls: &[Call]) -> Vec<Fault> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for call in calls {
        places.entry(&call.name).or_default().push(call.at);
    }
    let mut faults = Vec::new();
    for (call, places) in places {
        let last = places.len() - 1;
        for place in [0, 1.min(last), last / 2, last] {
            for error in errors::lasting(call) {
                faults.push(Fault { call: call.to_owned(), error, at: places[place], lasts: true });
            }
        }
    }
    faults
}

fn sweep(run: &Run) {
    if !strace::is_usable() {
        return;
    }
    let plan = (run.kind == Kind::Detached).then(|| Plan::of_run(run));
    let plain = run.once(plan.as_ref(), None);
    let calls = strace::calls(&plain.trace);
    let wrong = verdict::anomalies(run, None, &plain, calls.len());
    assert!(wrong.is_empty() && verdict::words(run, &plain).is_empty(), "{wrong:?} {}", plain.said);
    let faults = faults(&calls);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let seen = run.once(plan.as_ref(), Some(fault));
            // The order of calls varies, so another call may have this number.
            let hit = strace::injected(&seen.trace).is_some_and(|call| call.name == fault.call);
            let wrong = verdict::anomalies(run, Some(fault), &seen, calls.len());
            if hit && !wrong.is_empty() {
                let call = strace::injected(&seen.trace).map(|call| call.text).unwrap_or_default();
                let wrong = wrong.join("; ");
                found.lock().unwrap().push(format!("{fault}: {wrong}\n  {call}\n  {}", seen.said));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().unwrap();
    println!("{} faults", faults.len());
    assert!(found.is_empty(), "{} of {} faults:\n{}", found.len(), faults.len(), found.join("\n"));
}

#[test]
fn a_run_on_pipes_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Foreground,
        options: &[],
        script: "read line; test -z \"$line\" || echo $line; cat >/dev/null; echo err >&2; exit 7",
        input: "hello\n",
        out: "hello\n".to_owned(),
        err: "err\n",
        code: 7,
    });
}

#[test]
fn a_run_on_a_pty_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Foreground,
        options: &["--tty", "always"],
        script: "read line; test -z \"$line\" || echo got $line; exit 7",
        input: "hello\n",
        out: "hello\r\ngot hello\r\n".to_owned(),
        err: "",
        code: 7,
    });
}

#[test]
fn a_run_on_a_terminal_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Terminal,
        options: &[],
        script: "echo up; read line; test -z \"$line\" || echo got $line; exit 7",
        input: "hello\r",
        out: "up\r\nhello\r\ngot hello\r\n".to_owned(),
        err: "",
        code: 7,
    });
}

#[test]
fn a_log_that_rotates_survives_every_fault() {
    let line = "out 0123456789012345678901234567890123456789012345678901234567890123456789\n";
    sweep(&Run {
        kind: Kind::Foreground,
        options: &[
            "--log-max-size",
            "1KiB",
            "--log-max-files",
            "9",
            "--log-rotate-command",
            "gzip",
        ],
        script: "i=0; while [ $i -lt 60 ]; do echo out 0123456789012345678901234567890123456789012345678901234567890123456789; i=$((i+1)); done; exit 7",
        input: "",
        out: line.repeat(60),
        err: "",
        code: 7,
    });
}

#[test]
fn a_stop_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Foreground,
        options: &[],
        script: "exec 2>/dev/null; trap 'echo bye; exit 9' TERM; echo up; kill -TERM $PPID; while :; do sleep 0.01; done",
        input: "",
        out: "up\nbye\n".to_owned(),
        err: "",
        code: 9,
    });
}

#[test]
fn a_stop_that_takes_a_kill_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Foreground,
        options: &["--stop-timeout", "200ms"],
        script: "trap '' TERM; echo up; kill -TERM $PPID; while :; do sleep 0.01; done",
        input: "",
        out: "up\n".to_owned(),
        err: "",
        code: 137,
    });
}

#[test]
fn a_restart_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Foreground,
        options: &["--restart", "on-failure:1"],
        script: "echo out; exit 3",
        input: "",
        out: "out\nout\n".to_owned(),
        err: "",
        code: 3,
    });
}

#[test]
fn a_detached_run_with_a_client_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Detached,
        options: &["--stdin", "forward"],
        script: "read line; test -z \"$line\" || echo $line; exit 7",
        input: "hello\n",
        out: "hello\n".to_owned(),
        err: "",
        code: 7,
    });
}

#[test]
fn a_start_in_the_background_survives_every_fault() {
    sweep(&Run {
        kind: Kind::Starter,
        options: &["-d"],
        script: "exec sleep 1000",
        input: "",
        out: "a".to_owned(),
        err: "",
        code: 0,
    });
}

fn sweep_command(command: &'static [&'static str], out: &str) {
    sweep(&Run {
        kind: Kind::Command,
        options: command,
        script: "echo hello; exec sleep 1000",
        input: "",
        out: out.to_owned(),
        err: "",
        code: 0,
    });
}

#[test]
fn reading_a_log_survives_every_fault() {
    sweep_command(&["logs", "a"], "hello\n");
}

#[test]
fn a_list_survives_every_fault() {
    sweep_command(&["ps", "--format", "{name} {status}"], "a RUNNING\n");
}

#[test]
fn a_stop_by_command_survives_every_fault() {
    sweep_command(&["stop", "a"], "");
}
