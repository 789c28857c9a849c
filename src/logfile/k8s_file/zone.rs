//! The zone of local times.

use chrono::{DateTime, Local, Offset};

use crate::logfile::Timestamp;
use crate::logfile::format::Zone;

/// Zones change their offset at full quarters of an hour of UTC only.
const QUARTER: u64 = 15 * 60 * 1_000_000_000;

/// The offset of local time from UTC, by the variable `TZ` or `/etc/localtime` (tzset(3)). It is
/// looked up once for each quarter of an hour in which something is written.
#[derive(Debug, Default)]
pub(super) struct LocalZone {
    /// The number of the quarter since the epoch that the zone is known for, and the zone.
    known: Option<(u64, Zone)>,
}

impl LocalZone {
    /// The zone at this time.
    pub(super) fn at(&mut self, time: Timestamp) -> Zone {
        let quarter = time.nanoseconds() / QUARTER;
        match self.known {
            Some((known, zone)) if known == quarter => zone,
            _ => {
                let zone = look_up(time);
                self.known = Some((quarter, zone));
                zone
            }
        }
    }
}

fn look_up(time: Timestamp) -> Zone {
    let utc = DateTime::from_timestamp_nanos(time.nanoseconds().try_into().unwrap_or(i64::MAX));
    Zone::east(utc.with_timezone(&Local).offset().fix().local_minus_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_looked_up_again_in_the_next_quarter_of_an_hour() {
        let mut zone = LocalZone::default();
        let at = |quarters: u64| Timestamp::from_nanoseconds(quarters * QUARTER);
        let found = zone.at(at(7));
        assert_eq!(zone.known, Some((7, found)));
        // As long as it lasts, the zone is the known one, even if that is another one by now.
        zone.known = Some((7, Zone::east(900)));
        assert_eq!(zone.at(Timestamp::from_nanoseconds(8 * QUARTER - 1)), Zone::east(900));
        assert_eq!(zone.at(at(8)), look_up(at(8)));
        // Also if the clock is set back.
        assert_eq!(zone.at(Timestamp::from_nanoseconds(7 * QUARTER - 1)), look_up(at(6)));
    }
}
