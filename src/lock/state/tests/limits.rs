//! What is refused, what is bounded, and what a restart takes up.

use super::*;

#[test]
fn bad_sessions_are_refused() {
    let mut bench = Bench::new([]);
    for ttl_ms in [0, TTL_MS_MIN - 1, TTL_MS_MAX + 1, u64::MAX] {
        let open = Command::OpenSession { session: session(1), ttl_ms, client: String::new() };
        assert!(matches!(bench.refused(open), Error::BadTtl { .. }), "{ttl_ms}");
    }
    let open = Command::OpenSession { session: session(1), ttl_ms: TTL_MS, client: "n".repeat(CLIENT_LENGTH_MAX + 1) };
    assert!(matches!(bench.refused(open), Error::ClientTooLong { .. }));
}

#[test]
fn opening_a_session_again_is_the_same_session() {
    let mut bench = Bench::new([1]);
    let grant = bench.granted(1, "/f", EXCLUSIVE);
    let again = Command::OpenSession { session: session(1), ttl_ms: 2 * TTL_MS, client: "other".into() };
    let applied = bench.accepted(again);
    assert_eq!(applied.outcome, Outcome::Opened { ttl_ms: TTL_MS });
    assert_eq!(applied.effects, [Effect::LeaseBegan { session: session(1), ttl_ms: TTL_MS }]);
    assert_eq!(applied.changed, []);
    assert_eq!(bench.granted(1, "/f", EXCLUSIVE), grant);
}

/// Without the checks of [`Bench`], whose cost grows with the state.
fn fill(state: &mut State, command: &Command) -> Result<Outcome, Error> {
    state.apply(Revision(state.revision().0 + 1), Timestamp(0), command).map(|applied| applied.outcome)
}

fn numbered(number: u128) -> SessionId {
    SessionId::from_bytes(number.to_be_bytes())
}

#[test]
fn queues_and_sessions_are_bounded() {
    let mut state = Bench::new([]).state;
    let open = |id| Command::OpenSession { session: numbered(id), ttl_ms: TTL_MS, client: String::new() };
    let ask = |id, at| Command::Acquire { session: numbered(id), path: at, mode: EXCLUSIVE, if_held: IfHeld::Queue };
    for id in 0..SESSIONS_MAX as u128 {
        fill(&mut state, &open(id)).unwrap();
    }
    assert_eq!(fill(&mut state, &open(SESSIONS_MAX as u128)), Err(Error::TooManySessions { limit: SESSIONS_MAX }));
    for id in 0..=WAITERS_PER_PATH_MAX as u128 {
        fill(&mut state, &ask(id, path("/f"))).unwrap();
    }
    let refused = fill(&mut state, &ask(WAITERS_PER_PATH_MAX as u128 + 1, path("/f")));
    assert_eq!(refused, Err(Error::TooManyWaiters { path: path("/f"), limit: WAITERS_PER_PATH_MAX }));
    for number in 1..LOCKS_PER_SESSION_MAX {
        fill(&mut state, &ask(0, path(&format!("/{number}")))).unwrap();
    }
    let refused = fill(&mut state, &ask(0, path("/one-more")));
    assert_eq!(refused, Err(Error::TooManyOfSession { limit: LOCKS_PER_SESSION_MAX }));
}

#[test]
fn locks_are_listed_in_path_order_page_by_page() {
    let mut bench = Bench::new([1]);
    for at in ["/a", "/a!", "/a/b", "/a/b/c", "/ab", "/b"] {
        bench.granted(1, at, EXCLUSIVE);
    }
    let names = |views: &[LockView]| views.iter().map(|view| view.path.to_string()).collect::<Vec<_>>();
    let (all, more) = bench.state.list(&Path::root(), None, 100);
    assert_eq!((names(&all), more), (["/a", "/a!", "/a/b", "/a/b/c", "/ab", "/b"].map(str::to_owned).to_vec(), false));
    let (first, more) = bench.state.list(&path("/a"), None, 2);
    assert_eq!((names(&first), more), (vec!["/a".to_owned(), "/a/b".to_owned()], true));
    let (rest, more) = bench.state.list(&path("/a"), Some(&path("/a/b")), 2);
    assert_eq!((names(&rest), more), (vec!["/a/b/c".to_owned()], false));
}

#[test]
fn a_long_queue_is_counted_in_full_and_listed_in_part() {
    let mut state = Bench::new([]).state;
    for id in 0..1500 {
        fill(&mut state, &Command::OpenSession { session: numbered(id), ttl_ms: TTL_MS, client: String::new() })
            .unwrap();
        let ask = Command::Acquire { session: numbered(id), path: path("/f"), mode: EXCLUSIVE, if_held: IfHeld::Queue };
        fill(&mut state, &ask).unwrap();
    }
    let view = state.view(&path("/f"));
    assert_eq!((view.waiters.len(), view.waiter_count), (1000, 1499));
    assert_eq!(state.waiting_from(&path("/f"), 1400).next(), Some((numbered(1401), 1401)));
}

#[test]
fn a_restart_finds_everything_and_takes_it_up_again() {
    let mut bench = Bench::new(1..=3);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    bench.granted(3, "/g", SHARED);
    bench.expire(1);
    let token = bench.fence("/f").unwrap();
    bench.restart();
    let lease = |id| Effect::LeaseBegan { session: session(id), ttl_ms: TTL_MS };
    assert_eq!(bench.state.resume(), [lease(2), lease(3), Effect::RaiseFence { path: path("/f"), token }]);
    assert!(matches!(bench.state.standing(session(2), &path("/f")), Some(Standing::Waits(_))));
    assert_eq!(grants(&bench.raise_fence("/f")), [2]);
    assert!(bench.granted(2, "/f", EXCLUSIVE).token > token);
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let mut bench = Bench::new(1..=2);
    bench.granted(1, "/f", EXCLUSIVE);
    bench.queued(2, "/f", EXCLUSIVE);
    let good: Vec<Record> = bench.store.values().cloned().collect();
    let with = |record: Record| State::restore(good.iter().cloned().chain([record])).unwrap_err();
    let grant = Grant { mode: EXCLUSIVE, token: FencingToken(1), time: Timestamp(0) };
    let at = || path("/f");
    assert_eq!(with(Record::Holder { path: at(), id: session(2), grant }), Damaged::Contradiction(at()));
    assert_eq!(with(Record::Holder { path: at(), id: session(9), grant }), Damaged::SessionMissing(session(9)));
    assert_eq!(with(Record::Fence { path: at(), token: FencingToken(1) }), Damaged::Contradiction(at()));
    assert_eq!(with(Record::Fence { path: path("/g"), token: FencingToken(u64::MAX) }), Damaged::AheadOfHead);
    assert_eq!(with(good[0].clone()), Damaged::Twice);
}
