//! How the command starts a child: its file limit, and systems without pidfds.

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};

use crate::common::State;

#[test]
fn vmon_raises_its_own_file_limit_and_the_command_has_the_former_one() {
    let state = State::new();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let script = "ulimit -Sn; grep 'open files' /proc/$PPID/limits";
    let run = state.run("x", &[], script);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 100; exec \"$0\" \"$@\""]);
    limited.arg(run.get_program()).args(run.get_args());
    limited.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null());
    let output = limited.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = said.split_whitespace().collect();
    let hard = hard.to_string();
    assert_eq!(words, ["100", "Max", "open", "files", &hard, &hard, "files"]);
}

#[test]
fn a_system_without_pidfds_starts_children_all_the_same() {
    let without = |extra: &[&str], script: &str| {
        let state = State::new();
        let run = state.run("x", &[], script);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "inject=clone:error=EINVAL:when=1"]);
        strace.args(extra).arg(run.get_program()).args(run.get_args());
        strace.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null()).output()
    };
    if !without(&[], "exit 0").is_ok_and(|output| output.status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: a_system_without_pidfds_starts_children_all_the_same: no strace"
        );
        return;
    }
    for extra in [&[][..], &["-e", "inject=pidfd_open:error=ENOSYS"]] {
        let output = without(extra, "echo out; exit 7").unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(7), b"out\n".to_vec()));
    }
}
