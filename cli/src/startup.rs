//! What the process does before it reads its command line: memory, signals, panics.

use crate::OWN_FAILURE;

// GCC's unwinder, with which a backtrace walks the stack, out of its archive: to load the shared
// library takes 0.1 ms of each start, and memory for as long as the command runs. It comes before
// std's gcc_s, which then is not needed; a static executable has it from std.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")))]
#[allow(unsafe_code)] // declares nothing
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

/// Prepares the process. To be called first, and once.
#[allow(unsafe_code)] // for the one call that must come before all others
pub fn prepare() {
    // SAFETY: this is the only thread, and the command starts no other one.
    unsafe { vmon::process::settle_heap() };
    vmon::child::restore_sigchld();
    vmon::child::unblock_signals();
    exit_on_panic();
    vmon::terminal::install_panic_hook();
}

/// Has a panic end the command as any failure of its own does, once the hooks that are set later
/// have done their part. Unwinding would do no more for the child or the record: both are left as
/// they are, and the next command that reads the record finds that the supervisor is gone.
fn exit_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(OWN_FAILURE.into());
    }));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Not a test: the program that the next one runs.
    #[test]
    #[ignore = "a program that another test runs"]
    fn panics() {
        super::exit_on_panic();
        vmon::terminal::install_panic_hook();
        panic!("first line\nand second");
    }

    #[test]
    fn a_panic_is_told_and_exits_with_125() {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "startup::tests::panics", "--ignored", "--nocapture"]);
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("first line\nand second\n"), "{stderr}");
    }
}
