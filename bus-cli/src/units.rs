//! Numbers with units, as people write and read them.

use bus_shm::inspect::{Age, Precision};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `12,345 messages`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `512 B`, `1.5 KiB`, `300 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `350 us`, `12 ms`, `1.5 s`, `3 min 20 s`, `2 h 5 min`, `9 d 3 h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.000_999_5 {
        format!("{:.0} us", seconds * 1e6)
    } else if seconds < 0.999_5 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else if seconds < 59.5 {
        format!("{seconds:.0} s")
    } else {
        let whole = seconds.round() as u64;
        let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
        match (days, hours) {
            (0, 0) => format!("{minutes} min {} s", whole % 60),
            (0, hours) => format!("{hours} h {minutes} min"),
            (days, hours) => format!("{days} d {hours} h"),
        }
    }
}

/// [`duration`] of a number of seconds that may be anything.
pub(crate) fn seconds(number: f64) -> String {
    Duration::try_from_secs_f64(number).map_or_else(|_| "for ever".into(), duration)
}

/// [`duration`] of nanoseconds.
pub(crate) fn nanoseconds(number: u64) -> String {
    duration(Duration::from_nanos(number))
}

/// `1.2 s`, `~1.2 s` if sampled, `> 1 h 0 min` if older than what is remembered, `-` if unknown.
pub(crate) fn age(age: Option<Age>) -> String {
    let Some(Age { ns, precision }) = age else { return "-".into() };
    match precision {
        Precision::Exact => nanoseconds(ns),
        Precision::Sampled => format!("~{}", nanoseconds(ns)),
        Precision::AtLeast => format!("> {}", nanoseconds(ns)),
    }
}

/// Messages per second: `0`, `0.4`, `950`, `12.3k`, `4.56M`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        zero if zero < 0.05 => "0".into(),
        few if few < 9.95 => format!("{few:.1}"),
        some if some < 9_999.5 => format!("{some:.0}"),
        many if many < 999_950.0 => format!("{:.1}k", many / 1e3),
        most => format!("{:.2}M", most / 1e6),
    }
}

/// `37 %`, and never 0 % of something or 100 % of less than all.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    match part as f64 * 100.0 / whole as f64 {
        share if part > 0 && share < 1.0 => "<1 %".into(),
        share if part < whole && share > 99.0 => "99 %".into(),
        share => format!("{share:.0} %"),
    }
}

/// How long ago a CLOCK_REALTIME time was.
pub(crate) fn ago(realtime_ns: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    duration(now.saturating_sub(Duration::from_nanos(realtime_ns)))
}

/// A CLOCK_MONOTONIC time as CLOCK_REALTIME, both in nanoseconds.
pub(crate) fn realtime_of(monotonic_ns: u64) -> u64 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now_ns = monotonic.tv_sec as u64 * 1_000_000_000 + monotonic.tv_nsec as u64;
    let real_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    real_ns.wrapping_sub(now_ns).wrapping_add(monotonic_ns)
}

/// A CLOCK_REALTIME time as CLOCK_MONOTONIC, both in nanoseconds; 0 for one before that clock began. What the wall clock was set by
/// meanwhile cannot be told from time that has passed.
pub(crate) fn monotonic_of(realtime_ns: u64) -> u64 {
    realtime_ns.saturating_sub(realtime_of(0))
}

/// Two columns, names and values.
pub(crate) fn facts(list: &[(&str, String)]) -> String {
    let width = list.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    list.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// CLOCK_REALTIME nanoseconds as RFC 3339 in UTC.
pub(crate) fn rfc3339(realtime_ns: u64) -> String {
    let (seconds, fraction) = (realtime_ns / 1_000_000_000, realtime_ns % 1_000_000_000);
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days since 0000-03-01 of the proleptic Gregorian calendar, cut into eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// Splits `1.5M` into the number and the unit.
fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, text[end..].trim()))
}

