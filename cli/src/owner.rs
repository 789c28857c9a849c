//! Takes on the rights of the record's owner, when root uses the record of another user.
//!
//! The owner of a record determines which processes belong to a sandbox, which socket is used and
//! where a log is. Root would follow that with rights that the owner does not have. So root gives
//! up its rights permanently before it opens the record of another user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use tracing::debug;

use super::Failure;
use super::shared_args::SharedArgs;

/// The group id of a process without group rights.
#[cfg(not(target_vendor = "apple"))]
const NO_GROUP: u32 = 65534;

/// Takes on the user id of the record's owner, without groups, if this process is root and the
/// record belongs to another user. This can't be reversed.
///
/// It fails in a user namespace without that id (user_namespaces(7)), or without the capability
/// `CAP_SETUID`. The process stays root then, and the registry opens the record read-only.
pub fn assume(shared: &SharedArgs) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let db = shared.places()?.db.path;
    if let Some(owner) = foreign(&db)
        && let Err(error) = become_user(owner)
    {
        debug!(
            "the record of uid {owner} is opened read-only: can't take on that user id: {error}"
        );
    }
    Ok(())
}

/// The first other user that owns the database, its directory or the directory of spooled ends.
/// Errors are left to the code that opens them.
pub fn foreign(db: &Path) -> Option<u32> {
    // Like the registry: the path of the directory may contain symbolic links.
    let directory = fs::canonicalize(db.parent()?).ok()?;
    let places = [directory.join(db.file_name()?), directory.clone(), directory.join("run")];
    let owner = |path| fs::symlink_metadata(path).ok().map(|metadata| metadata.uid());
    places.into_iter().filter_map(owner).find(|owner| *owner != geteuid().as_raw())
}

#[cfg(not(target_vendor = "apple"))]
fn become_user(user: u32) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
    setgroups(&[])?;
    setgid(Gid::from_raw(NO_GROUP))?;
    // For root it sets the real, effective and saved user id (setuid(2)).
    Ok(setuid(Uid::from_raw(user))?)
}

/// Without setgroups(2) root stays root, and the registry refuses to act on the record.
#[cfg(target_vendor = "apple")]
fn become_user(_: u32) -> io::Result<()> {
    Ok(())
}
