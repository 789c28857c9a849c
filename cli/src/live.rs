//! The control connection to the supervisor of a running sandbox, and waiting for its end.
//!
//! A process is signalled directly only if a `vmon run` has lost its socket, and the process's
//! environment, or that of its child, proves that it belongs to the run.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use vmon::child::Signal;
use vmon::control::{Client, ClientError, Ended, Status as Live, Watch};
use vmon::monitor::{Identity, Liveness, Name, Phase};
use vmon::registry::{Location, Lost, RegistryError, Run, RunStatus};

use super::reason;
use super::record::{Record, Recorded};

/// Timeout of the status replies of all supervisors that a command asks.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after the end in which the record is updated and the socket removed.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after that in which a supervisor exits. It runs the command of --on-exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(40);

/// Time in which a command ends after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Time in which a supervisor makes its socket again.
const SOCKET_TIMEOUT: Duration = Duration::from_millis(500);

/// Poll interval for states without a notification, in milliseconds.
const POLL_INTERVAL: u8 = 10;

/// Why a request to a sandbox failed.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("it is not running; 'vmon restart' starts it again")]
    NotRunning,
    #[error("its supervisor, {supervisor}, has no control socket: signal that process yourself")]
    NoSocket { supervisor: String },
    #[error(
        "no process serves its control socket, though its supervisor, {supervisor}, is alive: signal that process yourself"
    )]
    NotServed { supervisor: String },
    #[error(
        "it is on record as running on another machine, {host}: run this command there; if it is gone, 'vmon rm --force' removes it from the record"
    )]
    OtherMachine { host: String },
    #[error(
        "its control socket is not served, and it can't be told whether its supervisor, {supervisor}, is alive; if it is gone, 'vmon rm --force' removes it from the record"
    )]
    Unproven { supervisor: String },
    #[error(transparent)]
    Client(ClientError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("no process serves its control socket, and pid {pid} can't be signalled: {reason}")]
    Signal { pid: u32, reason: &'static str },
    #[error(
        "no process serves its control socket, and pid {pid} is not proven to belong to it: signal that process yourself"
    )]
    NotItsOwn { pid: u32 },
    #[error(
        "its record could have been written by another user, so it is not acted upon: run this as the user that owns the database, and make sure that no other user can write to it"
    )]
    Untrusted,
    #[error(
        "pid {pid} has not ended {seconds} s after SIGKILL: {}; its supervisor repeats SIGKILL",
        .reason.as_deref().unwrap_or("it can't be signalled, or hangs in the kernel")
    )]
    Unkillable { pid: u32, seconds: u64, reason: Option<String> },
    #[error("it has no console {name}; its consoles: {others}")]
    NoSuchConsole { name: Name, others: String },
    #[error("its supervisor was lost, and the sandbox has ended with it")]
    Lost,
    #[error("its supervisor was lost, and a process of it still runs: {0}")]
    LeftBehind(String),
    #[error("it has ended, but is not on record as stopped: the database may be locked")]
    NotOnRecord,
    #[error("it has ended, but its supervisor still serves its socket")]
    StillServed,
    #[error("it has ended, but its supervisor is still alive")]
    StillThere,
}

impl From<ClientError> for LiveError {
    fn from(error: ClientError) -> Self {
        match error.name() {
            Some("NotRunning") => Self::NotRunning,
            _ => Self::Client(error),
        }
    }
}

impl LiveError {
    /// Whether the error means only that the sandbox is no longer running.
    pub fn is_over(&self) -> bool {
        match self {
            Self::NotRunning => true,
            Self::Client(error) => error.is_gone(),
            _ => false,
        }
    }
}

/// Connects to the supervisor of a running sandbox.
pub fn connect(sandbox: &Recorded) -> Result<Client, LiveError> {
    let run = sandbox.running().ok_or(LiveError::NotRunning)?;
    if !run.trusted {
        return Err(LiveError::Untrusted);
    }
    if run.location == Some(Location::OtherMachine) {
        let host = run.host.as_deref().unwrap_or("whose name is not on record").to_owned();
        return Err(LiveError::OtherMachine { host });
    }
    let unproven = || LiveError::Unproven { supervisor: supervisor(run) };
    let is_unproven = run.liveness == Some(Liveness::Unknown);
    let Some(socket) = &run.socket else {
        return Err(match is_unproven {
            true => unproven(),
            false => LiveError::NoSocket { supervisor: supervisor(run) },
        });
    };
    let error = match Client::connect(socket) {
        Ok(client) => return Ok(client),
        Err(ClientError::NotServed(_)) if is_unproven => return Err(unproven()),
        Err(error) => error.into(),
    };
    // Its supervisor makes it again.
    if unserved(sandbox, &error).is_some_and(is_commands)
        && run.signal_supervisor(Signal::USR1).is_ok()
    {
        let again = || Ok(Client::connect(socket).ok());
        return within(SOCKET_TIMEOUT, error, again);
    }
    Err(error)
}

