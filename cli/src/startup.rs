//! Process setup before the command line is parsed: heap, signals, panic hooks.

use crate::OWN_FAILURE;

// Links GCC's unwinder, which backtraces use, statically. Loading the shared library would take
// 0.1 ms of each start, and memory while the process runs. The archive precedes std's gcc_s on the
// linker's command line, so gcc_s is not needed. A static executable gets the unwinder from std.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")))]
#[allow(unsafe_code)] // an empty extern block, for its link attribute
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

/// Prepares the process. Must be called once, before anything else.
#[allow(unsafe_code)] // fix_heap_threshold must precede all other calls
pub fn prepare() {
    // SAFETY: the process has one thread, and the command never starts another one.
    unsafe { vmon::process::fix_heap_threshold() };
    vmon::child::restore_sigchld();
    vmon::child::unblock_signals();
    exit_on_panic();
    vmon::terminal::install_panic_hook();
}

/// Installs a panic hook that exits with [`OWN_FAILURE`]. Hooks that are installed later run first.
/// Unwinding would not help the child or the record: both stay as they are, and the next command
/// that reads the record detects that the supervisor is gone.
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(OWN_FAILURE.into());
    }));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Not a test: the program of the next test.
    #[test]
    #[ignore = "a program that another test runs"]
    fn panics() {
        super::exit_on_panic();
        vmon::terminal::install_panic_hook();
        panic!("first line\nand second");
    }

    #[test]
    fn a_panic_is_reported_and_exits_with_125() {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "startup::tests::panics", "--ignored", "--nocapture"]);
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("first line\nand second\n"), "{stderr}");
    }
}
