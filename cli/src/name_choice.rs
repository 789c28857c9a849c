//! The name of a sandbox: given, or derived from the command, with a number if that name is taken.

use std::ffi::OsStr;
use std::path::Path;

use vmon::monitor::{Name, NameError};

/// The name for a program whose file name has no usable character.
const NAMELESS: &str = "sandbox";

/// The names that a run may claim: the first one, and unless the user has given it, the same with the
/// first free number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameChoice {
    pub first: Name,
    pub is_given: bool,
}

impl NameChoice {
    /// Derives a name from the base name of `program`: characters not allowed in a name become `-`,
    /// and characters before the first letter or digit are removed.
    pub fn of_program(program: &OsStr) -> Result<Self, NameError> {
        let base = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
        let replaced: String = base.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
        let name = replaced.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let name = if name.is_empty() { NAMELESS } else { cut(name, Name::MAX_LEN) };
        Ok(Self { first: Name::new(name)?, is_given: false })
    }

    /// The name to claim when the preceding ones are taken, with `number` from 2. `None` for a
    /// given name.
    pub fn numbered(&self, number: u32) -> Option<Name> {
        let suffix = format!("-{number}");
        let room = Name::MAX_LEN.checked_sub(suffix.len()).filter(|_| !self.is_given)?;
        Name::new(format!("{}{suffix}", cut(self.first.as_str(), room))).ok()
    }
}

/// Truncates an ASCII name to `length` bytes.
fn cut(name: &str, length: usize) -> &str {
    name.get(..length).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn name_of(program: &[u8]) -> String {
        NameChoice::of_program(OsStr::from_bytes(program)).unwrap().first.to_string()
    }

    #[test]
    fn the_name_is_the_base_name_of_the_program() {
        assert_eq!(name_of(b"/usr/bin/qemu-system-x86_64"), "qemu-system-x86_64");
        assert_eq!(name_of(b"./run"), "run");
        assert_eq!(name_of(b"dir/"), "dir");
    }

    #[test]
    fn characters_not_allowed_in_a_name_are_replaced_or_removed() {
        assert_eq!(name_of(b"my prog@1"), "my-prog-1");
        assert_eq!(name_of(b"-bash"), "bash");
        assert_eq!(name_of(b".hidden"), "hidden");
        assert_eq!(name_of(b"a\xff\nb"), "a--b");
        for program in [&b""[..], b"/", b"..", b"___", "ä".as_bytes()] {
            assert_eq!(name_of(program), NAMELESS, "{program:?}");
        }
    }

    #[test]
    fn a_long_name_leaves_room_for_its_number() {
        let long = "x".repeat(300);
        let choice = NameChoice::of_program(OsStr::new(&long)).unwrap();
        assert_eq!(choice.first.as_str(), "x".repeat(128));
        assert_eq!(choice.numbered(12).unwrap().as_str(), format!("{}-12", "x".repeat(125)));
    }

    #[test]
    fn a_given_name_gets_no_number() {
        let choice = NameChoice::of_program(OsStr::new("sh")).unwrap();
        assert_eq!(choice.numbered(2).unwrap().as_str(), "sh-2");
        assert_eq!(NameChoice { is_given: true, ..choice }.numbered(2), None);
    }
}
