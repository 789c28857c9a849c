//! Log files with known contents, made without the library's writer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

pub const STDOUT: u8 = 2;
pub const STDERR: u8 = 3;
pub const TTY: u8 = 4;
pub const START: u8 = 16;
pub const STOP: u8 = 17;

/// A chunk of a log: when, from where, what. A mark has no bytes, but a value.
#[derive(Clone)]
pub struct Chunk {
    pub time: u64,
    pub kind: u8,
    pub bytes: Vec<u8>,
    pub value: u32,
}

impl Chunk {
    pub fn new(time: u64, kind: u8, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let value = bytes.len() as u32;
        Self { time, kind, bytes, value }
    }

    pub fn mark(time: u64, kind: u8, value: u32) -> Self {
        Self { time, kind, bytes: Vec::new(), value }
    }
}

/// The bytes of an index, as docs/formats.md has it.
pub fn index(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = b"VMONIDX\n".to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(24_u16.to_le_bytes());
    bytes.extend([0; 20]);
    let mut offset = 0_u64;
    for chunk in chunks {
        bytes.extend(chunk.time.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(chunk.value.to_le_bytes());
        bytes.extend([chunk.kind, 0, 0, 0]);
        offset += chunk.bytes.len() as u64;
    }
    bytes
}

pub fn joined(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect()
}

/// The chunks as lines of a format; none may be a mark. Each newline ends a record, and so do
/// 16,384 bytes.
pub fn lines(format: &str, chunks: &[Chunk]) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in chunks {
        let stream = if chunk.kind == STDERR { "stderr" } else { "stdout" };
        let time = time(chunk.time);
        let lines = chunk.bytes.split_inclusive(|&byte| byte == b'\n');
        for line in lines.flat_map(|line| line.chunks(16 << 10)) {
            match (format, line.strip_suffix(b"\n")) {
                ("cri", Some(text)) => {
                    all.extend(format!("{time} {stream} F ").into_bytes());
                    all.extend([text, b"\n"].concat());
                }
                ("cri", None) => {
                    all.extend(format!("{time} {stream} P ").into_bytes());
                    all.extend([line, b"\n"].concat());
                }
                _ => {
                    let log = serde_json::to_string(str::from_utf8(line).unwrap()).unwrap();
                    let record =
                        format!("{{\"log\":{log},\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n");
                    all.extend(record.into_bytes());
                }
            }
        }
    }
    all
}

pub fn time(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let at = chrono::DateTime::from_timestamp(seconds as i64, rest as u32).unwrap();
    at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// The log `config/vm` in a directory of its own.
pub struct Made(pub TempDir);

impl Made {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("config")).unwrap();
        Self(directory)
    }

    pub fn log_dir(&self) -> &Path {
        self.0.path()
    }

    /// `config/vm.log` and what is to follow, such as `.00000001.idx`.
    pub fn path(&self, rest: &str) -> PathBuf {
        self.0.path().join(format!("config/vm.log{rest}"))
    }

    pub fn write(&self, rest: &str, bytes: &[u8]) {
        fs::write(self.path(rest), bytes).unwrap();
    }

    /// A raw file of the log with its index.
    pub fn raw(&self, rest: &str, chunks: &[Chunk]) {
        self.write(rest, &joined(chunks));
        self.write(&format!("{rest}.idx"), &index(chunks));
    }

    /// Compresses a file of the log, as a rotate command does.
    pub fn compress(&self, rest: &str, program: &str) {
        let rm: &[&str] = if program == "zstd" { &["-q", "--rm"] } else { &[] };
        let packed = Command::new(program).args(rm).arg(self.path(rest)).status().unwrap();
        assert!(packed.success());
    }
}

/// The end of the name of a generation.
pub fn generation(number: u32) -> String {
    format!(".{number:08}")
}
