//! Starting a child: what it inherits, how its program is found, and that the host is unchanged
//! afterwards.
//!
//! What concerns a whole process (signals, descriptors, limits) needs one of its own: this test
//! binary runs itself again for one test that is ignored otherwise, the *host*.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // handlers, masks and descriptors of a host

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use vmon::child::Command;
use vmon::monitor::{End, Monitor, Outcome, Sandbox};
use vmon::reactor::Reactor;

use crate::common::{self, State, write_program};

type Loop = Reactor<Monitor>;

fn sandbox(logs: &Path, name: &str) -> Sandbox {
    Sandbox::new(name, logs).unwrap()
}

/// Runs `command` to its end under the name `name`.
#[track_caller]
fn run(reactor: &mut Loop, logs: &Path, name: &str, command: Command) -> End {
    let id = Monitor::builder(sandbox(logs, name)).spawn(reactor, command);
    reactor.run().unwrap();
    reactor.remove(id).unwrap().into_end().unwrap()
}

/// The same in a reactor and a directory of its own: the exit code, and what it wrote.
#[track_caller]
fn code_and_output(command: Command) -> (u8, String) {
    let state = State::new();
    let end = run(&mut Reactor::new().unwrap(), &state.path().join("log"), "x", command);
    (end.exit_code(), String::from_utf8(state.log("x")).unwrap().replace('\r', ""))
}

// The search for the program.

#[test]
fn a_path_with_a_slash_is_relative_to_the_childs_directory() {
    let state = State::new();
    fs::create_dir(state.file("bin")).unwrap();
    write_program(&state.file("bin/prog"), "#!/bin/sh\necho $0 $1\n", 0o755);
    let command = Command::new("bin/prog").args(["arg"]);
    let found = code_and_output(command.clone().current_dir(state.path()));
    assert_eq!(found, (0, "bin/prog arg\n".to_owned()));
    assert_eq!(code_and_output(command).0, 127);
}

#[test]
fn a_name_is_searched_in_the_childs_path() {
    let state = State::new();
    for directory in ["a", "b"] {
        fs::create_dir(state.file(directory)).unwrap();
        write_program(
            &state.file(&format!("{directory}/prog")),
            &format!("#!/bin/sh\necho {directory}"),
            0o755,
        );
    }
    let path = |elements: &str| {
        let path = elements.replace('@', state.path().to_str().unwrap());
        let command = Command::new("prog").env("PATH", path).current_dir(state.path());
        code_and_output(command)
    };
    assert_eq!(path("@/a:@/b"), (0, "a\n".to_owned()));
    assert_eq!(path("@/none:@/b:@/a"), (0, "b\n".to_owned()));
    // An element that is a file, or is relative to the child's directory.
    assert_eq!(path("@/a/prog:b"), (0, "b\n".to_owned()));
    assert_eq!(path("@:@/none").0, 127);
    assert_eq!(path(&format!("/{}:@/b", "x".repeat(5000))), (0, "b\n".to_owned()));
}

#[test]
fn an_empty_element_of_the_path_is_the_childs_directory() {
    let state = State::new();
    write_program(&state.file("prog"), "#!/bin/sh\necho here", 0o755);
    for path in ["", ":/bin", "/bin:", "/bin::/usr/bin"] {
        let command = Command::new("prog").env("PATH", path).current_dir(state.path());
        assert_eq!(code_and_output(command), (0, "here\n".to_owned()), "{path:?}");
    }
}

#[test]
fn a_child_without_path_gets_the_default_search_path() {
    let (code, output) = code_and_output(Command::new("env").env_remove("PATH"));
    assert_eq!(code, 0);
    assert!(!output.lines().any(|line| line.starts_with("PATH=")), "{output}");
}

#[test]
fn a_file_that_can_not_be_executed_does_not_end_the_search_in_path() {
    let state = State::new();
    for (directory, mode) in [("a", 0o644), ("b", 0o755)] {
        fs::create_dir(state.file(directory)).unwrap();
        write_program(&state.file(&format!("{directory}/prog")), "#!/bin/sh\nexit 3", mode);
    }
    let at = |directory: &str| state.file(directory).to_str().unwrap().to_owned();
    let path = |path: String| code_and_output(Command::new("prog").env("PATH", path)).0;
    assert_eq!(path(format!("{}:{}", at("a"), at("b"))), 3);
    assert_eq!(path(format!("{}:{}", at("a"), at("none"))), 126);
}

