//! The OCI runtime: its arguments, its start and its end.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use tracing::debug;
use vmon::child::{ConsoleConnection, ConsoleSocket, PtyMaster, unblock_signals};
use vmon::process::{Forked, fork};

use crate::checks::Config;
use crate::ctl::{Ctl, Order};
use crate::engine::StartPipe;
use crate::failure::Failure;
use crate::process::OomScore;
use crate::say;
use crate::shape::{PidFile, Shape};
use crate::signals::{PASSED_ON, Signals};
use crate::streams::{RuntimeStdio, Streams};

/// The runtime's exit code if it could not be executed.
const NOT_EXECUTED: i32 = 127;

/// The arguments of the runtime, without its name.
pub fn arguments(config: &Config, console: Option<&Path>) -> Vec<OsString> {
    let options = &config.options;
    let mut words = Vec::new();
    let mut add = |given: &[&OsStr]| words.extend(given.iter().map(|word| OsString::from(*word)));
    let flag = |set: bool, name: &'static str| set.then(|| OsStr::new(name));
    let pid_file = config.pid_file.as_os_str();
    let bundle = config.bundle.as_deref().map(Path::as_os_str).unwrap_or_default();
    let is_exec = matches!(config.shape, Shape::ExecApi0(_) | Shape::ExecApi1(..));
    if !is_exec {
        add(flag(options.systemd_cgroup, "--systemd-cgroup").as_slice());
    }
    options.runtime_args.iter().for_each(|word| add(&[word]));
    if is_exec {
        let spec = options.exec_process_spec.as_deref().unwrap_or_default();
        add(&["exec", "--pid-file"].map(OsStr::new));
        add(&[pid_file, OsStr::new("--process"), spec, OsStr::new("--detach")]);
    } else {
        let subcommand = if options.restore.is_some() { "restore" } else { "create" };
        add(&[subcommand, "--bundle"].map(OsStr::new));
        add(&[bundle, OsStr::new("--pid-file"), pid_file]);
        add(flag(options.no_pivot, "--no-pivot").as_slice());
        add(flag(options.no_new_keyring, "--no-new-keyring").as_slice());
        if let Some(image) = &options.restore {
            add(&["--detach", "--image-path"].map(OsStr::new));
            add(&[image, OsStr::new("--work-path"), bundle]);
        }
    }
    options.runtime_opts.iter().for_each(|word| add(&[word]));
    if let Some(console) = console {
        add(&[OsStr::new("--console-socket"), console.as_os_str()]);
    }
    add(&[&config.cid]);
    words
}

/// The runtime, while it runs.
#[derive(Debug)]
pub struct Runtime(Pid);

impl Runtime {
    /// Starts the runtime, in this process's session, working directory and environment. It is
    /// killed with this process. With `start`, it waits for the engine's word before.
    ///
    /// `first_pid` is the pid that this program was started with.
    ///
    /// # Errors
    ///
    /// No process can be made.
    pub fn start(
        config: &Config,
        streams: &Streams,
        stdio: RuntimeStdio,
        start: Option<&StartPipe>,
        score: &OomScore,
        first_pid: u32,
    ) -> Result<Self, Failure> {
        let execution = Execution {
            program: &config.runtime,
            arguments: arguments(config, streams.console()),
            stdio,
            start,
            score,
            first_pid,
            replace_listen_pid: config.options.replace_listen_pid,
            parent: getpid(),
        };
        match fork().map_err(Failure::of("can't start a process for the runtime"))? {
            Forked::Parent { child } => {
                let pid = i32::try_from(child).map_err(Failure::of("not a pid"))?;
                Ok(Self(Pid::from_raw(pid)))
            }
            Forked::Child => {
                let failure = execution.carry_out();
                // Its stderr is the pipe by now: the engine gets this as the words of the runtime.
                say::write_stderr(format!("{failure}\n").as_bytes());
                std::process::exit(NOT_EXECUTED);
            }
        }
    }

    /// Waits for the end of the runtime. Signals that arrive meanwhile are passed on to it. The
    /// terminal is received, and gets the sizes that clients have asked for.
    ///
    /// # Errors
    ///
    /// The system's, or a terminal that can't be used.
    pub fn wait(
        self,
        streams: &Streams,
        signals: &Signals,
        mut ctl: Option<&mut Ctl>,
    ) -> Result<(bool, Option<PtyMaster>), Failure> {
        let mut terminal = match streams {
            Streams::Terminal { console, .. } => Terminal::Awaited(console),
            Streams::Pipes { .. } | Streams::Passthrough => Terminal::None,
        };
        loop {
            let ended = self.ended(signals);
            // After the check: what the runtime has sent before its end is there.
            terminal.receive()?;
            let sizes = match (&terminal, ctl.as_deref_mut()) {
                (Terminal::Received(master), Some(ctl)) => {
                    resize(master, ctl);
                    Some(&*ctl)
                }
                _ => None,
            };
            if let Some(succeeded) = ended {
                return Ok((succeeded, terminal.into_master()));
            }
            wait_for([Some(signals.as_fd()), terminal.awaited(), sizes.map(Ctl::as_fd)])
                .map_err(Failure::of("can't wait for the runtime"))?;
        }
    }

