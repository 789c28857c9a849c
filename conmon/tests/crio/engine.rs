//! What CRI-O does with a container from its creation to its removal.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    Monitor, Record, TIMEOUT, at_exit, can_run, contains, eventually, finish, hand_over, is_alive,
    make_rootfs, ran, ran_well, records, spawned, stream, text, unique,
};

/// The `PATH` of conmon's environment in CRI-O's default configuration.
pub const MONITOR_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root file system of all containers, which none of them may write.
fn rootfs() -> Option<&'static Path> {
    static ROOTFS: OnceLock<Option<PathBuf>> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(rootfs) = rootfs() {
            let _ = fs::remove_dir_all(rootfs);
        }
    }
    let make = || {
        let directory = tempfile::Builder::new().prefix("vmon-crio-rootfs.").tempdir_in("/var/tmp");
        let directory = directory.unwrap().keep();
        make_rootfs(&directory);
        at_exit(remove);
        directory
    };
    let is_possible = || can_run(&["conmon", "runc", "busybox"]);
    ROOTFS.get_or_init(|| is_possible().then(make)).as_deref()
}

/// CRI-O with one of the monitors, and its directories.
pub struct Engine {
    pub monitor: Monitor,
    directory: TempDir,
    program: PathBuf,
    rootfs: &'static Path,
}

/// How a container is created.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    pub terminal: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// Bytes of memory; 0: no limit.
    pub memory: u64,
}

/// Runs a test with each of the monitors at the same time. Does nothing where that is not possible.
#[track_caller]
pub fn each(test: impl Fn(&Engine) + Sync) {
    let Some(rootfs) = rootfs() else { return };
    let test = &test;
    let name = thread::current().name().unwrap_or_default().to_owned();
    thread::scope(|scope| {
        for monitor in Monitor::BOTH {
            let thread = thread::Builder::new().name(format!("{name}, {}", monitor.label()));
            thread.spawn_scoped(scope, move || test(&Engine::new(monitor, rootfs))).unwrap();
        }
    });
}

/// Runs a test with our monitor, where it is to be better.
pub fn ours(test: impl FnOnce(&Engine)) {
    if let Some(rootfs) = rootfs() {
        test(&Engine::new(Monitor::Ours, rootfs));
    }
}

/// Runs a test that looks at both monitors, conmon's first.
pub fn both(test: impl FnOnce(&Engine, &Engine)) {
    if let Some(rootfs) = rootfs() {
        test(&Engine::new(Monitor::Conmon, rootfs), &Engine::new(Monitor::Ours, rootfs));
    }
}

impl Engine {
    fn new(monitor: Monitor, rootfs: &'static Path) -> Self {
        let directory =
            tempfile::Builder::new().prefix("vmon-crio.").tempdir_in("/var/tmp").unwrap();
        for name in ["attach", "exits", "log", "run", "runc", "var", "tmp"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let program = monitor.program(directory.path());
        Self { monitor, directory, program, rootfs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory where CRI-O makes temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.path("tmp")
    }

    pub fn exits(&self) -> PathBuf {
        self.path("exits")
    }

    pub fn sockets(&self) -> PathBuf {
        self.path("attach")
    }

    /// `runc --root ROOT ARGUMENTS`.
    pub fn runtime(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/runc");
        command.arg("--root").arg(self.path("runc")).args(arguments);
        command
    }

    /// The monitor's command, with what all calls have.
    pub fn conmon(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(MONITOR_PATH.split_once('=')).env("CRI_O_EXTERNAL", "1");
        command.env("_OCI_SYNCPIPE", "3").env("_OCI_STARTPIPE", "4").stdin(Stdio::null());
        command.process_group(0);
        command
    }

    /// The path of the runtime and its directory, as arguments of the monitor.
    pub fn runtime_root(&self) -> String {
        format!("--root={}", self.path("runc").display())
    }

    /// Creates a container that will run a script of `sh`.
    #[track_caller]
    pub fn create(&self, shape: Shape, script: &str) -> Container<'_> {
        let container = self.prepare(shape, script);
        container.create().unwrap();
        container
    }

    /// Makes the directories and the bundle of a container.
    pub fn prepare(&self, shape: Shape, script: &str) -> Container<'_> {
        // As long as CRI-O's.
        let id = format!("{:x}{:056x}", std::process::id() | 0x1000_0000, unique());
        let container = Container { engine: self, shape, id };
        for directory in [container.bundle(), container.persist(), container.gate()] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::create_dir_all(container.log_path().parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&container.gate().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        ran_well(self.runtime(&["spec", "--bundle"]).arg(container.bundle()));
        let path = container.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(shape.terminal);
        config["root"]["path"] = json!(self.rootfs);
        let gate = json!({"destination": "/gate", "type": "bind", "source": container.gate(),
            "options": ["bind", "rw"]});
        config["mounts"].as_array_mut().unwrap().push(gate);
        if shape.memory > 0 {
            config["linux"]["resources"]["memory"] = json!({"limit": shape.memory});
        }
        fs::write(path, config.to_string()).unwrap();
        container
    }
}

/// A container of CRI-O's.
pub struct Container<'a> {
    pub engine: &'a Engine,
    shape: Shape,
    pub id: String,
}

