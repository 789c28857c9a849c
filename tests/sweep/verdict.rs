//! What is wrong with a run.

use crate::runs::{Kind, Run, Seen};
use crate::strace::{self, Fault};

/// The exit code of a run that vmon could not carry out.
const OWN_FAILURE: i32 = 125;

/// More calls than this beyond those of the same run without a fault are a busy loop. A walk of the
/// process table takes three calls for each process of the machine.
const MORE_CALLS: usize = 10_000;

/// More lines than this are the same words again and again.
const MOST_WORDS: usize = 25;

/// What is wrong, one line each; `plain` is the number of calls without a fault.
pub fn anomalies(run: &Run, fault: Option<&Fault>, seen: &Seen, plain: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let lasts = fault.is_some_and(|fault| fault.lasts);
    let words = words(run, seen);
    let silent = words.trim().is_empty();
    let is_command = run.kind == Kind::Command;
    let is_whole = seen.out == run.out.as_bytes();
    match seen.code {
        None => wrong.push("it did not end".to_owned()),
        Some(code) if code == run.code => {}
        Some(OWN_FAILURE) if !silent => {}
        // Something could not be done.
        Some(1) if is_command && !silent => {}
        // It was stopped: by a signal, in a drain, or with KILL.
        Some(143 | 137) if lasts && !silent => {}
        // It runs, which could not be printed.
        Some(1) if run.kind == Kind::Starter && words.contains(" runs, with pid ") => {}
        // Its client did not get through.
        Some(143) if run.kind == Kind::Detached && !silent => {}
        // The stop signal could not be sent: KILL after the stop timeout.
        Some(137) if words.contains("can't send SIGTERM") => {}
        // A program that can't be executed.
        Some(126) if words.contains("can't be executed") => {}
        Some(code) => wrong.push(format!("exit code {code}")),
    }
    if words.lines().count() > MOST_WORDS {
        wrong.push(format!("{} lines were said", words.lines().count()));
    }
    if words.contains("does not answer") && !lasts {
        wrong.push("a client waited in vain".to_owned());
    }
    if words.contains("panicked") {
        wrong.push("a panic".to_owned());
    }
    if silent && !is_whole {
        wrong.push(format!("output lost in silence: {}", text(&seen.out)));
    }
    // A terminal that could not be set shows the input once more.
    if !is_prefix(&seen.out, run) && (silent || run.kind != Kind::Terminal) {
        wrong.push(format!("other output: {}", text(&seen.out)));
    }
    if !is_command && !is_prefix(&seen.log, run) {
        wrong.push(format!("another log: {}", text(&seen.log)));
    }
    if silent
        && !is_command
        && run.kind != Kind::Starter
        && seen.log.len() < run.out.len() + run.err.len()
    {
        wrong.push(format!("log lost in silence: {}", text(&seen.log)));
    }
    if (silent || is_command) && !seen.readers.is_empty() {
        wrong.push(format!("afterwards: {}", seen.readers));
    }
    for process in &seen.left {
        wrong.push(format!("left behind: {process}"));
    }
    match &seen.record {
        // A run that is on its way to its end.
        Some(_) if is_command => {}
        None if seen.code == Some(run.code) && silent => wrong.push("no record".to_owned()),
        Some(record) if record.status != "STOPPED" || record.state != "STOPPED" => {
            wrong.push(format!("on record: {record:?}"));
        }
        Some(record)
            if seen.code == Some(run.code)
                && record.code.as_deref() != Some(&run.code.to_string())
                && run.code < 128
                && !matches!(run.kind, Kind::Starter | Kind::Command)
                && (silent || !lasts) =>
        {
            wrong.push(format!("another end on record: {record:?}"));
        }
        _ => {}
    }
    let calls = strace::calls(&seen.trace).len();
    if calls > plain + MORE_CALLS {
        wrong.push(format!("{calls} calls instead of {plain}"));
    }
    wrong
}

/// What was said, without the command's own stderr.
pub fn words(run: &Run, seen: &Seen) -> String {
    seen.said.replacen(run.err, "", 1)
}

/// Whether these lines are the first ones of both streams, in any order of the streams.
fn is_prefix(bytes: &[u8], run: &Run) -> bool {
    let (mut out, mut err) = (run.out.as_bytes(), run.err.as_bytes());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if let Some(rest) = out.strip_prefix(line) {
            out = rest;
        } else if let Some(rest) = err.strip_prefix(line) {
            err = rest;
        } else {
            return false;
        }
    }
    true
}

fn text(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
