//! The clients of a run: they start together, write and read while faults happen, and end together.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{history::History, workload::Worker};

pub struct Clients {
    running: JoinSet<()>,
    stop: CancellationToken,
}

impl Clients {
    pub async fn start(seed: u64, directory: &str, writers: u64, readers: u64, history: &Arc<History>) -> Self {
        let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
        for number in 0..writers + readers {
            let worker = Worker::connect(number, seed, directory, history.clone()).await.expect("connect a client");
            if number < writers {
                running.spawn(worker.write(stop.clone()));
            } else {
                running.spawn(worker.read(writers, stop.clone()));
            }
        }
        Self { running, stop }
    }

    /// Waits for the faults. Clients end only when told to, or by a failed assertion.
    pub async fn during<T>(&mut self, faults: impl Future<Output = T>) -> T {
        tokio::select! {
            done = faults => done,
            Some(ended) = self.running.join_next() => panic!("a client ended early: {ended:?}"),
        }
    }

    /// Lets each finish what it is at.
    pub async fn finish(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("a client of the workload");
        }
    }
}
