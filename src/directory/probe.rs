//! Is it dead? Asked when a client or a primary could not reach a server, so that the answer need not wait for a lease.
//!
//! A probe asks the suspect for its health, once, with a short deadline. Any answer is a sign of life: a server that is
//! alive but not ready (it has just started) keeps its places. Many reports about one suspect share one probe.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{serve, types::ServerId};

/// From the beginning of the probe to the verdict, connecting included.
const DEADLINE: Duration = Duration::from_millis(500);

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    Dead,
}

type UnderWay = Shared<BoxFuture<'static, Verdict>>;

/// Probes, at most one at a time for each server and address: one that has started elsewhere is another process.
#[derive(Clone, Default)]
pub struct Prober {
    under_way: Arc<Mutex<HashMap<(ServerId, String), UnderWay>>>,
}

impl Prober {
    /// Asks the server at `address`, or waits for whoever is asking it already. Ends within [`DEADLINE`].
    pub async fn probe(&self, server: &ServerId, address: &str) -> Verdict {
        let probe = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.retain(|_, probe| probe.peek().is_none());
            let key = (server.clone(), address.to_owned());
            under_way.entry(key).or_insert_with(|| ask(address.to_owned()).boxed().shared()).clone()
        };
        probe.await
    }
}

async fn ask(address: String) -> Verdict {
    let Ok(channel) = serve::channel(&address) else { return Verdict::Dead };
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: String::new() };
    match tokio::time::timeout(DEADLINE, health.check(request)).await {
        Ok(Ok(_)) => Verdict::Alive,
        // Not a gRPC server's own words: it could not be reached, or the connection broke.
        Ok(Err(status)) if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown) => Verdict::Dead,
        Ok(Err(_)) => Verdict::Alive,
        Err(_) => Verdict::Dead,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn verdict_on(address: &str) -> Verdict {
        Prober::default().probe(&"a".parse().unwrap(), address).await
    }

    #[tokio::test]
    async fn a_server_that_answers_is_alive_though_it_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let services = serve::Services::new();
        services.readiness().await;
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(services.serve(listener, shutdown.clone()));
        assert_eq!(verdict_on(&address).await, Verdict::Alive);
        shutdown.cancel();
        server.await.unwrap().unwrap();
        assert_eq!(verdict_on(&address).await, Verdict::Dead);
    }

    #[tokio::test]
    async fn a_server_that_accepts_but_says_nothing_is_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(verdict_on(&listener.local_addr().unwrap().to_string()).await, Verdict::Dead);
    }

    #[tokio::test]
    async fn an_address_that_names_nothing_is_dead() {
        assert_eq!(verdict_on("not an address").await, Verdict::Dead);
    }

    #[tokio::test]
    async fn reports_about_one_suspect_share_a_probe() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (prober, server) = (Prober::default(), "a".parse().unwrap());
        let verdicts = futures::future::join_all((0..50).map(|_| prober.probe(&server, &address))).await;
        assert_eq!(verdicts, [Verdict::Dead; 50]);
        drop(listener.accept().await.unwrap());
        assert!(listener.accept().now_or_never().is_none(), "more than one probe connected");
    }
}
