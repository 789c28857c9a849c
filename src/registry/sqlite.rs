//! SQLite's access to the files of a registry: SQLite never blocks in open(2), and touches only the
//! database and the files that belong to it.
//!
//! What lies beside a database decides what SQLite does: a FIFO in place of `-journal` blocks
//! open(2) for ever, and a rollback journal may name any file as its super-journal, which SQLite
//! then removes (fileformat2.html, "the rollback journal"). A check before SQLite opens the file is
//! subject to a race, so the rules below are applied in the system calls. [`with`] names the
//! database that the calling thread is about to use; while its work runs
//!
//! - open(2) gets `O_NONBLOCK`, which has no effect on regular files, and anything but a regular
//!   file or directory is refused;
//! - the database must belong to the user found by [`with`], and a journal to us;
//! - `-wal` and `-shm` of a database that is ours and not writable for others must belong to us:
//!   content that another user has put there would become part of the database;
//! - as root, files beside another user's database must belong to that user, and none is created;
//! - fchown(2), by which SQLite as root gives `-wal`, `-shm` and `-journal` to the owner and group
//!   of the file that the database's path names at that moment, changes no owner, and nothing on
//!   another user's files: the path may name another file by then;
//! - unlink(2) does nothing except for the database's own `-journal`, `-wal` and `-shm`. A
//!   remaining super-journal harms no database; an error would fail the completed rollback;
//! - SQLite's own temporary files, created with O_EXCL, are opened and removed without restriction;
//! - pages that SQLite adds to `-shm` are written whole: it writes their last bytes only, and where the
//!   blocks of a file system are smaller than a page, the holes would end the process once the disk is
//!   full (mmap(2), SIGBUS);
//! - SQLite's sleeps, up to ten seconds when a lock of `-shm` fails, return at once unless the
//!   caller may wait.
//!
//! SQLite has one table of system calls for the process. Calls for a host's own databases go to the
//! previous functions: the rules apply to the calling thread only, and only during [`with`].

#![allow(unsafe_code)] // callbacks that SQLite calls, for which rusqlite has no wrapper

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::geteuid;
use rusqlite::{Connection, ffi};

use super::error::Distrust;
use super::trust::{self, existing};
use crate::access::is_shared;

/// Suffixes of the files that SQLite keeps beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// The database that the thread is about to use, and how.
struct Access {
    /// Absolute and without symbolic links, as SQLite names it.
    db: PathBuf,
    /// The owner of the database.
    owner: u32,
    /// Whether other users may write to the database.
    shared: bool,
    waits: bool,
    /// Temporary files that SQLite has created and not removed yet.
    temporary: Vec<PathBuf>,
    /// The first opened file that another user could have written.
    distrust: Option<Distrust>,
}

thread_local! {
    /// SQLite passes no argument of ours to the callbacks.
    static ACCESS: RefCell<Option<Access>> = const { RefCell::new(None) };
}

/// The functions that SQLite used before.
struct Previous {
    open: OpenCall,
    unlink: UnlinkCall,
    /// `None` if SQLite was built without it.
    chown: Option<ChownCall>,
    /// `None` if SQLite was built without it, or with file offsets of another size.
    pwrite: Option<WriteCall>,
    sleep: Option<SleepCall>,
}

type OpenCall = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type UnlinkCall = unsafe extern "C" fn(*const c_char) -> c_int;
type ChownCall = unsafe extern "C" fn(c_int, libc::uid_t, libc::gid_t) -> c_int;
type WriteCall = unsafe extern "C" fn(c_int, *const c_void, usize, libc::off_t) -> isize;
type SleepCall = unsafe extern "C" fn(*mut ffi::sqlite3_vfs, c_int) -> c_int;
type PlainCall = unsafe extern "C" fn();

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

/// The name of the VFS (vfs.html) through which registries are opened.
const NAME: &CStr = c"vmon";

