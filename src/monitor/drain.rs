//! When the drain of an ended child's output is over.

/// When the drain is over: the reading of the rest of the output once the child has been reaped.
///
/// With either, the log and the host's streams first get all that the child itself has written, and
/// bytes that wait for a full disk or for a reader are waited for; a stop bounds that by the stop
/// timeout. The drain also waits for the processes that are ended with the child, so a host that
/// leaves them running ([`Sandbox::leave_descendants`]) chooses [`Available`](Self::Available) where
/// a daemon that holds the streams must not delay the end.
///
/// ```
/// use vmon::monitor::{Drain, Monitor, Sandbox};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sandbox = Sandbox::new("exec", "/var/lib/host/log")?.leave_descendants(true);
/// let builder = Monitor::builder(sandbox).drain(Drain::Available);
/// # let _ = builder;
/// # Ok(())
/// # }
/// ```
///
/// [`Sandbox::leave_descendants`]: super::Sandbox::leave_descendants
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Drain {
    /// At the end of file of each output; after 200 ms of silence while another process holds an
    /// output open; at the stop timeout if such a process keeps writing.
    #[default]
    Quiet,
    /// When what is in the pipes or in the PTY now has been read, also while other processes hold
    /// them open. What those write afterwards is lost, and a write to a pipe then gets SIGPIPE.
    ///
    /// A pipe is read up to the number of bytes that it had when the child was reaped. The kernel
    /// does not report that number for a PTY, which is read until it is empty, or for 128 KiB.
    Available,
}
