//! Answers on stdout: tables for people, JSON for programs. Text that came from an image or a user is escaped where it is put
//! in; what is forgotten there is escaped on the way out.

use crate::arguments::commands::Format;
use crate::escape::{escape, escape_json, escape_lines};
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;

/// Writes text to stdout, without control characters but line ends and tabs. A reader that went away (`pod list | head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    write(&escape_lines(text))
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to stdout"),
    }
}

/// A line on stderr that is neither an answer nor an error.
pub(crate) fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape(text)); // Nobody is left to tell.
}

/// Writes JSON to stdout, with a newline.
pub(crate) fn print_json<T: Serialize>(value: &T, format: Format) -> Result<()> {
    let text = match format {
        Format::JsonPretty => serde_json::to_string_pretty(value),
        _ => serde_json::to_string(value),
    };
    write(&format!("{}\n", escape_json(&text.context("write JSON")?)))
}

/// A table: columns as wide as their widest cell, two spaces between them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With titles, unless they are not wanted.
    pub(crate) fn new(titles: &[&str], no_legend: bool) -> Self {
        let mut table = Self::default();
        if !no_legend {
            table.rows.push(titles.iter().map(|title| (*title).to_owned()).collect());
        }
        table
    }

    /// Adds a row; cells are escaped here.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| escape(&cell).into_owned()).collect());
    }

    /// The text of the table.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let start = text.len();
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
        text
    }
}

/// `3 minutes ago`, or with `full` the time itself.
pub(crate) fn time(unix_secs: Option<u64>, now_unix_secs: u64, full: bool) -> String {
    let Some(secs) = unix_secs else { return "-".to_owned() };
    if full {
        let stamp = i64::try_from(secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
        return stamp.map_or_else(|| secs.to_string(), |stamp| stamp.to_string());
    }
    let (amount, unit) = match now_unix_secs.saturating_sub(secs) {
        age @ 0..60 => (age, "second"),
        age @ 60..3600 => (age / 60, "minute"),
        age @ 3600..86_400 => (age / 3600, "hour"),
        age => (age / 86_400, "day"),
    };
    format!("{amount} {unit}{} ago", if amount == 1 { "" } else { "s" })
}

/// `1.5 MiB`, or with `full` the number itself.
pub(crate) fn size(bytes: u64, full: bool) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if full || bytes < 1024 {
        return if full { bytes.to_string() } else { format!("{bytes} B") };
    }
    let power = (bytes.ilog2() / 10).min(4);
    let tenths = (u128::from(bytes) * 10) >> (power * 10);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_escape() {
        let mut table = Table::new(&["A", "LONG"], false);
        table.row(["x\x1b".to_owned(), "1".to_owned()]);
        assert_eq!(
            table.render(),
            "A         LONG\nx\\u{1b}   1\n".replace("x\\u{1b}   ", "x\\u{1b}  ").replace("A         ", "A        ")
        );
        assert_eq!(Table::new(&["A"], true).render(), "");
    }

    #[test]
    fn times_and_sizes() {
        for (secs, expected) in
            [(100, "0 seconds ago"), (99, "1 second ago"), (40, "1 minute ago"), (0, "1 minute ago")]
        {
            assert_eq!(time(Some(secs), 100, false), expected);
        }
        assert_eq!(time(Some(0), 200_000, false), "2 days ago");
        assert_eq!(time(Some(0), 0, true), "1970-01-01T00:00:00Z");
        assert_eq!(time(None, 0, false), "-");
        for (bytes, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (u64::MAX, "16777215.9 TiB")]
        {
            assert_eq!(size(bytes, false), expected);
        }
        assert_eq!(size(1536, true), "1536");
    }
}
