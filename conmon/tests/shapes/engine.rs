//! What an engine does: it starts the monitor with its pipes, and reads what it reports.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{TIMEOUT, text_of};

pub const CID: &str = "0123456789abcdef";

/// The runtime: it starts the script `container` of its directory, in a session of its own, and
/// writes the pid. The script goes on when the runtime has ended, which can't reap it then. Its words are in `args`. The file `fail` has what it says if it is to fail.
const RUNTIME: &str = r#"#!/bin/sh
here=$(dirname "$0")
for word; do printf '%s\n' "$word"; done >"$here/args.tmp"
ls -l /proc/$$/fd >"$here/fds"
printf '%s\n' "${LISTEN_PID-none} $$" >"$here/listen"
mv "$here/args.tmp" "$here/args"
pid_file= console=
while [ $# -gt 0 ]; do
  case $1 in
    --pid-file) pid_file=$2 ;;
    --console-socket) console=$2 ;;
  esac
  shift
done
[ ! -e "$here/before" ] || . "$here/before"
if [ -e "$here/fail" ]; then cat "$here/fail" >&2; exit 1; fi
if [ -n "$console" ]; then
  SOCKET=$console PID_FILE=$pid_file CONTAINER=$here/container \
    "$(cat "$here/terminal")" --exact terminal::sends_a_terminal --ignored >/dev/null || exit 1
else
  mkfifo "$here/gate"
  exec 3<&0
  sh -c 'read end <"$0/gate"; exec setsid sh "$0/container"' "$here" <&3 3<&- &
  exec 4>"$here/gate"
  printf %s $! >"$pid_file"
fi
"#;

/// A monitor to be started, with a directory of its own.
pub struct Engine {
    scratch: TempDir,
    words: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    start_pipe: bool,
    attach_pipe: bool,
    extra: Vec<OwnedFd>,
}

/// A monitor that has been started.
pub struct Started {
    scratch: TempDir,
    first: Child,
    pub sync: Channel,
    pub attach: Option<Channel>,
    start: Option<UnixStream>,
}

/// The engine's end of a pipe.
pub struct Channel(UnixStream);

