//! The process table, from `/proc/PID/stat` (proc_pid_stat(5)). Linux only.

use std::fs::{self, File};
use std::io::{self, Read};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// An upper bound on the size of `/proc/PID/stat`: 52 numbers of at most 20 digits, and a name of
/// 64 bytes.
const STAT_SIZE: usize = 1536;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) state: u8,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// User and system time of the process, in clock ticks.
    pub(crate) cpu: u64,
    /// User and system time of its reaped children, in clock ticks.
    pub(crate) reaped_cpu: u64,
    pub(crate) threads: u64,
    /// The start time in clock ticks since boot, in the initial time namespace.
    pub(crate) start: u64,
    /// Resident memory in pages.
    pub(crate) resident: u64,
}

impl Entry {
    /// The process with this pid; `None` if there is none.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        match read_stat(pid) {
            Ok(stat) => Self::parse(pid, &stat, boot_offset()).map(Some),
            // The process may exist without /proc, or hidden by `hidepid` (proc(5)).
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match kill(Pid::from_raw(pid), None) {
                    Err(Errno::ESRCH) => Ok(None),
                    _ => Err(error),
                }
            }
            // The process ended between open and read.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every visible process. Processes that end meanwhile are left out, and so are those of other
    /// users that `hidepid` hides (proc(5)).
    ///
    /// # Errors
    ///
    /// `/proc` or one of its entries can't be read, as for `EMFILE` or `ENOMEM`. With an incomplete
    /// table, a live process would count as ended.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        let offset = boot_offset();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            match read_stat(pid) {
                Ok(stat) => found.push(Self::parse(pid, &stat, offset)?),
                Err(error) if is_out_of_sight(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The pids of `leader`, of the members of the session that it leads, and of the descendants
    /// of all of them.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    #[cfg(feature = "consoles")]
    pub(crate) fn below(leader: i32) -> io::Result<Vec<i32>> {
        let is_root = |entry: &mut Self| entry.pid == leader || entry.session == leader;
        Ok(Self::trees(Self::all()?, is_root).iter().map(|entry| entry.pid).collect())
    }

    /// The processes of the table that are roots, and all their descendants.
    pub(crate) fn trees(mut table: Vec<Self>, is_root: impl Fn(&mut Self) -> bool) -> Vec<Self> {
        let mut found: Vec<Self> = table.extract_if(.., is_root).collect();
        let mut next = 0;
        while let Some(parent) = found.get(next).map(|entry| entry.pid) {
            found.extend(table.extract_if(.., |entry| entry.parent == parent));
            next += 1;
        }
        found
    }

    /// Whether it is a zombie. A process whose main thread has ended while others run is shown as
    /// one too, but lives (pthread_exit(3)).
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// The thread under whose number `/proc` shows the memory of the process: its main thread, or
    /// another one where that has ended.
    pub(crate) fn memory_thread(&self) -> i32 {
        let is_main_over = matches!(self.state, b'Z' | b'X') && !self.has_ended();
        is_main_over.then(|| live_thread(self.pid)).flatten().unwrap_or(self.pid)
    }

    /// Whether this process was started with an empty environment, as by `env -i`. False for a
    /// process that has none during execve(2) or at its exit.
    pub(crate) fn began_without_environment(pid: i32) -> bool {
        let Ok(stat) = read_stat(pid) else { return false };
        let fields: Vec<&str> =
            after_name(&stat).unwrap_or_default().split_ascii_whitespace().collect();
        // `env_start` and `env_end`, fields 50 and 51.
        match fields.get(50 - 3..=51 - 3) {
            Some([start, end]) => *start != "0" && start == end,
            _ => false,
        }
    }

    /// Parses an entry. `offset`: the boottime offset of the current time namespace.
    fn parse(pid: i32, stat: &[u8], offset: i64) -> io::Result<Self> {
        let entry = parse(pid, stat)
            .ok_or_else(|| io::Error::other(format!("cannot parse /proc/{pid}/stat")))?;
        let resident = match entry.memory_thread() {
            main if main == pid => entry.resident,
            other => {
                let stat = read_stat(other).ok();
                stat.and_then(|stat| parse(other, &stat)).map_or(0, |thread| thread.resident)
            }
        };
        let start = entry.start.saturating_add_signed(-offset);
        Ok(Self { start, resident, ..entry })
    }
}

