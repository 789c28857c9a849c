//! Log drivers: what the output of a child is logged to in place of its own log.

use std::os::fd::BorrowedFd;

#[cfg(all(feature = "journald", target_os = "linux"))]
use crate::journal::Journal;
use crate::logfile::{K8sFile, LogError, Stream};
use crate::reactor::{Interest, SourceId, Sources};

/// Where the output of a child is logged, in place of the log that vmon keeps itself:
/// [`Builder::log_drivers`](crate::monitor::Builder::log_drivers).
#[derive(Debug)]
#[non_exhaustive]
pub enum LogDriver {
    /// A file in the Kubernetes format, at a path of the caller's.
    K8sFile(K8sFile),
    /// The journal of systemd.
    #[cfg(all(feature = "journald", target_os = "linux"))]
    #[cfg_attr(docsrs, doc(cfg(all(feature = "journald", target_os = "linux"))))]
    Journal(Journal),
}

impl LogDriver {
    /// Opens a file by its path, after it has been moved away: [`K8sFile::reopen`]. Does nothing to
    /// another driver.
    ///
    /// # Errors
    ///
    /// As [`K8sFile::reopen`].
    pub fn reopen(&mut self) -> Result<(), LogError> {
        match self {
            Self::K8sFile(file) => file.reopen(),
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(_) => Ok(()),
        }
    }

    /// Has the system write a file to the disk: [`K8sFile::sync`]. It may take seconds. Does nothing
    /// to another driver.
    ///
    /// # Errors
    ///
    /// As [`K8sFile::sync`].
    pub fn sync(&self) -> Result<(), LogError> {
        match self {
            Self::K8sFile(file) => file.sync(),
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(_) => Ok(()),
        }
    }

    /// Bytes of the child's that it has taken and dropped.
    fn dropped(&self) -> u64 {
        match self {
            Self::K8sFile(file) => file.dropped(),
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => journal.dropped(),
        }
    }

    fn write(&mut self, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> Taken {
        match self {
            Self::K8sFile(file) => match file.write_using(spare, stream, bytes) {
                Ok(()) => Taken { count: bytes.len(), error: None },
                Err(error) => Taken { count: error.written, error: Some(error.source) },
            },
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => Taken { count: journal.write(stream, bytes), error: None },
        }
    }

    /// Sends what waits in memory. Returns whether nothing waits any more.
    fn flush(&mut self) -> bool {
        match self {
            Self::K8sFile(_) => true,
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => {
                journal.flush();
                !journal.is_waiting()
            }
        }
    }

    /// The same at the end of a run, with lines that have no end.
    fn finish(&mut self) -> bool {
        match self {
            Self::K8sFile(_) => true,
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => journal.finish(),
        }
    }

    /// Whether something waits in memory that is to be sent as soon as that is possible.
    fn is_waiting(&self) -> bool {
        match self {
            Self::K8sFile(_) => false,
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => journal.is_waiting(),
        }
    }

    /// The descriptor that becomes writable then; `None` also if only time can tell.
    fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::K8sFile(_) => None,
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => journal.waits_on(),
        }
    }

    /// Gives up what waits in memory, and counts it as dropped.
    fn give_up(&mut self) {
        match self {
            Self::K8sFile(_) => {}
            #[cfg(all(feature = "journald", target_os = "linux"))]
            Self::Journal(journal) => journal.give_up(),
        }
    }
}

#[cfg(all(feature = "journald", target_os = "linux"))]
impl From<Journal> for LogDriver {
    fn from(journal: Journal) -> Self {
        Self::Journal(journal)
    }
}

impl From<K8sFile> for LogDriver {
    fn from(file: K8sFile) -> Self {
        Self::K8sFile(file)
    }
}

/// What a log has taken of the bytes that were offered.
#[derive(Debug)]
pub(super) struct Taken {
    /// How many. If fewer than were offered, the rest must be offered again.
    pub(super) count: usize,
    /// Why no more. `None` also if it only has to be waited for.
    pub(super) error: Option<LogError>,
}

/// The drivers of one child, which receive the same bytes. The slowest one sets the pace.
#[derive(Debug, Default)]
pub(crate) struct Drivers(Vec<Slot>);

#[derive(Debug)]
struct Slot {
    driver: LogDriver,
    /// For each kind of bytes, how many of those that are offered next it has taken already: it was
    /// given them together with a driver that could not take them.
    ahead: [usize; KINDS],
    /// Set while the driver waits for a descriptor.
    source: Option<SourceId>,
}

