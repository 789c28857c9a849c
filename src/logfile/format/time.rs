//! RFC 3339 times in logs.

use crate::logfile::entry::Timestamp;

const NANOSECONDS: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// The days of 400 years, after which the Gregorian calendar repeats.
const ERA: u64 = 146_097;

/// The days from 0000-03-01 to 1970-01-01.
const EPOCH: u64 = 719_468;

/// The size of the output of [`format`].
pub(super) const LENGTH: usize = 29;

/// The size of the output of [`Zone::suffix`].
pub(super) const SUFFIX: usize = 6;

/// The offset of local time from UTC, in whole minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::logfile) struct Zone(i16);

impl Zone {
    /// The zone of this many seconds east of UTC. Seconds beyond the last whole minute, which only
    /// zones of the 19th century have, are left out.
    pub(in crate::logfile) fn east(seconds: i32) -> Self {
        Self(i16::try_from(seconds / 60).unwrap_or(0))
    }

    /// What a clock in this zone shows, as if it were UTC.
    pub(super) fn shown(self, time: Timestamp) -> Timestamp {
        let offset = i64::from(self.0) * 60 * NANOSECONDS.cast_signed();
        Timestamp::from_nanoseconds(time.nanoseconds().saturating_add_signed(offset))
    }

    /// `+02:00`
    pub(super) fn suffix(self) -> [u8; SUFFIX] {
        let minutes = self.0.unsigned_abs();
        let digit = |number: u16| b'0' + (number % 10) as u8;
        let sign = if self.0 < 0 { b'-' } else { b'+' };
        let (hours, minutes) = (minutes / 60, minutes % 60);
        [sign, digit(hours / 10), digit(hours), b':', digit(minutes / 10), digit(minutes)]
    }
}

/// `2026-11-23T17:02:03.123456789`, in UTC and without an offset.
pub(super) fn format(time: Timestamp) -> [u8; LENGTH] {
    let mut text = *b"0000-00-00T00:00:00.000000000";
    let seconds = time.nanoseconds() / NANOSECONDS;
    let (year, month, day) = date(seconds / DAY);
    for (from, to, number) in [
        (0, 4, year),
        (5, 7, month),
        (8, 10, day),
        (11, 13, seconds / 3600 % 24),
        (14, 16, seconds / 60 % 60),
        (17, 19, seconds % 60),
        (20, LENGTH, time.nanoseconds() % NANOSECONDS),
    ] {
        let mut rest = number;
        for digit in text.get_mut(from..to).unwrap_or_default().iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    text
}

/// Parses a time with any offset. `None` if the text is not a time, or one outside the range of
/// [`Timestamp`]. Digits after the ninth of a fraction are ignored.
pub(super) fn parse(text: &[u8]) -> Option<Timestamp> {
    let (clock, rest) = text.split_at_checked(19)?;
    let number = |from: usize, to: usize| digits(clock.get(from..to)?);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let between = [4, 7, 10, 13, 16].map(|at| clock.get(at).copied().unwrap_or_default());
    let possible = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if between != *b"--T::" || !possible {
        return None;
    }
    let (fraction, zone) = fraction(rest)?;
    let seconds = days(year, month, day)?.checked_mul(DAY)? + hour * 3600 + minute * 60 + second;
    let utc = seconds.checked_add_signed(-offset(zone)?)?;
    let nanoseconds = utc.checked_mul(NANOSECONDS)?.checked_add(fraction)?;
    Some(Timestamp::from_nanoseconds(nanoseconds))
}

/// Parses an optional fraction of a second into nanoseconds, and returns the bytes behind it.
fn fraction(rest: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at(end);
    let known = fraction.get(..9).unwrap_or(fraction);
    let missing = u32::try_from(9 - known.len()).ok()?;
    Some((digits(known)? * 10_u64.pow(missing), zone))
}

/// The offset of a zone in seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, clock) = match zone {
        b"Z" => return Some(0),
        [b'+', clock @ ..] => (1, clock),
        [b'-', clock @ ..] => (-1, clock),
        _ => return None,
    };
    match clock {
        [a, b, b':', c, d] => {
            let (hours, minutes) = (digits(&[*a, *b])?, digits(&[*c, *d])?);
            (minutes < 60).then_some(sign * i64::try_from(hours * 3600 + minutes * 60).ok()?)
        }
        _ => None,
    }
}

