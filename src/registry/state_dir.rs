//! The state directory of a record. A path within it is recorded relative to it, so that a state
//! directory that was moved or copied refers to its own files.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The state directory and its spool directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateDir {
    /// Absolute, as it was given.
    path: PathBuf,
    /// The directory of spooled ends and of the supervisors' lock.
    pub(super) spool: PathBuf,
}

impl StateDir {
    pub(super) fn new(path: PathBuf, spool: PathBuf) -> Self {
        Self { path: std::path::absolute(&path).unwrap_or(path), spool }
    }

    /// `path` in the form in which it is recorded: relative within the state directory, else
    /// absolute.
    ///
    /// A symbolic link within the state directory is recorded by its own path, not its target. Only
    /// a path without the state directory as a prefix costs system calls.
    pub(super) fn record(&self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let below = below(&path, &self.path).or_else(|| {
            let state = fs::canonicalize(&self.path).ok()?;
            below(&path, &state).or_else(|| below(&canonical(&path)?, &state))
        });
        below.unwrap_or(path)
    }

    /// The absolute path of the recorded `path`; `None` for a path that [`record`](Self::record)
    /// does not write and that could lead out of the state directory.
    pub(super) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        let stays_inside = !path.as_os_str().is_empty() && !has_parent_component(path);
        // Removes the `.` of the state directory itself.
        stays_inside.then(|| self.path.join(path).components().collect())
    }
}

/// The part of `path` below `directory`; `.` for `directory` itself.
fn below(path: &Path, directory: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(directory).ok().filter(|rest| !has_parent_component(rest))?;
    let is_itself = rest.as_os_str().is_empty();
    Some(if is_itself { PathBuf::from(".") } else { rest.to_owned() })
}

fn has_parent_component(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// `path` without symbolic links; components that do not exist yet are kept.
fn canonical(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(fs::canonicalize(above).ok()?.join(rest))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_in_the_state_directory_is_recorded_relative_and_resolved() {
        let state = StateDir::new("/state".into(), "/state/run".into());
        for (path, recorded) in [
            ("/state/log", "log"),
            ("/state", "."),
            ("/state/./run//x.sock", "run/x.sock"),
            ("/state/../log", "/state/../log"),
            ("/state/a/../log", "/state/a/../log"),
            ("/statement/log", "/statement/log"),
            ("/var/log", "/var/log"),
        ] {
            assert_eq!(state.record(Path::new(path)).to_str(), Some(recorded), "{path}");
        }
        assert_eq!(state.resolve(Path::new("log")), Some("/state/log".into()));
        assert_eq!(state.resolve(Path::new(".")).unwrap().as_os_str(), "/state");
        assert_eq!(state.resolve(Path::new("/var/log")), Some("/var/log".into()));
        for path in ["", "..", "../log", "a/../../log"] {
            assert_eq!(state.resolve(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn links_that_lead_to_the_state_directory_do_not_hide_that_a_path_lies_in_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
        fs::create_dir_all(real.join("log")).unwrap();
        symlink(&real, &link).unwrap();
        symlink("/var/log", real.join("out")).unwrap();
        for (state, path) in [(&real, link.join("log")), (&link, real.join("log"))] {
            let state = StateDir::new(state.clone(), state.join("run"));
            assert_eq!(state.record(&path).to_str(), Some("log"));
            // A socket that is not bound yet.
            assert_eq!(state.record(&path.join("x/y")).to_str(), Some("log/x/y"));
        }
        assert_eq!(
            StateDir::new(real.clone(), real.join("run")).record(&real.join("out")).to_str(),
            Some("out")
        );
    }
}
