//! The cluster map as the tables have it; what servers say about themselves is added when it is sent.

use super::{
    command::ServerKind,
    error::{Error, Rejected},
    model::ServerRecord,
    view::View,
};
use crate::cluster::{ClusterMap, Server, ServerState};

/// The map of this snapshot.
pub fn load(view: &View) -> Result<ClusterMap, Error> {
    let cluster = view.cluster().ok_or(Rejected::NotBootstrapped)?;
    let groups = view.groups()?;
    let mut map = ClusterMap {
        map_version: view.map_version(),
        cluster: cluster.cluster,
        group_count: groups.len() as u32,
        groups: groups.into_iter().map(|group| (group.group, group)).collect(),
        servers: Default::default(),
        lock_servers: Vec::new(),
        directory_servers: Vec::new(),
        copies: cluster.settings.copies,
        min_in_sync: cluster.settings.min_in_sync,
    };
    for record in view.servers()? {
        let (kind, server) = (record.registration.kind, server(record));
        match kind {
            ServerKind::FileServer => drop(map.servers.insert(server.server.clone(), server)),
            ServerKind::Lock => map.lock_servers.push(server),
            ServerKind::Directory => map.directory_servers.push(server),
        }
    }
    for group in map.groups.values() {
        for member in &group.members {
            if let Some(server) = map.servers.get_mut(member) {
                server.group_count += 1;
                server.lead_count += u32::from(group.is_primary(member));
            }
        }
    }
    Ok(map)
}

fn server(record: ServerRecord) -> Server {
    let state = match &record {
        ServerRecord { down: true, .. } => ServerState::Down,
        ServerRecord { draining: true, .. } => ServerState::Draining,
        ServerRecord { .. } => ServerState::Up,
    };
    let registration = record.registration;
    Server {
        server: registration.server,
        state,
        address: registration.address,
        external_address: registration.external_address,
        zone: registration.zone,
        disk_used_bytes: 0,
        disk_total_bytes: 0,
        blob_count: 0,
        last_seen: None,
        software_version: registration.software_version,
        read_only_reason: record.read_only_reason,
        stored_bytes: 0,
        draining: record.draining,
        down_since: record.down_since.filter(|_| record.down),
        group_count: 0,
        lead_count: 0,
    }
}
