//! The life of this program, from the checked options to the exit command: what the steps of its
//! [`Shape`] do, in their order.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tracing::{error, warn};
use vmon::child::PtyMaster;
use vmon::logfile::Stream;
use vmon::monitor::{Builder, EndOfInput};
use vmon::process::{Forked, fork};

use crate::attach_socket::{AttachSocket, Paths};
use crate::checks::Config;
use crate::ctl::Ctl;
use crate::end_limit::EndLimit;
use crate::engine::{Engine, StartPipe};
use crate::exit::{self, ExitCommand};
use crate::failure::Failure;
use crate::logs::Logs;
use crate::monitor::{self, EventLoop};
use crate::notify::NotifyProxy;
use crate::oom::OomFiles;
use crate::process::{self, Inherited, OomScore};
use crate::runtime::{self, Runtime};
use crate::shape::{Attach, Event, Progress, RuntimeEnd, Shape, Step};
use crate::signals::Signals;
use crate::streams::{RuntimeStdio, Streams};

/// The exit code of a life that has failed.
const FAILED: i32 = 1;

/// What stands for the runtime's words where it has sent no terminal.
const NO_TERMINAL: &[u8] = b"Runtime did not set up terminal";

/// What is made before the runtime is started.
struct Prepared {
    kept: Kept,
    start: Start,
    streams: Streams,
    services: Services,
}

/// What is needed to the end.
struct Kept {
    config: Config,
    inherited: Inherited,
    logs: Logs,
    engine: Engine,
}

/// What is needed until the runtime has ended.
struct Start {
    signals: Signals,
    pipe: Option<StartPipe>,
    score: OomScore,
    /// The pid that this program was started with.
    first_pid: u32,
}

/// What serves clients and the container while it runs.
struct Services {
    notify: Option<NotifyProxy>,
    sockets: Option<Sockets>,
}

/// The ways into the container.
struct Sockets {
    attach: AttachSocket,
    paths: Paths,
    ctl: Ctl,
}

/// The process that goes on after the start.
enum Place {
    /// This one is done: its copy goes on.
    Caller,
    Background,
}

/// Lives; returns the exit code.
///
/// # Errors
///
/// What failed before the runtime was started.
pub fn live(config: Config, mut inherited: Inherited) -> Result<i32, Failure> {
    exit::set_umask();
    let logs = Logs::open(&config)?;
    let score = OomScore::protect();
    let signals = Signals::of_the_start()?;
    let start = StartPipe::from_environment(&mut inherited)?;
    if let Some(start) = &start {
        // Nothing may be forked before: the engine moves this process to its cgroup first.
        wait_for_start(start, &signals)?;
    }
    let first_pid = std::process::id();
    if let Place::Caller = go_to_background(&config)? {
        return Ok(0);
    }
    signals.add_those_of_the_container()?;
    let notify = notify_proxy(&config)?;
    let attach = config.shape == Shape::ExecApi1(Progress::Preparing, Attach::First);
    let engine = Engine::from_environment(config.key(), attach, &mut inherited)?;
    if !config.drivers.passthrough {
        process::null_stdio().map_err(Failure::of("can't open the null device"))?;
    }
    process::leave_session();
    process::be_subreaper(true);
    let (streams, stdio) = Streams::open(&config)?;
    let sockets = config.socket_home().map(|home| Sockets::make(&config, home)).transpose()?;
    let prepared = Prepared {
        kept: Kept { config, inherited, logs, engine },
        start: Start { signals, pipe: start, score, first_pid },
        streams,
        services: Services { notify, sockets },
    };
    Ok(prepared.live(stdio))
}

/// Waits for the engine's word. SIGTERM ends the wait.
fn wait_for_start(start: &StartPipe, signals: &Signals) -> Result<(), Failure> {
    let what = "can't read the start pipe";
    runtime::wait_for([Some(start.as_fd()), Some(signals.as_fd())]).map_err(Failure::of(what))?;
    if signals.next() == Some(Signal::SIGTERM) {
        return Err(Failure::new("ended by SIGTERM before the start"));
    }
    start.wait().map_err(Failure::of(what))
}

