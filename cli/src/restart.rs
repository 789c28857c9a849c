//! `vmon restart`: stops sandboxes, and starts them again with the command and options on record.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::AccessFlags;
use vmon::control::HostClient;
use vmon::monitor::{Forward, Input};
use vmon::registry::{Location, Registry, Run, RunStatus};

use super::filter::Targets;
use super::name_choice::NameChoice;
use super::outcome::Outcome;
use super::places::{Places, check_directory};
use super::record::{Record, Recorded};
use super::restart_lock::RestartLock;
use super::run::options::Options;
use super::run::plan::{Plan, limited};
use super::run::{descriptors, detach, user, via};
use super::shared_args::SharedArgs;
use super::{Failure, live, notify, owner, reason, stop};

/// Stop sandboxes if they run, and start them again in the background
///
/// The command, its working directory and all options come from the record. The environment is not
/// recorded: the command gets the environment of this 'vmon restart', without the variables that
/// --env set. A command that ran on a terminal gets a new PTY, for 'vmon attach'. Prints NAME and
/// PID of each sandbox, as 'vmon run -d' does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon restart web              stop it, and start it again
  vmon restart web --timeout 2  send SIGKILL if it has not stopped after two seconds")]
pub struct RestartArgs {
    #[command(flatten)]
    targets: Targets,

    /// Time to wait after the stop signal before sending SIGKILL [default: the --stop-timeout of the
    /// run]
    #[arg(long, short, value_name = "TIME", value_parser = vmon::values::time)]
    timeout: Option<Duration>,
}

