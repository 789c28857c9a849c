//! A memory cgroup with a limit, of cgroup v1 or v2.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::eventually;

/// A command that takes memory until it is killed: no line ends in what it reads.
pub const EATER: &str = "tail /dev/zero";

/// A cgroup that goes with the test.
pub struct MemoryCgroup {
    pub directory: PathBuf,
    pub is_v1: bool,
}

impl MemoryCgroup {
    /// Makes one with room for 32 MiB. `None`, which skips the test and says so, where this process
    /// can't; with `VMON_REQUIRE_MEMORY_CGROUP` set, a failure.
    pub fn new(name: &str) -> Option<Self> {
        let made = Self::try_new(name);
        if made.is_none() {
            let missing = "no memory cgroup can be made";
            assert!(std::env::var_os("VMON_REQUIRE_MEMORY_CGROUP").is_none(), "{missing}");
            // Not by eprintln, which the test harness would swallow.
            let _ = writeln!(std::io::stderr(), "skipped: {missing}");
        }
        made
    }

    fn try_new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mut parents = mounts.lines().filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let is_v1 = kind.starts_with("cgroup ")
                && kind.rsplit([' ', ',']).any(|option| option == "memory");
            let is_wanted = is_v1 || kind.starts_with("cgroup2 ");
            Some((PathBuf::from(mount.split(' ').nth(4)?), is_v1)).filter(|_| is_wanted)
        });
        parents.find_map(|(parent, is_v1)| {
            let name = format!("vmon-test-{}-{name}", std::process::id());
            let cgroup = Self { directory: parent.join(name), is_v1 };
            fs::create_dir(&cgroup.directory).ok()?;
            cgroup.limit().is_ok().then_some(cgroup)
        })
    }

    fn limit(&self) -> std::io::Result<()> {
        let limits = match self.is_v1 {
            true => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
            false => ["memory.max", "memory.swap.max"],
        };
        fs::write(self.directory.join(limits[0]), "32M")?;
        // Absent without swap accounting.
        let swap = self.directory.join(limits[1]);
        if swap.exists() {
            fs::write(swap, if self.is_v1 { "32M" } else { "0" })?;
        }
        Ok(())
    }

    /// The command, which moves itself there before it is executed.
    pub fn holds(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.procs());
        inside.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }

    pub fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Removes it as soon as its processes have ended.
    #[track_caller]
    pub fn remove(&self) {
        eventually("the cgroup can be removed", || remove(&self.directory));
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
        } else if !remove(&self.directory) {
            eprintln!("{} is left", self.directory.display());
        }
    }
}

fn remove(directory: &Path) -> bool {
    fs::remove_dir(directory).is_ok() || !directory.exists()
}
