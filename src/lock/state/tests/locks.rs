//! Who is granted, and in which order.

use super::*;

#[test]
fn before_it_belongs_to_a_cluster_it_refuses_everything() {
    let mut state = State::default();
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: String::new() };
    assert_eq!(state.apply(Revision(1), Timestamp(0), &open), Err(Error::NotJoined));
    let mut bench = Bench::new([]);
    let other = Membership { cluster: ClusterId::from_bytes([2; 16]), ..a_membership() };
    assert_eq!(bench.refused(Command::Join { membership: other, newest: FencingToken(0) }), Error::OtherCluster);
    assert_eq!(bench.accepted(Command::Join { membership: a_membership(), newest: FencingToken(0) }).changed, []);
}

#[test]
fn a_released_lock_passes_to_whoever_came_first() {
    let mut bench = Bench::new(1..=3);
    let first = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(3, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    assert_eq!(bench.waiters("/f"), [3, 2]);
    assert_eq!(grants(&bench.release(1, "/f")), [3]);
    assert_eq!((bench.holders("/f"), bench.waiters("/f")), (vec![3], vec![2]));
    assert!(bench.granted(3, "/f", EXCLUSIVE).token > first.token);
    assert_eq!(grants(&bench.release(3, "/f")), [2]);
    assert_eq!(grants(&bench.release(2, "/f")), NOBODY);
    assert_eq!(bench.state.locks, BTreeMap::new(), "nothing is kept of a lock that nobody has");
    assert_eq!(bench.state.lock_count, 0);
}

#[test]
fn who_asks_again_gets_the_same_grant_or_keeps_the_place() {
    let mut bench = Bench::new(1..=3);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Ok(Outcome::Granted { grant, fresh: false }));
    assert_eq!(bench.acquire(1, "/f", SHARED), Ok(Outcome::Granted { grant, fresh: false }), "exclusive is more");
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.queued(3, "/f", EXCLUSIVE);
    assert_eq!(bench.queued(2, "/f", EXCLUSIVE), ticket);
    assert_eq!(bench.waiters("/f"), [2, 3]);
}

#[test]
fn a_shared_lock_is_not_made_exclusive_in_place() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", SHARED);
    bench.granted(2, "/f", SHARED);
    assert_eq!(bench.acquire(1, "/f", EXCLUSIVE), Err(Error::OtherMode { path: path("/f"), has: SHARED }));
}

#[test]
fn a_waiting_exclusive_is_not_overtaken_by_later_shared() {
    let mut bench = Bench::new(1..=5);
    bench.granted(1, "/f", SHARED);
    bench.granted(2, "/f", SHARED);
    bench.queued(3, "/f", EXCLUSIVE);
    bench.queued(4, "/f", SHARED);
    assert_eq!(grants(&bench.release(1, "/f")), NOBODY);
    assert_eq!(grants(&bench.release(2, "/f")), [3]);
    bench.queued(5, "/f", SHARED);
    assert_eq!(grants(&bench.release(3, "/f")), [4, 5], "shared that stand together go together");
}

#[test]
fn when_an_exclusive_gives_up_the_shared_behind_it_go_on() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", SHARED);
    let ticket = bench.queued(2, "/f", EXCLUSIVE);
    bench.queued(3, "/f", SHARED);
    let applied = bench.accepted(Command::GiveUp { session: session(2), path: path("/f"), ticket });
    let told = Error::Held { path: path("/f"), holder: "client 1".into(), position: 1 };
    assert_eq!(applied.outcome, Outcome::GaveUp(told));
    assert_eq!(grants(&applied), [3]);
}

#[test]
fn a_try_says_who_holds_and_leaves_no_trace() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let told = |position| Err(Error::Held { path: path("/f"), holder: "client 1".into(), position });
    assert_eq!(bench.ask(3, "/f", EXCLUSIVE, IfHeld::Refuse), told(2));
    assert_eq!(bench.ask(2, "/f", EXCLUSIVE, IfHeld::Refuse), told(1));
    assert_eq!(bench.waiters("/f"), [2]);
    assert!(matches!(bench.ask(3, "/free", EXCLUSIVE, IfHeld::Refuse), Ok(Outcome::Granted { fresh: true, .. })));
}

