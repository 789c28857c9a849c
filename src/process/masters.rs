//! Which processes have a PTY's master open, from `/proc/PID/fdinfo` (proc_pid_fdinfo(5), since
//! Linux 4.15). Linux only.

use std::fs;
use std::io;

use super::table::Entry;

/// Whether the process `leader`, a descendant, or a member of its session has the master of the PTY
/// with this number open. `None` if no readable process has it, and others can't be read.
pub(crate) fn are_below(leader: u32, number: u32) -> io::Result<Option<bool>> {
    let leader = i32::try_from(leader).map_err(io::Error::other)?;
    let line = format!("tty-index:\t{number}");
    let mut hidden = false;
    for pid in Entry::below(leader)? {
        match has_line(pid, &line) {
            Ok(true) => return Ok(Some(true)),
            Ok(false) => {}
            // The process has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => hidden = true,
        }
    }
    Ok(if hidden { None } else { Some(false) })
}

fn has_line(pid: i32, line: &str) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // The descriptor was closed meanwhile.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        if info.lines().any(|found| found == line) {
            return Ok(true);
        }
    }
    Ok(false)
}
