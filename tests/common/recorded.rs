//! A sandbox with a log whose times a test has chosen, written as docs/formats.md has it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::State;

/// What a record of an index is about.
#[derive(Clone, Copy)]
pub enum Kind {
    Unknown = 1,
    Stdout = 2,
    Stderr = 3,
    Tty = 4,
    Start = 16,
    Stop = 17,
    Resize = 18,
}

/// A log and its index, under way.
pub struct Recording {
    name: String,
    log: Vec<u8>,
    index: Vec<u8>,
    /// In nanoseconds since 1970.
    now: u64,
}

impl Recording {
    /// Records a run of `true` in the sandbox `name`, of which the log is to be made.
    pub fn of(state: &State, name: &str) -> Self {
        let run = state.vmon().args(["run", "--name", name, "--", "true"]).status().unwrap();
        assert!(run.success());
        let pid = state.run_column(name, "pid").unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let mut index = b"VMONIDX\n\x01\0\x18\0".to_vec();
        index.resize(32, 0);
        let mut recording = Self { name: name.to_owned(), log: Vec::new(), index, now };
        recording.record(Kind::Start, pid);
        recording
    }

    fn record(&mut self, kind: Kind, value: u32) {
        self.index.extend(self.now.to_le_bytes());
        self.index.extend((self.log.len() as u64).to_le_bytes());
        self.index.extend(value.to_le_bytes());
        self.index.extend([kind as u8, 0, 0, 0]);
    }

    pub fn bytes(mut self, kind: Kind, bytes: impl AsRef<[u8]>) -> Self {
        self.record(kind, bytes.as_ref().len() as u32);
        self.log.extend(bytes.as_ref());
        self
    }

    /// Bytes without a record in the index.
    pub fn pending(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.log.extend(bytes.as_ref());
        self
    }

    pub fn tty(self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes(Kind::Tty, bytes)
    }

    pub fn size(mut self, columns: u16, rows: u16) -> Self {
        self.record(Kind::Resize, u32::from(columns) << 16 | u32::from(rows));
        self
    }

    /// Lets time pass, in milliseconds.
    pub fn pause(mut self, milliseconds: u64) -> Self {
        self.now += milliseconds * 1_000_000;
        self
    }

    pub fn hour(self) -> Self {
        self.pause(3_600_000)
    }

    /// Puts both files in their places, and gives what the log holds.
    pub fn write(self, state: &State) -> Vec<u8> {
        let path = state.log_path(&self.name);
        fs::write(&path, &self.log).unwrap();
        fs::write(path.with_extension("log.idx"), &self.index).unwrap();
        self.log
    }
}
