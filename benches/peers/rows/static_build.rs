//! The static, non-relocatable build of the command.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Result;
use crate::options::target_directory;

/// How it is built, from the root of the crate; cargo puts it below `target`.
fn command(target: &std::path::Path) -> (Command, PathBuf) {
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--bin", "vmon"])
        .args(["--config", ".cargo/static.toml", "--target", &triple])
        .env("CARGO_TARGET_DIR", target);
    (cargo, target.join(triple).join("release/vmon"))
}

/// Builds it, and returns its path.
pub fn build() -> Result<PathBuf> {
    let (mut cargo, path) = command(&target_directory().join("peers-static"));
    let status = cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("cargo ended with {status}").into());
    }
    Ok(path)
}
