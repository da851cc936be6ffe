//! What is written is what is read, and bytes that are anything else are an error.

use std::{collections::BTreeMap, fmt::Debug};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    cluster::{Group, Replacement},
    directory::{
        command::{Committed, Outcome, Registration, ServerKind, Settings},
        model::{Cluster, Entry, ServerRecord, State, WriteRecord},
    },
    types::{ClusterId, Epoch, Incarnation, LockServiceId, StoreId},
};

fn expect_round_trip<K: Copy, R: Record<K> + Debug + PartialEq>(key: K, record: R) {
    let bytes = record.encode();
    assert_eq!(R::decode(key, &bytes), Ok(record));
}

fn some_attributes() -> Attributes {
    Attributes {
        create_time: Timestamp(1),
        modify_time: Timestamp(2),
        mode: 0o644,
        owner: "ann".to_owned(),
        owning_group: "staff".to_owned(),
        extended: BTreeMap::from([("user.b".to_owned(), vec![0, 255]), ("user.a".to_owned(), vec![])]),
    }
}

fn a_node(kind: EntryKind) -> Node {
    Node {
        kind,
        parent: Inode(3),
        name: "näme".to_owned(),
        since: Revision(4),
        attributes: some_attributes(),
        version: Version(5),
        size: 6,
        checksum: u32::MAX,
        retired_below: Version(7),
    }
}

fn a_change(from_path: Option<Path>, ended_entry: Option<(Inode, String)>) -> ChangeRecord {
    let change = Change {
        revision: Revision(9),
        time: Timestamp(8),
        kind: ChangeKind::Moved,
        path: "/to".parse().unwrap(),
        from_path,
        inode: Inode(7),
        version: Version(6),
        entry_kind: EntryKind::File,
    };
    ChangeRecord { change, ended_inode: true, ended_entry }
}

#[test]
fn the_namespace_is_read_as_written() {
    expect_round_trip((), a_node(EntryKind::File));
    expect_round_trip((), a_node(EntryKind::Directory));
    let extent = Extent { group: GroupId(1), blob: BlobId(Uuid::from_u128(2)), blob_offset: 3, length: 4 };
    expect_round_trip(
        (),
        FileVersion {
            revision: Revision(1),
            time: Timestamp(2),
            size: 3,
            checksum: 4,
            write_id: WriteId(Uuid::from_u128(5)),
            extents: vec![extent, Extent { blob_offset: 0, ..extent }],
        },
    );
    let (group, inode, version) = (GroupId(1), Inode(4), Version(5));
    expect_round_trip((), Blob { group, length: 2, references: 3, inode, version, holders: 6 });
    expect_round_trip((9, 0), a_change(None, None));
    expect_round_trip((9, 0), a_change(Some("/from".parse().unwrap()), Some((Inode(1), "from".to_owned()))));
}

#[test]
fn outcomes_are_read_as_written() {
    let entry = Entry {
        inode: Inode(1),
        path: "/a/b".parse().unwrap(),
        kind: EntryKind::File,
        size: 2,
        version: Version(3),
        checksum: 4,
        revision: Revision(5),
        attributes: some_attributes(),
    };
    let committed = Committed {
        inode: Inode(1),
        version: Version(2),
        revision: Revision(3),
        size: 4,
        checksum: 5,
        offset: 6,
        extent_count: 7,
        commit_time: Timestamp(8),
        blobs: vec![BlobId(Uuid::from_u128(9))],
        epoch: Epoch(10),
        in_sync: vec!["a".parse().unwrap(), "b".parse().unwrap()],
    };
    let outcomes =
        [Outcome::Entry(Box::new(entry)), Outcome::Deleted { count: 9 }, Outcome::Committed(committed), Outcome::Done];
    for outcome in outcomes {
        expect_round_trip((), WriteRecord { time: Timestamp(1), fingerprint: 2, outcome });
    }
}

#[test]
fn the_cluster_is_read_as_written() {
    expect_round_trip(
        "",
        State {
            revision: Revision(1),
            time: Timestamp(2),
            newest_inode: Inode(3),
            map_version: 4,
            horizon: Revision(5),
            horizon_time: Timestamp(6),
            fence_floor: 7,
            newest_token: Some(10),
            blob_count: 8,
            garbage_blob_count: 9,
            rebalancing: true,
        },
    );
    let settings = Settings {
        group_count: 1,
        copies: 2,
        min_in_sync: 3,
        initial_fileservers: 4,
        keep_versions: 5,
        keep_for_ms: 6,
        garbage_grace_ms: 7,
        repair_after_ms: 8,
    };
    expect_round_trip("", Cluster { cluster: ClusterId(Uuid::from_u128(1)), lock_key: [2; 32], settings });
    let ids: Vec<_> = ["a", "b"].map(|id| id.parse().unwrap()).into();
    let replacement = Replacement { leaving: "a".parse().unwrap(), arriving: "b".parse().unwrap() };
    for (primary, replacement) in [(None, None), (ids.first().cloned(), Some(replacement))] {
        let (members, in_sync) = (ids.clone(), ids.clone());
        expect_round_trip(7, Group { group: GroupId(7), epoch: Epoch(2), members, in_sync, primary, replacement });
    }
    for kind in [ServerKind::Directory, ServerKind::Lock, ServerKind::FileServer] {
        let registration = Registration {
            kind,
            server: "a".parse().unwrap(),
            store: StoreId(Uuid::from_u128(1)),
            address: "a:1".to_owned(),
            external_address: "b:2".to_owned(),
            zone: "z".to_owned(),
            software_version: "0".to_owned(),
            incarnations: vec![Incarnation(Uuid::from_u128(4)); usize::from(kind == ServerKind::FileServer)],
            lock_service: (kind == ServerKind::Lock).then(|| LockServiceId(Uuid::from_u128(3))),
        };
        expect_round_trip(
            (server_kind_out(kind), "a"),
            ServerRecord {
                registration,
                down: true,
                read_only_reason: "disk full".into(),
                down_since: Some(Timestamp(3)),
                draining: true,
                lost: true,
                read_only_since: Some(Timestamp(4)),
            },
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_damage(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0..64usize) {
        let valid = Record::<()>::encode(&a_node(EntryKind::File));
        for bytes in [&bytes[..], &valid[..cut.min(valid.len())]] {
            // What can be read at all can be written again.
            if let Ok(node) = <Node as Record<()>>::decode((), bytes) {
                prop_assert_eq!(<Node as Record<()>>::decode((), &Record::<()>::encode(&node)), Ok(node));
            }
            if let Ok(change) = ChangeRecord::decode((1, 2), bytes) {
                prop_assert_eq!(ChangeRecord::decode((1, 2), &change.encode()), Ok(change));
            }
            prop_assert!(<FileVersion as Record<()>>::decode((), bytes).is_err(), "it has no write id");
            prop_assert!(Cluster::decode("", bytes).is_err(), "it has no id");
            prop_assert!(ServerRecord::decode((9, "a"), bytes).is_err(), "there is no such kind");
        }
    }
}
