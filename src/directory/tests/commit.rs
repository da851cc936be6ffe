//! Commits: what they check, and what the file then holds. Copies, restores and merges.

use super::*;
use crate::{
    directory::content::EXTENTS_MAX,
    types::{BLOB_LENGTH_MAX, Inode},
};

#[test]
fn a_commit_makes_a_version_and_says_so() {
    let mut world = World::new();
    let first = world.write("/f", b"first");
    assert_eq!((first.version, first.size, first.offset), (Version(1), 5, 0));
    assert_eq!((first.revision, first.commit_time), (world.revision(), world.now));
    world.pass(SECOND);
    let second = world.write("/f", b"the second");
    assert_eq!((second.inode, second.version), (first.inode, Version(2)));
    assert_eq!(second.checksum, crc32c(b"the second"));
    let found = world.look("/f").unwrap();
    assert_eq!(
        (found.entry.attributes.create_time, found.entry.attributes.modify_time),
        (first.commit_time, world.now)
    );
    assert_eq!(world.read("/f"), b"the second");
    assert_eq!(world.read_version("/f", 1, AsOf::Now), b"first");
}

#[test]
fn an_empty_file_is_a_version_like_any() {
    let mut world = World::new();
    let committed = world.write("/f", b"");
    assert_eq!((committed.size, committed.extent_count), (0, 0));
    assert_eq!(world.read("/f"), b"");
    assert_eq!(world.append("/f", b"x").offset, 0);
    assert_eq!(world.read("/f"), b"x");
}

#[test]
fn a_write_that_overwrites_needs_a_token_or_a_version() {
    let mut world = World::new();
    let none = Precondition::default();
    let required = Err(Rejected::LockRequired { path: path("/f") });
    let commit = world.a_replace("/f", b"x", none);
    assert_eq!(world.try_commit(commit), required);
    world.write("/f", b"x");
    let commit = WriteCommit { precondition: none, ..world.a_patch("/f", 0, b"y", b"x", 1) };
    assert_eq!(world.try_commit(commit), required);
    assert_eq!(world.append("/f", b"y").version, Version(2));
}

#[test]
fn a_write_based_on_another_version_is_refused() {
    let mut world = World::new();
    let mismatch = |expected, current| {
        Err(Rejected::VersionMismatch { path: path("/f"), expected: Version(expected), current: Version(current) })
    };
    let commit = world.a_replace("/f", b"x", if_version(1));
    assert_eq!(world.try_commit(commit), mismatch(1, 0));
    world.write("/f", b"x");
    for expected in [0, 2] {
        let commit = world.a_replace("/f", b"y", if_version(expected));
        assert_eq!(world.try_commit(commit), mismatch(expected, 1));
    }
    let commit = WriteCommit { precondition: if_version(0), ..world.a_commit(&path("/f"), WriteMode::Append, b"y", 9) };
    assert_eq!(world.try_commit(commit), mismatch(0, 1));
    assert_eq!(world.read("/f"), b"x");
}

#[test]
fn a_token_is_good_until_a_newer_one_has_been_seen() {
    let mut world = World::new();
    let at = path("/f");
    let (old, new) = (token(&at, 1), token(&at, 2));
    let commit = world.a_replace("/f", b"1", with_token(old));
    assert!(world.try_commit(commit).is_ok());
    let commit = world.a_replace("/f", b"2", with_token(old));
    assert!(world.try_commit(commit).is_ok(), "a holder may write more than once");
    let commit = world.a_replace("/f", b"3", with_token(new));
    assert!(world.try_commit(commit).is_ok());
    let stale = Rejected::FencingTokenStale { path: at.clone(), given: old, current: new };
    let commit = world.a_replace("/f", b"late", with_token(old));
    assert_eq!(world.try_commit(commit), Err(stale.clone()));
    let both = Precondition { fencing_token: Some(old), if_version: Some(Version(3)) };
    let commit = world.a_replace("/f", b"late", both);
    assert_eq!(world.try_commit(commit), Err(stale.clone()), "a right version does not make up for it");
    assert_eq!(world.try_delete("/f", false, with_token(old)), Err(stale.clone()));
    let commit = WriteCommit { precondition: with_token(old), ..world.a_commit(&at, WriteMode::Append, b"x", 9) };
    assert_eq!(world.try_commit(commit), Err(stale));
    assert_eq!(world.read("/f"), b"3");
}

