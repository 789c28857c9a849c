//! Programs of this machine in a guest with a kernel of its own, without a device or a network: for
//! what depends on the kernel's command line, such as the version of cgroups.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::Process;
use crate::common::machine::{Machine, append};

/// How long a guest may take, which is emulated where there is no KVM.
const GUEST_TIMEOUT: Duration = Duration::from_secs(400);

/// What the guest's init prints at its end.
const DONE: &str = "guest done";

/// What a guest is to have and to do.
pub struct Guest {
    archive: Archive,
    parameters: String,
    script: String,
}

impl Guest {
    /// A guest with busybox, in which only cgroup v2 is mounted, with the memory controller.
    pub fn with_cgroup2() -> Self {
        let setup = "mount -t cgroup2 cgroup2 /sys/fs/cgroup
            echo +memory >/sys/fs/cgroup/cgroup.subtree_control";
        let parameters = " cgroup_no_v1=all".to_owned();
        Self { archive: Archive::default(), parameters, script: format!("{setup}\n") }
    }

    /// Adds a program of this machine and its shared libraries, with the same paths.
    pub fn program(mut self, program: &Path) -> Self {
        let stripped = tempfile::NamedTempFile::new().unwrap();
        // Symbols are most of a debug build, and the guest has it all in memory.
        let strip = Command::new("strip").arg("-o").arg(stripped.path()).arg(program).status();
        let file = if strip.is_ok_and(|it| it.success()) { stripped.path() } else { program };
        self.archive.add(program, 0o100_755, &fs::read(file).unwrap());
        let libraries = Command::new("ldd").arg(program).output().unwrap().stdout;
        // A static program has none.
        for word in String::from_utf8(libraries).unwrap().split_whitespace() {
            let library = Path::new(word);
            if library.is_absolute() && !self.archive.has(library) {
                self.archive.add(library, 0o100_755, &fs::read(library).unwrap());
            }
        }
        self
    }

    /// Adds lines of a shell script. Each program that the guest needs is added, or is busybox's.
    pub fn script(mut self, lines: &str) -> Self {
        self.script += lines;
        self.script.push('\n');
        self
    }

    /// Boots it, runs the script and returns what it has printed.
    #[track_caller]
    pub fn run(mut self, machine: &Machine) -> String {
        let init = format!(
            "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1
{}
echo '{DONE}'
poweroff -f
",
            self.script
        );
        self.archive.add(Path::new("/guest/init"), 0o100_755, init.as_bytes());

        let directory = tempfile::tempdir().unwrap();
        let initramfs = directory.path().join("initramfs.cpio");
        let mut command = machine.command.clone();
        append(&mut command, &format!("{} rdinit=/guest/init", self.parameters));
        let initrd = replace(&mut command, "-initrd", initramfs.to_str().unwrap());
        replace(&mut command, "-m", "768M");
        // The kernel unpacks one archive after the other.
        let mut archives = fs::read(initrd).unwrap();
        archives.extend(self.archive.finish());
        fs::write(&initramfs, archives).unwrap();

        let mut qemu = Command::new(&command[0]);
        qemu.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        let seen = output(Process::spawn(&mut qemu));
        assert!(seen.contains(DONE), "the guest did not come to its end: {seen}");
        seen
    }
}

/// Everything that a process writes to its stdout.
fn output(mut process: Process) -> String {
    let mut stdout = process.stdout.take().unwrap();
    let give_up = Instant::now() + GUEST_TIMEOUT;
    let mut seen = Vec::new();
    loop {
        let left = give_up.saturating_duration_since(Instant::now()).as_millis();
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&stdout), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap_or(0) > 0;
        let mut buffer = [0; 65536];
        let count = if ready { stdout.read(&mut buffer).unwrap() } else { 0 };
        if count == 0 {
            return String::from_utf8_lossy(&seen).into_owned();
        }
        seen.extend_from_slice(&buffer[..count]);
    }
}

/// Replaces the value of an option, and returns the former one.
fn replace(command: &mut [String], option: &str, value: &str) -> String {
    let at = command.iter().position(|argument| argument == option).unwrap() + 1;
    std::mem::replace(&mut command[at], value.to_owned())
}

/// A cpio archive in the format `newc`: the kernel's document on the buffer format of an initramfs.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<PathBuf>,
}

impl Archive {
    fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// Adds a file, after the directories that it is in.
    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let parent = path.parent().unwrap();
        if parent != Path::new("/") && !self.has(parent) {
            self.add(parent, 0o040_755, b"");
        }
        self.paths.insert(path.to_owned());
        let name = path.strip_prefix("/").unwrap().to_str().unwrap();
        self.entry(name, mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let number = self.paths.len() as u32;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, four device numbers, name, checksum.
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }
}