/// Goes on in a copy of this process, unless it is to stay in the foreground.
fn go_to_background(config: &Config) -> Result<Place, Failure> {
    if config.options.sync {
        return Ok(Place::Background);
    }
    match fork().map_err(Failure::of("can't go to the background"))? {
        Forked::Child => Ok(Place::Background),
        Forked::Parent { child } => {
            // The engine reads the file when this process has ended.
            if let Some(path) = &config.options.conmon_pidfile {
                exit::write_pid_file(Path::new(path), child)?;
            }
            Ok(Place::Caller)
        }
    }
}

fn notify_proxy(config: &Config) -> Result<Option<NotifyProxy>, Failure> {
    match (&config.options.sdnotify_socket, &config.bundle) {
        (Some(host), Some(bundle)) => NotifyProxy::listen(bundle, Path::new(host)).map(Some),
        _ => Ok(None),
    }
}

impl Sockets {
    fn make(config: &Config, home: &Path) -> Result<Self, Failure> {
        let options = &config.options;
        // Without `-i` only a terminal has an input, which does not end.
        let end_of_input = match options.stdin && !options.leave_stdin_open {
            true => EndOfInput::ClosesStdin,
            false => EndOfInput::Ignored,
        };
        let link =
            config.link.as_ref().map(|(directory, name)| (directory.as_path(), name.as_os_str()));
        let (attach, paths) = AttachSocket::listen(home, link, end_of_input)?;
        let ctl = match Ctl::create(home) {
            Ok(ctl) => ctl,
            Err(failure) => {
                paths.remove();
                return Err(failure);
            }
        };
        Ok(Self { attach, paths, ctl })
    }
}

impl Prepared {
    /// Starts the runtime, monitors the container and runs the exit command, whatever fails.
    fn live(self, stdio: RuntimeStdio) -> i32 {
        let exit_command = ExitCommand::of(&self.kept.config);
        let score = self.start.score.clone();
        let paths = self.services.sockets.as_ref().map(|sockets| sockets.paths.clone());
        let code = self.carry_out(stdio).unwrap_or_else(|failure| {
            error!("{failure}");
            FAILED
        });
        if let Some(paths) = paths {
            paths.remove();
        }
        if let Some(command) = exit_command {
            command.run(&score);
        }
        code
    }

    /// Carries out the steps of the shape. Everything is closed afterwards.
    fn carry_out(self, stdio: RuntimeStdio) -> Result<i32, Failure> {
        let Self { mut kept, start, streams, mut services } = self;
        let mut shape = kept.config.shape;
        let Step::Run { attach } = shape.next(Event::Prepared) else { return Ok(FAILED) };
        let (end, master) = kept.run(attach, start, &streams, stdio, services.ctl())?;
        let step = shape.next(Event::RuntimeEnded(end));
        let Step::Monitor { pid, report } = step else { return kept.refuse(end, step, &streams) };
        // Before the report, after which the engine counts on an exit file.
        let event_loop = match EventLoop::new() {
            Ok(event_loop) => event_loop,
            Err(failure) => {
                kept.engine.report(-1, failure.to_string().as_bytes())?;
                return Err(failure);
            }
        };
        if report {
            kept.engine.report(pid.cast_signed(), b"")?;
        }
        let event = match monitor::is_child(pid) {
            true => kept.monitor(event_loop, pid, master, streams, services)?,
            // Its end, and what it writes from now on, are another process's.
            false => {
                warn!("pid {pid} is no child of this process: its exit code is not known");
                kept.log_rest(&streams);
                Event::Ended(-1)
            }
        };
        kept.logs.sync();
        kept.finish(shape.next(event))
    }
}

impl Kept {
    /// Lets the caller attach, if it is to, and runs the runtime to its end.
    fn run(
        &mut self,
        attach: bool,
        start: Start,
        streams: &Streams,
        stdio: RuntimeStdio,
        ctl: Option<&mut Ctl>,
    ) -> Result<(RuntimeEnd, Option<PtyMaster>), Failure> {
        if attach {
            self.engine.report_attachable()?;
        }
        let config = &self.config;
        let Start { signals, pipe, score, first_pid } = start;
        let pipe = pipe.filter(|_| attach);
        let runtime = Runtime::start(config, streams, stdio, pipe.as_ref(), &score, first_pid)?;
        drop(pipe);
        if config.drivers.passthrough {
            process::null_stdio().map_err(Failure::of("can't open the null device"))?;
        }
        let (succeeded, master) = runtime.wait(streams, &signals, ctl)?;
        let has_terminal = master.is_some() || streams.console().is_none();
        let pid = runtime::read_pid_file(&config.pid_file);
        Ok((RuntimeEnd { succeeded, has_terminal, pid }, master))
    }

