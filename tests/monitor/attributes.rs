//! What a child has beside its program and its streams: descriptors under chosen numbers, user and
//! group ids, limits, and the size and type of its terminal.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{getegid, geteuid, getgroups};
use serde_json::json;
use vmon::child::{Command, Resource, ResourceLimit, SpawnError};
use vmon::monitor::codec::Spec;
use vmon::monitor::{Monitor, Outcome, Restart, Sandbox, StartError};
use vmon::reactor::Reactor;

use crate::common::turning::{start_added, turn_until};
use crate::common::{self, State, is_root};

/// `nobody`, whom every system has.
const OTHER: u32 = 65534;

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

/// Runs the command to its end: what it wrote, without carriage returns.
#[track_caller]
fn output(command: Command) -> String {
    let state = State::new();
    let end = run(command, state.path());
    assert_eq!(end.map(|end| end.exit_code()).unwrap(), 0, "{}", log(&state));
    log(&state)
}

fn log(state: &State) -> String {
    let path = state.path().join(common::CONFIG).join("x.log");
    fs::read_to_string(path).unwrap_or_default().replace('\r', "")
}

/// The error of a command that is not started.
#[track_caller]
fn refused(command: Command) -> SpawnError {
    let error = run(command, State::new().path()).expect_err("it was started");
    match Arc::into_inner(error) {
        Some(StartError::Spawn(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn run(command: Command, logs: &Path) -> Result<vmon::monitor::End, Arc<StartError>> {
    let mut reactor = Reactor::new().unwrap();
    let sandbox = Sandbox::new("x", logs).unwrap();
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    reactor.run().unwrap();
    let end = reactor.remove(id).unwrap().into_end().unwrap();
    match end.outcome {
        Outcome::NotStarted(error) => Err(error),
        Outcome::Ended { .. } => Ok(end),
    }
}

fn file(text: &str) -> Arc<OwnedFd> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Arc::new(file.into())
}

/// A script that prints what is in the files under these numbers.
fn cat(numbers: impl IntoIterator<Item = i32>) -> String {
    let paths = numbers.into_iter().map(|number| format!(" /dev/fd/{number}"));
    format!("cat{}", paths.collect::<String>())
}

#[test]
fn descriptors_change_places_in_the_child_and_stay_where_they_are_here() {
    let files: Vec<Arc<OwnedFd>> = (0..6).map(|index| file(&index.to_string())).collect();
    let numbers: Vec<i32> = files.iter().map(|file| file.as_raw_fd()).collect();
    // Each rotation is a cycle, and the first leaves every number as it is.
    for shift in 0..files.len() {
        let places = numbers.iter().cycle().skip(shift);
        let command = files
            .iter()
            .zip(places)
            .fold(sh(&cat(numbers.iter().copied())), |command, (file, number)| {
                command.descriptor(*number, Arc::clone(file))
            });
        let expected: String = (0..6).map(|place| ((place + 6 - shift) % 6).to_string()).collect();
        assert_eq!(output(command), expected, "by {shift}");
        for (index, number) in numbers.iter().enumerate() {
            let path = format!("/proc/self/fd/{number}");
            assert_eq!(fs::read_to_string(path).unwrap(), index.to_string());
        }
    }
    // A chain, against the order in which they are given.
    let command = sh(&cat(numbers[..5].iter().copied()));
    let chain = (0..5)
        .fold(command, |command, at| command.descriptor(numbers[at], Arc::clone(&files[at + 1])));
    assert_eq!(output(chain), "12345");
}

#[test]
fn a_descriptor_may_take_the_number_of_any_descriptor_of_ours() {
    let one = file("x");
    let command = (3..60)
        .fold(sh(&cat(3..60)), |command, number| command.descriptor(number, Arc::clone(&one)));
    assert_eq!(output(command.clone()), "x".repeat(57));
    assert_eq!(output(command.pty(true)), "x".repeat(57));
}

#[test]
fn a_later_descriptor_of_the_same_number_replaces_the_first() {
    let command = sh(&cat([9])).descriptor(9, file("first"));
    assert_eq!(output(command.descriptor(9, file("second"))), "second");
}

#[test]
fn a_descriptor_is_kept_for_restarts_and_closed_at_the_end() {
    let state = State::new();
    let one = file("x");
    let mut reactor = Reactor::new().unwrap();
    let sandbox = Sandbox::new("x", state.path()).unwrap();
    let sandbox = sandbox.restart(Restart::OnFailure { max: Some(1) });
    let command = sh(&format!("{}; exit 1", cat([7]))).descriptor(7, Arc::clone(&one));
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    reactor.run().unwrap();
    assert_eq!(log(&state), "xx");
    assert!(reactor.get(id).unwrap().end().is_some());
    assert_eq!(Arc::strong_count(&one), 1);
}

#[test]
fn a_descriptor_is_closed_after_the_start_of_a_command_that_is_not_restarted() {
    let state = State::new();
    let one = file("x");
    let mut reactor = Reactor::new().unwrap();
    let sandbox = Sandbox::new("x", state.path()).unwrap();
    let command = sh("exec sleep 1000").descriptor(7, Arc::clone(&one));
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    start_added(&mut reactor);
    turn_until(&mut reactor, "the start", |_| Arc::strong_count(&one) == 1);
    let monitor = reactor.get(id).unwrap();
    assert!(monitor.report().child.is_some(), "{:?}", monitor.report());
    reactor.call(id, |monitor, cx| monitor.stop(cx));
    reactor.run().unwrap();
}

#[test]
fn a_descriptor_that_can_not_be_passed_is_named() {
    let one = file("x");
    for number in [-1, 0, 2] {
        let error = refused(sh("exit").descriptor(number, Arc::clone(&one)));
        assert!(matches!(error, SpawnError::Descriptor { .. }), "{error}");
        assert!(error.to_string().contains(&format!("descriptor {number} ")), "{error}");
    }
    let error = refused(sh("exit").descriptor(i32::MAX, one));
    assert_eq!(
        error.to_string(),
        format!("can't pass descriptor {} to the command: Bad file number", i32::MAX)
    );
}

#[test]
fn a_recorded_command_needs_its_descriptors_again() {
    let (name, config) = ("x".parse().unwrap(), "c".parse().unwrap());
    let state = State::new();
    let sandbox = Sandbox::new("x", state.path()).unwrap();
    let command = sh(&cat([5, 6])).descriptor(5, file("5")).descriptor(6, file("6"));
    let recorded = Spec::new(sandbox, Some(command), json!(null)).to_json();
    let command = Spec::from_json(&recorded, name, config).unwrap().command.unwrap();
    let missing: Vec<i32> = command.get_descriptors().map(|(number, _)| number).collect();
    assert_eq!(missing, [5, 6]);
    assert!(command.get_descriptors().all(|(_, descriptor)| descriptor.is_none()));
    let one = command.descriptor(6, file("6"));
    let error = refused(one.clone());
    assert!(error.to_string().contains("descriptor 5 ") && error.exit_code() == 125, "{error}");
    assert_eq!(output(one.descriptor(5, file("again "))), "again 6");
}

#[test]
fn a_child_of_another_user_has_that_users_ids_and_none_of_ours() {
    if !is_root() {
        return;
    }
    let ids = sh("id -u; id -g; id -G; grep -E '^(Uid|Gid):' /proc/self/status");
    let status = "Uid:\t65534\t65534\t65534\t65534\nGid:\t65533\t65533\t65533\t65533\n";
    let as_other = ids.uid(OTHER).gid(65533);
    assert_eq!(output(as_other.clone()), format!("65534\n65533\n65533\n{status}"));
    let with_groups = as_other.groups([7, 9]).pty(true);
    assert_eq!(output(with_groups), format!("65534\n65533\n65533 7 9\n{status}"));
    // The group alone.
    assert_eq!(output(sh("id -u; id -g").gid(9)), "0\n9\n");
}

#[test]
fn a_child_of_another_user_can_open_its_streams_again() {
    if !is_root() {
        return;
    }
    let script = "echo out >/dev/stdout; echo err >/dev/stderr; stat -Lc %u /dev/stdout";
    let as_other = |script: &str| sh(script).uid(OTHER).gid(OTHER);
    let said = output(as_other(script));
    for line in ["out\n", "err\n", "65534\n"] {
        assert!(said.contains(line), "{said}");
    }
    let script = "tty=$(tty <&2); stat -c %u $tty; echo path >$tty; echo tty >/dev/tty; mesg n <&2
        stat -c %A $tty";
    let said = output(as_other(script).pty(true));
    assert_eq!(said.lines().take(3).collect::<Vec<_>>(), ["65534", "path", "tty"], "{said}");
    assert!(said.ends_with("crw-------\n"), "{said}");
    // The null device stays the system's.
    assert_eq!(fs::metadata("/dev/null").unwrap().uid(), 0);
}

#[test]
fn an_id_that_means_no_change_is_refused() {
    let said = refused(sh("exit").uid(u32::MAX)).to_string();
    assert!(
        said.starts_with("can't set the user id 4294967295 for the command: Invalid arg"),
        "{said}"
    );
    let said = refused(sh("exit").gid(u32::MAX)).to_string();
    assert!(
        said.starts_with("can't set the group id 4294967295 for the command: Invalid"),
        "{said}"
    );
}

#[test]
fn our_own_ids_need_no_rights() {
    let groups: Vec<u32> = getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let command = sh("id -u; id -g").uid(uid).gid(gid);
    let expected = format!("{uid}\n{gid}\n");
    assert_eq!(output(command.clone()), expected);
    // Whether our group is among them or not.
    let without: Vec<u32> = groups.iter().copied().filter(|group| *group != gid).collect();
    let with = [&without[..], &[gid]].concat();
    for groups in [groups, without, with] {
        assert_eq!(output(command.clone().groups(groups)), expected);
    }
}

#[test]
fn an_ordinary_user_is_told_which_id_it_may_not_set() {
    if is_root() {
        return;
    }
    let own = || sh("exit").groups(vec![]);
    let has_others = getgroups().unwrap().iter().any(|group| *group != getegid());
    let first = match has_others {
        true => "can't remove the supplementary groups for",
        false => "can't set the user id 0 for",
    };
    for (command, what) in [
        (sh("exit").uid(0), first),
        (sh("exit").groups([0, 7]), "can't set the supplementary groups 0,7 for"),
        (sh("exit").gid(0), "can't set the group id 0 for"),
        (own().uid(0), first),
    ] {
        let error = refused(command);
        let said = error.to_string();
        assert!(
            said.starts_with(what) && said.contains("Operation not permitted; start it as root"),
            "{said}"
        );
        assert_eq!(error.exit_code(), 125);
    }
}

#[test]
fn a_child_has_the_umask_and_the_limits_that_were_set() {
    let limit = |soft, hard| ResourceLimit::new(Some(soft), Some(hard));
    let mut command = sh("umask; ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hf").umask(0o27);
    command = command.rlimit(Resource::NOFILE, limit(50, 60));
    command = command.rlimit("core".parse().unwrap(), limit(0, 0));
    command = command.rlimit("fsize".parse().unwrap(), limit(512, 1024));
    assert_eq!(output(command.clone()), "0027\n50\n60\n0\n2\n");
    // A limit of descriptors below the number of one.
    let command = sh("cat /dev/fd/9; ulimit -Sn").descriptor(9, file(""));
    assert_eq!(output(command.rlimit(Resource::NOFILE, limit(5, 5))), "5\n");
}

#[test]
fn a_limit_that_can_not_be_set_is_named() {
    let above = ResourceLimit::new(Some(2), Some(1));
    let said = refused(sh("exit").rlimit(Resource::NOFILE, above)).to_string();
    assert_eq!(said, "can't set the limit nofile=2:1 for the command: Invalid argument");
}

#[test]
fn a_child_has_the_oom_score_that_was_set_and_we_keep_ours() {
    let own = || fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let before = own();
    assert_eq!(output(sh("cat /proc/self/oom_score_adj").oom_score_adj(1000)), "1000\n");
    assert_eq!(own(), before);
    let said = refused(sh("exit").oom_score_adj(1001)).to_string();
    assert_eq!(said, "can't set oom_score_adj 1001 for the command: Invalid argument");
}

#[test]
fn a_terminal_has_the_size_and_type_that_were_set() {
    let command = sh("stty size <&1; echo $TERM").pty(true).pty_size(33, 99).term("vt100");
    assert_eq!(output(command.clone()), "33 99\nvt100\n");
    assert_eq!(output(command.clone().env("TERM", "dumb")), "33 99\ndumb\n");
}

#[test]
fn a_start_as_another_user_changes_nothing_in_a_host_with_threads() {
    if !is_root() {
        return;
    }
    common::run_host(
        &State::new(),
        hosts::MODULE,
        "starts_another_users_child",
        hosts::DIRECTORY,
        |_| {},
    );
}

/// Hosts that are processes of their own. By themselves they do nothing.
mod hosts {
    use std::sync::Barrier;
    use std::thread;

    use nix::sys::prctl;

    use super::*;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    /// Names the directory for the log to a host.
    pub const DIRECTORY: &str = "VMON_TEST_ATTRIBUTES_HOST";

    /// The ids and limits of each thread.
    fn rights() -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let mut rights: Vec<String> = tasks
            .map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let keys = ["Uid:", "Gid:", "Groups:", "CapEff:", "Umask:"];
                status.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).collect()
            })
            .collect();
        rights.push(fs::read_to_string("/proc/self/limits").unwrap());
        rights.push(fs::read_to_string("/proc/self/oom_score_adj").unwrap());
        rights
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn starts_another_users_child() {
        let Some(directory) = std::env::var_os(DIRECTORY) else { return };
        let end = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| end.wait());
            let before = rights();
            for dumpable in [true, false] {
                prctl::set_dumpable(dumpable).unwrap();
                let limit = ResourceLimit::new(Some(50), Some(60));
                let command = sh("id -u").uid(OTHER).gid(OTHER).umask(0).oom_score_adj(500);
                let command = command.rlimit(Resource::NOFILE, limit);
                let code = run(command, Path::new(&directory)).map(|end| end.exit_code());
                assert_eq!(code.unwrap(), 0);
                assert_eq!(prctl::get_dumpable().unwrap(), dumpable);
            }
            assert_eq!(rights(), before);
            end.wait();
        });
        let log = Path::new(&directory).join(common::CONFIG).join("x.log");
        assert_eq!(fs::read_to_string(log).unwrap(), "65534\n65534\n");
    }
}
