//! Sizes, counts and times as people write them.

use std::str::FromStr;
use std::time::Duration;

/// Text that is no size, count or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseUnitError {
    text: String,
    expected: &'static str,
}

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, ParseUnitError> {
    let refused = || ParseUnitError {
        text: text.chars().take(80).collect(),
        expected,
    };
    let digits = text.trim();
    let at = digits
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(digits.len());
    let number: u64 = digits[..at].replace('_', "").parse().map_err(|_| refused())?;
    let unit = digits[at..].trim();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
    number.checked_mul(*factor).ok_or_else(refused)
}

/// A number in digits and nothing else: `str::parse` takes a sign, so two readers could see two numbers.
pub fn parse_digits<T: FromStr>(text: &str) -> Option<T> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

/// `64KiB`, `500G`, `1048576` → bytes. `K M G T` and `KB MB GB TB` are powers of 1000, `KiB …` of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, ParseUnitError> {
    const UNITS: &[(&str, u64)] = &[
        ("", 1),
        ("B", 1),
        ("K", 1000),
        ("M", 1000_u64.pow(2)),
        ("G", 1000_u64.pow(3)),
        ("T", 1000_u64.pow(4)),
        ("KB", 1000),
        ("MB", 1000_u64.pow(2)),
        ("GB", 1000_u64.pow(3)),
        ("TB", 1000_u64.pow(4)),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    parse(text, UNITS, "a size, such as 256MiB, 4G or 1048576")
}

/// `10G`, `500M`, `5_000_000` → a count, powers of 1000.
pub fn parse_count(text: &str) -> Result<u64, ParseUnitError> {
    const UNITS: &[(&str, u64)] = &[
        ("", 1),
        ("K", 1000),
        ("M", 1000_u64.pow(2)),
        ("G", 1000_u64.pow(3)),
        ("T", 1000_u64.pow(4)),
    ];
    parse(text, UNITS, "a count, such as 10G, 500M or 5000000")
}

/// `500ms`, `30s`, `5m`, `12h`, `30d` → a time.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    const UNITS: &[(&str, u64)] = &[
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("min", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    parse(
        text,
        UNITS,
        "a time with a unit, such as 500ms, 30s, 5m, 12h or 30d",
    )
    .map(Duration::from_millis)
}

/// Bytes for people: `512 B`, `4.0 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(bytes, 1024.0, &UNITS)
}

/// A count for people: `999`, `1.2 M`.
pub fn format_count(count: u64) -> String {
    const UNITS: [&str; 5] = ["", "K", "M", "G", "T"];
    scaled(count, 1000.0, &UNITS).trim_end().to_owned()
}

/// Bytes as a manifest or a flag takes them, exactly: `256MiB`, `1000`.
pub fn exact_bytes(bytes: u64) -> String {
    exact(
        bytes,
        &[
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ],
    )
}

/// A count as a manifest or a flag takes it, exactly: `10G`, `5500M`, `1`.
pub fn exact_count(count: u64) -> String {
    exact(
        count,
        &[
            ("T", 1000_u64.pow(4)),
            ("G", 1000_u64.pow(3)),
            ("M", 1000_u64.pow(2)),
            ("K", 1000),
        ],
    )
}

/// A time as a manifest or a flag takes it, exactly: `30s`, `1500ms`.
pub fn exact_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0 => "0s".to_owned(),
        ms => exact(
            ms,
            &[
                ("d", 86_400_000),
                ("h", 3_600_000),
                ("m", 60_000),
                ("s", 1000),
                ("ms", 1),
            ],
        ),
    }
}

/// The value in the largest unit that it is a multiple of.
fn exact(value: u64, units: &[(&str, u64)]) -> String {
    match units
        .iter()
        .find(|(_, factor)| value > 0 && value.is_multiple_of(*factor))
    {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => value.to_string(),
    }
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.95 would print as "1000.0": go up one unit before rounding does.
    while scaled >= base - 0.05 && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} {}", units[0])
    } else {
        format!("{scaled:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_digits() {
        assert_eq!(parse_digits::<u8>("007"), Some(7));
        for other in ["", "+7", "-7", "7 ", "0x7", "256", "\u{ff17}"] {
            assert_eq!(parse_digits::<u8>(other), None, "{other}");
        }
    }

    #[test]
    fn people_s_units() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("4 G"), Ok(4_000_000_000));
        assert_eq!(parse_bytes("1_000"), Ok(1000));
        assert_eq!(parse_count("10G"), Ok(10_000_000_000));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        for bad in ["", "MiB", "-1", "1.5G", "99999999999T", "3 X"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("30").is_err());
    }

    proptest::proptest! {
        #[test]
        fn exact_notations_are_read_back(value: u64, small in 0u64..10_000, zeros in 0u32..4) {
            for value in [value >> 20, small, small * 1000_u64.pow(zeros), small << (10 * zeros)] {
                proptest::prop_assert_eq!(parse_bytes(&exact_bytes(value)), Ok(value));
                proptest::prop_assert_eq!(parse_count(&exact_count(value)), Ok(value));
                let duration = Duration::from_millis(value);
                proptest::prop_assert_eq!(parse_duration(&exact_duration(duration)), Ok(duration));
            }
        }
    }

    #[test]
    fn exact_notations_are_short() {
        assert_eq!(exact_bytes(256 << 20), "256MiB");
        assert_eq!(exact_count(10_000_000_000), "10G");
        assert_eq!(exact_count(5_500_000), "5500K");
        assert_eq!(exact_duration(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(exact_duration(Duration::from_secs(90)), "90s");
        assert_eq!(exact_duration(Duration::from_secs(300)), "5m");
        assert_eq!((exact_bytes(0), exact_count(0)), ("0".to_owned(), "0".to_owned()));
    }

    #[test]
    fn and_back() {
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_bytes(4 << 20), "4.0 MiB");
        assert_eq!(format_count(999), "999");
        assert_eq!(format_count(999_990), "1.0 M");
    }
}