#[test]
fn from_the_moment_a_fence_is_raised_the_old_holder_commits_nothing() {
    let mut world = World::new();
    let at = path("/f");
    let (old, new) = (token(&at, 1), token(&at, 2));
    world.expect(Command::RaiseFence { path: at.clone(), token: new });
    let commit = world.a_replace("/f", b"late", with_token(old));
    let stale = Rejected::FencingTokenStale { path: at.clone(), given: old, current: new };
    assert_eq!(world.try_commit(commit), Err(stale));
    let revision = world.revision();
    world.expect(Command::RaiseFence { path: at.clone(), token: old });
    world.expect(Command::RaiseFence { path: at.clone(), token: new });
    assert_eq!(world.revision(), revision, "a fence never falls");
    let commit = world.a_replace("/f", b"new", with_token(new));
    assert!(world.try_commit(commit).is_ok());
}

#[test]
fn a_token_that_was_never_granted_for_writing_the_path_is_refused() {
    let mut world = World::new();
    let at = path("/f");
    let shared = token::seal(&KEY, 9, &at, LockMode::Shared).unwrap();
    let foreign = token::seal(&[8; 32], 9, &at, LockMode::Exclusive).unwrap();
    for given in [shared, foreign, token(&path("/g"), 9), FencingToken(u64::MAX), FencingToken(0)] {
        let commit = world.a_replace("/f", b"x", with_token(given));
        assert_eq!(world.try_commit(commit), Err(Rejected::FencingTokenForged { path: at.clone(), given }));
    }
    let forged = FencingToken(u64::MAX);
    let rejected = Rejected::FencingTokenForged { path: at.clone(), given: forged };
    assert_eq!(world.try_apply(Command::RaiseFence { path: at, token: forged }), Err(rejected));
}

#[test]
fn a_forgotten_fence_still_keeps_old_tokens_out() {
    let mut world = World::new();
    let at = path("/f");
    let commit = world.a_replace("/f", b"x", with_token(token(&at, 5)));
    assert!(world.try_commit(commit).is_ok());
    world.pass(8 * 24 * HOUR);
    world.collect();
    assert_eq!(world.rows()["fences"], []);
    for (counter, good) in [(4, false), (5, true), (6, true)] {
        let commit = world.a_replace("/f", b"y", with_token(token(&at, counter)));
        assert_eq!(world.try_commit(commit).is_ok(), good, "{counter}");
    }
    let other = path("/other");
    let commit = world.a_replace("/other", b"y", with_token(token(&other, 4)));
    assert!(matches!(world.try_commit(commit), Err(Rejected::FencingTokenStale { .. })));
}

#[test]
fn a_fence_that_was_raised_again_is_kept_for_another_week() {
    let mut world = World::new();
    let at = path("/f");
    world.expect(Command::RaiseFence { path: at.clone(), token: token(&at, 1) });
    world.pass(6 * 24 * HOUR);
    world.expect(Command::RaiseFence { path: at.clone(), token: token(&at, 2) });
    world.pass(2 * 24 * HOUR);
    world.collect();
    assert_eq!(world.rows()["fences"].len(), 1);
    world.pass(5 * 24 * HOUR);
    world.collect();
    assert_eq!(world.rows()["fences"].len(), 0);
    assert_eq!(world.rows()["fence_times"].len(), 0);
}

