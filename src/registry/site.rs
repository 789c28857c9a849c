//! Where a supervisor is, and whether it lives.
//!
//! A pid tells that only in its own pid namespace on its own boot. Elsewhere the lock of the
//! supervisor does ([`super::lock`]), on the same machine. A run of another machine is never taken
//! for lost: a lock may not reach from one machine to another.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use nix::unistd::gethostname;

use super::lock::{LockedByte, SupervisorLock, is_held, is_local};
use super::state_dir::StateDir;
use crate::monitor::{Identity, Liveness};

/// Where the supervisor of a run is, as seen from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// In this pid namespace.
    Here,
    /// In another pid namespace of this machine: its pid means another process here, or none.
    OtherNamespace,
    /// On another machine that uses the same state directory: it has another `/etc/machine-id`. Where
    /// one of them has none, another boot id on a file system that several machines can mount counts
    /// as another machine.
    OtherMachine,
}

/// What a record has of the place of a supervisor, beside its identity.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// machine-id(5).
    pub(super) machine_id: Option<String>,
    /// The host name, to show.
    pub(super) host: Option<String>,
    /// What the supervisor has locked for as long as it lives; `None` if it could not, and in
    /// records of earlier versions.
    pub(super) locked: Option<LockedByte>,
    /// The lock, if the supervisor is this process.
    lock: Option<SupervisorLock>,
}

/// The sites of this process that are in use. Only accessed with `try_lock`.
static OWN: Mutex<Vec<Own>> = Mutex::new(Vec::new());

struct Own {
    spool: PathBuf,
    /// A process that was forked has to have a lock of its own.
    pid: u32,
    site: Weak<Site>,
}

impl Site {
    /// From a record.
    pub(super) fn on_record(
        machine_id: Option<String>,
        host: Option<String>,
        lock: Option<&str>,
    ) -> Self {
        Self { machine_id, host, locked: lock.and_then(|lock| lock.parse().ok()), lock: None }
    }

    /// The site of a supervisor on this machine. If it is this process, it has a lock, one for all
    /// its runs with this spool directory, which lasts as long as one of them is in use.
    pub(super) fn of(supervisor: &Identity, spool: &Path) -> Arc<Self> {
        let pid = std::process::id();
        if supervisor.pid != pid {
            // A host reports the run of another process.
            return Arc::new(Self::without_lock());
        }
        let Ok(mut own) = OWN.try_lock() else {
            return Arc::new(Self::locked(spool));
        };
        own.retain(|own| own.site.strong_count() > 0);
        let found = own.iter().filter(|own| own.pid == pid && own.spool == spool);
        let mut found = found.filter_map(|own| own.site.upgrade());
        if let Some(site) = found.find(|site| site.is_proof(spool)) {
            return site;
        }
        let site = Arc::new(Self::locked(spool));
        if site.lock.is_some() {
            own.push(Own { spool: spool.to_owned(), pid, site: Arc::downgrade(&site) });
        }
        site
    }

    fn without_lock() -> Self {
        let host = gethostname().ok().map(|name| name.to_string_lossy().into_owned());
        Self { machine_id: machine_id(), host, locked: None, lock: None }
    }

    fn locked(spool: &Path) -> Self {
        let site = Self::without_lock();
        match SupervisorLock::acquire(spool) {
            Ok(lock) => Self { locked: Some(lock.byte), lock: Some(lock), ..site },
            Err(error) => {
                tracing::debug!(
                    directory = %spool.display(), %error,
                    "no lock proves to other pid namespaces that this process lives",
                );
                site
            }
        }
    }

    /// Whether readers find the lock.
    fn is_proof(&self, spool: &Path) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_linked(spool))
    }
}

/// This process as a reader of a record. What it needs is read at first use.
#[derive(Debug)]
pub(super) struct Here<'a> {
    pub(super) state: &'a StateDir,
    own: OnceCell<(Identity, Option<String>)>,
    is_local: OnceCell<bool>,
}

impl<'a> Here<'a> {
    pub(super) fn new(state: &'a StateDir) -> Self {
        Self { state, own: OnceCell::new(), is_local: OnceCell::new() }
    }

    fn own(&self) -> &(Identity, Option<String>) {
        self.own.get_or_init(|| (Identity::current(), machine_id()))
    }

    /// Where a supervisor is.
    pub(super) fn location(&self, supervisor: &Identity, site: &Site) -> Location {
        let (own, machine_id) = self.own();
        let is_same_machine = is_same_boot(own, supervisor) == Some(true)
            || match (&site.machine_id, machine_id) {
                (Some(its), Some(own)) => its == own,
                _ => *self.is_local.get_or_init(|| is_local(&self.state.spool)),
            };
        match is_same_machine {
            false => Location::OtherMachine,
            true if supervisor.pid_namespace == own.pid_namespace => Location::Here,
            true => Location::OtherNamespace,
        }
    }

    /// Whether a supervisor lives.
    pub(super) fn liveness(&self, supervisor: &Identity, site: &Site) -> Liveness {
        let (own, _) = self.own();
        let (location, same_boot) =
            (self.location(supervisor, site), is_same_boot(own, supervisor));
        if location == Location::Here && same_boot == Some(true) {
            match supervisor.liveness() {
                Liveness::Unknown => {}
                known => return known,
            }
        }
        let held = site.locked.and_then(|byte| is_held(&self.state.spool, byte));
        match (held, location) {
            (Some(true), _) => Liveness::Alive,
            (_, Location::OtherMachine) => Liveness::Unknown,
            (Some(false), _) => Liveness::Dead,
            (None, _) if same_boot == Some(false) => Liveness::Dead,
            (None, _) => Liveness::Unknown,
        }
    }
}

/// `None` if one of them has no boot id, as where only a part of /proc is mounted (`subset=pid`).
fn is_same_boot(own: &Identity, other: &Identity) -> Option<bool> {
    let are_known = !own.boot_id.is_empty() && !other.boot_id.is_empty();
    are_known.then(|| own.boot_id == other.boot_id)
}

/// machine-id(5). systemd writes `uninitialized` during the first boot, and images of containers
/// have an empty file or none.
fn machine_id() -> Option<String> {
    let text = fs::read_to_string("/etc/machine-id").ok()?;
    let id = text.trim_end();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}
