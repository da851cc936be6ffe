//! The Lock service: sessions with leases, locks in order of arrival, and fencing tokens that the storage enforces.
//!
//! A lease alone cannot exclude: a holder that was paused past it may still write before its successor does. So when a
//! lock passes on because its holder expired or was broken, the Directory is first told to refuse older tokens, and only then
//! is anybody granted. A clean release costs nothing extra.
//!
//! [`state`] decides, in memory and without a clock; [`driver`] feeds it, writes through to [`tables`] what it changed, and
//! then tells whoever waits. Everything acknowledged survives a restart but the leases' remaining time: every session
//! starts with a fresh lease. The modules, in reading order:

pub mod command;
pub mod error;
pub mod state;
pub mod wait_queue;

pub mod session;

pub mod clock;

mod tables;

mod handle;

mod driver;
#[cfg(test)]
mod driver_tests;
mod fan_out;
mod fence;

mod convert;
mod service;
mod streams;

mod member;

mod metrics;

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::{config::LockOptions, durable::DataDir, pb::lock_server::LockServer, serve::Services};

use driver::Driver;
use fence::Directories;
use member::Member;
use service::Service;
use tables::Store;

/// Serves until `shutdown`.
///
/// Not ready before the Directory has been reached once in the life of the data folder; then without it too.
pub async fn run(options: LockOptions, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the address listened on")?;
    let data = options.common.data.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let folder = DataDir::open(&data, "lock")?;
        let (store, state) = Store::open(&data)?;
        anyhow::Ok((folder, store, state))
    });
    let (folder, store, state) = opened.await?.with_context(|| format!("open {}", options.common.data.display()))?;
    let directories = Arc::new(Directories::new(&options.directory).context("the Directory's address")?);
    let joined = state.membership().is_some();
    tracing::info!(%address, revision = %state.revision(), joined, "the Lock service starts");

    let stop = shutdown.child_token();
    let (driver, handle) = Driver::new(state, store, directories.clone());
    let mut services = Services::of(&options.common);
    let server = options.common.id.clone();
    handle.counts.register(services.metrics());
    services.add(LockServer::new(Service::new(handle.clone(), server.clone(), stop.clone())));
    let readiness = services.readiness().await;
    if joined {
        readiness.set(ServingStatus::Serving).await;
    }
    let member = Member {
        handle,
        directories,
        folder,
        readiness,
        server,
        address: options.common.advertised(address),
        external_address: options.common.advertised_external(address),
    };
    // Whichever ends first, by itself or by an error, ends the others; the driver last, so that calls under way are answered.
    let served = CancellationToken::new();
    let driving = async {
        let driven = driver.run(served.clone()).await;
        stop.cancel();
        driven
    };
    let belonging = async {
        let belonged = member.run(stop.clone()).await;
        stop.cancel();
        belonged
    };
    let serving = async {
        let ended = services.serve(listener, stop.clone()).await;
        stop.cancel();
        served.cancel();
        ended
    };
    tokio::try_join!(driving, belonging, serving)?;
    tracing::info!("the Lock service has stopped");
    Ok(())
}
