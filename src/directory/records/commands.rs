//! What the Directory's log holds: batches of commands, with the time that their proposer gave them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::{
    directory::{
        command::{AttributeChanges, Command, Patched, Registration, WriteCommit},
        model::ServerRecord,
    },
    pb::storage::directory::{self as disk, command::Command as Stored},
    types::{
        BlobId, ClusterId, Epoch, Extent, FencingToken, GroupId, Incarnation, Inode, Path, Precondition, ServerId,
        Timestamp, Version, WriteId, WriteMode,
    },
};

use super::{
    Damage, Read, Record,
    cluster::{server_kind_in, server_kind_out, settings_in, settings_out},
    id, path, text, uuid,
};

/// The bytes of a log entry.
pub(in crate::directory) fn batch_out(time: Timestamp, commands: &[Command]) -> Bytes {
    let commands = commands.iter().map(|command| disk::Command { command: Some(command_out(command)) }).collect();
    disk::Batch { time: time.0, commands }.encode_to_vec().into()
}

pub(in crate::directory) fn batch_in(bytes: &[u8]) -> Read<(Timestamp, Vec<Command>)> {
    let batch = disk::Batch::decode(bytes).map_err(|_| Damage("an entry of the log is no batch of commands"))?;
    let command = |command: disk::Command| {
        command_in(command.command.ok_or(Damage("a command that this version of dfs does not know"))?)
    };
    Ok((Timestamp(batch.time), batch.commands.into_iter().map(command).collect::<Read<_>>()?))
}

fn write_id_in(bytes: &[u8]) -> Read<WriteId> {
    uuid(bytes, WriteId::from_bytes)
}

fn blob_in(bytes: &[u8]) -> Read<BlobId> {
    uuid(bytes, BlobId::from_bytes)
}

fn server(value: &str) -> Read<ServerId> {
    text(value, "a server id is malformed")
}

fn precondition_out(precondition: &Precondition) -> Option<disk::Precondition> {
    Some(disk::Precondition {
        fencing_token: precondition.fencing_token.map(|token| token.0),
        if_version: precondition.if_version.map(|version| version.0),
    })
}

fn precondition_in(precondition: Option<disk::Precondition>) -> Precondition {
    let precondition = precondition.unwrap_or_default();
    Precondition {
        fencing_token: precondition.fencing_token.map(FencingToken),
        if_version: precondition.if_version.map(Version),
    }
}

fn piece_out((blob, length): &(BlobId, u64)) -> disk::Piece {
    disk::Piece { blob: id(blob.as_bytes()), length: *length }
}

fn piece_in(piece: &disk::Piece) -> Read<(BlobId, u64)> {
    Ok((blob_in(&piece.blob)?, piece.length))
}

fn changes_out(write_id: &WriteId, path: &Path, changes: &AttributeChanges) -> disk::UpdateEntry {
    let attribute = |(name, value): (&String, &Vec<u8>)| disk::Attribute {
        name: name.clone(),
        value: Bytes::copy_from_slice(value),
    };
    let extended = changes.extended_attributes.as_ref();
    disk::UpdateEntry {
        write_id: id(write_id.as_bytes()),
        path: path.to_string(),
        mode: changes.mode,
        owner: changes.owner.clone(),
        owning_group: changes.owning_group.clone(),
        modify_time: changes.modify_time.map(|time| time.0),
        extended: extended
            .map(|extended| disk::ExtendedAttributes { attributes: extended.iter().map(attribute).collect() }),
    }
}

fn changes_in(update: disk::UpdateEntry) -> Read<Command> {
    let extended = update.extended.map(|extended| {
        let attributes = extended.attributes.into_iter().map(|one| (one.name, one.value.to_vec()));
        attributes.collect::<BTreeMap<_, _>>()
    });
    let changes = AttributeChanges {
        mode: update.mode,
        owner: update.owner,
        owning_group: update.owning_group,
        modify_time: update.modify_time.map(Timestamp),
        extended_attributes: extended,
    };
    Ok(Command::UpdateEntry { write_id: write_id_in(&update.write_id)?, path: path(&update.path)?, changes })
}

