//! The harness: one storage with one image for all tests of this binary, and scenes that are played
//! with each of the two monitors.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::{
    Monitor, Record, at_exit, can_run, code, contains, eventually, make_rootfs, ran, ran_well,
    records, stream, text, unique,
};

/// The image of all containers.
pub const IMAGE: &str = "localhost/box";

/// Podman's directories, of this process alone. Under /var/tmp: Podman wants a short path, on a disk.
const PREFIX: &str = "vmon-podman.";
const PLACE: &str = "/var/tmp";

/// Podman's storage and configuration, with the image in it.
struct Storage {
    directory: PathBuf,
    /// Says to other processes that the directory is in use.
    _lock: Flock<File>,
}

impl Storage {
    /// The one of this process, or `None` where Podman cannot be run.
    fn get() -> Option<&'static Self> {
        static STORAGE: OnceLock<Option<Storage>> = OnceLock::new();
        let storage = STORAGE.get_or_init(|| {
            let programs = ["podman", "conmon", "runc", "crun", "busybox", "unshare", "setsid"];
            can_run(&programs).then(Self::new)
        });
        storage.as_ref()
    }

    fn new() -> Self {
        remove_abandoned();
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(PLACE).unwrap().keep();
        let lock = lock(&directory).expect("no other process has this directory");
        let storage = Self { directory, _lock: lock };
        for monitor in Monitor::BOTH {
            let program = monitor.program(&storage.directory);
            let configuration = format!(
                "[containers]\n\
                 netns = \"none\"\n\
                 log_driver = \"k8s-file\"\n\
                 default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
                 [engine]\n\
                 cgroup_manager = \"cgroupfs\"\n\
                 conmon_path = [\"{}\"]\n\
                 events_logger = \"file\"\n\
                 lock_type = \"file\"\n",
                program.display()
            );
            fs::write(storage.configuration(monitor), configuration).unwrap();
        }
        let rootfs = storage.directory.join("rootfs");
        make_rootfs(&rootfs);
        let archive = storage.directory.join("rootfs.tar");
        ran_well(Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg("."));
        ran_well(storage.podman(Monitor::Conmon, "runc").arg("import").arg(&archive).arg(IMAGE));
        at_exit(remove_own);
        storage
    }

    fn configuration(&self, monitor: Monitor) -> PathBuf {
        self.directory.join(format!("{}.conf", monitor.label()))
    }

    fn podman(&self, monitor: Monitor, runtime: &str) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.configuration(monitor)).env("TMPDIR", &self.directory);
        // The working directory of the monitors too, where Debian's leaves a file `oom`.
        command.current_dir(&self.directory);
        for (option, name) in [("--root", "graph"), ("--runroot", "run"), ("--tmpdir", "libpod")] {
            command.arg(option).arg(self.directory.join(name));
        }
        command.args(["--storage-driver", "vfs", "--runtime", runtime]);
        command
    }
}

