//! Requests of the Directory and Cluster services as commands.
//!
//! What is refused here can never be right, whatever the state: malformed fields, and numbers of things past the limits
//! that keep one call's work small. Everything else is for the state to judge.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use super::{
    command::{AttributeChanges, Command, Patched, Registration, ServerKind, WriteCommit},
    damage::StoreReport,
};
use crate::{
    convert::{
        blob_id, extents, incarnation, optional_timestamp, path, precondition, required, server_id, store_id,
        timestamp, write_id, write_mode,
    },
    pb,
    status::Failure,
    types::{
        BLOB_LENGTH_MAX, BlobId, Epoch, FencingToken, GroupId, INCARNATIONS_MAX, Incarnation, Inode, LockServiceId,
        Version, WriteMode,
    },
};

/// Commits in one call.
pub const COMMITS_MAX: usize = 1024;
/// Blobs in one call of `SettleBlobs`, and deletions confirmed by one beat.
pub const BLOBS_MAX: usize = 10_000;
/// Blobs of one write: as many as a version may have extents.
const PIECES_MAX: usize = 1024;
/// Lost blobs that one beat names.
const LOST_BLOBS_MAX: usize = 100;
/// Groups in one report.
const REPORTED_GROUPS_MAX: usize = 65_536;
/// Permission bits, set-uid, set-gid and sticky included.
const MODE_MAX: u32 = 0o7777;
const DIRECTORY_MODE_DEFAULT: u32 = 0o755;
const FILE_MODE_DEFAULT: u32 = 0o644;
/// Owners, zones, addresses, versions of software, names of extended attributes.
const TEXT_LENGTH_MAX: usize = 255;
/// All extended attributes of one entry together, names and values: what Linux allows for one value.
const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

fn at_most(field: &str, count: usize, max: usize) -> Result<(), Failure> {
    if count <= max {
        return Ok(());
    }
    Err(Failure::bad_argument(field, format_args!("{count} are too many, at most {max} fit one call")).with("max", max))
}

/// Short, and fit to be printed.
fn text(field: &str, text: &str) -> Result<String, Failure> {
    if text.len() > TEXT_LENGTH_MAX || text.chars().any(char::is_control) {
        return Err(Failure::bad_argument(
            field,
            format_args!("a text has at most {TEXT_LENGTH_MAX} bytes and no control characters"),
        ));
    }
    Ok(text.to_owned())
}

/// What a server says for people to read: what does not fit is cut off, since a beat must not fail for it.
pub fn remark(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_LENGTH_MAX.min(text.len()));
    text.get(..end).unwrap_or_default().replace(char::is_control, " ")
}

/// One that says nothing of its copies has nothing to report.
pub fn store_report(report: Option<&pb::StoreReport>) -> Result<StoreReport, Failure> {
    let Some(report) = report else { return Ok(StoreReport::default()) };
    let lost = report.lost_blobs.iter().take(LOST_BLOBS_MAX);
    Ok(StoreReport {
        damaged_chunks: report.damaged_chunk_count,
        repaired_chunks: report.repaired_chunk_count,
        last_repair: optional_timestamp("store_report.last_repair_time", report.last_repair_time.as_ref())?,
        lost_blobs: report.lost_blob_count,
        lost: lost.map(|blob| blob_id("store_report.lost_blobs", blob)).collect::<Result<_, _>>()?,
        under_replicated_blobs: report.under_replicated_blob_count,
    })
}

/// 0 is the default.
fn mode(field: &str, mode: u32, default: u32) -> Result<u32, Failure> {
    match mode {
        0 => Ok(default),
        1..=MODE_MAX => Ok(mode),
        _ => Err(Failure::bad_argument(field, "permission bits go up to 07777")),
    }
}

/// 0 is none.
pub fn optional_version(version: u64) -> Option<Version> {
    (version != 0).then_some(Version(version))
}

pub fn create_directory(request: &pb::CreateDirectoryRequest) -> Result<Command, Failure> {
    Ok(Command::CreateDirectory {
        write_id: write_id("write_id", &request.write_id)?,
        path: path("path", &request.path)?,
        parents: request.parents,
        mode: mode("mode", request.mode, DIRECTORY_MODE_DEFAULT)?,
    })
}

