//! The Lock service: sessions with leases, locks in order of arrival, and fencing tokens that the storage enforces.
//!
//! A lease alone cannot exclude: a holder that was paused past it may still write before its successor does. So when a
//! lock passes on because its holder expired or was broken, the Directory is first told to refuse older tokens, and only then
//! is anybody granted. A clean release costs nothing extra.
//!
//! Several nodes make up one Lock service; of them one leads and answers. [`state`] decides, in memory and without a clock;
//! [`driver`] feeds it while this node leads, has the rows that come of it committed by the group ([`entry`], [`machine`]),
//! and then tells whoever waits. Everything acknowledged survives a restart and a change of the leader but the leases'
//! remaining time: then every session gets a fresh lease. The modules, in reading order:

pub mod command;
pub mod error;
pub mod state;
pub mod wait_queue;

pub mod session;

pub mod clock;

mod tables;

mod entry;
mod machine;

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

mod open;
mod part;

use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::{
    config::LockOptions,
    pb::{lock_server::LockServer, members_server::MembersServer, raft_server::RaftServer},
    raft::{self, Gate, MembersService, RaftService},
    serve::Services,
};

use fence::Directories;
use member::Member;
use part::{Door, Part};
use service::Service;

/// Serves until `shutdown`. Blocks nobody meanwhile: health is answered from the beginning, everything else once this node
/// knows its part.
///
/// Not ready before the Directory has been reached once in the life of the service; then without it too.
pub async fn run(options: LockOptions, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the address listened on")?;
    let directories = Arc::new(Directories::new(&options.directory).context("the Directory's address")?);
    let stop = shutdown.child_token();
    let (door, gate) = (Door::new(), Gate::default());
    let (headers, known) = service::headers(options.common.id.clone());
    let mut services = Services::of(&options.common);
    let counts = metrics::Counts::default();
    counts.register(services.metrics());
    services.add(LockServer::new(Service::new(door.clone(), headers, counts)));
    services.add(MembersServer::new(MembersService(gate.clone())));
    services.add(RaftServer::new(RaftService::new(gate.clone())).max_decoding_message_size(raft::MESSAGE_BYTES_MAX));
    let readiness = services.readiness().await;
    let families = services.metrics().clone();
    let serving = services.serve(listener, stop.clone());
    let served = CancellationToken::new();
    let serving = tokio::spawn({
        // However serving ends, everything else ends too.
        let ends = (stop.clone().drop_guard(), served.clone().drop_guard());
        serving.inspect(move |_| drop(ends))
    });

    let opened = open::open(&options, address, directories.clone()).await;
    let worked = match opened {
        Ok((node, folder)) => {
            let progress = node.machine.progress();
            tracing::info!(%address, revision = %progress.borrow().revision, "the Lock service starts");
            known.tell(node.group.clone(), progress.clone());
            gate.open(node.group.clone());
            node.group.register(&families);
            let member = Member {
                group: node.group.clone(),
                progress,
                door: door.clone(),
                directories,
                folder,
                server: options.common.id.clone(),
                address: options.common.advertised(address),
                external_address: options.common.advertised_external(address),
            };
            let belonging = tokio::spawn({
                let (stop, ends) = (stop.clone(), stop.clone().drop_guard());
                member.run(stop).inspect(move |_| drop(ends))
            });
            let (readiness, join, stop) = (readiness.clone(), node.join.clone(), stop.clone());
            let worked = Part { node, door, readiness, stop: stop.clone(), served }.play(join).await;
            stop.cancel();
            // The folder is let go last.
            worked.and(belonging.await.context("belong to a cluster")?)
        }
        Err(error) => Err(error),
    };
    stop.cancel();
    readiness.set(ServingStatus::NotServing).await;
    let served = serving.await.context("serve")?;
    tracing::info!("the Lock service has stopped");
    worked.and(served)
}
