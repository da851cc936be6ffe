//! A Directory in this process.

use std::path::Path;

use clap::Parser;
use dfs::{
    config::DirectoryOptions,
    pb::{cluster_client::ClusterClient, directory_client::DirectoryClient},
    serve,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::within_deadline;

pub struct RunningDirectory {
    pub address: String,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// As a process would be started, on a port of the system's choice, with few groups.
pub fn some_options(data: &Path, more: &[&str]) -> DirectoryOptions {
    let data = data.to_str().expect("a path of text");
    let fixed = ["dfs-directory", "--id", "directory-1", "--listen", "127.0.0.1:0", "--groups", "4", "--data", data];
    DirectoryOptions::parse_from(fixed.iter().chain(more))
}

/// Starts one and waits until it serves.
pub async fn start_directory(data: &Path, more: &[&str]) -> RunningDirectory {
    start_directory_at("127.0.0.1:0", data, more).await
}

pub async fn start_directory_at(address: &str, data: &Path, more: &[&str]) -> RunningDirectory {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("the port's address").to_string();
    let shutdown = CancellationToken::new();
    let options = some_options(data, more);
    let task = tokio::spawn(dfs::directory::run(options, listener, shutdown.clone()));
    let running = RunningDirectory { address, shutdown, task };
    within_deadline("serving", running.wait_until_serving()).await;
    running
}

impl RunningDirectory {
    pub fn directory(&self) -> DirectoryClient<Channel> {
        DirectoryClient::new(self.channel())
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        serve::channel(&self.address).expect("an address")
    }

    async fn wait_until_serving(&self) {
        let request = HealthCheckRequest { service: "dfs.v1.Directory".to_owned() };
        let watched = HealthClient::new(self.channel()).watch(request).await;
        let mut statuses = watched.expect("health is answered").into_inner();
        while let Some(status) = statuses.message().await.expect("health goes on") {
            if status.status == i32::from(ServingStatus::Serving) {
                return;
            }
        }
        panic!("the Directory stopped before it served");
    }

    /// Stops it and waits until everything is closed.
    pub async fn stop(mut self) {
        self.stop_here().await;
    }

    /// As [`Self::stop`], of one that is started again in the same place.
    pub async fn stop_here(&mut self) {
        self.shutdown.cancel();
        within_deadline("stopping", &mut self.task).await.expect("no panic").expect("a clean end");
    }
}
