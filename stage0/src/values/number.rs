//! Sizes, CPU shares of time, and durations.

/// Bytes: a number with an optional unit. `K M G T` and `Ki Mi Gi Ti` (and `KiB`, `KB`, `B`) are powers of 1024, as the
/// users of podman, docker and systemd expect; there are no powers of 1000.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is not a size such as `64M` or `1.5Gi`", text.escape_debug());
    let (number, unit) = split_unit(text).ok_or_else(bad)?;
    let unit = unit.strip_suffix(['b', 'B']).unwrap_or(unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(bad()),
    };
    scaled(number, 1_u64 << shift).ok_or_else(bad)
}

/// A memory limit: below one page the kernel would only round to nothing.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < 4096 => Err(format!("`{}` is less than 4Ki, the smallest memory limit", text.escape_debug())),
        bytes => Ok(bytes),
    }
}

/// Thousandths of a CPU: `500m`, `0.5` or `2`.
pub(crate) fn cpu(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is not a number of CPUs such as `500m`, `0.5` or `2`", text.escape_debug());
    let (number, unit) = split_unit(text).ok_or_else(bad)?;
    let millis = match unit {
        "m" if !number.contains('.') => scaled(number, 1),
        "" => scaled(number, 1000),
        _ => None,
    };
    match millis.ok_or_else(bad)? {
        // The kernel's smallest quota is 1 ms of its 100 ms period.
        0..10 => Err(format!("`{}` is less than 10m, the smallest share of a CPU", text.escape_debug())),
        millis if millis > 1_000_000 => Err(format!("`{}` is more than 1000 CPUs", text.escape_debug())),
        millis => Ok(millis),
    }
}

/// Milliseconds: `10` (seconds), `1.5s`, `500ms`, `2m`, `1h`, `1h30m`.
pub(crate) fn duration_millis(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is not a time such as `10s`, `500ms`, `2m` or `1h30m`", text.escape_debug());
    let mut rest = text;
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => 1,
            "" if digits == text.len() => 1000,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        total = scaled(number, factor).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

/// A decimal integer in a range; no sign, no space, no other base.
pub(crate) fn integer(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    digits(text).and_then(|number| number.parse().ok()).filter(|number| range.contains(number)).ok_or_else(|| {
        format!("`{}` is not a whole number from {} to {}", text.escape_debug(), range.start(), range.end())
    })
}

/// The number and its unit, if the text starts with a digit.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// `number` (digits, at most one point) times `factor`, in integers: no float rounds a limit.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = digits(whole)?.parse().ok()?;
    let fraction = digits(fraction).filter(|fraction| fraction.len() <= 9)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / 10_u128.pow(fraction.len() as u32);
    whole.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("64Mi", 64 << 20),
            ("64MiB", 64 << 20),
            ("64mb", 64 << 20),
            ("1.5G", 3 << 29),
            ("2Ti", 2 << 40),
            ("10B", 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "+1", "1X", "1 M", "1..5M", "1.M", ".5M", "0x10", "99999999999999999999T", "1e3"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(memory("4095").is_err());
        assert_eq!(memory("4Ki"), Ok(4096));
    }

    #[test]
    fn cpus() {
        for (text, millis) in [("500m", 500), ("0.5", 500), ("2", 2000), ("1.25", 1250), ("10m", 10)] {
            assert_eq!(cpu(text), Ok(millis), "{text}");
        }
        for bad in ["", "0", "5m", "0.001", "-1", "1.5m", "1001", "2x", "m"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("10", 10_000),
            ("1.5s", 1500),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration_millis(text), Ok(millis), "{text}");
        }
        for bad in ["", "s", "-1s", "1h30", "1x", "1 s", "999999999999999999999h"] {
            assert!(duration_millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn integers() {
        assert_eq!(integer("007", 0..=10), Ok(7));
        for bad in ["", "+1", "-1", "0x1", " 1", "1 ", "11", "99999999999999999999999"] {
            assert!(integer(bad, 0..=10).is_err(), "{bad}");
        }
    }
}