/// The supervisor, for a message.
fn supervisor(run: &Run) -> String {
    let pid = run.supervisor.unwrap_or_default();
    match run.location {
        Some(Location::OtherNamespace) => format!("pid {pid} of another pid namespace"),
        _ => format!("pid {pid}"),
    }
}

/// What a supervisor has answered that was asked for its status. `None` if it was not asked: the run
/// has ended, or its supervisor has no socket or is on another machine.
pub type Answer = Option<Result<Live, ClientError>>;

/// The answers of the supervisors of several runs, which are asked at the same time.
pub fn answers(runs: &[&Run]) -> Vec<Answer> {
    let is_reachable = |run: &Run| {
        run.status == RunStatus::Running && run.location != Some(Location::OtherMachine)
    };
    let socket = |run: &Run| run.socket.clone().filter(|_| is_reachable(run));
    let sockets: Vec<_> = runs.iter().map(|run| socket(run)).collect();
    let mut answers = Client::statuses(sockets.iter().flatten(), STATUS_TIMEOUT).into_iter();
    sockets.iter().map(|socket| socket.as_ref().and_then(|_| answers.next())).collect()
}

/// Whether only the user can tell that a run is over: its supervisor can't be checked or reached.
pub fn is_unproven(sandbox: &Recorded) -> bool {
    let unproven =
        |error| matches!(error, LiveError::OtherMachine { .. } | LiveError::Unproven { .. });
    sandbox.running().is_some() && connect(sandbox).is_err_and(unproven)
}

/// Whether the supervisor is a `vmon run`, which exits after its sandbox. A host may live on.
pub fn is_commands(run: &Run) -> bool {
    run.spec.as_ref().is_some_and(|spec| spec.options.is_object()) && !is_served(run)
}

/// Whether the supervisor is a `vmon serve`.
pub fn is_served(run: &Run) -> bool {
    let host = run.spec.as_ref().and_then(|spec| spec.options.get("host"));
    host.is_some_and(|host| !host.is_null())
}

/// The run, if it is still going on but its socket is not served, as when that was removed. `None`
/// while the run is starting or ending: then the socket or the end is about to appear.
pub fn unserved<'a>(sandbox: &'a Recorded, error: &LiveError) -> Option<&'a Run> {
    let LiveError::Client(ClientError::NotServed(_)) = error else { return None };
    let lives = |process: &Option<Identity>| {
        process.as_ref().is_some_and(|it| it.liveness() == Liveness::Alive)
    };
    sandbox.running().filter(|run| {
        lives(&run.supervisor_identity)
            && (run.state == Some(Phase::Restarting) || lives(&run.child))
    })
}

/// The result of signalling a process of a run without a socket. A process that has ended is no error.
pub fn signalled(outcome: io::Result<()>, pid: Option<u32>) -> Result<(), LiveError> {
    let pid = pid.unwrap_or_default();
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        // Errors without errno come from the ownership check.
        Err(error) if error.raw_os_error().is_none() => Err(LiveError::NotItsOwn { pid }),
        Err(error) => Err(LiveError::Signal { pid, reason: reason(&error) }),
    }
}

