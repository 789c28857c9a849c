//! Out-of-memory events of the cgroup of a process. Linux only: the module is absent elsewhere.
//!
//! An [`OomWatch`] has one descriptor for the poller of a host, and holds nothing else that costs
//! anything while no event occurs. It reports that memory ran out in the cgroup, not which process
//! was killed for it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::process::cgroup::memory::{MemoryCgroup, Version, read};
use crate::process::cgroup::value;

/// A watch for out-of-memory events of one cgroup.
///
/// In cgroup v2 an event is an increase of `oom` or `oom_kill` in `memory.events`, which inotify(7)
/// reports. They count what happens in the cgroup and in those below it. In cgroup v1 an event is a
/// notification of `memory.oom_control` through an eventfd(2).
///
/// The descriptor is close-on-exec and non-blocking. When it is readable, call
/// [`check`](Self::check), which makes it unreadable again. Its end is the end of the watch: nothing
/// is left in the cgroup, also after a crash.
///
/// An increase before [`of`](Self::of) is not an event.
///
/// ```
/// use std::os::fd::AsFd;
/// use vmon::oom::OomWatch;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut child = std::process::Command::new("sleep").arg("1000").spawn()?;
/// // An error, for one: in cgroup v1 this takes privileges. None: no memory is accounted for.
/// if let Ok(Some(mut watch)) = OomWatch::of(child.id()) {
///     let _register_with_the_poller = watch.as_fd();
///     assert!(!watch.check());
/// }
/// # child.kill()?;
/// # child.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OomWatch(Watch);

/// The error of watching a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OomError {
    /// The cgroup of the process can't be read: it has ended and was reaped, or is hidden from this
    /// user.
    #[error("can't read the cgroup of pid {pid}: {source}")]
    Process {
        /// The process.
        pid: u32,
        /// The error of open(2) or read(2).
        source: io::Error,
    },
    /// Its cgroup can't be watched.
    #[error("can't watch {} for out-of-memory events: {source}", .path.display())]
    Watch {
        /// The file of the cgroup.
        path: PathBuf,
        /// The error of a system call.
        source: io::Error,
    },
}

#[derive(Debug)]
enum Watch {
    V1(Notifications),
    V2(EventCounts),
}

impl OomWatch {
    /// Watches the memory cgroup that this process is in now. It is found in `/proc/PID/cgroup`,
    /// and its directory at the usual place below `/sys/fs/cgroup` or in `/proc/self/mountinfo`.
    ///
    /// `None` if there is nothing to watch: no memory controller, a root cgroup of v2, or no mount
    /// of the hierarchy that shows the cgroup. A zombie is in the root cgroup of v1.
    ///
    /// # Errors
    ///
    /// [`OomError`]. In cgroup v1 only a process that may write to `cgroup.event_control`, usually
    /// root, can watch a cgroup. Nothing is left behind.
    pub fn of(pid: u32) -> Result<Option<Self>, OomError> {
        let cgroup = MemoryCgroup::of(Some(pid));
        let Some(cgroup) = cgroup.map_err(|source| OomError::Process { pid, source })? else {
            return Ok(None);
        };
        let events = cgroup.version.events();
        let events = cgroup.find(|directory| {
            let file = directory.join(events);
            file.exists().then_some(file)
        });
        events.map(|events| Self::on(events, cgroup.version)).transpose()
    }

    fn on(events: PathBuf, version: Version) -> Result<Self, OomError> {
        let watch = match version {
            Version::V1 => Notifications::new(&events).map(Watch::V1),
            Version::V2 => EventCounts::new(&events).map(Watch::V2),
        };
        match watch {
            Ok(watch) => Ok(Self(watch)),
            Err(source) => Err(OomError::Watch { path: events, source }),
        }
    }

    /// Whether an event has occurred since the last call, or since [`of`](Self::of). Never blocks.
    ///
    /// It needs no readable descriptor: a last call after the end of the process finds an event
    /// that the poller has not reported yet. False if the cgroup has been removed and no event is
    /// known, so call it before the cgroup is removed.
    pub fn check(&mut self) -> bool {
        match &mut self.0 {
            Watch::V1(notifications) => notifications.check(),
            Watch::V2(counts) => counts.check(),
        }
    }
}

impl AsFd for OomWatch {
    /// The descriptor that becomes readable at an event, and perhaps at the removal of the cgroup.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Watch::V1(notifications) => notifications.received.as_fd(),
            Watch::V2(counts) => counts.inotify.as_fd(),
        }
    }
}