fn commit_out(primary: &ServerId, commit: &WriteCommit) -> disk::CommitWrite {
    let (mode, offset) = match commit.mode {
        WriteMode::Replace => (disk::WriteMode::Replace, 0),
        WriteMode::Append => (disk::WriteMode::Append, 0),
        WriteMode::Patch { offset } => (disk::WriteMode::Patch, offset),
    };
    disk::CommitWrite {
        primary: primary.to_string(),
        write_id: id(commit.write_id.as_bytes()),
        group: commit.group.0,
        epoch: commit.epoch.0,
        path: commit.path.to_string(),
        mode: mode.into(),
        offset,
        pieces: commit.pieces.iter().map(piece_out).collect(),
        checksum: commit.checksum,
        precondition: precondition_out(&commit.precondition),
        base_inode: commit.base_inode.map(|inode| inode.0),
        patched: commit
            .patched
            .map(|patched| disk::Patched { base_version: patched.base_version.0, checksum: patched.checksum }),
        begin_time: commit.begin_time.0,
        create_parents: commit.create_parents,
        create_mode: commit.create_mode,
    }
}

fn commit_in(commit: disk::CommitWrite) -> Read<Command> {
    let mode = match commit.mode() {
        disk::WriteMode::Replace => WriteMode::Replace,
        disk::WriteMode::Append => WriteMode::Append,
        disk::WriteMode::Patch => WriteMode::Patch { offset: commit.offset },
        disk::WriteMode::Unspecified => return Err(Damage("a commit has no mode")),
    };
    let patched = commit
        .patched
        .map(|patched| Patched { base_version: Version(patched.base_version), checksum: patched.checksum });
    let primary = server(&commit.primary)?;
    let commit = WriteCommit {
        write_id: write_id_in(&commit.write_id)?,
        group: GroupId(commit.group),
        epoch: Epoch(commit.epoch),
        path: path(&commit.path)?,
        mode,
        pieces: commit.pieces.iter().map(piece_in).collect::<Read<_>>()?,
        checksum: commit.checksum,
        precondition: precondition_in(commit.precondition),
        base_inode: commit.base_inode.map(Inode),
        patched,
        begin_time: Timestamp(commit.begin_time),
        create_parents: commit.create_parents,
        create_mode: commit.create_mode,
    };
    Ok(Command::CommitWrite { primary, commit })
}

fn extent_out(extent: &Extent) -> disk::Extent {
    disk::Extent {
        group: extent.group.0,
        blob: id(extent.blob.as_bytes()),
        blob_offset: extent.blob_offset,
        length: extent.length,
    }
}

fn extent_in(extent: &disk::Extent) -> Read<Extent> {
    let (group, blob) = (GroupId(extent.group), blob_in(&extent.blob)?);
    Ok(Extent { group, blob, blob_offset: extent.blob_offset, length: extent.length })
}

fn merge_in(merge: disk::MergeExtents) -> Read<Command> {
    Ok(Command::MergeExtents {
        primary: server(&merge.primary)?,
        group: GroupId(merge.group),
        epoch: Epoch(merge.epoch),
        inode: Inode(merge.inode),
        skip: usize::try_from(merge.skip).map_err(|_| Damage("a number is too large"))?,
        run: merge.run.iter().map(extent_in).collect::<Read<_>>()?,
        merged: piece_in(&merge.merged.ok_or(Damage("a merge has no blob"))?)?,
        begin_time: Timestamp(merge.begin_time),
    })
}

fn registration_out(registration: &Registration) -> disk::RegisterServer {
    let kind = match server_kind_out(registration.kind) {
        1 => disk::ServerKind::Directory,
        2 => disk::ServerKind::Lock,
        _ => disk::ServerKind::Fileserver,
    };
    disk::RegisterServer {
        kind: kind.into(),
        server_id: registration.server.to_string(),
        server: Some(disk::Server {
            store_id: id(registration.store.as_bytes()),
            address: registration.address.clone(),
            external_address: registration.external_address.clone(),
            zone: registration.zone.clone(),
            software_version: registration.software_version.clone(),
            lock_service_id: registration.lock_service.map(|service| id(service.as_bytes())).unwrap_or_default(),
            incarnations: registration.incarnations.iter().map(|of| id(of.as_bytes())).collect(),
            ..disk::Server::default()
        }),
    }
}

