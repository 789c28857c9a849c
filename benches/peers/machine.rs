//! The machine that a table comes from.

use std::fs;

use chrono::Utc;

use crate::peers::Peers;

/// Facts that belong to the figures.
pub struct Machine {
    /// The processor, as it names itself.
    pub cpu: String,
    /// How many of them this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The memory, in bytes.
    pub memory: u64,
    /// When the table was made.
    pub date: String,
    /// The file system of the logs.
    pub file_system: String,
    /// The tools, and their versions.
    pub tools: Vec<(&'static str, String)>,
}

impl Machine {
    /// This one.
    pub fn this(peers: &Peers, dir: &std::path::Path) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        let memory = field("/proc/meminfo", "MemTotal").and_then(|value| {
            value.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
        });
        let cores = std::thread::available_parallelism();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: cores.map_or(1, std::num::NonZero::get),
            kernel: release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            memory: memory.unwrap_or(0),
            date: Utc::now().format("%Y-%m-%d").to_string(),
            file_system: file_system(dir).unwrap_or_else(|| "unknown".to_owned()),
            tools: peers.versions(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cores, kernel, date, file_system, .. } = self;
        let memory = self.memory >> 30;
        write!(
            f,
            "{cpu}, {cores} cores, {memory} GiB, Linux {kernel}, logs on {file_system}; {date}"
        )
    }
}

fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// By the mount point that is the longest beginning of the path.
fn file_system(dir: &std::path::Path) -> Option<String> {
    let dir = fs::canonicalize(dir).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let of_dir = mounts.filter(|(point, _)| dir.starts_with(point));
    Some(of_dir.max_by_key(|(point, _)| point.len())?.1.to_owned())
}
