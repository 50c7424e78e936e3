//! Signal names.

const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3` (what systemd wants to shut down).
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    let bad = || format!("`{}` is not a signal", text.escape_debug());
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return super::number::integer(text, 1..=64).map(|number| number as i32).map_err(|_| bad());
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    // The C library keeps 32 and 33 for itself, so SIGRTMIN is 34 for every program that the number is for.
    let offset = |text: &str| super::number::integer(text, 0..=30).map(|number| number as i32).map_err(|_| bad());
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Ok(34),
        (_, Some("")) => Ok(64),
        (Some(rest), _) => rest.strip_prefix('+').ok_or_else(bad).and_then(offset).map(|number| 34 + number),
        (_, Some(rest)) => rest.strip_prefix('-').ok_or_else(bad).and_then(offset).map(|number| 64 - number),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("sigrtmax-1", 63),
            ("RTMIN", 34),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIG", "SIGFOO", "RTMIN+31", "RTMIN3", "-9", "+9"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
