//! Supervisors in other pid namespaces, without a complete /proc, and on other machines.

#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Output, Stdio};

use crate::common::{Detached, Process, State, eventually, is_alive, one_line};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROC: &str = "mount -t proc proc /proc";
/// A /proc without a boot id.
const PROC_OF_PIDS: &str = "mount -t proc -o subset=pid proc /proc";

/// A command in a pid namespace of its own, after this script. It ends with its parent.
fn inside(script: &str, command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(["-r", "-m", "-p", "-f", "--kill-child", "sh", "-ec"]);
    inside.arg(format!("{script}\nexec \"$@\"")).arg("sh");
    inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    inside
}

/// Whether [`inside`] works here with this script.
fn can(script: &str) -> bool {
    let done = inside(script, &Command::new("true")).output();
    let can = done.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: not possible here: {script}");
    }
    can
}

fn vmon(state: &State, args: &[&str]) -> Command {
    let mut vmon = state.vmon();
    vmon.args(args);
    vmon
}

fn stdout(output: Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

fn listed(ps: &mut Command) -> String {
    stdout(ps.args(["--format", "{name} {status} {host}"]).output().unwrap())
}

/// `vmon run` in a pid namespace of its own, RUNNING on record.
fn start(state: &State, name: &str, script: &str) -> Process {
    let mut run = inside(script, &state.run(name, &[], "echo up; exec sleep 1000"));
    let process = Process::spawn(run.stdout(Stdio::null()));
    state.wait_for_log(name, b"up");
    state.wait_for_status(name, "RUNNING");
    process
}

fn host() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn the_name_of_a_supervisor_whose_pid_namespace_is_gone_is_free() {
    for script in [PROC, PROC_OF_PIDS] {
        if !can(script) {
            continue;
        }
        let state = State::new();
        let supervisor = start(&state, "web", script);
        let ps = vmon(&state, &["ps"]);
        let readers = || [inside(PROC, &ps), inside(PROC_OF_PIDS, &ps), vmon(&state, &["ps"])];
        for mut reader in readers() {
            assert_eq!(listed(&mut reader), format!("web RUNNING {}\n", host()), "{script}");
        }
        let taken = state.run("web", &[], "true").output().unwrap();
        assert_eq!(taken.status.code(), Some(125));
        let message = one_line(&taken);
        assert!(message.contains("supervisor in another pid namespace"), "{message}");
        drop(supervisor);
        for mut reader in readers() {
            eventually("the supervisor is known to be gone", || listed(&mut reader).is_empty());
        }
        assert_eq!(state.run_column("web", "reason").as_deref(), Some("supervisor-lost"));
        let again = inside(script, &state.run("web", &[], "echo again")).output().unwrap();
        assert_eq!(stdout(again), "again\n", "{script}");
    }
}

#[test]
fn what_a_lost_run_left_in_another_pid_namespace_is_ended() {
    if !can(PROC) {
        return;
    }
    let state = State::new();
    let script = "sleep 1000 & echo up; wait";
    let run = state.run("web", &[], script);
    // The first process of the namespace outlives vmon.
    let mut run = inside(&format!("{PROC}\n\"$@\" & wait $! || :; exec sleep 1001 #"), &run);
    let _namespace = Process::spawn(run.stdout(Stdio::null()).stderr(Stdio::null()));
    state.wait_for_log("web", b"up");
    state.wait_for_status("web", "RUNNING");
    let environment = format!("VMON_STATE_DIR={}", state.path().display());
    let processes = |wanted: &str| -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap();
        let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let read = |pid: u32, file: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let is_wanted = |pid: &u32| {
            read(*pid, "environ").contains(&environment)
                && read(*pid, "cmdline").starts_with(wanted)
        };
        pids.filter(is_wanted).collect()
    };
    eventually("all run", || processes("sleep 1000 ").len() == 1);
    let [left] = processes("sleep 1000 ")[..] else { panic!() };
    let [supervisor] = processes(env!("CARGO_BIN_EXE_vmon"))[..] else { panic!() };
    kill(Pid::from_raw(supervisor as i32), Signal::SIGKILL).unwrap();
    eventually("the supervisor is known to be gone", || {
        listed(&mut vmon(&state, &["ps"])).is_empty()
    });
    assert!(!is_alive(left));
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
    assert_eq!(processes("sleep 1001").len(), 1);
}

