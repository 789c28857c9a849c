//! The command of `--log-rotate-command` on the logs of consoles: each generation is processed like
//! those of the main log, one at a time in a sandbox, also after the end of the run or its
//! supervisor.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::works::{LINES, Works, lines};
use crate::common::{Process, assert_same, code, eventually, has, is_alive, signal, wait};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

const CONSOLES: [&str; 4] = ["--console", "a=pty", "--console", "b=pty"];
const LOGS: [&str; 3] = ["web", "web@a", "web@b"];

/// A script that writes this number of lines to its stdout and to each console.
fn writes(own: usize, a: usize, b: usize) -> String {
    let lines = |count: usize| LINES.replace("COUNT", &count.to_string());
    format!("{}; {{ {}; }} >{{a}}; {{ {}; }} >{{b}}", lines(own), lines(a), lines(b))
}

fn start(works: &Works, options: &[&str], script: &str) -> Process {
    Process::spawn(&mut works.run_script(&[&CONSOLES, options].concat(), script))
}

fn stop(run: &mut Child) {
    signal(run, Signal::SIGTERM);
    wait(run);
}

/// The file names of these generations of a log.
fn names(log: &str, numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| format!("{log}.log.{number:08}")).collect()
}

/// The processed generations of a log.
fn worked_on(works: &Works, log: &str) -> Vec<String> {
    let prefix = format!("{log}.log.");
    works.names().into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

fn wait_for_plain(works: &Works, count: [usize; 3]) {
    eventually("the logs are rotated", || {
        LOGS.map(|log| works.generations_of(log).0.len()) == count
    });
}

#[test]
fn each_generation_of_each_console_is_processed_one_at_a_time() {
    let works = Works::new();
    let mut run = start(&works, &[], &format!("{}; exec sleep 100", writes(5, 9, 7)));
    works.wait_for_begun(2 + 4 + 3);
    works.wait_for_all_done_of(&LOGS);
    for (log, count) in LOGS.into_iter().zip([5, 9, 7]) {
        assert_eq!(worked_on(&works, log), names(log, 1..=(count as u32 - 1) / 2));
        assert_same(&works.whole_of(log), &lines(count), log);
    }
    stop(&mut run.0);
}

#[test]
fn logs_take_turns_so_that_none_blocks_anothers_generations() {
    let works = Works::new();
    works.hold();
    let script = format!("{}; read x; {}; exec sleep 100", writes(9, 0, 0), writes(0, 5, 3));
    let mut run = works.run_script(&CONSOLES, &script);
    let mut run = Process::spawn(run.stdin(Stdio::piped()));
    works.wait_for_begun(1);
    drop(run.0.stdin.take());
    wait_for_plain(&works, [4, 2, 1]);
    works.release();
    works.wait_for_all_done_of(&LOGS);
    let order: Vec<String> = works.names();
    let turns: Vec<&str> = order.iter().map(|name| name.split('.').next().unwrap()).collect();
    assert_eq!(turns, ["web", "web@a", "web@b", "web", "web@a", "web", "web"]);
    stop(&mut run.0);
}

#[test]
fn a_failure_names_the_consoles_generation_and_its_output_is_removed() {
    let works = Works::new();
    let command = "sh -c 'head -c 10 \"$1\" >\"$1.gz\"; exit 3' sh";
    let options = ["--log-max-size", "2000", "--log-rotate-command", command, "--console", "a=pty"];
    let script = format!("{{ {}; }} >{{a}}; exec sleep 100", LINES.replace("COUNT", "3"));
    let mut run = works.state.run("web", &options, &script);
    let mut run = Process::spawn(run.stderr(Stdio::piped()).stdout(Stdio::null()));
    let mut line = String::new();
    BufReader::new(run.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let path = works.state.logs().join("web@a.log.00000001");
    assert!(line.contains(&format!("{}: exit code 3", path.display())), "{line}");
    eventually("it is removed", || !path.with_extension("00000001.gz").exists());
    stop(&mut run.0);
    assert_same(&works.state.whole_log("web@a"), &lines(3), "nothing is lost");
}

#[test]
fn the_compressed_generations_of_a_console_are_printed_completely() {
    if !has("gzip") {
        return eprintln!("skipped: there is no gzip");
    }
    let works = Works::new();
    let mut run = works.run_script(&CONSOLES, &writes(0, 20, 0));
    assert_eq!(code(wait(&mut run.spawn().unwrap())), 0);
    works.wait_for_all_done_of(&LOGS);
    let output = works.state.vmon().args(["logs", "web", "--console", "a"]).output().unwrap();
    assert_same(&output.stdout, &lines(20), "printed");
}

#[test]
fn queued_generations_of_all_logs_are_passed_to_one_shell_when_the_run_ends() {
    let works = Works::new();
    works.hold();
    let mut run = start(&works, &[], &format!("{}; exit 5", writes(5, 9, 7)));
    assert_eq!(code(wait(&mut run.0)), 5);
    works.wait_for_begun(1);
    assert_eq!(works.names().len(), 1);
    for log in LOGS {
        assert!(works.note_of(log).exists(), "{log}");
    }
    works.release();
    works.wait_for_all_done_of(&LOGS);
    for (log, count) in LOGS.into_iter().zip([5, 9, 7]) {
        assert_eq!(worked_on(&works, log), names(log, 1..=(count as u32 - 1) / 2));
        assert_same(&works.whole_of(log), &lines(count), log);
    }
}

#[test]
fn the_next_run_waits_for_the_work_of_an_earlier_one_on_any_log() {
    let works = Works::new();
    works.hold();
    let mut first = start(&works, &[], &format!("{}; exit 0", writes(0, 5, 5)));
    assert_eq!(code(wait(&mut first.0)), 0);
    works.wait_for_begun(1);
    let mut second = start(&works, &[], &format!("{}; exec sleep 100", writes(5, 4, 4)));
    wait_for_plain(&works, [2, 4, 4]);
    assert_eq!(works.names().len(), 1, "the first is waited for");
    works.release();
    works.wait_for_all_done_of(&LOGS);
    for (log, last) in LOGS.into_iter().zip([2, 4, 4]) {
        assert_eq!(worked_on(&works, log), names(log, 1..=last));
    }
    assert_same(&works.whole_of("web@a"), &[lines(5), lines(4)].concat(), "both runs");
    stop(&mut second.0);
}

#[test]
fn queued_work_of_a_killed_supervisor_is_done_by_the_next_run() {
    let works = Works::new();
    works.hold();
    let mut first = start(&works, &[], &format!("{}; exec sleep 100", writes(0, 5, 5)));
    wait_for_plain(&works, [0, 2, 2]);
    works.wait_for_begun(1);
    let at_work = works.names();
    works.wait_for_note_of(at_work[0].split('.').next().unwrap());
    let worker = works.worker();
    signal(&first.0, Signal::SIGKILL);
    wait(&mut first.0);
    assert!(is_alive(worker), "it goes on by itself");
    let mut second = start(&works, &[], &format!("{}; exec sleep 100", writes(3, 0, 0)));
    wait_for_plain(&works, [1, 2, 2]);
    assert_eq!(works.names(), at_work, "that one is waited for");
    works.release();
    works.wait_for_all_done_of(&LOGS);
    assert_eq!(works.names().len(), 5, "none twice");
    stop(&mut second.0);
}

#[test]
fn work_that_died_with_its_supervisor_is_done_again() {
    let works = Works::new();
    works.hold();
    let mut first = start(&works, &[], &format!("{}; exec sleep 100", writes(0, 5, 0)));
    works.wait_for_begun(1);
    wait_for_plain(&works, [0, 2, 0]);
    signal(&first.0, Signal::SIGKILL);
    wait(&mut first.0);
    let group = getpgid(Some(Pid::from_raw(works.worker() as i32))).unwrap();
    killpg(group, Signal::SIGKILL).unwrap();
    std::fs::write(works.state.logs().join("web@a.log.00000001.gz"), "half").unwrap();
    std::fs::remove_dir(works.state.file("lock")).unwrap();
    works.release();
    assert_eq!(code(wait(&mut start(&works, &[], "exit 0").0)), 0);
    works.wait_for_all_done_of(&LOGS);
    assert_same(&works.whole_of("web@a"), &lines(5), "all generations");
}

#[test]
fn generations_of_consoles_are_processed_while_a_restart_is_pending() {
    let works = Works::new();
    works.hold();
    let script = format!("{}; exit 1", writes(0, 5, 0));
    let mut run = start(&works, &["--restart", "always"], &script);
    works.wait_for_begun(1);
    eventually("it has run three times", || works.generations_of("web@a").0.len() >= 7);
    works.release();
    works.wait_for_begun(7);
    stop(&mut run.0);
    works.wait_for_all_done_of(&LOGS);
    let worked_on = worked_on(&works, "web@a");
    assert_eq!(worked_on, names("web@a", 1..=worked_on.len() as u32), "none twice");
}