#[test]
fn a_write_that_was_based_on_another_file_is_refused() {
    let mut world = World::new();
    let first = world.write("/f", b"x");
    world.delete("/f");
    let commit =
        WriteCommit { base_inode: Some(first.inode), ..world.a_commit(&path("/f"), WriteMode::Append, b"y", 9) };
    let mismatch = |current| Rejected::InodeMismatch { path: path("/f"), expected: first.inode.0, current };
    assert_eq!(world.try_commit(commit.clone()), Err(mismatch(0)));
    let second = world.write("/f", b"z");
    assert_eq!(second.version, Version(1));
    assert_eq!(world.try_commit(commit), Err(mismatch(second.inode.0)));
    let commit =
        WriteCommit { base_inode: Some(second.inode), ..world.a_commit(&path("/f"), WriteMode::Append, b"y", 9) };
    assert!(world.try_commit(commit).is_ok());
}

#[test]
fn a_deposed_primary_commits_nothing() {
    let mut world = World::new();
    let commit = world.a_replace("/f", b"x", if_version(0));
    let config = world.group(commit.group.0);
    let primary = config.primary.clone().unwrap();
    let other = config.members.iter().find(|member| **member != primary).unwrap().clone();
    let stale = |current| Err(Rejected::StaleEpoch { group: config.group, current: Epoch(current) });
    let from_other = Command::CommitWrite { primary: other.clone(), commit: commit.clone() };
    assert_eq!(world.try_apply(from_other), stale(1));
    let newer =
        Command::CommitWrite { primary: primary.clone(), commit: WriteCommit { epoch: Epoch(2), ..commit.clone() } };
    assert_eq!(world.try_apply(newer), stale(1));
    world.expect(Command::MarkDown { server: primary.clone(), incarnation: None });
    let old = Command::CommitWrite { primary, commit: commit.clone() };
    assert_eq!(world.try_apply(old), stale(2));
    let nowhere = Command::CommitWrite { primary: other, commit: WriteCommit { group: GroupId(99), ..commit } };
    assert_eq!(world.try_apply(nowhere), Err(Rejected::GroupNotFound { group: GroupId(99) }));
}

#[test]
fn a_write_that_took_too_long_is_refused() {
    let mut world = World::new();
    let commit = world.a_replace("/f", b"x", if_version(0));
    world.pass(50 * MINUTE);
    assert_eq!(world.try_commit(commit), Err(Rejected::WriteExpired));
}

#[test]
fn a_blob_that_was_given_up_is_never_committed_and_a_committed_one_is_never_given_up() {
    let mut world = World::new();
    let commit = world.a_replace("/f", b"x", if_version(0));
    let settle = |world: &mut World, commit: &WriteCommit| {
        let (group, blob) = (commit.group, commit.pieces[0].0);
        world.expect(Command::SettleBlob { group, blob })
    };
    use crate::directory::command::Settled;
    let fate = |world: &World, commit: &WriteCommit| world.view().fate_of(commit.pieces[0].0).unwrap();
    assert_eq!(fate(&world, &commit), None);
    assert_eq!(settle(&mut world, &commit), Outcome::Settled(Settled::Abandoned));
    assert_eq!(fate(&world, &commit), Some(Settled::Abandoned));
    assert_eq!(settle(&mut world, &commit), Outcome::Settled(Settled::Abandoned));
    assert_eq!(world.try_commit(commit.clone()), Err(Rejected::WriteExpired));
    world.pass(HOUR);
    world.collect();
    assert_eq!(world.rows()["abandoned"].len(), 0);
    assert_eq!(world.try_commit(commit.clone()), Err(Rejected::WriteExpired), "by its age, once that is forgotten");

    let again = WriteCommit { write_id: commit.write_id, ..world.a_replace("/f", b"x", if_version(0)) };
    assert_eq!(fate(&world, &again), None, "asking so gives nothing up");
    let committed = world.try_commit(again.clone()).unwrap();
    let owner = Settled::Committed { inode: committed.inode, version: committed.version };
    assert_eq!(fate(&world, &again), Some(owner));
    assert_eq!(settle(&mut world, &again), Outcome::Settled(owner), "the same write with another blob went through");
}

