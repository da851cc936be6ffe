//! Splits a line of the shell into words, with quotes as a POSIX shell has them, and undoes the spelling `<write> f`.

use std::str::CharIndices;

/// Why a line cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("a backslash at the end has nothing to stand before")]
    TrailingBackslash,
}

/// A word and where in the line it begins, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub begin: usize,
    pub text: String,
}

/// The words of a line; none for a blank line and for a comment (`#` at the start of a word).
pub fn split(line: &str) -> Result<Vec<String>, BadLine> {
    let scan = Scan::of(line);
    scan.end?;
    Ok(scan.words.into_iter().chain(scan.last).map(|word| word.text).collect())
}

/// The words before the one that the line ends in, and that one: empty after a blank. For a line that is being typed.
pub fn unfinished(line: &str) -> (Vec<String>, Word) {
    let scan = Scan::of(line);
    let last = scan.last.unwrap_or(Word { begin: line.len(), text: String::new() });
    (scan.words.into_iter().map(|word| word.text).collect(), last)
}

#[derive(Debug)]
struct Scan {
    words: Vec<Word>,
    /// The word that the line ends in, if it does not end in a blank.
    last: Option<Word>,
    end: Result<(), BadLine>,
}

impl Scan {
    fn of(line: &str) -> Self {
        let mut scan = Self { words: Vec::new(), last: None, end: Ok(()) };
        let mut rest = line.char_indices();
        while let Some((index, c)) = rest.next() {
            match c {
                '#' if scan.last.is_none() => break,
                '\'' | '"' => scan.end = scan.quoted(c, index, &mut rest),
                '\\' => match rest.next() {
                    Some((_, c)) => scan.word(index).push(c),
                    None => {
                        scan.word(index);
                        scan.end = Err(BadLine::TrailingBackslash);
                    }
                },
                c if c.is_whitespace() => scan.words.extend(scan.last.take()),
                c => scan.word(index).push(c),
            }
        }
        scan
    }

    /// The word that is being read, which begins at `index` if none is.
    fn word(&mut self, index: usize) -> &mut String {
        &mut self.last.get_or_insert(Word { begin: index, text: String::new() }).text
    }

    fn quoted(&mut self, quote: char, index: usize, rest: &mut CharIndices<'_>) -> Result<(), BadLine> {
        let word = self.word(index);
        loop {
            let (_, c) = rest.next().ok_or(BadLine::OpenQuote)?;
            match c {
                c if c == quote => return Ok(()),
                // In double quotes a backslash stands only before what would otherwise be special.
                '\\' if quote == '"' => match rest.next().ok_or(BadLine::OpenQuote)?.1 {
                    c @ ('"' | '\\' | '$' | '`') => word.push(c),
                    c => word.extend(['\\', c]),
                },
                c => word.push(c),
            }
        }
    }
}

/// A word as it must be typed to be one word again.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command that a first word spells: `<write>` is `write`, and `quit` is what ends the shell.
pub fn command(word: &str) -> &str {
    word.strip_prefix('<').and_then(|word| word.strip_suffix('>')).filter(|word| !word.is_empty()).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).unwrap()
    }

    #[test]
    fn lines_are_split_as_a_shell_does() {
        assert_eq!(words("  write  /a b "), ["write", "/a", "b"]);
        assert_eq!(words("write 'a b' \"c 'd'\" e\\ f"), ["write", "a b", "c 'd'", "e f"]);
        assert_eq!(words(r#"x "a\"b\\c\n" ''"#), ["x", r#"a"b\c\n"#, ""]);
        assert_eq!(words("a'b'\"c\"d"), ["abcd"]);
        assert_eq!(words("ls # all of it"), ["ls"]);
        assert_eq!(words("ls a#b"), ["ls", "a#b"]);
        assert!(words(" \t ").is_empty() && words("# nothing").is_empty());
    }

    #[test]
    fn an_unfinished_line_is_refused() {
        for line in ["'a", "\"a", "\"a\\", "\"a\\\""] {
            assert_eq!(split(line), Err(BadLine::OpenQuote), "{line}");
        }
        assert_eq!(split("a\\"), Err(BadLine::TrailingBackslash));
    }

    #[test]
    fn a_line_that_is_being_typed_has_a_last_word() {
        let last = |line| {
            let (before, last) = unfinished(line);
            (before.len(), last.begin, last.text)
        };
        assert_eq!(last("read /a/b"), (1, 5, "/a/b".to_owned()));
        assert_eq!(last("read "), (1, 5, String::new()));
        assert_eq!(last(""), (0, 0, String::new()));
        assert_eq!(last("read 'a b"), (1, 5, "a b".to_owned()));
        assert_eq!(last("read 'a b'/c"), (1, 5, "a b/c".to_owned()));
        assert_eq!(last("<re"), (0, 0, "<re".to_owned()));
    }

    #[test]
    fn commands_may_be_spelled_in_angle_brackets() {
        assert_eq!(
            (command("<write>"), command("write"), command("<>"), command("<a")),
            ("write", "write", "<>", "<a")
        );
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_one_word_again(word in "\\PC*") {
            prop_assert_eq!(split(&quote(&word)), Ok(vec![word]));
        }

        #[test]
        fn whatever_a_line_holds_its_words_can_be_said_again(line in ".*") {
            if let Ok(words) = split(&line) {
                let again = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
                prop_assert_eq!(split(&again), Ok(words));
            }
        }
    }
}
