//! `put` and `get`: files and trees between this machine and the store.
//!
//! Many files are done several at a time and in bounded memory. What fails is told at once and counted, and the others go
//! on; nothing that is there is replaced without `-f`.

mod get;
mod put;

use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::{
    get::{GetArguments, get},
    put::{PutArguments, put},
};
use super::{
    context::Context,
    error::{Error, Result},
    output::Format,
    progress::Bar,
    table::binary_size,
};

/// What became of one file or directory.
enum Outcome {
    File {
        bytes: u64,
        /// Its name where it is now.
        to: String,
    },
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
    /// The exit code of the first that failed.
    #[serde(skip)]
    first_code: u8,
}

/// Room in memory for the files that are under way, whatever `-j` says.
struct Room(Semaphore);

/// Each file counts with what a transfer of it may hold.
const ROOM_BYTES: u32 = 64 << 20;

impl Room {
    fn new() -> Self {
        Self(Semaphore::new(ROOM_BYTES as usize))
    }

    /// Waits until there is room for so many bytes, but never for more than there ever is.
    async fn take(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let bytes = u32::try_from(bytes).unwrap_or(ROOM_BYTES).min(ROOM_BYTES);
        self.0.acquire_many(bytes).await.map_err(|_| Error::Here("the transfer has ended".to_owned()))
    }
}

impl Tally {
    /// Counts, and tells a failure on stderr without getting in the bar's way.
    fn count(&mut self, context: &mut Context, bar: &Bar, name: &str, outcome: Result<Outcome>) -> Result<()> {
        match outcome {
            Ok(Outcome::File { bytes, to }) => {
                self.files += 1;
                self.bytes += bytes;
                bar.advance(bytes);
                if context.output.format() == Format::Name {
                    bar.suspended(|| context.output.line(&to))?;
                }
            }
            Ok(Outcome::Directory) => self.directories += 1,
            Err(error) if error.ends_all() => return Err(error),
            Err(error) => {
                if self.failed == 0 {
                    self.first_code = error.exit_code();
                }
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

    /// Says it, and fails if something failed: with the code of the first failure when nothing was done at all.
    fn finish(self, context: &mut Context, sentence: &str) -> Result<()> {
        if context.output.format() == Format::Name {
            context.output.flush()?;
        } else {
            context.output.done(&self, "", sentence)?;
        }
        match (self.failed, self.files + self.directories) {
            (0, _) => Ok(()),
            (_, 0) => Err(Error::Silent(self.first_code)),
            (failed, done) => Err(Error::Partial { failed, total: failed + done }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_many_files_there_are_they_share_the_room() {
        let room = Room::new();
        let half = room.take(u64::from(ROOM_BYTES / 2)).await.unwrap();
        let all = futures::FutureExt::now_or_never(room.take(u64::MAX));
        assert!(all.is_none());
        drop(half);
        assert!(futures::FutureExt::now_or_never(room.take(u64::MAX)).is_some_and(|taken| taken.is_ok()));
    }

    #[test]
    fn a_tally_is_said_and_printed() {
        let tally = Tally { files: 2, directories: 1, bytes: 2048, ..Tally::default() };
        assert_eq!(tally.sentence("put"), "put 2 files, 2.0 KiB");
        let value = serde_json::to_value(&tally).unwrap();
        assert_eq!(value, serde_json::json!({"files": 2, "directories": 1, "bytes": 2048, "failed": 0}));
    }
}