impl Container<'_> {
    pub fn bundle(&self) -> PathBuf {
        self.engine.path("run").join(&self.id).join("userdata")
    }

    pub fn persist(&self) -> PathBuf {
        self.engine.path("var").join(&self.id)
    }

    pub fn log_path(&self) -> PathBuf {
        self.engine.path("log").join(&self.id).join("0.log")
    }

    /// The host's side of `/gate` in the container.
    pub fn gate(&self) -> PathBuf {
        self.bundle().join("gate")
    }

    /// Lets a script go on that waits by `read _ </gate/go`.
    pub fn go(&self) {
        fs::write(self.gate().join("go"), "go\n").unwrap();
    }

    pub fn name(&self) -> String {
        format!("k8s_box_pod_default_{}_0", &self.id[..8])
    }

    /// `CreateContainer`: the pid of the container's first process, or the error that CRI-O reports.
    pub fn create(&self) -> Result<u32, String> {
        let engine = self.engine;
        let (mut parent, child) = UnixStream::pair().unwrap();
        let (start, child_start) = UnixStream::pair().unwrap();
        let mut command = engine.conmon();
        command.arg("-b").arg(self.bundle()).args(["-c", &self.id]);
        command.arg("--exit-dir").arg(engine.exits()).arg("-l").arg(self.log_path());
        command.args(["--log-level", "info", "-n", &self.name()]);
        command.arg("-P").arg(self.bundle().join("conmon-pidfile"));
        command.arg("-p").arg(self.bundle().join("pidfile"));
        command.arg("--persist-dir").arg(self.persist()).args(["-r", "/usr/sbin/runc"]);
        command.args(["--runtime-arg", &engine.runtime_root()]);
        command.arg("--socket-dir-path").arg(engine.sockets());
        command.args(["--syslog", "-u", &self.id]);
        if self.shape.terminal {
            command.arg("-t");
        } else if self.shape.stdin {
            if !self.shape.stdin_once {
                command.arg("--leave-stdin-open");
            }
            command.arg("-i");
        }
        command.current_dir(self.bundle());
        hand_over(&mut command, vec![OwnedFd::from(child), OwnedFd::from(child_start)]);
        let process = spawned(&mut command);
        drop(command);
        // The monitor's cgroup is set before the start byte: what it forks must inherit that.
        let cgroup = self.cgroup();
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        std::io::Write::write_all(&mut &start, &[0]).unwrap();
        // Neither of these streams may stay open in the background.
        let output = finish(process);
        if !output.status.success() {
            return Err(format!("conmon failed: {output:?}"));
        }
        let message = read_line(&mut parent);
        let value: Value =
            serde_json::from_str(&message).map_err(|error| format!("{error}: {message:?}"))?;
        let pid = value["pid"].as_i64().unwrap();
        if pid == -1 {
            return Err(value["message"].as_str().unwrap_or_default().to_owned());
        }
        assert_eq!(message, format!("{{\"pid\": {pid}}}\n"));
        Ok(pid as u32)
    }

    /// The cgroup of the container's monitor.
    fn cgroup(&self) -> PathBuf {
        let pids = Path::new("/sys/fs/cgroup/pids");
        let base = if pids.exists() { pids } else { Path::new("/sys/fs/cgroup") };
        base.join(format!("crio-conmon-{}", self.id))
    }

    /// The pid of the monitor, from its file.
    #[track_caller]
    pub fn monitor_pid(&self) -> u32 {
        fs::read_to_string(self.bundle().join("conmon-pidfile")).unwrap().parse().unwrap()
    }

    /// The pid of the first process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        fs::read_to_string(self.bundle().join("pidfile")).unwrap().parse().unwrap()
    }

    /// `StartContainer`.
    #[track_caller]
    pub fn start(&self) {
        ran_well(&mut self.engine.runtime(&["start", &self.id]));
    }

    /// Whether the process of the monitor's pid file is in the cgroup that it was given.
    #[track_caller]
    pub fn is_in_its_cgroup(&self) -> bool {
        let processes = fs::read_to_string(self.cgroup().join("cgroup.procs")).unwrap();
        processes.lines().any(|line| line == self.monitor_pid().to_string())
    }

    /// `runc state`'s status.
    #[track_caller]
    pub fn status(&self) -> String {
        let state = ran_well(&mut self.engine.runtime(&["state", &self.id]));
        let state: Value = serde_json::from_str(&state).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// `UpdateContainerStatus` of a container that ends: its exit code, from the file in the persistent
    /// directory.
    #[track_caller]
    pub fn exit_code(&self) -> i32 {
        eventually("the runtime says stopped", || self.status() == "stopped");
        let path = self.persist().join("exit");
        eventually("the exit file", || path.exists());
        fs::read_to_string(path).unwrap().parse().unwrap()
    }

    /// `StopContainer`: the signal, and SIGKILL where `patient` is not set.
    #[track_caller]
    pub fn stop(&self, signal: &str) {
        let pid = self.pid();
        ran_well(&mut self.engine.runtime(&["kill", &self.id, signal]));
        eventually("the container ends", || !is_alive(pid));
    }

    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        records(&fs::read(self.log_path()).unwrap())
    }

    /// One stream's bytes in the log.
    #[track_caller]
    pub fn logged(&self, name: &str) -> String {
        text(&stream(&self.records(), name))
    }

    #[track_caller]
    pub fn wait_for_log(&self, piece: &str) {
        eventually(&format!("{piece:?} in the log"), || {
            fs::read(self.log_path()).is_ok_and(|log| contains(&log, piece.as_bytes()))
        });
    }

    /// Waits until the monitor has ended, its exit command and all.
    #[track_caller]
    pub fn wait_for_monitor(&self) {
        let pid = self.monitor_pid();
        eventually("the monitor has ended", || !is_alive(pid));
    }

    /// `runc delete --force`.
    pub fn delete(&self) -> Output {
        ran(&mut self.engine.runtime(&["delete", "--force", &self.id]))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.delete();
        let pid = fs::read_to_string(self.bundle().join("conmon-pidfile"));
        let pid = pid.ok().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid.filter(|_| !thread::panicking()) {
            eventually("the monitor has ended", || !is_alive(pid));
        } else if let Some(pid) = pid.filter(|pid| is_alive(*pid)) {
            let _ = nix::sys::signal::kill(
                Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        // Its processes may still be on their way out.
        for _ in 0..100 {
            if fs::remove_dir(self.cgroup()).is_ok() || !self.cgroup().exists() {
                break;
            }
            let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(5_u8));
        }
    }
}

/// One message of the sync pipe: a line.
#[track_caller]
pub fn read_line(pipe: &mut UnixStream) -> String {
    pipe.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        match pipe.read(&mut byte).unwrap() {
            0 => break,
            _ => line.push(byte[0]),
        }
    }
    text(&line)
}

/// A watch of a directory, as fsnotify sets it up.
pub struct Watch(Inotify);

impl Watch {
    #[track_caller]
    pub fn of(directory: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let flags =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(directory, flags).unwrap();
        Self(inotify)
    }

    /// Waits for the creation, the arrival or, if `modified`, a change of the file with this name.
    #[track_caller]
    pub fn wait_for(&self, name: &str, modified: bool) {
        eventually(&format!("an event of {name}"), || {
            let events = self.0.read_events().unwrap_or_default();
            events.into_iter().any(|event| {
                event.name.as_deref().is_some_and(|file| file == name)
                    && (modified || !event.mask.contains(AddWatchFlags::IN_MODIFY))
            })
        });
    }
}
