//! Seeking in a log: to a time, to the last lines, to the next mark. None of these reads the bytes
//! in between.

use super::super::entry::{Mark, Stream, Timestamp};
use super::super::index::Stretch;
use super::content::BLOCK;
use super::position::Position;
use super::segment::{Role, Segment};
use super::{Entry, Hold, LogReader, ReadError, Side};

/// How many files at either end are asked whether the clock was stepped.
const FILES_ASKED: usize = 16;

/// The search for the last lines reads backwards in stretches, each this many times longer than
/// the one before.
const LONGER: u64 = 4;

impl LogReader {
    /// The current read position.
    pub fn position(&self) -> Position {
        match &self.segment {
            Some(segment) => Position {
                number: segment.number,
                offset: segment.offset(),
                skip: self.skip,
                record: Some(segment.record()),
            },
            None => self.entry.unwrap_or(Position::beginning_of(self.next)),
        }
    }

    /// Continues reading at `position`.
    pub fn seek(&mut self, position: Position) {
        (self.segment, self.skip) = (None, 0);
        self.next = position.number;
        self.entry = Some(position);
    }

    /// Ends reading at `position`: [`next`](Self::next) returns `None` there. An entry that spans
    /// the position is cut in a raw log only.
    pub fn stop_at(&mut self, position: Position) {
        self.stop = Some(position);
    }

