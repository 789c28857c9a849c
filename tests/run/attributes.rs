//! The options of `vmon run` for the command's descriptors, user, limits and terminal.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // descriptors of vmon under chosen numbers

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use crate::common::{Detached, State, eventually, has, is_alive, is_root, one_line, signal, wait};
use crate::stdio::as_nobody;

/// Has `vmon` inherit a descriptor under this number.
fn inherits(command: &mut Command, number: i32, descriptor: impl Into<OwnedFd>) -> &mut Command {
    // Out of the way of the numbers that vmon is to have.
    let copy = fcntl(descriptor.into(), FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap();
    // SAFETY: the call has just returned it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            Errno::result(libc::dup2(copy.as_raw_fd(), number))?;
            Ok(())
        })
    }
}

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn stdout(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn descriptors_of_vmon_reach_the_command_under_their_numbers() {
    let state = State::new();
    let mut run = state.run(
        "x",
        &["--preserve-fd", "3,7", "--preserve-fd", "21"],
        "cat /dev/fd/3 /dev/fd/7 /dev/fd/21",
    );
    for (number, text) in [(3, "three "), (7, "seven "), (21, "twenty-one\n")] {
        inherits(&mut run, number, file(text));
    }
    assert_eq!(stdout(&run.output().unwrap()), "three seven twenty-one\n");
    // They are there for each start.
    let restart = ["--restart", "on-failure:1", "--preserve-fd", "3"];
    let mut run = state.run("y", &restart, "cat /dev/fd/3; exit 4");
    let output = inherits(&mut run, 3, file("x")).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), b"xx".as_slice()));
}

#[test]
fn vmon_closes_its_own_descriptor_after_the_start() {
    for detach in [&[][..], &["-d"]] {
        let state = State::new();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let options = [&["--preserve-fd", "9"], detach].concat();
        let script = "echo x >&9; exec 9>&-; exec sleep 1000";
        let mut run = state.run("x", &options, script);
        inherits(&mut run, 9, writer);
        let mut run = run.stdout(Stdio::null()).spawn().map(|child| (child, run)).unwrap();
        // The test's own copy is in the command that started it.
        drop(run.1);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x\n");
        if detach.is_empty() {
            signal(&run.0, Signal::SIGTERM);
        } else {
            assert!(state.vmon().args(["stop", "x"]).status().unwrap().success());
        }
        wait(&mut run.0);
    }
}

