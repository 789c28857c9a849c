//! The four shapes of this program's life: what each event does in each state.
//!
//! The table of each shape is one function; what its steps do is in the module `life`. An event
//! that a state does not have does not come: steps and events alternate.

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The sockets are there; nothing has been started.
    Prepared,
    /// The runtime has ended.
    RuntimeEnded(RuntimeEnd),
    /// The monitored process has ended with this exit code, -1 if that is not known.
    Ended(i32),
    /// It has been killed after `--timeout`.
    TimedOut,
}

/// What the runtime has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeEnd {
    /// Whether its exit code is 0.
    pub succeeded: bool,
    /// Whether it has sent the terminal that it was to send.
    pub has_terminal: bool,
    pub pid: PidFile,
}

/// The file that the runtime writes the container's pid to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidFile {
    Pid(u32),
    /// It has no pid. The file of an ExecSync of CRI-O exists, and is empty, before the start.
    Empty,
    Missing,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run the runtime. With `attach`, the caller is to attach before: it gets a 0 on the attach
    /// pipe, and the runtime waits for the start pipe once more.
    Run { attach: bool },
    /// Report the pid if `report` is set, and monitor this process.
    Monitor { pid: u32, report: bool },
    /// Report -1 with what the runtime has written to its stderr, which goes to the log as well if
    /// `log` is set, and end with 1.
    Refuse { log: bool },
    /// Write the exit files, report the code if there is a report, and end with the code.
    Finish { code: i32, report: Option<&'static str> },
}

/// The text of the message of a timeout. CRI-O compares it.
pub const TIMED_OUT: &str = "command timed out";

/// The shape, and how far this life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A container is created.
    Create(Progress),
    /// A container is restored from an image. Only the runtime's arguments differ from those of [`Create`](Self::Create).
    Restore(Progress),
    /// A command is run in a container, for a caller that waits for its exit code alone: CRI-O's
    /// ExecSync.
    ExecApi0(Progress),
    /// A command is run in a container, for a caller that may attach to it: `podman exec`.
    ExecApi1(Progress, Attach),
}

/// How far a life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing has been started.
    Preparing,
    /// The runtime runs.
    Starting,
    /// The container's process is monitored.
    Running,
    /// It is over, but for the exit command.
    Over,
}

/// Whether the caller attaches before the command is run (`--exec-attach`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    First,
    No,
}

use Event::{Ended, Prepared, RuntimeEnded, TimedOut};
use PidFile::Pid;
use Progress::{Over, Preparing, Running, Starting};
use Step::{Finish, Monitor, Refuse, Run};

impl Shape {
    /// Moves on, and returns what is to be done.
    pub fn next(&mut self, event: Event) -> Step {
        match self {
            Self::Create(progress) | Self::Restore(progress) => create(progress, event),
            Self::ExecApi0(progress) => exec_api0(progress, event),
            Self::ExecApi1(progress, attach) => exec_api1(progress, *attach, event),
        }
    }
}

/// Create and restore: the pid is reported, once.
fn create(progress: &mut Progress, event: Event) -> Step {
    let (next, step) = match (*progress, event) {
        (Preparing, Prepared) => (Starting, Run { attach: false }),
        (
            Starting,
            RuntimeEnded(RuntimeEnd { succeeded: true, has_terminal: true, pid: Pid(pid) }),
        ) => (Running, Monitor { pid, report: true }),
        (Starting, RuntimeEnded(_)) => (Over, Refuse { log: false }),
        (Running, Ended(code)) => (Over, Finish { code, report: None }),
        (Running, TimedOut) => (Over, Finish { code: -1, report: None }),
        (_, Prepared | RuntimeEnded(_) | Ended(_) | TimedOut) => (Over, Refuse { log: false }),
    };
    *progress = next;
    step
}

/// Exec without `--api-version`: the exit code is reported, once. The exit code of the runtime has
/// no meaning; its words are in the log, as part of the command's output.
fn exec_api0(progress: &mut Progress, event: Event) -> Step {
    let (next, step) = match (*progress, event) {
        (Preparing, Prepared) => (Starting, Run { attach: false }),
        (Starting, RuntimeEnded(RuntimeEnd { has_terminal: true, pid: Pid(pid), .. })) => {
            (Running, Monitor { pid, report: false })
        }
        (Starting, RuntimeEnded(_)) => (Over, Refuse { log: true }),
        (Running, Ended(code)) => (Over, Finish { code, report: Some("") }),
        (Running, TimedOut) => (Over, Finish { code: -1, report: Some(TIMED_OUT) }),
        (_, Prepared | RuntimeEnded(_) | Ended(_) | TimedOut) => (Over, Refuse { log: true }),
    };
    *progress = next;
    step
}