#[test]
fn a_script_without_an_interpreter_is_run_by_sh() {
    let state = State::new();
    write_program(&state.file("prog"), "echo \"$0\" \"$#\" \"$2\"\n", 0o755);
    let expected = format!("{} 2 b c\n", state.file("prog").display());
    let by_path = Command::new(state.file("prog")).args(["a", "b c"]);
    assert_eq!(code_and_output(by_path), (0, expected.clone()));
    let by_name = Command::new("prog").args(["a", "b c"]).env("PATH", state.path());
    assert_eq!(code_and_output(by_name), (0, expected));
    let alone = Command::new("prog").env("PATH", state.path());
    assert_eq!(code_and_output(alone).0, 0);
}

#[test]
fn the_reason_that_a_program_can_not_be_executed_is_reported() {
    let state = State::new();
    write_program(&state.file("orphan"), "#!/no/such/interpreter\n", 0o755);
    write_program(&state.file("plain"), "", 0o644);
    let orphan = state.file("orphan");
    let plain = state.file("plain");
    let no_directory = Command::new("true").current_dir("/no/such/directory");
    let cases: [(Command, u8, &str); 9] = [
        (Command::new(""), 127, "command not found"),
        (Command::new("no-such-program"), 127, "command not found"),
        (Command::new("/no/such/program"), 127, "command not found"),
        (Command::new("x".repeat(300)), 126, "name too long"),
        (Command::new(orphan), 126, "its interpreter does not exist"),
        (Command::new(plain), 126, "Permission denied"),
        (Command::new("/"), 126, "Permission denied"),
        (no_directory, 125, "can't enter the working directory /no/such/directory"),
        (Command::new("true").args(["nul \0"]), 125, "nul byte found in provided data"),
    ];
    for (command, code, reason) in cases {
        let what = format!("{command:?}");
        for command in [command.clone(), command.pty(true)] {
            let logs = State::new();
            let end = run(&mut Reactor::new().unwrap(), logs.path(), "x", command);
            assert_eq!(end.exit_code(), code, "{what}");
            let Outcome::NotStarted(error) = end.outcome else { panic!("{what} was started") };
            assert!(error.to_string().contains(reason), "{what}: {error}");
        }
    }
}

#[test]
fn a_cleared_environment_has_only_what_was_set_afterwards() {
    let command = Command::new("env").env("BEFORE", "x").env_clear();
    let command = command.envs([("ONE", "1"), ("TWO", "2")]).env_remove("TWO");
    let (code, output) = code_and_output(command);
    assert_eq!(code, 0, "{output}");
    let (_, run) = output.split_once("VMON_RUN=").unwrap();
    assert_eq!(output.replace(&format!("VMON_RUN={run}"), ""), "ONE=1\n");
}

#[test]
fn the_environment_is_that_of_the_host_with_the_requested_changes() {
    let ours = std::env::var("PATH").unwrap();
    let command = Command::new("env").env("A_VAR", "a=b").env("GONE", "x").env_remove("GONE");
    let (_, output) = code_and_output(command);
    assert!(output.lines().any(|line| line == "A_VAR=a=b"), "{output}");
    assert!(output.lines().any(|line| line == format!("PATH={ours}")), "{output}");
    assert!(!output.lines().any(|line| line.starts_with("GONE=")), "{output}");
}

// Hosts.

/// Runs a test of [`hosts`] as a process of its own, with no descriptors but its stdio.
#[track_caller]
fn run_host(name: &str) {
    run_host_that_blocks(name, &[]);
}

/// The same with these signals blocked in each of its threads.
fn run_host_that_blocks(name: &str, signals: &[nix::sys::signal::Signal]) {
    let blocked: nix::sys::signal::SigSet = signals.iter().copied().collect();
    let close_on_exec = move || {
        blocked.thread_block()?;
        // By number: not every C library has the call.
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        // SAFETY: close_range is a system call on three integers.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) };
        nix::errno::Errno::result(closed)?;
        Ok(())
    };
    common::run_host(&State::new(), hosts::MODULE, name, hosts::DIRECTORY, |command| {
        command.process_group(0);
        // SAFETY: two system calls on values of its own. What the test itself was started with
        // stays out of it.
        unsafe { command.pre_exec(close_on_exec) };
    });
}