#[test]
fn only_the_holder_releases() {
    let mut bench = Bench::new(1..=3);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let release = |id, at: &str, token| Command::Release { session: session(id), path: path(at), token };
    let not_holder = Error::NotHolder { path: path("/f") };
    assert_eq!(bench.refused(release(3, "/f", None)), not_holder, "a stranger");
    assert_eq!(bench.refused(release(3, "/f", Some(grant.token))), not_holder, "a stranger who knows the token");
    assert_eq!(bench.refused(release(2, "/f", Some(grant.token))), not_holder, "one who waits");
    assert_eq!(bench.refused(release(1, "/f", Some(FencingToken(grant.token.0 + 1)))), not_holder, "a wrong token");
    assert_eq!(bench.refused(release(1, "/g", None)), Error::NotHolder { path: path("/g") }, "nobody holds it");
    assert_eq!(bench.refused(release(9, "/f", None)), Error::SessionNotFound { session: session(9) });
    assert_eq!(grants(&bench.accepted(release(1, "/f", Some(grant.token)))), [2]);
    assert_eq!(bench.refused(release(1, "/f", Some(grant.token))), not_holder, "released before");
}

#[test]
fn a_place_in_the_queue_can_be_released_too() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let applied = bench.release(2, "/f");
    let error = Error::WaitGivenUp { path: path("/f") };
    assert!(applied.effects.contains(&Effect::WaitEnded { session: session(2), path: path("/f"), error }));
    assert_eq!(bench.waiters("/f"), NOBODY);
}

#[test]
fn a_closed_session_lets_go_of_everything_at_once() {
    let mut bench = Bench::new(1..=3);
    for at in ["/a", "/b"] {
        bench.granted(1, at, EXCLUSIVE);
        bench.queued(2, at, EXCLUSIVE);
    }
    bench.granted(3, "/c", EXCLUSIVE);
    bench.queued(1, "/c", EXCLUSIVE);
    let applied = bench.accepted(Command::CloseSession { session: session(1) });
    assert_eq!(grants(&applied), [2, 2]);
    assert_eq!(bench.waiters("/c"), NOBODY);
    assert!(applied.effects.contains(&Effect::LeaseEnded { session: session(1) }));
    let again = Command::CloseSession { session: session(1) };
    assert_eq!(bench.refused(again), Error::SessionNotFound { session: session(1) });
}

#[test]
fn tokens_are_above_all_that_the_directory_has_seen() {
    let mut bench = Bench::new(1..=2);
    let early = bench.granted(1, "/f", EXCLUSIVE).token;
    let seen = token::seal(&KEY, token::counter(early) + 1000, &path("/g"), EXCLUSIVE).unwrap();
    bench.accepted(Command::Join { membership: a_membership(), newest: seen });
    let next = bench.granted(2, "/g", EXCLUSIVE).token;
    assert!(token::counter(next) > token::counter(seen) + 1000, "others were granted that nobody has seen yet");
    assert!(token::verify(&KEY, next, &path("/g"), EXCLUSIVE));
    let again = bench.accepted(Command::Join { membership: a_membership(), newest: next });
    assert_eq!(again.changed, [], "it is no news");
    bench.restart();
    assert!(bench.granted(1, "/h", EXCLUSIVE).token > next);
}

#[test]
fn a_service_that_begins_anew_is_above_what_one_before_it_granted_and_nobody_has_seen() {
    let granted_after_a_start_at = |begun: u64, grants: u64| {
        let mut state = State::default();
        let mut commands = vec![
            Command::Join { membership: a_membership(), newest: FencingToken(0) },
            Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: String::new() },
        ];
        commands.extend((0..grants).map(|at| Command::Acquire {
            session: session(1),
            path: path(&format!("/{at}")),
            mode: EXCLUSIVE,
            if_held: IfHeld::Refuse,
        }));
        let applied = commands.iter().zip(1..).map(|(command, revision)| {
            state.apply(Revision(revision), Timestamp(begun + revision), command).unwrap().outcome
        });
        match applied.last() {
            Some(Outcome::Granted { grant, .. }) => grant.token,
            other => panic!("{other:?}"),
        }
    };
    let now = 1_800_000_000_000;
    let lost = granted_after_a_start_at(now, 100);
    assert!(granted_after_a_start_at(now + 3000, 1) > lost);
    assert!(granted_after_a_start_at(u64::MAX / 2, 1) > lost, "a clock that is wrong uses no tokens up");
}
