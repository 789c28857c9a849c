//! Cgroups of tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A directory of a cgroup v2 that this process may use, if there is one.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let roots = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    roots.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).find(|root| {
        let probe = root.join(format!("vmon-probe-{}", std::process::id()));
        // A process can be put there, and all of it be killed.
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        let usable = fs::create_dir(&probe).is_ok()
            && probe.join("cgroup.kill").exists()
            && fs::write(probe.join("cgroup.procs"), sleep.id().to_string()).is_ok();
        let _ = sleep.kill();
        let _ = sleep.wait();
        let _ = fs::remove_dir(&probe);
        usable
    })
}

/// The path of a cgroup for this test, which is not made yet; `None` where none can be made.
pub fn cgroup(name: &str) -> Option<PathBuf> {
    let root = cgroup_root();
    if root.is_none() {
        eprintln!("SKIPPED: no cgroup v2 here that could be used");
    }
    Some(root?.join(format!("vmon-test-{}-{name}", std::process::id())))
}
