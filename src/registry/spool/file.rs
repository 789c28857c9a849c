//! Files of the spool directory: written completely or not at all, and read without trust in their
//! content or type.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::super::connection::random;
use crate::access::make_private;

/// Prefix of the name of a temporary file; the writer's pid follows.
const TEMPORARY: &str = ".spill-";

/// Size limit for reading, far above the size of a record with the longest usual command line.
const MAX_SIZE: u64 = 4 << 20;

/// Creates the file `path` in `directory` with this content and mode 0600. Not synced.
pub(super) fn write(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if unnamed::write(directory, path, content).is_ok() {
        return Ok(());
    }
    // If both ways fail, this error is returned.
    write_named(directory, path, content)
}

/// If the process is killed meanwhile, the temporary file remains: see [`sweep_temporary`].
fn write_named(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let name = format!("{TEMPORARY}{}-{:x}", std::process::id(), random());
    let temporary = directory.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = make_private(&file).map_err(io::Error::from);
    let written =
        written.and_then(|()| file.write_all(content)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// On Linux, writes a file without a name (open(2), `O_TMPFILE`) and links it once it is complete,
/// so that a process that is killed meanwhile leaves no file.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::fs::OpenOptions;
    use std::io::{self, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
    use nix::unistd::linkat;

    use crate::access::make_private;

    /// Fails also if the file system does not support this, or /proc is not mounted.
    pub(super) fn write(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
        let mut file = options.open(directory)?;
        make_private(&file)?;
        file.write_all(content)?;
        // AT_EMPTY_PATH requires CAP_DAC_READ_SEARCH.
        let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(AT_FDCWD, descriptor.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
        Ok(())
    }
}

/// Removes the temporary files of a supervisor that was killed while it wrote. Usually there are
/// none.
pub(super) fn sweep_temporary(directory: &Path, pid: u32) {
    sweep(directory, &format!("{TEMPORARY}{pid}-"));
}

/// Removes the files whose names begin with this: regular files of our user only.
pub(super) fn sweep(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        // Metadata of the entry itself, not of a symbolic link's target.
        let ours = entry.metadata().is_ok_and(|it| it.is_file() && it.uid() == geteuid().as_raw());
        if ours && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "can't remove a temporary file");
        }
    }
}

/// Reads a regular file of our user.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before opening, because opening a device can have an effect, and after, because the
    // file may have been replaced in between. O_NONBLOCK: opening a FIFO would block.
    require_regular(&fs::symlink_metadata(path)?)?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let metadata = file.metadata()?;
    require_regular(&metadata)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to uid {}", metadata.uid())));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut content)?;
    Ok(content)
}

fn require_regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::other("it is not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn both_ways_of_writing_make_a_private_file_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        for (name, write) in [("a", write as fn(&_, &_, &_) -> _), ("b", write_named)] {
            let path = scratch.path().join(name);
            write(scratch.path(), &path, b"content").unwrap();
            assert_eq!(read(&path).unwrap(), b"content");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(names(scratch.path()), ["a", "b"]);
    }

    /// A SIGKILL at any moment leaves no temporary file, because the directory never contains one.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_spooled_end_has_no_other_name_before_its_own() {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("whole");
        if unnamed::write(scratch.path(), &scratch.path().join("known"), b"").is_err() {
            eprintln!("skipped: the file system of {} has no O_TMPFILE", scratch.path().display());
            return;
        }
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch
            .add_watch(scratch.path(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
            .unwrap();
        write(scratch.path(), &path, b"content").unwrap();
        let events = watch.read_events().unwrap();
        let named: Vec<_> = events.into_iter().filter_map(|event| event.name).collect();
        assert_eq!(named, ["whole"]);
    }

    #[test]
    fn only_the_temporary_files_of_one_supervisor_are_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for name in [".spill-12-a", ".spill-12-b", ".spill-123-a", "c@web.12-1-1.end.json"] {
            fs::write(path(name), "").unwrap();
        }
        symlink(path(".spill-123-a"), path(".spill-12-link")).unwrap();
        fs::create_dir(path(".spill-12-directory")).unwrap();
        sweep_temporary(scratch.path(), 12);
        let left =
            [".spill-12-directory", ".spill-12-link", ".spill-123-a", "c@web.12-1-1.end.json"];
        assert_eq!(names(scratch.path()), left);
    }
}