pub fn update_entry(request: &pb::UpdateEntryRequest) -> Result<Command, Failure> {
    let entry = required("entry", request.entry.as_ref())?;
    let mask = required("update_mask", request.update_mask.as_ref())?;
    if mask.paths.is_empty() {
        return Err(Failure::bad_argument("update_mask", "names nothing to change"));
    }
    let mut changes = AttributeChanges::default();
    for field in &mask.paths {
        match field.as_str() {
            "mode" if entry.mode <= MODE_MAX => changes.mode = Some(entry.mode),
            "mode" => return Err(Failure::bad_argument("entry.mode", "permission bits go up to 07777")),
            "owner" => changes.owner = Some(text("entry.owner", &entry.owner)?),
            "owning_group" => changes.owning_group = Some(text("entry.owning_group", &entry.owning_group)?),
            "modify_time" => {
                let time = required("entry.modify_time", entry.modify_time.as_ref())?;
                changes.modify_time = Some(timestamp("entry.modify_time", time)?);
            }
            "extended_attributes" => {
                changes.extended_attributes = Some(extended_attributes(&entry.extended_attributes)?);
            }
            other => {
                return Err(Failure::bad_argument("update_mask", format_args!("`{other}` cannot be changed")));
            }
        }
    }
    Ok(Command::UpdateEntry {
        write_id: write_id("write_id", &request.write_id)?,
        path: path("entry.path", &entry.path)?,
        changes,
    })
}

fn extended_attributes(attributes: &HashMap<String, Bytes>) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let field = "entry.extended_attributes";
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ATTRIBUTES_BYTES_MAX {
        return Err(Failure::bad_argument(field, format_args!("{bytes} bytes are more than {ATTRIBUTES_BYTES_MAX}")));
    }
    let checked = attributes.iter().map(|(name, value)| match name.as_str() {
        "" => Err(Failure::bad_argument(field, "a name is empty")),
        _ => Ok((text(field, name)?, value.to_vec())),
    });
    checked.collect()
}

pub fn move_entry(request: &pb::MoveEntryRequest) -> Result<Command, Failure> {
    Ok(Command::MoveEntry {
        write_id: write_id("write_id", &request.write_id)?,
        from: path("from_path", &request.from_path)?,
        to: path("to_path", &request.to_path)?,
        replace: request.replace,
        from_precondition: precondition(request.from_precondition.as_ref()),
        to_precondition: precondition(request.to_precondition.as_ref()),
    })
}

pub fn copy_entry(request: &pb::CopyEntryRequest) -> Result<Command, Failure> {
    Ok(Command::CopyEntry {
        write_id: write_id("write_id", &request.write_id)?,
        from: path("from_path", &request.from_path)?,
        from_version: optional_version(request.from_version),
        to: path("to_path", &request.to_path)?,
        replace: request.replace,
        to_precondition: precondition(request.to_precondition.as_ref()),
    })
}

pub fn delete_entry(request: &pb::DeleteEntryRequest) -> Result<Command, Failure> {
    Ok(Command::DeleteEntry {
        write_id: write_id("write_id", &request.write_id)?,
        path: path("path", &request.path)?,
        force: request.force,
        precondition: precondition(request.precondition.as_ref()),
    })
}

pub fn restore_version(request: &pb::RestoreVersionRequest) -> Result<Command, Failure> {
    let version = optional_version(request.version);
    Ok(Command::RestoreVersion {
        write_id: write_id("write_id", &request.write_id)?,
        path: path("path", &request.path)?,
        version: version.ok_or_else(|| Failure::bad_argument("version", "versions count from 1"))?,
        precondition: precondition(request.precondition.as_ref()),
    })
}

/// One command for each commit; a commit that cannot be right fails by itself.
pub fn commit_writes(request: &pb::CommitWritesRequest) -> Result<Vec<Result<Command, Failure>>, Failure> {
    at_most("commits", request.commits.len(), COMMITS_MAX)?;
    let primary = server_id("server_id", &request.server_id)?;
    let commands = request.commits.iter().map(|commit| {
        let commit = write_commit(commit)?;
        Ok(Command::CommitWrite { primary: primary.clone(), commit })
    });
    Ok(commands.collect())
}

