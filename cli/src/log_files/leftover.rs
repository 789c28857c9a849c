//! Logs of sandboxes that are not on record any more, found by the names of their files.
//!
//! A name is no proof that vmon has written a file. So only a directory and files of our own user are
//! touched, and outside the state directory only logs with an index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;
use vmon::logfile::names::{self, Part};
use vmon::monitor::Name;

use super::removal::Locked;
use super::{LockError, Logs, Roots, cannot, part_of};
use crate::places::DIRECTORY;
use crate::supervisor_log;

/// The logs of a sandbox that may not be on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    log_dir: PathBuf,
    pub config_file: String,
    pub name: String,
}

impl Leftover {
    /// The sandboxes that have logs in a log directory, sorted by name. A directory that does not exist
    /// has none.
    pub fn find(roots: &Roots, log_dir: &Path) -> Result<Vec<Self>, String> {
        let Some(above) = roots.open(log_dir)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for config_file in entries(&above, log_dir, |kind| kind != Some(Type::File))? {
            if Name::new(config_file.as_str()).is_err() {
                continue;
            }
            let path = log_dir.join(&config_file);
            let flags = DIRECTORY | OFlag::O_NOFOLLOW;
            let directory = match openat(&above, config_file.as_str(), flags, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENOENT) => continue,
                Err(error) => return Err(cannot("open", &path, error)),
            };
            let mut names = BTreeSet::new();
            for file in entries(&directory, &path, |kind| kind.is_none_or(|it| it == Type::File))? {
                names.extend(sandbox_of(&file).map(str::to_owned));
            }
            let of =
                |name| Self { log_dir: log_dir.to_owned(), config_file: config_file.clone(), name };
            found.extend(names.into_iter().map(of));
        }
        found.sort_by(|a, b| (&a.config_file, &a.name).cmp(&(&b.config_file, &b.name)));
        Ok(found)
    }

    /// When one of the logs was last written, in seconds since 1970; `None` if there is at most a log
    /// of the supervisor, which is written before a start is on record.
    pub fn written(&self, roots: &Roots) -> Result<Option<i64>, String> {
        let Some(above) = roots.open(&self.log_dir)? else { return Ok(None) };
        let logs = Logs::below(&above, &self.log_dir, &self.config_file, &self.name)?;
        let Some(logs) = logs else { return Ok(None) };
        let own = names::log(&supervisor_log::log_name(&self.name));
        let files = logs.files()?;
        let others = files.iter().filter(|file| file.log != own);
        Ok(others.map(|file| file.written).max())
    }

    /// Removes the logs. `is_ours` says that nothing else than vmon writes into the log directory.
    pub fn remove(&self, roots: &Roots, is_ours: bool) -> Result<(), LockError> {
        let failed = LockError::Failed;
        let Some(above) = roots.open(&self.log_dir).map_err(failed)? else { return Ok(()) };
        let logs = Logs::below(&above, &self.log_dir, &self.config_file, &self.name);
        let Some(logs) = logs.map_err(failed)? else { return Ok(()) };
        self.check(&logs, is_ours).map_err(failed)?;
        Locked::left(logs, above, &self.config_file)?.remove().map_err(failed)
    }

    fn check(&self, logs: &Logs, is_ours: bool) -> Result<(), String> {
        let us = geteuid().as_raw();
        let path = &logs.path;
        let owner = fstat(&logs.directory).map_err(|error| cannot("use", path, error))?.st_uid;
        let files = logs.files()?;
        let foreign = files.iter().find(|file| file.uid != us);
        if let Some(file) = foreign {
            return Err(format!("{} belongs to uid {}", path.join(&file.name).display(), file.uid));
        }
        if owner != us {
            return Err(format!("{} belongs to uid {owner}", path.display()));
        }
        if !is_ours && !files.iter().any(|file| file.part == Part::Index) {
            let log = path.join(names::log(&self.name));
            let log = log.display();
            return Err(format!("no index shows that vmon has written {log}: remove it yourself"));
        }
        Ok(())
    }
}

/// The names in a directory that are UTF-8 and of a wanted type, which may be unknown.
fn entries(
    directory: &impl std::os::fd::AsFd,
    path: &Path,
    is_wanted: impl Fn(Option<Type>) -> bool,
) -> Result<Vec<String>, String> {
    let unreadable = |error| cannot("read", path, error);
    let mut names = Vec::new();
    let mut entries = Dir::openat(directory, ".", DIRECTORY, Mode::empty()).map_err(unreadable)?;
    for entry in entries.iter() {
        let entry = entry.map_err(unreadable)?;
        if is_wanted(entry.file_type()) {
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
    }
    Ok(names)
}

/// The sandbox whose file has this name.
fn sandbox_of(file: &str) -> Option<&str> {
    let ends = file.match_indices(names::LOG).map(|(at, _)| at);
    let ends = file.find('@').into_iter().chain(ends);
    let mut names = ends.filter_map(|end| file.get(..end));
    names.find(|name| Name::new(*name).is_ok() && part_of(name, file).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_of_a_file_is_found_by_its_name() {
        for (file, name) in [
            ("web.log", Some("web")),
            ("web.log.00000001.gz", Some("web")),
            ("web.log.00000001.idx", Some("web")),
            ("web.log.log", Some("web.log")),
            ("web.log.log.00000002", Some("web.log")),
            ("web@serial.log", Some("web")),
            ("web@serial.log.idx", Some("web")),
            ("web.log.x", None),
            ("web-notes", None),
            (".log", None),
            ("@serial.log", None),
        ] {
            assert_eq!(sandbox_of(file), name, "{file}");
        }
    }
}
