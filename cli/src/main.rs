//! The `vmon` command: parses the command line and runs one subcommand.
//!
//! Uses the public interface of the library only.
//!
//! Nothing here uses print macros: they panic if stdout or stderr is closed.

mod args;
mod atomic_file;
mod attach;
mod completions;
mod consoles;
mod events;
mod export;
mod failure;
mod file_watcher;
mod filter;
mod history;
mod inherited;
mod inspect;
mod interruptible_wait;
mod kill;
mod live;
mod log_files;
mod logs;
mod man;
mod messages;
mod metrics_sampler;
mod name_choice;
mod notify;
mod on_exit;
mod outcome;
mod output;
mod owner;
mod places;
mod prune;
mod ps;
mod record;
mod replay;
mod restart;
mod restart_lock;
mod rm;
mod run;
mod run_log;
mod run_object;
mod run_pages;
mod screen;
mod serve;
mod shared_args;
mod startup;
mod stats;
mod stop;
mod supervisor_log;
mod supervisor_loop;
mod timeline;
mod usage;
mod usage_error;
mod wait;
mod waits;
mod writer;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{FromArgMatches, Parser};
use vmon::terminal::Messages;

pub use failure::OWN_FAILURE;
use failure::{Failure, NOT_ALL_DONE, reason, signalled};
use outcome::Outcome;
use run::detach;
use run::handover::{self, HandoverError};
use shared_args::SharedArgs;

/// Run and supervise commands, microVMs above all: their output goes to a rotating log and to the
/// terminal, their lifecycle to a record.
#[derive(Debug, Parser)]
#[command(name = "vmon", version, after_help = NOTES)]
struct Cli {
    #[command(subcommand)]
    command: Subcommand,
}

/// Defines the subcommands: word, variant and arguments, function.
macro_rules! subcommands {
    ($($word:ident: $name:ident($args:ty) => $execute:expr;)*) => {
        #[derive(Debug, clap::Subcommand)]
        enum Subcommand {
            $(#[command(name = stringify!($word))] $name($args),)*
        }

        impl Subcommand {
            /// The definition of this subcommand alone. Defining the options of all subcommands
            /// would take longer than a short command runs.
            fn alone(name: &str) -> Option<clap::Command> {
                $(if name == stringify!($word) {
                    let command = clap::Command::new(stringify!($word));
                    return Some(frame().subcommand(<$args as clap::Args>::augment_args(command)));
                })*
                None
            }

            fn execute(self, messages: &Messages) -> Result<u8, Failure> {
                match self {
                    $(Self::$name(args) => apart($execute, args, messages),)*
                }
            }
        }
    };
}

subcommands! {
    run: Run(Box<run::RunArgs>) => |args: Box<_>, messages: &_| run::run(*args, messages);
    attach: Attach(Shared<attach::AttachArgs>) => as_owner(attach::attach);
    stop: Stop(Shared<stop::StopArgs>) => as_owner(stop::stop);
    kill: Kill(Shared<kill::KillArgs>) => as_owner(kill::kill);
    wait: Wait(Shared<wait::WaitArgs>) => as_owner(wait::wait);
    restart: Restart(Shared<restart::RestartArgs>) => as_caller(restart::restart);
    ps: Ps(Shared<ps::PsArgs>) => as_owner(ps::ps);
    inspect: Inspect(Shared<inspect::InspectArgs>) => as_owner(inspect::inspect);
    history: History(Shared<history::HistoryArgs>) => as_owner(history::history);
    logs: Logs(Shared<logs::LogsArgs>) => as_owner(logs::logs);
    replay: Replay(Shared<replay::ReplayArgs>) => as_owner(replay::replay);
    export: Export(Shared<export::ExportArgs>) => as_caller(export::export);
    events: Events(Shared<events::EventsArgs>) => as_owner(events::events);
    stats: Stats(Shared<stats::StatsArgs>) => as_owner(stats::stats);
    rm: Rm(Shared<rm::RmArgs>) => as_owner(rm::rm);
    prune: Prune(Shared<prune::PruneArgs>) => as_owner(prune::prune);
    serve: Serve(serve::ServeArgs) => serve::serve;
    completions: Completions(completions::CompletionsArgs) => completions::completions;
    man: Man(man::ManArgs) => man::man;
}

// The arguments of a subcommand with the options that most subcommands share. No doc comment: it
// would replace the description of the subcommand.
#[derive(Debug, clap::Args)]
struct Shared<A: clap::Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    shared: SharedArgs,
}

/// A subcommand that keeps the rights of this process.
fn as_caller<A: clap::Args>(
    execute: impl FnOnce(A, &SharedArgs, &mut Outcome) -> Result<(), Failure>,
) -> impl FnOnce(Shared<A>, &Messages) -> Result<u8, Failure> {
    |Shared { args, shared }, messages| {
        messages::install(messages, shared.log_level);
        let mut outcome = Outcome::new(messages);
        execute(args, &shared, &mut outcome)?;
        Ok(outcome.code)
    }
}

