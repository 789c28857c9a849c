//! Places in a log: of a time, of the last lines, of marks. None of them is looked for by reading
//! what lies between.

use super::super::entry::{Mark, Stream, Timestamp};
use super::content::BLOCK;
use super::position::Position;
use super::segment::{Role, Segment};
use super::{Entry, Hold, LogReader, ReadError};

/// How much longer each stretch is that is searched for the last lines than the one after it.
const LONGER: u64 = 4;

impl LogReader {
    /// Where reading goes on.
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

    /// Goes on reading at `position`.
    pub fn seek(&mut self, position: Position) {
        (self.segment, self.skip) = (None, 0);
        self.next = position.number;
        self.entry = Some(position);
    }

    /// Reads to `position` and no further: [`next`](Self::next) gives `None` there. Bytes that
    /// begin before it and go on behind it are cut only where the log is raw.
    pub fn stop_at(&mut self, position: Position) {
        self.stop = Some(position);
    }

    /// The end of what is there now.
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

    /// The place of the first bytes of this time or a later one, as far as times are known: what
    /// lies between two files of known times, or behind the last record of an index, may be of any
    /// time between theirs, and counts as of the later one.
    ///
    /// It is looked for by bisection, in files that do not get earlier.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    pub fn find_time(&mut self, time: Timestamp) -> Result<Position, ReadError> {
        self.aside(|reader| {
            let number = reader.file_of_time(time)?;
            reader.seek(Position::beginning_of(number));
            reader.enter()?;
            let Some(segment) = &mut reader.segment else {
                return Ok(reader.position());
            };
            match segment.go_to_time(time) {
                // It is told when it is read.
                Err(_) if segment.is_packed() => Ok(Position::beginning_of(number)),
                gone => gone.map(|()| reader.position()),
            }
        })
    }

    /// The last file that begins before `time`; the first one where none does.
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

    /// The first file from this place on of which it is known whether it begins before `time`.
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

    /// `None` where nobody knows, as of a file that is gone.
    fn begins_before(&mut self, time: Timestamp, number: u64) -> Result<Option<bool>, ReadError> {
        let segment = match self.files.generation(number)? {
            Some(segment) => Some(segment),
            None => self.files.current(number)?,
        };
        let Some(mut segment) = segment else { return Ok(None) };
        let first = self.first_time(&mut segment)?;
        let older = segment.is_older_than(time).then_some(true);
        Ok(first.map(|first| first < time).or(older))
    }

    fn first_time(&self, segment: &mut Segment) -> Result<Option<Timestamp>, ReadError> {
        if let Some(format) = self.written_as.filter(|_| segment.role == Role::Current) {
            segment.take_for(format);
        }
        match segment.first_time() {
            // One that is damaged is told when it is read.
            Err(_) if segment.is_packed() => Ok(None),
            first => first,
        }
    }

    /// The number that the current log will have.
    fn newest(&mut self) -> Result<u64, ReadError> {
        let numbers = self.files.numbers()?;
        let last = numbers.count().checked_sub(1).and_then(|last| numbers.nth(last));
        self.numbers = numbers;
        Ok(last.map_or(1, |last| last + 1))
    }

    /// Goes to the next mark without reading what lies before it; `None` at the end of what is
    /// there, or where to [stop](Self::stop_at). Only a raw log with an index has marks.
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

    /// Goes to the last `lines` lines of the streams that are wanted, but not before where reading
    /// would go on now, and not beyond where it is to [stop](Self::stop_at). What follows the last
    /// newline is a line too.
    ///
    /// It searches from the end, in stretches that grow, and reads no further back than twice as
    /// far as it has to.
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
        // How many newlines must come before the place that is looked for, seen from the end: what
        // ends with a newline has one more of them.
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

    /// A place before `to`, in the same file or, at its beginning, in the one before.
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
            // Not before `to` where one line is longer than this: then a longer stretch is next.
            return Ok(from.max(first).min(to));
        }
        let Some(number) = self.numbers.before(to.number) else { return Ok(first) };
        // All of it, whatever its size.
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

    /// The place after a newline that has so many before it.
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
            // What is ready is where the next bytes are.
            if !self.ready()? {
                return Ok(self.position());
            }
            let start = self.position();
            let of_lines = self.segment.as_ref().is_some_and(Segment::is_lines);
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
                Some(after) if of_lines => {
                    return Ok(Position { skip: start.skip + after as u64, ..start });
                }
                Some(after) => {
                    let offset = start.offset + after as u64;
                    return Ok(Position { offset, record: None, ..start });
                }
            }
        }
    }

    /// Looks elsewhere, and comes back.
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

/// What a stretch of a log has.
struct Counted {
    newlines: u64,
    /// Whether its last byte is a newline; `None` where it has none that is wanted.
    ends_line: Option<bool>,
}