#[test]
fn a_retry_through_another_primary_gets_the_first_receipt_and_its_blobs() {
    let mut world = World::new();
    let commit = world.a_replace("/f", b"x", if_version(0));
    let first = world.try_commit(commit.clone()).unwrap();
    let config = world.group(commit.group.0);
    assert_eq!((first.epoch, &first.in_sync), (config.epoch, &config.in_sync), "those who have it");
    world.expect(Command::MarkDown { server: config.primary.unwrap(), incarnation: None });
    assert_ne!(world.write("/f", b"y").in_sync, first.in_sync);
    let retry = WriteCommit { write_id: commit.write_id, ..world.a_replace("/f", b"x", if_version(0)) };
    assert_ne!(retry.pieces, commit.pieces);
    assert_eq!(world.try_commit(retry), Ok(first));
    let other_data = WriteCommit { write_id: commit.write_id, ..world.a_replace("/f", b"z", if_version(0)) };
    assert_eq!(world.try_commit(other_data), Err(Rejected::WriteIdReused));
}

#[test]
fn a_blob_belongs_to_one_write_and_has_a_length() {
    let mut world = World::new();
    let commit = world.a_replace("/f", b"x", if_version(0));
    let (blob, _) = commit.pieces[0];
    let bad = Err(Rejected::BadBlob { blob });
    for pieces in [vec![(blob, 0)], vec![(blob, BLOB_LENGTH_MAX + 1)], vec![(blob, 1), (blob, 1)]] {
        assert_eq!(world.try_commit(WriteCommit { pieces, ..commit.clone() }), bad);
    }
    assert!(world.try_commit(commit.clone()).is_ok());
    let write_id = world.write_id();
    let reused = WriteCommit { path: path("/g"), write_id, ..commit };
    assert_eq!(world.try_commit(reused), bad);
}

#[test]
fn appends_land_one_after_the_other_whole() {
    let mut world = World::new();
    let offsets = [b"one\n".as_slice(), b"two\n", b"three\n"].map(|line| world.append("/log", line).offset);
    assert_eq!(offsets, [0, 4, 8]);
    assert_eq!(world.read("/log"), b"one\ntwo\nthree\n");
    assert_eq!(world.read_version("/log", 2, AsOf::Now), b"one\ntwo\n");
}

#[test]
fn a_patch_replaces_what_is_at_its_offset_and_may_reach_past_the_end() {
    let mut world = World::new();
    world.write("/f", b"0123");
    world.append("/f", b"4567");
    let mut bytes = b"01234567".to_vec();
    let patches: [(u64, &[u8]); 5] = [(3, b"ab"), (0, b"c"), (8, b"past"), (10, b"the end"), (2, b"")];
    for (step, (offset, patch)) in patches.into_iter().enumerate() {
        let commit = world.a_patch("/f", offset, patch, &bytes, step as u64 + 2);
        let committed = world.try_commit(commit).unwrap();
        bytes = patched(&bytes, offset as usize, patch);
        assert_eq!((committed.offset, committed.size), (offset, bytes.len() as u64));
        assert_eq!(world.read("/f"), bytes);
    }
    assert_eq!(world.read_version("/f", 1, AsOf::Now), b"0123");
}

#[test]
fn a_patch_is_refused_past_the_end_of_nothing_and_of_another_version() {
    let mut world = World::new();
    let commit = world.a_patch("/f", 0, b"x", b"", 0);
    assert_eq!(world.try_commit(commit), Err(Rejected::EntryNotFound { path: path("/f") }));
    world.write("/f", b"0123");
    let commit = WriteCommit { mode: WriteMode::Patch { offset: 5 }, ..world.a_patch("/f", 4, b"x", b"0123", 1) };
    let out_of_range = Rejected::OffsetOutOfRange { path: path("/f"), offset: 5, size: 4 };
    assert_eq!(world.try_commit(commit), Err(out_of_range));
    let at = path("/f");
    let old_base = WriteCommit { precondition: with_token(token(&at, 1)), ..world.a_patch("/f", 0, b"x", b"0123", 1) };
    world.append("/f", b"4");
    let mismatch = Rejected::VersionMismatch { path: at, expected: Version(1), current: Version(2) };
    assert_eq!(world.try_commit(old_base), Err(mismatch));
}