/// Why a sandbox can't be started from its record. It has not been stopped.
#[derive(Debug, thiserror::Error)]
enum RestartError {
    #[error("another program runs it, and the record has no command: restart it with that program")]
    NoSpec,
    #[error(
        "its host program started the command itself, so it is not on record: restart it with that program"
    )]
    NoCommand,
    #[error("its host program runs it: restart it with that program, or stop it first")]
    InHost,
    #[error(
        "an earlier vmon recorded it without some bytes of its command: start it with 'vmon run'"
    )]
    NotExact,
    #[error("the options on record are not those of 'vmon run': start it with 'vmon run'")]
    NotOurs,
    #[error(
        "the record belongs to another user (uid {0}), whose commands are not run: restart it as that user"
    )]
    ForeignRecord(u32),
    #[error(
        "another user could have written its record, so its command is not run: make the database and its directory writable for their owner only"
    )]
    Exposed,
    #[error(
        "it was started with descriptors, of which the record has only the numbers ({0}): start it with 'vmon run --preserve-fd {0}'"
    )]
    Descriptors(String),
    #[error("can't use its working directory {path}: {reason}", path = .0.display(), reason = .1)]
    Directory(PathBuf, &'static str),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Stops all sandboxes that can be started again, at the same time, then starts each.
pub fn restart(
    args: RestartArgs,
    shared: &SharedArgs,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let places = shared.places()?;
    // The owner of the record chooses the command, so another user, root above all, must not run it.
    if let Some(owner) = owner::foreign(&places.db.path) {
        let error = RestartError::ForeignRecord(owner);
        match args.targets.names.as_slice() {
            [] => outcome.failed(&format!("can't restart sandboxes: {error}")),
            names => names
                .iter()
                .for_each(|name| outcome.failed(&format!("can't restart {name}: {error}"))),
        }
        return Ok(());
    }
    let record = Record::latest(shared)?;
    let trust = record.registry().map_or(Ok(()), Registry::check_trust);
    let mut plans: Vec<(&Recorded, Plan)> = Vec::new();
    let mut locks = Vec::new();
    for sandbox in args.targets.select(&record, outcome) {
        if let Err(error) = &trust {
            outcome.failed(&format!("can't restart {sandbox}: {error}"));
            continue;
        }
        match sandbox.latest().ok_or(RestartError::NoSpec).and_then(|run| plan(run, &places)) {
            Ok(plan) => {
                plans.push((sandbox, plan));
                locks.push(RestartLock::acquire(&places, sandbox));
            }
            Err(error) => outcome.failed(&format!("can't restart {sandbox}: {error}")),
        }
    }
    let sandboxes: Vec<&Recorded> = plans.iter().map(|(sandbox, _)| *sandbox).collect();
    let stopped = stop::stop_all(&record, &sandboxes, args.timeout, outcome);
    for ((sandbox, plan), _lock) in plans.into_iter().zip(locks) {
        if stopped.iter().any(|other| std::ptr::eq(*other, sandbox)) {
            start(sandbox, plan, outcome);
        }
    }
    Ok(())
}

fn start(sandbox: &Recorded, mut plan: Plan, outcome: &mut Outcome) {
    // The last supervisor writes the exit file and runs the --on-exit command after the end.
    // In another pid namespace it can't be seen to exit.
    let is_here = |run: &&Run| run.location == Some(Location::Here);
    let last = sandbox.latest().filter(|run| live::is_commands(run)).filter(is_here);
    let supervisor = last.and_then(|run| run.supervisor_identity.as_ref());
    let gone = supervisor.map(|supervisor| live::supervisor_gone(supervisor, Duration::ZERO));
    if let Some(Err(error)) = gone {
        outcome.failed(&format!("can't restart {sandbox}: {error}"));
        return;
    }
    // The host that has supervised it, if that still serves.
    let host = plan.options.host.take().and_then(|socket| HostClient::connect(socket).ok());
    let started = match host {
        Some(host) => via::start(&plan, host),
        None => detach::start(&plan, &outcome.messages),
    };
    match started {
        // A failed write to stdout must not keep the other sandboxes from being started.
        Ok((name, pid)) => {
            outcome.ok(detach::print_start(&name, pid));
        }
        Err(failure) => outcome.failed(&format!("can't restart {sandbox}: {failure}")),
    }
}

/// Makes the plan of a detached start from the record of a run.
fn plan(run: &Run, places: &Places) -> Result<Plan, RestartError> {
    let spec = run.spec.as_ref().ok_or(RestartError::NoSpec)?;
    let command = spec.command.clone().ok_or(RestartError::NoCommand)?;
    // Started again, it would run outside of its host, which has its streams and its end.
    let is_ours = live::is_commands(run) || live::is_served(run);
    if run.status == RunStatus::Running && !is_ours {
        return Err(RestartError::InHost);
    }
    if !spec.exact {
        return Err(RestartError::NotExact);
    }
    if !run.trusted {
        return Err(RestartError::Exposed);
    }
    let missing = descriptors::missing(&command);
    if !missing.is_empty() {
        let numbers: Vec<String> = missing.iter().map(i32::to_string).collect();
        return Err(RestartError::Descriptors(numbers.join(",")));
    }
    let options = Options::from_json(&spec.options).ok_or(RestartError::NotOurs)?;
    if let Some(directory) = command.get_current_dir() {
        check_directory(directory, AccessFlags::X_OK)
            .map_err(|error| RestartError::Directory(directory.to_owned(), reason(&error)))?;
    }
    let mut sandbox = spec.sandbox.clone();
    sandbox.forward = Forward::Off;
    // The stdin of the first start is not available. The input of attached clients replaces a
    // terminal. It can't replace a pipe: without a client, the command would never read end of file.
    sandbox.input = match (sandbox.input, command.get_pty()) {
        (Input::Attached, _) | (Input::Forward, true) => Input::Attached,
        (Input::Forward, false) => Input::Null,
        (input, _) => input,
    };
    sandbox.stop_timeout = limited(sandbox.stop_timeout);
    let retention = &mut sandbox.log.retention;
    let times = [
        &mut sandbox.max_duration,
        &mut sandbox.idle_timeout,
        &mut retention.max_age,
        &mut retention.rotate_every,
    ];
    for time in times {
        *time = time.map(limited);
    }
    let name = NameChoice { first: sandbox.name.clone(), is_given: true };
    let (places, command) = (places.clone(), user::apply_variables(notify::hide(command))?);
    Ok(Plan { places, name, sandbox, command, options }.checked()?)
}
