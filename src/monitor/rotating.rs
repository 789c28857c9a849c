//! The command that is run with each generation of the log once it has been rotated away: one at a
//! time, beside the sandbox, and waited for by nobody.
//!
//! The log knows which generations wait, on disk too; here is who works on them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::Duration;

use tracing::{debug, warn};

use super::running::LOOK;
use super::streams::Streams;
use super::{Cx, Launch, Monitor, Source, Timer};
use crate::child::{self, Bystander, Child, Command, ExitStatus, Identity, Reach};
use crate::logfile::{LogFile, Rotated};
use crate::process::FileLimit;
use crate::reactor::{Interest, Leaving, SourceId};

/// How long after a command could not be started the next try comes.
const RETRY: Duration = Duration::from_secs(10);

/// What is not finished is left to this when the monitor ends: `$1` is the log, `$2` to `$3` are the
/// numbers of those whose turn has not come, `$4` is the one that a process still works on whose pid
/// is `$5` and whose start `$6`, or else `$2`; `$7` is the command. The note of what waits goes at last,
/// unless another supervisor has taken that over; it may have to be written first.
const LEFT_TO: &str = r#"
log=$1 n=$2 last=$3 first=$4 pid=$5 start=$6 command=$7
while [ "$pid" ] && kill -0 "$pid" 2>/dev/null; do
  if read -r stat 2>/dev/null <"/proc/$pid/stat"; then
    set -- ${stat##*)}
    case $1 in Z | X) break ;; esac
    shift 19
    [ "$1" = "$start" ] || break
  fi
  sleep 1
done
while [ "$n" -le "$last" ]; do
  file=$log.$(printf %08d "$n")
  if [ -f "$file" ]; then
    rm -f "$file.gz" "$file.zst"
    sh -c "$command \"\$@\"" sh "$file" || [ ! -f "$file" ] || rm -f "$file.gz" "$file.zst"
  fi
  n=$((n + 1))
done
for try in 1 2 3; do
  [ -f "$log.todo" ] || break
  if read -r a b c rest <"$log.todo" && [ "$a $b $c" = "$first $last $$" ]; then
    rm -f "$log.todo"
    break
  fi
  sleep 1
done
"#;

/// What a monitor knows of the command.
pub(super) struct Rotating {
    command: OsString,
    file_limit: Option<FileLimit>,
    state: State,
    /// The log while no run has it: between two of them.
    log: Option<LogFile>,
    /// Process groups of commands that have ended and left somebody in them, who comes down to us
    /// where we are a subreaper.
    groups: Vec<u32>,
}

/// Who works.
enum State {
    Nobody,
    /// A command of ours.
    Ours(Working),
    /// What an earlier supervisor of this sandbox has left: waited for, so that there is one at a
    /// time.
    Earlier(Bystander, Option<SourceId>),
    /// The last one could not be started, which has been told.
    Refused,
}

struct Working {
    child: Child,
    exit: Option<SourceId>,
    generation: Rotated,
}

impl Rotating {
    /// Of this command, with the file limit of the sandbox's own.
    pub(super) fn new(command: &OsStr, launch: &Launch) -> Box<Self> {
        let file_limit = match launch {
            Launch::Spawn(command) => command.former_file_limit(),
            Launch::Adopt(..) => None,
        };
        Box::new(Self {
            command: command.to_owned(),
            file_limit,
            state: State::Nobody,
            log: None,
            groups: Vec::new(),
        })
    }

