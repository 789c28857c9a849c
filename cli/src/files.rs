//! The files of a sandbox in its log directory: the log, its older generations, indexes and the
//! logs of consoles.
//!
//! Another program may have written the name in the record. Therefore only regular files whose
//! names vmon itself uses are touched, and no symbolic link below the log directory is followed.

mod removal;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use serde_json::{Value, json};
use vmon::monitor::Name;

pub use removal::{Removal, Roots};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Number of digits of a generation's sequence number. Beyond the minimum there are no leading
/// zeros.
const DIGITS: RangeInclusive<usize> = 8..=15;

/// Suffixes after the sequence number of a generation.
const ENDINGS: [&str; 3] = ["", ".gz", ".zst"];

/// Suffixes of a time index.
const INDEXES: [&str; 2] = [".idx", ".index"];

/// Suffix of the list of generations that wait for post-rotate work.
const NOTE: &str = ".todo";

/// The log files of one sandbox.
#[derive(Debug)]
pub struct Logs {
    path: PathBuf,
    name: String,
    directory: OwnedFd,
}

/// One of these files.
#[derive(Debug)]
pub struct LogFile {
    pub file_name: String,
    pub size: u64,
}

/// What a file in the log directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Log,
    Generation,
    /// An index, or a file of one of the sandbox's other logs.
    Beside,
}

impl Logs {
    /// Opens the log directory of a sandbox; `None` if it does not exist.
    pub fn open(log_dir: &Path, config_file: &str, name: &str) -> Result<Option<Self>, String> {
        match open(log_dir, DIRECTORY, Mode::empty()) {
            Ok(above) => Self::below(&above, log_dir, config_file, name),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(cannot("open", log_dir, error)),
        }
    }

    /// As [`open`](Self::open), below a log directory that is already open.
    fn below(
        above: &OwnedFd,
        log_dir: &Path,
        config_file: &str,
        name: &str,
    ) -> Result<Option<Self>, String> {
        for name in [config_file, name] {
            Name::new(name).map_err(|error| error.to_string())?;
        }
        let path = log_dir.join(config_file);
        match openat(above, config_file, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(directory) => Ok(Some(Self { path, name: name.to_owned(), directory })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(cannot("open", &path, error)),
        }
    }

    /// Lists the files, sorted by name.
    pub fn files(&self) -> Result<Vec<LogFile>, String> {
        let unreadable = |error| cannot("read", &self.path, error);
        let mut files = Vec::new();
        let mut entries =
            Dir::openat(&self.directory, ".", DIRECTORY, Mode::empty()).map_err(unreadable)?;
        for entry in entries.iter() {
            let entry = entry.map_err(unreadable)?;
            let Ok(file_name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if role(&self.name, &file_name).is_none() {
                continue;
            }
            let Ok(status) =
                fstatat(&self.directory, file_name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
                let size = u64::try_from(status.st_size).unwrap_or_default();
                files.push(LogFile { file_name, size });
            }
        }
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        Ok(files)
    }

    /// The files as the value of `log` in `inspect`.
    pub fn object(&self) -> Result<Value, String> {
        let files = self.files()?;
        let is = |wanted| move |file: &&LogFile| role(&self.name, &file.file_name) == Some(wanted);
        let entry = |file: &LogFile| {
            let path = self.path.join(&file.file_name);
            json!({ "path": path.to_string_lossy(), "size": file.size })
        };
        Ok(json!({
            "path": self.path.join(format!("{}.log", self.name)).to_string_lossy(),
            "size": files.iter().find(is(Role::Log)).map(|file| file.size),
            "generations": files.iter().filter(is(Role::Generation)).map(entry).collect::<Value>(),
            "beside": files.iter().filter(is(Role::Beside)).map(entry).collect::<Value>(),
        }))
    }
}

fn cannot(what: &str, path: &Path, error: Errno) -> String {
    format!("can't {what} {}: {}", path.display(), error.desc())
}

/// The role of a file; `None` if it belongs to another sandbox. No name contains an '@', and no log
/// of a sandbox ends like a generation or an index.
fn role(name: &str, file: &str) -> Option<Role> {
    let rest = file.strip_prefix(name)?;
    if let Some(what) = rest.strip_prefix('@') {
        let (what, rest) = what.split_once(".log")?;
        return (!what.is_empty() && of_log(rest).is_some()).then_some(Role::Beside);
    }
    of_log(rest.strip_prefix(".log")?)
}

/// The role of a file by its suffix after `.log`.
fn of_log(rest: &str) -> Option<Role> {
    if rest.is_empty() {
        return Some(Role::Log);
    }
    if rest == NOTE || INDEXES.contains(&rest) {
        return Some(Role::Beside);
    }
    let rest = rest.strip_prefix('.')?;
    let (number, rest) =
        rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    let is_number = DIGITS.contains(&number.len())
        && (number.len() == *DIGITS.start() || !number.starts_with('0'));
    if !is_number {
        return None;
    }
    if ENDINGS.contains(&rest) {
        return Some(Role::Generation);
    }
    INDEXES.contains(&rest).then_some(Role::Beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_the_sandbox_itself_have_a_role() {
        for (file, expected) in [
            ("web.log", Some(Role::Log)),
            ("web.log.00000001", Some(Role::Generation)),
            ("web.log.00000001.gz", Some(Role::Generation)),
            ("web.log.idx", Some(Role::Beside)),
            ("web.log.todo", Some(Role::Beside)),
            ("web.log.00000001.todo", None),
            ("web.log.00000001.idx", Some(Role::Beside)),
            ("web@supervisor.log", Some(Role::Beside)),
            ("web@supervisor.log.00000003", Some(Role::Beside)),
            ("web@serial.log.todo", Some(Role::Beside)),
            ("web2.log", None),
            ("web.log.log", None),
            ("web.log.00000001.log", None),
            ("web.log.x", None),
            // logrotate(8) makes these.
            ("web.log.1", None),
            ("web.log.1.gz", None),
            ("web.log.20261123", Some(Role::Generation)),
            ("web.log.", None),
            ("web.log..gz", None),
            ("web.log.000000001", None),
            ("web.log.100000000", Some(Role::Generation)),
            ("web-2.log.00000001", None),
            ("web@supervisor", None),
            ("web@.log", None),
            ("other@web.log", None),
        ] {
            assert_eq!(role("web", file), expected, "{file}");
        }
    }
}
