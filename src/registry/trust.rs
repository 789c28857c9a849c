//! Whether this process may act on a record: end the remaining processes of a lost run, close runs,
//! import ends, remove sandboxes and their logs.
//!
//! Only the owner of a record may, and only if no other user could have written it: the database,
//! its directory and the spool directory belong to our effective user, and are not writable for
//! others. Root is no exception: it would act with rights that the owner of the record does not
//! have.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::error::{Distrust, Fault};
use crate::access::is_shared;

/// The directory of `db`: the working directory for a bare file name.
pub(super) fn parent(db: &Path) -> &Path {
    db.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// # Errors
///
/// [`Fault::Distrust`], or lstat(2) failed.
pub(super) fn check(db: &Path, spool: &Path) -> Result<(), Fault> {
    check_place(db)?;
    check_place(parent(db))?;
    check_place(spool)
}

/// Whether root may write to a database of this owner: not if the database or its directory belongs
/// to another user, who could replace the files while root writes to them.
///
/// # Errors
///
/// As [`check`].
pub(super) fn check_root(db: &Path, owner: u32) -> Result<(), Fault> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let directory = parent(db);
    // A directory that was removed is created again by this process.
    let directory_owner = existing(fs::symlink_metadata(directory))?.map_or(0, |it| it.uid());
    let places = [(db, owner), (directory, directory_owner)];
    match places.into_iter().find(|(_, owner)| *owner != 0) {
        Some((place, owner)) => Err(Fault::Distrust(Distrust::Owner(place.to_owned(), owner))),
        None => Ok(()),
    }
}

/// A path that does not exist is trusted.
fn check_place(path: &Path) -> Result<(), Fault> {
    let mut found = existing(fs::symlink_metadata(path))?;
    if let Some(link) = found.take_if(|found| found.is_symlink()) {
        // It has no mode of its own (symlink(7)); its owner has chosen the target.
        check_file(of_file(path, link.uid(), 0))?;
        found = existing(fs::metadata(path))?;
    }
    check_file(found.and_then(|found| of_file(path, found.uid(), found.mode())))
}

/// `None` if there is no such file.
pub(super) fn existing(metadata: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match metadata {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some),
    }
}

/// Whether another user could have written the file at this path.
pub(super) fn of_file(path: &Path, owner: u32, mode: u32) -> Option<Distrust> {
    if owner != geteuid().as_raw() {
        return Some(Distrust::Owner(path.to_owned(), owner));
    }
    is_shared(mode).then(|| Distrust::Writable(path.to_owned()))
}

/// # Errors
///
/// [`Fault::Distrust`] if the file is not trusted.
pub(super) fn check_file(distrust: Option<Distrust>) -> Result<(), Fault> {
    distrust.map_or(Ok(()), |distrust| Err(Fault::Distrust(distrust)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_that_others_could_have_written_is_not_acted_on() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().canonicalize().unwrap();
        let (db, spool) = (state.join("sandbox.db"), state.join("run"));
        let check = || check(&db, &spool);
        fs::write(&db, "").unwrap();
        check().unwrap();
        fs::create_dir(&spool).unwrap();
        for (path, private) in [(&db, 0o600), (&state, 0o700), (&spool, 0o700)] {
            for open in [0o020, 0o002] {
                fs::set_permissions(path, fs::Permissions::from_mode(private | open)).unwrap();
                let refused = check().unwrap_err();
                let expected = Distrust::Writable(path.clone());
                assert!(matches!(refused, Fault::Distrust(it) if it == expected));
            }
            // Read permission of others has no effect.
            fs::set_permissions(path, fs::Permissions::from_mode(private | 0o055)).unwrap();
            check().unwrap();
        }
        let us = geteuid().as_raw();
        assert_eq!(of_file(&db, us, 0o644), None);
        assert_eq!(of_file(&db, us + 1, 0o600), Some(Distrust::Owner(db.clone(), us + 1)));
    }
}
