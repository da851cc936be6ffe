//! Colour where it helps a person, and only on a terminal.

use super::settings::When;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    out: bool,
    words: bool,
}

impl Palette {
    pub fn for_streams(when: When, out_is_terminal: bool, words_is_terminal: bool) -> Self {
        match when {
            When::Auto => Self { out: out_is_terminal, words: words_is_terminal },
            When::Always => Self { out: true, words: true },
            When::Never => Self { out: false, words: false },
        }
    }

    /// Whether results are painted at all.
    pub fn paints(self) -> bool {
        self.out
    }

    fn paint(on: bool, code: &str, text: &str) -> String {
        if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn failure(self, text: &str) -> String {
        Self::paint(self.words, "31", text)
    }

    pub fn good(self, text: &str) -> String {
        Self::paint(self.out, "32", text)
    }

    pub fn warning(self, text: &str) -> String {
        Self::paint(self.out, "33", text)
    }

    pub fn bad(self, text: &str) -> String {
        Self::paint(self.out, "31", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_colour_off_a_terminal() {
        assert_eq!(Palette::for_streams(When::Auto, false, true).good("OK"), "OK");
        assert_eq!(Palette::for_streams(When::Auto, true, false).good("OK"), "\x1b[32mOK\x1b[0m");
        assert_eq!(Palette::for_streams(When::Never, true, true).bad("ERROR"), "ERROR");
    }
}
