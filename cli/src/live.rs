//! A sandbox that runs, spoken to through its supervisor's control socket; and its end, waited for.
//!
//! Only where a `vmon run` has lost its socket is a process signalled from here: one that its
//! environment, or its child's, proves to be of the run.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use vmon::child::Signal;
use vmon::control::{Client, ClientError, Ended, Watch};
use vmon::monitor::{Identity, Liveness, Name, Phase};
use vmon::registry::{RegistryError, Run, Status};

use super::reason;
use super::select::{Record, Recorded};

/// How long after its end a sandbox may take to be on record as stopped, and its socket to go.
const SETTLING: Duration = Duration::from_secs(10);

/// How long a supervisor may live on after that: it runs the command of --on-exit.
const AFTERMATH: Duration = Duration::from_secs(40);

/// How long after it was killed a command may take to end.
const DYING: Duration = Duration::from_secs(5);

/// How often it is looked for what nothing tells.
const LOOK: u8 = 10;

/// Why a sandbox does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("it is not running; 'vmon restart' starts it again")]
    NotRunning,
    #[error(
        "its supervisor, pid {supervisor}, has no control socket: that one has to be told itself"
    )]
    NoSocket { supervisor: u32 },
    #[error(
        "no process serves its control socket, though its supervisor, pid {supervisor}, lives: that one has to be told itself"
    )]
    NotServed { supervisor: u32 },
    #[error(transparent)]
    Client(ClientError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("no process serves its control socket, and pid {pid} can't be signalled: {reason}")]
    Signal { pid: u32, reason: &'static str },
    #[error(
        "no process serves its control socket, and nothing but the record says that pid {pid} is its: signal that one yourself"
    )]
    Unproven { pid: u32 },
    #[error(
        "its record could have been written by another user, so nothing is done on the word of it: run this as the user that the database belongs to, and see that no other can write to it"
    )]
    Untrusted,
    #[error(
        "pid {pid} has not ended {seconds} s after it was killed: it can't be signalled, or hangs in the kernel; its supervisor sends SIGKILL again and again"
    )]
    Unkillable { pid: u32, seconds: u64 },
    #[error("it has no console {name}; it has: {others}")]
    NoSuchConsole { name: Name, others: String },
    #[error("its supervisor was lost, and the sandbox has ended with it")]
    Lost,
    #[error("its supervisor was lost, and what it has left behind still runs: {0}")]
    LeftBehind(String),
    #[error("it has ended, but is not on record as stopped: the database may be locked")]
    NotOnRecord,
    #[error("it has ended, but its supervisor still serves its socket")]
    StillServed,
    #[error("it has ended, but its supervisor still lives")]
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
    /// Whether it says no more than that the sandbox runs no longer.
    pub fn is_over(&self) -> bool {
        match self {
            Self::NotRunning => true,
            Self::Client(error) => error.is_gone(),
            _ => false,
        }
    }
}

/// A connection to the supervisor of a sandbox that runs.
pub fn connect(sandbox: &Recorded) -> Result<Client, LiveError> {
    let run = sandbox.running().ok_or(LiveError::NotRunning)?;
    if !run.trusted {
        return Err(LiveError::Untrusted);
    }
    let supervisor = run.supervisor.unwrap_or_default();
    let socket = run.socket.as_ref().ok_or(LiveError::NoSocket { supervisor })?;
    Ok(Client::connect(socket)?)
}

/// Whether the supervisor is a `vmon run`, which ends when its sandbox has. A host's may live on.
pub fn is_commands(run: &Run) -> bool {
    run.spec.as_ref().is_some_and(|spec| spec.options.is_object())
}

/// The run that goes on without anybody who serves its socket, as when that was removed. One that
/// is just starting, or has just ended, is none: its socket is to come, or its end.
pub fn unserved<'a>(sandbox: &'a Recorded, error: &LiveError) -> Option<&'a Run> {
    let LiveError::Client(ClientError::NotServed(_)) = error else { return None };
    let lives = |process: &Option<Identity>| {
        process.as_ref().is_some_and(|it| it.liveness() == Liveness::Alive)
    };
    sandbox.running().filter(|run| {
        lives(&run.supervisor_identity) && (run.state == "RESTARTING" || lives(&run.child))
    })
}

/// Signals the command of a run without a socket; one that has ended meanwhile needs it no more.
pub fn signal_child(run: &Run, signal: Signal) -> Result<(), LiveError> {
    signalled(run.signal_child(signal), run.pid)
}

/// The same of its supervisor.
pub fn signal_supervisor(run: &Run, signal: Signal) -> Result<(), LiveError> {
    signalled(run.signal_supervisor(signal), run.supervisor)
}

fn signalled(outcome: io::Result<()>, pid: Option<u32>) -> Result<(), LiveError> {
    let pid = pid.unwrap_or_default();
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        // The system's own refusal has a number.
        Err(error) if error.raw_os_error().is_none() => Err(LiveError::Unproven { pid }),
        Err(error) => Err(LiveError::Signal { pid, reason: reason(&error) }),
    }
}