/// The lock of a directory; `None` while another process has it.
fn lock(directory: &Path) -> Option<Flock<File>> {
    let file = File::create(directory.join("lock")).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes what test processes that were killed have left.
fn remove_abandoned() {
    for entry in fs::read_dir(PLACE).unwrap().flatten() {
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_one && let Some(_lock) = lock(&entry.path()) {
            remove(&entry.path());
        }
    }
}

extern "C" fn remove_own() {
    if let Some(storage) = Storage::get() {
        remove(&storage.directory);
    }
}

/// Removes the containers, then the directory. Errors leave it to the next process.
fn remove(directory: &Path) {
    const SCRIPT: &str = r#"
        CONTAINERS_CONF=$0/conmon.conf podman --root "$0/graph" --runroot "$0/run" \
            --tmpdir "$0/libpod" --storage-driver vfs rm --all --force --time 0
        umount -q -l "$0"/*/vfs-containers/*/userdata/shm
        exec rm -rf "$0""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT]).arg(directory).stdin(Stdio::null());
    let _ = shell.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// One container under one of the monitors, and what was seen of it.
pub struct Scene {
    storage: &'static Storage,
    pub monitor: Monitor,
    runtime: &'static str,
    /// The container's name.
    pub name: String,
    /// The host's side of `/gate` in the container: FIFOs to wait at, files to report in.
    gate: PathBuf,
    /// What was seen, without what differs at each run: names, identifiers, times.
    seen: String,
}

impl Scene {
    fn new(storage: &'static Storage, monitor: Monitor, runtime: &'static str) -> Self {
        let name = format!("{}-{}", monitor.label(), unique());
        let gate = storage.directory.join(&name);
        fs::create_dir(&gate).unwrap();
        mkfifo(&gate.join("go"), Mode::S_IRWXU).unwrap();
        Self { storage, monitor, runtime, name, gate, seen: String::new() }
    }

    /// `podman ARGUMENTS`.
    pub fn podman<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = self.storage.podman(self.monitor, self.runtime);
        command.args(arguments);
        command
    }

    /// `podman run OPTIONS IMAGE sh -c SCRIPT`. The script waits for the test by `read _ </gate/go`.
    pub fn container(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.podman(["run", "--name", &self.name, "--volume"]);
        command.arg(format!("{}:/gate", self.gate.display()));
        command.args(options).args([IMAGE, "sh", "-c", script]);
        command
    }

    /// `podman VERB OPTIONS NAME`.
    pub fn on(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = self.podman([verb]);
        command.args(options).arg(&self.name);
        command
    }

    /// `podman exec OPTIONS NAME sh -c SCRIPT`.
    pub fn exec(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.on("exec", options);
        command.args(["sh", "-c", script]);
        command
    }

    /// Starts the container in the background, and waits for the word `ready` in its log.
    #[track_caller]
    pub fn start(&self, options: &[&str], script: &str) {
        self.start_prepared(options, ":", script);
    }

    /// The same with what the script does before that word: it sets traps.
    #[track_caller]
    pub fn start_prepared(&self, options: &[&str], preparation: &str, script: &str) {
        let options: Vec<_> = ["-d"].iter().chain(options).copied().collect();
        let script = format!("{preparation}; echo ready; {script}");
        ran_well(&mut self.container(&options, &script));
        self.wait_for_log("ready");
    }

    /// Runs a command to its end, and notes what it gave.
    #[track_caller]
    pub fn see(&mut self, command: &mut Command) -> Output {
        let arguments = command.get_args().map(|argument| argument.to_string_lossy());
        let what = arguments.skip(10).collect::<Vec<_>>().join(" ");
        let output = ran(command);
        self.note(&format!("$ podman {what}"), "");
        self.note_output(&output);
        output
    }

    pub fn note_output(&mut self, output: &Output) {
        self.note("stdout", &text(&output.stdout));
        self.note("stderr", &text(&output.stderr));
        self.note("exit code", &code(output.status).to_string());
    }

    /// Notes a value that must be the same with both monitors.
    pub fn note(&mut self, what: &str, value: &str) {
        let line = format!("{what}: {value}").replace(&*self.gate.to_string_lossy(), "GATE");
        let line = without_times(&without_ids(&line.replace(&self.name, "NAME")));
        self.seen.push_str(line.trim_end());
        self.seen.push('\n');
    }

    /// Notes the state that Podman reports, and what is in the log.
    #[track_caller]
    pub fn note_end(&mut self) {
        // Stopped is what the exit command has not cleaned up.
        let is_settled = || self.inspect("{{.State.Status}}") != "stopped";
        eventually("the exit command has ended", is_settled);
        let state =
            "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}} restarts {{.RestartCount}}";
        let state = self.inspect(state);
        self.note("state", &state);
        let records = self.records();
        for name in ["stdout", "stderr"] {
            self.note(&format!("log of {name}"), &text(&stream(&records, name)));
        }
        // Where a record ends depends on the reads, whether the last one ends a line does not.
        for name in ["stdout", "stderr"] {
            let last = records.iter().rfind(|record| record.stream == name);
            self.note(&format!("end of {name}"), &format!("{:?}", last.map(|last| last.is_full)));
        }
    }

    /// `podman inspect --format FORMAT NAME`.
    #[track_caller]
    pub fn inspect(&self, format: &str) -> String {
        ran_well(&mut self.on("inspect", &["--format", format])).trim_end().to_owned()
    }

    #[track_caller]
    pub fn log_path(&self) -> PathBuf {
        self.inspect("{{.HostConfig.LogConfig.Path}}").into()
    }

    /// The records of the container's log.
    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        records(&fs::read(self.log_path()).unwrap())
    }

    /// Waits for a piece of output in the log.
    #[track_caller]
    pub fn wait_for_log(&self, piece: &str) {
        let path = self.log_path();
        eventually(&format!("{piece:?} in the log of {}", self.name), || {
            fs::read(&path).is_ok_and(|log| contains(&log, piece.as_bytes()))
        });
    }

    /// The pid of the container's monitor.
    #[track_caller]
    pub fn monitor_pid(&self) -> u32 {
        fs::read_to_string(self.inspect("{{.ConmonPidFile}}")).unwrap().trim().parse().unwrap()
    }

    /// Lets the script go on that waits by `read _ </gate/go`.
    pub fn go(&self) {
        fs::write(self.gate.join("go"), "go\n").unwrap();
    }

    /// The host's path of `/gate/NAME`.
    pub fn gate(&self, name: &str) -> PathBuf {
        self.gate.join(name)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = ran(&mut self.on("rm", &["--force", "--time", "0", "--ignore"]));
    }
}

/// Replaces each identifier of 64 hexadecimal digits, and its short form of 12.
fn without_ids(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_digit) {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c| !is_digit(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        result.push_str(before);
        result.push_str(if matches!(end, 12 | 64) { "ID" } else { word });
        rest = after;
    }
    result.push_str(rest);
    result
}

/// Replaces the times of Podman's own messages.
fn without_times(text: &str) -> String {
    let mut pieces = text.split("time=\"");
    let mut result = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        result.push_str("time=\"TIME");
        result.push_str(&piece[piece.find('"').unwrap_or(0)..]);
    }
    result
}

/// Plays a scene with each monitor at the same time: what it notes must be the same. What was noted,
/// or `None` where Podman cannot be run.
#[track_caller]
pub fn compare(play: impl Fn(&mut Scene) + Sync) -> Option<String> {
    compare_with("runc", play)
}

/// The same with another runtime.
#[track_caller]
pub fn compare_with(runtime: &'static str, play: impl Fn(&mut Scene) + Sync) -> Option<String> {
    let storage = Storage::get()?;
    let play = &play;
    let name = thread::current().name().unwrap_or_default().to_owned();
    let [conmon, ours] = thread::scope(|scope| {
        let played = Monitor::BOTH.map(|monitor| {
            let thread = thread::Builder::new().name(format!("{name}, {}", monitor.label()));
            let play = move || {
                let mut scene = Scene::new(storage, monitor, runtime);
                play(&mut scene);
                std::mem::take(&mut scene.seen)
            };
            thread.spawn_scoped(scope, play).unwrap()
        });
        played.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    assert!(conmon == ours, "they differ\n--- conmon\n{conmon}\n--- vmon-conmon\n{ours}");
    Some(ours)
}

/// Plays a scene with our monitor alone: where it is to be better.
pub fn ours(play: impl FnOnce(&mut Scene)) {
    let Some(storage) = Storage::get() else { return };
    play(&mut Scene::new(storage, Monitor::Ours, "runc"));
}
