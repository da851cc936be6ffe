//! A Lock service in this process, and clients of it.

use std::{path::Path, time::Duration};

use clap::Parser;
use dfs::{
    config::LockOptions,
    pb::{self, acquire_lock_response::Event, lock_client::LockClient},
    serve,
    types::SessionId,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{wait_until, within_deadline};

pub struct RunningLock {
    pub address: String,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Starts one, and does not wait until it is ready.
pub async fn start_lock_unready(data: &Path, directory: &str) -> RunningLock {
    start_lock_with(data, directory, &[]).await
}

/// The same with more options.
pub async fn start_lock_with(data: &Path, directory: &str, more: &[&str]) -> RunningLock {
    start_lock_node("lock-1", data, directory, more).await
}

/// A node of several.
pub async fn start_lock_node(id: &str, data: &Path, directory: &str, more: &[&str]) -> RunningLock {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("the port's address").to_string();
    let data = data.to_str().expect("a path of text");
    let fixed = ["dfs-lock", "--id", id, "--listen", "127.0.0.1:0", "--data", data, "--directory", directory];
    let shutdown = CancellationToken::new();
    let task =
        tokio::spawn(dfs::lock::run(LockOptions::parse_from(fixed.iter().chain(more)), listener, shutdown.clone()));
    RunningLock { address, shutdown, task }
}

/// Starts one and waits until it serves.
pub async fn start_lock(data: &Path, directory: &str) -> RunningLock {
    let running = start_lock_unready(data, directory).await;
    wait_until("serving", || async { running.is_serving().await }).await;
    running
}

impl RunningLock {
    pub async fn is_serving(&self) -> bool {
        let request = HealthCheckRequest { service: "dfs.v1.Lock".to_owned() };
        let checked = HealthClient::new(self.channel()).check(request).await;
        checked.is_ok_and(|checked| checked.into_inner().status == i32::from(ServingStatus::Serving))
    }

    pub fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel())
    }

    pub fn channel(&self) -> Channel {
        serve::channel(&self.address).expect("an address")
    }

    /// Opens a session that nobody renews, on a connection of its own.
    pub async fn open(&self, ttl: Duration, client: &str) -> Session {
        let mut lock = self.lock();
        let id = SessionId::random().to_string();
        let request =
            pb::OpenSessionRequest { session_id: id.clone(), ttl_ms: ttl.as_millis() as u64, client: client.into() };
        let opened = lock.open_session(request).await.expect("opens").into_inner();
        assert_eq!((opened.session_id.as_str(), opened.ttl_ms), (id.as_str(), ttl.as_millis() as u64));
        Session { lock, id }
    }

    pub async fn view(&self, path: &str) -> pb::LockInfo {
        let answer = self.lock().get_lock(pb::GetLockRequest { path: path.to_owned() }).await;
        answer.expect("a view").into_inner().lock.expect("a lock")
    }

    pub async fn wait_until_waiting(&self, path: &str, count: u32) {
        wait_until("waiting", || async { self.view(path).await.waiter_count == count }).await;
    }

    /// Stops it and waits until everything is closed.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within_deadline("stopping", self.task).await.expect("no panic").expect("a clean end");
    }
}

#[derive(Clone)]
pub struct Session {
    pub lock: LockClient<Channel>,
    pub id: String,
}

impl Session {
    pub fn an_acquire(&self, path: &str, wait: Option<Duration>) -> pb::AcquireLockRequest {
        pb::AcquireLockRequest {
            session_id: self.id.clone(),
            path: path.to_owned(),
            mode: pb::LockMode::Exclusive.into(),
            wait_ms: wait.map(|wait| wait.as_millis() as u64),
        }
    }

    /// Asks for an exclusive lock, for as long as it takes.
    pub async fn ask(&self, path: &str) -> Asking {
        let asked = self.lock.clone().acquire_lock(self.an_acquire(path, None)).await;
        Asking(asked.expect("may ask").into_inner())
    }

    /// Has it at last.
    pub async fn acquire(&self, path: &str) -> pb::LockGrant {
        self.ask(path).await.grant().await
    }

    /// Has it at once, or never.
    pub async fn try_acquire(&self, path: &str) -> Result<pb::LockGrant, Status> {
        self.acquire_within(path, Duration::ZERO).await
    }

    pub async fn acquire_within(&self, path: &str, wait: Duration) -> Result<pb::LockGrant, Status> {
        let asked = self.lock.clone().acquire_lock(self.an_acquire(path, Some(wait))).await?;
        let mut asking = Asking(asked.into_inner());
        loop {
            if let Event::Grant(grant) = asking.event().await? {
                return Ok(grant);
            }
        }
    }

    pub async fn release(&self, path: &str, token: u64) -> Result<(), Status> {
        let request =
            pb::ReleaseLockRequest { session_id: self.id.clone(), path: path.to_owned(), fencing_token: token };
        self.lock.clone().release_lock(request).await.map(|_| ())
    }

    pub async fn close(&self) -> Result<(), Status> {
        self.lock.clone().close_session(pb::CloseSessionRequest { session_id: self.id.clone() }).await.map(|_| ())
    }

    /// One renewal, on a stream of its own.
    pub async fn renew(&self) -> Result<u64, Status> {
        let (sender, requests) = mpsc::channel(1);
        sender.send(pb::KeepAliveRequest { session_id: self.id.clone() }).await.expect("room");
        let mut answers = self.lock.clone().keep_alive(ReceiverStream::new(requests)).await?.into_inner();
        let answer = within_deadline("a renewal", answers.message()).await?;
        Ok(answer.expect("an answer").ttl_ms)
    }
}

/// A call that waits for a lock.
pub struct Asking(Streaming<pb::AcquireLockResponse>);

impl Asking {
    pub async fn event(&mut self) -> Result<Event, Status> {
        let message = within_deadline("an event", self.0.message()).await?;
        Ok(message.expect("the stream goes on").event.expect("an event"))
    }

    pub async fn position(&mut self) -> pb::QueuePosition {
        match self.event().await.expect("the wait goes on") {
            Event::Position(position) => position,
            Event::Grant(grant) => panic!("granted already: {grant:?}"),
        }
    }

    /// The grant, after whatever positions; then the stream ends.
    pub async fn grant(mut self) -> pb::LockGrant {
        loop {
            if let Event::Grant(grant) = self.event().await.expect("the wait goes on") {
                let end = within_deadline("the end", self.0.message()).await.expect("a clean end");
                assert_eq!(end, None);
                return grant;
            }
        }
    }
}
