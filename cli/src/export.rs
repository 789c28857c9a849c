//! `vmon export`: writes a log in the format of another tool.

mod asciicast;
mod scriptreplay;

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
use vmon::terminal;

use super::atomic_file::AtomicFile;
use super::messages::printable;
use super::outcome::Outcome;
use super::output::print;
use super::run_log::{LogSelectionArgs, LogSource, RunLog, Runs};
use super::screen::Screen;
use super::shared_args::SharedArgs;
use super::{Failure, reason, signalled};
use asciicast::Asciicast;
use scriptreplay::{Recording, Script};

/// Size of a write, in bytes.
const CHUNK: usize = 64 * 1024;

/// Write the output of a sandbox in the format of another tool
///
/// The output of a running sandbox is written up to the present.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FORMAT is one of
  asciicast     asciicast v2, for asciinema; the last run unless --run is given
  scriptreplay  the format of script(1) and scriptreplay(1); the last run unless --run is given. It
                needs -o and writes two files: FILE with the bytes, FILE.timing with their times
  cri           log lines of the Kubernetes container runtime interface; all runs
  json          log lines of Docker's json-file driver; all runs
Bytes whose time is not known get the time of the bytes before them.

Examples:
  vmon export web --to asciicast -o web.cast          asciinema play web.cast
  vmon export web --to scriptreplay -o web.script     scriptreplay web.script.timing web.script
  vmon export web --to json | jq -j .log              as a log shipper reads it")]
pub struct ExportArgs {
    #[command(flatten)]
    run: LogSelectionArgs,

    /// Output format
    #[arg(long, value_name = "FORMAT", value_enum)]
    to: To,

    /// Write to this file instead of stdout. An existing file is replaced only when the output is
    /// complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Asciicast,
    Scriptreplay,
    Cri,
    Json,
}

impl To {
    /// The runs to export without --run: a recording has one run, a log for a shipper has all.
    fn runs(self) -> Runs {
        match self {
            Self::Asciicast | Self::Scriptreplay => Runs::Last,
            Self::Cri | Self::Json => Runs::All,
        }
    }
}

/// How the export ended.
enum ExportEnd {
    Done,
    /// By a signal. Incomplete files are removed.
    Signalled(Signal),
}

/// Writes the export.
pub fn export(args: ExportArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    if args.to == To::Scriptreplay && args.output.is_none() {
        return Err(Failure::NoScript);
    }
    let record = args.run.record(shared, args.to.runs())?;
    let found = LogSource::find(&args.run, &record, &shared.places()?);
    let Some(source) = outcome.ok(found) else { return Ok(()) };
    match write(&args, &source) {
        Ok(ExportEnd::Done) => report_files(&args)?,
        Ok(ExportEnd::Signalled(signal)) => outcome.code = signalled(signal),
        Err(error) => outcome.failed(&format!("can't export {source}: {error}")),
    }
    Ok(())
}

/// Prints the names of both files, since the name of the second is derived.
fn report_files(args: &ExportArgs) -> Result<(), Failure> {
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

fn write(args: &ExportArgs, source: &LogSource) -> Result<ExportEnd, String> {
    let mut log = open(args, source)?;
    let mut exporter = Exporter::new(args, source, &log)?;
    let mut output = Output::open(args)?;
    let interrupt = Interrupt::watch(&output)?;
    let mut out = Script::default();
    while let Some(entry) = log.next().map_err(|error| error.to_string())? {
        exporter.entry(&entry, &mut out);
        if let Some(signal) = interrupt.arrived() {
            return Ok(ExportEnd::Signalled(signal));
        }
        if out.script.len() >= CHUNK && !output.write(&mut out)? {
            return Ok(ExportEnd::Done);
        }
    }
    for warning in log.take_warnings() {
        warn!("{warning}");
    }
    if log.is_empty {
        warn!("the log of {source} has no output of this selection");
    } else if !log.is_timed {
        warn!("the log of {source} has no times: all bytes get the same time");
    }
    exporter.finish(&mut out);
    output.write(&mut out)?;
    output.end()?;
    Ok(ExportEnd::Done)
}

fn open(args: &ExportArgs, source: &LogSource) -> Result<RunLog, String> {
    args.run.open(source, args.to.runs()).map_err(|error| error.to_string())
}

/// Metadata of a recording.
#[derive(Debug)]
struct About {
    title: String,
    /// The command, quoted for a shell.
    command: Option<String>,
}

impl About {
    fn new(source: &LogSource, run: Option<&Run>) -> Self {
        let command = run.and_then(|run| run.spec.as_ref()?.command.as_ref());
        Self { title: source.to_string(), command: command.map(quoted) }
    }
}

fn quoted(command: &Command) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quote = |word: &OsStr| match word.to_string_lossy() {
        word if !word.is_empty() && word.chars().all(plain) => word.into_owned(),
        word => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let arguments = command.get_args().iter().map(OsString::as_os_str);
    let words = std::iter::once(command.get_program()).chain(arguments);
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// Encodes log entries in the output format.
enum Exporter {
    Asciicast(Asciicast),
    Script(Recording),
    Records { encoder: Encoder, time: Timestamp },
}

impl Exporter {
    fn new(args: &ExportArgs, source: &LogSource, log: &RunLog) -> Result<Self, String> {
        let about = About::new(source, log.run.as_ref());
        Ok(match args.to {
            To::Asciicast => Self::Asciicast(Asciicast::new(about)),
            To::Scriptreplay => Self::Script(Recording::new(about)),
            To::Cri => Self::records(Format::Cri, args, source)?,
            To::Json => Self::records(Format::Json, args, source)?,
        })
    }

    /// Every record needs a time. Bytes before the first known time get that time.
    fn records(format: Format, args: &ExportArgs, source: &LogSource) -> Result<Self, String> {
        let mut log = open(args, source)?;
        let time = loop {
            match log.next().map_err(|error| error.to_string())? {
                Some(Entry::Mark { time, .. } | Entry::Bytes { time: Some(time), .. }) => {
                    break time;
                }
                Some(Entry::Bytes { time: None, .. }) => {}
                None => break log.started,
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

/// The destination.
enum Output {
    /// With a filter of escape sequences if stdout is a terminal.
    Stdout(Option<Box<Screen>>),
    /// The second file is that of the times of a scriptreplay recording.
    Files(AtomicFile, Option<AtomicFile>),
}

impl Output {
    fn open(args: &ExportArgs) -> Result<Self, String> {
        let Some(output) = &args.output else {
            let screen = terminal::stdout().is_terminal().then(|| Box::new(Screen::text()));
            return Ok(Self::Stdout(screen));
        };
        let file = AtomicFile::create(output)?;
        let has_timing = args.to == To::Scriptreplay;
        let timing = has_timing.then(|| AtomicFile::create(&timing(output))).transpose()?;
        Ok(Self::Files(file, timing))
    }

    /// Writes the bytes; `false` when the reader of stdout has closed it.
    fn write(&mut self, out: &mut Script) -> Result<bool, String> {
        let Script { script, timing } = std::mem::take(out);
        match self {
            Self::Files(file, timing_file) => {
                file.write(&script)?;
                if let Some(timing_file) = timing_file {
                    timing_file.write(&timing)?;
                }
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
            Self::Files(file, None) => Ok(file.sync_and_keep()?),
            Self::Files(file, Some(timing)) => {
                timing.sync_and_keep()?;
                Ok(file.sync_and_keep().inspect_err(|_| timing.remove())?)
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

/// Catches signals while a file is incomplete, so that it can be removed.
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