#[test]
fn a_write_makes_missing_parents_when_asked() {
    let mut world = World::new();
    let commit = world.a_replace("/a/b/f", b"x", if_version(0));
    assert_eq!(world.try_commit(commit.clone()), Err(Rejected::EntryNotFound { path: path("/a/b") }));
    assert!(world.try_commit(WriteCommit { create_parents: true, ..commit }).is_ok());
    assert_eq!(world.read("/a/b/f"), b"x");
    assert_eq!(world.view().counts().unwrap().directories, 2);
}

#[test]
fn a_file_is_written_neither_over_a_directory_nor_below_a_file() {
    let mut world = World::new();
    world.mkdir("/d");
    world.write("/f", b"x");
    let commit = world.a_replace("/d", b"x", if_version(0));
    assert_eq!(world.try_commit(commit), Err(Rejected::IsADirectory { path: path("/d") }));
    let commit = WriteCommit { create_parents: true, ..world.a_replace("/f/g", b"x", if_version(0)) };
    assert_eq!(world.try_commit(commit), Err(Rejected::NotADirectory { path: path("/f") }));
    let commit = world.a_replace("/", b"x", if_version(0));
    assert_eq!(world.try_commit(commit), Err(Rejected::IsTheRoot));
}

#[test]
fn a_version_has_a_bounded_number_of_extents() {
    let mut world = World::new();
    let bytes = vec![b'x'; EXTENTS_MAX];
    let commit =
        WriteCommit { precondition: if_version(0), ..world.a_commit(&path("/f"), WriteMode::Replace, &bytes, 1) };
    let committed = world.try_commit(commit).unwrap();
    assert_eq!(committed.extent_count as usize, EXTENTS_MAX);
    let commit = world.a_commit(&path("/f"), WriteMode::Append, b"y", 1);
    let too_many = Rejected::TooManyExtents { path: path("/f"), limit: EXTENTS_MAX as u32 };
    assert_eq!(world.try_commit(commit), Err(too_many));
}

fn a_merge(world: &mut World, at: &str, skip: usize, count: usize) -> Command {
    let found = world.look(at).unwrap();
    let run = found.extents[skip..skip + count].to_vec();
    let bytes: Vec<u8> = run.iter().flat_map(|extent| world.piece(extent)).copied().collect();
    let blob = BlobId(world.draw());
    let merged = (blob, bytes.len() as u64);
    world.blobs.insert(blob, bytes);
    let config = world.group(run[0].group.0);
    Command::MergeExtents {
        primary: config.primary.unwrap(),
        group: config.group,
        epoch: config.epoch,
        inode: found.entry.inode,
        skip,
        run,
        merged,
        begin_time: world.now,
    }
}

#[test]
fn a_merge_changes_neither_bytes_nor_version() {
    let mut world = World::new();
    for line in 0..6 {
        world.append("/f", format!("line {line}\n").as_bytes());
    }
    let before = (world.read("/f"), world.look("/f").unwrap().entry);
    let merge = a_merge(&mut world, "/f", 1, 4);
    world.append("/f", b"a late line\n");
    world.expect(merge.clone());
    let found = world.look("/f").unwrap();
    assert_eq!(found.extents.len(), 4, "the first, the merged, and two behind");
    assert_eq!(world.read("/f"), [before.0.as_slice(), b"a late line\n"].concat());
    assert_eq!(world.read_version("/f", before.1.version.0, AsOf::Now), before.0);
    let revision = world.revision();
    world.expect(merge);
    assert_eq!(world.revision(), revision, "asked again, it is done already");
}