/// The notifications of a cgroup v1.
#[derive(Debug)]
struct Notifications {
    received: EventFd,
    /// `cgroup.event_control`, which exists as long as the cgroup.
    control: PathBuf,
    /// Whether the notification of the cgroup's removal has been received.
    removed: bool,
}

impl Notifications {
    fn new(oom_control: &Path) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let received = EventFd::from_flags(flags)?;
        // Both are needed for this call only: the kernel keeps a reference to the cgroup.
        let oom_control_fd = File::open(oom_control)?;
        let control = oom_control.with_file_name("cgroup.event_control");
        let order = format!("{} {}", received.as_raw_fd(), oom_control_fd.as_raw_fd());
        fs::write(&control, order)?;
        Ok(Self { received, control, removed: false })
    }

    fn check(&mut self) -> bool {
        let count = loop {
            match self.received.read() {
                Err(Errno::EINTR) => {}
                // EAGAIN: none.
                count => break count.unwrap_or(0),
            }
        };
        let is_gone = || !self.control.try_exists().unwrap_or(true);
        if count == 0 || self.removed || !is_gone() {
            return count > 0;
        }
        // The removal itself is notified once, which may be later than the end of the directory:
        // of two notifications, received one by one, the second one is an event then.
        self.removed = true;
        count > 1
    }
}

/// The counts of events in a cgroup v2.
#[derive(Debug)]
struct EventCounts {
    inotify: Inotify,
    events: PathBuf,
    last: (u64, u64),
}

impl EventCounts {
    fn new(events: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(events, AddWatchFlags::IN_MODIFY)?;
        // Read after that: no change is missed in between.
        let last = counts(events)?;
        Ok(Self { inotify, events: events.to_owned(), last })
    }

    fn check(&mut self) -> bool {
        // Only that there are events matters. They are read until EAGAIN, for a poller that reports
        // edges.
        while matches!(self.inotify.read_events(), Ok(_) | Err(Errno::EINTR)) {}
        // The cgroup may have been removed.
        let Ok(now) = counts(&self.events) else { return false };
        let last = std::mem::replace(&mut self.last, now);
        now.0 > last.0 || now.1 > last.1
    }
}

/// `oom` and `oom_kill` of `memory.events`.
fn counts(events: &Path) -> io::Result<(u64, u64)> {
    let text = read(events)?;
    let count = |key| value(&text, key).unwrap_or(0);
    Ok((count("oom"), count("oom_kill")))
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_readable(watch: &OomWatch) -> bool {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn an_increase_of_a_count_of_v2_is_one_event() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        let write = |oom: u64, kills: u64| {
            fs::write(&file, format!("max 3\noom {oom}\noom_kill {kills}\n")).unwrap();
        };
        write(1, 1);
        let mut watch = OomWatch::on(file.clone(), Version::V2).unwrap();
        assert!(!is_readable(&watch) && !watch.check(), "what was before is none");
        write(2, 1);
        assert!(is_readable(&watch) && watch.check());
        assert!(!is_readable(&watch) && !watch.check());
        write(2, 2);
        assert!(watch.check(), "without a look at the descriptor");
        fs::write(&file, "max 4\noom 2\noom_kill 2\n").unwrap();
        assert!(is_readable(&watch) && !watch.check(), "another count");
        fs::remove_file(&file).unwrap();
        assert!(!watch.check());
    }

    #[test]
    fn of_the_notifications_of_v1_one_is_the_removal() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("cgroup.event_control");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        // Events that are received together, in each call; the first call while the cgroup exists.
        let reported = |calls: &[u64]| -> Vec<bool> {
            fs::write(&control, "").unwrap();
            let received = EventFd::from_flags(flags).unwrap();
            let mut watch = Notifications { received, control: control.clone(), removed: false };
            let mut answers = Vec::new();
            for events in calls {
                if *events > 0 {
                    watch.received.write(*events).unwrap();
                }
                answers.push(watch.check());
                let _ = fs::remove_file(&control);
            }
            answers
        };
        assert_eq!(reported(&[0, 1, 0]), [false, false, false]);
        assert_eq!(reported(&[1, 1]), [true, false]);
        assert_eq!(reported(&[0, 2]), [false, true]);
        assert_eq!(reported(&[0, 1, 1]), [false, false, true], "the removal's came last");
    }
}
