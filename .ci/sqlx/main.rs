//! A host that links the registry beside sqlx, and reads with sqlx what the registry has written.

use std::error::Error;
use std::path::PathBuf;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use vmon::child::Command;
use vmon::monitor::{Monitor, Sandbox};
use vmon::reactor::Reactor;
use vmon::registry::Registry;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("no directory")?);
    let db = directory.join("sandbox.db");
    let registry = Registry::open(&db)?;
    let mut reactor = Reactor::new()?;
    let sandbox = Sandbox::new("web", directory.join("log"))?;
    Monitor::builder(sandbox)
        .observer(registry.observer())
        .spawn(&mut reactor, Command::new("sh").args(["-c", "exit 7"]));
    reactor.run()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let read = async {
        let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&db)).await?;
        let columns = "SELECT status, (SELECT exit_code FROM vmon_runs) FROM sandboxes";
        sqlx::query_as::<_, (String, i64)>(columns).fetch_one(&pool).await
    };
    assert_eq!(runtime.block_on(read)?, ("STOPPED".to_owned(), 7));
    Ok(())
}
