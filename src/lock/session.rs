//! Leases: how long each session may go on without being heard of.
//!
//! Volatile on purpose. A renewal is not worth a sync, and after a restart every session gets a fresh lease of its full length: a
//! lease that runs longer than its client counts on is safe, one that runs shorter is not. `now` is the driver's running
//! time ([`super::clock`]), never the wall clock.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::Duration,
};

use crate::types::SessionId;

/// Things that fall due, each known by its key and with one moment at most.
#[derive(Debug)]
pub struct Deadlines<K> {
    by_key: HashMap<K, Duration>,
    by_time: BTreeSet<(Duration, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Deadlines<K> {
    /// Sets or moves the moment.
    pub fn set(&mut self, key: K, at: Duration) {
        self.clear(&key);
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    /// Whether there was one.
    pub fn clear(&mut self, key: &K) -> bool {
        let Some(at) = self.by_key.remove(key) else { return false };
        self.by_time.remove(&(at, key.clone()))
    }

    pub fn get(&self, key: &K) -> Option<Duration> {
        self.by_key.get(key).copied()
    }

    /// The earliest moment.
    pub fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// What is due at `now`, the longest due first, at most `limit`. It stays due until it is cleared.
    pub fn due(&self, now: Duration, limit: usize) -> Vec<K> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, key)| key.clone()).collect()
    }
}

/// The lease of every session.
#[derive(Debug, Default)]
pub struct Leases {
    ttl: HashMap<SessionId, Duration>,
    expiry: Deadlines<SessionId>,
}

impl Leases {
    /// Begins the session's lease, or begins it anew.
    pub fn begin(&mut self, session: SessionId, ttl: Duration, now: Duration) {
        self.ttl.insert(session, ttl);
        self.expiry.set(session, now + ttl);
    }

    /// The lease runs its full length from `now`; `None` if there is none to renew.
    pub fn renew(&mut self, session: SessionId, now: Duration) -> Option<Duration> {
        let ttl = *self.ttl.get(&session)?;
        self.expiry.set(session, now + ttl);
        Some(ttl)
    }

    pub fn end(&mut self, session: SessionId) {
        self.ttl.remove(&session);
        self.expiry.clear(&session);
    }

    /// How long the session's lease still runs; 0 if it is due, or there is none.
    pub fn remaining(&self, session: SessionId, now: Duration) -> Duration {
        self.expiry.get(&session).map_or(Duration::ZERO, |at| at.saturating_sub(now))
    }

    /// Sessions whose lease has run out at `now`, at most `limit`.
    pub fn expired(&self, now: Duration, limit: usize) -> Vec<SessionId> {
        self.expiry.due(now, limit)
    }

    /// When the next lease runs out.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.expiry.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn session(id: u8) -> SessionId {
        SessionId::from_bytes([id; 16])
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_runs_from_its_last_renewal() {
        let mut leases = Leases::default();
        leases.begin(session(1), TTL, seconds(0));
        leases.begin(session(2), TTL, seconds(1));
        assert_eq!(leases.renew(session(1), seconds(9)), Some(TTL));
        assert_eq!(leases.expired(seconds(10), 9), []);
        assert_eq!(leases.next_expiry(), Some(seconds(11)));
        assert_eq!(leases.expired(seconds(11), 9), [session(2)]);
        assert_eq!(leases.expired(seconds(19), 9), [session(2), session(1)]);
        assert_eq!(leases.expired(seconds(19), 1), [session(2)]);
        assert_eq!(leases.remaining(session(1), seconds(12)), seconds(7));
        assert_eq!(leases.remaining(session(1), seconds(99)), seconds(0));
    }

    #[test]
    fn what_has_ended_is_neither_renewed_nor_due() {
        let mut leases = Leases::default();
        leases.begin(session(1), TTL, seconds(0));
        leases.end(session(1));
        assert_eq!(leases.renew(session(1), seconds(1)), None);
        assert_eq!(leases.expired(seconds(99), 9), []);
        assert_eq!(leases.next_expiry(), None);
    }
}
