//! The messages to the engine: one line of JSON each, in one write.

/// What a message is about: the key of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Of every message with `--api-version`.
    Data,
    /// Of an exec session without it.
    ExitCode,
    /// Of a container without it.
    Pid,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::ExitCode => "exit_code",
            Self::Pid => "pid",
        }
    }
}

/// The longest line, with its newline. Podman reads a message with a buffer of this size from a
/// socket of packets, so that the rest of a longer one is lost, and with it the JSON.
const LONGEST: usize = 4096;

/// Stands for what is cut off.
const CUT: &[u8] = b"...";

/// The line of a message. `text` may be any bytes; an empty one is left out. Of a text that is too
/// long the end is kept: a runtime gives the reason of a failure last.
pub fn line(key: Key, number: i32, text: &[u8]) -> Vec<u8> {
    let key = key.name();
    if text.is_empty() {
        return format!("{{\"{key}\": {number}}}\n").into_bytes();
    }
    let mut line = format!("{{\"{key}\": {number}, \"message\": \"").into_bytes();
    let end = b"\"}\n";
    let room = LONGEST - line.len() - end.len();
    let cut = last_that_fits(text, room);
    if cut.len() < text.len() {
        line.extend_from_slice(CUT);
    }
    cut.iter().for_each(|&byte| escape(byte, &mut line));
    line.extend_from_slice(end);
    line
}

/// The end of `text` that takes no more than `room` bytes once it is escaped; with room for [`CUT`]
/// unless it is all of it.
fn last_that_fits(text: &[u8], room: usize) -> &[u8] {
    let length = |bytes: &[u8]| bytes.iter().map(|&byte| escaped_length(byte)).sum::<usize>();
    if length(text) <= room {
        return text;
    }
    let mut used = CUT.len();
    let fits = text.iter().rev().take_while(|&&byte| {
        used += escaped_length(byte);
        used <= room
    });
    let start = text.len() - fits.count();
    let rest = text.get(start..).unwrap_or_default();
    // Not in the middle of a character of UTF-8, which has at most three further bytes.
    let further = rest.iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count();
    rest.get(further..).unwrap_or_default()
}

/// Appends a byte of a string. Bytes from 0x80 on stay as they are.
fn escape(byte: u8, line: &mut Vec<u8>) {
    match short_escape(byte) {
        Some(letter) => line.extend_from_slice(&[b'\\', letter]),
        None if is_control(byte) => line.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        None => line.push(byte),
    }
}

fn escaped_length(byte: u8) -> usize {
    match short_escape(byte) {
        Some(_) => 2,
        None if is_control(byte) => 6,
        None => 1,
    }
}

/// The letter of an escape of two characters.
fn short_escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' | b'"' | b'/' => Some(byte),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        _ => None,
    }
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: Key, number: i32, text: &[u8]) -> String {
        String::from_utf8(line(key, number, text)).unwrap()
    }

    #[test]
    fn a_number_has_a_blank_after_the_colon_and_no_message() {
        assert_eq!(text(Key::Pid, 4711, b""), "{\"pid\": 4711}\n");
        assert_eq!(text(Key::Data, 0, b""), "{\"data\": 0}\n");
        assert_eq!(text(Key::ExitCode, -1, b""), "{\"exit_code\": -1}\n");
    }

    #[test]
    fn a_text_is_escaped() {
        let expected = "{\"exit_code\": -1, \"message\": \"command timed out\"}\n";
        assert_eq!(text(Key::ExitCode, -1, b"command timed out"), expected);
        let expected = concat!(
            "{\"pid\": -1, \"message\": \"",
            r#"\"a\\b\/c\"\n\r\t\b\f\u0000\u001b\u007fä"#,
            "\"}\n"
        );
        let given = "\"a\\b/c\"\n\r\t\u{8}\u{c}\0\u{1b}\u{7f}ä";
        assert_eq!(text(Key::Pid, -1, given.as_bytes()), expected);
        assert!(line(Key::Pid, -1, b"\xff").ends_with(b"\"\xff\"}\n"));
    }

    #[test]
    fn of_a_text_that_is_too_long_the_end_is_kept() {
        let head = "{\"pid\": -1, \"message\": \"";
        let room = LONGEST - head.len() - 3;
        let whole = "a".repeat(room);
        assert_eq!(text(Key::Pid, -1, whole.as_bytes()), format!("{head}{whole}\"}}\n"));
        let long = format!("b{whole}");
        let cut = text(Key::Pid, -1, long.as_bytes());
        assert_eq!(cut, format!("{head}...{}\"}}\n", "a".repeat(room - 3)));
        assert_eq!(cut.len(), LONGEST);
    }

    #[test]
    fn neither_an_escape_nor_a_character_is_cut_in_two() {
        for (given, ends) in [("\n", "\\n\"}\n"), ("\u{1}", "\\u0001\"}\n"), ("€", "€\"}\n")] {
            for shift in 0..8 {
                let given = given.repeat(5000) + &"x".repeat(shift);
                let line = text(Key::Data, -1, given.as_bytes());
                assert!(line.len() <= LONGEST && line.len() > LONGEST - 8, "{}", line.len());
                let rest = line.strip_prefix("{\"data\": -1, \"message\": \"...").unwrap();
                let one = ends.trim_end_matches("\"}\n");
                assert!(rest.starts_with(one), "{rest}");
            }
        }
    }
}
