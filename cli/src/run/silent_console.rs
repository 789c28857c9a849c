//! A command that ends soon without output at the console that the terminal is connected to: the
//! end of its own log is printed, which the terminal has not shown.

use std::time::Duration;

use vmon::logfile::read::{Entry, LogReader, ReadError};
use vmon::monitor::{End, Forward, Sandbox};
use vmon::terminal::Messages;

use crate::messages::{self, Listener};

/// How long a command may run for its log to be printed.
const SOON: Duration = Duration::from_secs(10);

/// How many lines are printed, and how many bytes at most.
const LINES: u64 = 10;
const BYTES: usize = 4096;

/// Prints the last lines of the command's own log to stderr, if it has run for `time` only and its
/// console has shown nothing.
pub fn explain(sandbox: &Sandbox, end: &End, time: Duration) {
    let Some(console) = &sandbox.interactive else { return };
    let silent = |end: &End| {
        let mut consoles = end.consoles.iter().filter(|report| report.name == *console);
        consoles.all(|report| report.bytes_logged == 0 && report.bytes_dropped == 0)
    };
    let shown = sandbox.forward == Forward::Off || time > SOON || !silent(end);
    if shown || sandbox.log_off || end.bytes_logged == 0 {
        return;
    }
    let log = sandbox.log_path();
    // The log is there for the user to read.
    let Ok(text) = last_lines(sandbox, end.bytes_logged) else { return };
    let stderr = Messages::stderr();
    messages::failure(
        &stderr,
        &format!("nothing came at console {console}; the end of {}:", log.display()),
    );
    for line in String::from_utf8_lossy(&text).lines() {
        stderr.line(&format!("{}\n", messages::printable(line)));
    }
}

/// The last lines of the log, but no more than its last `logged` bytes, which are those of this run.
fn last_lines(sandbox: &Sandbox, logged: u64) -> Result<Vec<u8>, ReadError> {
    let (config_file, name) = (sandbox.config_file.as_str(), sandbox.name.as_str());
    let mut reader = LogReader::open(&sandbox.log_dir, config_file, name)?;
    reader.written_as(sandbox.log.format);
    reader.seek_last_lines(LINES, |_| true)?;
    let most = usize::try_from(logged).unwrap_or(BYTES).min(BYTES);
    let mut text = Vec::new();
    while let Some(entry) = reader.next()? {
        if let Entry::Bytes { bytes, .. } = entry {
            text.extend_from_slice(bytes);
            text.drain(..text.len().saturating_sub(most));
        }
    }
    Ok(text)
}
