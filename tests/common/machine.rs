//! QEMU's command for a microVM, as `examples/microvm.sh` builds it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// What the guest prints when its shell is about to start.
pub const READY: &str = "microvm ready";

/// QEMU's command, one for all tests.
pub struct Machine {
    /// Holds the initramfs.
    directory: TempDir,
    pub command: Vec<String>,
}

/// `None` where something is missing that no test can do without.
pub fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Result<Machine, String>> = OnceLock::new();
    match MACHINE.get_or_init(prepare) {
        Ok(machine) => Some(machine),
        Err(missing) if std::env::var_os("VMON_REQUIRE_QEMU").is_some() => {
            panic!("VMON_REQUIRE_QEMU is set, but: {missing}")
        }
        Err(missing) => {
            // Not by eprintln, which the test harness would swallow.
            let _ = writeln!(std::io::stderr(), "skipped: no microVM can be booted: {missing}");
            None
        }
    }
}

fn prepare() -> Result<Machine, String> {
    let directory = tempfile::Builder::new().prefix("vmon-microvm").tempdir().unwrap();
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("examples/microvm.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg("--prepare")
        .arg(directory.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("bash: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(77) => return Err(stderr.trim().to_owned()),
        _ => panic!("examples/microvm.sh --prepare: {}: {stderr}", output.status),
    }
    let command = String::from_utf8(output.stdout).unwrap();
    Ok(Machine { directory, command: command.lines().map(str::to_owned).collect() })
}

impl Machine {
    /// Whether its guest has the modules that a virtio console takes.
    pub fn has_virtio_console(&self) -> bool {
        let initramfs = std::fs::read(self.directory.path().join("initramfs.cpio")).unwrap();
        let name = b"modules/virtio_console.ko";
        let has = initramfs.windows(name.len()).any(|bytes| bytes == name);
        if !has {
            assert!(std::env::var_os("VMON_REQUIRE_QEMU").is_none(), "no virtio modules");
            let _ = writeln!(std::io::stderr(), "skipped: no virtio modules for the guest");
        }
        has
    }
}

/// The kernel's command line, changed.
pub fn append(command: &mut [String], what: &str) {
    let at = command.iter().position(|argument| argument == "-append").unwrap() + 1;
    command[at].push_str(what);
}
