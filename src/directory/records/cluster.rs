//! The cluster's records: counters, settings, groups, servers.

use bytes::Bytes;
use prost::Message;

use crate::{
    cluster::{Group, Replacement},
    directory::{
        command::{Registration, ServerKind, Settings},
        model::{Cluster, ServerRecord, State},
    },
    pb::storage::directory as disk,
    types::{ClusterId, Epoch, GroupId, Incarnation, Inode, LockServiceId, Revision, ServerId, StoreId, Timestamp},
};

use super::{Damage, Read, Record, id, parse, text, uuid};

/// Of a cluster that was made before there was such a setting.
const REPAIR_AFTER_MS_DEFAULT: u64 = 10 * 60_000;

impl Record<&str> for State {
    fn encode(&self) -> Vec<u8> {
        disk::State {
            revision: self.revision.0,
            time: self.time.0,
            newest_inode: self.newest_inode.0,
            map_version: self.map_version,
            horizon: self.horizon.0,
            horizon_time: self.horizon_time.0,
            fence_floor: self.fence_floor,
            newest_token: self.newest_token,
            blob_count: self.blob_count,
            garbage_blob_count: self.garbage_blob_count,
            rebalancing: self.rebalancing,
        }
        .encode_to_vec()
    }

    fn decode(_: &str, bytes: &[u8]) -> Read<Self> {
        let state: disk::State = parse(bytes)?;
        Ok(Self {
            revision: Revision(state.revision),
            time: Timestamp(state.time),
            newest_inode: Inode(state.newest_inode),
            map_version: state.map_version,
            horizon: Revision(state.horizon),
            horizon_time: Timestamp(state.horizon_time),
            fence_floor: state.fence_floor,
            newest_token: state.newest_token,
            blob_count: state.blob_count,
            garbage_blob_count: state.garbage_blob_count,
            rebalancing: state.rebalancing,
        })
    }
}

pub(super) fn settings_out(settings: &Settings) -> disk::Settings {
    disk::Settings {
        group_count: settings.group_count,
        copies: settings.copies,
        min_in_sync: settings.min_in_sync,
        initial_fileservers: settings.initial_fileservers,
        keep_versions: settings.keep_versions,
        keep_for_ms: settings.keep_for_ms,
        garbage_grace_ms: settings.garbage_grace_ms,
        repair_after_ms: Some(settings.repair_after_ms),
    }
}

pub(super) fn settings_in(settings: Option<disk::Settings>) -> Read<Settings> {
    let settings = settings.ok_or(Damage("no settings"))?;
    Ok(Settings {
        group_count: settings.group_count,
        copies: settings.copies,
        min_in_sync: settings.min_in_sync,
        initial_fileservers: settings.initial_fileservers,
        keep_versions: settings.keep_versions,
        keep_for_ms: settings.keep_for_ms,
        garbage_grace_ms: settings.garbage_grace_ms,
        repair_after_ms: settings.repair_after_ms.unwrap_or(REPAIR_AFTER_MS_DEFAULT),
    })
}

impl Record<&str> for Cluster {
    fn encode(&self) -> Vec<u8> {
        let settings = &self.settings;
        disk::Cluster {
            cluster_id: id(self.cluster.as_bytes()),
            lock_key: Bytes::copy_from_slice(&self.lock_key),
            settings: Some(settings_out(settings)),
        }
        .encode_to_vec()
    }

    fn decode(_: &str, bytes: &[u8]) -> Read<Self> {
        let cluster: disk::Cluster = parse(bytes)?;
        Ok(Self {
            cluster: uuid(&cluster.cluster_id, ClusterId::from_bytes)?,
            lock_key: (&*cluster.lock_key).try_into().map_err(|_| Damage("the key is not 32 bytes"))?,
            settings: settings_in(cluster.settings)?,
        })
    }
}

pub(super) fn servers(ids: &[String]) -> Read<Vec<ServerId>> {
    ids.iter().map(|id| text(id, "a server id is malformed")).collect()
}