#[test]
fn a_merge_of_what_is_no_longer_there_is_refused() {
    let mut world = World::new();
    for line in 0..3 {
        world.append("/f", format!("{line}").as_bytes());
    }
    let merge = a_merge(&mut world, "/f", 0, 2);
    let mut longer = merge.clone();
    if let Command::MergeExtents { merged, .. } = &mut longer {
        merged.1 += 1;
    }
    assert_eq!(world.try_apply(longer), Err(Rejected::ExtentsChanged));
    let mut swapped = merge.clone();
    if let Command::MergeExtents { run, .. } = &mut swapped {
        run.swap(0, 1);
    }
    assert_eq!(world.try_apply(swapped), Err(Rejected::ExtentsChanged));
    for beyond in [1, 2, 3, 4, usize::MAX] {
        let mut moved = merge.clone();
        if let Command::MergeExtents { skip, .. } = &mut moved {
            *skip = beyond;
        }
        assert_eq!(world.try_apply(moved), Err(Rejected::ExtentsChanged));
    }
    let merge_of_replaced = merge.clone();
    let version = world.look("/f").unwrap().entry.version.0;
    let commit = world.a_replace("/f", b"new", if_version(version));
    assert!(world.try_commit(commit).is_ok());
    assert_eq!(world.try_apply(merge_of_replaced), Err(Rejected::ExtentsChanged));
    let inode = world.look("/f").unwrap().entry.inode.0;
    world.delete("/f");
    assert_eq!(world.try_apply(merge), Err(Rejected::InodeNotFound { inode }));
}

fn a_copy(world: &mut World, from: &str, to: &str) -> Command {
    let (from, to, write_id) = (path(from), path(to), world.write_id());
    Command::CopyEntry {
        write_id,
        from,
        from_version: None,
        to,
        replace: false,
        to_precondition: Precondition::default(),
    }
}

#[test]
fn a_copy_shares_bytes_and_goes_its_own_way() {
    let mut world = World::new();
    world.write("/f", b"one");
    world.write("/f", b"two");
    let copy = a_copy(&mut world, "/f", "/g");
    let entry = world.expect_entry(copy.clone());
    assert_eq!((entry.version, entry.path.as_str()), (Version(1), "/g"));
    let mut old = a_copy(&mut world, "/f", "/old");
    if let Command::CopyEntry { from_version, .. } = &mut old {
        *from_version = Some(Version(1));
    }
    world.expect(old);
    world.append("/g", b"!");
    world.delete("/f");
    world.pass(48 * HOUR);
    world.collect();
    assert_eq!((world.read("/g"), world.read("/old")), (b"two!".to_vec(), b"one".to_vec()));
}

#[test]
fn a_copy_is_refused_where_a_write_would_be() {
    let mut world = World::new();
    world.write("/f", b"one");
    world.write("/g", b"two");
    world.mkdir("/d");
    let edited = |command: Command, new_replace: bool, precondition: Precondition, version: Option<u64>| match command {
        Command::CopyEntry { write_id, from, to, .. } => {
            let from_version = version.map(Version);
            Command::CopyEntry { write_id, from, from_version, to, replace: new_replace, to_precondition: precondition }
        }
        _ => unreachable!(),
    };
    let none = Precondition::default();
    let cases = [
        ("/d", "/x", true, none, None, Rejected::IsADirectory { path: path("/d") }),
        ("/f", "/d", true, if_version(1), None, Rejected::IsADirectory { path: path("/d") }),
        ("/f", "/g", false, if_version(1), None, Rejected::EntryExists { path: path("/g") }),
        ("/f", "/g", true, none, None, Rejected::LockRequired { path: path("/g") }),
        ("/f", "/x", false, none, Some(2), Rejected::VersionNotFound { path: path("/f"), version: Version(2) }),
        ("/x", "/y", false, none, None, Rejected::EntryNotFound { path: path("/x") }),
        (
            "/f",
            "/g",
            true,
            if_version(2),
            None,
            Rejected::VersionMismatch { path: path("/g"), expected: Version(2), current: Version(1) },
        ),
    ];
    for (from, to, replace, precondition, version, rejected) in cases {
        let command = edited(a_copy(&mut world, from, to), replace, precondition, version);
        assert_eq!(world.try_apply(command), Err(rejected), "{from} to {to}");
    }
    let command = edited(a_copy(&mut world, "/f", "/g"), true, if_version(1), None);
    assert_eq!(world.expect_entry(command).version, Version(2));
    assert_eq!((world.read("/g"), world.read_version("/g", 1, AsOf::Now)), (b"one".to_vec(), b"two".to_vec()));
}

