//! The text form of option values: keywords, sizes and times. Command lines, records and messages
//! share it.

use std::time::Duration;

/// The longest time that [`time`] accepts. Every system's clock can add it to the current time.
pub const MAX_TIME: Duration = Duration::from_secs(u32::MAX as u64);

/// An invalid value. The message describes the valid ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Not a keyword of the enumeration.
    #[error("{text:?} is not one of {}", .words.join(", "))]
    Word {
        /// The text.
        text: String,
        /// The valid keywords.
        words: &'static [&'static str],
    },
    /// Not a size.
    #[error(
        "not a size: give whole bytes, or a whole number with KiB, MiB or GiB (short: K, M, G), such as 10MiB"
    )]
    Size,
    /// More than 2⁶⁴ - 1 bytes.
    #[error("too large: at most {} bytes", u64::MAX)]
    SizeTooLarge,
    /// Not a time.
    #[error(
        "not a time: give whole seconds, or a whole number with ms, s, m or h, such as 10s or 500ms"
    )]
    Time,
    /// More than [`MAX_TIME`].
    #[error("too long: at most {} seconds", MAX_TIME.as_secs())]
    TimeTooLong,
    /// Not a [`LogRate`](crate::monitor::LogRate).
    #[error(
        "not a rate: give a size a second, such as 1MiB/s, and after a comma the burst, such as 1MiB/s,burst=4MiB"
    )]
    Rate,
    /// A rate of 0 bytes a second.
    #[error("the rate must be higher than 0: give a higher one, or leave the option out")]
    NoRate,
    /// Not a [`Restart`](crate::monitor::Restart).
    #[error("give no, on-failure, on-failure:N (a whole number of times) or always")]
    Restart,
    /// Not a [`ResourceLimit`](crate::child::ResourceLimit).
    #[error(
        "not a limit: give SOFT:HARD or one value for both, each a whole number, or -1 for none"
    )]
    ResourceLimit,
    /// A soft limit above its hard limit.
    #[error("the soft limit is above the hard one: give SOFT:HARD with a lower or the same SOFT")]
    SoftAboveHard,
    /// Not a [`Rootfs`](crate::monitor::Rootfs).
    #[error("not a root file system: give native:PATH or overlayfs:PATH:PATH…")]
    Rootfs,
}

/// Reads a size in bytes: `0`, whole bytes, or a whole number of KiB, MiB or GiB. K, M and G mean
/// the same powers of 1,024.
///
/// ```
/// assert_eq!(vmon::values::size("10MiB"), Ok(10 << 20));
/// assert!(vmon::values::size("10MB").is_err());
/// ```
///
/// # Errors
///
/// [`ValueError::Size`] and [`ValueError::SizeTooLarge`].
pub fn size(text: &str) -> Result<u64, ValueError> {
    let (number, unit) = split_unit(text).ok_or(ValueError::Size)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(ValueError::Size),
    };
    // `split_unit` returns digits only, so parsing fails only for a number that is too large.
    let number: u64 = number.parse().map_err(|_| ValueError::SizeTooLarge)?;
    number.checked_mul(factor).ok_or(ValueError::SizeTooLarge)
}

/// Reads a time: whole seconds, or a whole number of ms, s, m or h.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(vmon::values::time("500ms"), Ok(Duration::from_millis(500)));
/// assert_eq!(vmon::values::time("2m"), Ok(Duration::from_secs(120)));
/// ```
///
/// # Errors
///
/// [`ValueError::Time`] and [`ValueError::TimeTooLong`].
pub fn time(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = split_unit(text).ok_or(ValueError::Time)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(ValueError::Time),
    };
    let number: u64 = number.parse().map_err(|_| ValueError::TimeTooLong)?;
    let time = number.checked_mul(milliseconds).map(Duration::from_millis);
    time.filter(|time| *time <= MAX_TIME).ok_or(ValueError::TimeTooLong)
}

/// Splits `text` after its leading digits; `None` if it has none.
pub fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then_some((number, unit))
}

/// Defines a keyword for each variant of an enumeration: `WORDS`, `word`,
/// [`Display`](std::fmt::Display) and [`FromStr`](std::str::FromStr).
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The keywords of all variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The keyword of this variant in options and records.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::values::ValueError;

            fn from_str(text: &str) -> Result<Self, crate::values::ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(crate::values::ValueError::Word {
                        text: text.to_owned(),
                        words: Self::WORDS,
                    }),
                }
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1KiB", 1024),
            ("10MiB", 10 << 20),
            ("2GiB", 2 << 30),
            ("3k", 3 << 10),
            ("3M", 3 << 20),
            ("1g", 1 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn an_invalid_size_is_rejected() {
        for text in ["", "MiB", "-1", "+1", "1.5MiB", "1 MiB", "1MB", "1TiB", "1MiB ", "0x10", "１"]
        {
            assert_eq!(size(text), Err(ValueError::Size), "{text:?}");
        }
        for text in ["18446744073709551616", "17179869184GiB"] {
            assert_eq!(size(text), Err(ValueError::SizeTooLarge), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_unit_is_in_seconds() {
        for (text, milliseconds) in [
            ("0", 0),
            ("10", 10_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_rejected() {
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "10S", "1min"] {
            assert_eq!(time(text), Err(ValueError::Time), "{text:?}");
        }
        for text in ["4294967296", "18446744073709551615h", "99999999999999999999"] {
            assert_eq!(time(text), Err(ValueError::TimeTooLong), "{text}");
        }
    }
}
