//! `vmon restart`: a sandbox stopped, and started again as the record says it was started.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::AccessFlags;
use vmon::monitor::{Forward, Input};
use vmon::registry::{Registry, Run};
use vmon::terminal::Messages;

use super::name::NameChoice;
use super::restarting::Restarting;
use super::run::detach::{self, Started};
use super::run::options::Options;
use super::run::plan::{Plan, limited};
use super::select::{Names, Record, Recorded, Tally};
use super::shared::{Places, SharedArgs, check_directory};
use super::{Failure, live, notify, owner, reason, stop};

/// Stop sandboxes if they run, and start them again in the background
///
/// The command, its directory and all options are those on record. The environment is never
/// recorded: it is the one of this 'vmon restart', also where --env had changed it. What had a
/// terminal gets one of its own, for 'vmon attach'. Prints NAME PID of each, as 'vmon run -d' does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon restart web              stop it, and start it again
  vmon restart web --timeout 2  killed when it has not stopped after two seconds")]
pub struct RestartArgs {
    #[command(flatten)]
    names: Names,

    /// How long after the stop signal the command is killed [default: as the sandbox was started]
    #[arg(long, short, value_name = "TIME", value_parser = vmon::values::time)]
    timeout: Option<Duration>,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Why a sandbox can't be started from its record. Nothing has been stopped then.
#[derive(Debug, thiserror::Error)]
enum RestartError {
    #[error("another program runs it, and the record has no command: restart it there")]
    NoSpec,
    #[error("its host has started the command itself, and the record has none: restart it there")]
    NoCommand,
    #[error("an earlier vmon recorded it, and not every byte: start it anew with 'vmon run'")]
    NotExact,
    #[error("the options on record are not of 'vmon run': start it anew with 'vmon run'")]
    NotOurs,
    #[error(
        "the record is of another user (uid {0}), whose command is not to run as ours: restart it as that user"
    )]
    Stranger(u32),
    #[error(
        "another user could have written its record, whose command is not to run as ours: see that no other user can write to the database and its directory"
    )]
    Exposed,
    #[error("can't use its working directory {path}: {reason}", path = .0.display(), reason = .1)]
    Directory(PathBuf, &'static str),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Stops those that can be started again, all at once, and starts each.
pub fn restart(args: RestartArgs, messages: &Messages) -> Result<u8, Failure> {
    let places = args.shared.places()?;
    let mut tally = Tally::new(messages);
    // The owner of the record chooses the command: root in particular is not to run it.
    if let Some(owner) = owner::foreign(&places.db.path) {
        for name in &args.names.names {
            tally.failed(&format!("can't restart {name}: {}", RestartError::Stranger(owner)));
        }
        return Ok(tally.code());
    }
    let record = Record::read(&args.shared)?;
    let trust = record.registry().map_or(Ok(()), Registry::check_trust);
    let mut plans: Vec<(&Recorded, Plan)> = Vec::new();
    let mut told = Vec::new();
    for sandbox in record.select(&args.names.names, &mut tally) {
        if let Err(error) = &trust {
            tally.failed(&format!("can't restart {sandbox}: {error}"));
            continue;
        }
        match sandbox.latest().ok_or(RestartError::NoSpec).and_then(|run| plan(run, &places)) {
            Ok(plan) => {
                plans.push((sandbox, plan));
                told.push(Restarting::tell(&places, sandbox));
            }
            Err(error) => tally.failed(&format!("can't restart {sandbox}: {error}")),
        }
    }
    let sandboxes: Vec<&Recorded> = plans.iter().map(|(sandbox, _)| *sandbox).collect();
    let stopped = stop::stop_all(&record, &sandboxes, args.timeout, &mut tally);
    for ((sandbox, plan), _told) in plans.into_iter().zip(told) {
        if stopped.iter().any(|other| std::ptr::eq(*other, sandbox)) {
            start(sandbox, &plan, messages, &mut tally);
        }
    }
    Ok(tally.code())
}

fn start(sandbox: &Recorded, plan: &Plan, messages: &Messages, tally: &mut Tally<'_>) {
    // It writes the exit file and runs the command of --on-exit after the end.
    let last = sandbox.latest().filter(|run| live::is_commands(run));
    if let Some(Err(error)) = last.map(live::supervisor_gone) {
        tally.failed(&format!("can't restart {sandbox}: {error}"));
        return;
    }
    match detach::start(plan, messages) {
        // The others have been stopped, and are to be started whether anybody reads this or not.
        Ok(Started::Running { name, pid }) => {
            if let Err(failure) = detach::tell_start(&name, pid) {
                tally.failed(&failure.to_string());
            }
        }
        Ok(Started::Failed { why, .. }) => {
            tally.failed(&format!("can't restart {sandbox}: {why}"));
        }
        Err(failure) => tally.failed(&format!("can't restart {sandbox}: {failure}")),
    }
}

/// The plan that starts the same again, in the background.
fn plan(run: &Run, places: &Places) -> Result<Plan, RestartError> {
    let spec = run.spec.as_ref().ok_or(RestartError::NoSpec)?;
    let command = spec.command.clone().ok_or(RestartError::NoCommand)?;
    if !spec.exact {
        return Err(RestartError::NotExact);
    }
    if !run.trusted {
        return Err(RestartError::Exposed);
    }
    let options = Options::from_json(&spec.options).ok_or(RestartError::NotOurs)?;
    if let Some(directory) = command.directory() {
        check_directory(directory, AccessFlags::X_OK)
            .map_err(|error| RestartError::Directory(directory.to_owned(), reason(&error)))?;
    }
    let mut sandbox = spec.sandbox.clone();
    sandbox.forward = Forward::Off;
    // Our own stdin is gone with the terminal or shell where it was started. Attached clients take
    // the place of a terminal; a pipe without a writer would never end.
    sandbox.input = match (sandbox.input, command.wants_pty()) {
        (Input::Attached, _) | (Input::Forward, true) => Input::Attached,
        (Input::Forward, false) | (Input::Null, _) => Input::Null,
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
    let name = NameChoice::Given(sandbox.name.clone());
    let (places, command) = (places.clone(), notify::hide(command));
    Ok(Plan { places, name, sandbox, command, options }.checked()?)
}
