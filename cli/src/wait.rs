//! `vmon wait`: waits until sandboxes have stopped, and prints their exit codes.

use vmon::control::Watch;

use super::outcome::Outcome;
use super::record::{Names, Record, Recorded};
use super::shared_args::SharedArgs;
use super::{Failure, live, output};
use live::{Endings, LiveError};
use output::exit_code;

/// Wait until sandboxes stop, and print their exit codes
///
/// Prints one line for each sandbox, in the order of the names: the exit code; 128+n if signal n
/// terminated the command; 125, with a message on stderr, if it is not known. A restart of the
/// command does not end the wait. For a stopped sandbox, the last exit code is printed at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon wait web             prints 0 on success
  test \"$(vmon wait web)\" = 0 && echo done")]
pub struct WaitArgs {
    #[command(flatten)]
    names: Names,
}

/// Printed for a run whose exit code is not known.
const UNKNOWN: i32 = 125;

/// Prints each code as soon as it and those before it are known.
pub fn wait(args: WaitArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = Record::latest(shared)?;
    let selected = record.select(&args.names.names, outcome);
    // All are watched first: each may end, and be restarted by hand, while another is waited for.
    let watched: Vec<_> = selected.into_iter().map(|sandbox| (sandbox, watch(sandbox))).collect();
    let mut endings = Endings::new(&record);
    for (sandbox, watch) in watched {
        match code(&mut endings, sandbox, watch) {
            Ok(Some(code)) => output::print(&format!("{code}\n"))?,
            Ok(None) => {
                output::print(&format!("{UNKNOWN}\n"))?;
                outcome.failed(&format!(
                    "exit code of {sandbox} is not known: its supervisor was lost"
                ));
            }
            Err(error) => outcome.failed(&format!("can't wait for {sandbox}: {error}")),
        }
    }
    Ok(())
}

/// Watches a running sandbox; `None` for a stopped one.
fn watch(sandbox: &Recorded) -> Result<Option<Watch>, LiveError> {
    match sandbox.running() {
        Some(_) => Ok(Some(live::connect(sandbox)?.watch()?)),
        None => Ok(None),
    }
}

fn code(
    endings: &mut Endings<'_>,
    sandbox: &Recorded,
    watch: Result<Option<Watch>, LiveError>,
) -> Result<Option<i32>, LiveError> {
    let closed = match watch.and_then(|watch| watch.map(live::follow).transpose()) {
        Ok(Some(Some(end))) => return Ok(Some(end.code().into())),
        Ok(Some(None)) => None,
        Ok(None) => sandbox.latest().filter(|run| live::is_closed(run)),
        Err(error) => return Ok(endings.lost(sandbox, error)?.as_ref().and_then(exit_code)),
    };
    match closed {
        Some(run) => Ok(exit_code(run)),
        None => Ok(endings.settled(sandbox)?.as_ref().and_then(exit_code)),
    }
}
