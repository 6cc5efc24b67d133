//! Moments as people write them: `5m` and `10s-ago`, `14:30`, and RFC 3339.
//!
//! The bus knows CLOCK_MONOTONIC only; the wall clock ends here.

use crate::exit::{Code, Failure};
use crate::units;
use bus_shm::Start;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// A moment in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// The last time that it was so many seconds into a day, in UTC.
    OfDay(u64),
    /// CLOCK_REALTIME ns.
    At(u64),
}

impl Moment {
    /// As CLOCK_MONOTONIC nanoseconds.
    pub(crate) fn monotonic_ns(self) -> Result<u64, Failure> {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        let at_ns = match self {
            Moment::Ago(ago) => now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)),
            Moment::OfDay(second) => last_of_day(second, now_ns),
            Moment::At(at_ns) => at_ns,
        };
        if at_ns > now_ns {
            let text = format!("{} is in the future; give a time in the past", units::rfc3339(at_ns));
            return Err(Failure::new(Code::Usage, text));
        }
        Ok(units::monotonic_of(at_ns))
    }

    /// As a reader's start.
    pub(crate) fn start(self) -> Result<Start, Failure> {
        match self {
            Moment::Ago(ago) => Ok(Start::Ago(ago)),
            other => other.monotonic_ns().map(Start::Time),
        }
    }
}

/// The last time before now at which it was that time of day.
fn last_of_day(second: u64, now_ns: u64) -> u64 {
    let now_s = now_ns / 1_000_000_000;
    let today_s = now_s - now_s % DAY_S + second;
    let at_s = if today_s > now_s { today_s.saturating_sub(DAY_S) } else { today_s };
    at_s * 1_000_000_000
}

impl std::str::FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(moment) = of_day(text) {
            return Ok(moment);
        }
        if let Some(at_ns) = rfc3339(text) {
            return Ok(Moment::At(at_ns));
        }
        let time = text.strip_suffix("ago").map_or(text, |time| time.trim_end_matches(['-', ' ']));
        units::parse_duration(time).map(Moment::Ago).map_err(|_| {
            format!("{text:?} is no time; give one like 5m, 10s-ago, 14:30, 14:30:05 or 2026-11-28T14:30:05Z")
        })
    }
}

/// A number of exactly so many digits, below a limit.
fn digits(text: &str, count: usize, limit: u64) -> Option<u64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| is_number && number < limit)
}

/// `14:30` or `14:30:05`, perhaps with a `Z`: a time of day in UTC.
pub(crate) fn of_day(text: &str) -> Option<Moment> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2, 24)?;
    let minute = digits(parts.next()?, 2, 60)?;
    let second = parts.next().map_or(Some(0), |part| digits(part, 2, 60))?;
    parts.next().is_none().then_some(Moment::OfDay(hour * 3_600 + minute * 60 + second))
}

/// `2026-11-28T14:30:05Z`, with a fraction of a second or without, in UTC or with an offset; as CLOCK_REALTIME ns.
fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4, 10_000)? as i64;
    let month = digits(parts.next()?, 2, 13).filter(|&month| month > 0)?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = digits(parts.next()?, 2, length + 1).filter(|&day| day > 0)?;
    if parts.next().is_some() {
        return None;
    }
    let (time, offset_s) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let offset_s = (digits(hours, 2, 24)? * 3_600 + digits(minutes, 2, 60)? * 60) as i64;
            (&time[..at], if time[at..].starts_with('-') { -offset_s } else { offset_s })
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let Some(Moment::OfDay(second)) = of_day(time).filter(|_| time.len() == 8) else { return None };
    let is_number =
        !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|c| c.is_ascii_digit());
    let fraction_ns: u64 = format!("{fraction:0<9}").parse().ok().filter(|_| is_number)?;
    // Days of the proleptic Gregorian calendar; years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month as i64 + 2) / 5 + day as i64 - 1;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468;
    let seconds = days * DAY_S as i64 + second as i64 - offset_s;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_write_them() {
        let ago = |seconds| Ok(Moment::Ago(Duration::from_secs(seconds)));
        assert_eq!(["5m".parse(), "10s-ago".parse(), "1h ago".parse()], [ago(300), ago(10), ago(3_600)]);
        assert_eq!("14:30".parse(), Ok(Moment::OfDay(52_200)));
        assert_eq!("00:00:05Z".parse(), Ok(Moment::OfDay(5)));
        for wrong in
            ["", "ago", "24:00", "1:30", "14:60", "soon", "-5m", "2026-02-29T00:00:00Z", "2026-11-28"]
        {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn dates_are_read_as_they_are_written() {
        for seconds in [0, 951_782_400, 1_709_164_799, 1_735_689_599, 1_795_876_205] {
            let at_ns = seconds * 1_000_000_000 + 120_000_000;
            assert_eq!(units::rfc3339(at_ns).parse(), Ok(Moment::At(at_ns)));
        }
        assert_eq!(rfc3339("2026-11-28T15:30:05+01:00"), rfc3339("2026-11-28T14:30:05Z"));
        assert_eq!(
            rfc3339("2026-11-28 14:30:05.5Z"),
            rfc3339("2026-11-28T14:30:05Z").map(|at| at + 500_000_000)
        );
        for wrong in
            ["2026-13-01T00:00:00Z", "2026-11-31T00:00:00Z", "2026-11-28T14:30:05", "1960-01-01T00:00:00Z"]
        {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_last_one() {
        let now_ns = (10 * DAY_S + 3_600) * 1_000_000_000;
        assert_eq!(last_of_day(3_600, now_ns), now_ns);
        assert_eq!(last_of_day(3_601, now_ns), now_ns - (DAY_S - 1) * 1_000_000_000);
    }

    #[test]
    fn the_future_is_refused() {
        assert!(Moment::At(u64::MAX).monotonic_ns().is_err());
        assert_eq!(Moment::At(0).monotonic_ns().ok(), Some(0), "before the clock began");
    }
}