/// Parses a number of one to nine digits.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0, |number, &byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}

// Both functions count years from the 1st of March, so that a leap day is the last of its year, and
// every five months have 153 days.

/// The year, month and day of a number of days since the epoch.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// The number of days since the epoch; `None` for an earlier date.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let (era, year) = (year / 400, year % 400);
    let day = (153 * month + 2) / 5 + day - 1 + 365 * year + year / 4 - year / 100;
    (era * ERA + day).checked_sub(EPOCH)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, SecondsFormat, TimeDelta};

    use super::*;

    fn nanoseconds(text: &str) -> Option<u64> {
        parse(text.as_bytes()).map(Timestamp::nanoseconds)
    }

    #[test]
    fn a_time_is_written_as_chrono_writes_it_and_read_back() {
        let mut at = DateTime::UNIX_EPOCH;
        while let Some(nanoseconds) = at.timestamp_nanos_opt() {
            let time = Timestamp::from_nanoseconds(nanoseconds.try_into().unwrap());
            let text = format(time);
            let expected = at.to_rfc3339_opts(SecondsFormat::Nanos, true);
            assert_eq!(format!("{}Z", str::from_utf8(&text).unwrap()), expected);
            assert_eq!(parse(expected.as_bytes()), Some(time));
            // Every day and every second of a day turn up, and leap years of each kind.
            at += TimeDelta::nanoseconds(86_399_123_456_789 / 3);
        }
        let last = format(Timestamp::from_nanoseconds(u64::MAX));
        assert_eq!(&last, b"2554-07-21T23:34:33.709551615");
    }

    #[test]
    fn a_time_in_a_zone_is_the_same_instant() {
        let time = Timestamp::from_nanoseconds(1_796_000_000_123_456_789);
        for (seconds, suffix) in [
            (0, "+00:00"),
            (7200, "+02:00"),
            (-12_600, "-03:30"),
            (50_400, "+14:00"),
            (-43_200, "-12:00"),
            (20_700, "+05:45"),
            (1_172, "+00:19"),
        ] {
            let zone = Zone::east(seconds);
            let text = [&format(zone.shown(time))[..], &zone.suffix()].concat();
            let text = str::from_utf8(&text).unwrap();
            assert!(text.ends_with(suffix), "{text}");
            let read = DateTime::parse_from_rfc3339(text).unwrap().timestamp_nanos_opt();
            assert_eq!(read, Some(time.nanoseconds().cast_signed()), "{text}");
        }
    }

    #[test]
    fn times_of_other_writers_are_read() {
        let expected = DateTime::parse_from_rfc3339("2026-11-23T17:02:03Z").unwrap();
        let second = u64::try_from(expected.timestamp_nanos_opt().unwrap()).unwrap();
        for (text, fraction) in [
            ("2026-11-23T17:02:03Z", 0),
            ("2026-11-23T17:02:03.5Z", 500_000_000),
            ("2026-11-23T17:02:03.123456789123Z", 123_456_789),
            ("2026-11-23T19:02:03.000000001+02:00", 1),
            ("2026-11-23T11:32:03-05:30", 0),
            ("2026-11-24T01:02:03+08:00", 0),
        ] {
            assert_eq!(nanoseconds(text), Some(second + fraction), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_refused() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23 17:02:03Z",
            "2026-11-23T17:02:03",
            "2026-11-23T17:02:03.Z",
            "2026-13-23T17:02:03Z",
            "2026-11-00T17:02:03Z",
            "2026-11-23T24:02:03Z",
            "2026-11-23T17:02:03+0200",
            "2026-11-23T17:02:03+02:60",
            "2026-11-23T17:02:03Zulu",
            "+026-11-23T17:02:03Z",
            "0001-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
    }
}