#[test]
fn a_child_blocks_nothing_catches_nothing_and_ignores_what_the_host_ignores() {
    run_host("has_signals_caught_ignored_and_blocked");
}

#[test]
fn a_host_that_ignores_sigchld_has_children_that_do_not() {
    run_host("ignores_sigchld");
}

#[test]
fn a_signal_to_the_hosts_group_neither_ends_nor_enters_a_child_that_is_being_started() {
    run_host("is_signalled_while_it_spawns");
}

#[test]
fn a_signal_that_the_host_blocks_does_not_end_a_child_that_is_being_started() {
    let blocked = [nix::sys::signal::Signal::SIGUSR2, nix::sys::signal::Signal::SIGQUIT];
    run_host_that_blocks("is_signalled_while_it_blocks_that", &blocked);
}

#[test]
fn no_descriptor_but_the_three_reaches_a_child_among_others() {
    run_host("has_many_descriptors");
}

#[test]
fn a_start_that_fails_leaves_no_process_and_no_descriptor() {
    run_host("fails_to_start");
}

#[test]
fn five_hundred_starts_leave_no_descriptor_and_no_memory_mapped() {
    run_host("starts_five_hundred");
}

#[test]
fn any_thread_of_a_host_may_spawn() {
    run_host("spawns_from_a_second_thread");
}

#[test]
fn a_host_without_standard_streams_starts_children_that_have_them() {
    run_host("has_no_stdio");
}

#[test]
fn a_child_gets_the_former_file_limit_if_it_is_given() {
    run_host("raises_its_file_limit");
}

/// Hosts that [`run_host`] runs. By themselves they do nothing.
mod hosts {
    use super::*;
    use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

    use nix::errno::Errno;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    /// Names the directory for the log to a host.
    pub const DIRECTORY: &str = "VMON_TEST_SPAWN_HOST";

    fn logs() -> Option<PathBuf> {
        Some(PathBuf::from(std::env::var_os(DIRECTORY)?).join("log"))
    }

    fn output(logs: &Path, name: &str) -> String {
        let path = logs.join(common::CONFIG).join(format!("{name}.log"));
        fs::read_to_string(path).unwrap().replace('\r', "")
    }

