//! Bytes that change on a disk by themselves: found, told, mended from another copy, and never served.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::FileExt,
    process::Output,
    time::{Duration, Instant},
};

use dfs::{
    client::{Client, Options, ScrubResult, WriteOptions},
    types::{Path, Precondition, ServerId, Version},
};
use tokio_util::task::AbortOnDropHandle;

use super::{FILESERVERS, POLL, TIMEOUT, is_level};
use crate::{cluster, cluster::Cluster, payload::Payload, workload::read_newest};

const SERVERS: [&str; FILESERVERS as usize] = ["fileserver-a", "fileserver-b", "fileserver-c"];
/// One chunk.
const LENGTH: usize = 100_000;
const METRICS_PORT_OFFSET: u16 = 2000;
/// Of a client that would rather hear that there is nothing good than wait for it.
const IMPATIENT: Duration = Duration::from_secs(2);

/// A cluster with one file.
struct Setup {
    cluster: Cluster,
    client: Client,
    path: Path,
    payload: Payload,
}

async fn start() -> Setup {
    let mut cluster = Cluster::prepare(1, 1, FILESERVERS);
    for server in SERVERS {
        // Small ones are soon searched.
        cluster.add_arguments(cluster.index(server), &["--segment-bytes=4194304".to_owned()]);
    }
    let start = move || {
        cluster.start_processes();
        cluster
    };
    let cluster = tokio::task::spawn_blocking(start).await.expect("start a cluster");
    let mut options = Options::new([cluster.directory_address()]);
    options.timeout = IMPATIENT;
    let client = Client::connect(options).await.expect("connect");
    client.wait_ready(TIMEOUT).await.expect("a ready cluster");
    let (path, payload) = ("/rot".parse().expect("a good path"), Payload::new(1, 1, LENGTH));
    let setup = Setup { cluster, client, path, payload };
    setup.wait_until_level().await;
    let options = WriteOptions::replace(Precondition { if_version: Some(Version(0)), ..Precondition::default() });
    let receipt = setup.client.write_bytes(&setup.path, options, payload.bytes()).await.expect("written");
    assert_eq!(receipt.servers.len(), SERVERS.len(), "{receipt:?}");
    setup
}

impl Setup {
    async fn wait_until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so().await {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.cluster.log_tails());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_until_level(&self) {
        let is_so = async || self.client.status().await.is_ok_and(|status| is_level(&status));
        self.wait_until("all is level", is_so).await;
    }

    /// `status` names these servers, and no others, under the code.
    async fn wait_until_told(&self, code: &str, servers: &[&str]) {
        self.wait_until(&format!("{code} of {servers:?}"), async || {
            let Ok(status) = self.client.status().await else { return false };
            status.checks.iter().any(|check| check.code == code && check.subjects == servers)
        })
        .await;
    }

    /// Turns a bit of the file's content on this server's disk.
    fn flip(&self, server: &str) {
        let content = self.payload.bytes();
        for entry in fs::read_dir(self.cluster.data_path(server).join("blobs")).expect("the store's folder") {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("a file of the store");
            let Some(at) = bytes.windows(content.len()).position(|window| window == content) else { continue };
            let middle = at + content.len() / 2;
            let file = File::options().write(true).open(&path).expect("open a segment");
            file.write_all_at(&[bytes[middle] ^ 0x10], middle as u64).expect("flip a bit");
            return;
        }
        panic!("{server} does not have the file");
    }