fn write_commit(commit: &pb::WriteCommit) -> Result<WriteCommit, Failure> {
    let mode_of_write = write_mode("mode", commit.mode, commit.offset)?;
    let patched = match mode_of_write {
        WriteMode::Replace | WriteMode::Append => None,
        WriteMode::Patch { .. } => {
            Some(Patched { base_version: Version(commit.patch_base_version), checksum: commit.patched_checksum })
        }
    };
    let begin_time = required("begin_time", commit.begin_time.as_ref())?;
    Ok(WriteCommit {
        write_id: write_id("write_id", &commit.write_id)?,
        group: GroupId(commit.group),
        epoch: Epoch(commit.epoch),
        path: path("path", &commit.path)?,
        mode: mode_of_write,
        pieces: pieces(&commit.pieces)?,
        checksum: commit.checksum,
        precondition: precondition(commit.precondition.as_ref()),
        base_inode: (commit.base_inode != 0).then_some(Inode(commit.base_inode)),
        patched,
        begin_time: timestamp("begin_time", begin_time)?,
        create_parents: commit.create_parents,
        create_mode: mode("create_mode", commit.create_mode, FILE_MODE_DEFAULT)?,
    })
}

fn pieces(pieces: &[pb::BlobPiece]) -> Result<Vec<(BlobId, u64)>, Failure> {
    at_most("pieces", pieces.len(), PIECES_MAX)?;
    let mut seen = HashSet::with_capacity(pieces.len());
    let checked = pieces.iter().map(|item| {
        let (blob, length) = piece("pieces", item)?;
        if seen.insert(blob) {
            Ok((blob, length))
        } else {
            Err(Failure::bad_argument("pieces", "a blob is named twice"))
        }
    });
    checked.collect()
}

fn piece(field: &str, piece: &pb::BlobPiece) -> Result<(BlobId, u64), Failure> {
    if !(1..=BLOB_LENGTH_MAX).contains(&piece.length) {
        return Err(Failure::bad_argument(field, format_args!("a blob has 1 to {BLOB_LENGTH_MAX} bytes")));
    }
    Ok((blob_id(field, &piece.blob)?, piece.length))
}

pub fn merge_extents(request: &pb::MergeExtentsRequest) -> Result<Command, Failure> {
    at_most("extents", request.extents.len(), PIECES_MAX)?;
    let run = extents("extents", &request.extents)?;
    if run.is_empty() {
        return Err(Failure::bad_argument("extents", "names nothing to merge"));
    }
    let merged = required("merged", request.merged.as_ref())?;
    let begin_time = required("begin_time", request.begin_time.as_ref())?;
    Ok(Command::MergeExtents {
        primary: server_id("server_id", &request.server_id)?,
        group: GroupId(request.group),
        epoch: Epoch(request.epoch),
        inode: Inode(request.inode),
        skip: request.skip as usize,
        run,
        merged: piece("merged", merged)?,
        begin_time: timestamp("begin_time", begin_time)?,
    })
}

/// The blobs in the order of the request.
pub fn settle_blobs(request: &pb::SettleBlobsRequest) -> Result<Vec<(BlobId, Command)>, Failure> {
    at_most("blobs", request.blobs.len(), BLOBS_MAX)?;
    server_id("server_id", &request.server_id)?;
    let commands = request.blobs.iter().map(|staged| {
        write_id("blobs.write_id", &staged.write_id)?;
        let blob = blob_id("blobs.blob", &staged.blob)?;
        Ok((blob, Command::SettleBlob { group: GroupId(staged.group), blob }))
    });
    commands.collect()
}

pub fn raise_fence(request: &pb::RaiseFenceRequest) -> Result<Command, Failure> {
    let path = path("path", &request.path)?;
    Ok(Command::RaiseFence { path, token: FencingToken(request.fencing_token) })
}

pub fn registration(request: &pb::RegisterServerRequest) -> Result<Registration, Failure> {
    let kind = match pb::ServerKind::try_from(request.kind) {
        Ok(pb::ServerKind::Directory) => ServerKind::Directory,
        Ok(pb::ServerKind::Lock) => ServerKind::Lock,
        Ok(pb::ServerKind::Fileserver) => ServerKind::FileServer,
        Ok(pb::ServerKind::Unspecified) => return Err(Failure::bad_argument("kind", "is missing")),
        Err(_) => return Err(Failure::bad_argument("kind", "there is no such kind of server")),
    };
    let external_address = match request.external_address.as_str() {
        "" => String::new(),
        external => address("external_address", external)?,
    };
    Ok(Registration {
        kind,
        server: server_id("server_id", &request.server_id)?,
        store: store_id("store_id", &request.store_id)?,
        address: address("address", &request.address)?,
        external_address,
        zone: text("zone", &request.zone)?,
        software_version: text("software_version", &request.software_version)?,
        lock_service: lock_service(kind, &request.lock_service_id)?,
        incarnations: incarnations(kind, &request.incarnations)?,
    })
}

