//! The Lock service's gRPC handlers: parse, ask the driver, answer.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    convert::{path, session_id},
    lock::{
        command::IfHeld,
        convert::{self, lock_info},
        error::Error,
        machine::Progress,
        metrics::Counts,
        part::Door,
        streams::{self, EventStream},
    },
    pb::{self, lock_server::Lock},
    raft::Group,
    status::Failure,
    types::ServerId,
};

pub(super) struct Service {
    door: Door,
    headers: Headers,
    counts: Counts,
}

/// Makes the header of every answer.
#[derive(Clone)]
pub(super) struct Headers {
    server: ServerId,
    node: Arc<OnceLock<(Arc<Group>, watch::Receiver<Progress>)>>,
}

/// Where headers get what they say from, once that is known.
pub(super) struct Known(Headers);

pub(super) fn headers(server: ServerId) -> (Headers, Known) {
    let headers = Headers { server, node: Arc::default() };
    (headers.clone(), Known(headers))
}

impl Known {
    pub fn tell(self, group: Arc<Group>, progress: watch::Receiver<Progress>) {
        self.0.node.get_or_init(|| (group, progress));
    }
}

impl Headers {
    pub fn header(&self) -> Option<pb::ResponseHeader> {
        let (progress, term) = match self.node.get() {
            Some((group, progress)) => (*progress.borrow(), group.term()),
            None => (Progress::default(), 0),
        };
        Some(pb::ResponseHeader {
            cluster_id: progress.membership.map_or_else(String::new, |membership| membership.cluster.to_string()),
            server_id: self.server.to_string(),
            revision: progress.revision.0,
            term,
        })
    }
}

impl Service {
    pub fn new(door: Door, headers: Headers, counts: Counts) -> Self {
        Self { door, headers, counts }
    }
}

#[tonic::async_trait]
impl Lock for Service {
    type KeepAliveStream = EventStream<pb::KeepAliveResponse>;
    type AcquireLockStream = EventStream<pb::AcquireLockResponse>;
    type WatchLockStream = EventStream<pb::WatchLockResponse>;

    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let session = session_id("session_id", &request.session_id)?;
        let ttl_ms = convert::ttl_ms(request.ttl_ms);
        let ttl_ms = self.door.enter()?.open_session(session, ttl_ms, request.client).await?;
        let (header, session_id) = (self.headers.header(), session.to_string());
        Ok(Response::new(pb::OpenSessionResponse { header, session_id, ttl_ms }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let handle = self.door.enter()?;
        Ok(Response::new(streams::keep_alive(request.into_inner(), handle, self.headers.clone())))
    }

    async fn close_session(
        &self,
        request: Request<pb::CloseSessionRequest>,
    ) -> Result<Response<pb::CloseSessionResponse>, Status> {
        let session = session_id("session_id", &request.into_inner().session_id)?;
        self.door.enter()?.close_session(session).await?;
        Ok(Response::new(pb::CloseSessionResponse { header: self.headers.header() }))
    }

    async fn acquire_lock(
        &self,
        request: Request<pb::AcquireLockRequest>,
    ) -> Result<Response<Self::AcquireLockStream>, Status> {
        let request = request.into_inner();
        let (session, path) = convert::session_and_path(&request.session_id, &request.path)?;
        let mode = convert::mode("mode", request.mode)?;
        let if_held = if request.wait_ms == Some(0) { IfHeld::Refuse } else { IfHeld::Queue };
        let handle = self.door.enter()?;
        let waiting = self.counts.wait();
        let wait = handle.acquire(session, path.clone(), mode, if_held).await?;
        let limit = request.wait_ms.map(Duration::from_millis);
        let claim = (session, path);
        Ok(Response::new(streams::acquire((wait, waiting), claim, limit, handle, self.headers.clone())))
    }

    async fn release_lock(
        &self,
        request: Request<pb::ReleaseLockRequest>,
    ) -> Result<Response<pb::ReleaseLockResponse>, Status> {
        let request = request.into_inner();
        let (session, path) = convert::session_and_path(&request.session_id, &request.path)?;
        self.door.enter()?.release(session, path, convert::token(request.fencing_token)).await?;
        Ok(Response::new(pb::ReleaseLockResponse { header: self.headers.header() }))
    }

    async fn get_lock(&self, request: Request<pb::GetLockRequest>) -> Result<Response<pb::GetLockResponse>, Status> {
        let path = path("path", &request.into_inner().path)?;
        let sighting = self.door.enter()?.view(path).await?;
        let lock = Some(lock_info(sighting));
        Ok(Response::new(pb::GetLockResponse { header: self.headers.header(), lock }))
    }

    async fn list_locks(
        &self,
        request: Request<pb::ListLocksRequest>,
    ) -> Result<Response<pb::ListLocksResponse>, Status> {
        let request = request.into_inner();
        let under = path("path", &request.path)?;
        let after = convert::page_token(&request.page_token)?;
        let limit = convert::page_size(request.page_size);
        let (sightings, more) = self.door.enter()?.list(under, after, limit).await?;
        let locks: Vec<pb::LockInfo> = sightings.into_iter().map(lock_info).collect();
        let last = locks.last().filter(|_| more);
        let next_page_token = last.map_or_else(String::new, |lock| lock.path.clone());
        Ok(Response::new(pb::ListLocksResponse { header: self.headers.header(), locks, next_page_token }))
    }

    async fn watch_lock(
        &self,
        request: Request<pb::WatchLockRequest>,
    ) -> Result<Response<Self::WatchLockStream>, Status> {
        let path = path("path", &request.into_inner().path)?;
        let handle = self.door.enter()?;
        let changes = handle.watch(path.clone()).await?;
        Ok(Response::new(streams::watch(changes, path, handle, self.headers.clone())))
    }

    async fn break_lock(
        &self,
        request: Request<pb::BreakLockRequest>,
    ) -> Result<Response<pb::BreakLockResponse>, Status> {
        let request = request.into_inner();
        let path = path("path", &request.path)?;
        let token = self.door.enter()?.break_lock(path, convert::token(request.fencing_token)).await?;
        Ok(Response::new(pb::BreakLockResponse { header: self.headers.header(), fencing_token: token.0 }))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}
