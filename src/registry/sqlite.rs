//! How SQLite reaches the files of a registry: it never waits at an open(2), and it touches nothing
//! but the database and the files that belong to it.
//!
//! A database lies where its owner wants it, and what lies beside it decides what SQLite does: a
//! FIFO in the place of `-journal` blocks open(2) for good, and a rollback journal may name any file
//! as its super-journal, which SQLite then removes (fileformat2.html, "the rollback journal"). A
//! check before SQLite opens the file can be outrun, so these rules are kept at the system call:
//! [`with`] names the database that the calling thread is about to use, and for as long as its work
//! takes
//!
//! - open(2) gets `O_NONBLOCK`, which means nothing to a regular file, and what is neither a regular
//!   file nor a directory is refused;
//! - the database must belong to the user that it was found to belong to, and a journal to us;
//! - so must `-wal` and `-shm`, where the database is ours and no other user may write to it: what
//!   another user has put there would become part of it;
//! - root opens nothing of another user's database that this user does not own, and makes nothing;
//! - fchown(2), by which SQLite as root gives `-wal`, `-shm` and `-journal` to the owner and group of
//!   what the database's path names at that moment, changes no owner, and of another user's files
//!   nothing: the path may name another file by then;
//! - unlink(2) is left out but for the database's own `-journal`, `-wal` and `-shm`. A super-journal
//!   stays where it is, which harms no database; to refuse it would fail the rollback that is done;
//! - a temporary file of SQLite's own, which O_EXCL makes, is opened and removed as SQLite likes;
//! - SQLite's own waiting, up to ten seconds where a lock of `-shm` fails, returns at once unless the
//!   caller waits anyway.
//!
//! The system calls of SQLite are one table for the whole process. Those of a host's own databases
//! go through to what was there before: the rules are the calling thread's, and for the time of
//! [`with`] alone.

#![allow(unsafe_code)] // callbacks that SQLite calls, for which rusqlite has no wrapper

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::geteuid;
use rusqlite::ffi;

use super::trust::{self, Distrust};

/// The files that SQLite has beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Which database the thread is about to use, and how.
struct Access {
    /// Absolute, free of symbolic links: as SQLite names it.
    db: PathBuf,
    /// The user that the database belongs to.
    owner: u32,
    /// Whether other users may write to the database.
    shared: bool,
    waits: bool,
    /// The temporary files that SQLite has made, and not removed yet.
    temporary: Vec<PathBuf>,
    /// The first file that was opened and that another user could have written.
    distrust: Option<Distrust>,
}

thread_local! {
    /// SQLite's callbacks get nothing of ours passed.
    static ACCESS: RefCell<Option<Access>> = const { RefCell::new(None) };
}

/// What SQLite had before.
struct Former {
    open: OpenCall,
    unlink: UnlinkCall,
    /// `None` where SQLite was built without it.
    chown: Option<ChownCall>,
    sleep: Option<SleepCall>,
}

type OpenCall = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type UnlinkCall = unsafe extern "C" fn(*const c_char) -> c_int;
type ChownCall = unsafe extern "C" fn(c_int, libc::uid_t, libc::gid_t) -> c_int;
type SleepCall = unsafe extern "C" fn(*mut ffi::sqlite3_vfs, c_int) -> c_int;
type PlainCall = unsafe extern "C" fn();

static FORMER: OnceLock<Former> = OnceLock::new();

/// The name of the VFS (vfs.html) through which a registry is opened.
const NAME: &CStr = c"vmon";

/// Does `work`, in which the calling thread uses the database `db` and no other, with the rules of
/// this module; it gets the user that the database belongs to. `waits`: it may wait for others, as
/// a command does and a loop does not.
///
/// With what the work gives comes whether another user could have written a file that SQLite has
/// opened for it. That is asked of the open file, not of its path, so it can't be outrun.
///
/// # Errors
///
/// The database can't be looked at.
pub(super) fn with<T>(
    db: &Path,
    waits: bool,
    work: impl FnOnce(u32) -> T,
) -> io::Result<(T, Option<Distrust>)> {
    let (owner, shared, distrust) = match fs::symlink_metadata(db) {
        // Also by its path: SQLite may have a descriptor of the database left from an earlier use.
        Ok(found) => {
            let distrust = trust::of_file(db, found.uid(), found.mode());
            (found.uid(), trust::is_shared(found.mode()), distrust)
        }
        // SQLite says so itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (geteuid().as_raw(), false, None),
        Err(error) => return Err(error),
    };
    /// Puts back what was there before, also when a panic comes through.
    struct Back(Option<Access>);
    impl Drop for Back {
        fn drop(&mut self) {
            let former = self.0.take();
            ACCESS.with_borrow_mut(|access| *access = former);
        }
    }
    let db = db.to_owned();
    let access = Access { db, owner, shared, waits, temporary: Vec::new(), distrust };
    let _back = Back(ACCESS.replace(Some(access)));
    let done = work(owner);
    let distrust = ACCESS.with_borrow_mut(|access| access.as_mut()?.distrust.take());
    Ok((done, distrust))
}

