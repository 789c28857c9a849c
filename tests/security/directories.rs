//! Existing directories, and write access of other users to them.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{CONFIG, Detached, State, code, eventually, is_root, one_line};
use nix::sys::signal::Signal;

const NOBODY: u32 = 65534;

/// Makes a directory of this mode.
fn made(path: PathBuf, mode: u32) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    set_mode(&path, mode);
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Gives it to a group that root does not lead. Without root ours is such a one.
fn give_to_group(path: &Path) {
    if is_root() {
        chown(path, None, Some(NOBODY)).unwrap();
    }
}

/// `vmon run` with a command that leaves a file; whether it did.
fn run(state: &State, options: &[&str]) -> (Output, bool) {
    let ran = state.file("ran");
    let mut run = state.run("web", options, "touch \"$RAN\"");
    let output = run.env("RAN", &ran).output().unwrap();
    (output, fs::remove_file(ran).is_ok())
}

#[track_caller]
fn is_refused(state: &State, directory: &Path, why: &str) {
    let before = mode(directory);
    let (output, ran) = run(state, &[]);
    let said = one_line(&output);
    assert!(said.contains(directory.to_str().unwrap()) && said.contains(why), "{said}");
    assert_eq!((code(output.status), ran), (125, false));
    assert_eq!(mode(directory), before);
}

#[test]
fn a_runtime_directory_that_is_there_keeps_its_mode() {
    let state = State::new();
    for permissions in [0o755, 0o711, 0o700] {
        let directory = made(state.path().join("run").join(CONFIG), permissions);
        let (output, ran) = run(&state, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(ran);
        assert_eq!(mode(&directory), permissions);
    }
}

#[test]
fn a_runtime_directory_that_another_user_can_write_is_refused() {
    let state = State::new();
    let directory = made(state.path().join("run").join(CONFIG), 0o777);
    is_refused(&state, &directory, "every user can write into it: run 'chmod go-w'");
    set_mode(&directory, 0o1777);
    is_refused(&state, &directory, "every user");
    give_to_group(&directory);
    set_mode(&directory, 0o770);
    is_refused(&state, &directory, "its group");
    if !is_root() {
        eprintln!("skipped: only root can make a directory another user's");
        return;
    }
    set_mode(&directory, 0o700);
    chown(&directory, Some(NOBODY), None).unwrap();
    is_refused(&state, &directory, "its owner, uid 65534");
}

#[test]
fn what_is_made_is_private_whatever_the_umask() {
    for umask in ["000", "477", "777"] {
        let state = State::new();
        let run = made(state.path().join("run"), 0o755);
        let consoles = made(state.file("consoles"), 0o755);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask]);
        let vmon = state.vmon();
        shell.arg(vmon.get_program()).envs(vmon.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.args(["run", "-d", "--name", "web"]);
        shell.args(
            ["listen", "fifo"]
                .map(|kind| format!("--console={kind}={kind}:{}", consoles.join(kind).display())),
        );
        let pid = state.file("pid").display().to_string();
        shell.args(["--log-max-size", "1KiB", "--log-rotate-command", "cat", "--pid-file", &pid]);
        shell.args(["--", "sh", "-c", "seq 1000; exec sleep 1000"]);
        let sandbox = Detached::start(&state, &mut shell);
        state.wait_for_log("web", b"1000\n");
        eventually("its end is indexed", || {
            state.path().join("log").join(CONFIG).join("web.log.idx").exists()
        });
        let mut found = Vec::new();
        for directory in
            [state.path(), &run.join(CONFIG), &consoles, &state.path().join("log").join(CONFIG)]
        {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                // A queue is gone when it is done.
                let Ok(metadata) = entry.path().symlink_metadata() else { continue };
                let name = entry.file_name().into_string().unwrap();
                let expected = match metadata.is_dir() {
                    true if matches!(name.as_str(), "run" | "consoles") => 0o755,
                    true => 0o700,
                    false => 0o600,
                };
                let mode = metadata.permissions().mode() & 0o777;
                assert_eq!(mode, expected, "{umask}: {name}");
                found.push(name);
            }
        }
        for name in [
            "sandbox.db",
            "web.sock",
            "listen",
            "fifo",
            "web.log",
            "web.log.00000003",
            "web.log.idx",
            "pid",
        ] {
            assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
        }
        drop(sandbox);
    }
}