fn registration_in(register: disk::RegisterServer) -> Read<Command> {
    let kind = match register.kind() {
        disk::ServerKind::Directory => 1,
        disk::ServerKind::Lock => 2,
        disk::ServerKind::Fileserver => 3,
        disk::ServerKind::Unspecified => 0,
    };
    server_kind_in(kind)?;
    let server = register.server.ok_or(Damage("a registration has no server"))?.encode_to_vec();
    let record = ServerRecord::decode((kind, register.server_id.as_str()), &server)?;
    Ok(Command::RegisterServer { registration: record.registration })
}

fn epochs_out(groups: &[(GroupId, Epoch)]) -> Vec<disk::GroupEpoch> {
    groups.iter().map(|(group, epoch)| disk::GroupEpoch { group: group.0, epoch: epoch.0 }).collect()
}

fn epochs_in(groups: &[disk::GroupEpoch]) -> Vec<(GroupId, Epoch)> {
    groups.iter().map(|at| (GroupId(at.group), Epoch(at.epoch))).collect()
}

fn command_out(command: &Command) -> Stored {
    let write = |write_id: &WriteId| id(write_id.as_bytes());
    match command {
        Command::Bootstrap { cluster, lock_key, settings } => Stored::Bootstrap(disk::Cluster {
            cluster_id: id(cluster.as_bytes()),
            lock_key: Bytes::copy_from_slice(lock_key),
            settings: Some(settings_out(settings)),
        }),
        Command::ChangeSettings { settings } => Stored::ChangeSettings(settings_out(settings)),
        Command::CreateDirectory { write_id, path, parents, mode } => Stored::CreateDirectory(disk::CreateDirectory {
            write_id: write(write_id),
            path: path.to_string(),
            parents: *parents,
            mode: *mode,
        }),
        Command::UpdateEntry { write_id, path, changes } => Stored::UpdateEntry(changes_out(write_id, path, changes)),
        Command::MoveEntry { write_id, from, to, replace, from_precondition, to_precondition } => {
            Stored::MoveEntry(disk::MoveEntry {
                write_id: write(write_id),
                from: from.to_string(),
                to: to.to_string(),
                replace: *replace,
                from_precondition: precondition_out(from_precondition),
                to_precondition: precondition_out(to_precondition),
            })
        }
        Command::CopyEntry { write_id, from, from_version, to, replace, to_precondition } => {
            Stored::CopyEntry(disk::CopyEntry {
                write_id: write(write_id),
                from: from.to_string(),
                from_version: from_version.map(|version| version.0),
                to: to.to_string(),
                replace: *replace,
                to_precondition: precondition_out(to_precondition),
            })
        }
        Command::DeleteEntry { write_id, path, force, precondition } => Stored::DeleteEntry(disk::DeleteEntry {
            write_id: write(write_id),
            path: path.to_string(),
            force: *force,
            precondition: precondition_out(precondition),
        }),
        Command::RestoreVersion { write_id, path, version, precondition } => {
            Stored::RestoreVersion(disk::RestoreVersion {
                write_id: write(write_id),
                path: path.to_string(),
                version: version.0,
                precondition: precondition_out(precondition),
            })
        }
        Command::CommitWrite { primary, commit } => Stored::CommitWrite(commit_out(primary, commit)),
        Command::MergeExtents { primary, group, epoch, inode, skip, run, merged, begin_time } => {
            Stored::MergeExtents(disk::MergeExtents {
                primary: primary.to_string(),
                group: group.0,
                epoch: epoch.0,
                inode: inode.0,
                skip: *skip as u64,
                run: run.iter().map(extent_out).collect(),
                merged: Some(piece_out(merged)),
                begin_time: begin_time.0,
            })
        }
        Command::SettleBlob { group, blob } => {
            Stored::SettleBlob(disk::SettleBlob { group: group.0, blob: id(blob.as_bytes()) })
        }
        Command::RaiseFence { path, token } => {
            Stored::RaiseFence(disk::RaiseFence { path: path.to_string(), token: token.0 })
        }
        Command::RegisterServer { registration } => Stored::RegisterServer(registration_out(registration)),
        Command::ForgetNode { server } => Stored::ForgetNode(server.to_string()),
        Command::MarkDown { server, incarnation } => Stored::MarkDown(disk::MarkDown {
            server_id: server.to_string(),
            incarnation: incarnation.map_or_else(Default::default, |incarnation| id(incarnation.as_bytes())),
        }),
        Command::MarkUp { server } => Stored::MarkUp(server.to_string()),
        Command::MarkReadOnly { server, reason } => {
            Stored::MarkReadOnly(disk::MarkReadOnly { server_id: server.to_string(), reason: reason.clone() })
        }
        Command::MarkWritable { server } => Stored::MarkWritable(server.to_string()),
        Command::SpreadPrimaries { limit, except } => Stored::SpreadPrimaries(disk::SpreadPrimaries {
            limit: *limit,
            except: except.iter().map(|group| group.0).collect(),
        }),
        Command::EvictReplica { primary, suspect, groups } => Stored::EvictReplica(disk::EvictReplica {
            primary: primary.to_string(),
            suspect: suspect.to_string(),
            groups: epochs_out(groups),
        }),
        Command::AddInSync { primary, group, epoch, member } => Stored::AddInSync(disk::AddInSync {
            primary: primary.to_string(),
            group: group.0,
            epoch: epoch.0,
            member: member.to_string(),
        }),
        Command::MoveGroup { group, epoch, leaving, arriving } => Stored::MoveGroup(disk::MoveGroup {
            group: group.0,
            epoch: epoch.0,
            leaving: leaving.as_ref().map(ServerId::to_string).unwrap_or_default(),
            arriving: arriving.to_string(),
        }),
        Command::DropArriving { group, epoch } => {
            Stored::DropArriving(disk::DropArriving { group: group.0, epoch: epoch.0 })
        }
        Command::PassLead { group, epoch } => Stored::PassLead(disk::PassLead { group: group.0, epoch: epoch.0 }),
        Command::DrainServer { server } => Stored::DrainServer(server.to_string()),
        Command::ResumeServer { server } => Stored::ResumeServer(server.to_string()),
        Command::RemoveServer { server, lost } => {
            Stored::RemoveServer(disk::RemoveServer { server_id: server.to_string(), lost: *lost })
        }
        Command::ConfirmEmptied { server, groups } => {
            Stored::ConfirmEmptied(disk::ConfirmEmptied { server_id: server.to_string(), groups: epochs_out(groups) })
        }
        Command::Rebalance { begin } => Stored::Rebalance(*begin),
        Command::ConfirmDeleted { server, blobs } => Stored::ConfirmDeleted(disk::ConfirmDeleted {
            server_id: server.to_string(),
            blobs: blobs.iter().map(|blob| id(blob.as_bytes())).collect(),
        }),
        Command::Collect { limit } => Stored::Collect(*limit),
    }
}