/// The name of the VFS that keeps these rules. Made when it is first asked for; where SQLite was
/// built without the means for it, the ordinary one.
pub(super) fn vfs() -> &'static CStr {
    static NAMED: OnceLock<&CStr> = OnceLock::new();
    NAMED.get_or_init(|| install().map_or(c"unix", |()| NAME))
}

fn install() -> Option<()> {
    const OPEN: &CStr = c"open";
    const UNLINK: &CStr = c"unlink";
    const CHOWN: &CStr = c"fchown";
    // SAFETY: takes a NUL-terminated name, and gives a VFS that stays registered, or null.
    let unix = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    // SAFETY: a VFS that is registered is a live sqlite3_vfs.
    let found = unsafe { unix.as_ref() }?;
    let (get, set) = (found.xGetSystemCall?, found.xSetSystemCall?);
    // SAFETY: both take the VFS and a NUL-terminated name (vfs.html); the pointer is null or one to
    // the function that SQLite uses now.
    let (open, unlink) = unsafe { (get(unix, OPEN.as_ptr())?, get(unix, UNLINK.as_ptr())?) };
    // SAFETY: as above.
    let chown = unsafe { get(unix, CHOWN.as_ptr()) };
    let former = Former {
        // SAFETY: under this name SQLite has an `int(*)(const char*, int, int)`, os_unix.c.
        open: unsafe { mem::transmute::<PlainCall, OpenCall>(open) },
        // SAFETY: under this name SQLite has an `int(*)(const char*)`, os_unix.c.
        unlink: unsafe { mem::transmute::<PlainCall, UnlinkCall>(unlink) },
        // SAFETY: under this name SQLite has an `int(*)(int, uid_t, gid_t)`, os_unix.c.
        chown: chown.map(|chown| unsafe { mem::transmute::<PlainCall, ChownCall>(chown) }),
        sleep: found.xSleep,
    };
    FORMER.set(former).ok()?;
    // The VFS "unix" keeps what its methods need in the structure itself, as its own variants
    // ("unix-excl", "unix-none") show, which differ from it in a field or two.
    let ours = ffi::sqlite3_vfs {
        pNext: std::ptr::null_mut(),
        zName: NAME.as_ptr(),
        xSleep: Some(sleep_call),
        ..*found
    };
    let ours = Box::leak(Box::new(ours));
    // SAFETY: the structure and its name live for ever, and it is not the default.
    if unsafe { ffi::sqlite3_vfs_register(ours, 0) } != ffi::SQLITE_OK {
        return None;
    }
    // SAFETY: the same types go back in that came out. A thread that uses SQLite meanwhile calls the
    // former function or ours, which does the same for it.
    unsafe {
        set(unix, OPEN.as_ptr(), Some(mem::transmute::<OpenCall, PlainCall>(open_call)));
        set(unix, UNLINK.as_ptr(), Some(mem::transmute::<UnlinkCall, PlainCall>(unlink_call)));
        if chown.is_some() {
            set(unix, CHOWN.as_ptr(), Some(mem::transmute::<ChownCall, PlainCall>(chown_call)));
        }
    }
    Some(())
}

unsafe extern "C" fn open_call(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let Some(former) = FORMER.get() else { return refused(Errno::ENOSYS) };
    let is_temporary = flags & libc::O_EXCL != 0;
    let foreign = on_access(|access| is_foreign_to_root(access.owner) && !is_temporary);
    let flags = match foreign {
        None => flags,
        Some(foreign) if foreign => (flags | libc::O_NONBLOCK) & !libc::O_CREAT,
        Some(_) => flags | libc::O_NONBLOCK,
    };
    // SAFETY: SQLite's own arguments, but for flags that take no further argument.
    let descriptor = unsafe { (former.open)(path, flags, mode) };
    if foreign.is_none() || descriptor < 0 {
        return descriptor;
    }
    // SAFETY: SQLite gives a NUL-terminated path.
    let path = unsafe { path_of(path) };
    // SAFETY: open(2) has just given it, and it is closed below only where nobody else gets it.
    let opened = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let check = |access: &mut Access| match is_temporary {
        true => {
            // One of O_TMPFILE has no name.
            access.temporary.extend((flags & libc::O_CREAT != 0).then(|| path.to_owned()));
            Ok(())
        }
        false => access.check(path, opened),
    };
    match on_access_mut(check).unwrap_or(Ok(())) {
        Ok(()) => descriptor,
        Err(errno) => {
            // SAFETY: as above; SQLite never hears of it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            refused(errno)
        }
    }
}

