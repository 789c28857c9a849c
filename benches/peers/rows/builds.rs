//! The executables of this project that cargo has not built for the benchmark already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::options::target_directory;

/// An executable to build.
pub struct Build {
    /// What it is.
    pub name: &'static str,
    package: &'static str,
    program: &'static str,
    /// Static, and at a fixed address.
    is_static: bool,
}

/// The static build of the command.
pub const STATIC_VMON: Build =
    Build { name: "the static vmon", package: "vmon-cli", program: "vmon", is_static: true };

/// The monitor of containers. Its package is built alone: with others it has their features too.
pub const VMON_CONMON: Build =
    Build { name: "vmon-conmon", package: "vmon-conmon", program: "vmon-conmon", is_static: false };

/// Its static build.
pub const STATIC_VMON_CONMON: Build =
    Build { name: "the static vmon-conmon", is_static: true, ..VMON_CONMON };

impl Build {
    /// How it is built, from the root of the repository, and where it is then.
    fn command(&self, target: &Path) -> (Command, PathBuf) {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "--quiet", "-p", self.package]);
        cargo.args(["--bin", self.program]);
        if !self.is_static {
            return (cargo, target.join("release").join(self.program));
        }
        // Elsewhere: the configuration's environment would have the other builds made again.
        let target = target.join("peers-static");
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        cargo.args(["--config", ".cargo/static.toml", "--target", &triple]);
        cargo.env("CARGO_TARGET_DIR", &target);
        (cargo, target.join(triple).join("release").join(self.program))
    }

    /// Builds it, and returns its path.
    pub fn path(&self) -> Result<PathBuf> {
        let (mut cargo, path) = self.command(&target_directory());
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
}
