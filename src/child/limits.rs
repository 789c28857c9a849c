//! Resource limits of a child: which resources the system has, and their values.

use std::fmt;
use std::str::FromStr;

use nix::sys::resource::{RLIM_INFINITY, Resource as SystemResource, getrlimit, rlim_t, setrlimit};

use crate::values::ValueError;

/// A resource that the system can limit for a process: `RLIMIT_NOFILE` and the others of
/// getrlimit(2). Its text form is the name in lower case without `RLIMIT_`.
///
/// ```
/// use vmon::child::Resource;
///
/// assert_eq!("nofile".parse(), Ok(Resource::NOFILE));
/// assert_eq!(Resource::NOFILE.to_string(), "nofile");
/// assert!("files".parse::<Resource>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(SystemResource);

macro_rules! resources {
    ($($(#[$when:meta])* $word:literal: $resource:ident,)*) => {
        /// The text forms of [`ALL`](Self::ALL).
        pub const WORDS: &'static [&'static str] = &[$($(#[$when])* $word,)*];

        /// All resources of this system.
        pub const ALL: &'static [Self] = &[$($(#[$when])* Self(SystemResource::$resource),)*];
    };
}

impl Resource {
    /// Open files: the highest number of a new descriptor, and one.
    pub const NOFILE: Self = Self(SystemResource::RLIMIT_NOFILE);

    resources! {
        #[cfg(not(target_os = "freebsd"))]
        "as": RLIMIT_AS,
        #[cfg(target_os = "freebsd")]
        "as": RLIMIT_VMEM,
        "core": RLIMIT_CORE,
        "cpu": RLIMIT_CPU,
        "data": RLIMIT_DATA,
        "fsize": RLIMIT_FSIZE,
        #[cfg(target_os = "freebsd")]
        "kqueues": RLIMIT_KQUEUES,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        "locks": RLIMIT_LOCKS,
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        "memlock": RLIMIT_MEMLOCK,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        "msgqueue": RLIMIT_MSGQUEUE,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        "nice": RLIMIT_NICE,
        "nofile": RLIMIT_NOFILE,
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        "nproc": RLIMIT_NPROC,
        #[cfg(target_os = "freebsd")]
        "npts": RLIMIT_NPTS,
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        "rss": RLIMIT_RSS,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        "rtprio": RLIMIT_RTPRIO,
        #[cfg(target_os = "linux")]
        "rttime": RLIMIT_RTTIME,
        #[cfg(target_os = "freebsd")]
        "sbsize": RLIMIT_SBSIZE,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        "sigpending": RLIMIT_SIGPENDING,
        "stack": RLIMIT_STACK,
        #[cfg(target_os = "freebsd")]
        "swap": RLIMIT_SWAP,
    }

    /// The soft and the hard limit of this process.
    pub(super) fn current(self) -> nix::Result<(rlim_t, rlim_t)> {
        getrlimit(self.0)
    }

    /// Sets the limits of the calling process. Async-signal-safe.
    pub(super) fn set(self, (soft, hard): (rlim_t, rlim_t)) -> nix::Result<()> {
        setrlimit(self.0, soft, hard)
    }
}

impl FromStr for Resource {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut known = Self::WORDS.iter().zip(Self::ALL);
        let found = known.find_map(|(word, resource)| (*word == text).then_some(*resource));
        found.ok_or_else(|| ValueError::Word { text: text.to_owned(), words: Self::WORDS })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut known = Self::WORDS.iter().zip(Self::ALL);
        f.write_str(known.find_map(|(word, it)| (it == self).then_some(*word)).unwrap_or("unknown"))
    }
}

/// The limits of one resource, in the unit of getrlimit(2): bytes, seconds or a number.
///
/// The text form is `SOFT:HARD`, or one value for both; `-1` and `unlimited` mean no limit.
///
/// ```
/// use vmon::child::ResourceLimit;
///
/// let limit = ResourceLimit::new(Some(1024), None);
/// assert_eq!("1024:-1".parse(), Ok(limit));
/// assert_eq!(limit.to_string(), "1024:unlimited");
/// assert!("2048:1024".parse::<ResourceLimit>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceLimit {
    /// What the kernel enforces; `None` for no limit. At most the hard limit.
    pub soft: Option<u64>,
    /// What the process may raise the soft limit to; `None` for no limit.
    pub hard: Option<u64>,
}

impl ResourceLimit {
    /// A limit from its two values.
    pub fn new(soft: Option<u64>, hard: Option<u64>) -> Self {
        Self { soft, hard }
    }

    /// The values for setrlimit(2).
    pub(super) fn values(self) -> (rlim_t, rlim_t) {
        let value = |value: Option<u64>| value.map_or(RLIM_INFINITY, system_value);
        (value(self.soft), value(self.hard))
    }
}

/// A limit in the type of the system.
#[cfg(not(target_os = "freebsd"))]
fn system_value(value: u64) -> rlim_t {
    value
}

/// A limit in the type of the system, which is signed: the largest value is infinity.
#[cfg(target_os = "freebsd")]
fn system_value(value: u64) -> rlim_t {
    rlim_t::try_from(value).unwrap_or(RLIM_INFINITY)
}

impl FromStr for ResourceLimit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            // `parse` would accept a plus sign.
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Some).map_err(|_| ValueError::ResourceLimit)
            }
            _ => Err(ValueError::ResourceLimit),
        };
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let limit = Self::new(value(soft)?, value(hard)?);
        match limit.hard {
            Some(hard) if limit.soft.is_none_or(|soft| soft > hard) => {
                Err(ValueError::SoftAboveHard)
            }
            _ => Ok(limit),
        }
    }
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, before) in [(self.soft, ""), (self.hard, ":")] {
            f.write_str(before)?;
            match value {
                Some(value) => write!(f, "{value}")?,
                None => f.write_str("unlimited")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_has_a_word_of_its_own() {
        for resource in Resource::ALL {
            assert_eq!(resource.to_string().parse(), Ok(*resource));
        }
        let mut words = Resource::WORDS.to_vec();
        words.dedup();
        assert_eq!((words.len(), words.is_sorted()), (Resource::ALL.len(), true));
    }

    #[test]
    fn a_limit_is_one_value_or_two_and_the_soft_one_is_not_the_larger() {
        let limit = |soft, hard| Ok(ResourceLimit::new(soft, hard));
        for (text, expected) in [
            ("7", limit(Some(7), Some(7))),
            ("0:7", limit(Some(0), Some(7))),
            ("-1", limit(None, None)),
            ("unlimited", limit(None, None)),
            ("7:-1", limit(Some(7), None)),
            ("18446744073709551615", limit(Some(u64::MAX), Some(u64::MAX))),
            ("8:7", Err(ValueError::SoftAboveHard)),
            ("-1:7", Err(ValueError::SoftAboveHard)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", ":", "7:", ":7", "1:2:3", "-2", "+1", "x", "18446744073709551616"] {
            assert_eq!(text.parse::<ResourceLimit>(), Err(ValueError::ResourceLimit), "{text:?}");
        }
    }
}
