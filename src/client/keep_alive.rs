//! Renewing a lease for as long as its session is used, on a connection of its own.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Client, Error,
    call::{TRY_TIMEOUT_AMONG_SEVERAL, attempt, lock_client},
    channels::Purpose,
    lease::{self, Lease},
};
use crate::{pb, status::Reason, types::SessionId};

/// A lease is renewed this many times before it would run out.
const RENEWALS_PER_LEASE: u32 = 3;
/// Renewals that wait for the network, before the stream is given up for a new one.
const UNANSWERED_MAX: usize = 3;
/// Between two tries to open the stream of renewals.
const REOPEN_DELAY: Duration = Duration::from_millis(200);

/// Renews until the lease is lost.
pub(super) async fn keep_alive(client: Client, id: SessionId, ttl: Duration, lease: Arc<watch::Sender<Lease>>) {
    loop {
        let error = renew(&client, id, ttl, &lease).await;
        if matches!(error.reason(), Reason::SessionExpired | Reason::SessionNotFound) {
            tracing::debug!(session = %id, %error, "the session is lost");
            lease.send_modify(|lease| lease.lose(error));
            return;
        }
        if lease.borrow().check(Instant::now()).is_err() {
            lease.send_modify(|lease| lease.expire(Instant::now()));
            return;
        }
        tracing::debug!(session = %id, %error, "the lease is renewed over another stream");
        tokio::time::sleep(REOPEN_DELAY.min(ttl / 10)).await;
    }
}

/// Renews over one stream, until that fails.
async fn renew(client: &Client, id: SessionId, ttl: Duration, lease: &watch::Sender<Lease>) -> Error {
    let service = client.lock_service();
    let Some(address) = service.endpoints.current(&service.known) else {
        return Error::unreachable("no server of the Lock service is known");
    };
    let renewed = async {
        let interval = ttl / RENEWALS_PER_LEASE;
        // Where another server may answer, the lease must not run out over one that is silent.
        let (begin_within, silence_max) = match service.has_several() {
            true => (interval.min(TRY_TIMEOUT_AMONG_SEVERAL), ttl.min(TRY_TIMEOUT_AMONG_SEVERAL)),
            false => (interval, ttl),
        };
        let renewal = pb::KeepAliveRequest { session_id: id.to_string() };
        let (requests, receiver) = mpsc::channel(UNANSWERED_MAX);
        let mut unanswered = VecDeque::from([Instant::now()]);
        let queued = |_| Error::unreachable("the stream of renewals does not move");
        requests.try_send(renewal.clone()).map_err(queued)?;
        let mut stub = lock_client(service.channels.get(&address, Purpose::KeepAlive)?);
        let call = |requests| async move { stub.keep_alive(requests).await };
        let mut answers = attempt("renew the lease", begin_within, ReceiverStream::new(receiver), call).await?;
        let mut next = Instant::now() + interval;
        loop {
            let silent = unanswered.front().map(|sent| *sent + silence_max);
            let silence = async {
                match silent {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = answers.message() => {
                    let answer = answer?.ok_or_else(|| Error::unreachable("the stream of renewals ended"))?;
                    let sent = unanswered.pop_front().ok_or_else(|| Error::malformed("an answer too many"))?;
                    let ttl = lease::length(answer.ttl_ms)?;
                    lease.send_modify(|lease| lease.renew(sent, ttl, Instant::now()));
                    lease.borrow().check(Instant::now())?;
                }
                () = silence => return Err(Error::silence(silence_max, "renew the lease")),
                () = tokio::time::sleep_until(next.into()) => {
                    next = Instant::now() + interval;
                    unanswered.push_back(Instant::now());
                    requests.try_send(renewal.clone()).map_err(queued)?;
                }
            }
        }
    };
    let renewed: Result<std::convert::Infallible, Error> = renewed.await;
    let Err(error) = renewed;
    service.endpoints.heed(&address, &error, &service.known);
    error
}
