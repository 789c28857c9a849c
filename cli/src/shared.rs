//! The options that every subcommand has, and the places on disk that follow from them.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use vmon::registry::{Registry, RegistryError};

use super::tell::LogLevel;
use super::{Failure, reason};

/// Where the state lies, and what vmon says.
#[derive(Debug, clap::Args)]
pub struct SharedArgs {
    /// Where log/ and sandbox.db lie; $VMON_STATE_DIR, else $XDG_STATE_HOME/vmon, else
    /// ~/.local/state/vmon by default
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    state_dir: Option<PathBuf>,

    /// The database of the record; run/ lies beside it [default: STATE/sandbox.db]
    #[arg(long, value_name = "FILE", alias = "sandbox-db-path", help_heading = "Places")]
    db: Option<PathBuf>,

    /// Which of vmon's own messages go to stderr
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn)]
    pub log_level: LogLevel,
}

/// The places on disk. Nothing of them need exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub state_dir: PathBuf,
    pub db: Place,
}

/// An absolute path, and the option that moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub option: &'static str,
}

impl SharedArgs {
    /// The places that the options and the environment name.
    pub fn places(&self) -> Result<Places, Failure> {
        let state_dir = match &self.state_dir {
            Some(given) => given.clone(),
            None => default_state_dir(|name| std::env::var_os(name))?,
        };
        Places::new(&state_dir, self.db.as_deref())
    }
}

impl Places {
    /// A state directory, and a database that may lie elsewhere.
    pub fn new(state_dir: &Path, db: Option<&Path>) -> Result<Self, Failure> {
        let state_dir = absolute(state_dir)?;
        let db = Place::new(db, "--db", &state_dir, "sandbox.db")?;
        Ok(Self { state_dir, db })
    }

    /// The record, for readers; `None` where there is no database.
    pub fn registry(&self) -> Result<Option<Registry>, RegistryError> {
        let registry = Registry::open_existing(&self.db.path)?;
        Ok(registry.map(|registry| registry.state_dir(&self.state_dir)))
    }

    /// The directory of logs, unless another one is given.
    pub fn default_log_dir(&self) -> PathBuf {
        self.state_dir.join("log")
    }

    /// The directory of control sockets, unless another one is given.
    pub fn runtime_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }
}

impl Place {
    /// The place that `option` gives, else `name` in the state directory.
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

/// The database that these options and the environment lead to, for a look at what there is.
pub fn default_db(state_dir: Option<PathBuf>, db: Option<PathBuf>) -> Option<PathBuf> {
    let shared = SharedArgs { state_dir, db, log_level: LogLevel::Off };
    shared.places().ok().map(|places| places.db.path)
}

/// `path` from the current directory, without `..` and without resolving links behind it.
///
/// It goes on record, and is used long after: `work/../state` leads nowhere when `work` is gone.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Failure::Relative { path: path.to_owned(), reason: reason(&error) })?;
    let components: Vec<Component<'_>> = absolute.components().collect();
    let Some(last) = components.iter().rposition(|part| *part == Component::ParentDir) else {
        return Ok(absolute);
    };
    let (above, below) = components.split_at(last + 1);
    // Where that is not there, the use of the path tells.
    let Ok(above) = above.iter().collect::<PathBuf>().canonicalize() else { return Ok(absolute) };
    Ok(above.components().chain(below.iter().copied()).collect())
}

fn default_state_dir(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(state_dir) = path("VMON_STATE_DIR") {
        return Ok(state_dir);
    }
    // The XDG Base Directory Specification has relative paths ignored.
    if let Some(state_home) = path("XDG_STATE_HOME").filter(|path| path.is_absolute()) {
        return Ok(state_home.join("vmon"));
    }
    Ok(path("HOME").ok_or(Failure::NoHome)?.join(".local/state/vmon"))
}

/// The directories made so far for a start that may yet fail.
#[derive(Debug, Default)]
pub struct NewDirectories(Vec<PathBuf>);

impl NewDirectories {
    /// Makes `path` a directory that we can write into, with all that are missing above it; only
    /// its owner can enter what is made.
    pub fn make(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
        for directory in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => self.0.push(directory.to_owned()),
                // Another vmon that starts now was faster.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        check_directory(path, AccessFlags::W_OK | AccessFlags::X_OK)
    }

    /// Removes those that are still empty: a start that fails leaves nothing behind.
    pub fn remove(self) {
        for directory in self.0.iter().rev() {
            // rmdir(2) refuses a directory that somebody uses by now.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Whether `path` is a directory that we may use in this way.
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
    fn the_state_directory_comes_from_the_first_variable_that_names_one() {
        let all = [("VMON_STATE_DIR", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(state_dir(&all), Some("/s".into()));
        assert_eq!(state_dir(&all[1..]), Some("/x/vmon".into()));
        assert_eq!(state_dir(&all[2..]), Some("/h/.local/state/vmon".into()));
        assert_eq!(state_dir(&[]), None);
    }

    #[test]
    fn empty_variables_and_a_relative_xdg_path_do_not_count() {
        let some = [("VMON_STATE_DIR", ""), ("XDG_STATE_HOME", "rel"), ("HOME", "/h")];
        assert_eq!(state_dir(&some), Some("/h/.local/state/vmon".into()));
        assert_eq!(state_dir(&[("HOME", "")]), None);
    }

    #[test]
    fn a_path_depends_on_no_directory_that_it_only_passes_through() {
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
    fn directories_are_private_and_go_again() {
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
    fn a_file_in_the_place_of_a_directory_is_told() {
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