/// A subcommand that takes on the rights of the record's owner.
fn as_owner<A: clap::Args>(
    execute: impl FnOnce(A, &SharedArgs, &mut Outcome) -> Result<(), Failure>,
) -> impl FnOnce(Shared<A>, &Messages) -> Result<u8, Failure> {
    as_caller(|args, shared: &SharedArgs, outcome: &mut Outcome| {
        owner::assume(shared)?;
        execute(args, shared, outcome)
    })
}

const NOTES: &str = "\
NAME is the name of a sandbox, or CONFIG/NAME if several configs have that name.

Examples:
  vmon run -d --name web -- ./server   run in the background
  vmon run --log-format cri -- ./job   write the log for a log shipper
  vmon attach web                      attach the terminal; Ctrl-P Ctrl-Q detaches
  vmon stop web --timeout 30s          stop it; SIGKILL after 30 seconds
  vmon kill -s HUP web                 send a signal
  vmon wait web                        wait until it stops, and print its exit code
  vmon restart web                     start it again with the same options
  vmon ps                              list running sandboxes
  vmon inspect web                     show all details as JSON
  vmon history web                     list its runs
  vmon logs -f web                     follow its log
  vmon replay web --max-idle 2s        play its output at its original pace
  vmon export web --to json            convert its log to another format
  vmon events                          stream lifecycle events
  vmon stats --watch                   show CPU, memory and I/O every second
  vmon rm web --logs                   remove it from the record, with its logs
  vmon prune --older-than 168h         remove runs that ended more than a week ago
  vmon serve                           supervise sandboxes for other programs, in one process
  source <(vmon completions bash)      load completions into this shell
  vmon man run | man -l -              show the manual page of a command

Exit codes:
  run     the command's exit code; 128+n if signal n terminated it; 125 if vmon itself failed,
          usage errors included; 126 if the command can't be executed; 127 if it was not found
  others  0 success; 1 a name is unknown or an operation failed, each reported on stderr; 128+n if
          signal n ended attach, replay or export; 125 a usage error, or a state directory or database
          that can't be used";

fn main() -> ExitCode {
    startup::prepare();
    dispatch(std::env::args_os().collect())
}

/// Runs the subcommand that `args` selects; the first of them is the program's name.
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
            messages::failure(&messages, &failure.to_string());
            failure.exit_code()
        }),
        Err(error) => answer(&messages, &error, &args),
    };
    ExitCode::from(code)
}

/// Runs the supervisor of a detached run. Its plan is read from stdin.
#[inline(never)] // as `apart`
fn supervise(messages: &Messages) -> u8 {
    let plan = match handover::receive() {
        Ok(plan) => Box::new(plan),
        Err(error) => {
            match error {
                HandoverError::Invalid => detach::refuse(&error.to_string(), OWN_FAILURE),
                _ => messages::failure(messages, &error.to_string()),
            }
            return OWN_FAILURE;
        }
    };
    // Failures are reported to the waiting `vmon run -d` already.
    apart(|plan: Box<_>, _| detach::supervise(*plan), plan, messages)
        .unwrap_or_else(|failure| failure.exit_code())
}

/// Calls a subcommand. Not inlined, because the stack frame would have room for all subcommands,
/// and `run` sleeps on top of it.
#[inline(never)]
fn apart<A>(
    execute: impl FnOnce(A, &Messages) -> Result<u8, Failure>,
    args: A,
    messages: &Messages,
) -> Result<u8, Failure> {
    execute(args, messages)
}

/// Parses the command line, with the options of one subcommand only if the first word is one.
#[inline(never)] // otherwise its stack frame stays allocated while the command runs
fn parse(args: &[OsString]) -> Result<Subcommand, clap::Error> {
    match args.get(1).and_then(|word| Subcommand::alone(word.to_str()?)) {
        Some(command) => Subcommand::from_arg_matches_mut(&mut command.try_get_matches_from(args)?),
        None => Cli::try_parse_from(args).map(|cli| cli.command),
    }
}

/// The command line without subcommands.
fn frame() -> clap::Command {
    clap::Command::new("vmon").version(env!("CARGO_PKG_VERSION")).subcommand_required(true)
}

/// Prints help and version to stdout, and anything else as a usage error.
fn answer(messages: &Messages, error: &clap::Error, args: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match output::stdout(error.render().to_string().as_bytes()) {
                Ok(()) => 0,
                Err(error) => {
                    messages::failure(
                        messages,
                        &format!("can't write the help: {}", reason(&error)),
                    );
                    NOT_ALL_DONE
                }
            }
        }
        _ => {
            messages::failure(messages, &usage_error::one_line(error, args));
            OWN_FAILURE
        }
    }
}

#[cfg(test)]
#[path = "../../tests/common/fuzz.rs"]
mod fuzz;
#[cfg(test)]
mod tests;
