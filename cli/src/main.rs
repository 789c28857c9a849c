//! The `vmon` command: run a child under a monitor, and list what runs and ran.
//!
//! Only the command line is here: what is understood, which subcommand gets it, and what a failure
//! looks like. It uses the public interface of the library, as any other program that links it.
//!
//! Nothing here prints with a macro: those panic on a closed stdout or stderr.

mod args;
mod attach;
mod completions;
mod consoles;
mod events;
mod export;
mod files;
mod follow;
mod history;
mod hooks;
mod inspect;
mod kill;
mod live;
mod logs;
mod man;
mod name;
mod notify;
mod output;
mod owner;
mod pause;
mod prune;
mod ps;
#[cfg(test)]
mod reference;
mod replay;
mod restart;
mod restarting;
mod rm;
mod run;
mod runs;
mod sample;
mod screen;
mod select;
mod settle;
mod shared;
mod startup;
mod stats;
mod stop;
mod supervise;
mod tell;
mod timeline;
mod wait;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use clap::error::ErrorKind;
use clap::{FromArgMatches, Parser};
use nix::errno::Errno;
use vmon::child::Signal;
use vmon::control::ControlError;
use vmon::logfile::{LogError, Retention};
use vmon::monitor::{ConsoleError, NameError, StartError};
use vmon::registry::RegistryError;
use vmon::terminal::Messages;

use run::detach;
use run::handover::{self, HandoverError};

/// vmon's own failures: usage, or an environment in which it can't work.
pub const OWN_FAILURE: u8 = 125;

/// Some of what was asked for could not be done.
const NOT_ALL_DONE: u8 = 1;

/// Runs a microVM, or any other command, under a monitor: its output in a rotating log and at
/// your terminal, its life in a record.
#[derive(Debug, Parser)]
#[command(name = "vmon", version, after_help = NOTES)]
struct Cli {
    #[command(subcommand)]
    command: Subcommand,
}