#[test]
fn a_run_of_another_machine_is_shown_with_its_host_and_left_alone() {
    let state = State::new();
    let (machine, boot) = (state.file("machine"), state.file("boot"));
    fs::write(&machine, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let other_boot =
        format!("{PROC}\nmount --bind {} /proc/sys/kernel/random/boot_id", boot.display());
    let other_machine = format!("{other_boot}\nmount --bind {} /etc/machine-id", machine.display());
    let is_identified = fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.len() >= 32);
    if !is_identified || !can(&other_machine) {
        eprintln!("skipped: this machine has no id, or it can't be changed for a test");
        return;
    }
    let sandbox = Detached::start(
        &state,
        &mut vmon(&state, &["run", "-d", "--name", "web", "--", "sleep", "1000"]),
    );
    let there = |args: &[&str]| inside(&other_machine, &vmon(&state, args)).output().unwrap();
    let is_refused = |args: &[&str], code| {
        let output = there(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let message = one_line(&output);
        let expected = format!("on another machine, {}", host());
        assert!(message.contains(&expected), "{args:?}: {message}");
    };
    // A clone of this machine, or a boot id that is not the kernel's: the lock tells.
    let running = format!("web RUNNING {}\n", host());
    assert_eq!(listed(&mut inside(&other_boot, &vmon(&state, &["ps"]))), running);
    assert_eq!(listed(&mut inside(&other_machine, &vmon(&state, &["ps"]))), running);
    let (own, theirs) = (stdout(vmon(&state, &["ps"]).output().unwrap()), stdout(there(&["ps"])));
    assert!(!own.contains("HOST") && theirs.contains("HOST") && theirs.contains(&host()));
    for command in ["stop", "kill", "rm", "attach", "wait"] {
        is_refused(&[command, "web"], 1);
    }
    is_refused(&["run", "--name", "web", "--", "true"], 125);
    assert!(is_alive(sandbox.pid));
    // Whether it has ended is not known there, but here.
    sandbox.signal(Signal::SIGKILL);
    eventually("the supervisor is gone", || !is_alive(sandbox.supervisor));
    assert_eq!(stdout(there(&["ps", "--format", "names"])), "web\n");
    is_refused(&["stop", "web"], 1);
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
    let forced = there(&["rm", "--force", "web"]);
    assert_eq!(forced.status.code(), Some(0));
    assert!(one_line(&forced).contains("was not stopped"));
    assert_eq!(stdout(vmon(&state, &["ps", "-a", "--format", "names"]).output().unwrap()), "");
}

#[test]
fn a_run_that_an_earlier_version_has_recorded_in_another_namespace_can_be_removed() {
    let state = State::new();
    let sandbox = Detached::start(
        &state,
        &mut vmon(&state, &["run", "-d", "--name", "web", "--", "sleep", "1000"]),
    );
    sandbox.signal(Signal::SIGKILL);
    eventually("the supervisor is gone", || !is_alive(sandbox.supervisor));
    let earlier = "UPDATE vmon_runs SET pid_namespace = 1;
        ALTER TABLE vmon_runs DROP COLUMN machine_id;
        ALTER TABLE vmon_runs DROP COLUMN host;
        ALTER TABLE vmon_runs DROP COLUMN supervisor_lock";
    rusqlite::Connection::open(state.db()).unwrap().execute_batch(earlier).unwrap();
    assert_eq!(listed(&mut vmon(&state, &["ps"])), "web RUNNING -\n");
    for command in ["stop", "kill", "rm"] {
        let output = vmon(&state, &[command, "web"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}");
        let message = one_line(&output);
        assert!(message.contains("can't be told") && message.contains("rm --force"), "{message}");
    }
    let forced = vmon(&state, &["rm", "--force", "web"]).output().unwrap();
    assert_eq!(forced.status.code(), Some(0));
    assert!(one_line(&forced).contains("was not stopped"));
    state.ran("web", &[], "true");
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("exited"));
}
