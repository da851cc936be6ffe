//! Leases that run out, locks that are broken, and waits that are given up.

use super::*;

#[test]
fn after_an_expiry_nobody_is_granted_before_the_fence_is_raised() {
    let mut bench = Bench::new(1..=3);
    let lost = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let applied = bench.expire(1);
    let token = bench.fence("/f").unwrap();
    assert!(token > lost.token);
    assert!(token::verify(&KEY, token, &path("/f"), EXCLUSIVE), "the Directory will take it");
    assert!(applied.effects.contains(&Effect::RaiseFence { path: path("/f"), token }));
    assert_eq!((grants(&applied), bench.holders("/f")), (vec![], vec![]));
    bench.queued(3, "/f", SHARED);
    let stale = bench.accepted(Command::FenceRaised { path: path("/f"), token: lost.token });
    assert_eq!((stale.changed, bench.fence("/f")), (vec![], Some(token)), "another fence does not count");
    let raised = bench.raise_fence("/f");
    assert_eq!(grants(&raised), [2]);
    assert!(bench.granted(2, "/f", EXCLUSIVE).token > token);
}

#[test]
fn an_expired_lock_that_nobody_awaits_is_fenced_all_the_same() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.expire(1);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(grants(&bench.raise_fence("/f")), [2]);
}

#[test]
fn shared_holders_expire_without_a_fence() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", SHARED);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(grants(&bench.expire(1)), [2]);
    assert_eq!(bench.fence("/f"), None);
}

#[test]
fn an_expired_session_is_told_so_and_stays_expired() {
    let mut bench = Bench::new([1]);
    bench.expire(1);
    let expired = Error::SessionExpired { session: session(1) };
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(expired.clone()));
    assert_eq!(bench.refused(Command::CloseSession { session: session(1) }), expired);
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: String::new() };
    assert_eq!(bench.refused(open), expired);
    assert_eq!(bench.refused(Command::ExpireSession { session: session(1) }), expired);
    assert_eq!(bench.acquire(2, "/f", EXCLUSIVE), Err(Error::SessionNotFound { session: session(2) }));
}

#[test]
fn expired_sessions_are_forgotten_after_their_time() {
    let mut bench = Bench::new([1]);
    bench.expire(1);
    let open = |id| Command::OpenSession { session: session(id), ttl_ms: TTL_MS, client: String::new() };
    let next = Revision(bench.state.revision().0 + 1);
    let late = Timestamp(2000 + EXPIRED_KEPT_MS);
    let applied = bench.state.apply(next, late, &open(2)).unwrap();
    assert!(applied.changed.contains(&Key::Expired(session(1))));
    assert_eq!((bench.state.expired.len(), bench.state.expired_by_time.len()), (0, 0));
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(Error::SessionNotFound { session: session(1) }));
}

#[test]
fn a_broken_lock_passes_on_behind_the_fence() {
    let mut bench = Bench::new(1..=2);
    let lost = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let forged = Command::Break { path: path("/f"), token: Some(FencingToken(lost.token.0 ^ 1)) };
    assert!(matches!(bench.refused(forged), Error::NotTheToken { .. }));
    let (token, pending) = bench.break_lock("/f");
    assert!(pending && token > lost.token);
    assert_eq!(bench.break_lock("/f"), (token, true), "asked again it is the same break");
    let by_token = bench.accepted(Command::Break { path: path("/f"), token: Some(lost.token) });
    assert_eq!(by_token.outcome, Outcome::Broken { token, pending: true });
    let release = Command::Release { session: session(1), path: path("/f"), token: Some(lost.token) };
    assert!(matches!(bench.refused(release), Error::NotHolder { .. }));
    let raised = bench.raise_fence("/f");
    assert!(raised.effects.contains(&Effect::FenceRaised { path: path("/f"), token }));
    assert_eq!(grants(&raised), [2]);
    bench.queued(1, "/f", EXCLUSIVE);
}

#[test]
fn breaking_what_nobody_holds_is_refused() {
    let mut bench = Bench::new([]);
    assert_eq!(bench.refused(Command::Break { path: path("/f"), token: None }), Error::NotHeld { path: path("/f") });
}

#[test]
fn of_shared_holders_one_or_all_are_broken_without_a_fence() {
    let mut bench = Bench::new(1..=4);
    bench.granted(1, "/f", SHARED);
    let second = bench.granted(2, "/f", SHARED);
    bench.granted(3, "/f", SHARED);
    bench.queued(4, "/f", EXCLUSIVE);
    bench.accepted(Command::Break { path: path("/f"), token: Some(second.token) });
    assert_eq!(bench.holders("/f"), [1, 3]);
    let (token, pending) = bench.break_lock("/f");
    assert_eq!((pending, bench.holders("/f")), (false, vec![4]));
    assert!(bench.granted(4, "/f", EXCLUSIVE).token > token && token > second.token);
}

#[test]
fn a_grant_that_came_just_before_the_wait_was_over_stands() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.release(1, "/f");
    let grant = bench.granted(2, "/f", EXCLUSIVE);
    let applied = bench.accepted(Command::GiveUp { session: session(2), path: path("/f"), ticket });
    assert_eq!(applied.outcome, Outcome::Granted { grant, fresh: false });
}

#[test]
fn an_old_ticket_does_not_give_up_a_new_place() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    let old = bench.queued(2, "/f", EXCLUSIVE);
    bench.release(2, "/f");
    bench.queued(2, "/f", EXCLUSIVE);
    let give_up = Command::GiveUp { session: session(2), path: path("/f"), ticket: old };
    assert_eq!(bench.refused(give_up), Error::WaitGivenUp { path: path("/f") });
    assert_eq!(bench.waiters("/f"), [2]);
}
