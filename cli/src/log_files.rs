//! The files of a sandbox in its log directory: the log, its older generations, indexes and the
//! logs of consoles.
//!
//! Another program may have written the name in the record. Therefore only regular files whose
//! names vmon itself uses are touched, and no symbolic link below the log directory is followed.

mod leftover;
mod removal;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use serde_json::{Value, json};
use vmon::logfile::names::{self, Part};
use vmon::monitor::Name;

use super::places::DIRECTORY;
pub use leftover::Leftover;
pub use removal::{LockError, Roots, remove_logs};

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
    pub name: String,
    pub size: u64,
    /// The time of its last write, in seconds since 1970.
    written: i64,
    /// The owner.
    uid: u32,
    /// The name of the log that it is a part of.
    log: String,
    part: Part,
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
        let mut names = Vec::new();
        let mut entries =
            Dir::openat(&self.directory, ".", DIRECTORY, Mode::empty()).map_err(unreadable)?;
        for entry in entries.iter() {
            let entry = entry.map_err(unreadable)?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        let mut files = Vec::new();
        for name in names {
            let Some((log, part)) = part_of(&self.name, &name) else { continue };
            let status = fstatat(&self.directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let Ok(status) = status else { continue };
            if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
                let size = u64::try_from(status.st_size).unwrap_or_default();
                let (written, uid, log) = (status.st_mtime, status.st_uid, log.to_owned());
                files.push(LogFile { name, size, written, uid, log, part });
            }
        }
        Ok(files)
    }

    /// The files as the value of `log` in `inspect`.
    pub fn object(&self) -> Result<Value, String> {
        let own = names::log(&self.name);
        let (mut size, mut generations, mut beside) = (None, Vec::new(), Vec::new());
        for file in self.files()? {
            let path = self.path.join(&file.name);
            let entry = json!({ "path": path.to_string_lossy(), "size": file.size });
            match file.part {
                Part::Log if file.log == own => size = Some(file.size),
                Part::Generation { .. } if file.log == own => generations.push(entry),
                _ => beside.push(entry),
            }
        }
        let path = self.path.join(own);
        Ok(json!({
            "path": path.to_string_lossy(),
            "size": size,
            "generations": generations,
            "beside": beside,
        }))
    }
}

fn cannot(what: &str, path: &Path, error: Errno) -> String {
    format!("can't {what} {}: {}", path.display(), error.desc())
}

/// The log that a file is a part of, and which part; `None` if it belongs to another sandbox. No
/// name contains an '@', and no log of a sandbox ends like a generation or an index.
fn part_of<'a>(name: &str, file: &'a str) -> Option<(&'a str, Part)> {
    let rest = file.strip_prefix(name)?;
    let what =
        if rest.starts_with('@') { rest.find(names::LOG).filter(|end| *end > 1)? } else { 0 };
    let log = file.get(..name.len() + what + names::LOG.len())?;
    let part = names::part_of(file, log).filter(|_| log.ends_with(names::LOG))?;
    Some((log, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_the_sandbox_itself_are_found() {
        let generation = |number| Some(Part::Generation { number, compressed: false });
        for (file, expected) in [
            ("web.log", Some(Part::Log)),
            ("web.log.00000001", generation(1)),
            ("web.log.00000001.gz", Some(Part::Generation { number: 1, compressed: true })),
            ("web.log.idx", Some(Part::Index)),
            ("web.log.todo", Some(Part::Queue)),
            ("web.log.00000001.todo", None),
            ("web.log.00000001.idx", Some(Part::Index)),
            ("web@supervisor.log", Some(Part::Log)),
            ("web@supervisor.log.00000003", generation(3)),
            ("web@serial.log.todo", Some(Part::Queue)),
            ("web2.log", None),
            ("web.log.log", None),
            ("web.log.00000001.log", None),
            ("web.log.x", None),
            ("web.lox", None),
            // logrotate(8) makes these.
            ("web.log.1", None),
            ("web.log.1.gz", None),
            ("web.log.20261123", generation(20_261_123)),
            ("web.log.", None),
            ("web.log..gz", None),
            ("web.log.000000001", None),
            ("web.log.100000000", generation(100_000_000)),
            ("web-2.log.00000001", None),
            ("web@supervisor", None),
            ("web@.log", None),
            ("other@web.log", None),
        ] {
            assert_eq!(part_of("web", file).map(|(_, part)| part), expected, "{file}");
        }
        assert_eq!(part_of("web", "web@a.log.idx"), Some(("web@a.log", Part::Index)));
    }
}
