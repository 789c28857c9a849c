//! The rotate command: how it is started for one generation and, when a monitor ends, for all that
//! are left.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::child::{self, Child, Command, Identity, StartGate};
use crate::logfile::Rotated;
use crate::process::FileLimit;

/// Waits at the [`StartGate`] before anything else. An end of file means that the supervisor has
/// gone.
const GATE: &str = "read -r _ && exec </dev/null || exit\n";

/// The script for the generations that are left when the monitor ends. `$1` is the command, `$2`
/// the pid of a process that still works, or empty, and `$3` its start time. For each log follow
/// its path, the number of the first generation that is not finished, and the first and the last
/// number of those that have not been started. The note about them is removed when they are done,
/// unless another supervisor has taken over.
const LEFT_TO: &str = r#"
command=$1 pid=$2 start=$3
shift 3
is_over() {
  kill -0 "$1" 2>/dev/null || return 0
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  set -- ${stat##*)}
  case $1 in Z | X) return 0 ;; esac
  shift 19
  [ "$1" != "$start" ]
}
while [ "$pid" ] && ! is_over "$pid"; do sleep 1; done
work_on() {
  file=$1
  [ -f "$file" ] || return
  rm -f "$file.gz" "$file.zst"
  sh -c "$command \"\$@\"" sh "$file" || [ ! -f "$file" ] || rm -f "$file.gz" "$file.zst"
}
while [ $# -gt 0 ]; do
  log=$1 first=$2 n=$3 last=$4
  shift 4
  while [ "$n" -le "$last" ]; do
    work_on "$log.$(printf %08d "$n")"
    n=$((n + 1))
  done
  if read -r a b c rest <"$log.todo" && [ "$a $b $c" = "$first $last $$" ]; then
    rm -f "$log.todo"
  fi
done
"#;

/// The command, and processes that it has left behind.
pub(super) struct Commands {
    command: OsString,
    file_limit: Option<FileLimit>,
    /// Process groups of commands that have ended and left processes in them, which become children
    /// of a subreaper.
    groups: Vec<u32>,
}

/// The generations of one log that are left when the monitor ends.
pub(super) struct Rest {
    /// The first that is not finished.
    pub(super) first: u64,
    /// The first and the last that have not been started; none if the last is before the first.
    pub(super) next: u64,
    pub(super) last: u64,
}

impl Commands {
    /// This command, with the file limit that the sandbox's own command gets.
    pub(super) fn new(command: &OsStr, file_limit: Option<FileLimit>) -> Self {
        Self { command: command.to_owned(), file_limit, groups: Vec::new() }
    }

    /// Starts it for one generation.
    pub(super) fn start(&mut self, generation: &Rotated) -> Result<(Child, StartGate), String> {
        let mut script = OsString::from(GATE);
        script.push(&self.command);
        script.push(" \"$@\"");
        self.spawn(vec!["-c".into(), script, "sh".into(), generation.path.clone().into()])
    }

    /// Starts it for all that are left, in a shell that first waits for the process that works.
    pub(super) fn start_for_rest<'a>(
        &mut self,
        at_work: Option<&Identity>,
        rests: impl Iterator<Item = (&'a Path, &'a Rest)>,
    ) -> Result<(Child, StartGate), String> {
        let script = [GATE, LEFT_TO].concat();
        let (pid, start) =
            at_work.map(|who| (who.pid.to_string(), who.start.to_string())).unwrap_or_default();
        let mut words: Vec<OsString> = vec!["-c".into(), script.into(), "sh".into()];
        words.extend([self.command.clone(), pid.into(), start.into()]);
        for (log, Rest { first, next, last }) in rests {
            words.push(log.into());
            words.extend([first, next, last].map(|number| number.to_string().into()));
        }
        self.spawn(words)
    }

    fn spawn(&mut self, words: Vec<OsString>) -> Result<(Child, StartGate), String> {
        let mut command = Command::new("sh").args(words);
        if let Some(limit) = self.file_limit {
            command = command.file_limit(limit);
        }
        let spawned = Child::spawn_in_background(command).map_err(|error| error.to_string())?;
        self.groups.retain(|group| *group != spawned.0.pid());
        Ok(spawned)
    }

    /// A command of this process group has ended. Processes that it left behind may become children
    /// of this one.
    pub(super) fn note_left_in(&mut self, group: u32) {
        if child::has_members(group) {
            self.groups.push(group);
        }
    }

    /// Reaps those that have ended.
    pub(super) fn reap_left(&mut self) {
        self.groups.retain(|&group| {
            child::reap_group(group);
            child::has_members(group)
        });
    }
}

/// The words of a warning about a command that has failed.
pub(super) fn failed(generation: &Rotated) -> String {
    format!("the rotate command failed for {}", generation.path.display())
}

/// A process in the note of a log about the process that works.
pub(super) struct Who(pub(super) Identity);

impl Who {
    /// The note about a child of this process.
    pub(super) fn is(child: &Child) -> String {
        Identity::of(child.pid()).map(|identity| Self(identity).to_string()).unwrap_or_default()
    }
}

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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::child::ExitStatus;
    use crate::monitor::background::reaped;

    /// Starts a command that makes a file; returns how it ends.
    fn run(directory: &Path, then: impl FnOnce(StartGate)) -> ExitStatus {
        let made = directory.join("made");
        let mut command = OsString::from("cp /dev/null ");
        command.push(&made);
        command.push(" && : ");
        let generation = Rotated { number: 1, path: PathBuf::from("/x") };
        let (child, gate) = Commands::new(&command, None).start(&generation).unwrap();
        then(gate);
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            match reaped(&child) {
                Some(status) => return status,
                None => assert!(Instant::now() < give_up, "it never ends"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_command_starts_when_its_gate_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(run(directory.path(), StartGate::open), ExitStatus::Code(0));
        assert!(directory.path().join("made").exists());
    }

    #[test]
    fn a_command_whose_supervisor_is_killed_first_never_starts() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(run(directory.path(), drop), ExitStatus::Code(1));
        assert!(!directory.path().join("made").exists());
    }

    #[test]
    fn a_process_in_a_queue_file_is_read_back() {
        let identity = Identity::current();
        let note = Who(identity.clone()).to_string();
        assert_eq!(note.parse::<Who>().map(|who| who.0), Ok(identity));
    }
}