    /// Before the log is opened by the next run.
    pub(super) fn close_log(&mut self) {
        self.log = None;
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Nobody)
    }

    fn start(&mut self, generation: &Rotated) -> Result<Child, String> {
        let mut script = self.command.clone();
        script.push(" \"$@\"");
        let words = [OsString::from("-c"), script, "sh".into(), generation.path.clone().into()];
        self.spawn(words)
    }

    /// Leaves to a shell what is not finished.
    fn leave(&mut self, log: &mut LogFile, cx: &mut Cx<'_>) {
        let (at_work, who) = match &self.state {
            State::Ours(working) => {
                (Some(working.generation.number), Identity::of(working.child.pid()))
            }
            State::Earlier(earlier, _) => {
                // What that will have left is done after it.
                log.work_was_lost();
                (None, Some(earlier.identity().clone()))
            }
            State::Nobody | State::Refused => (None, None),
        };
        let waiting = log.waiting();
        let (first, next, last) = match (at_work, waiting) {
            (Some(number), Some((next, last))) => (number, next, last),
            (Some(number), None) => (number, number.saturating_add(1), number),
            (None, Some((next, last))) => (next, next, last),
            (None, None) => return,
        };
        let (pid, start) =
            who.map(|who| (who.pid.to_string(), who.start.to_string())).unwrap_or_default();
        let words: [OsString; 10] = [
            "-c".into(),
            LEFT_TO.into(),
            "sh".into(),
            log.path().into(),
            next.to_string().into(),
            last.to_string().into(),
            first.to_string().into(),
            pid.into(),
            start.into(),
            self.command.clone(),
        ];
        match self.spawn(words) {
            Ok(child) => {
                log.work_is_left(first, last, who_is(&child));
                cx.sources.leave(Box::new(Left { child, generation: None }));
            }
            Err(reason) => {
                let path = log.path().display();
                warn!(
                    "generations of {path} wait for their rotate command until the next start: {reason}"
                );
            }
        }
    }

    fn spawn<const N: usize>(&mut self, words: [OsString; N]) -> Result<Child, String> {
        let mut command = Command::new("sh").args(words);
        if let Some(limit) = self.file_limit {
            command = command.file_limit(limit);
        }
        let child = Child::spawn_in_background(command).map_err(|error| error.to_string())?;
        self.groups.retain(|group| *group != child.pid());
        Ok(child)
    }
}

impl Monitor {
    /// The log has been opened by a run: goes on with what is left of earlier ones.
    pub(super) fn rotating_goes_on(&mut self, cx: &mut Cx<'_>) {
        let Self { rotating: Some(rotating), streams: Some(streams), .. } = self else { return };
        let log = streams.log_file();
        if let Some(who) = log.at_work()
            && rotating.is_at_rest()
        {
            match who.parse::<Who>().ok().and_then(|who| Bystander::watch(who.0)) {
                Some(earlier) => {
                    let exit = earlier.exit_fd().and_then(|fd| {
                        cx.sources.register(&fd, Interest::READ, Source::Rotation).ok()
                    });
                    if exit.is_none() {
                        cx.timers.set(LOOK, Timer::Rotation);
                    }
                    rotating.state = State::Earlier(earlier, exit);
                }
                None => log.work_was_lost(),
            }
        }
        self.hand_on(cx);
    }

    /// Gives the next generation to the command, where one waits and nobody works.
    pub(super) fn hand_on(&mut self, cx: &mut Cx<'_>) {
        let Self { rotating: Some(rotating), streams, .. } = self else { return };
        if !rotating.is_at_rest() {
            return;
        }
        let waiting = open_log(streams, &mut rotating.log).and_then(LogFile::hand_out);
        let Some(generation) = waiting else { return };
        let started = rotating.start(&generation);
        let log = open_log(streams, &mut rotating.log);
        match started {
            Ok(child) => {
                debug!(path = %generation.path.display(), pid = child.pid(), "working on it");
                if let Some(log) = log {
                    log.work_begins(generation.number, who_is(&child));
                }
                let exit = child
                    .exit_fd()
                    .and_then(|fd| cx.sources.register(&fd, Interest::READ, Source::Rotation).ok());
                if exit.is_none() {
                    cx.timers.set(LOOK, Timer::Rotation);
                }
                rotating.state = State::Ours(Working { child, exit, generation });
            }
            Err(reason) => {
                let path = generation.path.display();
                warn!("can't start the rotate command for {path}: {reason}; trying again");
                if let Some(log) = log {
                    log.take_back();
                }
                rotating.state = State::Refused;
                cx.timers.set(RETRY, Timer::Rotation);
            }
        }
    }

    /// Whoever works may have ended.
    pub(super) fn look_at_rotation(&mut self, cx: &mut Cx<'_>) {
        let Self { rotating: Some(rotating), streams, .. } = self else { return };
        let log = open_log(streams, &mut rotating.log);
        let exit = match &rotating.state {
            State::Nobody => return,
            State::Refused => None,
            State::Ours(working) => {
                let Some(status) = reaped(&working.child) else {
                    return not_yet(working.exit, cx);
                };
                let succeeded = report(status, &working.generation);
                if let Some(log) = log {
                    log.work_ends(working.generation.number, succeeded);
                }
                let group = working.child.pid();
                if self.reach != Reach::Group && child::has_members(group) {
                    rotating.groups.push(group);
                }
                working.exit
            }
            State::Earlier(earlier, exit) => {
                if !earlier.has_ended() {
                    return not_yet(*exit, cx);
                }
                if let Some(log) = log {
                    log.work_was_lost();
                }
                *exit
            }
        };
        if let Some(exit) = exit {
            cx.sources.deregister(exit);
        }
        rotating.state = State::Nobody;
        self.hand_on(cx);
    }

