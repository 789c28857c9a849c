//! A minimal host: runs one sandbox with a log and a record, and prints how it ended.
//!
//! `cargo run --example embed -- sh -c 'echo hello; exit 7'`

use std::process::ExitCode;

use vmon::child::Command;
use vmon::monitor::{Forward, Monitor, Rootfs, Sandbox};
use vmon::reactor::Reactor;
use vmon::registry::Registry;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().unwrap_or_else(|| "uname".into());
    let state = std::env::temp_dir().join("vmon-embed");

    let registry = Registry::open(state.join("sandbox.db"))?;
    let mut reactor = Reactor::new()?;
    let sandbox = Sandbox::new("embedded", state.join("log"))?
        .rootfs(Rootfs::Native("/srv/rootfs".into()))
        .forward(Forward::Block);
    let id = Monitor::builder(sandbox)
        .observer(registry.observer())
        .spawn(&mut reactor, Command::new(program).args(words));
    reactor.run()?;

    let end = reactor.remove(id).and_then(Monitor::into_end).ok_or("no end")?;
    eprintln!("{}, {} bytes in {}", end.reason(), end.bytes_logged, state.join("log").display());
    Ok(end.exit_code().into())
}
