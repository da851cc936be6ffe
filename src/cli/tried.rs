//! Commands over several things: each is tried, whatever became of the others.

use super::{
    error::{Error, Result, exit},
    output::Output,
};

/// Several things that one command was asked for: what fails is told at once, and the others go on.
pub struct Tried {
    asked: usize,
    done: u64,
    failed: u64,
    first_code: u8,
}

impl Tried {
    pub fn new(asked: usize) -> Self {
        Self { asked, done: 0, failed: 0, first_code: exit::OK }
    }

    /// `None`: it failed, and that was told. What ends the whole command is passed on, and so is the failure of the only
    /// thing that was asked for.
    pub fn count<T>(&mut self, output: &mut Output, name: &str, tried: Result<T>) -> Result<Option<T>> {
        match tried {
            Ok(value) => {
                self.done += 1;
                Ok(Some(value))
            }
            Err(error) if self.asked == 1 || error.ends_all() => Err(error),
            Err(error) => {
                if self.failed == 0 {
                    self.first_code = error.exit_code();
                }
                self.failed += 1;
                output.failure_of(name, &error);
                Ok(None)
            }
        }
    }

    /// Partial when some of it was done; when nothing was, the code of the first failure.
    pub fn finish(self) -> Result<()> {
        match (self.done, self.failed) {
            (_, 0) => Ok(()),
            (0, _) => Err(Error::Silent(self.first_code)),
            (done, failed) => Err(Error::Partial { failed, total: done + failed }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, tests::printed};

    #[test]
    fn many_that_were_tried_end_with_what_became_of_them() {
        let tried = |results: Vec<Result<()>>| {
            let mut code = 0;
            printed(Format::Table, |output| {
                let mut tried = Tried::new(results.len());
                let counted = results.into_iter().try_for_each(|result| tried.count(output, "it", result).map(drop));
                code = counted.and_then(|()| tried.finish()).map_or_else(|error| error.exit_code(), |()| 0);
            });
            code
        };
        let usage = || Err(Error::Usage(String::new()));
        assert_eq!(tried(vec![Ok(()), Ok(())]), 0);
        assert_eq!(tried(vec![Ok(()), usage()]), 9);
        assert_eq!(tried(vec![usage(), Err(Error::Here(String::new()))]), 2);
        assert_eq!(tried(vec![usage()]), 2);
        assert_eq!(tried(vec![Ok(()), Err(Error::Signal { signal: 2 }), usage()]), 130);
    }
}
