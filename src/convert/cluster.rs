//! The cluster map on the wire and as plain data.

use super::{cluster_id, optional_server_id, optional_timestamp, server_id};
use crate::{
    cluster::{ClusterMap, Group, Replacement, Server, ServerState},
    pb,
    status::Failure,
    types::{Epoch, GroupId, ServerId},
};

fn server_ids(field: &str, texts: &[String]) -> Result<Vec<ServerId>, Failure> {
    texts.iter().map(|text| server_id(field, text)).collect()
}

pub fn group(group: &pb::Group) -> Result<Group, Failure> {
    let leaving = optional_server_id("group.leaving", &group.leaving)?;
    let arriving = optional_server_id("group.arriving", &group.arriving)?;
    Ok(Group {
        group: GroupId(group.group),
        epoch: Epoch(group.epoch),
        members: server_ids("group.members", &group.members)?,
        in_sync: server_ids("group.in_sync", &group.in_sync)?,
        primary: optional_server_id("group.primary", &group.primary)?,
        replacement: leaving.zip(arriving).map(|(leaving, arriving)| Replacement { leaving, arriving }),
    })
}

impl From<&Group> for pb::Group {
    fn from(group: &Group) -> Self {
        let texts = |servers: &[ServerId]| servers.iter().map(ServerId::to_string).collect();
        let of_move = |who: fn(&Replacement) -> &ServerId| {
            group.replacement.as_ref().map(|replacement| who(replacement).to_string()).unwrap_or_default()
        };
        Self {
            group: group.group.0,
            epoch: group.epoch.0,
            members: texts(&group.members),
            in_sync: texts(&group.in_sync),
            primary: group.primary.as_ref().map(ServerId::to_string).unwrap_or_default(),
            leaving: of_move(|replacement| &replacement.leaving),
            arriving: of_move(|replacement| &replacement.arriving),
        }
    }
}

/// A state that is not known here is taken for down: nothing is sent to such a server.
fn server_state(state: i32) -> ServerState {
    match pb::ServerState::try_from(state) {
        Ok(pb::ServerState::Up) => ServerState::Up,
        Ok(pb::ServerState::Draining) => ServerState::Draining,
        Ok(pb::ServerState::Down | pb::ServerState::Unspecified) | Err(_) => ServerState::Down,
    }
}

pub fn server(server: &pb::Server) -> Result<Server, Failure> {
    Ok(Server {
        server: server_id("server.server_id", &server.server_id)?,
        state: server_state(server.state),
        address: server.address.clone(),
        external_address: server.external_address.clone(),
        zone: server.zone.clone(),
        disk_used_bytes: server.disk_used_bytes,
        disk_total_bytes: server.disk_total_bytes,
        blob_count: server.blob_count,
        last_seen: optional_timestamp("server.last_seen_time", server.last_seen_time.as_ref())?,
        software_version: server.software_version.clone(),
        read_only_reason: server.read_only_reason.clone(),
        stored_bytes: server.stored_bytes,
        draining: server.draining,
        down_since: optional_timestamp("server.down_since_time", server.down_since_time.as_ref())?,
        group_count: server.group_count,
        lead_count: server.lead_count,
    })
}

impl From<&Server> for pb::Server {
    fn from(server: &Server) -> Self {
        let state = match server.state {
            ServerState::Up => pb::ServerState::Up,
            ServerState::Down => pb::ServerState::Down,
            ServerState::Draining => pb::ServerState::Draining,
        };
        Self {
            server_id: server.server.to_string(),
            state: state.into(),
            address: server.address.clone(),
            external_address: server.external_address.clone(),
            zone: server.zone.clone(),
            disk_used_bytes: server.disk_used_bytes,
            disk_total_bytes: server.disk_total_bytes,
            blob_count: server.blob_count,
            last_seen_time: server.last_seen.map(Into::into),
            software_version: server.software_version.clone(),
            read_only_reason: server.read_only_reason.clone(),
            stored_bytes: server.stored_bytes,
            draining: server.draining,
            down_since_time: server.down_since.map(Into::into),
            group_count: server.group_count,
            lead_count: server.lead_count,
        }
    }
}

fn servers(list: &[pb::Server]) -> Result<Vec<Server>, Failure> {
    list.iter().map(server).collect()
}

pub fn cluster_map(map: &pb::ClusterMap) -> Result<ClusterMap, Failure> {
    let groups = map.groups.iter().map(|item| group(item).map(|group| (group.group, group)));
    let members = map.servers.iter().map(|item| server(item).map(|server| (server.server.clone(), server)));
    Ok(ClusterMap {
        map_version: map.map_version,
        cluster: cluster_id("cluster_map.cluster_id", &map.cluster_id)?,
        group_count: map.group_count,
        groups: groups.collect::<Result<_, _>>()?,
        servers: members.collect::<Result<_, _>>()?,
        lock_servers: servers(&map.lock_servers)?,
        directory_servers: servers(&map.directory_servers)?,
        copies: map.copies,
        min_in_sync: map.min_in_sync,
    })
}

impl From<&ClusterMap> for pb::ClusterMap {
    fn from(map: &ClusterMap) -> Self {
        let list = |servers: &[Server]| servers.iter().map(Into::into).collect();
        Self {
            map_version: map.map_version,
            cluster_id: map.cluster.to_string(),
            group_count: map.group_count,
            groups: map.groups.values().map(Into::into).collect(),
            servers: map.servers.values().map(Into::into).collect(),
            lock_servers: list(&map.lock_servers),
            directory_servers: list(&map.directory_servers),
            copies: map.copies,
            min_in_sync: map.min_in_sync,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, Timestamp};

    fn a_server(id: &str, state: ServerState) -> Server {
        Server {
            server: id.parse().unwrap(),
            state,
            address: "10.0.0.1:7072".into(),
            external_address: "localhost:7072".into(),
            zone: "east".into(),
            disk_used_bytes: 1,
            disk_total_bytes: 2,
            blob_count: 3,
            last_seen: Some(Timestamp(4)),
            software_version: "0.1.0".into(),
            read_only_reason: "disk full".into(),
            stored_bytes: 5,
            draining: true,
            down_since: Some(Timestamp(6)),
            group_count: 7,
            lead_count: 8,
        }
    }

    #[test]
    fn a_cluster_map_survives_the_wire() {
        let (a, b): (ServerId, ServerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let group = |number, primary: Option<ServerId>| Group {
            group: GroupId(number),
            epoch: Epoch(5),
            members: vec![a.clone(), b.clone()],
            in_sync: vec![b.clone()],
            replacement: primary.clone().map(|_| Replacement { leaving: b.clone(), arriving: a.clone() }),
            primary,
        };
        let map = ClusterMap {
            map_version: 9,
            cluster: ClusterId::random(),
            group_count: 2,
            groups: [group(0, Some(b.clone())), group(1, None)].map(|group| (group.group, group)).into(),
            servers: [a_server("a", ServerState::Down), a_server("b", ServerState::Up)]
                .map(|server| (server.server.clone(), server))
                .into(),
            lock_servers: vec![a_server("lock-1", ServerState::Draining)],
            directory_servers: vec![],
            copies: 2,
            min_in_sync: 1,
        };
        assert_eq!(cluster_map(&pb::ClusterMap::from(&map)), Ok(map));
    }

    #[test]
    fn a_map_without_a_cluster_is_refused() {
        assert!(cluster_map(&pb::ClusterMap::default()).is_err());
    }
}
