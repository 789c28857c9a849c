//! A directory for one run of one tool, gone afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// A directory that is removed when this is dropped.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self(tempfile::Builder::new().prefix("peers-").tempdir_in(dir)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// The files of a directory whose names `wanted` takes, in the order of their names.
pub fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
