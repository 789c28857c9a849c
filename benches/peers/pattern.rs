//! What the floods write, and whether it has arrived.
//!
//! The stream is blocks of one size, each written with one `write`. A block begins with its
//! number; the rest of it is the same in all, lines that carry their own number within the block.
//! So a byte that is lost, doubled, changed or out of order is found, and the writer has next to
//! nothing to do for it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use vmon::logfile::Format;
use vmon::logfile::format::Decoder;

use crate::Result;

/// The decimal digits of a block's number.
const DIGITS: usize = 15;

/// The shape of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood {
    /// How many blocks; 0 for no end.
    pub blocks: u64,
    /// The size of a block.
    pub block: usize,
    /// The size of a line, its newline included; the last of a block may be shorter.
    pub line: usize,
}

impl Flood {
    /// About `bytes` bytes in writes of 64 KiB, of lines of 128 bytes.
    pub fn large(bytes: u64) -> Self {
        Self { blocks: bytes / (64 << 10), block: 64 << 10, line: 128 }
    }

    /// About `bytes` bytes in writes of 64 KiB, of lines of 100 bytes; each write ends with a
    /// shorter one.
    pub fn lines(bytes: u64) -> Self {
        Self { line: 100, ..Self::large(bytes) }
    }

    /// This many lines of 100 bytes, one write(2) each.
    pub fn small(lines: u64) -> Self {
        Self { blocks: lines, block: 100, line: 100 }
    }

    /// One without end, in writes of 64 KiB.
    pub fn endless() -> Self {
        Self { blocks: 0, ..Self::large(0) }
    }

    /// The bytes of the whole stream.
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block as u64
    }

    /// How long the stream is after a terminal has turned each newline into two bytes.
    pub fn bytes_on_a_terminal(&self) -> u64 {
        self.blocks * (self.block + self.block.div_ceil(self.line)) as u64
    }

    /// As the arguments of the hidden mode `@flood`.
    pub fn words(&self) -> [String; 3] {
        [self.blocks.to_string(), self.block.to_string(), self.line.to_string()]
    }
}

/// The block that comes next.
pub struct Block(Vec<u8>);

impl Block {
    /// The first block.
    pub fn first(flood: &Flood) -> Self {
        let mut bytes = Vec::with_capacity(flood.block);
        for line in 0..flood.block.div_ceil(flood.line) {
            let end = flood.block.min((line + 1) * flood.line);
            bytes.extend_from_slice(format!("{line:0DIGITS$} ").as_bytes());
            bytes.resize(end - 1, b'a' + (line % 26) as u8);
            bytes.push(b'\n');
        }
        let mut first = Self(bytes);
        first.set_number(0);
        first
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Turns it into the next one.
    pub fn advance(&mut self) {
        for digit in self.0[..DIGITS].iter_mut().rev() {
            if *digit != b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }

    fn set_number(&mut self, number: u64) {
        self.0[..DIGITS].copy_from_slice(format!("{number:0DIGITS$}").as_bytes());
    }

    fn on_a_terminal(self) -> Self {
        let newline = |byte| if byte == b'\n' { vec![b'\r', b'\n'] } else { vec![byte] };
        Self(self.0.into_iter().flat_map(newline).collect())
    }
}

/// Compares what arrives with what was written.
pub struct Checker {
    block: Block,
    at: usize,
    seen: u64,
    expected: u64,
    wrong_at: Option<u64>,
}

impl Checker {
    /// For the whole stream.
    pub fn new(flood: &Flood) -> Self {
        Self::of(Block::first(flood), flood.bytes())
    }

    /// For the whole stream, as it comes out of a terminal that turns `\n` into `\r\n`.
    pub fn on_a_terminal(flood: &Flood) -> Self {
        Self::of(Block::first(flood).on_a_terminal(), flood.bytes_on_a_terminal())
    }

    /// For the last `bytes` of the stream.
    pub fn of_tail(flood: &Flood, bytes: u64) -> Self {
        let from = flood.bytes().saturating_sub(bytes);
        let mut block = Block::first(flood);
        block.set_number(from / flood.block as u64);
        let at = (from % flood.block as u64) as usize;
        Self { at, ..Self::of(block, bytes) }
    }

    fn of(block: Block, expected: u64) -> Self {
        Self { block, at: 0, seen: 0, expected, wrong_at: None }
    }

    /// Takes the bytes that come next.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = &self.block.bytes()[self.at..];
            let n = left.len().min(bytes.len());
            if self.wrong_at.is_none() && left[..n] != bytes[..n] {
                let same = left.iter().zip(bytes).take_while(|(a, b)| a == b).count();
                self.wrong_at = Some(self.seen + same as u64);
            }
            self.seen += n as u64;
            self.at += n;
            bytes = &bytes[n..];
            if self.at == self.block.bytes().len() {
                self.block.advance();
                self.at = 0;
            }
        }
    }

