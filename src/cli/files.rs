//! The files of a sandbox in its log directory: its log, the older generations, and what lies
//! beside them.
//!
//! A name in the record is another program's word: only what could be vmon's own is touched, only
//! regular files, and no symbolic link below the log directory is followed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde_json::{Value, json};
use vmon::monitor::Name;
use vmon::registry::Run;

use super::reason;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Endings that a generation may have behind its number.
const ENDINGS: [&str; 3] = ["", ".gz", ".zst"];

/// Endings of what finds a place in a log.
const INDEXES: [&str; 2] = [".idx", ".index"];

/// The ending of what tells which generations wait to be worked on.
const NOTE: &str = ".todo";

/// Where the logs of one sandbox lie.
#[derive(Debug)]
pub struct Logs {
    path: PathBuf,
    name: String,
    directory: OwnedFd,
}

/// One file of them.
#[derive(Debug)]
pub struct LogFile {
    pub file_name: String,
    pub size: u64,
}

/// What a file in the directory is to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Log,
    Generation,
    /// An index, or one of the sandbox's other logs with all that belongs to it.
    Beside,
}

impl Logs {
    /// `None` where there is no such directory.
    pub fn open(log_dir: &Path, config_file: &str, name: &str) -> Result<Option<Self>, String> {
        for name in [config_file, name] {
            Name::new(name).map_err(|error| error.to_string())?;
        }
        let path = log_dir.join(config_file);
        let opened = open(log_dir, DIRECTORY, Mode::empty()).and_then(|above| {
            openat(above, config_file, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
        });
        match opened {
            Ok(directory) => Ok(Some(Self { path, name: name.to_owned(), directory })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(format!("can't open {}: {}", path.display(), error.desc())),
        }
    }

    /// The files, by name; the log is not among them while there is none.
    pub fn files(&self) -> Result<Vec<LogFile>, String> {
        let told =
            |error: &io::Error| format!("can't read {}: {}", self.path.display(), reason(error));
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|error| told(&error))? {
            let entry = entry.map_err(|error| told(&error))?;
            let Ok(file_name) = String::from_utf8(entry.file_name().as_bytes().to_vec()) else {
                continue;
            };
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

    /// Removes them, and the directory where nothing else is in it.
    pub fn remove(&self) -> Result<(), String> {
        for LogFile { file_name, .. } in self.files()? {
            match unlinkat(&self.directory, file_name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => {
                    let path = self.path.join(&file_name);
                    return Err(format!("can't remove {}: {}", path.display(), error.desc()));
                }
            }
        }
        // rmdir(2) refuses one in which something is left.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }

    /// The log and its generations, as `inspect` has them.
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

/// Removes the logs of these runs of one sandbox.
pub fn remove(runs: &[Run]) -> Result<(), String> {
    let mut done: Vec<&Path> = Vec::new();
    for run in runs {
        let Some(spec) = &run.spec else { continue };
        if done.contains(&spec.log_dir.as_path()) {
            continue;
        }
        done.push(&spec.log_dir);
        if let Some(logs) = Logs::open(&spec.log_dir, &run.config_file, &run.name)? {
            logs.remove()?;
        }
    }
    Ok(())
}

/// What the file is to the sandbox; `None` for another one's. No name contains an '@', and no
/// sandbox's own log ends like a generation or an index.
fn role(name: &str, file: &str) -> Option<Role> {
    let rest = file.strip_prefix(name)?;
    if let Some(what) = rest.strip_prefix('@') {
        let (what, rest) = what.split_once(".log")?;
        return (!what.is_empty() && of_log(rest).is_some()).then_some(Role::Beside);
    }
    of_log(rest.strip_prefix(".log")?)
}

/// The same of what follows `.log`.
fn of_log(rest: &str) -> Option<Role> {
    if rest.is_empty() {
        return Some(Role::Log);
    }
    if rest == NOTE || INDEXES.contains(&rest) {
        return Some(Role::Beside);
    }
    let rest = rest.strip_prefix('.')?;
    let rest = rest.get(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())..)?;
    let ending = |endings: &[&str], rest: &str| endings.contains(&rest);
    if ending(&ENDINGS, rest) {
        return Some(Role::Generation);
    }
    ending(&INDEXES, rest).then_some(Role::Beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandboxes_files_are_its_own_only() {
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
            ("web-2.log.00000001", None),
            ("web@supervisor", None),
            ("web@.log", None),
            ("other@web.log", None),
        ] {
            assert_eq!(role("web", file), expected, "{file}");
        }
    }
}
