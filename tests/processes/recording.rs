//! Each call of the clients and its answer, in the words of the checker of histories, which judges them when the faults are
//! over: every file must have behaved as a single copy would, and every lock must have had one holder.

use std::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use dfs::{
    check::{
        Bounds, check,
        history::{Call, Condition, Data, Digest, Moment, Operation, Outcome},
    },
    client::{Entry, Error, Receipt},
    status::Reason,
    types::{Path, Precondition, Version},
};

/// For each file. Appends of unknown end, of which the answers of the others say little, may need more.
const BOUNDS: Bounds = Bounds { steps_max: 2_000_000, configurations_max: 1_000_000 };

pub struct Recording {
    began: Instant,
    calls: Mutex<Vec<Call>>,
}

impl Default for Recording {
    fn default() -> Self {
        Self { began: Instant::now(), calls: Mutex::default() }
    }
}

impl Recording {
    pub fn now(&self) -> Moment {
        Moment(self.began.elapsed().as_nanos() as u64)
    }

    /// A call that began at `invoked` and has just ended.
    pub fn record(&self, client: u64, path: &Path, invoked: Moment, operation: Operation, outcome: Outcome) {
        let mut calls = self.calls();
        let (number, client) = (calls.len() as u64, client as u32);
        let returned = self.now();
        let (path, write_id) = (path.clone(), None);
        calls.push(Call { number, client, path, invoked, returned, write_id, operation, outcome });
    }

    /// At this moment the client knows that it has the lock.
    pub fn record_hold(&self, client: u64, path: &Path, token: dfs::types::FencingToken) {
        self.record(client, path, self.now(), Operation::Hold { token }, Outcome::Done);
    }

    /// Fails if no single copy, or no single holder, could have given these answers. What cannot be decided is printed.
    pub fn expect_explained(&self) {
        let calls = self.calls();
        let began = Instant::now();
        let report = check(&calls, BOUNDS);
        let undecided: Vec<&str> = report.undecided.iter().map(Path::as_str).collect();
        println!(
            "{} calls on {} files checked in {:.1?}; undecided: {undecided:?}",
            calls.len(),
            report.path_count,
            began.elapsed()
        );
        for violation in &report.violations {
            println!("{}: {}", violation.path, violation.kind);
            violation.calls.iter().for_each(|call| println!("  {call}"));
        }
        assert!(report.violations.is_empty(), "the answers contradict each other");
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().expect("no client has panicked")
    }
}

pub fn condition(precondition: &Precondition) -> Condition {
    Condition { if_version: precondition.if_version, token: precondition.fencing_token }
}

/// Bytes too many to keep.
pub fn digest(bytes: &[u8]) -> Data {
    let Digest { size, crc32c } = Digest::of(bytes);
    Data::Digest { size, crc32c }
}

pub fn found(entry: &Entry, bytes: &[u8]) -> Outcome {
    let Digest { size, crc32c } = Digest::of(bytes);
    Outcome::Found { version: entry.version, revision: entry.revision, size, crc32c }
}

pub fn written(result: &Result<Receipt, Error>) -> Outcome {
    match result {
        Ok(receipt) => Outcome::Written {
            version: receipt.version,
            revision: receipt.revision,
            size: receipt.size,
            crc32c: receipt.checksum,
            offset: receipt.offset,
        },
        Err(error) => failed(error),
    }
}

pub fn failed(error: &Error) -> Outcome {
    let reason = error.reason().to_string();
    if error.may_have_taken_effect() {
        return Outcome::Unknown { reason };
    }
    let current = error.metadata("current").filter(|_| error.reason() == Reason::VersionMismatch);
    Outcome::Refused { reason, current: current.and_then(|current| current.parse().ok()).map(Version) }
}

#[test]
fn a_read_of_what_was_replaced_before_it_began_is_found() {
    let recording = Recording::default();
    let path: Path = "/a".parse().expect("a good path");
    let write = |version: u64, data: &[u8]| {
        let Digest { size, crc32c } = Digest::of(data);
        let revision = dfs::types::Revision(version);
        let condition = Condition { if_version: Some(Version(version - 1)), token: None };
        let written = Outcome::Written { version: Version(version), revision, size, crc32c, offset: 0 };
        recording.record(1, &path, recording.now(), Operation::Replace { data: digest(data), condition }, written);
    };
    write(1, b"old");
    write(2, b"new");
    recording.expect_explained();
    let Digest { size, crc32c } = Digest::of(b"old");
    let stale = Outcome::Found { version: Version(1), revision: dfs::types::Revision(1), size, crc32c };
    recording.record(2, &path, recording.now(), Operation::Read, stale);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| recording.expect_explained()));
    assert!(checked.is_err());
}