#[test]
fn a_log_directory_that_another_user_can_write_is_one_warning_a_start() {
    let state = State::new();
    let directory = made(state.file("logs"), 0o755);
    let options =
        ["--log-dir", directory.to_str().unwrap(), "--restart", "on-failure:2", "--no-forward"];
    let said = || {
        let output = state.run("web", &options, "exit 3").output().unwrap();
        assert_eq!(code(output.status), 3);
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().filter(|line| line.contains("log directory")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(said(), "");
    let expected = |path: &Path, who: &str| {
        format!(
            "vmon: warn: the log directory {} is not safe: {who} can write into it and replace \
             logs: run 'chmod go-w' on it, or choose another log directory name=web",
            path.display()
        )
    };
    // The sticky bit protects files that exist; a free name can still be taken.
    set_mode(&directory, 0o1777);
    assert_eq!(said(), expected(&directory, "every user"));
    set_mode(&directory, 0o755);
    let own = directory.join(CONFIG);
    give_to_group(&own);
    set_mode(&own, 0o775);
    let group = if is_root() { NOBODY } else { nix::unistd::getegid().as_raw() };
    assert_eq!(said(), expected(&own, &format!("its group, gid {group},")));
    assert_eq!(mode(&own), 0o775);
    if !is_root() {
        eprintln!("skipped: only root can make a directory another user's");
        return;
    }
    set_mode(&own, 0o700);
    chown(&own, Some(NOBODY), None).unwrap();
    let expected =
        expected(&own, "its owner, uid 65534,").replace("run 'chmod go-w' on it, or ", "");
    assert_eq!(said(), expected);
}

#[test]
fn systemd_tmpfiles_removes_no_socket_or_fifo_of_a_running_sandbox() {
    let state = State::new();
    let directory = made(state.file("consoles"), 0o700);
    let (socket, fifo) = (directory.join("socket"), directory.join("fifo"));
    let consoles = [
        format!("--console=a=listen:{}", socket.display()),
        format!("--console=b=fifo:{}", fifo.display()),
    ];
    let options = ["-d", &consoles[0], &consoles[1]];
    let sandbox = Detached::start(&state, &mut state.run("web", &options, "exec sleep 1000"));
    let control = state.path().join("run").join(CONFIG).join("web.sock");
    let old = directory.join("old");
    fs::write(&old, "").unwrap();
    // All that is older than no time.
    let rules = state.file("rules");
    let lines =
        ["run", "consoles"].map(|name| format!("e {} - - - 0\n", state.file(name).display()));
    fs::write(&rules, lines.concat()).unwrap();
    match Command::new("systemd-tmpfiles").arg("--clean").arg(&rules).output() {
        Ok(output) => assert!(!old.exists(), "{output:?}"),
        Err(_) => return eprintln!("skipped: no systemd-tmpfiles"),
    }
    for path in [&socket, &fifo, &control] {
        assert!(path.exists(), "{}", path.display());
    }
    drop(sandbox);
}

#[test]
fn usr1_makes_removed_sockets_again() {
    let state = State::new();
    let socket = state.file("socket");
    let console = format!("--console=a=listen:{}", socket.display());
    let sandbox =
        Detached::start(&state, &mut state.run("web", &["-d", &console], "exec sleep 1000"));
    let control = state.path().join("run").join(CONFIG).join("web.sock");
    for path in [&socket, &control] {
        fs::remove_file(path).unwrap();
    }
    sandbox.signal(Signal::SIGUSR1);
    eventually("both are there again", || socket.exists() && control.exists());
    assert_eq!((mode(&socket), mode(&control)), (0o1600, 0o1600));
    let stopped = state.vmon().args(["stop", "web"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stopped.stderr), "");
    assert!(!socket.exists() && !control.exists());
}
