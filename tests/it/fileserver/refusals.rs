//! Bad input: each gets its reason, nothing is visible of it afterwards, and the disks come back.

use dfs::{
    pb,
    types::{BlobId, WriteId, crc32c},
};

use crate::common::cluster::{Cluster, SERVERS, WriteStream, append, patch, replace, some_bytes, start_cluster};

async fn expect_nothing_left(cluster: &Cluster, path: &str) {
    let found = cluster.look_up(path).await;
    assert_eq!(dfs::status::Failure::from(&found.unwrap_err()).reason, dfs::status::Reason::EntryNotFound);
    cluster.wait_until_blobs(0).await;
    for id in SERVERS {
        let status = cluster.server(id).get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.blob_count, status.staged_count), (0, 0), "{id}");
    }
}

fn expect_reason(result: Result<pb::WriteReceipt, pb::ErrorStatus>, reason: &str) -> pb::ErrorStatus {
    let error = result.expect_err("must be refused");
    assert_eq!(error.reason, reason, "{error:?}");
    error
}

async fn stream_and_id(cluster: &Cluster, path: &str) -> (WriteStream, WriteId) {
    (cluster.write_stream(path).await, WriteId::random())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_fails_its_own_write_alone() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/bad").await;
    stream.begin(write_id, replace("/bad", 0)).await;
    stream.data(write_id, b"good so far").await;
    let data = pb::WriteData { data: bytes::Bytes::from_static(b"tampered"), checksum: crc32c(b"original") };
    stream.send(pb::WriteRequest { write_id: write_id.to_string(), data: Some(data), ..Default::default() }).await;
    stream.data(write_id, b"more of it, skipped").await;
    stream.end(write_id, b"whatever").await;
    expect_reason(stream.answer(write_id).await, "CHECKSUM_MISMATCH");
    expect_nothing_left(&cluster, "/bad").await;

    let good = stream.write(WriteId::random(), replace("/bad", 0), b"the stream goes on").await;
    assert_eq!(good.expect("written").version, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_does_not_fit_the_data_is_refused() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/bad").await;
    for end in [b"abcde".as_slice(), b"abcx"] {
        stream.begin(write_id, replace("/bad", 0)).await;
        stream.data(write_id, b"abcd").await;
        stream.end(write_id, end).await;
        expect_reason(stream.answer(write_id).await, "CHECKSUM_MISMATCH");
    }
    expect_nothing_left(&cluster, "/bad").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_is_too_large() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/bad").await;
    stream.begin(write_id, replace("/bad", 0)).await;
    stream.data(write_id, b"good so far").await;
    stream.data(write_id, &vec![0; (1 << 20) + 1]).await;
    expect_reason(stream.answer(write_id).await, "TOO_LARGE");
    stream.end(write_id, b"").await;
    expect_nothing_left(&cluster, "/bad").await;

    // Past what the transport takes, the stream is over.
    stream.data(write_id, &vec![0; 5 << 20]).await;
    let failure = dfs::status::Failure::from(&stream.next().await.expect_err("the stream ends"));
    assert_eq!(failure.reason, dfs::status::Reason::TooLarge);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_write_is_refused_before_its_data() {
    let cluster = start_cluster().await;
    let mut stream = cluster.write_stream("/a").await;
    let without_precondition = pb::WriteBegin { precondition: None, ..replace("/a", 0) };
    let cases = [
        (replace("no/slash", 0), "BAD_PATH"),
        (replace(&format!("/{}", "n".repeat(256)), 0), "BAD_PATH"),
        (pb::WriteBegin { mode: 77, ..append("/a") }, "BAD_ARGUMENT"),
        (pb::WriteBegin { offset: 5, ..append("/a") }, "BAD_ARGUMENT"),
        (without_precondition, "LOCK_REQUIRED"),
    ];
    for (begin, reason) in cases {
        expect_reason(stream.write(WriteId::random(), begin, b"data").await, reason);
    }
    // A write id that is none fails by itself, too.
    stream.send(pb::WriteRequest { write_id: "no uuid".into(), begin: Some(append("/a")), ..Default::default() }).await;
    let response = stream.next().await.expect("goes on").expect("an answer");
    assert_eq!(response.write_id, "no uuid");
    assert!(
        matches!(response.result, Some(pb::write_response::Result::Error(error)) if error.reason == "BAD_ARGUMENT")
    );
    // Data without a beginning.
    let write_id = WriteId::random();
    stream.data(write_id, b"data").await;
    expect_reason(stream.answer(write_id).await, "BAD_ARGUMENT");
    stream.end(write_id, b"data").await;
    expect_nothing_left(&cluster, "/a").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_directory_refuses_leaves_no_blobs() {
    let cluster = start_cluster().await;
    let wrong_version = cluster.try_write(replace("/a", 3), b"data").await;
    let mismatch = expect_reason(wrong_version, "VERSION_MISMATCH");
    assert_eq!(mismatch.metadata.get("current").map(String::as_str), Some("0"));
    expect_reason(cluster.try_write(patch("/a", 0, 0), b"data").await, "ENTRY_NOT_FOUND");
    let forged = pb::Precondition { fencing_token: Some(12345), if_version: None };
    let forged = pb::WriteBegin { precondition: Some(forged), ..replace("/a", 0) };
    expect_reason(cluster.try_write(forged, b"data").await, "NOT_LOCK_HOLDER");
    expect_reason(cluster.try_write(append("/no/such/parent"), b"data").await, "ENTRY_NOT_FOUND");
    expect_nothing_left(&cluster, "/a").await;

    cluster.try_write(replace("/a", 0), b"four").await.expect("written");
    let outside = expect_reason(cluster.try_write(patch("/a", 5, 1), b"data").await, "OFFSET_OUT_OF_RANGE");
    assert_eq!(outside.metadata.get("size").map(String::as_str), Some("4"));
    cluster.wait_until_blobs(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_another_than_the_primary_is_sent_to_it() {
    let cluster = start_cluster().await;
    let primary = cluster.group_of("/a").await.primary;
    let other = SERVERS.into_iter().find(|id| *id != primary).unwrap();
    let mut stream = WriteStream::open(cluster.server(other)).await;
    let error = expect_reason(stream.write(WriteId::random(), replace("/a", 0), b"data").await, "NOT_LEADER");
    assert_eq!(error.metadata.get("leader_id"), Some(&primary));
    assert_eq!(error.metadata.get("leader_address"), Some(&cluster.servers[&primary].address));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_before_the_write_does_leaves_nothing() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/half").await;
    stream.begin(write_id, replace("/half", 0)).await;
    stream.data(write_id, &some_bytes(1, 1 << 20)).await;
    stream.finish();
    expect_reason(stream.answer(write_id).await, "BAD_ARGUMENT");
    assert_eq!(stream.next().await.expect("a clean end"), None);
    expect_nothing_left(&cluster, "/half").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing() {
    let cluster = start_cluster().await;
    let (stream, write_id) = stream_and_id(&cluster, "/gone").await;
    stream.begin(write_id, replace("/gone", 0)).await;
    for _ in 0..8 {
        stream.data(write_id, &some_bytes(1, 1 << 20)).await;
    }
    drop(stream);
    expect_nothing_left(&cluster, "/gone").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_that_vanish_leave_neither_blobs_nor_memory_taken() {
    let cluster = start_cluster().await;
    // More than all that may be on its way through a server at a time.
    for client in 0..20 {
        let (stream, write_id) = stream_and_id(&cluster, "/gone").await;
        stream.begin(write_id, replace("/gone", 0)).await;
        for _ in 0..4 {
            stream.data(write_id, &some_bytes(client, 1 << 20)).await;
        }
    }
    expect_nothing_left(&cluster, "/gone").await;
    let data = some_bytes(1, 8 << 20);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..12 {
        let path = format!("/after-{number}");
        let (mut stream, data) = (cluster.write_stream(&path).await, data.clone());
        writes.spawn(async move { stream.write(WriteId::random(), replace(&path, 0), &data).await });
    }
    for written in writes.join_all().await {
        assert_eq!(written.expect("written").size, data.len() as u64);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_leaves_nothing() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/given-up").await;
    stream.begin(write_id, replace("/given-up", 0)).await;
    stream.data(write_id, b"data").await;
    stream.send(pb::WriteRequest { write_id: write_id.to_string(), cancel: true, ..Default::default() }).await;
    expect_reason(stream.answer(write_id).await, "WRITE_EXPIRED");
    expect_nothing_left(&cluster, "/given-up").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_begun_twice_on_one_stream_fails_once() {
    let cluster = start_cluster().await;
    let (mut stream, write_id) = stream_and_id(&cluster, "/twice").await;
    stream.begin(write_id, replace("/twice", 0)).await;
    stream.begin(write_id, replace("/twice", 0)).await;
    stream.data(write_id, b"data").await;
    stream.end(write_id, b"data").await;
    expect_reason(stream.answer(write_id).await, "BAD_ARGUMENT");
    stream.finish();
    assert_eq!(stream.next().await.expect("a clean end"), None, "one answer a write");
    expect_nothing_left(&cluster, "/twice").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_attempt_takes_over_from_one_that_hangs() {
    let cluster = start_cluster().await;
    let (mut older, write_id) = stream_and_id(&cluster, "/a").await;
    older.begin(write_id, replace("/a", 0)).await;
    older.data(write_id, b"half").await;
    let mut newer = cluster.write_stream("/a").await;
    // The older attempt is sure to be under way when the newer begins.
    wait_for_staged(&cluster, 1).await;
    let receipt = newer.write(write_id, replace("/a", 0), b"half and half").await.expect("written");
    assert_eq!(receipt.version, 1);
    expect_reason(older.answer(write_id).await, "UNAVAILABLE");
    cluster.wait_until_blobs(1).await;
    cluster.stop().await;
}

async fn wait_for_staged(cluster: &Cluster, count: u64) {
    let primary = cluster.group_of("/a").await.primary;
    crate::common::wait_until("a staged blob", || async {
        let status = cluster.server(&primary).get_status(pb::GetStatusRequest {}).await;
        status.unwrap().into_inner().staged_count == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_writes_than_a_stream_may_have_end_it() {
    let cluster = start_cluster().await;
    let mut stream = cluster.write_stream("/a").await;
    for _ in 0..257 {
        stream.begin(WriteId::random(), append("/a")).await;
    }
    let refused = loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream must fail"),
            Err(status) => break dfs::status::Failure::from(&status),
        }
    };
    assert_eq!(refused.reason, dfs::status::Reason::TooLarge);
    expect_nothing_left(&cluster, "/a").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_takes_no_place_beyond_the_last() {
    let cluster = start_cluster().await;
    let mut stream = cluster.write_stream("/a").await;
    // Data of writes that were never begun: each is refused, and takes a place until it ends.
    for _ in 0..256 {
        let write_id = WriteId::random();
        stream.data(write_id, b"data").await;
        expect_reason(stream.answer(write_id).await, "BAD_ARGUMENT");
    }
    stream.data(WriteId::random(), &vec![0; (1 << 20) + 1]).await;
    let refused = match stream.next().await {
        Ok(answer) => panic!("the stream must fail, not answer {answer:?}"),
        Err(status) => dfs::status::Failure::from(&status),
    };
    assert_eq!(refused.reason, dfs::status::Reason::TooLarge);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_what_is_not_there_fails_range_by_range() {
    let cluster = start_cluster().await;
    let data = some_bytes(3, 1_500_000);
    cluster.try_write(replace("/a", 0), &data).await.expect("written");
    let blob = cluster.look_up("/a").await.unwrap().extents[0].blob.clone();
    let range = |blob: &str, offset, length| pb::BlobRange { blob: blob.to_owned(), offset, length };
    let ranges = vec![
        range("no uuid", 0, 0),
        range(&BlobId::random().to_string(), 0, 0),
        range(&blob, 1_500_001, 0),
        range(&blob, 1_000_000, 500_001),
        range(&blob, u64::MAX, u64::MAX),
        range(&blob, 1_000_000, 300_000),
        range(&blob, 1_500_000, 0),
    ];
    let mut answers = cluster.server(SERVERS[2]).read(pb::ReadRequest { ranges }).await.unwrap().into_inner();
    let (mut reasons, mut read) = (Vec::new(), Vec::new());
    while let Some(response) = answers.message().await.unwrap() {
        match response.result.unwrap() {
            pb::read_response::Result::Chunk(chunk) => {
                assert_eq!((response.range_index, crc32c(&chunk.data)), (5, chunk.checksum));
                read.extend_from_slice(&chunk.data);
            }
            pb::read_response::Result::Error(error) => reasons.push((response.range_index, error.reason)),
        }
    }
    assert!(read == data[1_000_000..1_300_000]);
    let expected =
        ["BAD_ARGUMENT", "VERSION_NOT_FOUND", "OFFSET_OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"];
    assert_eq!(reasons, (0..).zip(expected.map(str::to_owned)).collect::<Vec<_>>());

    let too_many = vec![range(&blob, 0, 1); 10_001];
    let refused = cluster.server(SERVERS[0]).read(pb::ReadRequest { ranges: too_many }).await;
    crate::common::expect_bad_field(refused.map(|_| ()), "ranges");
    cluster.stop().await;
}
