//! Rotate commands and queued generations when a run ends or its supervisor is killed.

#![cfg(target_os = "linux")]

use std::fs;

use crate::common::works::{Works, lines};
use crate::common::{
    Process, assert_same, code, eventually, is_alive, process_state, signal, wait,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

#[test]
fn a_rotate_command_does_not_count_as_a_leftover_of_the_sandbox() {
    let works = Works::new();
    works.hold();
    let then =
        "setsid sh -c 'echo $$ >daemon; exec sleep 1000' & while [ ! -s daemon ]; do :; done";
    let mut run = works.run(&["--stop-timeout", "1h"], 3, then);
    let mut run = Process::spawn(run.current_dir(works.state.path()));
    works.wait_for_begun(1);
    assert_eq!(code(wait(&mut run)), 0);
    let daemon = fs::read_to_string(works.state.file("daemon")).unwrap();
    let daemon = daemon.trim_end().parse().unwrap();
    assert_eq!(process_state(daemon), None, "the daemon was ended");
    assert!(is_alive(works.worker()), "the command was not");
    works.release();
    works.wait_for_all_done();
}

#[test]
fn queued_generations_are_passed_to_a_shell_when_the_run_ends() {
    let works = Works::new();
    works.hold();
    let mut run = works.run(&[], 20, "exit 5");
    assert_eq!(code(wait(&mut run.spawn().unwrap())), 5);
    works.wait_for_begun(1);
    assert_eq!(works.numbers("begun"), [1]);
    assert!(works.note().exists());
    works.release();
    works.wait_for_all_done();
    assert_eq!(works.numbers("ended"), (1..=9).collect::<Vec<_>>());
    assert_same(&works.whole(), &lines(20), "all generations");
}

#[test]
fn the_next_run_waits_for_the_work_of_an_earlier_one() {
    let works = Works::new();
    works.hold();
    assert_eq!(code(wait(&mut works.run(&[], 10, "exit 0").spawn().unwrap())), 0);
    works.wait_for_begun(1);
    let mut second = Process::spawn(&mut works.run(&[], 10, "exec sleep 100"));
    eventually("it has rotated its log", || works.generations().0.len() == 9);
    assert_eq!(works.numbers("begun"), [1]);
    works.release();
    works.wait_for_all_done();
    assert_eq!(works.numbers("ended"), (1..=9).collect::<Vec<_>>());
    assert_same(&works.whole(), &[lines(10), lines(10)].concat(), "both runs");
    signal(&second, Signal::SIGTERM);
    wait(&mut second);
}

#[test]
fn queued_work_of_a_killed_supervisor_is_done_by_the_next_run() {
    let works = Works::new();
    works.hold();
    let mut first = Process::spawn(&mut works.run(&[], 10, "exec sleep 100"));
    eventually("it has rotated its log", || works.generations().0.len() == 4);
    works.wait_for_begun(1);
    works.wait_for_note();
    let worker = works.worker();
    signal(&first, Signal::SIGKILL);
    wait(&mut first);
    assert!(is_alive(worker), "it goes on by itself");
    let mut second = Process::spawn(&mut works.run(&[], 2, "exec sleep 100"));
    eventually("the next has rotated its log", || works.generations().0.len() == 5);
    assert_eq!(works.numbers("begun"), [1], "that one is waited for");
    works.release();
    works.wait_for_all_done();
    assert_eq!(works.numbers("ended"), [1, 2, 3, 4, 5], "none twice");
    signal(&second, Signal::SIGTERM);
    wait(&mut second);
}

/// `meanwhile` is called before the supervisor is killed.
fn is_done_again_after_dying_with_its_supervisor(meanwhile: impl FnOnce(&Works)) {
    let works = Works::new();
    works.hold();
    let mut first = Process::spawn(&mut works.run(&[], 5, "exec sleep 100"));
    works.wait_for_begun(1);
    eventually("it has rotated its log", || works.generations().0.len() == 2);
    meanwhile(&works);
    signal(&first, Signal::SIGKILL);
    wait(&mut first);
    let group = getpgid(Some(Pid::from_raw(works.worker() as i32))).unwrap();
    killpg(group, Signal::SIGKILL).unwrap();
    // A part of its output.
    fs::write(works.state.logs().join("web.log.00000001.gz"), "half").unwrap();
    fs::remove_dir(works.state.file("lock")).unwrap();
    works.release();
    assert_eq!(code(wait(&mut works.run(&[], 0, "exit 0").spawn().unwrap())), 0);
    works.wait_for_all_done();
    assert_same(&works.whole(), &lines(5), "all generations");
}

#[test]
fn work_that_died_with_its_supervisor_is_done_again() {
    is_done_again_after_dying_with_its_supervisor(|_| {});
}

#[test]
fn work_that_died_with_its_supervisor_is_done_again_with_an_index() {
    is_done_again_after_dying_with_its_supervisor(|works| {
        let index = works.state.logs().join("web.log.idx");
        eventually("the index is on disk", || index.exists());
    });
}

#[test]
fn generations_are_processed_while_a_restart_is_pending() {
    let works = Works::new();
    works.hold();
    let mut run = Process::spawn(&mut works.run(&["--restart", "always"], 5, "exit 1"));
    works.wait_for_begun(1);
    eventually("it has run three times", || works.generations().0.len() >= 7);
    works.release();
    works.wait_for_begun(7);
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
    works.wait_for_all_done();
    let ended = works.numbers("ended");
    assert_eq!(ended, (1..=ended.len() as u32).collect::<Vec<_>>());
}