fn lock_service(kind: ServerKind, id: &str) -> Result<Option<LockServiceId>, Failure> {
    match (kind, id) {
        (_, "") => Ok(None),
        (ServerKind::Lock, id) => {
            let malformed = |error| Failure::bad_argument("lock_service_id", format_args!("`{id}`: {error}"));
            id.parse().map(Some).map_err(malformed)
        }
        _ => Err(Failure::bad_argument("lock_service_id", "only a node of a Lock service has one")),
    }
}

fn incarnations(kind: ServerKind, of_folder: &[String]) -> Result<Vec<Incarnation>, Failure> {
    let refused = |what| Err(Failure::bad_argument("incarnations", what));
    match (kind, of_folder.len()) {
        (ServerKind::FileServer, 0..=INCARNATIONS_MAX) => {
            of_folder.iter().map(|text| incarnation("incarnations", text)).collect()
        }
        (ServerKind::FileServer, _) => refused("are too many"),
        (_, 0) => Ok(Vec::new()),
        _ => refused("only a file server has them"),
    }
}

/// `host:port`, so that whoever is told it can connect.
fn address(field: &str, address: &str) -> Result<String, Failure> {
    let bad = || Failure::bad_argument(field, "an address is HOST:PORT");
    let address = text(field, address)?;
    let authority: http::uri::Authority = address.parse().map_err(|_| bad())?;
    let named = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port != 0);
    if named && !address.contains('@') { Ok(address) } else { Err(bad()) }
}

/// The groups that a report is about, at the epochs known to the reporter.
pub fn reported_groups(groups: &[pb::GroupEpoch]) -> Result<Vec<(GroupId, Epoch)>, Failure> {
    at_most("groups", groups.len(), REPORTED_GROUPS_MAX)?;
    Ok(groups.iter().map(|item| (GroupId(item.group), Epoch(item.epoch))).collect())
}

pub fn group_epoch((group, epoch): (GroupId, Epoch)) -> pb::GroupEpoch {
    pb::GroupEpoch { group: group.0, epoch: epoch.0 }
}

pub fn add_in_sync(request: &pb::AddInSyncRequest) -> Result<Command, Failure> {
    Ok(Command::AddInSync {
        primary: server_id("server_id", &request.server_id)?,
        group: GroupId(request.group),
        epoch: Epoch(request.epoch),
        member: server_id("member_id", &request.member_id)?,
    })
}

/// What a beat says was deleted.
pub fn deleted_blobs(blobs: &[String]) -> Result<Vec<BlobId>, Failure> {
    at_most("deleted_blobs", blobs.len(), BLOBS_MAX)?;
    blobs.iter().map(|blob| blob_id("deleted_blobs", blob)).collect()
}

/// The groups that a beat says are being uploaded to.
pub fn uploading_groups(groups: &[u32]) -> Result<BTreeSet<GroupId>, Failure> {
    at_most("uploading_groups", groups.len(), REPORTED_GROUPS_MAX)?;
    Ok(groups.iter().copied().map(GroupId).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_cut_between_characters_and_fits_a_line() {
        assert_eq!(remark("disk full:\nno space"), "disk full: no space");
        let long = "ä".repeat(TEXT_LENGTH_MAX);
        assert_eq!(remark(&long), "ä".repeat(TEXT_LENGTH_MAX / 2));
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["localhost:7072", "10.0.0.1:1", "[::1]:7072", "fileserver-a.example.org:7072"] {
            assert_eq!(address("address", good), Ok(good.to_owned()));
        }
        for bad in ["", ":7072", "host", "host:", "host:0", "host:99999", "user@host:1", "http://host:1", "host:1/x"] {
            assert!(address("address", bad).is_err(), "{bad:?}");
        }
    }
}
