//! Two hundred sandboxes from tasks of a multi-threaded tokio runtime.
//!
//! `cargo run --example tokio`

use std::error::Error;
use std::path::Path;

use vmon::child::Command;
use vmon::host::Host;
use vmon::monitor::{Monitor, Sandbox};
use vmon::registry::Registry;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Runs them, and returns the exit code of each.
pub(crate) async fn run(directory: &Path) -> Result<Vec<u8>> {
    let registry = Registry::open(directory.join("sandbox.db"))?.keep_connection();
    let host = Host::new()?;
    let mut tasks = Vec::new();
    for n in 0..200 {
        let sandbox = Sandbox::new(format!("n{n}"), directory.join("log"))?;
        let builder = Monitor::builder(sandbox).observer(registry.observer());
        let command = Command::new("sh").args(["-c", &format!("echo {n}; exit {n}")]);
        let handle = host.handle();
        tasks.push(tokio::spawn(async move { handle.start(builder, command).await?.end.await }));
    }
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await??.exit_code());
    }
    host.close().await?;
    Ok(codes)
}

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("vmon-tokio");
    println!("{:?}", tokio::runtime::Runtime::new()?.block_on(run(&directory))?);
    Ok(())
}
