//! How results are printed: for people as tables, for programs as JSON, which is a stable contract of its own.
//!
//! JSON has lower-camel-case names, plain integers and RFC 3339 times in UTC, unlike proto3's JSON, which prints 64-bit
//! numbers as strings. Results go to stdout, words about them to stderr.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde::{Serialize, Serializer};

use super::{
    error::{Error, ErrorObject, Result},
    palette::Palette,
    settings::When,
    table::{self, Column, Table},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON value, indented
    Json,
    /// One JSON object a line
    Jsonl,
    /// Names only, one a line
    Name,
}

impl Format {
    /// Whether programs read it.
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// Something that is printed as one of many.
pub trait Row: Serialize {
    const COLUMNS: &'static [Column];
    /// One cell a column, the wide ones included.
    fn cells(&self) -> Vec<String>;
    fn name(&self) -> String;
}

/// Something that is printed by itself.
pub trait Details: Serialize {
    /// What people read, a label and a value a line; a value that is empty is left out.
    fn lines(&self) -> Vec<(&'static str, String)>;
    fn name(&self) -> String;
}

/// What one change of many did.
pub struct Done<T> {
    pub value: T,
    pub name: String,
    pub sentence: String,
}

/// The two streams of a command.
pub struct Output {
    format: Format,
    quiet: bool,
    out: BufWriter<Box<dyn Write + Send>>,
    words: Box<dyn Write + Send>,
    palette: Palette,
}

impl Output {
    /// The process's own.
    pub fn standard(format: Format, quiet: bool, color: When) -> Self {
        let palette = Palette::for_streams(color, io::stdout().is_terminal(), io::stderr().is_terminal());
        Self { format, quiet, out: BufWriter::new(Box::new(io::stdout())), words: Box::new(io::stderr()), palette }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn palette(&self) -> Palette {
        self.palette
    }

    /// Rows that come one by one.
    pub fn rows<R: Row>(&mut self) -> Rows<'_, R> {
        let table = matches!(self.format, Format::Table | Format::Wide)
            .then(|| Table::new(R::COLUMNS, self.format == Format::Wide));
        Rows { output: self, table, count: 0, ended: false, row: std::marker::PhantomData }
    }

    /// Rows that are all there.
    pub fn all<R: Row>(&mut self, rows: impl IntoIterator<Item = R>) -> Result<()> {
        let mut printed = self.rows();
        for row in rows {
            printed.push(&row)?;
        }
        printed.finish()
    }

    pub fn details<D: Details>(&mut self, details: &D) -> Result<()> {
        match self.format {
            Format::Json => self.json(details, true)?,
            Format::Jsonl => self.json(details, false)?,
            Format::Name => writeln!(self.out, "{}", details.name())?,
            Format::Table | Format::Wide => {
                let lines: Vec<_> = details.lines().into_iter().filter(|(_, value)| !value.is_empty()).collect();
                let width = lines.iter().map(|(label, _)| label.len() + 1).max().unwrap_or(0);
                for (label, value) in lines {
                    writeln!(self.out, "{:width$}  {}", format!("{label}:"), table::printable(&value))?;
                }
            }
        }
        self.flush()
    }

    /// What a change did: a sentence for people (a word about it, so on stderr), the object for programs.
    pub fn done<T: Serialize>(&mut self, value: &T, name: &str, sentence: &str) -> Result<()> {
        match self.format {
            Format::Json => self.json(value, true)?,
            Format::Jsonl => self.json(value, false)?,
            Format::Name => writeln!(self.out, "{name}")?,
            // One line, whatever the name in it is.
            Format::Table | Format::Wide => self.say(&table::printable(sentence))?,
        }
        self.flush()
    }

    /// What each change of many did; in JSON one list.
    pub fn done_many<T: Serialize>(&mut self, done: &[Done<T>]) -> Result<()> {
        if done.is_empty() {
            return Ok(());
        }
        match self.format {
            Format::Json => self.json(&done.iter().map(|done| &done.value).collect::<Vec<_>>(), true)?,
            Format::Jsonl => done.iter().try_for_each(|done| self.json(&done.value, false))?,
            Format::Name => done.iter().try_for_each(|done| self.line(&done.name))?,
            Format::Table | Format::Wide => {
                done.iter().try_for_each(|done| self.say(&table::printable(&done.sentence)))?;
            }
        }
        self.flush()
    }

