//! A process according to /proc.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::Result;

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Pages that no file backs: what can't be shared.
    pub anonymous: u64,
    /// All pages, each divided by how many processes have it.
    pub pss: u64,
}

/// Its memory, by `smaps_rollup`.
pub fn memory(pid: Pid) -> Result<Memory> {
    let text = read(pid, "smaps_rollup")?;
    Ok(Memory { anonymous: kilobytes(&text, "Anonymous:")?, pss: kilobytes(&text, "Pss:")? })
}

/// What a process does when it has nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Its threads.
    pub threads: u64,
    /// How often one of them has left a processor: each wake-up is followed by one.
    pub switches: u64,
}

/// Threads, and context switches of all of them.
pub fn activity(pid: Pid) -> Result<Activity> {
    let mut activity = Activity { threads: 0, switches: 0 };
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(entry?.path().join("status"))?;
        activity.threads += 1;
        activity.switches += number(&text, "voluntary_ctxt_switches:")?
            + number(&text, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(activity)
}

/// The processor time of a process that has one thread (proc(5), `schedstat`).
pub fn processor_time(pid: Pid) -> Result<Duration> {
    let text = read(pid, "schedstat")?;
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanos.ok_or("no processor time in /proc")?))
}

/// The soft limit of open files.
pub fn file_limit(pid: Pid) -> Result<String> {
    let text = read(pid, "limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    Ok(soft.ok_or("no limit of open files in /proc")?.to_owned())
}

/// Our own children.
pub fn children() -> Vec<Pid> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
}

fn read(pid: Pid, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}").into())
}

fn kilobytes(text: &str, key: &str) -> Result<u64> {
    Ok(number(text, key)? * 1024)
}

/// The number on the line that begins with `key`.
fn number(text: &str, key: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).ok_or_else(|| format!("no {key} in /proc").into())
}