impl Engine {
    /// A monitor of a container that is this script, with these options beside the usual ones.
    pub fn new(container: &str, words: &[&str]) -> Self {
        static SUBREAPER: Once = Once::new();
        // The monitor in the background becomes a child of the tests, which await its end.
        SUBREAPER.call_once(|| set_child_subreaper(true).unwrap());
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        for name in ["bundle", "exits", "persist", "links"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        fs::write(directory.join("runtime"), RUNTIME).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.join("runtime"), mode).unwrap();
        fs::write(directory.join("container"), container).unwrap();
        let tests = std::env::current_exe().unwrap();
        fs::write(directory.join("terminal"), tests.to_str().unwrap()).unwrap();
        let path = |name: &str| directory.join(name).into_os_string();
        let mut all: Vec<OsString> = vec!["-c".into(), CID.into(), "-u".into(), CID.into()];
        all.extend(["-r".into(), path("runtime"), "-b".into(), path("bundle")]);
        all.extend(["-p".into(), path("pid"), "-l".into(), path("log")]);
        all.extend(["--exit-dir".into(), path("exits"), "--persist-dir".into(), path("persist")]);
        all.extend(["--socket-dir-path".into(), path("links")]);
        all.extend(["-P".into(), path("conmon.pid")]);
        all.extend(words.iter().map(OsString::from));
        Self {
            scratch,
            words: all,
            variables: Vec::new(),
            start_pipe: true,
            attach_pipe: false,
            extra: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The runtime fails with this text.
    pub fn runtime_fails(self, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.path("fail"), text).unwrap();
        self
    }

    /// The runtime runs this before it starts the container.
    pub fn runtime_runs(self, script: &str) -> Self {
        fs::write(self.path("before"), script).unwrap();
        self
    }

    pub fn word(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    pub fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Another log than the file.
    pub fn log(mut self, value: &str) -> Self {
        let log = self.path("log").into_os_string();
        self.words.iter_mut().filter(|word| **word == log).for_each(|word| *word = value.into());
        self
    }

    pub fn without_start_pipe(mut self) -> Self {
        self.start_pipe = false;
        self
    }

    pub fn with_attach_pipe(mut self) -> Self {
        self.attach_pipe = true;
        self
    }

    /// A further descriptor that the monitor inherits.
    pub fn inherits(mut self, descriptor: OwnedFd) -> Self {
        self.extra.push(descriptor);
        self
    }

    /// Starts the monitor; it waits for the start pipe.
    pub fn launch(self) -> Started {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmon-conmon"));
        command.args(&self.words).current_dir(self.scratch.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut theirs = self.extra;
        let mut pipe = |name: &'static str, wanted: bool| {
            command.env_remove(name);
            wanted.then(|| {
                let (ours, their) = UnixStream::pair().unwrap();
                command.env(name, their.as_raw_fd().to_string());
                theirs.push(their.into());
                ours
            })
        };
        let sync = pipe("_OCI_SYNCPIPE", true).unwrap();
        let start = pipe("_OCI_STARTPIPE", self.start_pipe);
        let attach = pipe("_OCI_ATTACHPIPE", self.attach_pipe);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let numbers: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: fcntl is async-signal-safe, and the numbers are open descriptors.
        unsafe {
            command.pre_exec(move || {
                for number in &numbers {
                    let descriptor = std::os::fd::BorrowedFd::borrow_raw(*number);
                    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                Ok(())
            });
        }
        let first = command.spawn().unwrap();
        drop(theirs);
        let attach = attach.map(Channel);
        Started { scratch: self.scratch, first, sync: Channel(sync), attach, start }
    }

    /// Starts the monitor and lets it go on.
    pub fn start(self) -> Started {
        let mut started = self.launch();
        started.go_on();
        started
    }
}

impl Channel {
    /// The next message: one line.
    #[track_caller]
    pub fn message(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            assert!(wait_readable(&self.0), "no message within {TIMEOUT:?}");
            match self.0.read(&mut byte).unwrap() {
                0 => break,
                _ => line.push(byte[0]),
            }
        }
        String::from_utf8(line).unwrap()
    }

    /// The number of the next message.
    #[track_caller]
    pub fn number(&mut self) -> i32 {
        let message = self.message();
        let number = message.trim_start_matches(|it: char| !it.is_ascii_digit() && it != '-');
        let end = number.find([',', '}']).unwrap_or_else(|| panic!("{message:?}"));
        number[..end].parse().unwrap()
    }

    /// What follows until the other end is closed.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.set_read_timeout(Some(TIMEOUT)).unwrap();
        self.0.read_to_string(&mut text).unwrap();
        text
    }

    /// Whether there is a message now.
    pub fn is_readable(&self) -> bool {
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }
}

/// Limits the numbers of the descriptors that a process may open from now on.
pub fn limit(pid: i32, descriptors: usize) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args([format!("--pid={pid}"), format!("--nofile={descriptors}:")]);
    assert!(prlimit.status().unwrap().success());
}

fn wait_readable(stream: &UnixStream) -> bool {
    let timeout = PollTimeout::try_from(TIMEOUT).unwrap();
    poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
}

impl Started {
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A byte on the start pipe.
    pub fn go_on(&mut self) {
        if let Some(start) = &mut self.start {
            start.write_all(&[0]).unwrap();
        }
    }

    /// The pid of the first process.
    pub fn first_pid(&self) -> i32 {
        i32::try_from(self.first.id()).unwrap()
    }

    /// The exit code and the stderr of the first process, once both are at their end.
    #[track_caller]
    pub fn first_end(&mut self) -> (i32, String) {
        let mut text = String::new();
        self.first.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.first.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.first.wait().unwrap().code().unwrap_or(-1), text)
    }

    /// The pid of the process in the background.
    #[track_caller]
    pub fn monitor(&self) -> i32 {
        self.text("conmon.pid").parse().unwrap()
    }

    /// The exit code of the process in the background, once it has ended.
    #[track_caller]
    pub fn end_of(&self, monitor: i32) -> i32 {
        match waitpid(Pid::from_raw(monitor), None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&self, pid: i32, signal: Signal) {
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// The text of a file, once it has one.
    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        text_of(&self.path(name))
    }

    /// The exit code in the exit file of the engine, once it is there.
    #[track_caller]
    pub fn exit_file(&self) -> String {
        self.text(&format!("exits/{CID}"))
    }

    /// The log without its times.
    pub fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap();
        // Not `lines`, which takes a carriage return for a part of the line's end.
        let lines = log.split_terminator('\n');
        lines.map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// Writes an order to the control FIFO, as Podman does.
    pub fn order(&self, line: &str) {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
        let mut ctl: File = open(&self.path("bundle/ctl"), flags, Mode::empty()).unwrap().into();
        ctl.write_all(line.as_bytes()).unwrap();
    }

    /// Opens a FIFO for writing once it has a reader: lets a script that reads it go on.
    pub fn release(&self, fifo: &Path) {
        drop(File::options().write(true).open(fifo).unwrap());
    }
}