/// Exec with `--api-version`: the pid is reported, and at the end the exit code.
fn exec_api1(progress: &mut Progress, attach: Attach, event: Event) -> Step {
    let (next, step) = match (*progress, event) {
        (Preparing, Prepared) => (Starting, Run { attach: attach == Attach::First }),
        (Starting, RuntimeEnded(RuntimeEnd { has_terminal: true, pid: Pid(pid), .. })) => {
            (Running, Monitor { pid, report: true })
        }
        (Starting, RuntimeEnded(_)) => (Over, Refuse { log: true }),
        (Running, Ended(code)) => (Over, Finish { code, report: Some("") }),
        (Running, TimedOut) => (Over, Finish { code: -1, report: Some(TIMED_OUT) }),
        (_, Prepared | RuntimeEnded(_) | Ended(_) | TimedOut) => (Over, Refuse { log: true }),
    };
    *progress = next;
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: RuntimeEnd = RuntimeEnd { succeeded: true, has_terminal: true, pid: Pid(7) };

    /// The steps of a life with these events.
    fn steps(mut shape: Shape, events: &[Event]) -> Vec<Step> {
        events.iter().map(|event| shape.next(*event)).collect()
    }

    #[test]
    fn a_created_or_restored_container_is_reported_once() {
        for shape in [Shape::Create(Preparing), Shape::Restore(Preparing)] {
            assert_eq!(
                steps(shape, &[Prepared, RuntimeEnded(STARTED), Ended(3)]),
                [
                    Run { attach: false },
                    Monitor { pid: 7, report: true },
                    Finish { code: 3, report: None }
                ]
            );
            let ended = steps(shape, &[Prepared, RuntimeEnded(STARTED), TimedOut]);
            assert_eq!(ended.last(), Some(&Finish { code: -1, report: None }));
        }
    }

    #[test]
    fn a_container_needs_a_runtime_that_succeeds_and_a_pid_and_its_terminal() {
        for end in [
            RuntimeEnd { succeeded: false, ..STARTED },
            RuntimeEnd { has_terminal: false, ..STARTED },
            RuntimeEnd { pid: PidFile::Empty, ..STARTED },
            RuntimeEnd { pid: PidFile::Missing, ..STARTED },
        ] {
            let steps = steps(Shape::Create(Preparing), &[Prepared, RuntimeEnded(end)]);
            assert_eq!(steps.last(), Some(&Refuse { log: false }), "{end:?}");
        }
    }

    #[test]
    fn an_exec_without_the_newer_api_reports_its_exit_code_alone() {
        let shape = Shape::ExecApi0(Preparing);
        let failed = RuntimeEnd { succeeded: false, ..STARTED };
        assert_eq!(
            steps(shape, &[Prepared, RuntimeEnded(failed), Ended(3)]),
            [
                Run { attach: false },
                Monitor { pid: 7, report: false },
                Finish { code: 3, report: Some("") }
            ]
        );
        let ended = steps(shape, &[Prepared, RuntimeEnded(STARTED), TimedOut]);
        let expected = Finish { code: -1, report: Some("command timed out") };
        assert_eq!(ended.last(), Some(&expected));
        for pid in [PidFile::Empty, PidFile::Missing] {
            let end = RuntimeEnd { pid, ..STARTED };
            let steps = steps(shape, &[Prepared, RuntimeEnded(end)]);
            assert_eq!(steps.last(), Some(&Refuse { log: true }));
        }
    }

    #[test]
    fn an_exec_with_the_newer_api_reports_its_pid_and_its_exit_code() {
        for (attach, first) in [(Attach::First, true), (Attach::No, false)] {
            assert_eq!(
                steps(
                    Shape::ExecApi1(Preparing, attach),
                    &[Prepared, RuntimeEnded(STARTED), Ended(3)]
                ),
                [
                    Run { attach: first },
                    Monitor { pid: 7, report: true },
                    Finish { code: 3, report: Some("") }
                ]
            );
        }
        let end = RuntimeEnd { pid: PidFile::Missing, ..STARTED };
        let shape = Shape::ExecApi1(Preparing, Attach::First);
        assert_eq!(
            steps(shape, &[Prepared, RuntimeEnded(end)]).last(),
            Some(&Refuse { log: true })
        );
    }
}
