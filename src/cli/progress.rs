//! How far a long transfer is: a bar on stderr, and only where somebody looks at one.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::settings::When;

const DRAWS_PER_SECOND: u8 = 10;
const TICK: Duration = Duration::from_millis(200);
const SHORT_BYTES_MAX: u64 = 4 << 20;
const BYTES: &str = "{msg}  {bar:30}  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
const BYTES_WITHOUT_END: &str = "{msg}  {bytes}  {bytes_per_sec}  {elapsed}";

/// Whether bars are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    drawn: bool,
}

impl Progress {
    pub fn new(when: When, quiet: bool) -> Self {
        Self::decide(when, quiet, std::io::stderr().is_terminal())
    }

    fn decide(when: When, quiet: bool, is_terminal: bool) -> Self {
        let drawn = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => is_terminal && !quiet,
        };
        Self { drawn }
    }

    /// Of one file; the length is not always known. A short one is done before a bar is looked at.
    pub fn bytes(self, label: &str, length: Option<u64>) -> Bar {
        if length.is_some_and(|length| length < SHORT_BYTES_MAX) {
            return Bar::hidden();
        }
        self.bar(label, length, if length.is_some() { BYTES } else { BYTES_WITHOUT_END })
    }

    fn bar(self, label: &str, length: Option<u64>, template: &str) -> Bar {
        if !self.drawn {
            return Bar::hidden();
        }
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        // The templates above are right, and a bar in the library's own style is no reason to fail a transfer.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(TICK);
        Bar { bar }
    }
}

/// One bar; it is gone when this is dropped.
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Runs `print` where the bar is not in the way.
    pub fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_terminals_unless_told_otherwise() {
        assert!(Progress::decide(When::Auto, false, true).drawn);
        assert!(!Progress::decide(When::Auto, false, false).drawn);
        assert!(!Progress::decide(When::Auto, true, true).drawn);
        assert!(Progress::decide(When::Always, true, false).drawn);
        assert!(!Progress::decide(When::Never, false, true).drawn);
    }

    #[test]
    fn the_templates_are_understood() {
        for template in [BYTES, BYTES_WITHOUT_END] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
