//! Usage errors: one line on stderr, exit code 125, nothing started, nothing written.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory of its own for each test, with `state` in it as vmon's state directory.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        fs::create_dir(scratch.path("state")).unwrap();
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmon"));
        command
            .current_dir(self.0.path())
            .env("VMON_STATE_DIR", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    fn vmon(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// `vmon` with `args` prints one line that contains `needle`, exits with 125, and leaves the
    /// disk as it is. A command in `args` is to be `touch started`.
    fn refuses(&self, args: &[&str], needle: &str) {
        self.refused(self.command().args(args), needle);
    }

    fn refused(&self, command: &mut Command, needle: &str) {
        let before = contents(self.0.path());
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{command:?}: {stderr}");
        assert!(stderr.starts_with("vmon: "), "{stderr:?}");
        assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "{stderr:?}");
        assert!(stderr.contains(needle), "{stderr:?} does not contain {needle:?}");
        assert_eq!(output.stdout, b"", "{command:?}");
        assert_eq!(contents(self.0.path()), before, "{command:?} wrote something");
    }
}

/// Every path under `directory`, with the bytes of files.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, Some(bytes));
        }
    }
    found
}

#[test]
fn an_unknown_option_is_refused_with_a_suggestion() {
    let scratch = Scratch::new();
    scratch.refuses(&["run", "--nmae", "x", "touch", "started"], "'--name'");
    scratch.refuses(&["run", "--frobnicate", "--", "touch", "started"], "vmon run --help");
    scratch.refuses(&["ps", "--qqq"], "vmon ps --help");
    scratch.refuses(&["--frobnicate"], "vmon --help");
}

#[test]
fn a_missing_command_is_refused() {
    let scratch = Scratch::new();
    scratch.refuses(&["run"], "no command to run");
    scratch.refuses(&["run", "--name", "x"], "COMMAND");
    scratch.refuses(&["run", "--"], "no command to run");
    scratch.refuses(&["run", "--overlayfs-layer", "/a", "touch", "started"], "'--' ends");
    scratch.refuses(&[], "vmon --help");
}

#[test]
fn a_size_that_does_not_parse_is_refused() {
    let scratch = Scratch::new();
    for size in ["10XB", "", "1.5MiB", "99999999999999999999", "17179869184GiB"] {
        let option = format!("--log-max-size={size}");
        scratch.refuses(&["run", &option, "touch", "started"], "--log-max-size");
    }
    scratch.refuses(&["run", "--log-max-files=many", "touch", "started"], "--log-max-files");
}

#[test]
fn a_time_that_does_not_parse_is_refused() {
    let scratch = Scratch::new();
    for time in ["soon", "", "10y", "-1s", "18446744073709551615h"] {
        let option = format!("--stop-timeout={time}");
        scratch.refuses(&["run", &option, "touch", "started"], "--stop-timeout");
    }
    let option = "--config-last-modified=yesterday";
    scratch.refuses(&["run", option, "touch", "started"], "RFC 3339");
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let scratch = Scratch::new();
    scratch.refuses(&["run", "--stop-signal", "TREM", "touch", "started"], "TREM");
}

#[test]
fn both_kinds_of_rootfs_at_once_are_refused() {
    let scratch = Scratch::new();
    let args = ["--native-rootfs", "/a", "--overlayfs-layer", "/b", "--", "touch", "started"];
    scratch.refuses(&[&["run"], &args[..]].concat(), "cannot be used with");
}

#[test]
fn forwarding_and_no_forwarding_at_once_are_refused() {
    let scratch = Scratch::new();
    let args = ["run", "--forward-output", "--no-forward", "touch", "started"];
    scratch.refuses(&args, "--no-forward");
}

#[test]
fn a_name_that_leads_out_of_the_log_directory_is_refused() {
    let scratch = Scratch::new();
    for option in ["--name", "--sandbox-name", "--config-file"] {
        for name in ["../../../../tmp/evil", "..", ".", "", "a/b", "-x", "a\nb", "ä"] {
            let option = format!("{option}={name}");
            scratch.refuses(&["run", &option, "touch", "started"], "name");
        }
    }
    let long = format!("--name={}", "x".repeat(129));
    scratch.refuses(&["run", &long, "touch", "started"], "too long");
}

#[test]
fn an_unusable_log_directory_is_refused() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "kept").unwrap();
    for directory in ["file", "file/below"] {
        let args = ["run", "--log-dir", directory, "touch", "started"];
        scratch.refuses(&args, "Not a directory");
    }
}