/// Follows a sandbox that was asked to stop until it has stopped. Fails if the command is still
/// alive some time after SIGKILL, which it gets when `timeout` has passed.
pub fn follow_stop(mut watch: Watch, pid: u32, timeout: Duration) -> Result<(), LiveError> {
    let kill_at = Instant::now().checked_add(timeout);
    let give_up = kill_at.and_then(|at| at.checked_add(KILL_TIMEOUT));
    // The supervisor limits the time of the drain itself.
    let mut draining = false;
    loop {
        let left = give_up.filter(|_| !draining);
        let left = left.map(|at| at.saturating_duration_since(Instant::now()));
        match watch.next_within(left) {
            Ok(Some(event)) if event.is_final() => return Ok(()),
            Ok(Some(event)) => draining = event.phase == Phase::Draining,
            Ok(None) => return Ok(()),
            Err(ClientError::Timeout(_)) => {
                let seconds = KILL_TIMEOUT.as_secs();
                return Err(LiveError::Unkillable { pid, seconds, reason: None });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Follows a sandbox until it has stopped, through restarts.
pub fn follow(mut watch: Watch) -> Result<Option<Ended>, LiveError> {
    while let Some(event) = watch.next_within(None)? {
        if event.is_final() {
            return Ok(event.end);
        }
    }
    Ok(None)
}

/// Looks up how sandboxes have ended.
pub struct Endings<'a> {
    record: &'a Record,
    /// The runs read last. One read serves many sandboxes that end together.
    latest: Vec<Run>,
}

impl<'a> Endings<'a> {
    pub fn new(record: &'a Record) -> Self {
        Self { record, latest: Vec::new() }
    }

    /// Returns the run of `sandbox` that has ended. Waits until its end is on record and its socket
    /// is no longer served, so that another run can start.
    pub fn settled(&mut self, sandbox: &Recorded) -> Result<Option<Run>, LiveError> {
        let Some(registry) = self.record.registry() else { return Ok(None) };
        let run = within(RECORD_TIMEOUT, LiveError::NotOnRecord, || {
            if let Some(ended) = self.ended(sandbox) {
                return Ok(Some(ended));
            }
            let reconciled = registry.reconcile();
            let latest = registry.latest_of(&sandbox.config_file, &sandbox.name)?;
            self.latest = latest.into_iter().collect();
            if let Some(ended) = self.ended(sandbox) {
                return Ok(Some(ended));
            }
            match reconciled {
                Ok(lost) => match lost.into_iter().find(|lost| sandbox.is_of(&lost.run)) {
                    Some(Lost { leftovers: Some(remains), .. }) => {
                        Err(LiveError::LeftBehind(remains))
                    }
                    _ => Ok(None),
                },
                // A lost run of another sandbox, that can't be closed, does not concern this one.
                Err(error) => {
                    match self.latest.iter().any(|run| run.status == RunStatus::Stopped) {
                        true => Err(error.into()),
                        false => Ok(None),
                    }
                }
            }
        })?;
        if let Some(socket) = &run.socket {
            within(RECORD_TIMEOUT, LiveError::StillServed, || {
                Ok(matches!(Client::connect(socket), Err(error) if error.is_gone()).then_some(()))
            })?;
        }
        Ok(Some(run))
    }

    fn ended(&self, sandbox: &Recorded) -> Option<Run> {
        let run = self.latest.iter().find(|run| sandbox.is_of(run))?;
        is_closed(run).then(|| run.clone())
    }

    /// Handles a failed connection to a run that was on record as running: returns its end if it
    /// has ended, else the error.
    pub fn lost(&mut self, sandbox: &Recorded, error: LiveError) -> Result<Option<Run>, LiveError> {
        if !error.is_over() {
            return Err(error);
        }
        if let Some(run) = unserved(sandbox, &error) {
            return Err(not_served(run));
        }
        match self.settled(sandbox) {
            Err(LiveError::NotOnRecord) => {
                Err(sandbox.running().map_or(LiveError::NotOnRecord, not_served))
            }
            settled => settled,
        }
    }
}

/// The error for a run whose supervisor does not serve its socket.
pub fn not_served(run: &Run) -> LiveError {
    LiveError::NotServed { supervisor: supervisor(run) }
}

/// Whether the end of a run is on record. A run can be read as stopped before its supervisor has
/// written how it ended.
pub fn is_closed(run: &Run) -> bool {
    run.status == RunStatus::Stopped && (run.state == Some(Phase::Stopped) || run.id.is_none())
}

/// Waits until the supervisor of a single sandbox has exited: `timeout` for the end of the sandbox,
/// and the time of --on-exit.
pub fn supervisor_gone(supervisor: &Identity, timeout: Duration) -> Result<(), LiveError> {
    within(timeout.saturating_add(EXIT_TIMEOUT), LiveError::StillThere, || {
        // An unknown liveness is not the end.
        Ok((supervisor.liveness() == Liveness::Dead).then_some(()))
    })
}

/// Polls until a value is found or the time has passed.
fn within<T>(
    time: Duration,
    too_late: LiveError,
    mut check: impl FnMut() -> Result<Option<T>, LiveError>,
) -> Result<T, LiveError> {
    let give_up = Instant::now() + time;
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if Instant::now() >= give_up {
            return Err(too_late);
        }
        let _ = poll(&mut [], PollTimeout::from(POLL_INTERVAL));
    }
}
