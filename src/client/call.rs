//! Calls of the Directory and of the Lock service: with a deadline for each try, and again where that can help.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tonic::{Request, Response, Status, transport::Channel};

use super::{
    Client, Error,
    channels::{Channels, Purpose},
    convert,
    map::{Endpoints, leader},
    retry::{Tries, jitter},
};
use crate::{
    cluster::ClusterMap,
    convert::{cluster::cluster_map, stamp::Stamp},
    pb::{self, cluster_client::ClusterClient, directory_client::DirectoryClient, lock_client::LockClient},
    status::Reason,
};

/// For one try of a call about metadata.
pub(super) const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where another server may answer: one that is stopped or cut off is given up soon, and nothing happens twice.
pub(super) const TRY_TIMEOUT_AMONG_SEVERAL: Duration = Duration::from_millis(1500);
/// Who waits for so long asks the other nodes who leads, and again after as long: one that hangs or is cut off breaks no
/// connection.
const ASK_AFTER: Duration = Duration::from_millis(400);
const ASK_TIMEOUT: Duration = Duration::from_millis(400);
/// Room for the map of the largest cluster, and for a version of the most extents.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

pub(super) fn directory_client(channel: Channel) -> DirectoryClient<Channel> {
    DirectoryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(super) fn cluster_client(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(super) fn lock_client(channel: Channel) -> LockClient<Channel> {
    LockClient::new(channel)
}

/// One try, bounded by `timeout`: a call that is given up is cancelled at the server too. Bounds the beginning of a stream,
/// not its length.
pub(super) async fn attempt<R, T, Fut>(
    what: &str,
    timeout: Duration,
    request: R,
    call: impl FnOnce(Request<R>) -> Fut,
) -> Result<T, Error>
where
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    match tokio::time::timeout(timeout, call(Request::new(request))).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| match Error::from(status) {
            // Which says by itself what it is about.
            answer if answer.is_answer() => answer,
            broken => broken.during(what),
        }),
        Err(_) => Err(Error::silence(timeout, what)),
    }
}

/// A service of which there may be several servers, and how to reach the one that answers.
pub(super) struct Service<'a> {
    pub(super) endpoints: &'a Endpoints,
    pub(super) known: Vec<String>,
    pub(super) channels: &'a Channels,
    /// For one try.
    pub(super) try_timeout: Duration,
    /// How one of its servers is asked who leads.
    pub(super) who_leads: WhoLeads,
    /// The cluster that is meant, where it is known.
    pub(super) stamp: Stamp,
}

pub(super) type WhoLeads = for<'a> fn(&'a Service<'_>, &'a str) -> BoxFuture<'a, Option<String>>;

impl<'a> Service<'a> {
    pub(super) fn directory(
        endpoints: &'a Endpoints,
        known: Vec<String>,
        channels: &'a Channels,
        stamp: Stamp,
    ) -> Self {
        Self { endpoints, known, channels, try_timeout: TRY_TIMEOUT, who_leads: who_leads_directory, stamp }
    }

    pub(super) fn has_several(&self) -> bool {
        self.known.len() > 1
    }

    /// Calls until there is an answer that no further try can change, or the deadline has passed.
    pub(super) async fn call<R, T, F, Fut>(
        &self,
        what: &str,
        deadline: Instant,
        purpose: Purpose,
        request: R,
        call: F,
    ) -> Result<T, Error>
    where
        R: Clone,
        F: Fn(Channel, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries::among(self.known.len(), deadline);
        let mut strangers = 0;
        loop {
            let Some(address) = self.endpoints.current(&self.known) else {
                return Err(Error::unreachable(format_args!("{what}: no server for it is known")));
            };
            let channel = self.channels.get(&address, purpose)?;
            let timeout = self.try_timeout.min(tries.remaining(Instant::now()));
            let what = format!("{what} at {address}");
            let stamped = |mut request: Request<R>| {
                self.stamp.put(&mut request);
                call(channel, request)
            };
            let tried = tokio::select! {
                tried = attempt(&what, timeout, request.clone(), stamped) => tried,
                () = self.superseded(&address) => Err(Error::unreachable(format_args!("{what}: another node leads now"))),
            };
            let error = match tried {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Another cluster has come to be at this address: the cluster that is meant is at another one, if anywhere.
            strangers += u32::from(error.reason() == Reason::OtherCluster);
            if error.reason() == Reason::OtherCluster && (strangers as usize) < self.known.len() {
                tracing::warn!(%address, %error, "trying elsewhere");
                self.endpoints.heed(&address, &error, &self.known);
                continue;
            }
            let Some(delay) = tries.after(&error, Instant::now(), jitter()) else { return Err(tries.given_up(error)) };
            tracing::debug!(%address, %error, ?delay, "trying again");
            self.endpoints.heed(&address, &error, &self.known);
            tokio::time::sleep(delay).await;
        }
    }

    /// Completes when another node than `address` leads the service, at the earliest after a moment.
    pub(super) async fn superseded(&self, address: &str) {
        loop {
            tokio::time::sleep(ASK_AFTER).await;
            if self.endpoints.current(&self.known).is_some_and(|current| current != address) {
                return;
            }
            let others = self.known.iter().filter(|known| *known != address);
            let mut named: FuturesUnordered<_> = others.map(|other| (self.who_leads)(self, other)).collect();
            while let Some(leader) = named.next().await {
                if let Some(leader) = leader.filter(|leader| leader != address) {
                    tracing::debug!(address, leader, "another node leads now");
                    self.endpoints.failed(address, Some(&leader), &self.known);
                    return;
                }
            }
        }
    }
}

/// Who leads the Lock service, by the word of one of its nodes.
fn who_leads_lock<'a>(service: &'a Service<'_>, node: &'a str) -> BoxFuture<'a, Option<String>> {
    async move {
        let channel = service.channels.get(node, Purpose::Control).ok()?;
        let call = |request| async move { lock_client(channel).get_lock(request).await };
        let request = pb::GetLockRequest { path: "/".to_owned() };
        named(service, node, attempt("ask who leads", ASK_TIMEOUT, request, call).await)
    }
    .boxed()
}

