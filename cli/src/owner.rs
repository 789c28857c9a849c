//! Root acts on another user's record with that user's rights.
//!
//! What a record says is its owner's word: which processes are a sandbox's, which socket is served,
//! where a log lies. Root would follow it with rights that the owner does not have. So a command of
//! root's gives up its own for good before it opens the record of another user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use tracing::debug;

use super::Failure;
use super::shared::SharedArgs;

/// The group of a process that is to have no rights by its group.
#[cfg(not(target_vendor = "apple"))]
const NO_GROUP: u32 = 65534;

/// Takes on the user id of the record's owner, and no group, where this is root and the record is
/// another user's. Nothing gives it back.
///
/// Root in a user namespace without that id (user_namespaces(7)), or without the capability
/// `CAP_SETUID`, can't. It stays root then, for whom the registry only reads the record.
pub fn assume(shared: &SharedArgs) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let db = shared.places()?.db.path;
    if let Some(owner) = foreign(&db)
        && let Err(error) = become_user(owner)
    {
        debug!("the record of uid {owner} is only read: can't take on that user id: {error}");
    }
    Ok(())
}

/// The first user but ours that the database, its directory or the directory of spooled ends belongs
/// to. What is not there, or can't be looked at, is reported where it is used.
pub fn foreign(db: &Path) -> Option<u32> {
    // As the registry has it: the way to the directory may lead through symbolic links.
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
    // Of root it sets the real, the effective and the saved one (setuid(2)).
    Ok(setuid(Uid::from_raw(user))?)
}

/// Without setgroups(2) in our reach root stays root, and the registry refuses to act.
#[cfg(target_vendor = "apple")]
fn become_user(_: u32) -> io::Result<()> {
    Ok(())
}
