//! What the tests share: a state directory, a terminal, and waiting for events.
//!
//! Children are shell scripts: `sh` does what is asked.

#![allow(dead_code, unsafe_code)] // each area uses a part; a controlling terminal takes pre_exec

pub mod fuzz;
pub mod host;
pub mod lives;
pub mod logs;
pub mod memory_cgroup;
pub mod records;
pub mod seed;
pub mod served;
pub mod terminal;
pub mod tmpfs;
pub mod turning;
pub mod vmm;
pub mod waiting;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use nix::sys::signal::{SigHandler, Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;
#[allow(unused_imports)] // as above
pub use terminal::{Terminal, raw, set_size, set_window, size};
#[allow(unused_imports)]
pub use waiting::*;

/// The namespace that runs get without `--config-file`.
pub const CONFIG: &str = "Sandboxfile";

/// A state directory of its own.
pub struct State(TempDir);

impl State {
    pub fn new() -> Self {
        as_at_a_login();
        Self(tempfile::Builder::new().prefix("vmon-test").tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn db(&self) -> PathBuf {
        self.path().join("sandbox.db")
    }

    /// A path for a test's own files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The directory that holds the logs of [`CONFIG`].
    pub fn logs(&self) -> PathBuf {
        self.path().join("log").join(CONFIG)
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The current log; empty while there is none.
    pub fn log(&self, name: &str) -> Vec<u8> {
        fs::read(self.log_path(name)).unwrap_or_default()
    }

    /// The older generations, oldest first.
    pub fn generations(&self, name: &str) -> Vec<PathBuf> {
        let prefix = format!("{name}.log.");
        let Ok(entries) = fs::read_dir(self.logs()) else { return Vec::new() };
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
            .filter(|path| {
                path.extension().is_none_or(|extension| extension != "idx" && extension != "todo")
            })
            .collect();
        found.sort();
        found
    }

    /// All generations and the current log, joined.
    pub fn whole_log(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for generation in self.generations(name) {
            // The oldest may be removed between the look and the read.
            bytes.extend(fs::read(generation).unwrap_or_default());
        }
        bytes.extend(self.log(name));
        bytes
    }

    /// Where a script of this command waits for the test: `read _ < "$GO"`.
    pub fn gate(&self, command: &mut Command) {
        mkfifo(&self.file("go"), Mode::S_IRWXU).unwrap();
        command.env("GO", self.file("go"));
    }

    pub fn open_gate(&self) {
        fs::write(self.file("go"), "go\n").unwrap();
    }

    /// The value of one column of the newest run of `name`, as text; `None` while there is none.
    pub fn run_column(&self, name: &str, column: &str) -> Option<String> {
        let query = format!(
            "SELECT CAST(r.{column} AS TEXT) FROM vmon_runs r JOIN sandboxes s ON s.id = r.sandbox_id
             WHERE s.name = ?1 ORDER BY r.id DESC LIMIT 1"
        );
        self.query(&query, name)
    }

    /// The value of one column of the sandbox `name`, as text; `None` while there is none.
    pub fn sandbox_column(&self, name: &str, column: &str) -> Option<String> {
        let query = format!("SELECT CAST({column} AS TEXT) FROM sandboxes WHERE name = ?1");
        self.query(&query, name)
    }

    fn query(&self, query: &str, name: &str) -> Option<String> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let db = rusqlite::Connection::open_with_flags(self.db(), flags).ok()?;
        db.query_row(query, [name], |row| row.get(0)).ok().flatten()
    }

    /// The supervisors of all runs that are not over on record.
    pub fn supervisors(&self) -> Vec<u32> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let Ok(db) = rusqlite::Connection::open_with_flags(self.db(), flags) else {
            return Vec::new();
        };
        let query = "SELECT supervisor_pid FROM vmon_runs WHERE state <> 'STOPPED'";
        let Ok(mut statement) = db.prepare(query) else { return Vec::new() };
        let pids = statement.query_map([], |row| row.get(0));
        pids.map(|pids| pids.flatten().collect()).unwrap_or_default()
    }

    /// Waits until the sandbox has this status on record.
    pub fn wait_for_status(&self, name: &str, status: &str) {
        eventually(&format!("{name} is {status}"), || {
            self.sandbox_column(name, "status").as_deref() == Some(status)
        });
    }

    /// Waits until the process has no descriptor of the database any more.
    pub fn wait_for_closed_db(&self, pid: u32) {
        let is_db = |path: &Path| path.to_string_lossy().contains("sandbox.db");
        eventually("the database is closed", || {
            let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let mut paths = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            !paths.any(|path| is_db(&path))
        });
    }

    /// Waits until the current log holds these bytes.
    pub fn wait_for_log(&self, name: &str, bytes: &[u8]) {
        let what = format!("{:?} in the log of {name}", String::from_utf8_lossy(bytes));
        eventually(&what, || contains(&self.whole_log(name), bytes));
    }
}

/// Gives SIGINT and SIGQUIT their default actions in this process, and so in those that it starts. A
/// shell without job control ignores both in its background jobs (`cargo test &` in a script), vmon
/// leaves an ignored signal ignored, and a shell can't trap it.
fn as_at_a_login() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for ignored in [Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: SIG_DFL installs no handler.
            unsafe { nix::sys::signal::signal(ignored, SigHandler::SigDfl) }.unwrap();
        }
    });
}

