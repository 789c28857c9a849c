//! Values of options that only the command has: dates, points in time, environment variables,
//! overlayfs layers.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local, LocalResult, NaiveDate, NaiveDateTime, SubsecRound, TimeZone, Utc};
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use vmon::child::{Resource, ResourceLimit};
use vmon::logfile::Timestamp;
use vmon::monitor::{LabelError, Labels, Name, NameError, STDIO};
use vmon::terminal::WindowSize;
use vmon::values::{split_unit, time};

/// An invalid value. The message shows a valid one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error(transparent)]
    Value(#[from] vmon::values::ValueError),
    #[error("{0}; give a date and time as in RFC 3339, such as 2026-01-31T12:00:00Z")]
    Date(chrono::ParseError),
    #[error(
        "not a time: give a date, a date and time as in RFC 3339, such as 2026-01-31T12:00:00Z (without a zone: local), or how long ago, such as 10m or 2h30m"
    )]
    Moment,
    #[error("no such local time: the clocks were put forward")]
    SkippedMoment,
    #[error("no variable name: give KEY=VALUE, or KEY to pass on the value of vmon's environment")]
    NoKey,
    #[error("a path of a layer can't contain ':', which separates the layers in the record")]
    Colon,
    #[error("a path must not be empty")]
    NoPath,
    #[error("the time must be longer than 0: give a longer one, or leave the option out")]
    NoTime,
    #[error("not a speed: give a number from 0.1 to 1000, such as 2 or 0.5")]
    Speed,
    #[error("the command is empty: give a command, or leave the option out")]
    NoCommand,
    #[error("not a user: give NAME or UID, and after a colon the group if it is to be another one")]
    User,
    #[error("not a mask: give octal digits up to 777, such as 027")]
    Umask,
    #[error("not a limit of a resource: give NAME=SOFT[:HARD], such as nofile=1024:4096")]
    Ulimit,
    #[error("not a size: give ROWSxCOLUMNS, such as 24x80")]
    WindowSize,
}

/// The child's stdio, or one of its consoles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleChoice {
    Stdio,
    Named(Name),
}

impl ConsoleChoice {
    /// The name of the console; `None` for the child's stdio.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Stdio => None,
            Self::Named(name) => Some(name),
        }
    }
}

impl std::str::FromStr for ConsoleChoice {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(if text == STDIO { Self::Stdio } else { Self::Named(text.parse()?) })
    }
}

/// A time longer than 0.
pub fn positive_time(text: &str) -> Result<Duration, ValueError> {
    let time = time(text)?;
    if time.is_zero() { Err(ValueError::NoTime) } else { Ok(time) }
}

/// Accepts one of `words`, which help texts and error messages list.
pub fn one_of<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words.iter().copied()).try_map(|word| word.parse())
}

/// Accepts any bytes that `parse` accepts.
pub fn os<T, E>(parse: fn(OsString) -> Result<T, E>) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    OsStringValueParser::new().try_map(parse)
}

/// `on` or `off`.
pub fn switch() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|word| word == "on")
}

/// A factor of the original speed.
pub fn speed(text: &str) -> Result<f64, ValueError> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let speed = text.parse().ok().filter(|speed| number && (0.1..=1000.0).contains(speed));
    speed.ok_or(ValueError::Speed)
}

/// A date and time in RFC 3339 format, truncated to microseconds.
pub fn date(text: &str) -> Result<DateTime<Utc>, ValueError> {
    let date = DateTime::parse_from_rfc3339(text).map_err(ValueError::Date)?;
    Ok(date.with_timezone(&Utc).trunc_subsecs(6))
}

/// A point in time: a date and time in RFC 3339 format, in the local zone if it has none; a date,
/// which means its first moment; or an age, as numbers with d, h, m, s or ms.
///
/// A local time that occurs twice, because clocks are set back, means its first occurrence.
pub fn moment(text: &str) -> Result<Timestamp, ValueError> {
    moment_in(text, DateTime::min)
}

/// As [`moment`], but a local time that occurs twice means its second occurrence: the end of a part
/// that is to have both.
pub fn end(text: &str) -> Result<Timestamp, ValueError> {
    moment_in(text, DateTime::max)
}

fn moment_in(
    text: &str,
    choose: fn(DateTime<Local>, DateTime<Local>) -> DateTime<Local>,
) -> Result<Timestamp, ValueError> {
    if let Some(ago) = ago(text) {
        let then = SystemTime::now().checked_sub(ago);
        return Ok(then.unwrap_or(SystemTime::UNIX_EPOCH).into());
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(SystemTime::from(moment).into());
    }
    let forms =
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let mut local = forms.iter().filter_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").map(NaiveDateTime::from).ok();
    let local = local.next().or_else(date).ok_or(ValueError::Moment)?;
    let moment = match Local.from_local_datetime(&local) {
        LocalResult::Single(moment) => moment,
        // chrono does not give them in their order.
        LocalResult::Ambiguous(one, other) => choose(one, other),
        LocalResult::None => return Err(ValueError::SkippedMoment),
    };
    Ok(SystemTime::from(moment).into())
}