#[test]
fn an_unusable_state_directory_is_refused() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "kept").unwrap();
    scratch.refuses(&["run", "--state-dir", "file", "touch", "started"], "--state-dir");
}

#[test]
fn a_directory_in_the_place_of_the_database_is_refused() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("db")).unwrap();
    scratch.refuses(&["run", "--db", "db", "touch", "started"], "--db");
    scratch.refuses(&["run", "--sandbox-db-path", "db", "touch", "started"], "--db");
    scratch.refuses(&["ps", "--db", "db"], "--db");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_kept() {
    let scratch = Scratch::new();
    fs::write(scratch.path("db"), "this is a letter, and no database".repeat(100)).unwrap();
    scratch.refuses(&["run", "--db", "db", "touch", "started"], "--db");
    scratch.refuses(&["ps", "--db", "db"], "--db");
}

#[test]
fn a_missing_working_directory_is_refused() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "kept").unwrap();
    scratch.refuses(&["run", "--cwd", "nowhere", "touch", "started"], "nowhere");
    scratch.refuses(&["run", "--cwd", "file", "touch", "started"], "Not a directory");
}

#[test]
fn without_a_home_the_state_directory_must_be_given() {
    let scratch = Scratch::new();
    let mut command = scratch.command();
    command.env_remove("VMON_STATE_DIR").env_remove("HOME").env("XDG_STATE_HOME", "relative");
    scratch.refused(command.args(["run", "touch", "started"]), "--state-dir");
}

#[test]
fn help_and_version_go_to_stdout() {
    let scratch = Scratch::new();
    for args in [&["--help"][..], &["run", "--help"], &["ps", "-h"], &["--version"]] {
        let output = scratch.vmon(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_closed_stdout_of_help_is_no_failure() {
    let scratch = Scratch::new();
    for args in [&["--help"][..], &["ps"], &["ps", "--all", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = scratch.command().args(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(output.stderr, b"", "{args:?}");
    }
}

#[test]
fn without_a_database_nothing_is_listed_and_none_is_made() {
    let scratch = Scratch::new();
    let header = "NAME  CONFIG  STATUS  PID  SUPERVISOR  STARTED  ENDED  EXIT\n";
    for (args, expected) in [(&["ps"][..], header), (&["ps", "--all", "--json"], "[]\n")] {
        let output = scratch.vmon(args);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    assert!(contents(&scratch.path("state")).is_empty());
}

#[test]
fn options_after_the_command_belong_to_the_command() {
    let scratch = Scratch::new();
    let tail = ["--name", "../x", "--", "-t", "--help"];
    for head in [&["run", "echo"][..], &["run", "--name", "x", "--", "echo"]] {
        let output = scratch.vmon(head.iter().chain(&tail));
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stdout, b"--name ../x -- -t --help\n");
    }
}

#[test]
fn arguments_that_are_not_utf8_are_passed_unchanged() {
    let scratch = Scratch::new();
    let bytes = b"a\xff\xc3".to_vec();
    let args = ["run", "printf", "%s"].map(OsString::from);
    let output = scratch.vmon(args.into_iter().chain([OsString::from_vec(bytes.clone())]));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, bytes);
}

#[test]
fn something_else_in_the_place_of_the_log_leaves_nothing_written() {
    let state = tempfile::tempdir().unwrap();
    let logs = state.path().join("log/Sandboxfile");
    std::fs::create_dir_all(&logs).unwrap();
    std::os::unix::fs::symlink("/dev/null", logs.join("true.log")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vmon"))
        .args(["run", "--state-dir", state.path().to_str().unwrap(), "true"])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{message}");
    assert!(message.starts_with("vmon: ") && message.contains("true.log"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    let left: Vec<_> =
        std::fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [state.path().join("log")]);
}

#[test]
fn a_relative_command_is_searched_in_the_directory_of_the_command() {
    let state = tempfile::tempdir().unwrap();
    let (here, there) = (state.path().join("here"), state.path().join("there"));
    std::fs::create_dir_all(&here).unwrap();
    std::fs::create_dir_all(&there).unwrap();
    std::fs::write(here.join("tool"), "").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vmon"))
        .current_dir(&here)
        .args(["run", "--state-dir", state.path().to_str().unwrap()])
        .args(["--cwd", there.to_str().unwrap(), "./tool"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127), "{}", String::from_utf8_lossy(&output.stderr));
}
