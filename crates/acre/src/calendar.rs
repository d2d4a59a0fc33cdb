//! Times as people read them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 86_400;

/// What the clock of this machine says, in seconds since 1970; 0 when it says something before.
#[must_use]
pub fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time as ISO 8601 has it: `2026-03-01T06:15:00Z`.
#[must_use]
pub fn iso(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds / DAY_SECONDS);
    let (hour, minute, second) = time(unix_seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The same as a part of a name: `20260301-061500`.
#[must_use]
pub fn compact(unix_seconds: u64) -> String {
    let (year, month, day) = date(unix_seconds / DAY_SECONDS);
    let (hour, minute, second) = time(unix_seconds);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

fn time(unix_seconds: u64) -> (u64, u64, u64) {
    let second = unix_seconds % DAY_SECONDS;
    (second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 1970: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`. Its years begin in March, so that a leap day is a year's last day.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let day_of_era = days % DAYS_IN_400_YEARS;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = days / DAYS_IN_400_YEARS * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc_leap_days_included() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_583_020_799, "2020-02-29T23:59:59Z"),
            (1_772_345_700, "2026-03-01T06:15:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso(seconds), text);
        }
        assert_eq!(compact(1_772_345_700), "20260301-061500");
    }

    #[test]
    fn no_day_is_skipped_and_none_comes_twice() {
        let mut before = date(0);
        for days in 1..150_000 {
            let after = date(days);
            let next_day = after == (before.0, before.1, before.2 + 1);
            let next_month = after == (before.0, before.1 + 1, 1) || after == (before.0 + 1, 1, 1);
            assert!(next_day || (next_month && before.2 >= 28), "{before:?} {after:?}");
            before = after;
        }
    }

    #[test]
    fn a_clock_far_out_of_this_world_is_no_panic() {
        assert!(iso(u64::MAX).ends_with('Z'));
    }
}