/// Python with the packages that `.ci/install` installs, which check formats and protocols from
/// outside. `None`, which skips the test and says so, where it was not run; with
/// `VMON_REQUIRE_PYTHON` set, a failure.
#[track_caller]
pub fn python() -> Option<Command> {
    let python = Path::new("/var/cache/vmon-ci/venv/bin/python");
    if python.exists() {
        return Some(Command::new(python));
    }
    let missing = format!("{} is missing: run .ci/install", python.display());
    assert!(std::env::var_os("VMON_REQUIRE_PYTHON").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

/// A program that shows or plays what a terminal gets, which `.ci/install` installs. `None`, which
/// skips the test and says so, where it is missing; with `VMON_REQUIRE_TERMINALS` set, a failure.
#[track_caller]
pub fn needs_terminal_program(program: &str) -> Option<()> {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).exists())
    });
    if !found {
        let missing = format!("{program} is missing: run .ci/install");
        assert!(std::env::var_os("VMON_REQUIRE_TERMINALS").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    found.then_some(())
}

/// Runs the check for all cases at the same time: where each of them waits.
pub fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    let check = &check;
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    std::thread::scope(|scope| {
        for case in cases {
            let thread = std::thread::Builder::new().name(test.clone());
            thread.spawn_scoped(scope, move || check(case)).unwrap();
        }
    });
}

/// What vmon itself said: one line.
#[track_caller]
pub fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(text.starts_with("vmon: ") && text.ends_with('\n'), "{text:?}");
    text
}

pub fn spawn_piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// The state letter of a process (proc(5)): `T` while it is stopped; `None` when it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Bytes in a pipe, by either of its ends.
pub fn bytes_waiting(pipe: i32) -> usize {
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the pointer.
    let result = unsafe { libc::ioctl(pipe, libc::FIONREAD, &mut waiting) };
    assert_eq!(result, 0);
    waiting as usize
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Bytes that look random, the same for each seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// This program, to run one of its tests as a process of its own, on its main thread. `module` is
/// the `module_path!()` of the test, which is usually an ignored one.
pub fn own_test(module: &str, name: &str) -> Command {
    // libtest leaves out the name of the crate.
    let path = module.split_once("::").map_or("", |(_, path)| path);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("{path}::{name}"), "--exact", "--include-ignored", "--nocapture"]);
    command.arg("--test-threads=1");
    command
}

/// Runs an ignored test, a host, as a process of its own to its end: the [`own_test`] of this module
/// and name. The variable `directory` has the state directory; `prepare` adds to the command.
#[track_caller]
pub fn run_host(
    state: &State,
    module: &str,
    name: &str,
    directory: &str,
    prepare: impl FnOnce(&mut Command),
) {
    let path = state.file("host.out");
    let output = File::options().create(true).append(true).open(&path).unwrap();
    let mut command = own_test(module, name);
    command
        .env(directory, state.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    prepare(&mut command);
    let status = wait(&mut command.spawn().unwrap());
    let said = fs::read_to_string(&path).unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Makes a program, or a file that is almost one. Not written by this process: a child that another
/// test is about to start would have it open for writing too, and execve(2) refuses it then.
pub fn write_program(path: &Path, text: &str, mode: u32) {
    let write = r#"printf %s "$2" >"$1" && chmod "$3" "$1""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", write, "sh"]).arg(path).args([text, &format!("{mode:o}")]);
    assert!(shell.status().unwrap().success(), "{}", path.display());
}

/// A copy of a program, for the same reason not by this process.
pub fn copy_program(from: impl AsRef<OsStr>, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success(), "{}", to.display());
}

/// The bytes of all files in a directory.
pub fn directory_size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

/// Whether a program is installed.
pub fn has(program: impl AsRef<OsStr>) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}
