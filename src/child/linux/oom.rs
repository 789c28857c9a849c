//! Whether the kernel's OOM killer has killed a child: the count of OOM kills in the child's memory
//! cgroup, before its start and after its end.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::cgroup::Cgroup;
use crate::process::cgroup::memory::{
    MemoryCgroup, OomKillCount, Version, oom_kills_in, oom_kills_of,
};

/// The OOM kills in a child's memory cgroup before the child is watched.
///
/// The count has the victims of a limit and those of the whole system. The cgroup may have other
/// processes, so a larger count is evidence only for a child that SIGKILL has ended.
#[derive(Debug)]
pub(crate) struct OomKills {
    file: CountFile,
    before: u64,
}

/// The file with the count.
#[derive(Debug)]
enum CountFile {
    /// The hash of its path. It is found again at the end, so that no memory is held meanwhile.
    Shared(u64),
    /// That of a child which was not started here. At the end it can't be found again in v1: a
    /// zombie has left its cgroup.
    Own(Box<Path>),
}

impl OomKills {
    /// Those before the start of a child in this cgroup, or else in the memory cgroup of this
    /// process. `None` if they are not counted, as in a root cgroup of v2, or can't be read.
    pub(crate) fn before_start(cgroup: Option<&Cgroup>) -> Option<Self> {
        let (file, before) = count_here(cgroup)?;
        Some(Self { file: CountFile::Shared(hash(&file)), before })
    }

    /// Those before now in the memory cgroup of a child that runs.
    pub(crate) fn of_running(pid: u32) -> Option<Self> {
        let (file, before) = MemoryCgroup::of(Some(pid)).ok()??.oom_kills()?;
        Some(Self { file: CountFile::Own(file.into()), before })
    }

    /// Whether there are more now. `cgroup` is the one of [`before_start`](Self::before_start).
    /// False if the count can't be read any more, or if this process has been moved.
    pub(crate) fn have_grown(&self, cgroup: Option<&Cgroup>) -> bool {
        let now = match &self.file {
            CountFile::Shared(path) => {
                count_here(cgroup).filter(|(file, _)| hash(file) == *path).map(|(_, count)| count)
            }
            CountFile::Own(file) => oom_kills_of(file),
        };
        now.is_some_and(|now| now > self.before)
    }
}

/// The count for the children that this process starts. `--cgroup` is one of v2: where v1 has the
/// memory controller, it accounts for no memory.
fn count_here(cgroup: Option<&Cgroup>) -> Option<OomKillCount> {
    let memory = MemoryCgroup::of(None).ok()?;
    let is_v1 = memory.as_ref().is_some_and(|memory| memory.version == Version::V1);
    match cgroup.filter(|_| !is_v1) {
        Some(cgroup) => oom_kills_in(cgroup.directory()),
        None => memory?.oom_kills(),
    }
}

fn hash(file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_larger_count_is_detected_and_a_removed_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events.local");
        fs::write(&file, "oom 1\noom_kill 1\n").unwrap();
        let kills = OomKills { file: CountFile::Own(file.as_path().into()), before: 1 };
        assert!(!kills.have_grown(None));
        fs::write(&file, "oom 2\noom_kill 2\n").unwrap();
        assert!(kills.have_grown(None));
        fs::remove_file(&file).unwrap();
        assert!(!kills.have_grown(None));
    }

    #[test]
    fn the_count_of_another_cgroup_than_before_says_nothing() {
        let Some(kills) = OomKills::before_start(None) else {
            eprintln!("SKIPPED: OOM kills are not counted for this process");
            return;
        };
        let CountFile::Shared(path) = kills.file else { panic!("{kills:?}") };
        let moved = OomKills { file: CountFile::Shared(path ^ 1), before: 0 };
        assert!(!moved.have_grown(None));
    }
}
