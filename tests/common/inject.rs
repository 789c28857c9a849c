//! Fault injection: system calls of a program that fail, by a library in `LD_PRELOAD`.
//!
//! `inject.c` describes the rules. It needs a C compiler and a dynamically linked program, so the
//! static build is not tested with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Makes calls of `vmon` fail that this command runs, also as the supervisor of `run --detach`. Its
/// own children are not concerned. Each rule is `CALL ERRNO [arg=N] [fd=TEXT] [while=FILE] [skip=N]`:
///
/// ```text
/// inject::faults(&mut command, &[format!("flock {} arg={}", libc::EIO, libc::LOCK_UN)]);
/// ```
pub fn faults(command: &mut Command, rules: &[String]) {
    faults_in("vmon", command, rules);
}

/// The same for another program, which is known by the last component of its path.
pub fn faults_in(program: &str, command: &mut Command, rules: &[String]) {
    command
        .env("LD_PRELOAD", library())
        .env("VMON_INJECT_PROGRAM", program)
        .env("VMON_INJECT_RULES", rules.join("\n"));
}

/// Sets the wall clock of `vmon` off by these seconds; with `while_file`, as long as it exists.
pub fn clock(command: &mut Command, seconds: i64, while_file: Option<&Path>) {
    let condition = while_file.map(|file| format!(" while={}", file.display()));
    faults(command, &[format!("clock {seconds}{}", condition.unwrap_or_default())]);
}

/// The two rules that make every KILL fail with EPERM while the file exists: by kill(2), and by
/// pidfd_send_signal(2).
pub fn kill_fails_while(file: &Path) -> [String; 2] {
    ["kill", "pidfd_send_signal"].map(|call| {
        format!("{call} {} arg={} while={}", libc::EPERM, libc::SIGKILL, file.display())
    })
}

/// The library, compiled once a test process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let given = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let is_writable = fs::create_dir_all(given).is_ok()
            && tempfile::Builder::new().prefix("probe").tempfile_in(given).is_ok();
        let directory = if is_writable { given.to_owned() } else { std::env::temp_dir() };
        let source =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/common/inject.c");
        let made = tempfile::Builder::new().prefix("inject").tempfile_in(&directory).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(made.path());
        let compiled = compiler.arg(&source).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        // Also for a vmon that runs as another user.
        fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Test processes run side by side: each puts the same file in this place.
        let place = directory.join(format!("inject-{}.so", nix::unistd::geteuid()));
        made.persist(&place).unwrap();
        place
    })
}