impl Record<u32> for Group {
    fn encode(&self) -> Vec<u8> {
        let names = |ids: &[ServerId]| ids.iter().map(ServerId::to_string).collect();
        disk::Group {
            epoch: self.epoch.0,
            members: names(&self.members),
            in_sync: names(&self.in_sync),
            primary: self.primary.as_ref().map(ServerId::to_string).unwrap_or_default(),
            replacement: self.replacement.as_ref().map(|replacement| disk::Replacement {
                leaving: replacement.leaving.to_string(),
                arriving: replacement.arriving.to_string(),
            }),
        }
        .encode_to_vec()
    }

    fn decode(group: u32, bytes: &[u8]) -> Read<Self> {
        let config: disk::Group = parse(bytes)?;
        let primary = match config.primary.as_str() {
            "" => None,
            primary => Some(text(primary, "a server id is malformed")?),
        };
        let replacement = config.replacement.map(|replacement| {
            let leaving = text(&replacement.leaving, "a server id is malformed")?;
            let arriving = text(&replacement.arriving, "a server id is malformed")?;
            Ok(Replacement { leaving, arriving })
        });
        Ok(Self {
            group: GroupId(group),
            epoch: Epoch(config.epoch),
            members: servers(&config.members)?,
            in_sync: servers(&config.in_sync)?,
            primary,
            replacement: replacement.transpose()?,
        })
    }
}

/// How a kind of server is written in keys.
pub(in crate::directory) fn server_kind_out(kind: ServerKind) -> u8 {
    match kind {
        ServerKind::Directory => 1,
        ServerKind::Lock => 2,
        ServerKind::FileServer => 3,
    }
}

pub(super) fn server_kind_in(kind: u8) -> Read<ServerKind> {
    match kind {
        1 => Ok(ServerKind::Directory),
        2 => Ok(ServerKind::Lock),
        3 => Ok(ServerKind::FileServer),
        _ => Err(Damage("a server has no kind")),
    }
}

impl Record<(u8, &str)> for ServerRecord {
    fn encode(&self) -> Vec<u8> {
        let registration = &self.registration;
        disk::Server {
            store_id: id(registration.store.as_bytes()),
            address: registration.address.clone(),
            external_address: registration.external_address.clone(),
            zone: registration.zone.clone(),
            software_version: registration.software_version.clone(),
            down: self.down,
            read_only_reason: self.read_only_reason.clone(),
            lock_service_id: registration.lock_service.map(|service| id(service.as_bytes())).unwrap_or_default(),
            down_since: self.down_since.map(|time| time.0),
            draining: self.draining,
            lost: self.lost,
            read_only_since: self.read_only_since.map(|time| time.0),
            incarnations: registration.incarnations.iter().map(|of| id(of.as_bytes())).collect(),
        }
        .encode_to_vec()
    }

    fn decode((kind, server): (u8, &str), bytes: &[u8]) -> Read<Self> {
        let record: disk::Server = parse(bytes)?;
        Ok(Self {
            registration: Registration {
                kind: server_kind_in(kind)?,
                server: text(server, "a server id is malformed")?,
                store: uuid(&record.store_id, StoreId::from_bytes)?,
                address: record.address,
                external_address: record.external_address,
                zone: record.zone,
                software_version: record.software_version,
                lock_service: match record.lock_service_id.is_empty() {
                    true => None,
                    false => Some(uuid(&record.lock_service_id, LockServiceId::from_bytes)?),
                },
                incarnations: record
                    .incarnations
                    .iter()
                    .map(|of| uuid(of, Incarnation::from_bytes))
                    .collect::<Read<_>>()?,
            },
            down: record.down,
            read_only_reason: record.read_only_reason,
            down_since: record.down_since.map(Timestamp),
            draining: record.draining,
            lost: record.lost,
            read_only_since: record.read_only_since.map(Timestamp),
        })
    }
}
