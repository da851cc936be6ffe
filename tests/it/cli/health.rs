//! Damage on disk, seen by an operator: `scrub`, `fsck`, `repair`, `status`, and what they end with.

use std::{fs, os::unix::fs::FileExt, path::Path};

use serde_json::Value;

use crate::common::{
    cli::{World, start_world},
    cluster::{SERVERS, replace, some_bytes},
    wait_until,
};

/// Changes one byte of the place below `folder` where `needle` is stored.
fn damage(folder: &Path, needle: &[u8]) {
    let mut count = 0;
    for path in fs::read_dir(folder.join("blobs")).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let bytes = fs::read(&path).expect("a file");
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
            file.write_all_at(&[!needle[0]], at as u64).expect("a byte");
            count += 1;
        }
    }
    assert_eq!(count, 1, "the bytes are in one place");
}

/// What a command that ends with 10 prints for programs.
async fn unhealthy(world: &World, arguments: &[&str]) -> Value {
    let ended = world.run(&[&["-o", "json"], arguments].concat()).await;
    assert_eq!(ended.code, 10, "{arguments:?}: {ended:?}");
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {ended:?}"))
}

fn codes(status: &Value) -> Vec<&str> {
    let checks = status["checks"].as_array().expect("a list");
    checks.iter().map(|check| check["code"].as_str().expect("a code")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_of_each_replica_in_turn_is_found_by_scrub_and_mended() {
    let world = start_world().await;
    let data = some_bytes(7, 3 << 20);
    world.cluster.write(replace("/a", 0), &data).await;
    world.cluster.write(replace("/b", 0), b"small").await;
    world.cluster.wait_until_blobs(2).await;
    let clean = world.json(&["fsck", "--deep"]).await;
    assert_eq!((&clean["clean"], &clean["fileCount"], &clean["versionCount"]), (&true.into(), &2.into(), &2.into()));
    assert_eq!((&clean["copyCount"], &clean["goodCopyCount"]), (&6.into(), &6.into()), "{clean}");
    assert_eq!(clean["bytesRead"], 3 * ((3 << 20) + 5));
    for id in SERVERS {
        damage(&world.cluster.data_folder(id), &data[1_500_000..1_500_064]);
        let found = unhealthy(&world, &["scrub", id]).await;
        let row = &found[0];
        assert_eq!((&row["serverId"], &row["damagedChunkCount"]), (&id.into(), &1.into()), "{found}");
        assert_eq!((&row["repairedChunkCount"], &row["lostBlobCount"]), (&1.into(), &0.into()), "{found}");
        assert!(world.cluster.read_from(id, "/a").await == data, "{id}");
        // And said with the next beat.
        wait_until("the status tells of it", || async {
            let status = world.json(&["status"]).await;
            let checks = status["checks"].as_array().expect("a list").clone();
            checks.iter().any(|check| {
                let subjects = check["subjects"].as_array().expect("a list");
                check["code"] == "CHUNKS_REPAIRED" && subjects.contains(&id.into())
            })
        })
        .await;
    }
    let again = world.json(&["scrub", "--rate", "1G"]).await;
    assert_eq!(again.as_array().map(Vec::len), Some(SERVERS.len()));
    assert_eq!(world.json(&["fsck", "--deep"]).await["clean"], true);
    world.failure(&["scrub", "fileserver-x"], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_damaged_in_different_places_make_one_whole_again() {
    let mut world = start_world().await;
    let data = some_bytes(8, 3 << 20);
    world.cluster.write(replace("/a", 0), &data).await;
    world.cluster.wait_until_blobs(1).await;
    for id in SERVERS {
        world.cluster.stop_server(id).await;
    }
    // Each has another chunk damaged, so that no copy is whole.
    for (id, at) in SERVERS.into_iter().zip([200_000, 1_500_000, 2_500_000]) {
        damage(&world.cluster.data_folder(id), &data[at..at + 64]);
    }
    for id in SERVERS {
        world.cluster.start_server(id).await;
    }
    world.cluster.wait_until_in_sync(SERVERS.len()).await;
    let ended = world.run(&["repair", "--deep", "/a"]).await;
    assert!([0, 10].contains(&ended.code), "{ended:?}");
    wait_until("every copy is whole", || async {
        let ended = world.run(&["-o", "json", "fsck", "--deep", "/a"]).await;
        ended.code == 0
    })
    .await;
    for id in SERVERS {
        assert!(world.cluster.read_from(id, "/a").await == data, "{id}");
    }
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_server_has_whole_is_lost_and_named() {
    let mut world = start_world().await;
    let data = some_bytes(9, 2 << 20);
    world.cluster.write(replace("/gone", 0), &data).await;
    world.cluster.write(replace("/fine", 0), b"fine").await;
    world.cluster.wait_until_blobs(2).await;
    for id in SERVERS {
        world.cluster.stop_server(id).await;
    }
    for id in SERVERS {
        damage(&world.cluster.data_folder(id), &data[1_500_000..1_500_064]);
    }
    for id in SERVERS {
        world.cluster.start_server(id).await;
    }
    world.cluster.wait_until_in_sync(SERVERS.len()).await;
    let found = unhealthy(&world, &["fsck", "--deep"]).await;
    assert_eq!(found["findingCounts"], serde_json::json!({"LOST": 1, "DAMAGED": 3}), "{found}");
    let lost = found["findings"].as_array().expect("a list").iter().find(|it| it["problem"] == "LOST").expect("one");
    assert_eq!((&lost["path"], &lost["version"]), (&"/gone".into(), &1.into()));
    // The index knows by now: no disk has to be read to see it.
    assert_eq!(unhealthy(&world, &["fsck", "/gone"]).await["findingCounts"]["LOST"], 1);
    assert_eq!(world.json(&["fsck", "--deep", "/fine"]).await["clean"], true);
    wait_until("the status tells of it", || async {
        let ended = world.run(&["-o", "json", "status"]).await;
        let status: Value = serde_json::from_str(&ended.out).expect("JSON");
        ended.code == 10 && codes(&status).contains(&"BLOBS_LOST")
    })
    .await;
    assert_eq!(world.run(&["read", "/gone"]).await.code, 8);
    let failed = unhealthy(&world, &["repair", "/gone"]).await;
    assert!(failed[0]["result"].as_str().expect("text").contains("it is lost"), "{failed}");
    assert_eq!(world.done(&["read", "/fine"]).await, "fine");
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_wiped_fills_again_until_fsck_is_clean() {
    let mut world = start_world().await;
    for number in 0..20 {
        world.cluster.write(replace(&format!("/f{number}"), 0), &some_bytes(number, 50_000)).await;
    }
    world.cluster.stop_server("fileserver-b").await;
    let short = unhealthy(&world, &["fsck"]).await;
    assert!(short["findingCounts"]["UNDER_REPLICATED"].as_u64() > Some(0), "{short}");
    fs::remove_dir_all(world.cluster.data_folder("fileserver-b")).expect("wiped");
    world.cluster.start_server("fileserver-b").await;
    world.cluster.wait_until_in_sync(SERVERS.len()).await;
    let clean = world.json(&["fsck", "--deep"]).await;
    assert_eq!((&clean["clean"], &clean["copyCount"], &clean["goodCopyCount"]), (&true.into(), &60.into(), &60.into()));
    assert_eq!(clean["findings"], serde_json::json!([]));
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_written_to_gives_no_false_alarm() {
    let world = start_world().await;
    for number in 0..10 {
        world.cluster.write(replace(&format!("/f{number}"), 0), b"first").await;
    }
    let (busy, stop) = (world.done(&["mkdir", "/busy"]), std::sync::atomic::AtomicBool::new(false));
    busy.await;
    let writes = async {
        let mut round = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let path = format!("/busy/{round}");
            world.cluster.write(replace(&path, 0), &some_bytes(round, 20_000)).await;
            world.done(&["rm", &path]).await;
            round += 1;
        }
        round
    };
    let checks = async {
        for _ in 0..6 {
            let found = world.json(&["fsck", "--deep"]).await;
            assert_eq!(found["clean"], true, "{found}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (rounds, ()) = futures::join!(writes, checks);
    assert!(rounds > 1, "something was written meanwhile");
    world.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sees_what_only_somebody_outside_can_see() {
    let mut world = start_world().await;
    // A machine that is busy may be slow for a moment, and is told so.
    wait_until("a clean bill of health", || async { world.run(&["doctor"]).await.code == 0 }).await;
    let ended = world.run(&["-o", "json", "doctor"]).await;
    let well: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert!(codes(&well).contains(&"DIRECTORY_SINGLE_NODE"), "{well}");
    let servers = well["servers"].as_array().expect("a list");
    assert_eq!(servers.len(), 2 + SERVERS.len());
    assert!(servers.iter().all(|server| server["millis"].is_number() && server["error"].is_null()), "{well}");

    world.cluster.stop_server("fileserver-c").await;
    wait_until("the doctor notices", || async {
        let ended = world.run(&["-o", "json", "doctor"]).await;
        let ill: Value = serde_json::from_str(&ended.out).expect("JSON");
        ended.code == 10 && codes(&ill).contains(&"SERVER_DOWN") && codes(&ill).contains(&"GROUP_SHORT")
    })
    .await;
    let ended = world.run(&["doctor"]).await;
    assert_eq!(ended.code, 10);
    assert!(ended.out.contains("one more server lost would stop the writes"), "{}", ended.out);
    world.cluster.stop().await;
}