    /// Reaps what commands have left in the background and has come down to us.
    pub(super) fn reap_left_of_rotations(&mut self) {
        let Some(rotating) = &mut self.rotating else { return };
        rotating.groups.retain(|&group| {
            child::reap_group(group);
            child::has_members(group)
        });
    }

    /// A run is over and its log with it, which may be wanted still.
    pub(super) fn keep_log_for_rotations(&mut self, log: LogFile) {
        if let Some(rotating) = &mut self.rotating {
            rotating.log = Some(log);
        }
    }

    /// All is over: whoever works goes on, and a shell of its own waits for that and takes over
    /// those whose turn has not come.
    pub(super) fn leave_rotations(&mut self, cx: &mut Cx<'_>) {
        let Some(mut rotating) = self.rotating.take() else { return };
        if let Some(mut log) = rotating.log.take() {
            rotating.leave(&mut log, cx);
        }
        match rotating.state {
            State::Ours(Working { child, exit, generation }) => {
                if let Some(exit) = exit {
                    cx.sources.deregister(exit);
                }
                cx.sources.leave(Box::new(Left { child, generation: Some(generation) }));
            }
            State::Earlier(_, Some(exit)) => cx.sources.deregister(exit),
            State::Earlier(..) | State::Nobody | State::Refused => {}
        }
    }
}

/// The log, whoever has it.
fn open_log<'a>(
    streams: &'a mut Option<Streams>,
    kept: &'a mut Option<LogFile>,
) -> Option<&'a mut LogFile> {
    match streams {
        Some(streams) => Some(streams.log_file()),
        None => kept.as_mut(),
    }
}

/// A child of ours, for the log's note.
fn who_is(child: &Child) -> String {
    Identity::of(child.pid()).map(|identity| Who(identity).to_string()).unwrap_or_default()
}

/// The status of one that has ended.
fn reaped(child: &Child) -> Option<ExitStatus> {
    child.try_reap().unwrap_or(Some(ExitStatus::Unknown))
}

fn not_yet(exit: Option<SourceId>, cx: &mut Cx<'_>) {
    // kqueue may tell of the end before waitpid(2) knows of it, and tells once.
    if let Some(exit) = exit {
        cx.sources.would_block(exit, Interest::READ);
    }
    cx.timers.set(LOOK, Timer::Rotation);
}

/// Tells of a failure; says whether there was none.
fn report(status: ExitStatus, generation: &Rotated) -> bool {
    let path = generation.path.display();
    match status {
        ExitStatus::Code(0) => return true,
        // Somebody else has reaped it, or nobody had to.
        ExitStatus::Unknown => return true,
        ExitStatus::Code(code) => warn!("the rotate command failed for {path}: exit code {code}"),
        ExitStatus::Signal(signal) => warn!("the rotate command failed for {path}: {signal}"),
    }
    false
}

/// A process that outlives its monitor.
#[derive(Debug)]
struct Left {
    child: Child,
    /// What it works on, where it is one.
    generation: Option<Rotated>,
}

impl Leaving for Left {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.exit_fd()
    }

    fn is_over(&mut self) -> bool {
        let Some(status) = reaped(&self.child) else { return false };
        if let Some(generation) = &self.generation {
            report(status, generation);
        }
        true
    }
}

/// A process, as the log's note of who works has it.
struct Who(Identity);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { pid, start, boot_id, pid_namespace } = &self.0;
        let namespace = pid_namespace.unwrap_or(0);
        write!(f, "{pid} {start} {namespace} {boot_id}")
    }
}

impl FromStr for Who {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(4, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(pid), Some(start), Some(namespace)) = (number(), number(), number()) else {
            return Err(());
        };
        Ok(Self(Identity {
            pid: pid.try_into().map_err(drop)?,
            start,
            boot_id: words.next().unwrap_or_default().to_owned(),
            pid_namespace: (namespace != 0).then_some(namespace),
        }))
    }
}