/// Runs `work`, in which the calling thread uses the database `db` and no other, under the rules of
/// this module. `work` gets the owner of the database. `waits`: SQLite may sleep, as in a command
/// but not on a loop.
///
/// Returns also whether another user could have written a file that SQLite has opened. This is
/// checked on the open file, not its path, so it can't be raced.
///
/// # Errors
///
/// lstat(2) of the database failed.
pub(super) fn with<T>(
    db: &Path,
    waits: bool,
    work: impl FnOnce(u32) -> T,
) -> io::Result<(T, Option<Distrust>)> {
    let (owner, shared, distrust) = match existing(fs::symlink_metadata(db))? {
        // Checked by path as well: SQLite may reuse a descriptor from an earlier use.
        Some(found) => {
            let distrust = trust::of_file(db, found.uid(), found.mode());
            (found.uid(), is_shared(found.mode()), distrust)
        }
        // SQLite reports the missing file.
        None => (geteuid().as_raw(), false, None),
    };
    /// Restores the previous state, also on a panic.
    struct Restore(Option<Access>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let previous = self.0.take();
            ACCESS.with_borrow_mut(|access| *access = previous);
        }
    }
    let db = db.to_owned();
    let access = Access { db, owner, shared, waits, temporary: Vec::new(), distrust };
    let _restore = Restore(ACCESS.replace(Some(access)));
    let done = work(owner);
    let distrust = ACCESS.with_borrow_mut(|access| access.as_mut()?.distrust.take());
    Ok((done, distrust))
}

/// The name of the VFS that applies these rules, registered on the first call; "unix" if SQLite was
/// built without replaceable system calls.
pub(super) fn vfs() -> &'static str {
    static NAMED: OnceLock<&str> = OnceLock::new();
    NAMED.get_or_init(|| install().and_then(|()| NAME.to_str().ok()).unwrap_or("unix"))
}

/// Whether the database of a connection can't be written.
pub(super) fn is_readonly(connection: &Connection) -> bool {
    // SAFETY: the handle of an open connection, which is not used elsewhere meanwhile, and a
    // NUL-terminated name.
    unsafe { ffi::sqlite3_db_readonly(connection.handle(), c"main".as_ptr()) == 1 }
}

fn install() -> Option<()> {
    const OPEN: &CStr = c"open";
    const UNLINK: &CStr = c"unlink";
    const CHOWN: &CStr = c"fchown";
    const PWRITE: &CStr = c"pwrite";
    // SAFETY: the argument is a NUL-terminated name; the result is null or a VFS that stays
    // registered.
    let unix = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    // SAFETY: a registered VFS is a valid sqlite3_vfs.
    let found = unsafe { unix.as_ref() }?;
    let (get, set) = (found.xGetSystemCall?, found.xSetSystemCall?);
    // SAFETY: both take the VFS and a NUL-terminated name (vfs.html); the result is null or a
    // pointer to the function that SQLite uses now.
    let (open, unlink) = unsafe { (get(unix, OPEN.as_ptr())?, get(unix, UNLINK.as_ptr())?) };
    // SAFETY: as above.
    let chown = unsafe { get(unix, CHOWN.as_ptr()) };
    // SAFETY: as above.
    let pwrite = unsafe { get(unix, PWRITE.as_ptr()) }.filter(|_| size_of::<libc::off_t>() == 8);
    let previous = Previous {
        // SAFETY: under this name SQLite has an `int(*)(const char*, int, int)`, os_unix.c.
        open: unsafe { mem::transmute::<PlainCall, OpenCall>(open) },
        // SAFETY: under this name SQLite has an `int(*)(const char*)`, os_unix.c.
        unlink: unsafe { mem::transmute::<PlainCall, UnlinkCall>(unlink) },
        // SAFETY: under this name SQLite has an `int(*)(int, uid_t, gid_t)`, os_unix.c.
        chown: chown.map(|chown| unsafe { mem::transmute::<PlainCall, ChownCall>(chown) }),
        // SAFETY: under this name SQLite has a `ssize_t(*)(int, const void*, size_t, off_t)`, os_unix.c.
        pwrite: pwrite.map(|pwrite| unsafe { mem::transmute::<PlainCall, WriteCall>(pwrite) }),
        sleep: found.xSleep,
    };
    PREVIOUS.set(previous).ok()?;
    // The VFS "unix" keeps the data of its methods in the structure itself: its variants
    // ("unix-excl", "unix-none") differ from it only in a field or two.
    let ours = ffi::sqlite3_vfs {
        pNext: std::ptr::null_mut(),
        zName: NAME.as_ptr(),
        xSleep: Some(sleep_call),
        ..*found
    };
    let ours = Box::leak(Box::new(ours));
    // SAFETY: the structure and its name are never freed, and the VFS is not made the default.
    if unsafe { ffi::sqlite3_vfs_register(ours, 0) } != ffi::SQLITE_OK {
        return None;
    }
    // SAFETY: each function has the type of the function that it replaces. A thread that uses
    // SQLite meanwhile calls the previous function or ours, which forwards to it.
    unsafe {
        set(unix, OPEN.as_ptr(), Some(mem::transmute::<OpenCall, PlainCall>(open_call)));
        set(unix, UNLINK.as_ptr(), Some(mem::transmute::<UnlinkCall, PlainCall>(unlink_call)));
        if chown.is_some() {
            set(unix, CHOWN.as_ptr(), Some(mem::transmute::<ChownCall, PlainCall>(chown_call)));
        }
        if pwrite.is_some() {
            set(unix, PWRITE.as_ptr(), Some(mem::transmute::<WriteCall, PlainCall>(pwrite_call)));
        }
    }
    Some(())
}