    /// Whether the runtime has succeeded, once it has ended.
    fn ended(&self, signals: &Signals) -> Option<bool> {
        while let Some(signal) = signals.next() {
            if PASSED_ON.contains(&signal) {
                debug!("{signal} passed on to the runtime");
                let _ = kill(self.0, signal);
            }
        }
        match waitpid(self.0, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => None,
            Ok(status) => Some(matches!(status, WaitStatus::Exited(_, 0))),
            // A real-time signal has ended it, which has no name there.
            Err(error) => {
                debug!("the end of the runtime: {error}");
                Some(false)
            }
        }
    }
}

/// What the process of the runtime does before it is the runtime.
struct Execution<'a> {
    program: &'a Path,
    arguments: Vec<OsString>,
    stdio: RuntimeStdio,
    start: Option<&'a StartPipe>,
    score: &'a OomScore,
    first_pid: u32,
    replace_listen_pid: bool,
    parent: Pid,
}

impl Execution<'_> {
    /// Executes the runtime. Returns only on failure.
    fn carry_out(self) -> Failure {
        // The mask is inherited: a container that blocks SIGTERM could only be killed.
        unblock_signals();
        if let Err(error) = self.stdio.install() {
            return Failure::of("can't set the streams of the runtime")(error);
        }
        let mut command = Command::new(self.program);
        command.args(self.arguments);
        let listens = Listens {
            replace: self.replace_listen_pid,
            ours: [u32::try_from(self.parent.as_raw()).unwrap_or(0), self.first_pid],
        };
        match listens.pid(std::env::var_os("LISTEN_PID").as_deref()) {
            Ok(true) => drop(command.env("LISTEN_PID", std::process::id().to_string())),
            Ok(false) => {}
            Err(failure) => return failure,
        }
        if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
            debug!("the runtime outlives this program: {error}");
        }
        if getppid() != self.parent {
            return Failure::new("the monitor has ended");
        }
        if let Some(start) = self.start
            && let Err(error) = start.wait()
        {
            return Failure::of("can't read the start pipe")(error);
        }
        self.score.restore();
        // SIGPIPE gets its default action.
        let error = command.exec();
        Failure::of(format!("can't execute {}", self.program.display()))(error)
    }
}

/// Which `LISTEN_PID` (sd_listen_fds(3)) becomes that of the runtime.
struct Listens {
    replace: bool,
    ours: [u32; 2],
}

impl Listens {
    /// Whether this value is replaced by the runtime's pid.
    fn pid(&self, value: Option<&OsStr>) -> Result<bool, Failure> {
        let Some(value) = value else { return Ok(false) };
        let pid = value.to_str().and_then(|text| text.parse().ok()).filter(|pid: &u32| *pid > 0);
        let invalid = || Failure::new(format!("invalid LISTEN_PID {}", value.display()));
        let pid = pid.ok_or_else(invalid)?;
        Ok(self.replace || self.ours.contains(&pid))
    }
}

/// The terminal that the runtime makes.
enum Terminal<'a> {
    /// There is none.
    None,
    /// The runtime has not connected yet.
    Awaited(&'a ConsoleSocket),
    /// It has not sent the terminal yet.
    Connected(ConsoleConnection),
    Received(PtyMaster),
}

impl Terminal<'_> {
    /// Takes what the runtime has sent.
    fn receive(&mut self) -> Result<(), Failure> {
        if let Self::Awaited(console) = self {
            match console.accept().map_err(Failure::of("can't accept the console"))? {
                Some(connection) => *self = Self::Connected(connection),
                None => return Ok(()),
            }
        }
        if let Self::Connected(connection) = self {
            match connection.receive() {
                Ok(Some(master)) => {
                    translate_newlines(&master)?;
                    *self = Self::Received(master);
                }
                Ok(None) => {}
                // The runtime has given up, and reports why.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => *self = Self::None,
                Err(error) => return Err(Failure::of("can't receive the console")(error)),
            }
        }
        Ok(())
    }

    /// What is readable when the terminal has come a step further.
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None | Self::Received(_) => None,
            Self::Awaited(console) => Some(console.as_fd()),
            Self::Connected(connection) => Some(connection.as_fd()),
        }
    }

    fn into_master(self) -> Option<PtyMaster> {
        match self {
            Self::Received(master) => Some(master),
            Self::None | Self::Awaited(_) | Self::Connected(_) => None,
        }
    }
}

