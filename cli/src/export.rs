//! `vmon export`: a log as others record and ship it.

mod asciicast;
mod scriptreplay;
mod target;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ValueEnum;
use tracing::warn;
use vmon::child::{Command, Signal};
use vmon::logfile::format::Encoder;
use vmon::logfile::read::Entry;
use vmon::logfile::{Format, Mark, Stream, Timestamp};
use vmon::monitor::command_signals;
use vmon::registry::Run;
use vmon::terminal::{self, Messages};

use super::output::print;
use super::runs::{Place, RunArgs, RunLog, Runs};
use super::screen::Screen;
use super::select::{Record, Tally};
use super::shared::SharedArgs;
use super::tell::printable;
use super::{Failure, reason, signalled};
use asciicast::Asciicast;
use scriptreplay::{Recording, Script};
use target::Target;

/// Bytes that are written at a time.
const CHUNK: usize = 64 * 1024;

/// Write what a sandbox has printed in a format of others
///
/// Of a sandbox that runs, it is what has come so far.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FORMAT is one of
  asciicast     asciicast v2, which asciinema plays; the last run unless --run says otherwise
  scriptreplay  what script records and scriptreplay plays, likewise: two files, FILE with the
                bytes and FILE.timing with their times; needs -o
  cri           the lines of the Kubernetes container runtime interface; all runs
  json          those of Docker's json-file driver; all runs
Bytes of which the time is not known get that of those before them.

Examples:
  vmon export web --to asciicast -o web.cast          asciinema play web.cast
  vmon export web --to scriptreplay -o web.script     scriptreplay web.script.timing web.script
  vmon export web --to json | jq -j .log              what a shipper would read")]
pub struct ExportArgs {
    #[command(flatten)]
    run: RunArgs,

    /// What is written
    #[arg(long, value_name = "FORMAT", value_enum)]
    to: To,

    /// Write this file instead of stdout, as a whole or not at all
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    pub shared: SharedArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Asciicast,
    Scriptreplay,
    Cri,
    Json,
}

impl To {
    /// A session is played; a log is shipped.
    fn runs(self) -> Runs {
        match self {
            Self::Asciicast | Self::Scriptreplay => Runs::Last,
            Self::Cri | Self::Json => Runs::All,
        }
    }
}

/// How it ended.
enum Outcome {
    Done,
    /// By a signal, which leaves no file behind.
    Signalled(Signal),
}

/// Exports what is asked for.
pub fn export(args: ExportArgs, messages: &Messages) -> Result<u8, Failure> {
    if args.to == To::Scriptreplay && args.output.is_none() {
        return Err(Failure::NoScript);
    }
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    match Place::find(&args.run, &record, &args.shared.places()?) {
        Err(error) => tally.failed(&error.to_string()),
        Ok(place) => match write(&args, &place) {
            Ok(Outcome::Done) => told(&args)?,
            Ok(Outcome::Signalled(signal)) => return Ok(signalled(signal)),
            Err(error) => tally.failed(&format!("can't export {place}: {error}")),
        },
    }
    Ok(tally.code())
}

/// Of two files, the second has a name that nobody has given.
fn told(args: &ExportArgs) -> Result<(), Failure> {
    match &args.output {
        Some(output) if args.to == To::Scriptreplay => {
            let (script, timing) = (output.display().to_string(), timing(output));
            let (script, timing) = (printable(&script), timing.display().to_string());
            print(&format!("wrote {script} and {}\n", printable(&timing)))
        }
        _ => Ok(()),
    }
}

fn timing(script: &Path) -> PathBuf {
    let mut timing = script.as_os_str().to_owned();
    timing.push(".timing");
    timing.into()
}

fn write(args: &ExportArgs, place: &Place) -> Result<Outcome, String> {
    let mut log = open(args, place)?;
    let mut exporter = Exporter::new(args, place, &log)?;
    let mut output = Output::open(args)?;
    let interrupt = Interrupt::watch(&output)?;
    let mut out = Script::default();
    while let Some(entry) = log.next().map_err(|error| error.to_string())? {
        exporter.entry(&entry, &mut out);
        if let Some(signal) = interrupt.arrived() {
            return Ok(Outcome::Signalled(signal));
        }
        if out.script.len() >= CHUNK && !output.write(&mut out)? {
            return Ok(Outcome::Done);
        }
    }
    for warning in log.take_warnings() {
        warn!("{warning}");
    }
    if log.is_empty() {
        warn!("the log of {place} has nothing of this");
    } else if !log.is_timed() {
        warn!("the log of {place} does not tell when its bytes came: they are all in one moment");
    }
    exporter.finish(&mut out);
    output.write(&mut out)?;
    output.end()?;
    Ok(Outcome::Done)
}

fn open(args: &ExportArgs, place: &Place) -> Result<RunLog, String> {
    args.run.open(place, args.to.runs()).map_err(|error| error.to_string())
}

/// What is known of a run beside its log.
#[derive(Debug)]
struct About {
    title: String,
    /// The command as a shell would take it.
    command: Option<String>,
}

impl About {
    fn new(place: &Place, run: Option<&Run>) -> Self {
        let command = run.and_then(|run| run.spec.as_ref()?.command.as_ref());
        Self { title: place.to_string(), command: command.map(quoted) }
    }
}

