//! What is kept, for how long, and that nothing is left behind.

use super::*;
use crate::{directory::command::Settled, types::Inode};

fn versions(world: &World, at: &str) -> Vec<u64> {
    let page = world.view().versions(&path(at), None, 1000).unwrap();
    page.items.iter().map(|version| version.version.0).collect()
}

#[test]
fn the_newest_versions_are_kept_for_ever_and_older_ones_for_a_while() {
    let mut world = World::new();
    for _ in 0..6 {
        world.write("/f", b"x");
        world.pass(HOUR);
    }
    world.collect();
    assert_eq!(versions(&world, "/f"), [6, 5, 4, 3, 2, 1]);
    // Version 1 was superseded 5 hours ago, version 2 4 hours ago.
    world.pass(19 * HOUR);
    world.collect();
    assert_eq!(versions(&world, "/f"), [6, 5, 4, 3, 2]);
    world.pass(100 * HOUR);
    world.collect();
    assert_eq!(versions(&world, "/f"), [6, 5, 4]);
    let gone = world.view().lookup_file(&FileRef::Path(path("/f")), Some(Version(3)), AsOf::Now);
    assert_eq!(
        gone.unwrap_err().to_string(),
        Rejected::VersionNotFound { path: path("/f"), version: Version(3) }.to_string()
    );
}

#[test]
fn a_version_superseded_long_ago_goes_as_soon_as_it_falls_out_of_the_newest() {
    let mut world = World::new();
    for _ in 0..3 {
        world.write("/f", b"x");
    }
    world.pass(48 * HOUR);
    world.collect();
    assert_eq!(versions(&world, "/f"), [3, 2, 1]);
    world.write("/f", b"x");
    world.collect();
    assert_eq!(versions(&world, "/f"), [4, 3, 2]);
}

#[test]
fn a_page_of_versions_follows_the_one_before() {
    let mut world = World::new();
    let written: Vec<_> = (0..5u8).map(|step| world.write("/f", &[step])).collect();
    let first = world.view().versions(&path("/f"), None, 2).unwrap();
    let second = world.view().versions(&path("/f"), Some(first.items[1].version), 10).unwrap();
    assert_eq!((first.more, second.more), (true, false));
    let all: Vec<_> = first.items.iter().chain(&second.items).collect();
    for (info, committed) in all.iter().zip(written.iter().rev()) {
        assert_eq!((info.version, info.revision, info.size), (committed.version, committed.revision, 1));
        assert_eq!((info.checksum, info.create_time), (committed.checksum, committed.commit_time));
    }
    assert_eq!(all.len(), 5);
}

fn change_settings(world: &mut World, edit: impl Fn(&mut Settings)) {
    let mut settings = world.view().settings().unwrap().clone();
    edit(&mut settings);
    world.expect(Command::ChangeSettings { settings });
}

#[test]
fn a_changed_number_of_versions_takes_effect_with_the_next_writes() {
    let mut world = World::new();
    for _ in 0..8 {
        world.write("/f", b"x");
    }
    change_settings(&mut world, |settings| settings.keep_versions = 5);
    world.pass(48 * HOUR);
    world.collect();
    assert_eq!(versions(&world, "/f"), [8, 7, 6, 5, 4], "more are kept than when some were queued");
    world.write("/f", b"x");
    world.collect();
    assert_eq!(versions(&world, "/f"), [9, 8, 7, 6, 5]);
    change_settings(&mut world, |settings| settings.keep_versions = 2);
    world.write("/f", b"x");
    world.pass(48 * HOUR);
    world.collect();
    assert_eq!(versions(&world, "/f"), [10, 9]);
}

#[test]
fn a_blob_is_garbage_only_when_no_version_needs_it_and_deleted_only_after_its_grace() {
    let mut world = World::new();
    world.write("/f", b"one");
    let blob = world.look("/f").unwrap().extents[0].blob;
    let write_id = world.write_id();
    let (from, to, to_precondition) = (path("/f"), path("/g"), Precondition::default());
    world.expect(Command::CopyEntry { write_id, from, from_version: None, to, replace: false, to_precondition });
    world.delete("/f");
    world.pass(48 * HOUR);
    world.collect();
    let counts = world.view().counts().unwrap();
    assert_eq!((counts.blobs, counts.garbage_blobs), (1, 0), "the copy needs it");

    world.delete("/g");
    world.pass(25 * HOUR);
    world.collect();
    assert_eq!(world.view().counts().unwrap().garbage_blobs, 1);
    let told = |world: &World, id: &str| world.view().blobs_to_delete(&server(id), 10).unwrap();
    assert_eq!(told(&world, "a"), [], "in its time of grace");
    let group = GroupId(0);
    let settled = world.expect(Command::SettleBlob { group, blob });
    assert!(matches!(settled, Outcome::Settled(Settled::Committed { .. })), "still read");
    world.pass(GRACE);
    world.collect();
    assert_eq!(told(&world, "a"), [blob]);

    for id in ["a", "b", "c"] {
        let settled = world.expect(Command::SettleBlob { group, blob });
        assert_eq!(settled, Outcome::Settled(Settled::Abandoned), "a copy that was fetched meanwhile goes too");
        world.expect(Command::ConfirmDeleted { server: server(id), blobs: vec![blob] });
        assert_eq!(told(&world, id), []);
        let revision = world.revision();
        world.expect(Command::ConfirmDeleted { server: server(id), blobs: vec![blob] });
        assert_eq!(world.revision(), revision, "to say so twice does not count for another");
    }
    assert_eq!(world.view().counts().unwrap().garbage_blobs, 0);
    assert_eq!(world.expect(Command::SettleBlob { group, blob }), Outcome::Settled(Settled::Abandoned));
}