unsafe extern "C" fn unlink_call(path: *const c_char) -> c_int {
    let Some(former) = FORMER.get() else { return refused(Errno::ENOSYS) };
    // SAFETY: SQLite gives a NUL-terminated path.
    let name = unsafe { path_of(path) };
    match on_access_mut(|access| access.may_remove(name)) {
        Some(false) => 0,
        // SAFETY: SQLite's own argument.
        _ => unsafe { (former.unlink)(path) },
    }
}

unsafe extern "C" fn chown_call(file: c_int, user: libc::uid_t, group: libc::gid_t) -> c_int {
    // SQLite ignores the result.
    let Some(chown) = FORMER.get().and_then(|former| former.chown) else { return 0 };
    let user = match on_access(|access| access.owner) {
        None => user,
        // For readers by the group.
        Some(owner) if owner == geteuid().as_raw() && owner == user => libc::uid_t::MAX,
        Some(_) => return 0,
    };
    // SAFETY: SQLite's own arguments, but for the user that stays as it is (chown(2)).
    unsafe { chown(file, user, group) }
}

unsafe extern "C" fn sleep_call(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    match FORMER.get().and_then(|former| former.sleep) {
        Some(sleep) if on_access(|access| access.waits).unwrap_or(true) => {
            // SAFETY: SQLite's own arguments; the method of "unix" does not use the first.
            unsafe { sleep(vfs, microseconds) }
        }
        _ => 0,
    }
}

/// # Safety
///
/// The path is NUL-terminated, and lives as long as what is made of it is used.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller's.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

fn refused(errno: Errno) -> c_int {
    errno.set();
    -1
}

/// What follows for the calling thread; `None` where it does not use a registry now.
fn on_access<T>(ask: impl FnOnce(&Access) -> T) -> Option<T> {
    // Not while a thread ends, when its variables have gone: nothing of ours runs there.
    let asked = ACCESS.try_with(|access| access.try_borrow().ok()?.as_ref().map(ask));
    asked.ok().flatten()
}

/// As [`on_access`], to note something.
fn on_access_mut<T>(note: impl FnOnce(&mut Access) -> T) -> Option<T> {
    let noted = ACCESS.try_with(|access| access.try_borrow_mut().ok()?.as_mut().map(note));
    noted.ok().flatten()
}

/// Whether this is root, with a database of another user.
pub(super) fn is_foreign_to_root(owner: u32) -> bool {
    owner != 0 && geteuid().is_root()
}

impl Access {
    fn may_remove(&mut self, path: &Path) -> bool {
        let made = self.temporary.iter().position(|made| made == path);
        made.map(|made| self.temporary.swap_remove(made)).is_some()
            || self.companion(path).is_some()
    }

