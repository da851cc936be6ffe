//! Fences on their way to the Directory: each is asked for again until the Directory has it.
//!
//! A lock whose holder expired or was broken passes on only after that. There is no giving up: to grant without the fence is
//! what this service exists to prevent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::RngExt;
use tokio::time::{sleep, timeout};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    convert::stamp::Stamp,
    pb, serve,
    status::{Failure, Reason},
    types::{ClusterId, FencingToken, Path},
};

/// Fences asked for at the same time.
const UNDER_WAY_MAX: usize = 64;
const CALL_DEADLINE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The addresses of the Directory, and the one to ask now.
#[derive(Debug)]
pub(super) struct Directories(Mutex<Addresses>);

#[derive(Debug)]
struct Addresses {
    given: Vec<(String, Channel)>,
    /// More, by the cluster map.
    listed: Vec<(String, Channel)>,
    /// Named as the leader by one of them, and none of them.
    named: Option<Channel>,
    current: usize,
    /// On every call, as soon as it is known: a fence in another cluster's Directory would be none.
    stamp: Stamp,
}

impl Addresses {
    fn known(&self) -> impl Iterator<Item = &(String, Channel)> {
        self.given.iter().chain(&self.listed)
    }

    fn position(&self, address: &str) -> Option<usize> {
        self.known().position(|(known, _)| known == address)
    }
}

pub(super) type Stamped = InterceptedService<Channel, Stamp>;

impl Directories {
    pub fn new(addresses: &[String]) -> Result<Self, tonic::transport::Error> {
        let given = addresses.iter().map(|address| Ok((address.clone(), serve::channel(address)?)));
        let given = given.collect::<Result<_, tonic::transport::Error>>()?;
        let stamp = Stamp::default();
        Ok(Self(Mutex::new(Addresses { given, listed: Vec::new(), named: None, current: 0, stamp })))
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if there is no address at all.
    pub fn current(&self) -> Option<Stamped> {
        let addresses = self.addresses();
        let count = addresses.given.len() + addresses.listed.len();
        let known = || addresses.known().nth(addresses.current.checked_rem(count)?);
        let channel = addresses.named.clone().or_else(|| known().map(|(_, channel)| channel.clone()))?;
        Some(InterceptedService::new(channel, addresses.stamp))
    }

    /// From now on only a Directory of this cluster answers.
    pub fn belong_to(&self, cluster: ClusterId) {
        self.addresses().stamp = Stamp(Some(cluster));
    }

    /// The Directory's nodes as the cluster map lists them: asked too when those that were given are gone.
    pub fn learn(&self, listed: &[String]) {
        let mut addresses = self.addresses();
        let count = addresses.given.len() + addresses.listed.len();
        let asked = addresses.current.checked_rem(count).and_then(|at| addresses.known().nth(at)).cloned();
        let known = |address: &String| addresses.known().find(|(known, _)| known == address).cloned();
        let made = |address: &String| Some((address.clone(), serve::channel(address).ok()?));
        let is_given = |address: &&String| addresses.given.iter().any(|(given, _)| given == *address);
        let listed = listed.iter().filter(|address| !is_given(address));
        let listed = listed.filter_map(|address| known(address).or_else(|| made(address))).collect();
        addresses.listed = listed;
        if let Some(at) = asked.and_then(|(asked, _)| addresses.position(&asked)) {
            addresses.current = at;
        }
    }

    /// The current one did not do: the leader is asked next if it was named, else the next one.
    pub fn turn(&self, failure: &Failure) {
        let mut addresses = self.addresses();
        let was_named = addresses.named.take().is_some();
        match failure.metadata.get("leader_address") {
            Some(leader) => match addresses.position(leader) {
                Some(at) => addresses.current = at,
                None => addresses.named = serve::channel(leader).ok(),
            },
            None if was_named => {}
            None => addresses.current = addresses.current.wrapping_add(1),
        }
    }
}

/// The pause after a failure: doubles with each, and differs from client to client.
pub(super) fn pause(failures: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// Whether another failure in a row is said aloud: the first, then ever more rarely.
pub(super) fn worth_a_word(failures: u32) -> bool {
    failures == 0 || failures.is_power_of_two()
}

pub(super) struct Fences {
    directories: Arc<Directories>,
    waiting: VecDeque<(Path, FencingToken)>,
    under_way: FuturesUnordered<BoxFuture<'static, (Path, FencingToken)>>,
}

impl Fences {
    pub fn new(directories: Arc<Directories>) -> Self {
        Self { directories, waiting: VecDeque::new(), under_way: FuturesUnordered::new() }
    }

    pub fn raise(&mut self, path: Path, token: FencingToken) {
        self.waiting.push_back((path, token));
        self.start();
    }

    fn start(&mut self) {
        while self.under_way.len() < UNDER_WAY_MAX
            && let Some((path, token)) = self.waiting.pop_front()
        {
            self.under_way.push(raise(self.directories.clone(), path, token).boxed());
        }
    }

    /// The next fence that the Directory has; waits for ever while none is on its way. May be dropped and called again.
    pub async fn next_raised(&mut self) -> (Path, FencingToken) {
        match self.under_way.next().await {
            Some(raised) => {
                self.start();
                raised
            }
            None => std::future::pending().await,
        }
    }
}

async fn raise(directories: Arc<Directories>, path: Path, token: FencingToken) -> (Path, FencingToken) {
    let mut failures = 0;
    loop {
        let failure = match timeout(CALL_DEADLINE, call(&directories, &path, token)).await {
            Ok(Ok(())) => return (path, token),
            Ok(Err(status)) => Failure::from(&status),
            Err(_) => Failure::new(Reason::DeadlineExceeded, "the Directory does not answer"),
        };
        if worth_a_word(failures) {
            tracing::warn!(%path, %token, %failure, failures, "the Directory has not recorded a fence; trying again");
        }
        directories.turn(&failure);
        sleep(pause(failures)).await;
        failures += 1;
    }
}

async fn call(directories: &Directories, path: &Path, token: FencingToken) -> Result<(), Status> {
    let channel = directories.current().ok_or_else(|| Status::unavailable("no address of the Directory is known"))?;
    let request = pb::RaiseFenceRequest { path: path.to_string(), fencing_token: token.0 };
    pb::directory_client::DirectoryClient::new(channel).raise_fence(request).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_that_the_map_lists_are_asked_too() {
        let directories = Directories::new(&["a:1".to_owned()]).unwrap();
        let asked = || {
            let addresses = directories.addresses();
            let at = addresses.current % addresses.known().count();
            addresses.known().nth(at).map(|(address, _)| address.clone()).unwrap_or_default()
        };
        let gone = Failure::new(Reason::Unavailable, "");
        directories.turn(&gone);
        assert_eq!(asked(), "a:1", "there is no other");
        directories.learn(&["b:1".to_owned(), "a:1".to_owned()]);
        assert_eq!(asked(), "a:1");
        directories.turn(&gone);
        assert_eq!(asked(), "b:1");
        directories.learn(&["c:1".to_owned(), "b:1".to_owned()]);
        assert_eq!(asked(), "b:1", "another order changes nothing");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for failures in 0..40 {
            let pause = pause(failures);
            assert!(pause >= PAUSE_MIN / 2 && pause <= PAUSE_MAX, "{failures}: {pause:?}");
        }
        assert!(pause(20) >= PAUSE_MAX / 2);
    }
}
