//! Of two servers one hears the other, and the other hears nothing.

use super::{
    Day, FILESERVERS,
    gate::{Direction, Gate},
};
use crate::cluster::Cluster;

const CUT_OFF: &str = "fileserver-a";

/// Peers, and the Directory when it looks whether it lives, reach the server through the gate alone; clients reach it anyhow.
async fn begin_with_a_gate_before_the_server() -> (Day, Gate) {
    let mut cluster = Cluster::prepare(1, 1, FILESERVERS);
    let (index, gate) = (cluster.index(CUT_OFF), cluster.free_address());
    let direct = cluster.address(index);
    cluster.add_arguments(index, &[format!("--advertise={gate}"), format!("--advertise-external={direct}")]);
    let gate = Gate::start(&gate, direct).await;
    let day = Day::begin_in(move || {
        cluster.start_processes();
        cluster
    });
    (day.await, gate)
}

/// After the cut, which is healed in the end.
async fn expect_writers_to_go_on(mut day: Day, gate: Gate) {
    day.wait_until_watched_writers_go_on().await;
    day.watch_for_a_while().await;
    // Neither the cut nor a pause may be still to come.
    day.history.count_anew();
    day.wait_until_watched_writers_go_on().await;
    day.expect_short_pause();
    gate.expect_held();
    gate.heal();
    day.end().await;
}

async fn cut_before_the_server(direction: Direction) {
    let (day, gate) = begin_with_a_gate_before_the_server().await;
    day.a_leading_file_server().await;
    day.history.begin_watch();
    gate.cut(direction);
    expect_writers_to_go_on(day, gate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_a_file_server_hears_nothing_of_the_others() {
    cut_before_the_server(Direction::ToServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_nobody_hears_what_a_file_server_answers() {
    cut_before_the_server(Direction::FromServer).await;
}

/// All servers reach the Directory through the gate, which is cut for one of them.
async fn cut_before_the_directory(direction: Direction) {
    let mut cluster = Cluster::prepare(1, 1, FILESERVERS);
    let (directory, gate) = (cluster.index("directory-1"), cluster.free_address());
    let direct = cluster.address(directory);
    cluster.add_arguments(directory, &[format!("--advertise={gate}"), format!("--advertise-external={direct}")]);
    cluster.set_directory(CUT_OFF, &gate);
    let gate = Gate::start(&gate, direct).await;
    let day = Day::begin_in(move || {
        cluster.start_processes();
        cluster
    });
    let day = day.await;
    let index = day.a_leading_file_server().await;
    day.history.begin_watch();
    gate.cut_of(direction, day.cluster.pid(index));
    expect_writers_to_go_on(day, gate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_the_directory_hears_nothing_of_a_file_server() {
    cut_before_the_directory(Direction::ToServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_a_file_server_hears_nothing_of_the_directory() {
    cut_before_the_directory(Direction::FromServer).await;
}
