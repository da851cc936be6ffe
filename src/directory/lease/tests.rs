use super::*;

const TICK: Duration = Duration::from_millis(100);

struct Setup {
    table: Table,
    now: Instant,
    server: ServerId,
    process: Process,
}

fn a_process() -> Process {
    Process { store: StoreId::random(), incarnation: None }
}

/// As a rival of which `process` learns.
fn is_taken(setup: &Setup, process: Process) -> bool {
    setup.table.rival(&setup.server, process, setup.now).is_some_and(|rival| rival.is_connected)
}

fn a_table_with_one_server() -> Setup {
    let (server, process, now): (ServerId, _, _) = ("a".parse().unwrap(), a_process(), Instant::now());
    Setup { table: Table::new([(server.clone(), process)], now), now, server, process }
}

impl Setup {
    fn beat(&mut self) -> Beat {
        self.table.heard(&self.server, self.process, Stats::default(), Timestamp(1), self.now)
    }

    /// Lets time pass as the judge sees it, tick by tick.
    fn pass(&mut self, duration: Duration) -> Vec<ServerId> {
        let end = self.now + duration;
        let mut expired = Vec::new();
        while self.now < end {
            self.now += TICK;
            expired = self.table.expired(self.now).into_iter().map(|(server, _)| server).collect();
        }
        expired
    }
}

#[test]
fn a_silent_server_is_down_after_its_lease_and_not_before() {
    let mut setup = a_table_with_one_server();
    assert_eq!(setup.pass(LEASE - TICK), []);
    assert_eq!(setup.pass(TICK), [setup.server.clone()]);
}

#[test]
fn the_process_that_fell_silent_is_named_as_long_as_another_may_have_begun() {
    let mut setup = a_table_with_one_server();
    let named = Some(Incarnation(uuid::Uuid::from_u128(3)));
    let process = Process { incarnation: named, ..setup.process };
    setup.table.registered(setup.server.clone(), process, Stats::default(), Timestamp(1), setup.now);
    setup.pass(LEASE);
    assert_eq!(setup.table.expired(setup.now), [(setup.server.clone(), named)]);
    setup.pass(LEASE - TICK);
    assert_eq!(setup.table.expired(setup.now), [(setup.server.clone(), named)]);
    setup.pass(TICK);
    assert_eq!(setup.table.expired(setup.now), [(setup.server.clone(), None)]);
}

#[test]
fn a_silent_server_is_asked_soon_and_again_until_it_beats() {
    let mut setup = a_table_with_one_server();
    setup.pass(SILENCE - TICK);
    assert_eq!(setup.table.silent(setup.now), []);
    setup.pass(TICK);
    assert_eq!(setup.table.silent(setup.now), [setup.server.clone()]);
    assert_eq!(setup.table.silent(setup.now), [], "it is being asked");
    setup.pass(ASK_AGAIN);
    assert_eq!(setup.table.silent(setup.now), [setup.server.clone()]);
    assert!(!setup.table.was_heard(&setup.server, setup.now));
    setup.beat();
    assert!(setup.table.was_heard(&setup.server, setup.now));
    assert_eq!(setup.table.silent(setup.now), []);
}

#[test]
fn one_that_has_registered_and_not_beaten_yet_is_not_called_silent() {
    let mut setup = a_table_with_one_server();
    setup.table.registered(setup.server.clone(), setup.process, Stats::default(), Timestamp(1), setup.now);
    setup.pass(LEASE - TICK);
    assert_eq!(setup.table.silent(setup.now), []);
    assert_eq!(setup.pass(TICK), [setup.server.clone()], "its lease runs out all the same");
}

#[test]
fn a_judge_that_was_stopped_for_a_moment_calls_nobody_silent_by_it() {
    let mut setup = a_table_with_one_server();
    setup.now += SILENCE;
    setup.table.expired(setup.now);
    assert_eq!(setup.table.silent(setup.now), []);
}

#[test]
fn a_beat_renews_the_lease() {
    let mut setup = a_table_with_one_server();
    for _ in 0..10 {
        assert_eq!(setup.pass(LEASE - TICK), []);
        assert_eq!(setup.beat(), Beat::Counted);
    }
}

#[test]
fn a_server_that_connects_again_within_its_lease_stays() {
    let mut setup = a_table_with_one_server();
    setup.table.connected(&setup.server, setup.process);
    setup.table.disconnected(&setup.server, setup.process);
    assert_eq!(setup.pass(LEASE - TICK), []);
    setup.table.connected(&setup.server, setup.process);
    assert_eq!(setup.beat(), Beat::Counted);
    assert_eq!(setup.pass(LEASE - TICK), []);
}