/// A thread of the process that has not ended.
fn live_thread(pid: i32) -> Option<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    threads.find(|&thread| {
        let stat = read_stat(thread).ok().and_then(|stat| parse(thread, &stat));
        stat.is_some_and(|stat| !matches!(stat.state, b'Z' | b'X'))
    })
}

/// The offset in clock ticks of start times here. `/proc` reports them relative to the time
/// namespace of the reader, but a recorded one must be the same in all (time_namespaces(7)).
fn boot_offset() -> i64 {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let ticks = || sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    match parse_boot_offset(&offsets) {
        Some(seconds) if seconds != 0 => seconds.saturating_mul(ticks()),
        _ => 0,
    }
}

/// The offset of the boottime clock in seconds. unshare(1) sets whole seconds only.
fn parse_boot_offset(offsets: &str) -> Option<i64> {
    let line = offsets.lines().find_map(|line| line.trim_start().strip_prefix("boottime"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn read_stat(pid: i32) -> io::Result<Vec<u8>> {
    let mut file = File::open(format!("/proc/{pid}/stat"))?;
    let mut stat = vec![0; STAT_SIZE];
    // One read returns the whole file.
    let length = file.read(&mut stat)?;
    stat.truncate(length);
    Ok(stat)
}

/// Whether the process has ended since it was listed (`ENOENT` at open, `ESRCH` at read), or
/// belongs to another user and is hidden.
fn is_out_of_sight(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM))
}

/// The fields from the third on.
fn after_name(stat: &[u8]) -> Option<&str> {
    // The second field is the command's name in parentheses, which may contain parentheses.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    std::str::from_utf8(stat.get(name_end + 1..)?).ok()
}

fn parse(pid: i32, stat: &[u8]) -> Option<Entry> {
    let fields: Vec<&str> = after_name(stat)?.split_ascii_whitespace().take(22).collect();
    // Field numbers as in proc_pid_stat(5); the first field here is number 3.
    let text = |number: usize| fields.get(number - 3).copied();
    let number = |field| text(field)?.parse::<u64>().ok();
    let id = |field| text(field)?.parse::<i32>().ok();
    // The times of reaped children are signed.
    let ticks = |field| Some(u64::try_from(text(field)?.parse::<i64>().ok()?).unwrap_or(0));
    Some(Entry {
        pid,
        state: *text(3)?.as_bytes().first()?,
        parent: id(4)?,
        group: id(5)?,
        session: id(6)?,
        cpu: number(14)?.saturating_add(number(15)?),
        reaped_cpu: ticks(16)?.saturating_add(ticks(17)?),
        threads: number(20)?,
        start: number(22)?,
        resident: ticks(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "6829 (a) b (c) R 6800 6801 2649 0 -1 4194304 98 0 0 0 7 5 11 2 20 0 3 0 \
        1330844 3133440 414 18446744073709551615 94309123596288 94309123616169 140735877823408";

    #[test]
    fn a_name_with_parentheses_and_blanks_hides_no_field() {
        let entry = parse(6829, STAT.as_bytes()).unwrap();
        assert_eq!((entry.parent, entry.group, entry.session), (6800, 6801, 2649));
        assert_eq!((entry.cpu, entry.reaped_cpu, entry.threads), (12, 13, 3));
        assert_eq!((entry.start, entry.resident), (1_330_844, 414));
        assert!(!entry.has_ended());
    }

    #[test]
    fn start_times_are_the_same_in_every_time_namespace() {
        let offsets = "monotonic           0         0\nboottime       100000         0\n";
        assert_eq!(parse_boot_offset(offsets), Some(100_000));
        assert_eq!(parse_boot_offset(&offsets.replace("100000", "-5")), Some(-5));
        assert_eq!(parse_boot_offset(""), None);
        let shifted = Entry::parse(6829, STAT.as_bytes(), 1_000).unwrap();
        assert_eq!(shifted.start, 1_330_844 - 1_000);
    }

    #[test]
    fn a_truncated_stat_is_not_an_entry() {
        assert_eq!(parse(1, b""), None);
        assert_eq!(parse(1, b"1 (init"), None);
        assert_eq!(parse(1, &STAT.as_bytes()[..60]), None);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Entry::of(pid).unwrap().unwrap();
        let listed = Entry::all().unwrap().into_iter().find(|entry| entry.pid == pid).unwrap();
        assert_eq!((own.start, own.parent), (listed.start, listed.parent));
    }
}