unsafe extern "C" fn open_call(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let Some(previous) = PREVIOUS.get() else { return fail_with(Errno::ENOSYS) };
    let is_temporary = flags & libc::O_EXCL != 0;
    let foreign = on_access(|access| is_foreign_to_root(access.owner) && !is_temporary);
    let flags = match foreign {
        None => flags,
        Some(foreign) if foreign => (flags | libc::O_NONBLOCK) & !libc::O_CREAT,
        Some(_) => flags | libc::O_NONBLOCK,
    };
    // SAFETY: SQLite's own arguments; the changed flags take no further argument.
    let descriptor = unsafe { (previous.open)(path, flags, mode) };
    if foreign.is_none() || descriptor < 0 {
        return descriptor;
    }
    // SAFETY: SQLite passes a NUL-terminated path.
    let path = unsafe { path_of(path) };
    // SAFETY: open(2) has just returned it, and it is closed below only if SQLite does not get it.
    let opened = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let check = |access: &mut Access| match is_temporary {
        true => {
            // A file of O_TMPFILE has no name.
            access.temporary.extend((flags & libc::O_CREAT != 0).then(|| path.to_owned()));
            Ok(())
        }
        false => access.check(path, opened),
    };
    match on_access_mut(check).unwrap_or(Ok(())) {
        Ok(()) => descriptor,
        Err(errno) => {
            // SAFETY: as above; SQLite does not get the descriptor.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            fail_with(errno)
        }
    }
}

unsafe extern "C" fn unlink_call(path: *const c_char) -> c_int {
    let Some(previous) = PREVIOUS.get() else { return fail_with(Errno::ENOSYS) };
    // SAFETY: SQLite passes a NUL-terminated path.
    let name = unsafe { path_of(path) };
    match on_access_mut(|access| access.may_remove(name)) {
        Some(false) => 0,
        // SAFETY: SQLite's own argument.
        _ => unsafe { (previous.unlink)(path) },
    }
}

unsafe extern "C" fn chown_call(file: c_int, user: libc::uid_t, group: libc::gid_t) -> c_int {
    // SQLite ignores the result.
    let Some(chown) = PREVIOUS.get().and_then(|previous| previous.chown) else { return 0 };
    let user = match on_access(|access| access.owner) {
        None => user,
        // The group may be needed by its readers.
        Some(owner) if owner == geteuid().as_raw() && owner == user => libc::uid_t::MAX,
        Some(_) => return 0,
    };
    // SAFETY: SQLite's own arguments; a user of -1 changes no owner (chown(2)).
    unsafe { chown(file, user, group) }
}

unsafe extern "C" fn pwrite_call(
    file: c_int,
    bytes: *const c_void,
    count: usize,
    offset: libc::off_t,
) -> isize {
    let Some(pwrite) = PREVIOUS.get().and_then(|previous| previous.pwrite) else {
        Errno::ENOSYS.set();
        return -1;
    };
    // SAFETY: SQLite's own arguments; the buffer has `count` bytes.
    let missing = unsafe {
        let is_nul = count == 1 && bytes.cast::<u8>().read() == 0;
        if is_nul { missing_of_page(file, offset) } else { None }
    };
    let Some((start, zeros)) = missing else {
        // SAFETY: SQLite's own arguments.
        return unsafe { pwrite(file, bytes, count, offset) };
    };
    // SAFETY: a descriptor of SQLite's, and a buffer of this length.
    let written = unsafe { pwrite(file, zeros.as_ptr().cast(), zeros.len(), start) };
    if written >= 0 && written < zeros.len().cast_signed() {
        Errno::ENOSPC.set();
        return -1;
    }
    written.min(1)
}