#[test]
fn a_judge_that_was_stopped_judges_nobody_by_it() {
    let mut setup = a_table_with_one_server();
    setup.now += 10 * LEASE;
    assert_eq!(setup.table.expired(setup.now), []);
    assert_eq!(setup.pass(LEASE - TICK), []);
    assert_eq!(setup.pass(TICK), [setup.server.clone()]);
}

#[test]
fn a_beat_from_another_data_folder_does_not_count() {
    let mut setup = a_table_with_one_server();
    setup.process = a_process();
    assert_eq!(setup.beat(), Beat::NotRegistered);
    let stranger = "b".parse().unwrap();
    assert_eq!(
        setup.table.heard(&stranger, setup.process, Stats::default(), Timestamp(1), setup.now),
        Beat::NotRegistered
    );
    assert_eq!(setup.pass(LEASE), [setup.server.clone()]);
}

#[test]
fn a_store_takes_no_writes_at_once_and_takes_them_again_after_a_while() {
    let mut setup = a_table_with_one_server();
    let state = |setup: &Setup| setup.table.store_state(&setup.server, setup.now);
    assert_eq!(state(&setup), None, "nothing was heard yet");
    let full = Stats { read_only_reason: "full".into(), ..Stats::default() };
    let read_only = Some(StoreState::ReadOnly { reason: "full".into() });
    for _ in 0..2 {
        setup.table.heard(&setup.server, setup.process, full.clone(), Timestamp(1), setup.now);
        assert_eq!(state(&setup), read_only);
        setup.beat();
        assert_eq!(state(&setup), None);
        setup.now += WRITABLE_PATIENCE - TICK;
        setup.beat();
        assert_eq!(state(&setup), None);
    }
    setup.now += TICK;
    assert_eq!(state(&setup), Some(StoreState::TakesWrites));
}

#[test]
fn what_is_being_uploaded_is_what_the_last_beats_say() {
    let mut setup = a_table_with_one_server();
    let uploading = Stats { uploading: BTreeSet::from([GroupId(7)]), ..Stats::default() };
    setup.table.heard(&setup.server, setup.process, uploading, Timestamp(1), setup.now);
    assert_eq!(setup.table.uploading(setup.now), BTreeSet::from([GroupId(7)]));
    assert_eq!(setup.table.uploading(setup.now + LEASE), BTreeSet::new(), "it is down");
    setup.beat();
    assert_eq!(setup.table.uploading(setup.now), BTreeSet::new());
}

#[test]
fn a_name_is_taken_only_while_its_server_is_connected_and_alive() {
    let mut setup = a_table_with_one_server();
    let other = a_process();
    assert!(!is_taken(&setup, other));
    setup.table.connected(&setup.server, setup.process);
    assert!(is_taken(&setup, other));
    assert!(!is_taken(&setup, setup.process));
    setup.pass(LEASE);
    assert!(!is_taken(&setup, other));
}

#[test]
fn an_older_process_on_the_same_folder_does_not_count() {
    let mut setup = a_table_with_one_server();
    let older = setup.process;
    setup.process = Process { incarnation: Some(Incarnation::random()), ..older };
    setup.table.connected(&setup.server, older);
    assert_eq!(setup.beat(), Beat::NotRegistered, "it has not registered yet");
    assert!(is_taken(&setup, setup.process));
    setup.table.registered(setup.server.clone(), setup.process, Stats::default(), Timestamp(2), setup.now);
    assert_eq!(setup.beat(), Beat::Counted);
    setup.process = older;
    assert_eq!(setup.beat(), Beat::NotRegistered);
    assert!(!setup.table.is_replaced(&setup.server, older.store));
}

#[test]
fn a_server_whose_place_was_taken_must_register_again() {
    let mut setup = a_table_with_one_server();
    setup.table.forget(&setup.server.clone());
    assert_eq!(setup.beat(), Beat::NotRegistered);
    assert_eq!(setup.pass(2 * LEASE), [], "nobody judges it any more");
}

#[test]
fn registering_with_another_folder_forgets_the_old_streams() {
    let mut setup = a_table_with_one_server();
    setup.table.connected(&setup.server, setup.process);
    let (old, new) = (setup.process, a_process());
    setup.table.registered(setup.server.clone(), new, Stats::default(), Timestamp(2), setup.now);
    setup.table.disconnected(&setup.server, old);
    assert!(!is_taken(&setup, old));
    setup.table.connected(&setup.server, new);
    assert!(is_taken(&setup, old));
}
