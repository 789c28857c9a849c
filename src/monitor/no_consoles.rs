//! In the place of [`consoles`](super::consoles), where they are not built in: there are none.

use std::io;
use std::time::Instant;

use nix::pty::Winsize;

use super::StartError;
use super::console::{Console, ConsoleError};
use super::keys::{ConsoleId, Cx, Sources};
use super::name::Name;
use super::report::ConsoleReport;
use super::rotating::Rotating;
use super::sandbox::Sandbox;
use super::sessions::Sessions;
use crate::child::Command;
use crate::logfile::{LogError, LogFile, Mark};
use crate::terminal::Terminal;

#[derive(Debug, Default)]
pub(super) struct Consoles(());

impl Consoles {
    /// A record may describe a sandbox with consoles: it is refused, not started without them.
    pub(super) fn check(&self, sandbox: &Sandbox) -> Result<(), StartError> {
        let described = sandbox.consoles().map(Console::name).next();
        match described.or(sandbox.interactive.as_ref()) {
            Some(name) => Err(ConsoleError::NotBuilt(name.to_string()).into()),
            None => Ok(()),
        }
    }

    pub(super) fn prepare(
        &self,
        _: &Sandbox,
        _: Option<Terminal>,
        _: Option<&mut Rotating>,
    ) -> Result<(), StartError> {
        Ok(())
    }

    pub(super) fn fill_in(&self, command: Command) -> Command {
        command
    }

    pub(super) fn start(&self, _: u32, _: &mut Cx<'_>) {}

    pub(super) fn find(&self, _: &Name) -> Option<ConsoleId> {
        None
    }

    pub(super) fn get(&mut self, _: ConsoleId) -> Option<&mut Port> {
        None
    }

    pub(super) fn interactive(&mut self) -> Option<&mut Port> {
        None
    }

    pub(super) fn leave_terminal(&self) {}

    pub(super) fn enter_terminal(&self) {}

    pub(super) fn begin_drain(&self, _: &mut Sessions, _: &mut Cx<'_>) {}

    pub(super) fn read_again(&self, _: &mut Sessions, _: &mut Cx<'_>) -> bool {
        false
    }

    pub(super) fn are_quiet(&self) -> bool {
        true
    }

    pub(super) fn are_finished(&self) -> bool {
        true
    }

    pub(super) fn have_ended(&self) -> bool {
        true
    }

    pub(super) fn are_flushed(&self) -> bool {
        true
    }

    pub(super) fn end_complete(&self, _: &mut Cx<'_>) {}

    pub(super) fn last_call(&self) {}

    pub(super) fn abandon(&self, _: &mut Cx<'_>) {}

    pub(super) fn logs_need_retry(&self) -> bool {
        false
    }

    pub(super) fn finish_logs(&self) -> bool {
        true
    }

    pub(super) fn retry_logs(&self, _: &mut Sessions, _: &mut Cx<'_>) {}

    pub(super) fn reopen_logs(&self) -> Result<(), LogError> {
        Ok(())
    }

    pub(super) fn log_deadline(&self) -> Option<Instant> {
        None
    }

    pub(super) fn log_turn(&self) {}

    pub(super) fn log_files(&mut self) -> impl Iterator<Item = &mut LogFile> {
        std::iter::empty()
    }

    pub(super) fn close(&self, _: Option<Mark>, _: &mut Cx<'_>) -> [LogFile; 0] {
        []
    }

    pub(super) fn report(&self) -> Vec<ConsoleReport> {
        Vec::new()
    }

    pub(super) fn dropped(&self) -> u64 {
        0
    }
}

/// A console: no value of it, so none of these is ever called.
#[derive(Debug)]
pub(super) enum Port {}

impl Port {
    pub(super) fn id(&self) -> ConsoleId {
        match *self {}
    }

    pub(super) fn name(&self) -> &Name {
        match *self {}
    }

    pub(super) fn log_tail(&self, _: usize) -> Vec<u8> {
        match *self {}
    }

    pub(super) fn is_session(&self) -> bool {
        match *self {}
    }

    pub(super) fn read(&self, _: &mut Sessions, _: &mut Cx<'_>) -> bool {
        match *self {}
    }

    pub(super) fn settle(&self, _: &mut Cx<'_>) {
        match *self {}
    }

    pub(super) fn sink_ready(&self, _: &mut Sessions, _: &mut Cx<'_>) {
        match *self {}
    }

    pub(super) fn stdin_ready(&self, _: &mut Cx<'_>) {
        match *self {}
    }

    pub(super) fn accepts_input(&self) -> bool {
        match *self {}
    }

    pub(super) fn send_input(&self, _: &[u8], _: &mut Sources<'_>) {
        match *self {}
    }

    pub(super) fn resize_to(&self, _: &Winsize) -> Option<io::Result<()>> {
        match *self {}
    }

    pub(super) fn resize_to_ours(&self) {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_with_consoles_on_record_is_refused_without_the_feature() {
        let sandbox = Sandbox::new("a", "b", "/log").unwrap();
        assert!(Consoles::default().check(&sandbox).is_ok());
        let described = Sandbox { consoles: vec!["x=pty".parse().unwrap()], ..sandbox.clone() };
        let interactive = Sandbox { interactive: Some("x".parse().unwrap()), ..sandbox };
        for sandbox in [described, interactive] {
            let error = Consoles::default().check(&sandbox).unwrap_err().to_string();
            assert_eq!(
                error,
                "the console x can't be opened: this program was built without consoles"
            );
        }
    }
}