fn quoted(command: &Command) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quote = |word: &OsStr| match word.to_string_lossy() {
        word if !word.is_empty() && word.chars().all(plain) => word.into_owned(),
        word => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let arguments = command.arguments().iter().map(OsString::as_os_str);
    let words = std::iter::once(command.program()).chain(arguments);
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// Makes of entries what is written.
enum Exporter {
    Asciicast(Asciicast),
    Script(Recording),
    Records { encoder: Encoder, time: Timestamp },
}

impl Exporter {
    fn new(args: &ExportArgs, place: &Place, log: &RunLog) -> Result<Self, String> {
        let about = About::new(place, log.run());
        Ok(match args.to {
            To::Asciicast => Self::Asciicast(Asciicast::new(about)),
            To::Scriptreplay => Self::Script(Recording::new(about)),
            To::Cri => Self::records(Format::Cri, args, place)?,
            To::Json => Self::records(Format::Json, args, place)?,
        })
    }

    /// Every record has a time. What comes before the first that is known gets that one.
    fn records(format: Format, args: &ExportArgs, place: &Place) -> Result<Self, String> {
        let mut log = open(args, place)?;
        let time = loop {
            match log.next().map_err(|error| error.to_string())? {
                Some(Entry::Mark { time, .. } | Entry::Bytes { time: Some(time), .. }) => {
                    break time;
                }
                Some(Entry::Bytes { time: None, .. }) => {}
                None => break log.started(),
            }
        };
        Ok(Self::Records { encoder: Encoder::new(format), time })
    }

    fn entry(&mut self, entry: &Entry<'_>, out: &mut Script) {
        match self {
            Self::Asciicast(cast) => cast.entry(entry, &mut out.script),
            Self::Script(recording) => recording.entry(entry, out),
            Self::Records { encoder, time: last } => match *entry {
                Entry::Bytes { time, stream, bytes } => {
                    *last = time.unwrap_or(*last);
                    encoder.encode(*last, stream.unwrap_or(Stream::Stdout), bytes, &mut out.script);
                }
                Entry::Mark { time, mark: Mark::Start { .. } | Mark::Stop(_) } => {
                    *last = time;
                    encoder.finish(time, &mut out.script);
                }
                Entry::Mark { .. } => {}
            },
        }
    }

    fn finish(&mut self, out: &mut Script) {
        match self {
            Self::Asciicast(cast) => cast.finish(&mut out.script),
            Self::Script(recording) => recording.finish(out),
            Self::Records { encoder, time } => encoder.finish(*time, &mut out.script),
        }
    }
}

/// Where it goes.
enum Output {
    /// With a filter where that is a terminal.
    Stdout(Option<Box<Screen>>),
    File(Target),
    Files {
        script: Target,
        timing: Target,
    },
}

impl Output {
    fn open(args: &ExportArgs) -> Result<Self, String> {
        let Some(output) = &args.output else {
            return Ok(Self::Stdout(
                terminal::stdout().is_terminal().then(|| Box::new(Screen::text())),
            ));
        };
        let file = Target::create(output)?;
        Ok(match args.to {
            To::Scriptreplay => {
                Self::Files { script: file, timing: Target::create(&timing(output))? }
            }
            _ => Self::File(file),
        })
    }

    /// Writes what there is; `false` when nobody reads it any more.
    fn write(&mut self, out: &mut Script) -> Result<bool, String> {
        let Script { script, timing } = std::mem::take(out);
        match self {
            Self::File(file) => file.write(&script)?,
            Self::Files { script: first, timing: second } => {
                first.write(&script)?;
                second.write(&timing)?;
            }
            Self::Stdout(None) => return to_stdout(&script),
            Self::Stdout(Some(screen)) => {
                let mut shown = Vec::new();
                screen.filter(&script, &mut shown);
                screen.suspend(&mut shown);
                let written = to_stdout(&shown);
                screen.resume(&mut out.script);
                return written;
            }
        }
        Ok(true)
    }

    fn end(&mut self) -> Result<(), String> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.keep(),
            Self::Files { script, timing } => {
                timing.keep()?;
                script.keep().inspect_err(|_| timing.remove())
            }
        }
    }
}

fn to_stdout(bytes: &[u8]) -> Result<bool, String> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if terminal::peer_has_gone(&error, false) => Ok(false),
        Err(error) => Err(format!("can't write to stdout: {}", reason(&error))),
        Ok(()) => Ok(true),
    }
}

/// What ends us while a file is half done, which is removed then.
struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    fn watch(output: &Output) -> Result<Self, String> {
        let arrived = Arc::new(AtomicUsize::new(0));
        if !matches!(output, Output::Stdout(_)) {
            let ends = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP];
            for signal in command_signals().into_iter().filter(|signal| ends.contains(signal)) {
                let number = signal.number();
                signal_hook::flag::register_usize(
                    number,
                    arrived.clone(),
                    number.unsigned_abs() as usize,
                )
                .map_err(|error| format!("can't watch for signals: {}", reason(&error)))?;
            }
        }
        Ok(Self(arrived))
    }

    fn arrived(&self) -> Option<Signal> {
        let number = self.0.load(Ordering::Relaxed);
        i32::try_from(number).ok().and_then(Signal::from_number)
    }
}

#[cfg(test)]
mod tests;
