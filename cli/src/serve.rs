//! `vmon serve`: a host of any number of sandboxes on one thread, controlled over a socket.
//!
//! Each sandbox has its own record, log and control socket, so the other commands act on it as on
//! any other. The host's own socket has the varlink interface `io.vmon.Host`.

mod activation;
mod starter;

use std::path::PathBuf;
use std::time::Instant;

use tracing::{debug, info};
use vmon::child::{Signal, unblock_signals};
use vmon::control::HostServer;
use vmon::host::Engine;
use vmon::monitor::own_signals;
use vmon::process;
use vmon::registry::Registry;
use vmon::terminal::Messages;

use super::notify::{self, Manager};
use super::places::{NewDirectories, Places, absolute};
use super::shared_args::SharedArgs;
use super::supervisor_loop::{Activity, SCRATCH_DELAY, TRIM_DELAY};
use super::{Failure, messages};
use starter::PlanStarter;

/// Name of the socket in the runtime directory. No config can have it.
const SOCKET: &str = "@host.sock";

/// Supervise any number of sandboxes in one process
///
/// Starts nothing by itself: programs ask for sandboxes at a socket, with the varlink interface
/// io.vmon.Host, and 'vmon run -d --via SOCKET' does. All other commands act on these sandboxes as on
/// any other. TERM, INT, QUIT and HUP stop all of them, at the same time, and then end the host; a
/// second TERM, INT or QUIT kills them. A sandbox does not outlive its host.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon serve &                              a host with its socket at STATE/run/@host.sock
  vmon run -d --via ~/.local/state/vmon/run/@host.sock -- ./server
                                            run a command in it
  varlink call unix:/run/vmon/host.sock/io.vmon.Host.List '{}'
                                            list its sandboxes with another program")]
pub struct ServeArgs {
    /// Socket of the host. With socket activation, the socket of the service manager is used
    /// [default: STATE/run/@host.sock]
    #[arg(long, value_name = "PATH", help_heading = "Paths")]
    socket: Option<PathBuf>,

    #[command(flatten)]
    shared: SharedArgs,
}

/// Serves until a signal ends the host.
pub fn serve(args: ServeArgs, messages: &Messages) -> Result<u8, Failure> {
    // Before any other descriptor could have its number.
    let given = activation::listener().map_err(Failure::Activation)?;
    // Commands of all clients must not inherit what this process was started with.
    process::keep_descriptors_from_programs().map_err(Failure::Descriptors)?;
    messages::install(messages, args.shared.log_level);
    let places = args.shared.places()?;
    let socket = match &args.socket {
        Some(path) => absolute(path)?,
        None => places.runtime_dir().join(SOCKET),
    };
    let limit = process::raise_file_limit()
        .map_err(|error| debug!("the file limit stays as it is: {error}"))
        .ok();
    let mut engine = Engine::new().map_err(Failure::SetUp)?;
    // Not those of a terminal: nothing is forwarded to or from it.
    let terminal = [Signal::WINCH, Signal::TSTP, Signal::CONT];
    let signals = own_signals().into_iter().filter(|signal| !terminal.contains(signal));
    engine.watch_signals(signals).map_err(Failure::SetUp)?;
    unblock_signals();
    let registry = open(&places)?;
    let activity = Activity::default();
    let server = match given {
        Some((listener, path)) => (HostServer::on(listener), path.unwrap_or(socket)),
        None => (HostServer::at(&socket), socket),
    };
    let (server, socket) = server;
    let starter =
        PlanStarter { places, registry, socket: socket.clone(), limit, activity: activity.clone() };
    engine.serve(server, starter).map_err(Failure::HostSocket)?;
    info!("serving at {}", socket.display());
    turn_until_done(&mut engine, &activity, Manager::from_environment())?;
    Ok(0)
}

/// Creates the state directory and opens the record.
fn open(places: &Places) -> Result<Registry, Failure> {
    let mut made = NewDirectories::default();
    let opened = open_into(places, &mut made);
    if opened.is_err() {
        made.remove();
    }
    opened
}

fn open_into(places: &Places, made: &mut NewDirectories) -> Result<Registry, Failure> {
    let directory = |path, option| Failure::directory("state directory", path, option);
    made.make(&places.state_dir).map_err(directory(&places.state_dir, "--state-dir"))?;
    if let Some(parent) = places.db.path.parent() {
        made.make(parent).map_err(directory(parent, places.db.option))?;
    }
    let registry = Registry::open(&places.db.path)?.state_dir(&places.state_dir);
    Ok(registry.keep_connection())
}

/// Runs the loop, and returns memory to the system whenever it has been idle for a moment.
fn turn_until_done(
    engine: &mut Engine,
    activity: &Activity,
    manager: Option<Manager>,
) -> Result<(), Failure> {
    let mut notifier = Notifier { manager, unsent: None, watchdog_at: None, is_stopping: false };
    notifier.send("READY=1\n");
    let mut trim_at: Option<Instant> = Some(Instant::now() + TRIM_DELAY);
    let mut release_at: Option<Instant> = None;
    while !engine.is_done() {
        let now = Instant::now();
        if activity.take() {
            trim_at = Some(now + TRIM_DELAY);
        }
        if trim_at.is_some_and(|at| now >= at) {
            trim_at = None;
            engine.release_scratch();
            process::trim_heap();
        } else if release_at.is_some_and(|at| now >= at) {
            engine.release_scratch();
        }
        // Postponed by each turn that relayed something.
        release_at = engine.has_scratch().then(|| now + SCRATCH_DELAY);
        let next = [trim_at, release_at, notifier.next(now)].into_iter().flatten().min();
        let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
        engine.turn(timeout).map_err(Failure::Loop)?;
        if engine.is_stopping() && !notifier.is_stopping {
            notifier.is_stopping = true;
            notifier.send("STOPPING=1\n");
        }
    }
    Ok(())
}

/// Reports the state of the host to the service manager.
struct Notifier {
    manager: Option<Manager>,
    /// A message that found the manager's socket full.
    unsent: Option<&'static str>,
    watchdog_at: Option<Instant>,
    is_stopping: bool,
}

impl Notifier {
    fn send(&mut self, lines: &'static str) {
        let sent = self.manager.as_ref().is_none_or(|manager| manager.report(lines));
        self.unsent = (!sent).then_some(lines);
    }

    /// Sends what is due; returns when there is more.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        if let Some(lines) = self.unsent {
            self.send(lines);
        }
        let manager = self.manager.as_ref()?;
        let retry = self.unsent.map(|_| now + notify::RETRY);
        if let Some(interval) = manager.watchdog()
            && self.watchdog_at.is_none_or(|at| now >= at)
        {
            // If the socket is full the message is dropped: the next one is in time.
            manager.report("WATCHDOG=1\n");
            self.watchdog_at = Some(now + interval);
        }
        [retry, self.watchdog_at].into_iter().flatten().min()
    }
}
