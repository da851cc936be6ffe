//! The Lock service's gRPC handlers: parse, ask the driver, answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    convert::{path, session_id},
    lock::{
        command::IfHeld,
        convert::{self, lock_info},
        error::Error,
        handle::Handle,
        streams::{self, EventStream},
    },
    pb::{self, lock_server::Lock},
    status::Failure,
    types::ServerId,
};

pub(super) struct Service {
    handle: Handle,
    headers: Headers,
    /// Streams that wait for their clients end with it.
    shutdown: CancellationToken,
}

/// Makes the header of every answer.
#[derive(Clone)]
pub(super) struct Headers {
    handle: Handle,
    server: ServerId,
}

impl Headers {
    pub fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.handle.cluster().map_or_else(String::new, |cluster| cluster.to_string()),
            server_id: self.server.to_string(),
            revision: self.handle.revision().0,
            term: 0,
        })
    }
}

impl Service {
    pub fn new(handle: Handle, server: ServerId, shutdown: CancellationToken) -> Self {
        Self { headers: Headers { handle: handle.clone(), server }, handle, shutdown }
    }

    /// What a stream takes along.
    fn parts(&self) -> (Handle, Headers, CancellationToken) {
        (self.handle.clone(), self.headers.clone(), self.shutdown.clone())
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
        let ttl_ms = self.handle.open_session(session, ttl_ms, request.client).await?;
        let (header, session_id) = (self.headers.header(), session.to_string());
        Ok(Response::new(pb::OpenSessionResponse { header, session_id, ttl_ms }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (handle, headers, shutdown) = self.parts();
        Ok(Response::new(streams::keep_alive(request.into_inner(), handle, headers, shutdown)))
    }

    async fn close_session(
        &self,
        request: Request<pb::CloseSessionRequest>,
    ) -> Result<Response<pb::CloseSessionResponse>, Status> {
        let session = session_id("session_id", &request.into_inner().session_id)?;
        self.handle.close_session(session).await?;
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
        let waiting = self.handle.counts.wait();
        let wait = self.handle.acquire(session, path.clone(), mode, if_held).await?;
        let limit = request.wait_ms.map(Duration::from_millis);
        let claim = (session, path);
        let (handle, headers, shutdown) = self.parts();
        Ok(Response::new(streams::acquire((wait, waiting), claim, limit, handle, headers, shutdown)))
    }

    async fn release_lock(
        &self,
        request: Request<pb::ReleaseLockRequest>,
    ) -> Result<Response<pb::ReleaseLockResponse>, Status> {
        let request = request.into_inner();
        let (session, path) = convert::session_and_path(&request.session_id, &request.path)?;
        self.handle.release(session, path, convert::token(request.fencing_token)).await?;
        Ok(Response::new(pb::ReleaseLockResponse { header: self.headers.header() }))
    }

    async fn get_lock(&self, request: Request<pb::GetLockRequest>) -> Result<Response<pb::GetLockResponse>, Status> {
        let path = path("path", &request.into_inner().path)?;
        let sighting = self.handle.view(path).await?;
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
        let (sightings, more) = self.handle.list(under, after, limit).await?;
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
        let changes = self.handle.watch(path.clone()).await?;
        let (handle, headers, shutdown) = self.parts();
        Ok(Response::new(streams::watch(changes, path, handle, headers, shutdown)))
    }

    async fn break_lock(
        &self,
        request: Request<pb::BreakLockRequest>,
    ) -> Result<Response<pb::BreakLockResponse>, Status> {
        let request = request.into_inner();
        let path = path("path", &request.path)?;
        let token = self.handle.break_lock(path, convert::token(request.fencing_token)).await?;
        Ok(Response::new(pb::BreakLockResponse { header: self.headers.header(), fencing_token: token.0 }))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}