    /// The sum of a family's series on this server's page whose labels have `label`.
    fn metric(&self, server: &str, family: &str, label: &str) -> f64 {
        let address = self.cluster.address(self.cluster.index(server));
        let (ip, port) = address.rsplit_once(':').expect("an address");
        let port = port.parse::<u16>().expect("a port") + METRICS_PORT_OFFSET;
        let mut stream = TcpStream::connect((ip, port)).expect("connect to the metrics");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n")
            .expect("ask for the metrics");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("read the metrics");
        let series = page.lines().filter(|line| line.starts_with(family) && line.contains(label));
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Reads everything on the server's disk now; ends when it is mended.
    async fn scrub(&self, server: &str) -> AbortOnDropHandle<ScrubResult> {
        let server: ServerId = server.parse().expect("a good id");
        let mut scrub = self.client.scrub(&server, Some(1 << 30)).await.expect("begin a scrub");
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let progress = scrub.next().await.expect("a scrub that goes on").expect("a result at its end");
                if let Some(result) = progress.result {
                    return result;
                }
            }
        }))
    }

    /// Reads all the time; what comes is what was written.
    fn read_on(&self) -> AbortOnDropHandle<()> {
        let (client, path, payload) = (self.client.clone(), self.path.clone(), self.payload);
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                if let Ok((_, bytes)) = read_newest(&client, &path).await {
                    assert_eq!(Payload::parse(&bytes), Ok(payload));
                }
                tokio::time::sleep(POLL).await;
            }
        }))
    }

    async fn expect_three_good_copies(&self) {
        let verified = self.client.verify(&self.path, None).await.expect("verified");
        assert_eq!(verified.good_count(), SERVERS.len(), "{verified:?}");
    }

    /// Exit code and output.
    async fn fsck(&self) -> (Option<i32>, String) {
        let mut fsck = self.cluster.cli();
        fsck.args(["fsck", "--deep"]);
        let ended = tokio::task::spawn_blocking(move || fsck.output()).await.expect("fsck ends");
        let Output { status, stdout, stderr } = ended.expect("run fsck");
        (status.code(), [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_flipped_in_each_copy_in_turn_is_told_mended_and_never_served() {
    let setup = start().await;
    let reading = setup.read_on();
    for server in SERVERS {
        // For as long as nobody has a good copy at hand, the damage can be looked at.
        let others = SERVERS.iter().filter(|other| **other != server && server == SERVERS[0]);
        let others: Vec<u32> = others.map(|other| setup.cluster.pid(setup.cluster.index(other))).collect();
        others.iter().copied().for_each(cluster::stop);
        setup.flip(server);
        let scrub = setup.scrub(server).await;
        if !others.is_empty() {
            setup.wait_until("damage", async || setup.metric(server, "dfs_fileserver_damaged_chunks", "") == 1.0).await;
            setup.wait_until_told("CHUNKS_DAMAGED", &[server]).await;
            assert_eq!(setup.metric(server, "dfs_fileserver_repaired_chunks_total", ""), 0.0);
        }
        others.iter().copied().for_each(cluster::cont);
        let result = scrub.await.expect("a scrub");
        assert_eq!(result.lost_blobs, 0, "{result:?}");
        setup.wait_until("repair", async || setup.metric(server, "dfs_fileserver_damaged_chunks", "") == 0.0).await;
        assert_eq!(setup.metric(server, "dfs_fileserver_repaired_chunks_total", ""), 1.0);
        // Whoever came to it first.
        assert_eq!(setup.metric(server, "dfs_fileserver_checksum_errors_total", ""), 1.0);
        setup.wait_until_level().await;
        setup.expect_three_good_copies().await;
    }
    setup.wait_until_told("CHUNKS_REPAIRED", &SERVERS).await;
    assert!(!reading.is_finished(), "a damaged byte was served: {:?}", reading.await);
    assert_eq!(setup.fsck().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_copies_damaged_in_one_chunk_are_mended_from_the_third() {
    let mut setup = start().await;
    let reading = setup.read_on();
    let [gone, damaged @ ..] = SERVERS;
    damaged.iter().for_each(|server| setup.flip(server));
    // A reader may have found it before, and it may be mended: both is told.
    setup.fsck().await;
    setup.wait_until_told("CHUNKS_REPAIRED", &damaged).await;
    setup.expect_three_good_copies().await;
    let (code, told) = setup.fsck().await;
    assert_eq!(code, Some(0), "{told}");

    let index = setup.cluster.index(gone);
    tokio::task::block_in_place(|| setup.cluster.kill(index));
    let is_gone = async || setup.client.status().await.is_ok_and(|status| status.server_up_count == 2);
    setup.wait_until("a server less", is_gone).await;
    let (code, told) = setup.fsck().await;
    assert_eq!(code, Some(10), "{told}");
    assert!(told.contains("UNDER_REPLICATED") && !told.contains("LOST"), "{told}");
    tokio::task::block_in_place(|| setup.cluster.start_process(index));
    setup.wait_until_level().await;
    let (code, told) = setup.fsck().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(!reading.is_finished(), "a damaged byte was served: {:?}", reading.await);
}