/// Reads `4096`, `64K`, `1.5M`, `1GiB`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1048576.0,
        "g" | "gb" | "gib" => 1073741824.0,
        _ => return Err(format!("{unit:?} is no unit of size; use K, M or G")),
    };
    Ok((number * factor).round() as u64)
}

/// Reads a number of slots or messages: `1024`, `64K`.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if text.trim().ends_with(['b', 'B']) {
        Err(format!("{text:?} is a size, not a number"))
    } else {
        Ok(bytes)
    }
}

/// The same, of a number that has 32 bits.
pub(crate) fn parse_count32(text: &str) -> Result<u32, String> {
    u32::try_from(parse_count(text)?).map_err(|_| format!("{text:?} is too large"))
}

/// Reads `2`, `1.5s`, `200ms`, `3m`, `1h`; without a unit, seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time; use us, ms, s, m, h or d")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{text:?}: {error}"))
}

/// Reads messages per second: `10`, `2.5`, `50k`, `1M`, also with `/s`.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text.trim().trim_end_matches("/s"))?;
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("{unit:?} is no unit of rate; use k or M")),
    };
    if number > 0.0 { Ok(number * factor) } else { Err("a rate must be above 0".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([counted(1, "lane"), counted(2_000, "lane")], ["1 lane", "2,000 lanes"]);
        assert_eq!([bytes(512), bytes(1_536), bytes(300 << 20)], ["512 B", "1.5 KiB", "300 MiB"]);
        assert_eq!([bytes(1023), bytes(1_048_575)], ["1023 B", "1.0 MiB"]);
        assert_eq!([rate(0.0), rate(0.42), rate(950.0), rate(12_345.0)], ["0", "0.4", "950", "12.3k"]);
        assert_eq!([percent(0, 9), percent(1, 1_000), percent(999, 1_000)], ["0 %", "<1 %", "99 %"]);
    }

    #[test]
    fn times_as_people_write_them() {
        let text = |ns| nanoseconds(ns);
        assert_eq!([text(350_000), text(12_000_000), text(1_540_000_000)], ["350 us", "12 ms", "1.5 s"]);
        assert_eq!([text(200_000_000_000), text(7_500_000_000_000)], ["3 min 20 s", "2 h 5 min"]);
        assert_eq!(seconds(f64::INFINITY), "for ever");
        let aged = |precision| age(Some(Age { ns: 1_240_000_000, precision }));
        let all = [Precision::Exact, Precision::Sampled, Precision::AtLeast].map(aged);
        assert_eq!(all, ["1.2 s", "~1.2 s", "> 1.2 s"]);
        assert_eq!(age(None), "-");
    }

    #[test]
    fn times_of_the_other_clock_are_near_now() {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let at = realtime_of(monotonic.tv_sec as u64 * 1_000_000_000);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(now.abs_diff(at) < 2_000_000_000);
    }

    #[test]
    fn dates_across_leap_days() {
        let at = |seconds: u64| rfc3339(seconds * 1_000_000_000);
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_709_164_799), "2024-02-28T23:59:59.000000000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000000000Z");
        assert_eq!(rfc3339(4_107_542_400_000_000_001), "2100-03-01T00:00:00.000000001Z");
    }

    #[test]
    fn what_people_type_is_understood_or_refused() {
        assert_eq!(parse_bytes("64K"), Ok(65_536));
        assert_eq!(parse_bytes("1.5 MiB"), Ok(1_572_864));
        assert_eq!(parse_count32("4k"), Ok(4_096));
        assert!(parse_bytes("many").is_err() && parse_bytes("3x").is_err() && parse_count("3MB").is_err());
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("3m"), Ok(Duration::from_secs(180)));
        assert!(parse_duration("soon").is_err() && parse_duration("-1s").is_err());
        assert_eq!(parse_rate("50k/s"), Ok(50_000.0));
        assert!(parse_rate("0").is_err());
    }
}