    /// The end of the log as it is now.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn end(&mut self) -> Result<Position, ReadError> {
        self.aside(|reader| {
            let newest = reader.newest()?;
            reader.seek(Position::beginning_of(newest));
            loop {
                if reader.segment.is_none() && !reader.enter()? {
                    return Ok(Position::beginning_of(reader.next));
                }
                let Some(segment) = &reader.segment else { continue };
                if segment.role == Role::Current {
                    let offset = segment.size()?.unwrap_or(0);
                    return Ok(Position { number: segment.number, offset, skip: 0, record: None });
                }
                reader.segment = None;
            }
        })
    }

    /// The position of the first bytes at or after this time. Bytes of unknown time, between two
    /// files or behind the last record of an index, count as of the later known time.
    ///
    /// The search is by bisection, in each stretch between two steps of the clock. Behind the position
    /// there may be bytes of an earlier time, where the clock was set back.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn find_time(&mut self, time: Timestamp) -> Result<Position, ReadError> {
        self.find_side(time, Side::First)
    }

    /// The position behind the last bytes before this time. It is that of [`find_time`](Self::find_time),
    /// or a later one where the clock was set back.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn find_end(&mut self, time: Timestamp) -> Result<Position, ReadError> {
        self.find_side(time, Side::Last)
    }

    fn find_side(&mut self, time: Timestamp, side: Side) -> Result<Position, ReadError> {
        self.aside(|reader| {
            if reader.has_steps()? {
                return reader.find_in_stretches(time, side);
            }
            let number = reader.file_of_time(time)?;
            reader.seek(Position::beginning_of(number));
            reader.enter()?;
            let Some(segment) = &mut reader.segment else {
                return Ok(reader.position());
            };
            match segment.go_to_time(time) {
                // The error is reported when the file is read.
                Err(_) if segment.is_packed() => Ok(Position::beginning_of(number)),
                gone => gone.map(|()| reader.position()),
            }
        })
    }

    /// Whether the clock was stepped between the first and the last file whose indexes say so.
    fn has_steps(&mut self) -> Result<bool, ReadError> {
        let numbers = self.all_numbers()?;
        let mut first = None;
        for &number in numbers.iter().take(FILES_ASKED) {
            first = self.stretches_of(number)?.map(|(first, _)| first);
            if first.is_some() {
                break;
            }
        }
        for &number in numbers.iter().rev().take(FILES_ASKED) {
            if let Some((_, last)) = self.stretches_of(number)? {
                return Ok(first.is_some_and(|first| first != last));
            }
        }
        Ok(false)
    }

    fn stretches_of(&mut self, number: u64) -> Result<Option<(Stretch, Stretch)>, ReadError> {
        let Some(mut segment) = self.open_file(number)? else { return Ok(None) };
        segment.stretches()
    }

    /// The numbers of all files, that of the current log last.
    fn all_numbers(&mut self) -> Result<Vec<u64>, ReadError> {
        let newest = self.newest()?;
        let all = (0..self.numbers.count()).filter_map(|place| self.numbers.nth(place));
        Ok(all.chain([newest]).collect())
    }

    fn find_in_stretches(&mut self, time: Timestamp, side: Side) -> Result<Position, ReadError> {
        let mut numbers = self.all_numbers()?;
        if side == Side::Last {
            numbers.reverse();
        }
        for &number in &numbers {
            self.seek(Position::beginning_of(number));
            if !self.enter()? {
                continue;
            }
            let Some(segment) = self.segment.as_mut().filter(|it| it.number == number) else {
                continue;
            };
            match segment.find_time(time, side) {
                Ok(true) => return Ok(self.position()),
                // The error is reported when the file is read.
                Err(_) if segment.is_packed() => {}
                found => drop(found?),
            }
        }
        match side {
            Side::First => self.end(),
            Side::Last => Ok(Position::beginning_of(numbers.last().copied().unwrap_or(1))),
        }
    }

    /// The last file that begins before `time`, or else the first file.
    fn file_of_time(&mut self, time: Timestamp) -> Result<u64, ReadError> {
        self.numbers = self.files.numbers()?;
        let newest = self.newest()?;
        if self.begins_before(time, newest)? == Some(true) {
            return Ok(newest);
        }
        let (mut low, mut high) = (0, self.numbers.count());
        // The file at `low` begins before the time, or is the first; those from `high` on do not.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.first_known(time, middle, high)? {
                Some((place, true)) => low = place,
                _ => high = middle,
            }
        }
        Ok(self.numbers.nth(low).unwrap_or(newest))
    }

    /// The first file in this range of which it is known whether it begins before `time`.
    fn first_known(
        &mut self,
        time: Timestamp,
        from: u64,
        to: u64,
    ) -> Result<Option<(u64, bool)>, ReadError> {
        for place in from..to {
            let Some(number) = self.numbers.nth(place) else { break };
            if let Some(before) = self.begins_before(time, number)? {
                return Ok(Some((place, before)));
            }
        }
        Ok(None)
    }

    /// Whether a file begins before `time`; `None` if that is unknown or the file was removed.
    fn begins_before(&mut self, time: Timestamp, number: u64) -> Result<Option<bool>, ReadError> {
        let Some(mut segment) = self.open_file(number)? else { return Ok(None) };
        let first = self.first_time(&mut segment)?;
        let older = segment.is_older_than(time).then_some(true);
        Ok(first.map(|first| first < time).or(older))
    }

    /// The generation of this number, or else the current log.
    fn open_file(&mut self, number: u64) -> Result<Option<Segment>, ReadError> {
        match self.files.generation(number)? {
            Some(segment) => Ok(Some(segment)),
            None if self.files.unreadable(number)?.is_some() => Ok(None),
            None => self.files.current(number),
        }
    }

    fn first_time(&self, segment: &mut Segment) -> Result<Option<Timestamp>, ReadError> {
        if let Some(format) = self.written_as.filter(|_| segment.role == Role::Current) {
            segment.assume(format);
        }
        match segment.first_time() {
            // The damage is reported when the file is read.
            Err(_) if segment.is_packed() => Ok(None),
            first => first,
        }
    }

    /// The number that the current log will get.
    fn newest(&mut self) -> Result<u64, ReadError> {
        let numbers = self.files.numbers()?;
        let last = numbers.count().checked_sub(1).and_then(|last| numbers.nth(last));
        self.numbers = numbers;
        Ok(last.map_or(1, |last| last + 1))
    }

    /// Skips to behind the next mark without reading the bytes before it; `None` at the end of the
    /// log, and at the position of [`stop_at`](Self::stop_at). Only a log with an index
    /// has marks.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn next_mark(&mut self) -> Result<Option<(Timestamp, Mark)>, ReadError> {
        loop {
            let Some(segment) = &mut self.segment else {
                if self.is_over() || !self.enter()? {
                    return Ok(None);
                }
                continue;
            };
            if self.stop.is_some_and(|stop| stop.number < segment.number) {
                return Ok(None);
            }
            if segment.role == Role::Current && segment.may_have_another_index()? {
                self.files.find_late_index(segment)?;
            }
            if let Some(mark) = segment.next_mark()? {
                return Ok(Some(mark));
            }
            if segment.role == Role::Current {
                return Ok(None);
            }
            self.segment = None;
        }
    }

    /// Goes to the last `lines` lines of the streams that `wanted` accepts, between the current
    /// position and that of [`stop_at`](Self::stop_at). Bytes behind the last newline count as a
    /// line.
    ///
    /// The search runs backwards from the end in stretches that grow, and reads a bounded multiple
    /// of the bytes that the lines take.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn seek_last_lines(
        &mut self,
        lines: u64,
        wanted: impl Fn(Option<Stream>) -> bool,
    ) -> Result<(), ReadError> {
        let first = self.position();
        let end = match self.stop {
            Some(stop) => stop,
            None => self.end()?,
        };
        self.numbers = self.files.numbers()?;
        let (stop, hold) = (self.stop, std::mem::replace(&mut self.hold, Hold::Nothing));
        let found = match lines {
            0 => Ok(end),
            lines => self.find_last_lines(lines, first, end, &wanted),
        };
        (self.stop, self.hold) = (stop, hold);
        self.seek(found?);
        Ok(())
    }

    fn find_last_lines(
        &mut self,
        lines: u64,
        first: Position,
        end: Position,
        wanted: &dyn Fn(Option<Stream>) -> bool,
    ) -> Result<Position, ReadError> {
        // The number of newlines from the end back to the position, one more if the log ends with
        // a newline.
        let mut left: Option<u64> = None;
        let (mut to, mut length) = (end, BLOCK as u64);
        while first < to {
            let from = self.stretch_before(to, length, first)?;
            let counted = self.count_lines(from, to, wanted)?;
            if let Some(ends_line) = counted.ends_line {
                let left =
                    left.get_or_insert(if ends_line { lines.saturating_add(1) } else { lines });
                match counted.newlines.checked_sub(*left) {
                    Some(before) => return self.after_newline(from, to, before, wanted),
                    None => *left -= counted.newlines,
                }
            }
            (to, length) = (from, length.saturating_mul(LONGER));
        }
        Ok(first)
    }

    /// A position before `to`, in the same file, or in the previous file if `to` is its beginning.
    fn stretch_before(
        &mut self,
        to: Position,
        length: u64,
        first: Position,
    ) -> Result<Position, ReadError> {
        if to.offset > 0 {
            self.seek(Position::beginning_of(to.number));
            let mut from = Position::beginning_of(to.number);
            if self.enter()?
                && let Some(segment) = self.segment.as_mut().filter(|it| it.number == to.number)
                && !segment.is_packed()
                && to.offset > length
            {
                segment.go_to(to.offset - length, None)?;
                from = self.position();
            }
            // `to` itself if one line is longer than the stretch; a longer stretch follows.
            return Ok(from.max(first).min(to));
        }
        let Some(number) = self.numbers.before(to.number) else { return Ok(first) };
        self.seek(Position::beginning_of(number));
        let size = match self.enter()? {
            true => self.segment.as_ref().filter(|it| it.number == number),
            false => None,
        }
        .map(Segment::size)
        .transpose()?
        .flatten();
        match size {
            Some(size) if size > length => {
                let to = Position { number, offset: size, skip: 0, record: None };
                self.stretch_before(to, length, first)
            }
            _ => Ok(Position::beginning_of(number).max(first)),
        }
    }

    fn count_lines(
        &mut self,
        from: Position,
        to: Position,
        wanted: &dyn Fn(Option<Stream>) -> bool,
    ) -> Result<Counted, ReadError> {
        let mut counted = Counted { newlines: 0, ends_line: None };
        self.seek(from);
        self.stop = Some(to);
        while let Some(entry) = self.next()? {
            if let Entry::Bytes { stream, bytes: bytes @ [.., last], .. } = entry
                && wanted(stream)
            {
                counted.newlines += memchr::memchr_iter(b'\n', bytes).count() as u64;
                counted.ends_line = Some(*last == b'\n');
            }
        }
        Ok(counted)
    }

    /// The position behind the newline that has `before` newlines before it.
    fn after_newline(
        &mut self,
        from: Position,
        to: Position,
        mut before: u64,
        wanted: &dyn Fn(Option<Stream>) -> bool,
    ) -> Result<Position, ReadError> {
        self.seek(from);
        self.stop = Some(to);
        loop {
            // `ready` has moved the position to the next entry.
            if !self.ready()? {
                return Ok(self.position());
            }
            let start = self.position();
            let is_lines = self.segment.as_ref().is_some_and(Segment::is_lines);
            let Some(Entry::Bytes { stream, bytes, .. }) = self.next()? else { continue };
            if !wanted(stream) {
                continue;
            }
            let mut newlines = memchr::memchr_iter(b'\n', bytes);
            let (found, length) =
                (newlines.nth(usize::try_from(before).unwrap_or(usize::MAX)), bytes.len());
            match found.map(|at| at + 1) {
                None => before -= memchr::memchr_iter(b'\n', bytes).count() as u64,
                Some(after) if after == length => return Ok(self.position()),
                Some(after) if is_lines => {
                    return Ok(Position { skip: start.skip + after as u64, ..start });
                }
                Some(after) => {
                    let offset = start.offset + after as u64;
                    return Ok(Position { offset, record: None, ..start });
                }
            }
        }
    }

    /// Runs `look` and restores the read position.
    fn aside<T>(
        &mut self,
        look: impl FnOnce(&mut Self) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let (next, skip) = (self.next, self.skip);
        let (segment, entry) = (self.segment.take(), self.entry.take());
        let seen = look(self);
        (self.next, self.skip, self.segment, self.entry) = (next, skip, segment, entry);
        seen
    }
}

/// The newlines of a stretch of the log.
struct Counted {
    newlines: u64,
    /// Whether the last wanted byte is a newline; `None` if there is no wanted byte.
    ends_line: Option<bool>,
}