    /// One of a feed without an end: an object a line.
    pub fn object_line<T: Serialize>(&mut self, value: &T) -> Result<()> {
        self.json(value, false)
    }

    fn json<T: Serialize>(&mut self, value: &T, indented: bool) -> Result<()> {
        if indented {
            serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
        } else {
            serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        }
        Ok(writeln!(self.out)?)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.out.write_all(bytes)?)
    }

    pub fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "{line}")?)
    }

    /// A word on stderr, unless `-q`.
    pub fn say(&mut self, words: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        // Results that were printed before come before.
        self.out.flush()?;
        let mut lines = words.lines();
        lines
            .try_for_each(|line| writeln!(self.words, "{}", table::printable(line)))
            .map_err(Error::local("standard error"))
    }

    /// A failure on stderr: one line, or an object with `-o json`.
    pub fn failure(&mut self, error: &Error) {
        self.tell(error.object(), &error.line());
    }

    /// One failure of many, while the others go on.
    pub fn failure_of(&mut self, name: &str, error: &Error) {
        self.tell(ErrorObject { subject: Some(name.to_owned()), ..error.object() }, &error.line_about(name));
    }

    fn tell(&mut self, object: ErrorObject, line: &str) {
        // There is nobody left to tell when these fail.
        drop(self.out.flush());
        let line = self.palette.failure(&format!("dfs-cli: {}", table::printable(line)));
        drop(match serde_json::to_string(&object) {
            Ok(object) if self.format.is_json() => writeln!(self.words, "{object}"),
            _ => writeln!(self.words, "{line}"),
        });
    }

    pub fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }
}

/// Rows on their way out. Dropped before their end, what came before is printed whole, and a list in JSON is closed.
pub struct Rows<'a, R> {
    output: &'a mut Output,
    table: Option<Table>,
    count: u64,
    ended: bool,
    row: std::marker::PhantomData<R>,
}

impl<R: Row> Rows<'_, R> {
    pub fn push(&mut self, row: &R) -> Result<()> {
        let out = &mut self.output.out;
        match (self.output.format, &mut self.table) {
            (Format::Name, _) => writeln!(out, "{}", row.name())?,
            (Format::Jsonl, _) => {
                serde_json::to_writer(&mut *out, row).map_err(io::Error::from)?;
                writeln!(out)?;
            }
            (_, Some(table)) => table.push(row.cells(), out)?,
            (_, None) => {
                write!(out, "{}", if self.count == 0 { "[\n  " } else { ",\n  " })?;
                serde_json::to_writer(&mut *out, row).map_err(io::Error::from)?;
            }
        }
        self.count += 1;
        Ok(())
    }

    pub fn finish(mut self) -> Result<()> {
        self.end()
    }
}

impl<R> Rows<'_, R> {
    /// What has come so far, for a stream that goes on.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(table) = &mut self.table {
            table.flush(&mut self.output.out)?;
        }
        self.output.flush()
    }

    fn end(&mut self) -> Result<()> {
        self.ended = true;
        if self.output.format == Format::Json {
            writeln!(self.output.out, "{}", if self.count == 0 { "[]" } else { "\n]" })?;
        }
        self.flush()
    }
}

impl<R> Drop for Rows<'_, R> {
    fn drop(&mut self) {
        if !self.ended && self.count > 0 {
            // Why there are no more of them is told already, or will be.
            drop(self.end());
        }
    }
}

/// Milliseconds since the Unix epoch, as RFC 3339 in JSON; `null` for 0, which is none.
pub fn as_rfc3339<S: Serializer>(millis: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match table::rfc3339(*millis) {
        text if text.is_empty() => serializer.serialize_none(),
        text => serializer.serialize_str(&text),
    }
}

/// A CRC32C, as eight hexadecimal digits in JSON.
pub fn as_hex<S: Serializer>(checksum: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&table::checksum(*checksum))
}

