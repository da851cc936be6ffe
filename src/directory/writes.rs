//! Write ids: a mutation that was applied answers a retry as it did the first time, for an hour.
//!
//! Rejections are not remembered: a retry is judged anew.

use crate::types::{Path, WriteId, WriteMode, crc32c};

use super::{
    command::{Command, Outcome},
    error::{Error, Rejected, StorageError},
    model::WriteRecord,
    tables::Tables,
};

/// Who asks, and a checksum of what for: the same id for something else is a client's mistake that must not be
/// answered with the outcome of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    write_id: WriteId,
    fingerprint: u32,
}

impl Asked {
    /// `None` for commands that carry no write id.
    pub fn of(command: &Command) -> Option<Self> {
        let (write_id, kind, paths, numbers): (_, u8, [Option<&Path>; 2], [u64; 3]) = match command {
            Command::CreateDirectory { write_id, path, .. } => (write_id, 1, [Some(path), None], [0; 3]),
            Command::UpdateEntry { write_id, path, .. } => (write_id, 2, [Some(path), None], [0; 3]),
            Command::MoveEntry { write_id, from, to, .. } => (write_id, 3, [Some(from), Some(to)], [0; 3]),
            Command::CopyEntry { write_id, from, to, from_version, .. } => {
                (write_id, 4, [Some(from), Some(to)], [from_version.unwrap_or_default().0, 0, 0])
            }
            Command::DeleteEntry { write_id, path, .. } => (write_id, 5, [Some(path), None], [0; 3]),
            Command::RestoreVersion { write_id, path, version, .. } => {
                (write_id, 6, [Some(path), None], [version.0, 0, 0])
            }
            Command::CommitWrite { commit, .. } => {
                // Blobs, epoch and primary are another's when the write was tried again elsewhere; the data is not.
                let length = commit.pieces.iter().map(|(_, length)| length).sum();
                let (mode, offset) = match commit.mode {
                    WriteMode::Replace => (7, 0),
                    WriteMode::Append => (8, 0),
                    WriteMode::Patch { offset } => (9, offset),
                };
                (&commit.write_id, mode, [Some(&commit.path), None], [length, u64::from(commit.checksum), offset])
            }
            Command::Bootstrap { .. }
            | Command::ChangeSettings { .. }
            | Command::MoveGroup { .. }
            | Command::DropArriving { .. }
            | Command::PassLead { .. }
            | Command::DrainServer { .. }
            | Command::ResumeServer { .. }
            | Command::RemoveServer { .. }
            | Command::ConfirmEmptied { .. }
            | Command::Rebalance { .. }
            | Command::MergeExtents { .. }
            | Command::SettleBlob { .. }
            | Command::RaiseFence { .. }
            | Command::RegisterServer { .. }
            | Command::ForgetNode { .. }
            | Command::MarkDown { .. }
            | Command::MarkUp { .. }
            | Command::MarkReadOnly { .. }
            | Command::MarkWritable { .. }
            | Command::SpreadPrimaries { .. }
            | Command::EvictReplica { .. }
            | Command::AddInSync { .. }
            | Command::ConfirmDeleted { .. }
            | Command::Collect { .. } => return None,
        };
        let mut bytes = vec![kind];
        for path in paths.into_iter().flatten() {
            bytes.extend_from_slice(path.as_str().as_bytes());
            bytes.push(0);
        }
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Some(Self { write_id: *write_id, fingerprint: crc32c(&bytes) })
    }
}

/// What came of it, if it was applied before.
pub(super) fn recall(tables: &Tables, asked: Asked) -> Result<Option<Outcome>, Error> {
    match tables.writes.get(asked.write_id.0.as_u128())? {
        None => Ok(None),
        Some(record) if record.fingerprint == asked.fingerprint => Ok(Some(record.outcome)),
        Some(_) => Err(Rejected::WriteIdReused.into()),
    }
}

pub(super) fn remember(tables: &mut Tables, asked: Asked, outcome: &Outcome) -> Result<(), StorageError> {
    let key = asked.write_id.0.as_u128();
    let record = WriteRecord { time: tables.time, fingerprint: asked.fingerprint, outcome: outcome.clone() };
    tables.writes.put(key, &record)?;
    tables.write_times.insert((tables.time.0, key), ())?;
    Ok(())
}