    /// Which of the database's companions has this path.
    fn companion(&self, path: &Path) -> Option<&'static str> {
        let (path, db) = (path.as_os_str().as_bytes(), self.db.as_os_str().as_bytes());
        let suffix = path.strip_prefix(db)?;
        COMPANIONS.into_iter().find(|companion| companion.as_bytes() == suffix)
    }

    /// Whether SQLite may have what was opened at this path; notes whether others could have
    /// written it.
    fn check(&mut self, path: &Path, opened: BorrowedFd<'_>) -> Result<(), Errno> {
        let stat = fstat(opened)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => {}
            // To sync a directory; and what SQLite fills the standard streams' numbers with.
            SFlag::S_IFDIR => return Ok(()),
            SFlag::S_IFCHR if path == Path::new("/dev/null") => return Ok(()),
            _ => return Err(Errno::ENXIO),
        }
        let us = geteuid().as_raw();
        let belongs = if path == self.db || is_foreign_to_root(self.owner) {
            stat.st_uid == self.owner
        } else if let Some(companion) = self.companion(path)
            && (companion == "-journal" || (self.owner == us && !self.shared))
        {
            stat.st_uid == us || stat.st_uid == 0
        } else {
            true
        };
        if !belongs {
            return Err(Errno::EPERM);
        }
        if self.distrust.is_none() {
            self.distrust = trust::of_file(path, stat.st_uid, stat.st_mode);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use rusqlite::{Connection, OpenFlags};

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().canonicalize().unwrap().join("sandbox.db");
        fs::write(&db, "").unwrap();
        (directory, db)
    }

    fn open(db: &Path) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(db, flags, vfs())?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    fn words(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn a_fifo_in_the_place_of_any_file_of_a_database_is_an_error() {
        for companion in COMPANIONS {
            let (_directory, db) = scratch();
            // An empty one has no journal to read.
            Connection::open(&db).unwrap().execute_batch("CREATE TABLE u (x)").unwrap();
            let path = PathBuf::from(format!("{}{companion}", db.display()));
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            let used = with(&db, false, |_| {
                let connection = open(&db)?;
                connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
            });
            assert!(used.unwrap().0.is_err(), "{companion}");
        }
        let (_directory, db) = scratch();
        fs::remove_file(&db).unwrap();
        mkfifo(&db, Mode::S_IRWXU).unwrap();
        let used = with(&db, false, |_| open(&db)?.execute_batch("CREATE TABLE t (x)"));
        assert!(used.unwrap().0.is_err());
    }

    #[test]
    fn only_the_companions_of_the_database_in_use_are_removed() {
        let (directory, db) = scratch();
        assert_eq!(vfs(), NAME);
        let unlink = |path: &Path| {
            // SAFETY: a NUL-terminated path.
            unsafe { unlink_call(words(path).as_ptr()) }
        };
        let other = directory.path().canonicalize().unwrap().join("another-journal");
        let own = PathBuf::from(format!("{}-journal", db.display()));
        fs::write(&other, "").unwrap();
        fs::write(&own, "").unwrap();
        with(&db, false, |_| {
            let temporary = directory.path().join("temporary");
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            // SAFETY: a NUL-terminated path; the descriptor is this test's own.
            drop(unsafe {
                OwnedFd::from_raw_fd(open_call(words(&temporary).as_ptr(), flags, 0o600))
            });
            assert!(temporary.exists());
            for path in [&other, &db, &own, &temporary] {
                assert_eq!(unlink(path), 0);
            }
            assert!(!temporary.exists());
        })
        .unwrap();
        assert!(other.exists() && db.exists() && !own.exists());
        // Elsewhere in this process SQLite removes what it likes.
        assert_eq!(unlink(&other), 0);
    }

    #[test]
    fn sqlite_gives_no_file_of_a_registry_to_another_user() {
        let (_directory, db) = scratch();
        assert_eq!(vfs(), NAME);
        let file = fs::File::open(&db).unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        let us = geteuid().as_raw();
        // SAFETY: a live descriptor and two numbers.
        let give = |user| unsafe { chown_call(descriptor, user, u32::MAX) };
        assert_eq!(with(&db, false, |_| give(us + 1)).unwrap().0, 0);
        assert_eq!(file.metadata().unwrap().uid(), us);
        // A host's own database is the host's affair.
        assert_eq!(give(us + 1), if geteuid().is_root() { 0 } else { -1 });
    }

    #[test]
    fn a_file_of_another_user_than_it_has_to_be_of_is_refused() {
        let (_directory, db) = scratch();
        let us = geteuid().as_raw();
        let file = fs::File::open(&db).unwrap();
        let opened = std::os::fd::AsFd::as_fd(&file);
        let access = |owner| {
            let db = db.clone();
            Access { db, owner, shared: false, waits: false, temporary: Vec::new(), distrust: None }
        };
        assert_eq!(access(us).check(&db, opened), Ok(()));
        assert_eq!(access(us + 1).check(&db, opened), Err(Errno::EPERM));
        if !geteuid().is_root() {
            return;
        }
        std::os::unix::fs::fchown(&file, Some(us + 1), None).unwrap();
        for companion in COMPANIONS {
            let path = PathBuf::from(format!("{}{companion}", db.display()));
            assert_eq!(access(us).check(&path, opened), Err(Errno::EPERM));
        }
        // Of a group that shares a database, each makes them.
        let mut shared = Access { shared: true, ..access(us) };
        let path = PathBuf::from(format!("{}-wal", db.display()));
        assert_eq!(shared.check(&path, opened), Ok(()));
        assert!(shared.distrust.is_some());
    }

    #[test]
    fn sqlite_waits_only_for_a_caller_who_waits() {
        let (_directory, db) = scratch();
        assert_eq!(vfs(), NAME);
        // SAFETY: the method of "unix" uses nothing of the VFS.
        let sleep = |_| unsafe { sleep_call(std::ptr::null_mut(), 1) };
        assert_eq!(with(&db, false, sleep).unwrap().0, 0);
        assert!(with(&db, true, sleep).unwrap().0 > 0);
    }
}