/// The sum of numbers with units, in descending order of the units.
fn ago(text: &str) -> Option<Duration> {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut units = units.iter();
    let (mut rest, mut ago) = (text, Duration::ZERO);
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = split_unit(rest)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let (_, milliseconds) = units.find(|(name, _)| *name == unit)?;
        let number: u64 = number.parse().ok()?;
        ago = ago.checked_add(Duration::from_millis(number.checked_mul(*milliseconds)?))?;
        rest = after;
    }
    Some(ago)
}

/// A variable of the command's environment. Without a value it gets the value of vmon's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvArg {
    pub key: OsString,
    pub value: Option<OsString>,
}

/// `KEY=VALUE` or `KEY`, of any bytes.
pub fn env(text: OsString) -> Result<EnvArg, ValueError> {
    let bytes = text.as_bytes();
    let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (bytes.get(..at), bytes.get(at + 1..)),
        None => (Some(bytes), None),
    };
    let own = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    match key {
        Some(key) if !key.is_empty() => Ok(EnvArg { key: own(key), value: value.map(own) }),
        _ => Err(ValueError::NoKey),
    }
}

/// A label of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelArg {
    pub key: String,
    pub value: String,
}

/// `KEY=VALUE`, or `KEY` for an empty value.
pub fn label(text: &str) -> Result<LabelArg, LabelError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Labels::default().insert(key, value)?;
    Ok(LabelArg { key: key.to_owned(), value: value.to_owned() })
}

/// The path of an overlayfs layer.
pub fn layer(text: OsString) -> Result<PathBuf, ValueError> {
    match text.as_bytes() {
        [] => Err(ValueError::NoPath),
        bytes if bytes.contains(&b':') => Err(ValueError::Colon),
        _ => Ok(text.into()),
    }
}

/// A command for `sh -c`, of any bytes. An empty one is rejected: the shell would execute the path
/// that is appended to it.
pub fn shell_command(text: OsString) -> Result<OsString, ValueError> {
    match text.as_bytes().trim_ascii().is_empty() {
        true => Err(ValueError::NoCommand),
        false => Ok(text),
    }
}

/// A mask of file modes, in octal digits.
pub fn umask(text: &str) -> Result<u32, ValueError> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mask = u32::from_str_radix(text, 8).ok().filter(|mask| digits && *mask <= 0o777);
    mask.ok_or(ValueError::Umask)
}

/// The limits of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    pub resource: Resource,
    pub limit: ResourceLimit,
}

/// `NAME=SOFT:HARD` or `NAME=BOTH`.
pub fn ulimit(text: &str) -> Result<Ulimit, ValueError> {
    let (resource, limit) = text.split_once('=').ok_or(ValueError::Ulimit)?;
    Ok(Ulimit { resource: resource.parse()?, limit: limit.parse()? })
}

