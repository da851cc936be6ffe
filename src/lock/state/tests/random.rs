//! Random commands, held against the model.

use proptest::prelude::*;

use super::*;
use crate::lock::state::model::Model;

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Close(u8),
    Expire(u8),
    Acquire(u8, u8, bool, bool),
    Release(u8, u8),
    GiveUp(u8, u8),
    Break(u8),
    FenceRaised(u8),
}

fn a_step() -> impl Strategy<Value = Step> {
    let (id, at) = (0..6u8, 0..3u8);
    prop_oneof![
        3 => id.clone().prop_map(Step::Open),
        1 => id.clone().prop_map(Step::Close),
        1 => id.clone().prop_map(Step::Expire),
        12 => (id.clone(), at.clone(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(id, at, shared, queue)| Step::Acquire(id, at, shared, queue)),
        5 => (id.clone(), at.clone()).prop_map(|(id, at)| Step::Release(id, at)),
        2 => (id, at.clone()).prop_map(|(id, at)| Step::GiveUp(id, at)),
        1 => at.clone().prop_map(Step::Break),
        3 => at.prop_map(Step::FenceRaised),
    ]
}

/// Takes the step with the real state and with the model.
fn take(step: &Step, bench: &mut Bench, model: &mut Model) -> Option<Result<Applied, Error>> {
    let spot = |at: u8| path(&format!("/{at}"));
    let id = |id: u8| session(id + 1);
    let command = match *step {
        Step::Open(id_) => {
            if !bench.state.expired.contains_key(&id(id_)) {
                model.open.insert(id(id_));
            }
            Command::OpenSession { session: id(id_), ttl_ms: TTL_MS, client: String::new() }
        }
        Step::Close(id_) => {
            model.end(id(id_), false);
            Command::CloseSession { session: id(id_) }
        }
        Step::Expire(id_) => {
            model.end(id(id_), true);
            Command::ExpireSession { session: id(id_) }
        }
        Step::Acquire(id_, at, shared, queue) => {
            let mode = if shared { SHARED } else { EXCLUSIVE };
            model.ask(id(id_), &spot(at), mode, queue);
            let if_held = if queue { IfHeld::Queue } else { IfHeld::Refuse };
            Command::Acquire { session: id(id_), path: spot(at), mode, if_held }
        }
        Step::Release(id_, at) => {
            model.give_up(id(id_), &spot(at));
            model.release(id(id_), &spot(at));
            Command::Release { session: id(id_), path: spot(at), token: None }
        }
        Step::GiveUp(id_, at) => {
            let Some(Standing::Waits(ticket)) = bench.state.standing(id(id_), &spot(at)) else { return None };
            model.give_up(id(id_), &spot(at));
            Command::GiveUp { session: id(id_), path: spot(at), ticket }
        }
        Step::Break(at) => {
            model.break_all(&spot(at));
            Command::Break { path: spot(at), token: None }
        }
        Step::FenceRaised(at) => {
            let token = bench.state.view(&spot(at)).fence?;
            model.fence_raised(&spot(at));
            Command::FenceRaised { path: spot(at), token }
        }
    };
    Some(bench.apply(command))
}

/// Every wait that the step ended was told so, with the grant or without.
fn expect_waits_told(before: &Model, after: &Model, applied: &Applied) {
    for (path, queue) in &before.waiting {
        for (session, _) in queue {
            let granted = applied.effects.iter().any(
                |effect| matches!(effect, Effect::Granted { session: s, path: p, .. } if s == session && p == path),
            );
            let ended = applied.effects.iter().any(
                |effect| matches!(effect, Effect::WaitEnded { session: s, path: p, .. } if s == session && p == path),
            );
            assert_eq!(granted, after.holds(*session, path).is_some());
            assert_eq!(granted || ended, !after.waits(*session, path));
        }
    }
}

fn expect_same(bench: &Bench, model: &Model) {
    for at in 0..3 {
        let at = path(&format!("/{at}"));
        let view = bench.state.view(&at);
        let mut held = model.held.get(&at).cloned().unwrap_or_default();
        held.sort_by_key(|(session, _)| *session);
        let holders: Vec<_> = view.holders.iter().map(|holder| (holder.session, holder.grant.mode)).collect();
        assert_eq!(holders, held, "holders of {at}");
        let waiters: Vec<_> = view.waiters.iter().map(|waiter| (waiter.session, waiter.mode)).collect();
        assert_eq!(waiters, model.waiting.get(&at).cloned().unwrap_or_default(), "queue of {at}");
        assert_eq!(view.fence.is_some(), model.fenced.contains(&at), "fence of {at}");
    }
    assert_eq!(bench.state.sessions.keys().copied().collect::<BTreeSet<_>>(), model.open);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_does_what_the_model_does_and_every_restart_finds_it(steps in prop::collection::vec(a_step(), 1..120)) {
        let (mut bench, mut model) = (Bench::new([]), Model::default());
        for step in &steps {
            let before = model.clone();
            if let Some(Ok(applied)) = take(step, &mut bench, &mut model) {
                expect_waits_told(&before, &model, &applied);
            }
            expect_same(&bench, &model);
            bench.restart();
        }
    }

    #[test]
    fn the_same_commands_give_the_same_state_and_answers(steps in prop::collection::vec(a_step(), 1..60)) {
        let run = || {
            let (mut bench, mut model) = (Bench::new([]), Model::default());
            let answers: Vec<_> = steps.iter().map(|step| take(step, &mut bench, &mut model)).collect();
            (answers, bench.state)
        };
        prop_assert_eq!(run(), run());
    }
}