#[cfg(test)]
pub mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what was written, to be looked at.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// What `print` puts on stdout and on stderr.
    pub fn printed(format: Format, print: impl FnOnce(&mut Output)) -> (String, String) {
        let (out, words) = (Kept::default(), Kept::default());
        let mut output = Output {
            format,
            quiet: false,
            out: BufWriter::new(Box::new(out.clone())),
            words: Box::new(words.clone()),
            palette: Palette::for_streams(When::Never, false, false),
        };
        print(&mut output);
        drop(output);
        (out.text(), words.text())
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Animal {
        common_name: String,
        legs: u64,
        #[serde(serialize_with = "as_rfc3339")]
        seen_time: u64,
    }

    impl Row for Animal {
        const COLUMNS: &'static [Column] = &[Column::left("NAME"), Column::right("LEGS")];

        fn cells(&self) -> Vec<String> {
            vec![self.common_name.clone(), self.legs.to_string()]
        }

        fn name(&self) -> String {
            self.common_name.clone()
        }
    }

    fn some_animals() -> [Animal; 2] {
        [
            Animal { common_name: "ant".to_owned(), legs: 6, seen_time: 1000 },
            Animal { common_name: "crab".to_owned(), legs: u64::MAX, seen_time: 0 },
        ]
    }

    fn listed(format: Format) -> String {
        printed(format, |output| output.all(some_animals()).unwrap()).0
    }

    #[test]
    fn a_list_is_printed_in_each_format() {
        assert_eq!(
            listed(Format::Table),
            "NAME                  LEGS\nant                      6\ncrab  18446744073709551615\n"
        );
        assert_eq!(listed(Format::Name), "ant\ncrab\n");
        let lines = "{\"commonName\":\"ant\",\"legs\":6,\"seenTime\":\"1970-01-01T00:00:01Z\"}\n\
                     {\"commonName\":\"crab\",\"legs\":18446744073709551615,\"seenTime\":null}\n";
        assert_eq!(listed(Format::Jsonl), lines);
    }

    #[test]
    fn a_list_in_json_is_one_value_even_when_empty() {
        let value: serde_json::Value = serde_json::from_str(&listed(Format::Json)).unwrap();
        assert_eq!(value.as_array().map(Vec::len), Some(2));
        assert_eq!(value[1]["legs"], u64::MAX);
        assert_eq!(printed(Format::Json, |output| output.all(Vec::<Animal>::new()).unwrap()).0, "[]\n");
    }

    #[test]
    fn words_and_failures_go_to_stderr() {
        let error = Error::Usage("no".to_owned());
        let (out, words) = printed(Format::Table, |output| output.failure(&error));
        assert_eq!((out.as_str(), words.as_str()), ("", "dfs-cli: USAGE: no\n"));
        let (out, words) = printed(Format::Json, |output| output.failure(&error));
        let object: serde_json::Value = serde_json::from_str(&words).unwrap();
        assert_eq!((out.as_str(), &object["exitCode"]), ("", &serde_json::json!(2)));
    }

    #[test]
    fn a_list_that_breaks_off_is_a_list_all_the_same() {
        let [ant, bee] = some_animals();
        let broken_off = |format| {
            printed(format, |output| {
                let mut rows = output.rows();
                rows.push(&ant).unwrap();
                rows.push(&bee).unwrap();
                drop(rows);
                output.failure(&Error::Usage("no".to_owned()));
            })
            .0
        };
        let list: serde_json::Value = serde_json::from_str(&broken_off(Format::Json)).unwrap();
        assert_eq!(list.as_array().map(Vec::len), Some(2));
        assert_eq!(broken_off(Format::Table).lines().count(), 3);
        let (out, _) = printed(Format::Json, |output| drop(output.rows::<Animal>()));
        assert_eq!(out, "", "nothing came, and why is told");
    }

    #[test]
    fn words_may_have_lines_and_nothing_else_that_moves_the_cursor() {
        let (_, words) = printed(Format::Table, |output| output.say("one\ntwo\x1b[2J").unwrap());
        assert_eq!(words, "one\ntwo\\u{1b}[2J\n");
    }

    #[test]
    fn what_was_done_is_a_word_for_people_and_a_result_for_programs() {
        let [ant, _] = some_animals();
        let (out, words) = printed(Format::Table, |output| output.done(&ant, "ant", "saw an ant").unwrap());
        assert_eq!((out.as_str(), words.as_str()), ("", "saw an ant\n"));
        let (_, words) = printed(Format::Table, |output| output.done(&ant, "ant", "saw a\nbee").unwrap());
        assert_eq!(words, "saw a\\nbee\n");
        let (out, words) = printed(Format::Jsonl, |output| output.done(&ant, "ant", "saw an ant").unwrap());
        assert!(out.starts_with("{\"commonName\"") && words.is_empty());
        assert_eq!(printed(Format::Name, |output| output.done(&ant, "ant", "").unwrap()).0, "ant\n");
    }
}