/// `ROWSxCOLUMNS`, both at least 1.
pub fn window_size(text: &str) -> Result<WindowSize, ValueError> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number > 0)
    };
    let size = text
        .split_once('x')
        .and_then(|(rows, columns)| Some(WindowSize::new(number(rows)?, number(columns)?)));
    size.ok_or(ValueError::WindowSize)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_speed_is_a_number_within_its_bounds() {
        for (text, expected) in [("1", 1.0), ("0.1", 0.1), (".5", 0.5), ("1000", 1000.0)] {
            assert_eq!(speed(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0.09", "1001", "-1", "+1", "1e2", "inf", "NaN", "2x", "1.2.3"] {
            assert_eq!(speed(text), Err(ValueError::Speed), "{text:?}");
        }
    }

    #[test]
    fn dates_are_rfc_3339_in_any_zone() {
        let expected = "2026-01-31T11:00:00Z".parse::<DateTime<Utc>>().unwrap();
        assert_eq!(date("2026-01-31T12:00:00+01:00"), Ok(expected));
        assert_eq!(date("2026-01-31T11:00:00.0000009Z"), Ok(expected));
        for text in ["", "yesterday", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z"] {
            assert!(matches!(date(text), Err(ValueError::Date(_))), "{text:?}");
        }
    }

    #[test]
    fn moments_are_dates_times_or_how_long_ago() {
        let second = |text: &str| moment(text).map(|at| at.nanoseconds() / 1_000_000_000);
        assert_eq!(second("1970-01-02T00:00:00Z"), Ok(86_400));
        assert_eq!(second("1970-01-02T01:00:00.5+01:00"), Ok(86_400));
        let local = |text: &str| {
            let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
            Ok(Local.from_local_datetime(&local).earliest().unwrap().timestamp() as u64)
        };
        for text in ["2026-01-31T12:34:00", "2026-01-31 12:34", "2026-01-31 12:34:00.25"] {
            assert_eq!(second(text), local("2026-01-31 12:34:00"), "{text}");
        }
        assert_eq!(second("2026-01-31"), local("2026-01-31 00:00:00"));
        let now = Timestamp::now();
        for (text, seconds) in
            [("10m", 600), ("2h30m", 9_000), ("7d", 604_800), ("1d1h1m1s", 90_061), ("1s500ms", 1)]
        {
            let ago = now.since(moment(text).unwrap()).as_secs();
            assert!((seconds.max(60) - 60..=seconds).contains(&ago), "{text}: {ago}");
        }
        assert_eq!(second("99999d"), Ok(0));
    }

    #[test]
    fn an_invalid_moment_is_rejected() {
        for text in [
            "",
            "now",
            "10",
            "m",
            "10m2h",
            "1h1h",
            "-5m",
            "1.5h",
            "2026",
            "2026-13-01",
            "2026-01-31T25:00:00",
            "10 m",
            "10M",
            "99999999999999999999d",
        ] {
            assert_eq!(moment(text), Err(ValueError::Moment), "{text:?}");
        }
    }

    #[test]
    fn an_environment_variable_keeps_its_bytes() {
        let parsed = env(OsString::from_vec(b"K=a=\xff".to_vec())).unwrap();
        assert_eq!(parsed.key, "K");
        assert_eq!(parsed.value, Some(OsString::from_vec(b"a=\xff".to_vec())));
        assert_eq!(env("K=".into()).unwrap().value, Some(OsString::new()));
        assert_eq!(env("K".into()).unwrap().value, None);
        assert_eq!(env("=x".into()), Err(ValueError::NoKey));
        assert_eq!(env("".into()), Err(ValueError::NoKey));
    }

    #[test]
    fn a_label_is_a_key_with_or_without_a_value() {
        let read = |text: &str| label(text).map(|LabelArg { key, value }| (key, value));
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(read("app=web"), pair("app", "web"));
        assert_eq!(read("app=a=b"), pair("app", "a=b"));
        assert_eq!(read("app="), pair("app", ""));
        assert_eq!(read("x.y/app"), pair("x.y/app", ""));
        assert_eq!(read("=x"), Err(LabelError::NoKey));
        assert!(matches!(read("a b"), Err(LabelError::Key(_))));
        assert!(matches!(read("a=\n"), Err(LabelError::Value { .. })));
    }

    #[test]
    fn a_mask_is_octal() {
        for (text, expected) in [("0", 0), ("027", 0o27), ("0777", 0o777)] {
            assert_eq!(umask(text), Ok(expected), "{text}");
        }
        for text in ["", "8", "1000", "-1", "+7", "0x7", "u=rwx"] {
            assert_eq!(umask(text), Err(ValueError::Umask), "{text:?}");
        }
    }

    #[test]
    fn a_limit_names_its_resource() {
        let limit = ResourceLimit::new(Some(7), None);
        assert_eq!(ulimit("core=7:-1"), Ok(Ulimit { resource: "core".parse().unwrap(), limit }));
        assert_eq!(ulimit("core"), Err(ValueError::Ulimit));
        assert!(ulimit("files=7").unwrap_err().to_string().contains("nofile"));
        assert!(ulimit("core=x").unwrap_err().to_string().contains("SOFT:HARD"));
    }

    #[test]
    fn a_window_has_rows_and_columns() {
        assert_eq!(window_size("24x80"), Ok(WindowSize::new(24, 80)));
        for text in ["", "x", "24", "24x", "0x80", "24x0", "+1x1", "24X80", "24x80x1", "65536x1"] {
            assert_eq!(window_size(text), Err(ValueError::WindowSize), "{text:?}");
        }
    }

    #[test]
    fn a_layer_has_no_colon() {
        assert_eq!(layer("/a".into()), Ok("/a".into()));
        assert_eq!(layer("/a:/b".into()), Err(ValueError::Colon));
        assert_eq!(layer("".into()), Err(ValueError::NoPath));
    }

    #[test]
    fn a_shell_command_keeps_its_bytes_and_is_not_empty() {
        let odd = OsString::from_vec(b"gzip -9 '\xff' ".to_vec());
        assert_eq!(shell_command(odd.clone()), Ok(odd));
        for text in ["", " ", "\t\n"] {
            assert_eq!(shell_command(text.into()), Err(ValueError::NoCommand), "{text:?}");
        }
    }
}