    /// Monitors the container's first process to its end.
    fn monitor(
        &mut self,
        event_loop: EventLoop,
        pid: u32,
        master: Option<PtyMaster>,
        streams: Streams,
        services: Services,
    ) -> Result<Event, Failure> {
        if master.is_some() {
            // With a terminal, the pipe is for the runtime alone.
            self.log_rest(&streams);
        }
        let config = &self.config;
        let builder = services.add_to(monitor::builder(config, self.logs.lend())?, pid, config);
        let timeout = u64::try_from(config.options.timeout).ok().filter(|seconds| *seconds > 0);
        let timeout = timeout.map(Duration::from_secs);
        let (event, drivers) =
            event_loop.monitor(builder, pid, streams.into_child_io(master), timeout)?;
        self.logs.take_back(drivers);
        Ok(event)
    }

    /// Logs what is in the pipes now.
    fn log_rest(&mut self, streams: &Streams) {
        let logs = &mut self.logs;
        streams.stderr().into_iter().for_each(|pipe| logs.take_rest(Stream::Stderr, pipe));
        streams.stdout().into_iter().for_each(|pipe| logs.take_rest(Stream::Stdout, pipe));
    }

    /// Reports that the runtime has failed, and why.
    fn refuse(mut self, end: RuntimeEnd, step: Step, streams: &Streams) -> Result<i32, Failure> {
        let mut words = streams.words();
        if matches!(step, Step::Refuse { log: true }) {
            self.logs.write(Stream::Stderr, &words);
            self.log_rest(streams);
            self.logs.sync();
        }
        if words.is_empty() {
            words = match end {
                RuntimeEnd { succeeded: true, has_terminal: false, .. } => NO_TERMINAL.to_vec(),
                _ => {
                    let Config { runtime, pid_file, .. } = &self.config;
                    let (runtime, pid_file) = (runtime.display(), pid_file.display());
                    format!("{runtime} has written no pid to {pid_file}, and no error").into_bytes()
                }
            };
        }
        error!("the runtime has failed: {}", String::from_utf8_lossy(&words));
        self.engine.report(-1, &words)?;
        Ok(FAILED)
    }

    /// Writes the exit files and reports the end. The log is complete, and no client is attached.
    fn finish(mut self, step: Step) -> Result<i32, Failure> {
        let Step::Finish { code, report } = step else { return Ok(FAILED) };
        drop(self.inherited);
        let written = exit::write_exit_files(&self.config, code);
        if let Some(text) = report {
            self.engine.report(code, text.as_bytes())?;
        }
        written.map(|()| code)
    }
}

impl Services {
    fn ctl(&mut self) -> Option<&mut Ctl> {
        self.sockets.as_mut().map(|sockets| &mut sockets.ctl)
    }

    fn add_to(self, mut builder: Builder, pid: u32, config: &Config) -> Builder {
        if let Some(notify) = self.notify {
            builder = builder.service(notify);
        }
        if let Some(Sockets { attach, ctl, .. }) = self.sockets {
            builder = builder.service(ctl).service(attach);
        }
        builder = builder.service(EndLimit);
        if let Some(oom) = oom_files(pid, config) {
            builder = builder.service(oom);
        }
        builder
    }
}

/// The notice of a container that has no memory left. A command in a container has none of its own.
fn oom_files(pid: u32, config: &Config) -> Option<OomFiles> {
    match config.shape {
        Shape::Create(_) | Shape::Restore(_) => {
            let persistent = config.options.persist_dir.as_ref().map(PathBuf::from);
            let directories = persistent.into_iter().chain(config.bundle.clone());
            OomFiles::of(pid, directories.collect())
        }
        Shape::ExecApi0(_) | Shape::ExecApi1(..) => None,
    }
}
