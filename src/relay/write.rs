//! Writing to a descriptor that does not block.

use std::io::{self, Write};

/// Writes as much as `writer` takes without blocking: returns how many bytes that were, and the
/// error that ended it. `WouldBlock` is none.
pub(crate) fn write_some(writer: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match writer.write(rest) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}
