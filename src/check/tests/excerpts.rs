//! What is shown of a bad history: few calls, and enough of them.

use super::*;

/// A long good history of appends and reads by four clients that overlap.
fn a_long_story(rounds: u64) -> Story {
    let mut story = Story::default();
    let mut content = String::new();
    for round in 0..rounds {
        let begin = round * 100;
        let offset = content.len() as u64;
        content.push_str(&format!("<{round}>"));
        story.call(1, (begin, begin + 60), append(&format!("<{round}>")), written_at(round + 1, &content, offset));
        for client in 2..5 {
            story.call(client, (begin + 55, begin + 90), Operation::Read, found(round + 1, &content));
        }
    }
    story
}

#[test]
fn of_thousands_of_calls_two_are_shown() {
    let mut story = a_long_story(500);
    story.expect_good();
    let stale = story.calls.len() as u64;
    let old = story.calls[4 * 249 + 1].outcome.clone();
    story.call(9, (30_010, 30_020), Operation::Read, old);
    let shown = story.expect_violated("NO_ORDER");
    assert_eq!(shown.len(), 2, "{:#?}", story.report());
    assert!(shown.contains(&stale), "{shown:?}");
    let kind = story.report().violations[0].kind;
    assert_eq!(kind, ViolationKind::NoOrder { is_from_any_state: true });
}

#[test]
fn what_is_shown_is_bad_by_itself_whatever_was_before() {
    let mut story = a_long_story(50);
    story.call(7, (2_000, 2_001), append("lost"), unknown());
    story.call(8, (2_500, 2_501), append("gone"), refused("NO_SPACE"));
    story.call(9, (3_095, 3_099), Operation::Read, found(31, "no such content"));
    story.expect_violated("NO_ORDER");
    let calls = story.report().violations.remove(0).calls;
    let register = register(&calls);
    let found = search(&register, register.anything(), &timed(&calls), Bounds::default());
    assert!(matches!(found, Found::NoOrder { .. }), "{calls:#?}");
}

/// A patch makes the bytes of all contents worth keeping.
#[test]
fn what_a_search_keeps_of_bytes_is_bounded() {
    let mut story = Story::default();
    for _ in 0..4_000 {
        story.call(1, (0, 1), append(&"x".repeat(1000)), unknown());
    }
    story.call(1, (0, 1), patch(0, "y", if_version(4_000)), unknown());
    let register = register(&story.calls);
    let (mut state, mut kept) = (register.initial(), 0);
    for call in timed(&story.calls) {
        state = register.step(&state, &call.operation).unwrap();
        kept += state.kept();
    }
    assert!(kept > 1 << 18, "{kept}");
    assert!(kept <= 128 << 20, "{kept}");
}

#[test]
fn of_a_file_without_patches_no_bytes_are_kept() {
    let story = a_long_story(50);
    let register = register(&story.calls);
    let mut state = register.initial();
    for call in timed(&story.calls) {
        state = register.step(&state, &call.operation).unwrap();
        assert_eq!(state.kept(), 0);
    }
}
