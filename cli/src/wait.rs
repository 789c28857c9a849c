//! `vmon wait`: the exit codes of sandboxes, when they have ended.

use vmon::child::Signal;
use vmon::control::Watch;
use vmon::registry::Run;
use vmon::terminal::Messages;

use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::{Failure, live, output};
use live::{Endings, LiveError};

/// Wait until sandboxes have stopped, and print their exit codes
///
/// One line each, in the order of the names: the exit code, or 128+n when signal n ended the
/// command, or 125 and a word on stderr when nobody could tell. One that is started again is
/// waited for until that is over; one that has stopped is not waited for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon wait web             prints 0 when all went well
  test \"$(vmon wait web)\" = 0 && echo done")]
pub struct WaitArgs {
    #[command(flatten)]
    names: Names,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// What is printed of a run whose exit code nobody knows.
const UNKNOWN: i32 = 125;

/// Prints each code as soon as it and those before it are known.
pub fn wait(args: WaitArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    let selected = record.select(&args.names.names, &mut tally);
    // All of them first: each may end, and be started anew by hand, while another is waited for.
    let watched: Vec<_> = selected.into_iter().map(|sandbox| (sandbox, watch(sandbox))).collect();
    let mut endings = Endings::new(&record);
    for (sandbox, watch) in watched {
        match code(&mut endings, sandbox, watch) {
            Ok(Some(code)) => output::print(&format!("{code}\n"))?,
            Ok(None) => {
                output::print(&format!("{UNKNOWN}\n"))?;
                tally.failed(&format!("nobody knows how {sandbox} ended: its supervisor was lost"));
            }
            Err(error) => tally.failed(&format!("can't wait for {sandbox}: {error}")),
        }
    }
    Ok(tally.code())
}

/// `None` for one that has stopped.
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
    match watch.and_then(|watch| watch.map(live::follow).transpose()) {
        Ok(Some(Some(end))) => Ok(Some(end.code().into())),
        Ok(Some(None)) => Ok(endings.settled(sandbox)?.as_ref().and_then(recorded)),
        Ok(None) => match sandbox.latest().filter(|run| live::is_closed(run)) {
            Some(run) => Ok(recorded(run)),
            None => Ok(endings.settled(sandbox)?.as_ref().and_then(recorded)),
        },
        Err(error) => Ok(endings.lost(sandbox, error)?.as_ref().and_then(recorded)),
    }
}

/// As a shell tells it.
fn recorded(run: &Run) -> Option<i32> {
    let signal = || run.signal.and_then(Signal::from_number).map(|signal| 128 + signal.number());
    run.exit_code.or_else(signal)
}
