//! Lives of sandboxes, as a monitor reports them to the registry, without a child.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use tempfile::TempDir;
use vmon::child::{Command, ExitStatus};
use vmon::monitor::{
    Claim, End, Identity, Observer, Outcome, Progress, Reason, Sandbox, Starting, Transition,
};
use vmon::registry::{Registry, RegistryObserver, Run};

use super::seed::SEED_SCHEMA;

pub struct Fixture {
    pub dir: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub fn db(&self) -> PathBuf {
        self.dir.path().join("state/sandbox.db")
    }

    pub fn registry(&self) -> Registry {
        Registry::open(self.db()).unwrap()
    }

    pub fn sqlite(&self) -> Connection {
        Connection::open(self.db()).unwrap()
    }

    /// A connection that keeps every other writer out until it is dropped.
    pub fn locked(&self) -> Connection {
        let lock = self.sqlite();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        lock
    }

    pub fn seed(&self, rows: &str) {
        fs::create_dir_all(self.db().parent().unwrap()).unwrap();
        let seed = self.sqlite();
        seed.execute_batch(SEED_SCHEMA).unwrap();
        seed.execute_batch(rows).unwrap();
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.sqlite().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub fn text(&self, sql: &str) -> String {
        self.sqlite().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// A start and what follows it, by a supervisor that may be another process.
pub struct Life {
    pub sandbox: Sandbox,
    pub command: Option<Command>,
    pub supervisor: Identity,
    pub at: DateTime<Utc>,
    pub restarts: u32,
    pub socket: Option<PathBuf>,
}

impl Life {
    pub fn of(name: &str) -> Self {
        Self {
            sandbox: Sandbox::new(name, "/var/log/vmon").unwrap(),
            command: Some(Command::new("sh").args(["-c", "exit 7"])),
            supervisor: Identity::current(),
            at: time("2026-11-23T17:02:03.123456Z"),
            restarts: 0,
            socket: None,
        }
    }

    pub fn handed_over(mut self) -> Self {
        self.command = None;
        self
    }

    pub fn under(mut self, supervisor: Identity) -> Self {
        self.supervisor = supervisor;
        self
    }

    pub fn starting(&self) -> Starting<'_> {
        let Self { sandbox, command, supervisor, at, restarts, socket } = self;
        let mut starting = Starting::new(sandbox, supervisor, *at);
        starting.command = command.as_ref();
        starting.restarts = *restarts;
        starting.socket = socket.as_deref();
        starting
    }

    /// The next run of the same supervisor.
    pub fn again(&self) -> Self {
        let (sandbox, command) = (self.sandbox.clone(), self.command.clone());
        let (supervisor, socket) = (self.supervisor.clone(), self.socket.clone());
        Self { sandbox, command, supervisor, socket, at: Utc::now(), restarts: self.restarts + 1 }
    }

    /// Asks until the claim is no longer late, as the monitor's timer does.
    pub fn claim(&self, observer: &mut RegistryObserver) -> Claim {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match observer.claim(&self.starting()) {
                Claim::Later(delay, _) if Instant::now() < deadline => thread::park_timeout(delay),
                claim => return claim,
            }
        }
    }

    pub fn granted(&self, observer: &mut RegistryObserver) {
        let claim = self.claim(observer);
        assert!(matches!(claim, Claim::Granted), "{claim:?}");
    }
}

pub fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

pub fn running() -> Transition {
    // Above the highest that Linux gives (proc_sys_kernel(5)): what is left of it may be killed.
    let child = Identity { pid: 4242424, start: 77, ..Identity::current() };
    Transition::Running { at: time("2026-11-23T17:02:04Z"), child }
}

pub fn stopping() -> Transition {
    Transition::Stopping { at: time("2026-11-23T17:02:05Z") }
}

fn end(outcome: Outcome) -> End {
    let mut end = End::new(outcome);
    (end.bytes_logged, end.bytes_dropped) = (1000, 10);
    end
}

pub fn stopped(outcome: Outcome) -> Transition {
    Transition::Stopped { at: time("2026-11-23T17:02:06.5Z"), end: end(outcome) }
}

/// Over, to be started again.
pub fn restarting(code: i32) -> Transition {
    let outcome = Outcome::Ended { status: ExitStatus::Code(code), reason: Reason::Exited };
    let end = end(outcome);
    Transition::Restarting { at: Utc::now(), end, after: Duration::from_millis(100) }
}

pub fn exited(code: i32) -> Transition {
    stopped(Outcome::Ended { status: ExitStatus::Code(code), reason: Reason::Exited })
}

/// Passes a transition to an observer and retries, as the monitor's timer does, until it is
/// written.
pub fn write_transition(observer: &mut RegistryObserver, transition: &Transition) {
    let mut progress = observer.transition(transition);
    while let Progress::Later(delay) = progress {
        thread::park_timeout(delay);
        progress = observer.retry();
    }
}

/// A process that runs until it is killed.
pub struct Supervisor(pub std::process::Child);

impl Supervisor {
    pub fn start() -> Self {
        let mut cat = std::process::Command::new("cat");
        Self(cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// The same with this variable in its environment.
    pub fn with(name: &str, value: &str) -> Self {
        let mut cat = std::process::Command::new("cat");
        cat.env(name, value).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(cat.spawn().unwrap())
    }

    pub fn identity(&self) -> Identity {
        Identity::of(self.0.id()).unwrap()
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub fn only(registry: &Registry) -> Run {
    let runs = registry.runs().unwrap();
    let [run] = <[Run; 1]>::try_from(runs).unwrap();
    run
}
