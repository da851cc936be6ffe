//! `dev status`: which servers of a folder's cluster run, and whether they serve.

use std::path::Path;

use serde::Serialize;

use super::{
    folder::{Running, RunningServer, read_record},
    probe::{self, Answer},
};
use crate::cli::{output::Row, table::Column};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    server_id: String,
    pid: i32,
    address: String,
    /// `serving`, `not serving`, `silent`; `ended` when its process is gone.
    state: String,
    log: String,
    #[serde(skip)]
    pub is_serving: bool,
}

impl Row for ServerStatus {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::right("PID"),
        Column::left("ADDRESS"),
        Column::left("STATE"),
        Column::left("LOG"),
    ];

    fn cells(&self) -> Vec<String> {
        let Self { server_id, pid, address, state, log, .. } = self;
        vec![server_id.clone(), pid.to_string(), address.clone(), state.clone(), log.clone()]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

/// `None` when no cluster runs on the folder.
pub async fn of_folder(data: &Path) -> anyhow::Result<Option<Vec<ServerStatus>>> {
    let running = read_record(data)?.and_then(|record| record.running).filter(Running::is_alive);
    let Some(running) = running else { return Ok(None) };
    let mut servers = Vec::with_capacity(running.servers.len());
    for server in &running.servers {
        servers.push(of_server(server).await);
    }
    Ok(Some(servers))
}

async fn of_server(server: &RunningServer) -> ServerStatus {
    let answer = match server.process.is_alive() {
        true => Some(probe::ask(&server.address, &server.service).await),
        false => None,
    };
    ServerStatus {
        server_id: server.name.clone(),
        pid: server.process.pid,
        address: server.address.clone(),
        state: answer.map_or_else(|| "ended".to_owned(), |answer| answer.to_string()),
        log: server.log.display().to_string(),
        is_serving: answer == Some(Answer::Serving),
    }
}