/// Who leads the Directory, by the word of one of its nodes.
fn who_leads_directory<'a>(service: &'a Service<'_>, node: &'a str) -> BoxFuture<'a, Option<String>> {
    async move {
        let channel = service.channels.get(node, Purpose::Control).ok()?;
        let call = |mut request| async move {
            // Another cluster's leader is none.
            service.stamp.put(&mut request);
            directory_client(channel).get_cluster_map(request).await
        };
        named(service, node, attempt("ask who leads", ASK_TIMEOUT, pb::GetClusterMapRequest {}, call).await)
    }
    .boxed()
}

/// Who a node says leads: itself, when it answers.
fn named<T>(service: &Service<'_>, node: &str, answer: Result<T, Error>) -> Option<String> {
    match answer {
        Ok(_) => Some(node.to_owned()),
        Err(error) => leader(&error, &service.known).map(str::to_owned),
    }
}

/// The cluster map, asked for.
pub(super) async fn fetch_map(directory: &Service<'_>, deadline: Instant) -> Result<ClusterMap, Error> {
    let request = pb::GetClusterMapRequest {};
    let call = |channel, request| async move { directory_client(channel).get_cluster_map(request).await };
    let answer = directory.call("get the cluster map", deadline, Purpose::Control, request, call).await?;
    cluster_map(&convert::required("cluster_map", answer.cluster_map)?).map_err(convert::unread)
}

impl Client {
    /// When a call that begins now must have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    pub(super) fn directory_service(&self) -> Service<'_> {
        let inner = &self.inner;
        let (known, stamp) = (inner.map.directory_addresses(), inner.map.stamp());
        Service::directory(&inner.directory_endpoints, known, &inner.channels, stamp)
    }

    pub(super) fn lock_service(&self) -> Service<'_> {
        let inner = &self.inner;
        let known = inner.options.lock.clone().unwrap_or_else(|| inner.map.view().lock_addresses());
        let try_timeout = if known.len() > 1 { TRY_TIMEOUT_AMONG_SEVERAL } else { TRY_TIMEOUT };
        let (endpoints, channels) = (&inner.lock_endpoints, &*inner.channels);
        Service { endpoints, known, channels, try_timeout, who_leads: who_leads_lock, stamp: inner.map.stamp() }
    }

    /// A call of a service that the Directory serves.
    pub(super) async fn directory<R, T, F, Fut>(&self, what: &str, request: R, call: F) -> Result<T, Error>
    where
        R: Clone,
        F: Fn(Channel, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.directory_service().call(what, self.deadline(), Purpose::Control, request, call).await
    }

    /// A call of the Lock service.
    pub(super) async fn lock<R, T, F, Fut>(&self, what: &str, request: R, call: F) -> Result<T, Error>
    where
        R: Clone,
        F: Fn(Channel, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.lock_service().call(what, self.deadline(), Purpose::Control, request, call).await
    }

    /// The cluster map as the Directory has it now.
    pub async fn refresh_map(&self) -> Result<Arc<ClusterMap>, Error> {
        let map = fetch_map(&self.directory_service(), self.deadline()).await?;
        self.inner.map.offer(map)?;
        Ok(self.cluster_map())
    }
}
