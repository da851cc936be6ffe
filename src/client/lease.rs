//! Whether a session still holds, by this client's own clock. Pure.
//!
//! The lease is counted from before a renewal was sent, so it ends here no later than at the server. Once it has run out
//! here it is lost for ever, whatever a late answer says: somebody may have been granted the lock in between.

use std::time::{Duration, Instant};

use super::Error;
use crate::status::Reason;

/// What a lease can last: a server that says anything else is not believed.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(600);

/// A lease's length as a server says it.
pub(super) fn length(ttl_ms: u64) -> Result<Duration, Error> {
    let ttl = Duration::from_millis(ttl_ms);
    match (TTL_MIN..=TTL_MAX).contains(&ttl) {
        true => Ok(ttl),
        false => Err(Error::malformed(format_args!("a lease of {ttl_ms} ms is not between 1 s and 10 min"))),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    until: Instant,
    lost: Option<Error>,
}

impl Lease {
    /// Opened by a request sent at `sent`.
    pub(super) fn new(sent: Instant, ttl: Duration) -> Self {
        Self { until: sent + ttl, lost: None }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Fails when the lease is lost.
    pub(super) fn check(&self, now: Instant) -> Result<(), Error> {
        match &self.lost {
            Some(error) => Err(error.clone()),
            None if now >= self.until => {
                Err(Error::new(Reason::SessionExpired, "the lease could not be renewed in time"))
            }
            None => Ok(()),
        }
    }

    /// A renewal sent at `sent` has been answered.
    pub(super) fn renew(&mut self, sent: Instant, ttl: Duration, now: Instant) {
        if self.check(now).is_ok() {
            self.until = self.until.max(sent + ttl);
        } else {
            self.expire(now);
        }
    }

    /// The server says that it is over.
    pub(super) fn lose(&mut self, error: Error) {
        self.lost.get_or_insert(error);
    }

    /// Makes a lease that has run out a lost one.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Err(error) = self.check(now) {
            self.lose(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_counts_from_before_the_renewal_was_sent() {
        let start = Instant::now();
        let mut lease = Lease::new(start, TTL);
        lease.renew(start + TTL / 2, TTL, start + TTL * 3 / 4);
        assert_eq!(lease.until(), start + TTL / 2 + TTL);
        assert!(lease.check(start + TTL).is_ok());
        assert_eq!(lease.check(start + TTL / 2 + TTL).unwrap_err().reason(), Reason::SessionExpired);
    }

    #[test]
    fn an_answer_that_comes_too_late_does_not_bring_a_lease_back() {
        let start = Instant::now();
        let mut lease = Lease::new(start, TTL);
        lease.renew(start + TTL - Duration::from_millis(1), TTL, start + TTL);
        assert!(lease.check(start + TTL).is_err());
        assert!(lease.check(start).is_err(), "lost for ever");
    }

    #[test]
    fn an_older_renewal_does_not_shorten_a_lease() {
        let start = Instant::now();
        let mut lease = Lease::new(start + TTL / 2, TTL);
        lease.renew(start, TTL, start + TTL / 2);
        assert_eq!(lease.until(), start + TTL / 2 + TTL);
    }

    #[test]
    fn a_length_that_no_lease_has_is_refused() {
        assert_eq!(length(1000).unwrap(), Duration::from_secs(1));
        assert_eq!(length(600_000).unwrap(), Duration::from_secs(600));
        for ttl_ms in [0, 999, 600_001, u64::MAX] {
            assert!(length(ttl_ms).is_err(), "{ttl_ms}");
        }
    }

    #[test]
    fn what_the_server_said_first_is_kept() {
        let start = Instant::now();
        let mut lease = Lease::new(start, TTL);
        lease.lose(Error::new(Reason::SessionNotFound, "closed"));
        lease.expire(start + TTL);
        assert_eq!(lease.check(start).unwrap_err().reason(), Reason::SessionNotFound);
    }
}
