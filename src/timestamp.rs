//! Timestamps as text, in the one form that the record, the control interface and the command use.

use chrono::{DateTime, SecondsFormat, Utc};

/// RFC 3339 in UTC with microseconds: texts of this form sort as the times do.
///
/// ```
/// use vmon::timestamp::rfc3339;
///
/// let time = chrono::DateTime::from_timestamp(0, 1_000).unwrap();
/// assert_eq!(rfc3339(time), "1970-01-01T00:00:00.000001Z");
/// ```
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