/// Standard output or the terminal, standard error, and notices are offered independently.
pub(super) const KINDS: usize = 3;

impl Drivers {
    pub(crate) fn new(drivers: impl IntoIterator<Item = LogDriver>) -> Self {
        let slot = |driver| Slot { driver, ahead: [0; KINDS], source: None };
        Self(drivers.into_iter().map(slot).collect())
    }

    /// The drivers, when nothing more is written.
    pub(crate) fn into_drivers(self) -> Vec<LogDriver> {
        self.0.into_iter().map(|slot| slot.driver).collect()
    }

    /// Whether nothing is logged.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Offers bytes to every driver; the outcome is that of the one that has taken the fewest.
    pub(super) fn write(&mut self, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> Taken {
        let mut least = Taken { count: bytes.len(), error: None };
        for slot in &mut self.0 {
            let Some(ahead) = slot.ahead.get_mut(kind(stream)) else { continue };
            let (known, rest) = bytes.split_at((*ahead).min(bytes.len()));
            let mut taken = slot.driver.write(spare, stream, rest);
            taken.count += known.len();
            *ahead = taken.count;
            if taken.count < least.count {
                least = taken;
            }
        }
        for ahead in self.ahead(stream) {
            *ahead -= least.count;
        }
        least
    }

    /// The bytes that were offered last are not offered again.
    pub(super) fn skip(&mut self, stream: Stream) {
        self.ahead(stream).for_each(|ahead| *ahead = 0);
    }

    /// Sends what waits in memory.
    pub(super) fn flush<S: Copy>(&mut self, sources: &mut Sources<'_, S>) {
        for Slot { driver, source, .. } in &mut self.0 {
            if !driver.flush()
                && let Some(id) = source
            {
                sources.would_block(*id, Interest::WRITE);
            }
        }
    }

    /// Sends everything, unfinished lines too, at the end of a run. Returns whether nothing waits
    /// any more.
    pub(super) fn finish(&mut self) -> bool {
        let mut empty = true;
        for slot in &mut self.0 {
            empty &= slot.driver.finish();
        }
        empty
    }

    /// Watches the descriptors that drivers wait for, under this key.
    pub(super) fn follow<S: Copy>(&mut self, key: S, sources: &mut Sources<'_, S>) {
        for Slot { driver, source, .. } in &mut self.0 {
            match (driver.waits_on(), *source) {
                (Some(fd), None) => *source = sources.register(&fd, Interest::WRITE, key).ok(),
                (None, Some(id)) => {
                    sources.deregister(id);
                    *source = None;
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }

    /// Whether a driver waits for something that no descriptor reports.
    pub(super) fn need_retry(&self) -> bool {
        self.0.iter().any(|slot| slot.driver.is_waiting() && slot.source.is_none())
    }

    /// Gives up what waits in memory, and watches nothing any more.
    pub(super) fn close<S: Copy>(&mut self, sources: &mut Sources<'_, S>) {
        for Slot { driver, source, .. } in &mut self.0 {
            driver.give_up();
            if let Some(id) = source.take() {
                sources.deregister(id);
            }
        }
    }

    /// A run is over: what its drivers have not taken is not offered again.
    pub(super) fn end_run(&mut self) {
        self.0.iter_mut().for_each(|slot| slot.ahead = [0; KINDS]);
    }

    fn ahead(&mut self, stream: Stream) -> impl Iterator<Item = &mut usize> {
        self.0.iter_mut().filter_map(move |slot| slot.ahead.get_mut(kind(stream)))
    }

    /// Opens every file by its path again; returns the first failure.
    pub(super) fn reopen(&mut self) -> Result<(), LogError> {
        let mut outcome = Ok(());
        for slot in &mut self.0 {
            outcome = outcome.and(slot.driver.reopen());
        }
        outcome
    }

    /// Bytes that a driver has taken and dropped, of the one that has dropped the most.
    pub(super) fn dropped(&self) -> u64 {
        self.0.iter().map(|slot| slot.driver.dropped()).max().unwrap_or(0)
    }
}

/// The index of the kind of bytes.
pub(super) fn kind(stream: Stream) -> usize {
    match stream {
        Stream::Stdout | Stream::Tty => 0,
        Stream::Stderr => 1,
        Stream::Notice => 2,
    }
}