/// Waits for the end of a supervisor that has been asked to stop, and is its sandbox's own; as long
/// as its sandbox may take: `timeout` for the command, as much for its output, and what then follows.
pub fn ended(supervisor: &Identity, timeout: Duration) -> Result<(), LiveError> {
    let most = timeout.saturating_mul(2).saturating_add(AFTERMATH);
    within(most, LiveError::StillThere, || {
        // A failed look is no end.
        Ok((supervisor.liveness() == Liveness::Dead).then_some(()))
    })
}

/// Follows a sandbox that has been asked to stop to its end. Its command is killed when `timeout`
/// has passed; one that then lives on is not waited for.
pub fn follow_stop(mut watch: Watch, pid: u32, timeout: Duration) -> Result<(), LiveError> {
    let kill_at = Instant::now().checked_add(timeout);
    let give_up = kill_at.and_then(|at| at.checked_add(DYING));
    // Its output has its own time, of which the supervisor sees to.
    let mut draining = false;
    loop {
        let left = give_up.filter(|_| !draining);
        let left = left.map(|at| at.saturating_duration_since(Instant::now()));
        match watch.next_within(left) {
            Ok(Some(event)) if event.is_final() => return Ok(()),
            Ok(Some(event)) => draining = event.phase == Phase::Draining,
            Ok(None) => return Ok(()),
            Err(ClientError::Timeout(_)) => {
                return Err(LiveError::Unkillable { pid, seconds: DYING.as_secs() });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Follows a sandbox to its end, restarts included.
pub fn follow(mut watch: Watch) -> Result<Option<Ended>, LiveError> {
    while let Some(event) = watch.next_within(None)? {
        if event.is_final() {
            return Ok(event.end);
        }
    }
    Ok(None)
}

/// Tells of sandboxes that have ended what the record has of their last runs.
pub struct Endings<'a> {
    record: &'a Record,
    /// What was read last. Of many that end together one look tells.
    latest: Vec<Run>,
}

impl<'a> Endings<'a> {
    pub fn new(record: &'a Record) -> Self {
        Self { record, latest: Vec::new() }
    }

    /// The run of `sandbox` that is over. Waits until the record says so, and until nothing of its
    /// supervisor is in the way of the next run.
    pub fn settled(&mut self, sandbox: &Recorded) -> Result<Option<Run>, LiveError> {
        let Some(registry) = self.record.registry() else { return Ok(None) };
        let run = within(SETTLING, LiveError::NotOnRecord, || {
            let ended = self.ended(sandbox);
            if ended.is_none() {
                let lost = registry.reconcile()?.into_iter().find(|lost| sandbox.is_of(&lost.run));
                if let Some(remains) = lost.and_then(|lost| lost.remains) {
                    return Err(LiveError::LeftBehind(remains));
                }
                self.latest = registry.latest()?;
            }
            Ok(ended.or_else(|| self.ended(sandbox)))
        })?;
        if let Some(socket) = &run.socket {
            within(SETTLING, LiveError::StillServed, || {
                Ok(matches!(Client::connect(socket), Err(error) if error.is_gone()).then_some(()))
            })?;
        }
        Ok(Some(run))
    }

    fn ended(&self, sandbox: &Recorded) -> Option<Run> {
        let run = self.latest.iter().find(|run| sandbox.is_of(run))?;
        is_closed(run).then(|| run.clone())
    }

    /// What a run that goes on must have been when its supervisor is not to be found: over by now,
    /// or out of reach.
    pub fn lost(&mut self, sandbox: &Recorded, error: LiveError) -> Result<Option<Run>, LiveError> {
        if !error.is_over() {
            return Err(error);
        }
        if let Some(run) = unserved(sandbox, &error) {
            return Err(LiveError::NotServed { supervisor: run.supervisor.unwrap_or_default() });
        }
        match self.settled(sandbox) {
            Err(LiveError::NotOnRecord) => {
                let running = sandbox.running();
                let supervisor = running.and_then(|run| run.supervisor).unwrap_or_default();
                Err(LiveError::NotServed { supervisor })
            }
            settled => settled,
        }
    }
}

/// Whether the record has the end of a run. One whose supervisor has just ended may have been read
/// before that wrote it: it is stopped, and how it ended is not known yet.
pub fn is_closed(run: &Run) -> bool {
    run.status == Status::Stopped && (run.state == "STOPPED" || run.id.is_none())
}

/// Waits until the supervisor of a run has ended. Only of one that has nothing else to do.
pub fn supervisor_gone(run: &Run) -> Result<(), LiveError> {
    let Some(supervisor) = &run.supervisor_identity else { return Ok(()) };
    within(AFTERMATH, LiveError::StillThere, || {
        // A failed look is no end.
        Ok((supervisor.liveness() == Liveness::Dead).then_some(()))
    })
}

/// Looks again and again, for so long at most.
fn within<T>(
    time: Duration,
    too_late: LiveError,
    mut look: impl FnMut() -> Result<Option<T>, LiveError>,
) -> Result<T, LiveError> {
    let give_up = Instant::now() + time;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= give_up {
            return Err(too_late);
        }
        let _ = poll(&mut [], PollTimeout::from(LOOK));
    }
}
