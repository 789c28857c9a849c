//! Linux: `/proc` and the files of a cgroup v2.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::{Usage, UsageError};
use crate::child::{Identity, Liveness};
use crate::process::cgroup;
use crate::process::table::Entry;

#[derive(Debug, Clone)]
pub(super) struct Processes(Vec<Entry>);

impl Processes {
    pub(super) fn now() -> Result<Self, UsageError> {
        Ok(Self(Entry::all()?))
    }

    pub(super) fn of_tree(&self, root: &Identity) -> Result<Usage, UsageError> {
        Ok(sum(&tree(&self.0, root)?))
    }
}

pub(super) fn proportional(root: &Identity) -> Result<Option<u64>, UsageError> {
    let living = tree(&Entry::all()?, root)?.into_iter().filter(|entry| !entry.has_ended());
    let mut total = Some(0);
    for entry in living {
        add(&mut total, proportional_of(entry.memory_thread()));
    }
    Ok(total)
}

pub(super) fn of_cgroup(directory: &Path) -> Result<Usage, UsageError> {
    if !cgroup::is_cgroup(directory) {
        return Err(UsageError::NotCgroup(directory.to_owned()));
    }
    let members = cgroup::members(directory)?;
    let entries: Vec<Entry> =
        members.into_iter().filter_map(|pid| Entry::of(pid).ok().flatten()).collect();
    let file = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let mut usage = sum(&entries);
    let cpu = file("cpu.stat").and_then(|stat| cgroup::value(&stat, "usage_usec"));
    usage.cpu = cpu.map_or(usage.cpu, Duration::from_micros);
    let memory = file("memory.current").and_then(|bytes| bytes.trim().parse().ok());
    usage.resident = memory.unwrap_or(usage.resident);
    if let Some(stat) = file("io.stat") {
        let io = io_of_devices(&stat);
        (usage.read_bytes, usage.write_bytes) = (Some(io.read), Some(io.written));
    }
    Ok(usage)
}

/// The process and the session that it leads, with all their descendants.
fn tree(table: &[Entry], root: &Identity) -> Result<Vec<Entry>, UsageError> {
    let pid = i32::try_from(root.pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or(UsageError::Gone(root.pid))?;
    if root.liveness() == Liveness::Unknown {
        return Err(UsageError::OutOfSight(root.pid));
    }
    let here = Identity::current();
    if root.boot_id != here.boot_id {
        return Err(UsageError::Gone(root.pid));
    }
    let found = select(table.to_vec(), pid, root.start);
    if found.is_empty() {
        return Err(UsageError::Gone(root.pid));
    }
    Ok(found)
}

/// Selects a tree from the table. Empty if the pid was reused, since the session may be too.
fn select(table: Vec<Entry>, root: i32, start: u64) -> Vec<Entry> {
    if table.iter().any(|entry| entry.pid == root && entry.start != start) {
        return Vec::new();
    }
    Entry::trees(table, |entry| {
        entry.pid == root || (entry.session == root && entry.start >= start)
    })
}

fn sum(entries: &[Entry]) -> Usage {
    let positive = |var, otherwise: u64| {
        sysconf(var).ok().flatten().and_then(|it| u64::try_from(it).ok()).unwrap_or(otherwise)
    };
    let (ticks_a_second, page) =
        (positive(SysconfVar::CLK_TCK, 100).max(1), positive(SysconfVar::PAGE_SIZE, 4096));
    let ticks: u64 = entries.iter().map(|entry| entry.cpu.saturating_add(entry.reaped_cpu)).sum();
    let mut usage = Usage {
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / ticks_a_second),
        read_bytes: Some(0),
        write_bytes: Some(0),
        ..Usage::default()
    };
    for entry in entries.iter().filter(|entry| !entry.has_ended()) {
        usage.processes += 1;
        usage.threads += entry.threads;
        usage.resident = usage.resident.saturating_add(entry.resident.saturating_mul(page));
        let io = io_of(entry.pid);
        add(&mut usage.read_bytes, io.map(|io| io.map(|io| io.read)));
        add(&mut usage.write_bytes, io.map(|io| io.map(|io| io.written)));
    }
    usage
}

