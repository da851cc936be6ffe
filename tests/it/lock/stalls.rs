//! A Lock service that itself stood still: its absence is no fault of its clients.

use std::process::{Child, Command, Stdio};

use dfs::{
    pb::{self, lock_client::LockClient},
    serve,
    types::SessionId,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;

use super::SHORT;
use crate::common::{directory::start_directory, lock::Session, wait_until, within_deadline};

/// A real process, killed when dropped.
struct LockProcess(Child);

impl LockProcess {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }
}

impl Drop for LockProcess {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_and_continued_service_expires_nobody_who_renews() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = start_directory(&folder.path().join("directory"), &[]).await;
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address").to_string();
    let process = Command::new(env!("CARGO_BIN_EXE_dfs-lock"))
        .args(["--id", "lock-1", "--listen", &free, "--directory", &directory.address, "--data"])
        .arg(folder.path().join("lock"))
        .stderr(Stdio::null())
        .spawn();
    let process = LockProcess(process.expect("starts"));
    let lock = LockClient::new(serve::channel(&free).expect("an address"));
    let [renewing, silent] = [SessionId::random(), SessionId::random()].map(|id| id.to_string());
    let open = |session_id: &str| {
        let (mut lock, session_id) = (lock.clone(), session_id.to_owned());
        let request = pb::OpenSessionRequest { session_id, ttl_ms: SHORT.as_millis() as u64, client: String::new() };
        async move { lock.open_session(request).await.is_ok() }
    };
    wait_until("serving", || open(&renewing)).await;
    assert!(open(&silent).await);
    let [renewing, silent] = [renewing, silent].map(|id| Session { lock: lock.clone(), id });

    let (renewals, outgoing) = mpsc::channel(64);
    let renewal = pb::KeepAliveRequest { session_id: renewing.id.clone() };
    renewals.send(renewal.clone()).await.expect("room");
    let _answers = lock.clone().keep_alive(ReceiverStream::new(outgoing)).await.expect("renews").into_inner();
    let grant = renewing.acquire("/f").await;
    let renewing_on = tokio::spawn(async move {
        while renewals.send(renewal.clone()).await.is_ok() {
            sleep(SHORT / 4).await;
        }
    });
    for _ in 0..2 {
        process.signal(Signal::STOP);
        sleep(SHORT * 3 / 2).await;
        process.signal(Signal::CONT);
        // Less than a lease, and enough for a renewal to be read.
        sleep(SHORT / 2).await;
    }
    let ended = within_deadline("the end of the silent session", async {
        while silent.renew().await.is_ok() {
            sleep(SHORT * 2).await;
        }
    });
    ended.await;
    assert_eq!(renewing.acquire("/f").await, grant, "whoever renews keeps the lock");
    renewing_on.abort();
    drop(process);
    directory.stop().await;
}
