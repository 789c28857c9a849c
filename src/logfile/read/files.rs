//! The files of a log, opened by their place in it, beside a writer that may rename them at any
//! moment: an index first, then its log, and only then is there a new log.

use std::path::PathBuf;
use std::time::SystemTime;

use nix::sys::stat::fstat;

use super::super::LogError;
use super::super::current::{Identity, size_of};
use super::super::directory::{Directory, Place};
use super::super::generations::name;
use super::super::index;
use super::content::Content;
use super::numbers::Numbers;
use super::packed::Packing;
use super::segment::{Role, Segment};
use super::times::Times;
use super::{ReadError, Warning};

/// What is at the current log's name.
#[derive(Debug)]
pub(super) enum Look {
    /// The file that is being read, with so many bytes.
    Same(u64),
    /// Nothing yet, or another file, with so many bytes.
    Other(u64),
}

/// A file that is an index by its name.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    /// With the time at which it was made, where the file system knows that: one that is removed
    /// may leave its inode's number to the next.
    pub(super) identity: (Identity, Option<SystemTime>),
    /// None where it is no index that is known here.
    pub(super) times: Option<Times>,
}

impl Index {
    fn inode(&self) -> Option<u64> {
        self.times.as_ref().map(Times::inode)
    }
}

/// Where the files are.
#[derive(Debug)]
pub(super) struct Files {
    place: Place,
    /// What the caller has not been told yet.
    pub(super) warnings: Vec<Warning>,
    /// The files that something is known to be wrong with: each is told once.
    told: Vec<PathBuf>,
}

impl Files {
    pub(super) fn new(place: Place) -> Self {
        Self { place, warnings: Vec::new(), told: Vec::new() }
    }

    /// Tells what is wrong with a file.
    pub(super) fn warn(&mut self, warning: Option<Warning>) {
        if let Some(Warning::Index { path, .. } | Warning::Damaged { path, .. }) = &warning {
            if self.told.contains(path) {
                return;
            }
            self.told.push(path.clone());
        }
        self.warnings.extend(warning);
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.place.path()
    }

    pub(super) fn numbers(&self) -> Result<Numbers, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(Numbers::default()) };
        let mut numbers = Numbers::read(directory.path(), self.place.log_name())
            .map_err(|error| ReadError::io(directory.path(), error))?;
        numbers.complete(|number| self.exists_in(&directory, number))?;
        Ok(numbers)
    }

    /// Whether the log is there.
    pub(super) fn has_log(&self) -> Result<bool, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(false) };
        Ok(directory.stat(self.place.log_name())?.is_some())
    }

    /// Opens a generation; `None` where it is not there.
    pub(super) fn generation(&mut self, number: u64) -> Result<Option<Segment>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let name = name(self.place.log_name(), number);
        let Some(mut segment) = open(&directory, &name, Role::Generation, number)? else {
            return self.packed_generation(&directory, &name, number);
        };
        self.find_index(&directory, &name, &mut segment)?;
        Ok(Some(segment))
    }

    /// A compressor removes a generation when all of it is in the other file.
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

    /// Opens the log, which will be generation `number`; `None` where there is none.
    ///
    /// Whether that generation has come to be meanwhile is for the caller to find out.
    pub(super) fn current(&mut self, number: u64) -> Result<Option<Segment>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let Some(mut segment) = open(&directory, self.place.log_name(), Role::Current, number)?
        else {
            return Ok(None);
        };
        self.find_current_index(&directory, &mut segment)?;
        Ok(Some(segment))
    }

    /// Looks for an index that was not there before.
    pub(super) fn find_late_index(&mut self, segment: &mut Segment) -> Result<(), ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(()) };
        match segment.role {
            Role::Current => self.find_current_index(&directory, segment),
            Role::Generation => {
                let name = name(self.place.log_name(), segment.number);
                self.find_index(&directory, &name, segment).map(|_| ())
            }
            Role::Moved => Ok(()),
        }
    }

    /// The index of the log is beside it, or has the generation's name already. Each is this log's
    /// only if the log was still, or already, in the place that goes with it when the index had been
    /// opened: the next log's index is made after the next log.
    fn find_current_index(
        &mut self,
        directory: &Directory,
        segment: &mut Segment,
    ) -> Result<(), ReadError> {
        let log = self.place.log_name().to_owned();
        let later = name(&log, segment.number);
        let ours = Some(segment.identity);
        let beside = open_index(directory, &log)?;
        if beside.is_some() && directory.identity_of(&log)? == ours {
            self.warn(beside.and_then(|index| segment.use_index(index)));
            return Ok(());
        }
        let renamed = open_index(directory, &later)?;
        let in_place = directory.identity_of(&log)? == ours;
        // In the middle of a rotation; but where somebody has taken a generation away, that one's.
        let of_this = renamed.as_ref().and_then(Index::inode) == Some(segment.identity.inode());
        if (in_place && of_this) || directory.identity_of(&later)? == ours {
            self.warn(renamed.and_then(|index| segment.use_index(index)));
        }
        Ok(())
    }

    /// Whether there is an index for the file of this name, usable or not.
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

    /// Whether a generation is there, compressed or not.
    pub(super) fn exists(&self, number: u64) -> Result<bool, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(false) };
        self.exists_in(&directory, number)
    }

    fn exists_in(&self, directory: &Directory, number: u64) -> Result<bool, ReadError> {
        let name = name(self.place.log_name(), number);
        let mut there = directory.stat(&name)?.is_some();
        for packing in Packing::ALL {
            there = there || directory.stat(&format!("{name}{}", packing.suffix()))?.is_some();
        }
        Ok(there)
    }

    pub(super) fn look(&self, segment: &Segment) -> Result<Look, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(Look::Other(0)) };
        Ok(match directory.stat(self.place.log_name())? {
            Some(stat) if Identity::of(&stat) == segment.identity => Look::Same(size_of(&stat)),
            Some(stat) => Look::Other(size_of(&stat)),
            None => Look::Other(0),
        })
    }

    /// Which generation the log has become that is not in its place any more; `None` where somebody
    /// else than its writer has moved it, or its writer keeps no generations.
    pub(super) fn became(&self, segment: &Segment) -> Result<Option<u64>, ReadError> {
        let Some(directory) = self.place.existing()? else { return Ok(None) };
        let is_it = |number: u64| -> Result<Option<bool>, LogError> {
            let stat = directory.stat(&name(self.place.log_name(), number))?;
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
        // It was removed after it had become one: there are later ones, or it was compressed.
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

/// The index of the file `name`. An empty one is yet to be written.
fn open_index(directory: &Directory, name: &str) -> Result<Option<Index>, ReadError> {
    let name = index::name(name);
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
