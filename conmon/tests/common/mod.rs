//! What the tests with real engines and runtimes share: the two monitors that are compared, the root
//! file system of the containers, and running programs to their end.

#![allow(dead_code, unsafe_code)] // each area uses a part; for terminals and their like

#[path = "../../../tests/common/guest.rs"]
pub mod guest;
#[path = "../../../tests/common/machine.rs"]
pub mod machine;
#[path = "../../../tests/common/terminal.rs"]
pub mod terminal;
#[path = "../../../tests/common/waiting.rs"]
mod waiting;

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::{env, fs};

use nix::errno::Errno;
#[allow(unused_imports)] // as above
pub use terminal::Terminal;
pub use waiting::*;

/// The monitors that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// conmon of the distribution.
    Conmon,
    /// `vmon-conmon`.
    Ours,
}

impl Monitor {
    pub const BOTH: [Self; 2] = [Self::Conmon, Self::Ours];

    /// The program. A copy of ours is named `conmon`, as an installation names it: engines and users
    /// look for this name. The environment variable `VMON_CONMON` names another build of it.
    pub fn program(self, directory: &Path) -> PathBuf {
        if self == Self::Conmon {
            return PathBuf::from("/usr/bin/conmon");
        }
        let copy = directory.join("conmon");
        if !copy.exists() {
            let built = env::var_os("VMON_CONMON").map(PathBuf::from);
            let built = built.unwrap_or_else(|| env!("CARGO_BIN_EXE_vmon-conmon").into());
            // By a process of its own: a child that another test is about to start would have the
            // copy open for writing too, and execve(2) refuses it then.
            let status = Command::new("cp").arg(built).arg(&copy).status().unwrap();
            assert!(status.success());
        }
        copy
    }

    pub fn is_ours(self) -> bool {
        self == Self::Ours
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Conmon => "conmon",
            Self::Ours => "ours",
        }
    }
}

/// Whether this user may run containers, and the programs are installed: they are packages that
/// `.ci/install` installs. Where not, the test is skipped with a message; with `VMON_REQUIRE_PODMAN`
/// set, a missing program is a failure.
#[track_caller]
pub fn can_run(programs: &[&str]) -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: containers are run by root here");
        return false;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&&str| env::split_paths(&path).any(|entry| entry.join(name).exists());
    let missing: Vec<_> = programs.iter().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = format!("{missing:?} missing: run .ci/install");
    assert!(env::var_os("VMON_REQUIRE_PODMAN").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

/// Makes a root file system: busybox, a link to it for each of its commands, and empty directories
/// for what a runtime mounts.
pub fn make_rootfs(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "gate", "proc", "run", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    let list = Command::new("busybox").arg("--list").output().unwrap();
    let mut copy = Command::new("sh");
    copy.args(["-c", r#"cp "$(command -v busybox)" "$0""#]).arg(rootfs.join("bin/busybox"));
    let copied = copy.status().unwrap();
    assert!(list.status.success() && copied.success());
    for name in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )
    .unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
}

/// Has a function called when this process ends, after its last test.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: the function takes no arguments, and is there as long as the process.
    assert_eq!(unsafe { libc::atexit(function) }, 0);
}

/// Has a command start with these descriptors, as its descriptors 3, 4, ….
pub fn hand_over(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let mut spare = Vec::with_capacity(descriptors.len());
    // SAFETY: fcntl(2) and dup2(2) are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            spare.clear();
            for descriptor in &descriptors {
                // First out of the way of each other.
                let copy = libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100);
                spare.push(Errno::result(copy)?);
            }
            for (number, copy) in (3..).zip(&spare) {
                Errno::result(libc::dup2(*copy, number))?;
            }
            Ok(())
        });
    }
}

/// A number that no other test of this process has.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What has been read of a stream, by a thread that reads it to its end.
pub struct Reader {
    seen: Arc<Mutex<Vec<u8>>>,
    thread: thread::JoinHandle<()>,
}

impl Reader {
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { seen, thread }
    }

    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_for(&self, piece: &str) {
        eventually(&format!("{piece:?}"), || contains(&self.seen(), piece.as_bytes()));
    }

    /// All of it. A process in the background that kept the stream would be a fault, and is one here.
    #[track_caller]
    pub fn rest(self) -> Vec<u8> {
        eventually("the end of a stream", || self.thread.is_finished());
        self.seen()
    }
}

/// Waits for the end of a program, and of its output.
#[track_caller]
pub fn finish(mut child: Child) -> Output {
    let stdout = Reader::of(child.stdout.take().unwrap());
    let stderr = Reader::of(child.stderr.take().unwrap());
    drop(child.stdin.take());
    let status = wait(&mut child);
    Output { status, stdout: stdout.rest(), stderr: stderr.rest() }
}

/// Runs a program to its end, without input.
#[track_caller]
pub fn ran(command: &mut Command) -> Output {
    finish(spawned(command.stdin(Stdio::null())))
}

/// Starts a program whose output is read by the test.
#[track_caller]
pub fn spawned(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a program that must succeed; what it printed.
#[track_caller]
pub fn ran_well(command: &mut Command) -> String {
    let output = ran(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    text(&output.stdout)
}

/// Bytes that are compared as text; what is no UTF-8 stays visible.
pub fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// One record of a k8s-file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub stream: String,
    /// Whether the record ends its line: `F`, not `P`.
    pub is_full: bool,
    pub text: Vec<u8>,
}

/// The records of a k8s-file, whose times must be those of conmon: local time, nine digits, and a
/// numeric offset.
#[track_caller]
pub fn records(log: &[u8]) -> Vec<Record> {
    assert!(log.is_empty() || log.ends_with(b"\n"), "an incomplete record: {}", text(log));
    let lines = log.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
    let records = lines.map(|line| {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("no record: {}", text(line)));
        assert_time(&text(word()));
        let stream = text(word());
        assert!(stream == "stdout" || stream == "stderr", "{}", text(line));
        let tag = word();
        assert!(tag == b"F" || tag == b"P", "{}", text(line));
        Record { stream, is_full: tag == b"F", text: word().to_vec() }
    });
    records.collect()
}

#[track_caller]
fn assert_time(time: &str) {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let shape = shape.replace("-99:99", "+99:99").replace("-99T", "+99T");
    assert_eq!(
        shape.replace("-99+99T", "-99-99T"),
        "9999-99-99T99:99:99.999999999+99:99",
        "{time}"
    );
}

/// What one stream of these records is in bytes: partial records joined.
pub fn stream(records: &[Record], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records.iter().filter(|record| record.stream == stream) {
        bytes.extend(&record.text);
        if record.is_full {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// The number in a line of `/proc/PID/status`.
pub fn status_number(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