/// Adds an amount to a sum. `None`: the process has ended, and adds nothing. `Some(None)`: the
/// amount is unknown, and so is the sum.
fn add(total: &mut Option<u64>, amount: Option<Option<u64>>) {
    if let Some(amount) = amount {
        *total = total.zip(amount).map(|(total, amount)| total.saturating_add(amount));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Io {
    read: u64,
    written: u64,
}

fn io_of(pid: i32) -> Option<Option<Io>> {
    read_of(pid, "io").map(|text| text.and_then(|text| parse_io(&text)))
}

/// Parses `/proc/PID/io` (proc_pid_io(5)).
fn parse_io(text: &str) -> Option<Io> {
    let field = |name| after_colon(text, name)?.parse().ok();
    Some(Io { read: field("read_bytes")?, written: field("write_bytes")? })
}

fn proportional_of(pid: i32) -> Option<Option<u64>> {
    read_of(pid, "smaps_rollup").map(|text| text.and_then(|text| parse_pss(&text)))
}

/// Parses `/proc/PID/smaps_rollup` (proc_pid_smaps(5)) into bytes.
fn parse_pss(text: &str) -> Option<u64> {
    let kib: u64 = after_colon(text, "Pss")?.strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn after_colon<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
}

/// Reads a file of a process; `None` if the process has ended, `Some(None)` if it can't be read.
fn read_of(pid: i32, file: &str) -> Option<Option<String>> {
    match fs::read_to_string(format!("/proc/{pid}/{file}")) {
        Ok(text) => Some(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        Err(_) => Some(None),
    }
}

/// Parses `io.stat` and sums over all devices: `8:0 rbytes=1 wbytes=2 …`.
fn io_of_devices(text: &str) -> Io {
    let total = |key: &str| {
        let pairs = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        pairs
            .filter(|(name, _)| *name == key)
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    };
    Io { read: total("rbytes"), written: total("wbytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32, session: i32, start: u64) -> Entry {
        Entry { pid, parent, session, start, ..Entry::default() }
    }

    fn selected(table: &[Entry], root: i32, start: u64) -> Vec<i32> {
        let mut pids: Vec<i32> =
            select(table.to_vec(), root, start).iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn the_tree_is_the_session_and_all_that_descends_from_it() {
        let table = [
            entry(1, 0, 1, 1),
            entry(50, 1, 40, 500),
            entry(40, 1, 40, 400),
            // An orphan in the session; its child has a session of its own.
            entry(60, 1, 50, 600),
            entry(70, 60, 70, 700),
            entry(80, 70, 70, 800),
            entry(90, 1, 90, 900),
        ];
        assert_eq!(selected(&table, 40, 400), [40, 50]);
        let mut table = table;
        table[1].parent = 40;
        table[3].session = 40;
        assert_eq!(selected(&table, 40, 400), [40, 50, 60, 70, 80]);
    }

    #[test]
    fn a_reused_pid_has_no_tree() {
        let table = [entry(40, 1, 40, 999), entry(41, 40, 40, 1000)];
        assert!(selected(&table, 40, 400).is_empty());
        // Older than the leader of its session: a process of an earlier session with this number.
        assert_eq!(selected(&[entry(41, 1, 40, 300)], 40, 400), [0_i32; 0]);
    }

    #[test]
    fn the_files_of_the_kernel_are_parsed() {
        let io = "rchar: 6976\nwchar: 12\nsyscr: 10\nsyscw: 0\nread_bytes: 4096\n\
            write_bytes: 8192\ncancelled_write_bytes: 0\n";
        assert_eq!(parse_io(io), Some(Io { read: 4096, written: 8192 }));
        assert_eq!(parse_io("rchar: 1\n"), None);
        let rollup = "55e4e0401000-7ffe31836000 ---p 00000000 00:00 0      [rollup]\n\
            Rss:                2080 kB\nPss:                 611 kB\nPss_Dirty:   148 kB\n";
        assert_eq!(parse_pss(rollup), Some(611 * 1024));
        let devices = "8:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n\
            8:16 rbytes=800 wbytes=4 rios=1 wios=1 dbytes=0 dios=0\n254:0\n";
        let expected = Io { read: 1_460_000, written: 314_773_508 };
        assert_eq!(io_of_devices(devices), expected);
        let stat = "usage_usec 1836\nuser_usec 1030\nsystem_usec 805\n";
        assert_eq!(cgroup::value(stat, "usage_usec"), Some(1836));
    }

    #[test]
    fn an_unknown_amount_makes_the_sum_unknown_and_an_ended_process_does_not() {
        let mut total = Some(1);
        add(&mut total, Some(Some(2)));
        add(&mut total, None);
        assert_eq!(total, Some(3));
        add(&mut total, Some(None));
        add(&mut total, Some(Some(4)));
        assert_eq!(total, None);
    }
}
