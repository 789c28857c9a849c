//! Fields of a journal entry, in the encoding of the native protocol.

/// The longest name that journald accepts.
const LONGEST_NAME: usize = 64;

/// A field of an entry: a name and a value, encoded once.
///
/// ```
/// use vmon::journal::Field;
///
/// assert!(Field::new("CONTAINER_NAME", "web").is_ok());
/// assert!(Field::new("_PID", "1").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(Box<[u8]>);

/// A name that no client may give to a field.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} can't name a field of the journal: use up to 64 of A to Z, 0 to 9 and _, and none of 0 to 9 and _ first"
)]
pub struct FieldError(String);

impl Field {
    /// A field of this name. The value may have any bytes.
    ///
    /// # Errors
    ///
    /// The name has other characters than `A` to `Z`, `0` to `9` and `_`, begins with a digit or
    /// `_`, or is longer than 64 bytes: journald leaves such fields out.
    pub fn new(name: &str, value: impl AsRef<[u8]>) -> Result<Self, FieldError> {
        let of_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
        if !begins || name.len() > LONGEST_NAME || !name.bytes().all(of_name) {
            return Err(FieldError(name.to_owned()));
        }
        let value = value.as_ref();
        let mut encoded = name.as_bytes().to_vec();
        if value.contains(&b'\n') {
            encoded.extend(binary_head(value.len()));
        } else {
            encoded.push(b'=');
        }
        encoded.extend(value);
        encoded.push(b'\n');
        Ok(Self(encoded.into()))
    }

    /// All of these, one behind the other.
    pub(super) fn join(fields: &[Self]) -> Box<[u8]> {
        fields.iter().flat_map(|field| field.0.iter().copied()).collect()
    }
}

/// What stands between the name and a value with newlines: a newline and the size in 64 bits,
/// little-endian.
pub(super) fn binary_head(size: usize) -> [u8; 9] {
    let mut head = [b'\n'; 9];
    for (place, byte) in head.iter_mut().skip(1).zip((size as u64).to_le_bytes()) {
        *place = byte;
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_newline_has_its_size_before_it() {
        assert_eq!(&*Field::new("A_1", "x=y").unwrap().0, b"A_1=x=y\n");
        let expected = b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(&*Field::new("MESSAGE", "a\nb").unwrap().0, expected);
    }

    #[test]
    fn names_that_journald_ignores_are_refused() {
        for name in ["", "a", "A-B", "_A", "1A", "A=B", &"A".repeat(65)] {
            let error = Field::new(name, "").unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name:?} can't name a field")), "{error}");
        }
        assert!(Field::new(&"A".repeat(64), "").is_ok());
    }
}
