//! What depends on cgroups, in a guest that has only cgroup v2: this machine may have v1.
//!
//! One boot for all of it. The guest runs tests of this program on the `vmon` of this machine.

#![cfg(target_os = "linux")]

use std::path::Path;

use crate::common::guest::Guest;
use crate::common::machine::machine;

// They run here too, on this machine's cgroups.
#[path = "../lifecycle/oom.rs"]
mod oom;
#[path = "../monitor/oom.rs"]
mod oom_watch;

#[test]
fn the_tests_of_memory_that_runs_out_pass_in_a_guest_with_cgroup_v2_only() {
    let Some(machine) = machine() else { return };
    let tests = std::env::current_exe().unwrap();
    let tests = tests.to_str().unwrap();
    // Without those that start many programs, which takes minutes where the guest is emulated.
    let script = format!(
        "export VMON_REQUIRE_MEMORY_CGROUP=1 RUST_BACKTRACE=1
        grep cgroup /proc/mounts
        {tests} cgroup2::oom_watch:: cgroup2::oom::a_command_killed_ --test-threads=1
        echo \"exit code of the tests: $?\""
    );
    let guest = Guest::with_cgroup2()
        .program(Path::new(env!("CARGO_BIN_EXE_vmon")))
        .program(Path::new(tests))
        .script(&script);
    let seen = guest.run(machine);
    assert!(seen.contains("cgroup2 /sys/fs/cgroup") && !seen.contains(" cgroup rw"), "{seen}");
    let passed = seen.contains("exit code of the tests: 0") && !seen.contains(" 0 passed");
    assert!(passed && !seen.contains("skipped: "), "{seen}");
}