/// The zeros that complete a page whose last byte, at `offset`, is about to be written beyond the end
/// of the file, and where they begin. `None` if it is another byte, or of a host's own database.
///
/// # Safety
///
/// The descriptor is open.
unsafe fn missing_of_page(
    file: c_int,
    offset: libc::off_t,
) -> Option<(libc::off_t, &'static [u8])> {
    static PAGE: [u8; 4096] = [0; 4096];
    let page_size = libc::off_t::try_from(PAGE.len()).ok()?;
    on_access(|_| ()).filter(|()| offset % page_size == page_size - 1)?;
    // SAFETY: guaranteed by the caller.
    let size = fstat(unsafe { BorrowedFd::borrow_raw(file) }).ok()?.st_size;
    // What the file has already is left as it is.
    let start = size.max(offset + 1 - page_size);
    Some((start, PAGE.get(..usize::try_from(offset + 1 - start).ok()?)?))
        .filter(|_| start <= offset)
}

unsafe extern "C" fn sleep_call(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    match PREVIOUS.get().and_then(|previous| previous.sleep) {
        Some(sleep) if on_access(|access| access.waits).unwrap_or(true) => {
            // SAFETY: SQLite's own arguments; the method of "unix" does not use the first.
            unsafe { sleep(vfs, microseconds) }
        }
        _ => 0,
    }
}

/// # Safety
///
/// The path is NUL-terminated and outlives the result.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: guaranteed by the caller.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

fn fail_with(errno: Errno) -> c_int {
    errno.set();
    -1
}

/// Calls `ask` with the calling thread's access; `None` if it does not use a registry now.
fn on_access<T>(f: impl FnOnce(&Access) -> T) -> Option<T> {
    // Fails while the thread ends, after its variables were dropped; no code of ours runs then.
    let result = ACCESS.try_with(|access| access.try_borrow().ok()?.as_ref().map(f));
    result.ok().flatten()
}

/// Like [`on_access`], with write access.
fn on_access_mut<T>(f: impl FnOnce(&mut Access) -> T) -> Option<T> {
    let result = ACCESS.try_with(|access| access.try_borrow_mut().ok()?.as_mut().map(f));
    result.ok().flatten()
}

/// The mode of a file, which has 16 bits on some systems.
#[allow(clippy::useless_conversion)]
fn mode_of(stat: &FileStat) -> u32 {
    stat.st_mode.into()
}

/// Whether this process is root and the database belongs to another user.
pub(super) fn is_foreign_to_root(owner: u32) -> bool {
    owner != 0 && geteuid().is_root()
}

impl Access {
    fn may_remove(&mut self, path: &Path) -> bool {
        let made = self.temporary.iter().position(|made| made == path);
        made.map(|made| self.temporary.swap_remove(made)).is_some()
            || self.companion(path).is_some()
    }

