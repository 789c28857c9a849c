//! What a lifecycle waits for at this moment. Nothing is kept for it but what failures leave behind.

use super::{Lifecycle, Stage, State};
use crate::monitor::console_report::{ConsoleReport, ConsoleState};
use crate::monitor::parts::Parts;
use crate::monitor::wait::{Wait, WaitKind};

impl Lifecycle {
    /// What holds the sandbox up now.
    pub(super) fn waits(&self) -> Vec<Wait> {
        let Parts { channels, observers, run, .. } = &self.parts;
        let mut waits = Vec::new();
        match &self.state {
            State::Alive(process, stage) => {
                if let Stage::Stopping(stopping) = stage {
                    waits.extend(stopping.wait(process));
                }
                let consoles = channels.consoles();
                let reasons = consoles.iter().filter_map(not_opened);
                if let Some((_, since)) = run.child {
                    let kind = WaitKind::Console;
                    waits.extend(reasons.map(|reason| Wait { kind, reason, since }));
                }
            }
            State::Draining(draining) => waits.extend(draining.waits(channels)),
            State::Starting(..) | State::Restarting(..) | State::Stopped(_) => {}
        }
        let failures = channels.log_failures();
        waits.extend(failures.map(|(reason, since)| Wait::new(WaitKind::Log, reason, since)));
        waits.extend(observers.waits());
        waits
    }
}

/// Why a console was not open in this run yet. One that was open before waits for nothing: its peer
/// has gone.
fn not_opened(console: &ConsoleReport) -> Option<String> {
    let ConsoleReport { name, kind, path, state, opened, .. } = console;
    let waits = matches!(state, ConsoleState::Waiting | ConsoleState::Listening);
    if !waits || *opened > 0 {
        return None;
    }
    let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    Some(match *kind {
        "listen" => format!("{name}: nothing has connected to {path}"),
        "unix" => format!("{name}: nothing listens at {path}"),
        kind => format!("{name}: there is no {kind} at {path}"),
    })
}
