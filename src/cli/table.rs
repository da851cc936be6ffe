//! Columns for people: upper-case headers, two spaces between, no boxes, nothing after the last word of a line.

use std::io::{self, Write};

use jiff::tz::TimeZone;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub header: &'static str,
    pub align: Align,
    /// Only with `-o wide`.
    pub wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    /// Numbers.
    Right,
}

impl Column {
    pub const fn left(header: &'static str) -> Self {
        Self { header, align: Align::Left, wide: false }
    }

    pub const fn right(header: &'static str) -> Self {
        Self { header, align: Align::Right, wide: false }
    }

    pub const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// Prints rows in batches, so that a directory of a million entries needs no memory: the widths are those of the
/// longest cells so far.
pub struct Table {
    columns: Vec<Column>,
    /// Which cells of a row are printed.
    shown: Vec<bool>,
    widths: Vec<usize>,
    batch: Vec<Vec<String>>,
    header_printed: bool,
}

/// Rows that are laid out together.
const BATCH_ROWS: usize = 500;

impl Table {
    pub fn new(columns: &[Column], wide: bool) -> Self {
        let shown: Vec<bool> = columns.iter().map(|column| wide || !column.wide).collect();
        let columns: Vec<Column> = columns.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(c, _)| *c).collect();
        let widths = columns.iter().map(|column| width(column.header)).collect();
        Self { columns, shown, widths, batch: Vec::new(), header_printed: false }
    }

    /// The cells of all columns, the wide ones included.
    pub fn push(&mut self, cells: Vec<String>, out: &mut dyn Write) -> io::Result<()> {
        let cells: Vec<String> =
            cells.into_iter().zip(&self.shown).filter(|(_, shown)| **shown).map(|(cell, _)| printable(&cell)).collect();
        for (known, cell) in self.widths.iter_mut().zip(&cells) {
            *known = (*known).max(width(cell));
        }
        self.batch.push(cells);
        if self.batch.len() < BATCH_ROWS { Ok(()) } else { self.flush(out) }
    }

    /// Prints what is held back, and the header even when there are no rows.
    pub fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.header_printed {
            self.header_printed = true;
            let headers: Vec<String> = self.columns.iter().map(|column| column.header.to_owned()).collect();
            self.line(&headers, out)?;
        }
        for row in std::mem::take(&mut self.batch) {
            self.line(&row, out)?;
        }
        Ok(())
    }

    fn line(&self, cells: &[String], out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, column), known) in cells.iter().zip(&self.columns).zip(&self.widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(known.saturating_sub(width(cell)));
            match column.align {
                Align::Left => line.extend([cell.as_str(), padding.as_str()]),
                Align::Right => line.extend([padding.as_str(), cell.as_str()]),
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// Columns of a terminal that a text takes; close enough without tables of wide characters.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A name may hold anything but `/` and NUL: a line feed or an escape in it must not reach the terminal.
pub fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `937 B`, `1.5 MiB`.
pub fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    for unit in UNITS {
        // What would be rounded up to 1024.0 belongs to the next unit.
        if value < 1023.95 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} ZiB")
}

/// RFC 3339 in UTC, as in JSON; empty for 0, which is none.
pub fn rfc3339(millis: u64) -> String {
    time(millis).map(|time| time.to_string()).unwrap_or_default()
}

/// For tables: to the second, in UTC; `-` for none.
pub fn short_time(millis: u64) -> String {
    match time(millis) {
        Some(time) => time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "-".to_owned(),
    }
}

fn time(millis: u64) -> Option<jiff::Timestamp> {
    let millis = i64::try_from(millis).ok().filter(|millis| *millis > 0)?;
    jiff::Timestamp::from_millisecond(millis).ok()
}

/// `850ms`, `12s`, `3m05s`, `2h10m`, `3d04h`: an age, as short as it is useful.
pub fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Eight hexadecimal digits, as other tools print a CRC32C.
pub fn checksum(checksum: u32) -> String {
    format!("{checksum:08x}")
}

/// `-` for nothing.
pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [Column::left("NAME"), Column::right("SIZE"), Column::left("INODE").wide()];

    fn printed(wide: bool, rows: &[[&str; 3]]) -> String {
        let mut out = Vec::new();
        let mut table = Table::new(&COLUMNS, wide);
        for row in rows {
            table.push(row.iter().map(|cell| (*cell).to_owned()).collect(), &mut out).unwrap();
        }
        table.flush(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_two_spaces_apart_and_numbers_right() {
        let rows = [["a", "5 B", "7"], ["longer", "1.0 KiB", "12"]];
        assert_eq!(printed(false, &rows), "NAME       SIZE\na           5 B\nlonger  1.0 KiB\n");
        assert_eq!(printed(true, &rows), "NAME       SIZE  INODE\na           5 B  7\nlonger  1.0 KiB  12\n");
    }

    #[test]
    fn nothing_to_show_still_has_a_header() {
        assert_eq!(printed(false, &[]), "NAME  SIZE\n");
    }

    #[test]
    fn a_long_list_is_printed_as_it_comes() {
        let mut out = Vec::new();
        let mut table = Table::new(&COLUMNS, false);
        for _ in 0..BATCH_ROWS {
            table.push(vec!["a".to_owned(), "1 B".to_owned(), "2".to_owned()], &mut out).unwrap();
        }
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), BATCH_ROWS + 1);
        assert!(table.batch.is_empty());
    }

    #[test]
    fn a_name_cannot_write_on_the_terminal() {
        assert_eq!(printed(false, &[["a\n\x1b[31mb", "1 B", ""]]), "NAME            SIZE\na\\n\\u{1b}[31mb   1 B\n");
    }

    #[test]
    fn sizes_have_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(binary_size(bytes), text);
        }
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(short_time(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!((rfc3339(0).as_str(), short_time(0).as_str()), ("", "-"));
        assert_eq!(rfc3339(u64::MAX), "");
    }

    #[test]
    fn ages_are_short() {
        for (millis, text) in
            [(850, "850ms"), (12_000, "12s"), (185_000, "3m05s"), (7_800_000, "2h10m"), (273_600_000, "3d04h")]
        {
            assert_eq!(age(millis), text);
        }
    }
}
