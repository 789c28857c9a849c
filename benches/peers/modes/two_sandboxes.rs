//! `@two-sandboxes DIR pty|pipe|block|drop|idle`: a host of two sandboxes on one reactor: one that
//! is our terminal's, and one that floods its log: through a PTY, a pipe, or a pipe whose log has a
//! rate, which waits then or leaves bytes out; or one that is idle.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use vmon::child::{Command, Signal};
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{Forward, Input, LogRate, Monitor, OverRate, Sandbox, command_signals};
use vmon::reactor::Reactor;

use super::words;
use crate::Result;
use crate::pattern::Flood;

/// The rate of a log that has one.
const RATE: NonZeroU64 = NonZeroU64::new(1 << 20).expect("it is not 0");

pub fn run(dir: &str, other: &str) -> Result<()> {
    let logs = Path::new(dir).join("log");
    let mut reactor = Reactor::new()?;
    reactor.watch_signals(command_signals())?;

    let flood = Sandbox::new("flood", &logs)?
        .log(LogOptions::default().retention(Retention::default().max_size(10 << 20).max_files(1)))
        .stop_signal(Signal::KILL)
        .stop_timeout(Duration::from_secs(1));
    let rate = LogRate::new(RATE);
    let flood = match other {
        "block" => flood.log_rate(rate),
        "drop" => flood.log_rate(rate.over(OverRate::Drop)),
        _ => flood,
    };
    let child = match other {
        "idle" => words("idle", &[])?,
        _ => words("flood", &Flood::endless().words())?,
    };
    let flooding = command(&child).pty(other == "pty");
    let flood = Monitor::builder(flood).spawn(&mut reactor, flooding);
    let echo = Sandbox::new("echo", &logs)?.forward(Forward::Block).input(Input::Forward);
    let echo = Monitor::builder(echo).spawn(&mut reactor, command(&words("echo", &[])?).pty(true));

    while reactor.get(echo).is_some_and(|echo| echo.end().is_none()) {
        reactor.poll_once(None)?;
    }
    reactor.call(flood, Monitor::stop);
    reactor.run()?;
    Ok(())
}

fn command(words: &[std::ffi::OsString]) -> Command {
    Command::new(words[0].clone()).args(&words[1..])
}