#[test]
fn a_merge_leaves_the_small_blobs_to_older_versions_and_then_to_the_garbage() {
    let mut world = World::with_settings(Settings { keep_versions: 1, ..some_settings() });
    for _ in 0..4 {
        world.append("/f", b"line");
    }
    let found = world.look("/f").unwrap();
    let config = world.group(found.extents[0].group.0);
    let blob = BlobId(world.draw());
    world.blobs.insert(blob, b"line".repeat(4));
    world.expect(Command::MergeExtents {
        primary: config.primary.unwrap(),
        group: config.group,
        epoch: config.epoch,
        inode: found.entry.inode,
        skip: 0,
        run: found.extents,
        merged: (blob, 16),
        begin_time: world.now,
    });
    let counts = world.view().counts().unwrap();
    assert_eq!((counts.blobs, counts.garbage_blobs), (4, 1), "the newest blob was in no older version");
    assert_eq!(world.read_version("/f", 3, AsOf::Now), b"linelineline");
    world.pass(25 * HOUR);
    world.collect();
    let counts = world.view().counts().unwrap();
    assert_eq!((counts.blobs, counts.garbage_blobs), (1, 4), "what is yet to be deleted on servers counts too");
    assert_eq!(world.read("/f"), b"line".repeat(4));
}

#[test]
fn a_deleted_tree_is_seen_in_the_past_and_then_taken_apart_in_bounded_steps() {
    let mut world = World::new();
    for directory in 0..5 {
        world.mkdir(&format!("/t/d{directory}/e"));
        for file in 0..4 {
            world.write(&format!("/t/d{directory}/e/f{file}"), b"bytes");
        }
    }
    let before = AsOf::Revision(world.revision());
    let rows = world.rows();
    assert_eq!(world.delete("/t"), 31);
    assert_eq!(world.rows()["entries"].len() + 1, rows["entries"].len(), "a deletion detaches one entry");
    assert_eq!(world.read_version("/t/d3/e/f2", 1, before), b"bytes");
    world.pass(23 * HOUR);
    world.collect();
    assert_eq!(world.names("/t/d4/e", before).len(), 4);
    world.pass(2 * HOUR);
    let mut steps = 0;
    let mut left = world.rows()["inodes"].len();
    while let Outcome::Collected { more: true } = world.expect(Command::Collect { limit: 35 }) {
        steps += 1;
        let now = world.rows()["inodes"].len();
        assert!(left - now <= 5, "a step took {} inodes", left - now);
        left = now;
    }
    assert!(steps > 10);
    assert_eq!(world.rows()["inodes"].len(), 1);
    assert_eq!(world.view().counts().unwrap().blobs, 0);
}

#[test]
fn when_all_is_deleted_and_forgotten_nothing_is_left() {
    let mut world = World::new();
    let empty = world.rows();
    world.mkdir("/t/a/b");
    for step in 0..8u64 {
        world.write("/t/f", format!("{step}").as_bytes());
        world.append("/t/a/log", b"line\n");
    }
    let at = path("/t/f");
    let commit = world.a_replace("/t/f", b"locked", with_token(token(&at, 3)));
    world.try_commit(commit).unwrap();
    world.rename("/t/a", "/t/z");
    world.rename("/t/z/log", "/log");
    let given_up = BlobId(world.draw());
    world.expect(Command::SettleBlob { group: GroupId(1), blob: given_up });
    world.delete("/t");
    world.delete("/log");
    world.pass(8 * 24 * HOUR);
    world.collect();
    world.pass(GRACE);
    world.collect();
    for id in ["a", "b", "c"] {
        let blobs = world.view().blobs_to_delete(&server(id), 1000).unwrap();
        assert!(!blobs.is_empty());
        world.expect(Command::ConfirmDeleted { server: server(id), blobs });
    }
    let mut left = world.rows();
    left.insert("state", empty["state"].clone());
    assert_eq!(differing(&left, &empty), [""; 0], "rows are left over, or missing");
    assert_eq!(world.view().get_entry(&Path::root(), AsOf::Now).unwrap().inode, Inode::ROOT);
}

#[test]
fn to_collect_where_nothing_is_due_changes_nothing() {
    let mut world = World::new();
    world.write("/f", b"x");
    let revision = world.revision();
    assert_eq!(world.expect(Command::Collect { limit: 100 }), Outcome::Collected { more: false });
    assert_eq!(world.revision(), revision);
}
