//! The contents of logs in `cri` and `json`.

use std::fs;
use std::path::{Path, PathBuf};

use vmon::logfile::format::{Decoder, sniff};
use vmon::logfile::{Format, Stream};

/// The generations of a log, oldest first, and the log itself.
pub fn files(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap().to_str().unwrap();
    let is_ours = |path: &PathBuf| {
        let found = path.file_name().unwrap().to_str().unwrap();
        found.starts_with(&format!("{name}.")) && !found.ends_with(".idx")
    };
    let entries = fs::read_dir(log.parent().unwrap()).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(is_ours).collect();
    found.sort();
    found.push(log.to_owned());
    found
}

/// The records of one file, which has nothing but whole ones of this format.
pub fn records(format: Format, path: &Path) -> Vec<(Stream, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let mut decoder = Decoder::new(format);
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while let Some(record) = decoder.next(rest) {
        assert!(record.time.is_some(), "{}: {:?}", path.display(), record.bytes);
        records.push((record.stream.unwrap(), record.bytes.to_vec()));
        rest = &rest[record.size..];
    }
    assert_eq!(rest, b"", "{}", path.display());
    assert!(bytes.is_empty() || sniff(&bytes) == Some(format), "{}", path.display());
    records
}

/// What a reader joins of one stream.
pub fn joined(format: Format, log: &Path, wanted: Stream) -> Vec<u8> {
    let records = files(log).into_iter().flat_map(|path| records(format, &path));
    records.filter(|(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes).collect()
}
