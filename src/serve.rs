//! What every server does alike: HTTP/2 settings, health, reflection, and a shutdown that ends.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, unix::pipe},
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    service::{Routes, RoutesBuilder},
    transport::{Channel, Endpoint, Server},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::{Common, MetricsListen},
    metrics::{self, Metrics, grpc::Calls},
    pb,
    status::dress::Dress,
};

/// Measured: the receiver's frame size is the lever on throughput, windows matter once bandwidth × delay passes 1 MiB.
const FRAME_SIZE_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// A peer that is cut off without a FIN is noticed after this and the time-out.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Per connection: a client that opens more waits for one to end.
const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// How long calls under way may go on after a shutdown was asked for; long-lived streams end by themselves before.
const DRAIN: Duration = Duration::from_secs(5);
/// The same where somebody waits for the peer's next word and has another one to turn to.
const WATCHFUL_INTERVAL: Duration = Duration::from_millis(500);
const WATCHFUL_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What every server offers beside its own services.
const SERVED_EVERYWHERE: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The services of one process, and whether they are ready to be used.
pub struct Services {
    routes: RoutesBuilder,
    health: HealthReporter,
    names: Vec<&'static str>,
    metrics: Metrics,
    /// Where the metrics are served; `None`: nowhere.
    metrics_listen: Option<MetricsListen>,
    is_ready: Arc<AtomicBool>,
}

/// Tells clients that ask `grpc.health.v1.Health` whether the process serves.
#[derive(Clone)]
pub struct Readiness {
    health: HealthReporter,
    names: Vec<&'static str>,
    is_ready: Arc<AtomicBool>,
}

impl Readiness {
    pub async fn set(&self, status: ServingStatus) {
        for name in self.names.iter().copied().chain([""]) {
            self.health.set_service_status(name, status).await;
        }
        self.is_ready.store(status == ServingStatus::Serving, Ordering::Relaxed);
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

impl Services {
    /// With health; nothing is ready yet.
    pub fn new() -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(health_service);
        Self {
            routes,
            health,
            names: Vec::new(),
            metrics: Metrics::new(),
            metrics_listen: None,
            is_ready: Arc::default(),
        }
    }

    /// As a server is told to: its metrics are served beside.
    pub fn of(common: &Common) -> Self {
        Self { metrics_listen: common.metrics_listen(), ..Self::new() }
    }

    /// What the process counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Adds a generated server.
    pub fn add<S>(&mut self, service: S) -> &mut Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Begins as not serving.
    pub async fn readiness(&self) -> Readiness {
        let (health, names, is_ready) = (self.health.clone(), self.names.clone(), self.is_ready.clone());
        let readiness = Readiness { health, names, is_ready };
        readiness.set(ServingStatus::NotServing).await;
        readiness
    }

    /// Serves, with reflection beside, until `shutdown`, then for at most [`DRAIN`] longer.
    pub async fn serve(mut self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.add_reflection()?;
        let calls = self.count_calls()?;
        let _metrics = self.serve_metrics().await?;
        let routes: Routes = self.routes.routes();
        let server = Server::builder()
            .max_frame_size(FRAME_SIZE_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
            .tcp_nodelay(true)
            .layer(calls)
            .layer(Dress)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.clone().cancelled_owned());
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = server => served.context("serve gRPC"),
            () = drained => {
                tracing::warn!("calls were still under way when the time to drain was over");
                Ok(())
            }
        }
    }

    fn count_calls(&self) -> anyhow::Result<Calls> {
        let names: Vec<&str> = self.names.iter().copied().chain(SERVED_EVERYWHERE).collect();
        let descriptors = [
            pb::DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        Calls::new(&self.metrics, &descriptors, &names).context("the descriptors of the services")
    }

    /// Until what it answers is dropped. An address that was asked for must be free; without the one that follows from the
    /// server's own a server can do, and its files matter more.
    async fn serve_metrics(&self) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
        let Some(MetricsListen { address, is_given }) = self.metrics_listen else { return Ok(None) };
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if is_given => return Err(error).with_context(|| format!("serve metrics on {address}")),
            Err(error) => {
                tracing::error!(%error, %address, "metrics are not served: choose an address with --metrics-listen");
                return Ok(None);
            }
        };
        tracing::info!(address = %listener.local_addr()?, "metrics are served");
        let is_ready = self.is_ready.clone();
        let serving = metrics::serve(listener, self.metrics.clone(), move || is_ready.load(Ordering::Relaxed));
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(serving))))
    }

    /// v1 and v1alpha, for the services of this process alone; the types of error details can be asked for too.
    fn add_reflection(&mut self) -> anyhow::Result<()> {
        let names = self.names.iter().copied().chain(SERVED_EVERYWHERE);
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
                .include_reflection_service(false)
        };
        let builder = || names.clone().fold(described(), |builder, name| builder.with_service_name(name));
        self.routes.add_service(builder().build_v1().context("reflection v1")?);
        self.routes.add_service(builder().build_v1alpha().context("reflection v1alpha")?);
        Ok(())
    }
}

/// A channel to `address` (`host:port`), connected when first used, with the settings that fit our servers.
///
/// Bulk data, control and lock keep-alive each want their own: one connection is one task on each side.
pub fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(address)?;
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE_INTERVAL).keep_alive_timeout(KEEP_ALIVE_TIMEOUT).connect_lazy())
}

/// As [`channel`], for streams that mostly wait: a peer that is stopped or cut off is noticed in a second or two, though
/// nothing was asked of it.
pub fn watchful_channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(address)?;
    Ok(endpoint.http2_keep_alive_interval(WATCHFUL_INTERVAL).keep_alive_timeout(WATCHFUL_TIMEOUT).connect_lazy())
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_SIZE_BYTES)
        .keep_alive_while_idle(true))
}

/// Cancelled by SIGTERM or SIGINT, and by the end of the process that started this one where it asked for that.
///
/// A pipe tells of a parent that was killed as well as of one that left, needs no polling, and no `unsafe` between
/// fork and exec; a parent-death signal would come when the *thread* ends that forked.
pub fn shutdown_on_signal(common: &Common) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let parent = common.stop_with_parent.then(parent_pipe).transpose()?;
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        let cause = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = closed(parent) => "the end of the process that started this one",
        };
        tracing::info!(cause, "told to stop");
        shutdown.cancel();
    });
    Ok(token)
}

fn parent_pipe() -> anyhow::Result<pipe::Receiver> {
    let input = io::stdin().as_fd().try_clone_to_owned().context("--stop-with-parent: standard input")?;
    pipe::Receiver::from_owned_fd(input).context("--stop-with-parent needs a pipe as standard input")
}

/// Waits until nobody holds the other end; for ever when there is no pipe.
async fn closed(parent: Option<pipe::Receiver>) {
    let Some(mut pipe) = parent else { return std::future::pending().await };
    let mut ignored = [0; 64];
    while pipe.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_parent_is_gone_when_its_end_of_the_pipe_closes() {
        let (sender, receiver) = pipe::pipe().expect("a pipe");
        let mut gone = std::pin::pin!(closed(Some(receiver)));
        assert!(futures::poll!(&mut gone).is_pending(), "the sender is still there");
        drop(sender);
        gone.await;
    }
}