    fn disposition(signal: i32, action: libc::sighandler_t) {
        // SAFETY: zeroed is a valid sigaction; the handler is async-signal-safe, or none.
        unsafe {
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = action;
            new.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(signal, &new, std::ptr::null_mut()), 0);
        }
    }

    static HOST: AtomicI32 = AtomicI32::new(0);
    static HANDLED: AtomicU32 = AtomicU32::new(0);
    static HANDLED_ELSEWHERE: AtomicU32 = AtomicU32::new(0);

    extern "C" fn handler(_: i32) {
        let here = Pid::this().as_raw() == HOST.load(Ordering::Relaxed);
        let count = if here { &HANDLED } else { &HANDLED_ELSEWHERE };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn handler_action() -> libc::sighandler_t {
        handler as extern "C" fn(i32) as libc::sighandler_t
    }

    fn bit(signal: i32) -> u64 {
        1 << (signal - 1)
    }

    /// A child's blocked, ignored and caught signals.
    fn masks_of_child(logs: &Path, name: &str, pty: bool) -> [u64; 3] {
        let command = Command::new("cat").args(["/proc/self/status"]).pty(pty);
        run(&mut Reactor::new().unwrap(), logs, name, command);
        masks(&output(logs, name))
    }

    /// What we ignore, but for what a child never does.
    fn ignored_here() -> u64 {
        let [_, ignored, _] = masks(&fs::read_to_string("/proc/thread-self/status").unwrap());
        ignored & !bit(libc::SIGPIPE) & !bit(libc::SIGCHLD)
    }

    fn masks(status: &str) -> [u64; 3] {
        ["SigBlk:", "SigIgn:", "SigCgt:"].map(|key| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        })
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn has_signals_caught_ignored_and_blocked() {
        let Some(logs) = logs() else { return };
        let realtime = libc::SIGRTMIN() + 3;
        for caught in [libc::SIGUSR1, libc::SIGTERM, libc::SIGCHLD, realtime] {
            disposition(caught, handler_action());
        }
        for ignored in [libc::SIGHUP, libc::SIGUSR2, libc::SIGPIPE, libc::SIGRTMAX()] {
            disposition(ignored, libc::SIG_IGN);
        }
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGWINCH])
            .thread_block()
            .unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        let ignored = ignored_here();
        for signal in [libc::SIGHUP, libc::SIGUSR2, libc::SIGRTMAX()] {
            assert_ne!(ignored & bit(signal), 0);
        }
        assert_eq!(masks_of_child(&logs, "pipes", false), [0, ignored, 0]);
        assert_eq!(masks_of_child(&logs, "pty", true), [0, ignored, 0]);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn ignores_sigchld() {
        let Some(logs) = logs() else { return };
        disposition(libc::SIGCHLD, libc::SIG_IGN);
        assert_eq!(masks_of_child(&logs, "x", false), [0, ignored_here(), 0]);
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_IGN installs no handler.
        let former = unsafe { sigaction(Signal::SIGCHLD, &ignore) }.unwrap();
        assert!(matches!(former.handler(), SigHandler::SigIgn), "the host's own was changed");
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn is_signalled_while_it_spawns() {
        let Some(logs) = logs() else { return };
        HOST.store(Pid::this().as_raw(), Ordering::Relaxed);
        disposition(libc::SIGUSR1, handler_action());
        start_in_a_storm(&logs, "USR1", 200);
        assert_ne!(HANDLED.load(Ordering::Relaxed), 0);
        assert_eq!(HANDLED_ELSEWHERE.load(Ordering::Relaxed), 0);
    }

    /// Starts children while signals of this name keep coming for our process group.
    fn start_in_a_storm(logs: &Path, signal: &str, starts: usize) {
        let script =
            format!("trap '' {signal}; while kill -s {signal} 0 && kill -0 $PPID; do :; done");
        let mut storm = StdCommand::new("sh");
        let mut storm = storm.args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
        let mut reactor = Reactor::new().unwrap();
        for _ in 0..starts {
            let end = run(&mut reactor, logs, "x", Command::new("true"));
            assert_eq!(end.exit_code(), 0, "{signal}: {:?}", end.outcome);
        }
        storm.kill().unwrap();
        storm.wait().unwrap();
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn is_signalled_while_it_blocks_that() {
        let Some(logs) = logs() else { return };
        // PIPE is ignored, as Rust's runtime has it; the others are blocked, as a host of signalfd(2)
        // has them.
        for signal in ["USR2", "QUIT", "PIPE"] {
            start_in_a_storm(&logs, signal, 100);
        }
    }

    fn descriptors() -> usize {
        fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn has_many_descriptors() {
        let Some(logs) = logs() else { return };
        // `[ -e` opens nothing, as a glob or ls would.
        let script = "n=0; while [ $n -lt 64 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done; read x";
        let mut reactor = Reactor::new().unwrap();
        let start = |reactor: &mut Loop, name: &str, pty| {
            let command = Command::new("sh").args(["-c", script]).pty(pty);
            Monitor::builder(sandbox(&logs, name)).spawn(reactor, command)
        };
        let names = ["a", "b", "c", "d", "e", "f"];
        let ids: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| start(&mut reactor, name, i % 2 == 1))
            .collect();
        let said = |name: &str| {
            let path = logs.join(common::CONFIG).join(format!("{name}.log"));
            fs::read_to_string(path).unwrap_or_default().replace('\r', "")
        };
        let give_up = std::time::Instant::now() + common::TIMEOUT;
        while names.iter().any(|name| said(name) != "0\n1\n2\n") {
            let all: Vec<_> = names.iter().map(|name| said(name)).collect();
            assert!(std::time::Instant::now() < give_up, "{all:?}");
            reactor.poll_once(Some(std::time::Duration::from_millis(20))).unwrap();
        }
        for id in ids {
            reactor.call(id, Monitor::stop);
        }
        reactor.run().unwrap();
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn fails_to_start() {
        let Some(logs) = logs() else { return };
        let mut reactor = Reactor::new().unwrap();
        let before = descriptors();
        let enter = logs.with_file_name("closed");
        for pty in [false, true] {
            for program in ["no-such-program", "/no/such/program", "/"] {
                let command = Command::new(program).pty(pty);
                assert_ne!(run(&mut reactor, &logs, "x", command).exit_code(), 0);
            }
            let command = Command::new("true").current_dir(&enter).pty(pty);
            assert_eq!(run(&mut reactor, &logs, "x", command).exit_code(), 125);
        }
        assert_eq!(descriptors(), before);
        let any = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG));
        assert_eq!(any, Err(Errno::ECHILD));
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn starts_five_hundred() {
        let Some(logs) = logs() else { return };
        let mut reactor = Reactor::new().unwrap();
        let maps = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        run(&mut reactor, &logs, "x", Command::new("true"));
        let before = (descriptors(), maps());
        for i in 0..500 {
            let command = Command::new("true").pty(i % 2 == 1);
            assert_eq!(run(&mut reactor, &logs, "x", command).exit_code(), 0);
        }
        assert_eq!(descriptors(), before.0);
        // The heap may have grown by a mapping or two.
        assert!(maps() < before.1 + 10, "{} mappings, {} before", maps(), before.1);
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn spawns_from_a_second_thread() {
        let Some(logs) = logs() else { return };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::black_box(vec![1_u8; 4096]);
                        // What it takes locks for.
                        std::hint::black_box(std::env::var_os("PATH"));
                    }
                });
            }
            let spawner = scope.spawn(|| {
                let mut reactor = Reactor::new().unwrap();
                for i in 0..50 {
                    let command = Command::new("sh").args(["-c", "exit 7"]).pty(i % 2 == 1);
                    assert_eq!(run(&mut reactor, &logs, "x", command).exit_code(), 7);
                }
            });
            let result = spawner.join();
            done.store(true, Ordering::Relaxed);
            result.unwrap();
        });
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn has_no_stdio() {
        let Some(logs) = logs() else { return };
        let mut reactor = Reactor::new().unwrap();
        // SAFETY: nothing of this process uses the three until they are back, below.
        let kept = [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) });
        let ends = ["pipes", "pty"].map(|name| {
            for fd in [0, 1, 2] {
                // SAFETY: as above.
                unsafe { libc::close(fd) };
            }
            let script = "cat; echo out; echo err >&2; exit 7";
            let command = Command::new("sh").args(["-c", script]).pty(name == "pty");
            let sandbox = sandbox(&logs, name)
                .forward(vmon::monitor::Forward::Off)
                .input(vmon::monitor::Input::Null);
            let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
            reactor.run().unwrap();
            reactor.remove(id).unwrap().into_end().unwrap()
        });
        for (fd, kept) in kept.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { libc::dup2(kept, fd as i32) };
        }
        for end in ends {
            assert_eq!(end.exit_code(), 7, "{:?}", end.outcome);
        }
        let mut lines: Vec<_> = output(&logs, "pipes").lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        assert_eq!(output(&logs, "pty"), "out\nerr\n");
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn raises_its_file_limit() {
        let Some(logs) = logs() else { return };
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
        let former = vmon::process::raise_file_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        let mut reactor = Reactor::new().unwrap();
        let ask = Command::new("sh").args(["-c", "ulimit -Sn; ulimit -Hn"]);
        run(&mut reactor, &logs, "former", ask.clone().file_limit(former));
        assert_eq!(output(&logs, "former"), format!("100\n{hard}\n"));
        run(&mut reactor, &logs, "ours", ask.clone());
        assert_eq!(output(&logs, "ours"), format!("{hard}\n{hard}\n"));
        // A hard limit that has been lowered since is no reason not to start it.
        nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, 50, 50).unwrap();
        run(&mut reactor, &logs, "lower", ask.file_limit(former));
        assert_eq!(output(&logs, "lower"), "50\n50\n");
    }
}