#[test]
fn a_restored_version_is_the_newest_again() {
    let mut world = World::new();
    world.write("/f", b"one");
    world.write("/f", b"two");
    let restore = |world: &mut World, at: &str, version, precondition| {
        let write_id = world.write_id();
        world.try_apply(Command::RestoreVersion { write_id, path: path(at), version: Version(version), precondition })
    };
    let none = Precondition::default();
    assert_eq!(restore(&mut world, "/f", 1, none), Err(Rejected::LockRequired { path: path("/f") }));
    let not_found = Rejected::VersionNotFound { path: path("/f"), version: Version(3) };
    assert_eq!(restore(&mut world, "/f", 3, if_version(2)), Err(not_found));
    assert_eq!(restore(&mut world, "/g", 1, if_version(0)), Err(Rejected::EntryNotFound { path: path("/g") }));
    let mismatch = Rejected::VersionMismatch { path: path("/f"), expected: Version(1), current: Version(2) };
    assert_eq!(restore(&mut world, "/f", 1, if_version(1)), Err(mismatch));
    assert!(restore(&mut world, "/f", 1, with_token(token(&path("/f"), 1))).is_ok());
    assert_eq!(world.read("/f"), b"one");
    assert_eq!(world.look("/f").unwrap().entry.version, Version(3));
}

#[test]
fn an_inode_is_never_given_twice() {
    let mut world = World::new();
    let first = world.write("/f", b"x").inode;
    world.delete("/f");
    world.pass(48 * HOUR);
    world.collect();
    assert_eq!(world.write("/f", b"x").inode, Inode(first.0 + 1));
}

#[test]
fn what_is_rejected_for_its_version_raises_no_fence() {
    let mut world = World::new();
    world.write("/f", b"x");
    world.write("/g", b"y");
    let (f, g) = (path("/f"), path("/g"));
    let wrong = |at: &Path| both(token(at, 9), 7);
    let none = Precondition::default();
    let commit = world.a_replace("/f", b"z", wrong(&f));
    let write_ids = [(); 4].map(|()| world.write_id());
    let [a, b, c, d] = write_ids;
    let (replace, version) = (true, Version(1));
    let commands = [
        world.command(commit),
        Command::DeleteEntry { write_id: a, path: f.clone(), force: false, precondition: wrong(&f) },
        Command::RestoreVersion { write_id: b, path: f.clone(), version, precondition: wrong(&f) },
        Command::CopyEntry {
            write_id: c,
            from: g.clone(),
            from_version: None,
            to: f.clone(),
            replace,
            to_precondition: wrong(&f),
        },
        Command::MoveEntry {
            write_id: d,
            from: g,
            to: f.clone(),
            replace,
            from_precondition: none,
            to_precondition: wrong(&f),
        },
    ];
    for command in commands {
        let mismatch = Rejected::VersionMismatch { path: f.clone(), expected: Version(7), current: Version(1) };
        assert_eq!(world.try_apply(command), Err(mismatch));
    }
    let commit = world.a_replace("/f", b"z", with_token(token(&f, 1)));
    assert!(world.try_commit(commit).is_ok(), "the older token is still good");
}