    /// The suffix of the companion file with this path.
    fn companion(&self, path: &Path) -> Option<&'static str> {
        let (path, db) = (path.as_os_str().as_bytes(), self.db.as_os_str().as_bytes());
        let suffix = path.strip_prefix(db)?;
        COMPANIONS.into_iter().find(|companion| companion.as_bytes() == suffix)
    }

    /// Whether SQLite may use the file opened at this path; records whether others could have
    /// written it.
    fn check(&mut self, path: &Path, opened: BorrowedFd<'_>) -> Result<(), Errno> {
        let stat = fstat(opened)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => {}
            // Directories are opened for fsync(2), /dev/null to occupy descriptors 0 to 2.
            SFlag::S_IFDIR => return Ok(()),
            SFlag::S_IFCHR if path == Path::new("/dev/null") => return Ok(()),
            _ => return Err(Errno::ENXIO),
        }
        let own_uid = geteuid().as_raw();
        let belongs = if path == self.db || is_foreign_to_root(self.owner) {
            stat.st_uid == self.owner
        } else if let Some(companion) = self.companion(path)
            && (companion == "-journal" || (self.owner == own_uid && !self.shared))
        {
            stat.st_uid == own_uid || stat.st_uid == 0
        } else {
            true
        };
        if !belongs {
            return Err(Errno::EPERM);
        }
        if self.distrust.is_none() {
            self.distrust = trust::of_file(path, stat.st_uid, mode_of(&stat));
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

    fn c_string(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn a_fifo_in_the_place_of_any_file_of_a_database_is_an_error() {
        for companion in COMPANIONS {
            let (_directory, db) = scratch();
            // An empty database has no journal to read.
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
        assert_eq!(Ok(vfs()), NAME.to_str());
        let unlink = |path: &Path| {
            // SAFETY: a NUL-terminated path.
            unsafe { unlink_call(c_string(path).as_ptr()) }
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
                OwnedFd::from_raw_fd(open_call(c_string(&temporary).as_ptr(), flags, 0o600))
            });
            assert!(temporary.exists());
            for path in [&other, &db, &own, &temporary] {
                assert_eq!(unlink(path), 0);
            }
            assert!(!temporary.exists());
        })
        .unwrap();
        assert!(other.exists() && db.exists() && !own.exists());
        // Outside [`with`], SQLite removes any file.
        assert_eq!(unlink(&other), 0);
    }

    #[test]
    fn sqlite_gives_no_file_of_a_registry_to_another_user() {
        let (_directory, db) = scratch();
        assert_eq!(Ok(vfs()), NAME.to_str());
        let file = fs::File::open(&db).unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        let own_uid = geteuid().as_raw();
        // SAFETY: a live descriptor and two numbers.
        let give = |user| unsafe { chown_call(descriptor, user, u32::MAX) };
        assert_eq!(with(&db, false, |_| give(own_uid + 1)).unwrap().0, 0);
        assert_eq!(file.metadata().unwrap().uid(), own_uid);
        // A host's own databases are not restricted.
        assert_eq!(give(own_uid + 1), if geteuid().is_root() { 0 } else { -1 });
    }

    #[test]
    fn a_file_of_a_wrong_owner_is_refused() {
        let (_directory, db) = scratch();
        let own_uid = geteuid().as_raw();
        let file = fs::File::open(&db).unwrap();
        let opened = std::os::fd::AsFd::as_fd(&file);
        let access = |owner| {
            let db = db.clone();
            Access { db, owner, shared: false, waits: false, temporary: Vec::new(), distrust: None }
        };
        assert_eq!(access(own_uid).check(&db, opened), Ok(()));
        assert_eq!(access(own_uid + 1).check(&db, opened), Err(Errno::EPERM));
        if !geteuid().is_root() {
            return;
        }
        std::os::unix::fs::fchown(&file, Some(own_uid + 1), None).unwrap();
        for companion in COMPANIONS {
            let path = PathBuf::from(format!("{}{companion}", db.display()));
            assert_eq!(access(own_uid).check(&path, opened), Err(Errno::EPERM));
        }
        // Any member of a group that shares a database may create them.
        let mut shared = Access { shared: true, ..access(own_uid) };
        let path = PathBuf::from(format!("{}-wal", db.display()));
        assert_eq!(shared.check(&path, opened), Ok(()));
        assert!(shared.distrust.is_some());
    }

    #[test]
    fn a_page_that_is_added_is_written_whole_and_keeps_what_the_file_has() {
        let (_directory, db) = scratch();
        assert_eq!(Ok(vfs()), NAME.to_str());
        fs::write(&db, "abc").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a live descriptor and a buffer of one byte.
        let extend = |offset| unsafe { pwrite_call(descriptor, [0_u8].as_ptr().cast(), 1, offset) };
        // SAFETY: a live descriptor.
        let missing = |offset| unsafe { missing_of_page(descriptor, offset) };
        let length = |offset| missing(offset).map(|(start, zeros)| (start, zeros.len()));
        with(&db, false, |_| {
            assert_eq!(length(4095), Some((3, 4093)));
            assert_eq!(length(8191), Some((4096, 4096)));
            assert_eq!(length(4094), None);
            assert_eq!((extend(4095), extend(8191)), (1, 1));
            assert_eq!(length(8191), None);
        })
        .unwrap();
        // A host's own databases are written as SQLite writes them.
        assert_eq!(length(12287), None);
        let content = fs::read(&db).unwrap();
        assert!(content.len() == 8192 && content.starts_with(b"abc\0"));
    }

    #[test]
    fn sqlite_sleeps_only_for_a_caller_that_may_wait() {
        let (_directory, db) = scratch();
        assert_eq!(Ok(vfs()), NAME.to_str());
        // SAFETY: the method of "unix" uses nothing of the VFS.
        let sleep = |_| unsafe { sleep_call(std::ptr::null_mut(), 1) };
        assert_eq!(with(&db, false, sleep).unwrap().0, 0);
        assert!(with(&db, true, sleep).unwrap().0 > 0);
    }
}
