//! The paths of the state: where they are by default, absolute paths, and new directories.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{AccessFlags, access};
use vmon::registry::{Registry, RegistryError};

use super::{Failure, reason};

/// The open(2) flags of a directory. Below a directory that a user names, `O_NOFOLLOW` is added.
pub const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The paths on disk. They need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub state_dir: PathBuf,
    pub db: OptionPath,
}

/// An absolute path, and the option that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionPath {
    pub path: PathBuf,
    pub option: &'static str,
}

impl Places {
    /// The paths of a state directory, with an optional path of the database.
    pub fn new(state_dir: &Path, db: Option<&Path>) -> Result<Self, Failure> {
        let state_dir = absolute(state_dir)?;
        let db = OptionPath::new(db, "--db", &state_dir, "sandbox.db")?;
        Ok(Self { state_dir, db })
    }

    /// Opens the record for reading; `None` if there is no database.
    pub fn registry(&self) -> Result<Option<Registry>, RegistryError> {
        let registry = Registry::open_existing(&self.db.path)?;
        Ok(registry.map(|registry| registry.state_dir(&self.state_dir)))
    }

    /// The default directory of logs.
    pub fn default_log_dir(&self) -> PathBuf {
        self.state_dir.join("log")
    }

    /// The default directory of control sockets.
    pub fn runtime_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }
}

impl OptionPath {
    /// The path given with `option`, else `name` in the state directory.
    pub fn new(
        given: Option<&Path>,
        option: &'static str,
        state_dir: &Path,
        name: &str,
    ) -> Result<Self, Failure> {
        let default = state_dir.join(name);
        let path = given.map(absolute).transpose()?.unwrap_or_else(|| default.clone());
        let option = if path == default { "--state-dir" } else { option };
        Ok(Self { path, option })
    }
}

/// Makes `path` absolute and removes `..`. Symbolic links after the last `..` are not resolved.
///
/// The path goes on record and is used later, when `work` of `work/../state` may be gone.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::Relative { path: path.to_owned(), reason: reason(&error) })?;
    let components: Vec<Component<'_>> = absolute.components().collect();
    let Some(last) = components.iter().rposition(|part| *part == Component::ParentDir) else {
        return Ok(absolute);
    };
    let (above, below) = components.split_at(last + 1);
    // If it does not exist, the use of the path reports that.
    let Ok(above) = above.iter().collect::<PathBuf>().canonicalize() else { return Ok(absolute) };
    Ok(above.components().chain(below.iter().copied()).collect())
}

pub fn default_state_dir(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(state_dir) = path("VMON_STATE_DIR") {
        return Ok(state_dir);
    }
    // The XDG Base Directory Specification requires that relative paths are ignored.
    if let Some(state_home) = path("XDG_STATE_HOME").filter(|path| path.is_absolute()) {
        return Ok(state_home.join("vmon"));
    }
    Ok(path("HOME").ok_or(Failure::NoHome)?.join(".local/state/vmon"))
}

/// Directories created by a start that may still fail.
#[derive(Debug, Default)]
pub struct NewDirectories(Vec<PathBuf>);

impl NewDirectories {
    /// Creates `path` and its missing ancestors with mode 0700, and checks that it is writable.
    pub fn make(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
        for directory in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => {
                    self.0.push(directory.to_owned());
                    // The umask may have taken rights from the owner.
                    let (private, link) = (Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink);
                    fchmodat(AT_FDCWD, directory, private, link)?;
                }
                // Another vmon has created it in the meantime.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        check_directory(path, AccessFlags::W_OK | AccessFlags::X_OK)
    }

    /// Removes the created directories that are still empty, after a failed start.
    pub fn remove(self) {
        for directory in self.0.iter().rev() {
            // rmdir(2) fails if the directory is in use.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Checks that `path` is a directory with this access.
pub fn check_directory(path: &Path, flags: AccessFlags) -> io::Result<()> {
    if !path.metadata()?.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    Ok(access(path, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state_dir(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        default_state_dir(find).ok()
    }

    #[test]
    fn the_state_directory_comes_from_the_first_variable_that_is_set() {
        let all = [("VMON_STATE_DIR", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(state_dir(&all), Some("/s".into()));
        assert_eq!(state_dir(&all[1..]), Some("/x/vmon".into()));
        assert_eq!(state_dir(&all[2..]), Some("/h/.local/state/vmon".into()));
        assert_eq!(state_dir(&[]), None);
    }

    #[test]
    fn empty_variables_and_a_relative_xdg_path_are_ignored() {
        let some = [("VMON_STATE_DIR", ""), ("XDG_STATE_HOME", "rel"), ("HOME", "/h")];
        assert_eq!(state_dir(&some), Some("/h/.local/state/vmon".into()));
        assert_eq!(state_dir(&[("HOME", "")]), None);
    }

    #[test]
    fn a_path_does_not_depend_on_directories_before_dot_dot() {
        let scratch = tempfile::tempdir().unwrap();
        let here = scratch.path().canonicalize().unwrap();
        std::fs::create_dir(here.join("work")).unwrap();
        std::os::unix::fs::symlink("work", here.join("link")).unwrap();
        assert_eq!(absolute(&here.join("work/../state/x")).unwrap(), here.join("state/x"));
        assert_eq!(absolute(&here.join("link/x")).unwrap(), here.join("link/x"));
        assert_eq!(absolute(&here.join("gone/../x")).unwrap(), here.join("gone/../x"));
        assert_eq!(absolute(&here.join("work/..")).unwrap().as_os_str(), here.as_os_str());
    }

    #[test]
    fn directories_are_private_and_are_removed_again() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let mut made = NewDirectories::default();
        made.make(&path).unwrap();
        made.make(&path).unwrap();
        for directory in [&path, &scratch.path().join("a")] {
            let mode = directory.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        made.remove();
        assert!(!scratch.path().join("a").exists());
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut made = NewDirectories::default();
        for path in [file.clone(), file.join("below")] {
            let error = made.make(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::ENOTDIR as i32), "{path:?}");
        }
        assert!(made.0.is_empty());
    }
}
