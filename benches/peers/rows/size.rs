//! Row 11: how large the command is, and what the library adds to a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::bench::Bench;
use crate::options::target_directory;
use crate::row::{Goal, Row, Unit};

/// A host of another library, so to speak.
const BARE: &str = "fn main() {
    println!(\"{}\", std::env::args().count());
}
";

/// The same host, of one sandbox.
const LINKED: &str = "use vmon::child::Command;
use vmon::monitor::{Forward, Monitor, Sandbox};
use vmon::reactor::Reactor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(\"{}\", std::env::args().count());
    let mut reactor = Reactor::new()?;
    let sandbox = Sandbox::new(\"web\", \"log\")?.forward(Forward::Block);
    let command = Command::new(\"true\").pty(true);
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    reactor.run()?;
    println!(\"{:?}\", reactor.remove(id).and_then(Monitor::into_end));
    Ok(())
}
";

pub fn row(bench: &Bench) -> Result<Row> {
    let mut row = Row::new(11, "Size, stripped");
    let size = |path: &Path| -> Result<f64> {
        Ok(fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len() as f64)
    };
    let command = size(&bench.peers.vmon)? / 1e6;
    row.figure("vmon", "command", Unit::Megabytes, vec![command]);
    row.own("vmon", "command", Unit::Megabytes, vec![command], Goal::AtMost(3.0));
    if let Some(path) = &bench.peers.static_vmon {
        row.figure("vmon, static", "command", Unit::Megabytes, vec![size(path)? / 1e6]);
    }
    match hosts(bench) {
        Ok((bare, linked)) => {
            let (bare, linked) = (size(&bare)? / 1024.0, size(&linked)? / 1024.0);
            row.figure("a host without vmon", "host", Unit::Kibibytes, vec![bare]);
            row.figure("the same with vmon", "host", Unit::Kibibytes, vec![linked]);
            let added = vec![linked - bare];
            row.own("vmon as a library", "added", Unit::Kibibytes, added, Goal::AtMost(400.0));
        }
        Err(error) => row.failures.push(format!("hosts: {error}")),
    }
    row.notes.push("The library is without SQLite: no default features".to_owned());
    Ok(row)
}

/// Builds both hosts, with the release settings of this crate.
fn hosts(bench: &Bench) -> Result<(PathBuf, PathBuf)> {
    let dir = target_directory().join("peers-hosts");
    let sources = dir.join("src/bin");
    fs::create_dir_all(&sources)?;
    // The quick form only sees that they build.
    let (profile, words): (_, &[&str]) = if bench.options.quick {
        ("debug", &["build", "--offline", "--quiet"])
    } else {
        ("release", &["build", "--offline", "--quiet", "--release"])
    };
    let crate_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    fs::write(dir.join("Cargo.toml"), manifest(crate_dir))?;
    fs::copy(Path::new(crate_dir).join("Cargo.lock"), dir.join("Cargo.lock"))?;
    fs::write(sources.join("bare.rs"), BARE)?;
    fs::write(sources.join("linked.rs"), LINKED)?;
    let target = dir.join("target");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(words)
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("cargo ended with {status}").into());
    }
    Ok((target.join(profile).join("bare"), target.join(profile).join("linked")))
}

fn manifest(crate_dir: &str) -> String {
    format!(
        "[package]
name = \"peers-hosts\"
version = \"0.0.0\"
edition = \"2024\"
publish = false

[dependencies]
vmon = {{ path = {crate_dir:?}, default-features = false }}

[profile.release]
lto = \"fat\"
codegen-units = 1
strip = true

[workspace]
"
    )
}
