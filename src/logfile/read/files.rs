//! Opening the files of a log while a writer may rotate it at any moment. A rotation renames the
//! index first, then the log, and then creates the new log.

use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;

use super::super::LogError;
use super::super::current::{Identity, size_of};
use super::super::directory::{Directory, LogPath};
use super::super::names;
use super::content::Content;
use super::numbers::Numbers;
use super::packed::Packing;
use super::segment::{Role, Segment};
use super::times::{Index, Times};
use super::{ReadError, Warning};

/// The file at the current log's path.
#[derive(Debug)]
pub(super) enum AtLogName {
    /// The file that is being read, with its size.
    Same(u64),
    /// Another file, with its size, or none, with size 0.
    Other(u64),
}

/// The directory of a log, and the warnings about its files.
#[derive(Debug)]
pub(super) struct Files {
    place: LogPath,
    /// Warnings that the caller has not taken yet.
    pub(super) warnings: Vec<Warning>,
    /// The files with a warning: each is reported once.
    reported: Vec<PathBuf>,
}

impl Files {
    pub(super) fn new(place: LogPath) -> Self {
        Self { place, warnings: Vec::new(), reported: Vec::new() }
    }

    /// Adds a warning about a file.
    pub(super) fn warn(&mut self, warning: Option<Warning>) {
        if let Some(
            Warning::Index { path, .. }
            | Warning::Damaged { path, .. }
            | Warning::Unreadable { path },
        ) = &warning
        {
            if self.reported.contains(path) {
                return;
            }
            self.reported.push(path.clone());
        }
        self.warnings.extend(warning);
    }

    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn numbers(&self) -> Result<Numbers, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(Numbers::default()) };
        let mut numbers = Numbers::read(directory.path(), self.place.log_name())
            .map_err(|error| ReadError::io(directory.path(), error))?;
        numbers.complete(|number| self.exists_in(&directory, number))?;
        Ok(numbers)
    }

    /// Whether the current log exists.
    pub(super) fn has_log(&self) -> Result<bool, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(false) };
        Ok(directory.stat(self.place.log_name())?.is_some())
    }

    /// Opens a generation; `None` if it does not exist.
    pub(super) fn generation(&mut self, number: u64) -> Result<Option<Segment>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let name = names::generation(self.place.log_name(), number);
        let Some(mut segment) = open(&directory, &name, Role::Generation, number)? else {
            return self.packed_generation(&directory, &name, number);
        };
        self.find_index(&directory, &name, &mut segment)?;
        Ok(Some(segment))
    }

    /// Opens a compressed generation. A compressor removes the plain file only after the compressed
    /// one is complete.
    fn packed_generation(
        &mut self,
        directory: &Directory,
        name: &str,
        number: u64,
    ) -> Result<Option<Segment>, ReadError> {
        for packing in Packing::ALL {
            let file_name = format!("{name}{}", packing.suffix());
            let Some((file, _)) = directory.open_to_read(&file_name)? else { continue };
            let path = directory.path().join(file_name);
            let cannot = |error| ReadError::io(&path, error);
            let identity = Identity::of(&fstat(&file).map_err(|error| cannot(error.into()))?);
            let content = Content::packed(file, packing).map_err(cannot)?;
            let mut segment = Segment::new(Role::Generation, number, path, identity, content);
            self.find_index(directory, name, &mut segment)?;
            return Ok(Some(segment));
        }
        Ok(None)
    }

    /// Opens the current log, which will become generation `number`; `None` if it does not exist.
    ///
    /// The caller checks afterwards whether that generation was made meanwhile.
    pub(super) fn current(&mut self, number: u64) -> Result<Option<Segment>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let Some(mut segment) = open(&directory, self.place.log_name(), Role::Current, number)?
        else {
            return Ok(None);
        };
        self.find_current_index(&directory, &mut segment)?;
        Ok(Some(segment))
    }

    /// Opens an index that did not exist before.
    pub(super) fn find_late_index(&mut self, segment: &mut Segment) -> Result<(), ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(()) };
        match segment.role {
            Role::Current => self.find_current_index(&directory, segment),
            Role::Generation => {
                let name = names::generation(self.place.log_name(), segment.number);
                self.find_index(&directory, &name, segment).map(|_| ())
            }
            Role::Moved => Ok(()),
        }
    }

    /// Opens the index of the current log. It is beside the log, or has the next generation's name
    /// already. It belongs to this log only if the log was found at the matching path after the
    /// index was opened: the next log's index is created after the next log.
    fn find_current_index(
        &mut self,
        directory: &Directory,
        segment: &mut Segment,
    ) -> Result<(), ReadError> {
        let log = self.place.log_name().to_owned();
        let later = names::generation(&log, segment.number);
        let this = Some(segment.identity);
        let beside = open_index(directory, &log)?;
        if beside.is_some() && directory.identity_of(&log)? == this {
            self.warn(beside.and_then(|index| segment.use_index(index)));
            return Ok(());
        }
        let renamed = open_index(directory, &later)?;
        let in_place = directory.identity_of(&log)? == this;
        // A rotation is under way, unless this is the index of a generation that was removed.
        let of_this = renamed.as_ref().and_then(Index::inode) == Some(segment.identity.inode());
        if (in_place && of_this) || directory.identity_of(&later)? == this {
            self.warn(renamed.and_then(|index| segment.use_index(index)));
        }
        Ok(())
    }

    /// Opens the index of the file `name`. Returns whether there is one, usable or not.
    fn find_index(
        &mut self,
        directory: &Directory,
        name: &str,
        segment: &mut Segment,
    ) -> Result<bool, ReadError> {
        let Some(index) = open_index(directory, name)? else { return Ok(false) };
        self.warn(segment.use_index(index));
        Ok(true)
    }

    /// The path of a generation that is compressed in a format that is not read.
    pub(super) fn unreadable(&self, number: u64) -> Result<Option<PathBuf>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let name = names::generation(self.place.log_name(), number);
        for suffix in names::UNREADABLE {
            let name = format!("{name}{suffix}");
            if directory.stat(&name)?.is_some() {
                return Ok(Some(directory.path().join(name)));
            }
        }
        Ok(None)
    }

    /// Whether a generation exists, compressed or not.
    pub(super) fn exists(&self, number: u64) -> Result<bool, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(false) };
        self.exists_in(&directory, number)
    }

    fn exists_in(&self, directory: &Directory, number: u64) -> Result<bool, ReadError> {
        let name = names::generation(self.place.log_name(), number);
        let mut there = directory.stat(&name)?.is_some();
        for packing in Packing::ALL {
            there = there || directory.stat(&format!("{name}{}", packing.suffix()))?.is_some();
        }
        Ok(there)
    }

    pub(super) fn check_log_name(&self, segment: &Segment) -> Result<AtLogName, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(AtLogName::Other(0)) };
        Ok(match directory.stat(self.place.log_name())? {
            Some(stat) if Identity::of(&stat) == segment.identity => {
                AtLogName::Same(size_of(&stat))
            }
            Some(stat) => AtLogName::Other(size_of(&stat)),
            None => AtLogName::Other(0),
        })
    }

    /// The number of the generation that the former current log has become; `None` if another
    /// process has moved it, or if its writer keeps no generations.
    pub(super) fn became(&self, segment: &Segment) -> Result<Option<u64>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let is_it = |number: u64| -> Result<Option<bool>, LogError> {
            let stat = directory.stat(&names::generation(self.place.log_name(), number))?;
            Ok(stat.map(|stat| Identity::of(&stat) == segment.identity))
        };
        let expected = segment.number;
        if is_it(expected)? == Some(true) {
            return Ok(Some(expected));
        }
        let numbers = self.numbers()?;
        let mut from = 0;
        while let Some(number) = numbers.at_or_after(from) {
            if is_it(number)? == Some(true) {
                return Ok(Some(number));
            }
            from = number + 1;
        }
        // Not found: it was removed, and later ones exist, or it was compressed.
        let is_free = numbers.at_or_after(expected) != Some(expected);
        let later = numbers.at_or_after(expected).is_some();
        let compressed = !is_free && is_it(expected)?.is_none() && segment.links() == 0;
        Ok(((is_free && later) || compressed).then_some(expected))
    }
}

fn open(
    directory: &Directory,
    name: &str,
    role: Role,
    number: u64,
) -> Result<Option<Segment>, ReadError> {
    let Some((file, _)) = directory.open_to_read(name)? else { return Ok(None) };
    let path = directory.path().join(name);
    let stat = fstat(&file).map_err(|error| ReadError::io(&path, error))?;
    let content = Content::plain(file);
    Ok(Some(Segment::new(role, number, path, Identity::of(&stat), content)))
}

/// Opens the index of the file `name`; `None` if there is none, or if it is still empty.
fn open_index(directory: &Directory, name: &str) -> Result<Option<Index>, ReadError> {
    let name = names::index(name);
    let Some((file, size)) = directory.open_to_read(&name)? else { return Ok(None) };
    if size == 0 {
        return Ok(None);
    }
    let path = directory.path().join(name);
    let stat = fstat(&file).map_err(|error| ReadError::io(&path, error))?;
    let made = file.metadata().and_then(|metadata| metadata.created()).ok();
    let times = Times::new(file).map_err(|error| ReadError::io(&path, error))?;
    Ok(Some(Index { path, identity: (Identity::of(&stat), made), times }))
}