    /// Whether all was there, and nothing else.
    pub fn finish(self) -> Result<()> {
        if let Some(at) = self.wrong_at {
            return Err(format!("byte {at} is not what was written").into());
        }
        if self.seen != self.expected {
            return Err(format!("{} bytes instead of {}", self.seen, self.expected).into());
        }
        Ok(())
    }

    /// Applies the records of these files, one after the other.
    pub fn take_records(&mut self, paths: &[PathBuf], format: Format) -> Result<()> {
        each_record(paths, format, |bytes| self.take(bytes))
    }

    /// Takes these files, one after the other.
    pub fn take_files(&mut self, paths: &[PathBuf]) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        for path in paths {
            let mut file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => self.take(&buffer[..n]),
                }
            }
        }
        Ok(())
    }
}

/// How many of the child's bytes are in the records of these files.
pub fn bytes_of_records(paths: &[PathBuf], format: Format) -> Result<u64> {
    let mut count = 0;
    each_record(paths, format, |bytes| count += bytes.len() as u64)?;
    Ok(count)
}

fn each_record(paths: &[PathBuf], format: Format, mut take: impl FnMut(&[u8])) -> Result<()> {
    let mut decoder = Decoder::new(format);
    for path in paths {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut rest = bytes.as_slice();
        while let Some(record) = decoder.next(rest) {
            take(record.bytes);
            rest = &rest[record.size..];
        }
        if !rest.is_empty() {
            return Err(format!("{} ends within a record", path.display()).into());
        }
    }
    Ok(())
}

/// Whether the checker finds what it is there to find: no other test sees to it.
pub fn check_the_checker() -> Result<()> {
    let flood = Flood { blocks: 3, block: 120, line: 40 };
    let mut block = Block::first(&flood);
    let mut right = Vec::new();
    for _ in 0..flood.blocks {
        right.extend_from_slice(block.bytes());
        block.advance();
    }
    let passes = |bytes: &[u8]| {
        let mut checker = Checker::new(&flood);
        bytes.chunks(7).for_each(|chunk| checker.take(chunk));
        checker.finish().is_ok()
    };
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = right.clone();
        change(&mut bytes);
        bytes
    };
    let wrong = [
        ("a lost byte", changed(|bytes| _ = bytes.remove(200))),
        ("a lost tail", changed(|bytes| bytes.truncate(359))),
        ("a changed byte", changed(|bytes| bytes[300] ^= 1)),
        ("a doubled block", changed(|bytes| bytes.extend_from_within(240..))),
        ("a lost block", changed(|bytes| _ = bytes.drain(120..240))),
        ("blocks out of order", changed(|bytes| bytes.rotate_left(120))),
    ];
    if !passes(&right) {
        return Err("the checker does not take what is right".into());
    }
    match wrong.iter().find(|(_, bytes)| passes(bytes)) {
        Some((what, _)) => Err(format!("the checker does not see {what}").into()),
        None => Ok(()),
    }
}