/// Sets ONLCR (termios(3)): a newline of the program is a carriage return and a newline.
fn translate_newlines(master: &PtyMaster) -> Result<(), Failure> {
    let set = tcgetattr(master).and_then(|mut modes| {
        modes.output_flags.insert(OutputFlags::ONLCR);
        tcsetattr(master, SetArg::TCSANOW, &modes)
    });
    set.map_err(Failure::of("can't set the modes of the terminal"))
}

/// Gives the terminal the size that a client has asked for. An order to open the log again has no
/// effect yet: the log has just been opened.
fn resize(master: &PtyMaster, ctl: &mut Ctl) {
    while let Some(order) = ctl.next_order() {
        if let Order::Resize { rows, columns } = order
            && let Err(error) = master.resize(rows, columns)
        {
            debug!("can't resize the terminal: {error}");
        }
    }
}

/// Waits until one of these is readable.
pub fn wait_for<const N: usize>(descriptors: [Option<BorrowedFd<'_>>; N]) -> io::Result<()> {
    let descriptors = descriptors.into_iter().flatten();
    let mut polled: Vec<PollFd<'_>> =
        descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
}

/// Reads the pid that the runtime has written.
pub fn read_pid_file(path: &Path) -> PidFile {
    match std::fs::read(path) {
        Ok(text) => match leading_number(&text) {
            Some(pid @ 1..) => PidFile::Pid(pid),
            _ => PidFile::Empty,
        },
        Err(error) => {
            debug!("no pid in {}: {error}", path.display());
            PidFile::Missing
        }
    }
}

fn leading_number(text: &[u8]) -> Option<u32> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks;
    use crate::options::{Parsed, parse};

    #[track_caller]
    fn words(given: &[&str], console: Option<&str>) -> Vec<String> {
        let Ok(Parsed::Run(options)) = parse(given.iter().map(OsString::from)) else { panic!() };
        let cid = options.cid.clone().unwrap();
        let config = checks::rest(cid, *options).unwrap();
        let words = arguments(&config, console.map(Path::new));
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    const CREATE: [&str; 12] =
        ["-c", "id", "-u", "id", "-r", "/tmp", "-l", "none", "-b", "/b", "-p", "/pid"];

    #[test]
    fn the_runtime_creates_a_container() {
        let plain = ["create", "--bundle", "/b", "--pid-file", "/pid", "id"];
        assert_eq!(words(&CREATE, None), plain);
        let more = [
            "-s",
            "--runtime-arg=--log",
            "--runtime-arg",
            "/log",
            "--no-new-keyring",
            "--no-pivot",
            "--runtime-opt",
            "--preserve-fds",
            "--runtime-opt=2",
        ];
        let expected = "--systemd-cgroup --log /log create --bundle /b --pid-file /pid --no-pivot \
                        --no-new-keyring --preserve-fds 2 --console-socket /s id";
        assert_eq!(words(&[&CREATE[..], &more].concat(), Some("/s")).join(" "), expected);
    }

    #[test]
    fn the_runtime_restores_a_container() {
        let more = ["--restore", "/image", "--runtime-opt", "--tcp-established"];
        let expected = "restore --bundle /b --pid-file /pid --detach --image-path /image \
                        --work-path /b --tcp-established id";
        assert_eq!(words(&[&CREATE[..], &more].concat(), None).join(" "), expected);
    }

    #[test]
    fn the_runtime_runs_a_command_in_a_container() {
        let more = ["-e", "--exec-process-spec", "/spec", "-s", "--runtime-arg", "--root=/r"];
        let more = [&more[..], &["--runtime-opt", "o", "--no-pivot"]].concat();
        let expected = "--root=/r exec --pid-file /pid --process /spec --detach o id";
        assert_eq!(words(&[&CREATE[..], &more].concat(), None).join(" "), expected);
    }

    #[test]
    fn listen_pid_is_replaced_if_it_is_ours_or_on_request() {
        let pid = |replace, value: &str| {
            Listens { replace, ours: [7, 8] }.pid(Some(OsStr::new(value))).ok()
        };
        assert_eq!(Listens { replace: true, ours: [7, 8] }.pid(None), Ok(false));
        assert_eq!(
            (pid(false, "7"), pid(false, "8"), pid(false, "9")),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(pid(true, "9"), Some(true));
        for value in ["", "0", "-1", "x"] {
            assert_eq!(pid(true, value), None, "{value:?}");
        }
    }

    #[test]
    fn a_pid_file_has_a_number_or_counts_as_empty() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("pid");
        assert_eq!(read_pid_file(&path), PidFile::Missing);
        for (text, expected) in [
            ("4711", PidFile::Pid(4711)),
            ("4711\n", PidFile::Pid(4711)),
            ("", PidFile::Empty),
            ("0", PidFile::Empty),
            ("x", PidFile::Empty),
            ("99999999999", PidFile::Empty),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_pid_file(&path), expected, "{text:?}");
        }
    }
}
