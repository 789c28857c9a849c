//! Lives of a log at random: every record is true, whatever crashed between them.

use fastrand::Rng;

use super::*;

/// What is true of one byte.
#[derive(Debug, Clone, Copy)]
struct Truth {
    byte: u8,
    stream: Stream,
    /// When it was written, by the clock of that moment.
    at: u64,
    /// The latest time that this clock had shown until then.
    latest: u64,
}

impl Truth {
    fn allows(&self, stream: Stream, time: u64) -> bool {
        stream == self.stream && time <= self.latest && time + 5 * MILLISECOND >= self.at
    }
}

/// One log, and what was written to it.
struct Life {
    fixture: Fixture,
    random: Rng,
    written: Vec<Truth>,
    latest: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut fixture = Fixture::new(random.choice([0, 40, 1000]).unwrap(), u32::MAX);
        fixture.now = 1_000_000 * MILLISECOND;
        Self { fixture, random, written: Vec::new(), latest: 0 }
    }

    fn write(&mut self) {
        // Now and then the clock is set back.
        let back = self.random.choice([0, 0, 0, 0, 0, 0, 7, 300]).unwrap();
        self.fixture.now -= back * MILLISECOND;
        let stream = self.random.choice([Stream::Stdout, Stream::Stderr, Stream::Tty]).unwrap();
        let bytes: Vec<u8> = (0..=self.random.u8(..30))
            .map(|_| self.random.choice(*b"abcdefg\n").unwrap())
            .collect();
        let later = self.random.choice([0, 1, 2, 4, 5, 6, 50]).unwrap();
        self.fixture.write(later, stream, &bytes);
        let at = self.fixture.now;
        self.latest = self.latest.max(at);
        let latest = self.latest;
        self.written.extend(bytes.iter().map(|&byte| Truth { byte, stream, at, latest }));
    }

    fn end(&mut self) {
        match self.random.u8(..4) {
            // As it should be.
            0 => self.fixture.mark(Mark::Stop(RunEnd::Exited(0))),
            // The process dies.
            1 => self.fixture.log.index.forget(),
            // The machine goes down, and the end of the index is lost.
            2 => self.cut(".idx", 60),
            // So is the end of the log.
            _ => {
                let before = fs::metadata(self.fixture.path("")).map_or(0, |it| it.len());
                self.cut("", 20);
                let after = fs::metadata(self.fixture.path("")).map_or(0, |it| it.len());
                self.written.truncate(self.written.len() - (before - after) as usize);
            }
        }
        self.fixture.reopen();
        self.fixture.mark(Mark::Start { pid: 1 });
    }

    fn cut(&mut self, suffix: &str, most: u64) {
        self.fixture.log.flush_index();
        if let Ok(file) = File::options().write(true).open(self.fixture.path(suffix)) {
            let size = file.metadata().unwrap().len();
            file.set_len(size.saturating_sub(self.random.u64(..most))).unwrap();
        }
    }

    /// What the files say, with what is known of each byte.
    fn on_disk(&self) -> Vec<(u8, Known)> {
        let newest = self.written.len() as u64 + 1;
        let generations = (1..newest).map(|number| format!(".{number:08}"));
        let generations = generations.take_while(|suffix| self.fixture.path(suffix).exists());
        let mut all = Vec::new();
        for suffix in generations.chain([String::new()]) {
            let log = fs::read(self.fixture.path(&suffix)).unwrap();
            let index = fs::read(self.fixture.path(&format!("{suffix}.idx"))).unwrap();
            let known = known(&records(&index), log.len());
            all.extend(log.into_iter().zip(known));
        }
        all
    }
}

#[test]
fn every_record_is_correct_after_random_operations() {
    let (mut all, mut unknown) = (0, 0);
    for seed in 0..40 {
        let mut life = Life::new(seed);
        for _ in 0..8 {
            for _ in 0..=life.random.u8(..40) {
                life.write();
            }
            life.end();
        }
        life.write();
        life.fixture.log.flush_index();
        let found = life.on_disk();
        assert_eq!(found.len(), life.written.len(), "seed {seed}");
        for (at, ((byte, known), truth)) in found.iter().zip(&life.written).enumerate() {
            assert_eq!(*byte, truth.byte, "seed {seed}, byte {at}");
            let is_true = known.is_none_or(|(stream, time)| truth.allows(stream, time));
            assert!(is_true, "seed {seed}, byte {at}: {known:?} of {truth:?}");
        }
        all += found.len();
        unknown += found.iter().filter(|(_, known)| known.is_none()).count();
        the_reader_of_the_library_agrees(&life, &found);
    }
    assert!(unknown > 0 && unknown < all / 2, "nothing is known of {unknown} bytes out of {all}");
}

#[cfg(feature = "reader")]
fn the_reader_of_the_library_agrees(life: &Life, expected: &[(u8, Known)]) {
    use super::super::super::read::{Entry, LogReader};

    let directory = life.fixture.directory.path();
    let mut reader = LogReader::open(directory, "config", "vm").unwrap();
    let mut read = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        if let Entry::Bytes { time, stream, bytes } = entry {
            let known = stream.zip(time).map(|(stream, time)| (stream, time.nanoseconds()));
            read.extend(bytes.iter().map(|&byte| (byte, known)));
        }
    }
    assert_eq!(read.len(), expected.len());
    assert_eq!(read, expected);
}

#[cfg(not(feature = "reader"))]
fn the_reader_of_the_library_agrees(_: &Life, _: &[(u8, Known)]) {}
