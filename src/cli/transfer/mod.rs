//! `put` and `get`: files and trees between this machine and the store.
//!
//! Many files are done several at a time and in bounded memory. What fails is told at once and counted, and the others go
//! on; nothing that is there is replaced without `-f`.

mod get;
mod put;

use serde::Serialize;

pub use self::{
    get::{GetArguments, get},
    put::{PutArguments, put},
};
use super::{
    context::Context,
    error::{Error, Result},
    progress::Bar,
    table::binary_size,
};

/// What became of one file or directory.
enum Outcome {
    File { bytes: u64 },
    Directory,
}

/// What became of all.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tally {
    files: u64,
    directories: u64,
    bytes: u64,
    failed: u64,
}

impl Tally {
    /// Counts, and tells a failure on stderr without getting in the bar's way.
    fn count(&mut self, context: &mut Context, bar: &Bar, name: &str, outcome: Result<Outcome>) -> Result<()> {
        match outcome {
            Ok(Outcome::File { bytes }) => {
                self.files += 1;
                self.bytes += bytes;
                bar.advance(bytes);
            }
            Ok(Outcome::Directory) => self.directories += 1,
            Err(error @ (Error::BrokenPipe | Error::Signal { .. })) => return Err(error),
            Err(error) => {
                self.failed += 1;
                bar.suspended(|| context.output.failure_of(name, &error));
            }
        }
        Ok(())
    }

    fn sentence(&self, verb: &str) -> String {
        let files = if self.files == 1 { "1 file".to_owned() } else { format!("{} files", self.files) };
        format!("{verb} {files}, {}", binary_size(self.bytes))
    }

    /// Says it, and fails if something failed.
    fn finish(self, context: &mut Context, verb: &str) -> Result<()> {
        let sentence = self.sentence(verb);
        context.output.done(&self, &self.files.to_string(), &sentence)?;
        match self.failed {
            0 => Ok(()),
            failed => Err(Error::Partial { failed, total: failed + self.files + self.directories }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_said_and_printed() {
        let tally = Tally { files: 2, directories: 1, bytes: 2048, failed: 0 };
        assert_eq!(tally.sentence("put"), "put 2 files, 2.0 KiB");
        let value = serde_json::to_value(&tally).unwrap();
        assert_eq!(value, serde_json::json!({"files": 2, "directories": 1, "bytes": 2048, "failed": 0}));
    }
}