/// The table of the subcommands: its word, what each takes, whether it has the options that the others
/// share (`shared`) or not (`plain`), and what does it. Of those that have them, `record` is one that
/// acts on a record with the rights of the record's owner.
macro_rules! subcommands {
    ($($(#[$attribute:meta])* $kind:ident $word:ident: $name:ident($args:ty) => $execute:expr;)*) => {
        #[derive(Debug, clap::Subcommand)]
        enum Subcommand {
            $($(#[$attribute])* #[command(name = stringify!($word))] $name($args),)*
        }

        impl Subcommand {
            /// The command line with this subcommand alone: to define the options of all the others
            /// takes longer than the whole life of a short command should.
            fn alone(name: &str) -> Option<clap::Command> {
                $(if name == stringify!($word) {
                    let command = clap::Command::new(stringify!($word));
                    return Some(frame().subcommand(<$args as clap::Args>::augment_args(command)));
                })*
                None
            }

            fn execute(self, messages: &Messages) -> Result<u8, Failure> {
                match self {
                    $(Self::$name(args) => {
                        subcommands!(@begin $kind messages args);
                        apart($execute, args, messages)
                    })*
                }
            }
        }
    };
    (@begin record $messages:ident $args:ident) => {
        tell::install($messages, $args.shared.log_level);
        owner::assume(&$args.shared)?
    };
    (@begin shared $messages:ident $args:ident) => {
        tell::install($messages, $args.shared.log_level)
    };
    (@begin plain $messages:ident $args:ident) => {};
}

subcommands! {
    plain run: Run(Box<run::RunArgs>) => |args: Box<_>, messages: &_| run::run(*args, messages);
    record attach: Attach(attach::AttachArgs) => attach::attach;
    record stop: Stop(stop::StopArgs) => stop::stop;
    record kill: Kill(kill::KillArgs) => kill::kill;
    record wait: Wait(wait::WaitArgs) => wait::wait;
    shared restart: Restart(restart::RestartArgs) => restart::restart;
    record ps: Ps(ps::PsArgs) => ps::ps;
    record inspect: Inspect(inspect::InspectArgs) => inspect::inspect;
    record history: History(history::HistoryArgs) => history::history;
    record logs: Logs(logs::LogsArgs) => logs::logs;
    record replay: Replay(replay::ReplayArgs) => replay::replay;
    shared export: Export(export::ExportArgs) => export::export;
    record events: Events(events::EventsArgs) => events::events;
    record stats: Stats(stats::StatsArgs) => stats::stats;
    record rm: Rm(rm::RmArgs) => rm::rm;
    record prune: Prune(prune::PruneArgs) => prune::prune;
    plain completions: Completions(completions::CompletionsArgs) => completions::completions;
    plain man: Man(man::ManArgs) => man::man;
}

const NOTES: &str = "\
NAME is a sandbox's name, or CONFIG/NAME where several configs have that name.

Examples:
  vmon run -d --name web -- ./server   in the background, under a monitor
  vmon run --log-format cri -- ./job   with a log for a log shipper
  vmon attach web                      use it; Ctrl-P Ctrl-Q leaves
  vmon stop web --timeout 30s          end it; killed after that
  vmon kill -s HUP web                 send it a signal
  vmon wait web                        until it ends, and how
  vmon restart web                     as it was started
  vmon ps                              what runs
  vmon inspect web                     all that is known of it, as JSON
  vmon history web                     how its runs ended
  vmon logs -f web                     what it prints
  vmon replay web --max-idle 2s        what it has printed, as it came
  vmon export web --to json            what it has printed, in a format of others
  vmon events                          what happens from now on
  vmon stats --watch                   CPU, memory, I/O, every second
  vmon rm web --logs                   out of the record, and its log off the disk
  vmon prune --older-than 168h         what ended more than a week ago
  source <(vmon completions bash)      names complete in this shell
  vmon man run | man -l -              the manual page of a command

Exit codes:
  run     the command's own; 128+n when signal n ended it; 125 when vmon itself failed (usage
          errors too), 126 when the command can't be executed, 127 when it was not found
  others  0 all done; 1 a name is unknown or something could not be done, each told on stderr;
          125 usage or environment";

/// What keeps a subcommand from doing what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "no place for the state: set VMON_STATE_DIR or HOME (it is empty or unset), or give --state-dir"
    )]
    NoHome,
    #[error("the argument '--forward-output' cannot be used with '--no-forward': leave one out")]
    ForwardBothWays,
    #[error("the argument '--forward-output' cannot be used with '--detach': leave one out")]
    ForwardDetached,
    #[error(
        "--log-total-size is too small for a log with its index: give at least {} bytes",
        Retention::SMALLEST_TOTAL
    )]
    TotalTooSmall,
    #[error(
        "--log-max-size 0 never rotates the log, so --log-total-size can't hold: leave one out"
    )]
    TotalWithoutEnd,
    #[error(
        "--log-max-size {max_size} is too large for --log-total-size {total}: at most {most}{}",
        if *command { ", a fifth, since what --log-rotate-command works on and makes of it lies beside the log" } else { "" }
    )]
    LargerThanTotal { max_size: u64, total: u64, most: u64, command: bool },
    #[error(
        "--log-max-files 0 keeps no generation, so --log-rotate-command would get none: leave one out"
    )]
    NothingToRotate,
    #[error("{0} ({1})")]
    Value(args::ValueError, &'static str),
    #[error("{0} (--console)")]
    Console(#[from] ConsoleError),
    #[error("--over-rate says what happens beyond a --log-rate: give one, or leave it out")]
    OverNoRate,
    #[error("can't start the supervisor: {0}")]
    Supervisor(io::Error),
    #[error("the supervisor ended before the command ran ({0})")]
    SupervisorDied(ExitStatus),
    #[error("{why}")]
    Detached { why: String, code: u8 },
    #[error("can't resolve {path}: {reason}; give an absolute path")]
    Relative { path: PathBuf, reason: &'static str },
    #[error("can't use the {what} {path}: {reason}; choose another with {option}")]
    Directory { what: &'static str, path: PathBuf, reason: &'static str, option: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0} (--log-dir)")]
    Log(#[from] LogError),
    #[error("{0} (--runtime-dir)")]
    Control(#[from] ControlError),
    #[error("{0} (--db)")]
    Registry(#[from] RegistryError),
    #[error("can't set up the event loop: {0}")]
    SetUp(io::Error),
    #[error("the event loop failed: {0}")]
    Loop(io::Error),
    #[error("the monitor ended without telling how the command did")]
    NoEnd,
    #[error("{error}")]
    NotStarted { error: StartError, code: u8 },
    #[error("there is no command '{0}': 'vmon --help' lists them")]
    NoSuchCommand(String),
    #[error(
        "--to scriptreplay writes two files: give -o FILE for the one, and the other is FILE.timing"
    )]
    NoScript,
    #[error("can't write to stdout: {0}")]
    Output(&'static str),
    #[error("{name} runs, with pid {pid}, but can't write that to stdout: {reason}")]
    Untold { name: String, pid: u64, reason: &'static str },
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Untold { .. } => NOT_ALL_DONE,
            Self::NotStarted { code, .. } | Self::Detached { code, .. } => *code,
            _ => OWN_FAILURE,
        }
    }
}

/// The exit code of a command that a signal has ended.
fn signalled(signal: Signal) -> u8 {
    u8::try_from(128 + signal.number()).unwrap_or(u8::MAX)
}

fn main() -> ExitCode {
    startup::prepare();
    dispatch(std::env::args_os().collect())
}

/// Does what `args`, the program's name first, ask for.
fn dispatch(args: Vec<OsString>) -> ExitCode {
    let messages = Messages::stderr();
    if let Some(code) = completions::answer(&args) {
        return ExitCode::from(code);
    }
    if handover::is_supervisor(&args) {
        return ExitCode::from(supervise(&messages));
    }
    let code = match parse(&args) {
        Ok(command) => command.execute(&messages).unwrap_or_else(|failure| {
            tell::failure(&messages, &failure.to_string());
            failure.exit_code()
        }),
        Err(error) => answer(&messages, &error, &args),
    };
    ExitCode::from(code)
}

/// Runs as the supervisor of a detached run, whose plan comes through its stdin.
#[inline(never)] // as `apart`
fn supervise(messages: &Messages) -> u8 {
    let plan = match handover::receive() {
        Ok(plan) => Box::new(plan),
        Err(error) => {
            match error {
                HandoverError::Unknown => detach::refuse(&error.to_string(), OWN_FAILURE),
                _ => tell::failure(messages, &error.to_string()),
            }
            return OWN_FAILURE;
        }
    };
    // Every failure has been reported to the process that waits for the start.
    apart(|plan: Box<_>, _| detach::supervise(*plan), plan, messages)
        .unwrap_or_else(|failure| failure.exit_code())
}

/// Calls what does a subcommand: not inlined, for its frame would be one with those of all the
/// others, and `run` sleeps on top of it.
#[inline(never)]
fn apart<A>(
    execute: impl FnOnce(A, &Messages) -> Result<u8, Failure>,
    args: A,
    messages: &Messages,
) -> Result<u8, Failure> {
    execute(args, messages)
}

/// Reads the command line, by its subcommand's own options alone where the first word is one.
#[inline(never)] // or what it leaves on the stack stays there while the command runs
fn parse(args: &[OsString]) -> Result<Subcommand, clap::Error> {
    match args.get(1).and_then(|word| Subcommand::alone(word.to_str()?)) {
        Some(command) => Subcommand::from_arg_matches_mut(&mut command.try_get_matches_from(args)?),
        None => Cli::try_parse_from(args).map(|cli| cli.command),
    }
}

/// What the command line is without its subcommands.
fn frame() -> clap::Command {
    clap::Command::new("vmon").version(env!("CARGO_PKG_VERSION")).subcommand_required(true)
}

/// Help and the version go to stdout; anything else that clap has to say is a usage error.
fn answer(messages: &Messages, error: &clap::Error, args: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match tell::stdout(error.render().to_string().as_bytes()) {
                Ok(()) => 0,
                Err(error) => {
                    tell::failure(messages, &format!("can't write the help: {}", reason(&error)));
                    NOT_ALL_DONE
                }
            }
        }
        _ => {
            tell::failure(messages, &tell::usage_error(error, args));
            OWN_FAILURE
        }
    }
}

/// The system's words for an error, without Rust's error number behind them.
fn reason(error: &io::Error) -> &'static str {
    error.raw_os_error().map_or("unknown error", |raw| Errno::from_raw(raw).desc())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_subcommand_alone_is_what_it_is_among_the_others() {
        let mut vmon = Cli::command();
        vmon.build();
        for among in vmon.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let name = among.get_name().to_owned();
            let mut alone = Subcommand::alone(&name).unwrap();
            alone.build();
            let alone = alone.find_subcommand_mut(&name).unwrap();
            let (alone, among) = (alone.render_long_help(), among.render_long_help());
            assert_eq!(alone.to_string(), among.to_string());
        }
        assert!(Subcommand::alone("help").is_none());
        assert!(Subcommand::alone("RUN").is_none());
    }

    #[test]
    fn the_help_has_an_example_of_each_command() {
        let mut vmon = Cli::command();
        vmon.build();
        for command in vmon.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(
                name == "help"
                    || NOTES.contains(&format!("vmon {name} "))
                    || NOTES.contains(&format!("vmon {name}\n")),
                "{name}"
            );
            let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(name == "help" || own.contains("Examples:\n"), "{name}");
        }
    }
}