fn command_in(command: Stored) -> Read<Command> {
    Ok(match command {
        Stored::Bootstrap(stored) => {
            let settings = settings_in(stored.settings)?;
            let lock_key = (&*stored.lock_key).try_into().map_err(|_| Damage("the key is not 32 bytes"))?;
            Command::Bootstrap { cluster: uuid(&stored.cluster_id, ClusterId::from_bytes)?, lock_key, settings }
        }
        Stored::ChangeSettings(settings) => Command::ChangeSettings { settings: settings_in(Some(settings))? },
        Stored::CreateDirectory(stored) => Command::CreateDirectory {
            write_id: write_id_in(&stored.write_id)?,
            path: path(&stored.path)?,
            parents: stored.parents,
            mode: stored.mode,
        },
        Stored::UpdateEntry(stored) => changes_in(stored)?,
        Stored::MoveEntry(stored) => Command::MoveEntry {
            write_id: write_id_in(&stored.write_id)?,
            from: path(&stored.from)?,
            to: path(&stored.to)?,
            replace: stored.replace,
            from_precondition: precondition_in(stored.from_precondition),
            to_precondition: precondition_in(stored.to_precondition),
        },
        Stored::CopyEntry(stored) => Command::CopyEntry {
            write_id: write_id_in(&stored.write_id)?,
            from: path(&stored.from)?,
            from_version: stored.from_version.map(Version),
            to: path(&stored.to)?,
            replace: stored.replace,
            to_precondition: precondition_in(stored.to_precondition),
        },
        Stored::DeleteEntry(stored) => Command::DeleteEntry {
            write_id: write_id_in(&stored.write_id)?,
            path: path(&stored.path)?,
            force: stored.force,
            precondition: precondition_in(stored.precondition),
        },
        Stored::RestoreVersion(stored) => Command::RestoreVersion {
            write_id: write_id_in(&stored.write_id)?,
            path: path(&stored.path)?,
            version: Version(stored.version),
            precondition: precondition_in(stored.precondition),
        },
        Stored::CommitWrite(stored) => commit_in(stored)?,
        Stored::MergeExtents(stored) => merge_in(stored)?,
        Stored::SettleBlob(stored) => {
            Command::SettleBlob { group: GroupId(stored.group), blob: blob_in(&stored.blob)? }
        }
        Stored::RaiseFence(stored) => {
            Command::RaiseFence { path: path(&stored.path)?, token: FencingToken(stored.token) }
        }
        Stored::RegisterServer(stored) => registration_in(stored)?,
        Stored::ForgetNode(id) => Command::ForgetNode { server: server(&id)? },
        Stored::MarkDownAny(id) => Command::MarkDown { server: server(&id)?, incarnation: None },
        Stored::MarkDown(stored) => Command::MarkDown {
            server: server(&stored.server_id)?,
            incarnation: match stored.incarnation.is_empty() {
                true => None,
                false => Some(uuid(&stored.incarnation, Incarnation::from_bytes)?),
            },
        },
        Stored::MarkUp(id) => Command::MarkUp { server: server(&id)? },
        Stored::MarkReadOnly(stored) => {
            Command::MarkReadOnly { server: server(&stored.server_id)?, reason: stored.reason }
        }
        Stored::MarkWritable(id) => Command::MarkWritable { server: server(&id)? },
        Stored::SpreadPrimaries(stored) => {
            Command::SpreadPrimaries { limit: stored.limit, except: stored.except.into_iter().map(GroupId).collect() }
        }
        Stored::EvictReplica(stored) => Command::EvictReplica {
            primary: server(&stored.primary)?,
            suspect: server(&stored.suspect)?,
            groups: epochs_in(&stored.groups),
        },
        Stored::AddInSync(stored) => Command::AddInSync {
            primary: server(&stored.primary)?,
            group: GroupId(stored.group),
            epoch: Epoch(stored.epoch),
            member: server(&stored.member)?,
        },
        Stored::MoveGroup(stored) => Command::MoveGroup {
            group: GroupId(stored.group),
            epoch: Epoch(stored.epoch),
            leaving: Some(stored.leaving.as_str()).filter(|id| !id.is_empty()).map(server).transpose()?,
            arriving: server(&stored.arriving)?,
        },
        Stored::DropArriving(stored) => {
            Command::DropArriving { group: GroupId(stored.group), epoch: Epoch(stored.epoch) }
        }
        Stored::PassLead(stored) => Command::PassLead { group: GroupId(stored.group), epoch: Epoch(stored.epoch) },
        Stored::DrainServer(id) => Command::DrainServer { server: server(&id)? },
        Stored::ResumeServer(id) => Command::ResumeServer { server: server(&id)? },
        Stored::RemoveServer(stored) => Command::RemoveServer { server: server(&stored.server_id)?, lost: stored.lost },
        Stored::ConfirmEmptied(stored) => {
            Command::ConfirmEmptied { server: server(&stored.server_id)?, groups: epochs_in(&stored.groups) }
        }
        Stored::Rebalance(begin) => Command::Rebalance { begin },
        Stored::ConfirmDeleted(stored) => Command::ConfirmDeleted {
            server: server(&stored.server_id)?,
            blobs: stored.blobs.iter().map(|blob| blob_in(blob)).collect::<Read<_>>()?,
        },
        Stored::Collect(limit) => Command::Collect { limit },
    })
}