#[test]
fn a_detached_supervisor_has_the_descriptors_for_every_start() {
    let state = State::new();
    let options = ["-d", "--restart", "on-failure:1", "--preserve-fd", "3,11"];
    let script = "cat /dev/fd/3 /dev/fd/11; ls /proc/self/fd | tr '\\n' ' '; exit 4";
    let mut run = state.run("x", &options, script);
    inherits(inherits(&mut run, 3, file("a")), 11, file("b\n"));
    // One that is not named is none of the command's.
    inherits(&mut run, 12, file("c"));
    let _sandbox = Detached::start(&state, &mut run);
    let both = "ab\n0 1 11 2 3 4 ".repeat(2);
    eventually("it is started twice", || state.log("x").len() >= both.len());
    assert_eq!(String::from_utf8(state.log("x")).unwrap(), both);
    // A restart from the record has none.
    let output = state.vmon().args(["restart", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = one_line(&output);
    assert!(said.contains("descriptors") && said.contains("vmon run --preserve-fd 3,11"), "{said}");
}

#[test]
fn a_descriptor_that_vmon_was_not_started_with_is_refused() {
    let state = State::new();
    let refused = |options: &[&str], what: &str| {
        let mut run = state.run("x", options, "echo started");
        let output = inherits(&mut run, 21, file("")).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
        let said = one_line(&output);
        assert!(said.contains(what), "{said}");
    };
    for detach in ["-d", "-T"] {
        refused(&[detach, "--preserve-fd", "21,22"], "not started with descriptor 22");
    }
    for number in ["2", "-1", "x", ""] {
        refused(&[&format!("--preserve-fd={number}")], "--preserve-fd");
    }
}

#[test]
fn a_listening_socket_is_passed_as_systemd_does() {
    let state = State::new();
    let listener = std::os::unix::net::UnixListener::bind(state.file("sock")).unwrap();
    let script = "test $LISTEN_PID = $$ && echo $LISTEN_FDS && readlink /dev/fd/3";
    let mut run = state.vmon();
    run.args(["run", "--preserve-fd", "3", "--env", "LISTEN_FDS=1", "--", "sh", "-c"]);
    run.args(["LISTEN_PID=$$ exec \"$@\"", "sh", "env", "sh", "-c", script]);
    let said = stdout(&inherits(&mut run, 3, listener).output().unwrap());
    assert!(said.starts_with("1\nsocket:["), "{said}");
}

#[test]
fn a_command_runs_as_a_user_with_its_groups_and_variables() {
    if !is_root() {
        return;
    }
    let state = State::new();
    let script = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL";
    let of = |options: &[&str]| {
        stdout(&state.run("x", options, script).env("HOME", "/root").output().unwrap())
    };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let variables = format!("{} nobody nobody {}\n", nobody.dir.display(), nobody.shell.display());
    let (uid, gid) = (nobody.uid, nobody.gid);
    let group = nix::unistd::Group::from_gid(gid).unwrap().unwrap().name;
    assert_eq!(of(&["--user", "nobody"]), format!("{uid}\n{gid}\n{gid}\n{variables}"));
    assert_eq!(of(&["--user", &uid.to_string()]), format!("{uid}\n{gid}\n{gid}\n{variables}"));
    let added = ["--user", &format!("nobody:{group}"), "--group-add", "7", "--group-add", "9"];
    assert_eq!(of(&added), format!("{uid}\n{gid}\n{gid} 7 9\n{variables}"));
    // No entry in passwd; what is given wins.
    let other = ["--user", "4000000:4000001", "--env", "USER=me"];
    assert_eq!(of(&other), "4000000\n4000001\n4000001\n/ me\n");
}

#[test]
fn a_user_that_is_not_known_is_refused() {
    let state = State::new();
    for (options, what) in [
        (["--user", "no-such-user"], "no user \"no-such-user\""),
        (["--user", "0:no-such-group"], "no group \"no-such-group\""),
        (["--user", "4000000"], "give 4000000:GID"),
        (["--user", ":0"], "not a user"),
        (["--group-add", "no-such-group"], "no group"),
        (["--umask", "8"], "octal"),
        (["--ulimit", "files=1"], "is not one of as, core"),
        (["--ulimit", "core=2:1"], "above the hard one"),
        (["--oom-score-adj", "1001"], "1000"),
        (["--tty-size", "24x80"], "needs a PTY"),
        (["--tty-size", "24"], "24x80"),
    ] {
        let output =
            state.run("x", &[&["-T"], &options[..]].concat(), "echo started").output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{options:?}");
        let said = one_line(&output);
        assert!(said.contains(what), "{options:?}: {said}");
    }
}

#[test]
fn an_ordinary_user_can_run_nothing_as_another() {
    if is_root() {
        return;
    }
    let state = State::new();
    for detach in ["-d", "-T"] {
        let output = state.run("x", &[detach, "--user", "root"], "echo started").output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
        let said = one_line(&output);
        assert!(said.contains("Operation not permitted; start it as root"), "{said}");
    }
}

#[test]
fn a_user_whose_group_is_not_among_its_supplementary_ones_needs_no_rights_for_itself() {
    let state = State::new();
    let Some(mut run) = as_nobody(&state, &["--user", "nobody"], "id -u; id -G") else { return };
    assert_eq!(stdout(&run.output().unwrap()), "65534\n65534\n");
}

#[test]
fn a_command_of_another_user_ends_with_a_supervisor_that_is_killed() {
    if !is_root() {
        return;
    }
    let state = State::new();
    let options = ["-d", "--user", "65534:65534"];
    let sandbox = Detached::start(&state, &mut state.run("x", &options, "exec sleep 1000"));
    assert!(is_alive(sandbox.pid));
    sandbox.signal(Signal::SIGKILL);
    eventually("the command has ended", || !is_alive(sandbox.pid));
}

#[test]
fn a_directory_that_only_the_supervisor_may_enter_is_the_commands() {
    if !is_root() {
        return;
    }
    let state = State::new();
    fs::set_permissions(state.path(), Permissions::from_mode(0o700)).unwrap();
    let directory = state.path().to_str().unwrap();
    let options = ["--user", "65534:65534", "--cwd", directory];
    let output =
        state.run("x", &options, "pwd -P; ls . 2>/dev/null || echo closed").output().unwrap();
    let real = state.path().canonicalize().unwrap();
    assert_eq!(stdout(&output), format!("{}\nclosed\n", real.display()));
}

#[test]
fn a_console_of_a_command_of_another_user_is_open_to_it() {
    if !is_root() {
        return;
    }
    let state = State::new();
    std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let fifo = state.file("fifo");
    let console = format!("f=fifo:{}", fifo.display());
    let options = ["--user", "65534:65534", "--console", "p=pty", "--console", &console];
    let script = "echo pty >$0 && echo fifo >$1";
    let mut run = state.run("x", &options, script);
    let output = run.arg("{p}").arg(&fifo).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(state.log("x@p"), b"pty\n");
    assert_eq!(state.log("x@f"), b"fifo\n");
}

#[test]
fn a_command_has_the_limits_the_mask_and_the_size_that_were_given() {
    let state = State::new();
    let options = [
        "-t",
        "--umask",
        "027",
        "--ulimit",
        "nofile=50:60",
        "--ulimit",
        "core=0",
        "--oom-score-adj",
        "1000",
        "--tty-size",
        "33x99",
    ];
    let script = "umask; ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj
        stty size <&1";
    let output = state.run("x", &options, script).output().unwrap();
    assert_eq!(stdout(&output).replace('\r', ""), "0027\n50\n60\n0\n1000\n33 99\n");
}

#[test]
fn options_that_are_not_given_cost_no_call_between_fork_and_exec() {
    let state = State::new();
    let trace = state.file("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o"]).arg(&trace).arg(state.vmon().get_program());
    strace.args(["run", "--", "/bin/true"]).env("VMON_STATE_DIR", state.path());
    match strace.output() {
        Ok(output) if output.status.success() => {}
        skipped => return eprintln!("skipped: no strace: {skipped:?}"),
    }
    let calls = fs::read_to_string(trace).unwrap();
    for call in ["umask(", "setres", "setgroups", "getgroups", "oom_score_adj", "PR_SET_DUMPABLE"] {
        assert!(!calls.contains(call), "{call}");
    }
    // The parent-death signal is requested once.
    assert_eq!(calls.matches("PR_SET_PDEATHSIG").count(), 1);
}

/// Another user's process may stop the child between the change of ids and exec.
#[test]
fn a_child_that_its_user_stops_before_exec_holds_nothing_up() {
    if !is_root() {
        return;
    }
    if !has("strace") {
        return eprintln!("skipped: no strace");
    }
    let state = State::new();
    let run = state.run("x", &["--user", "65534:65534"], "echo never");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=setresuid"]);
    strace.args(["-e", "inject=setresuid:signal=SIGSTOP"]);
    strace.arg(run.get_program()).args(run.get_args()).env("VMON_STATE_DIR", state.path());
    let mut run = strace.stderr(Stdio::piped()).spawn().unwrap();
    let mut warning = String::new();
    BufReader::new(run.stderr.as_mut().unwrap()).read_line(&mut warning).unwrap();
    assert!(warning.contains("has not executed its program within 1 s"), "{warning}");
    let stopped = state.vmon().args(["stop", "x"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    // The stop signal is pending when CONT follows it.
    assert_eq!(wait(&mut run).code(), Some(128 + Signal::SIGTERM as i32));
    assert_eq!(state.log("x"), b"");
}

#[test]
fn a_child_that_changes_its_ids_shares_no_memory_with_vmon() {
    if !is_root() {
        return;
    }
    if !has("strace") {
        return eprintln!("skipped: no strace");
    }
    let state = State::new();
    for (options, shared) in [(vec![], true), (vec!["--user", "65534:65534"], false)] {
        let trace = state.file("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "trace=clone,clone3,vfork,fork", "-o"]).arg(&trace);
        strace.arg(state.vmon().get_program()).arg("run").args(options).args(["--", "/bin/true"]);
        let output = strace.env("VMON_STATE_DIR", state.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let calls = fs::read_to_string(trace).unwrap();
        let clones: Vec<&str> = calls.lines().filter(|line| line.contains("clone")).collect();
        assert!(!clones.is_empty(), "{calls}");
        assert_eq!(calls.contains("CLONE_VM"), shared, "{calls}");
    }
}
