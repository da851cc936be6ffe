//! The example that newcomers are shown does what it says.

use dfs::client::Version;

use super::{path, read, start_world};

#[path = "../../../examples/quickstart.rs"]
mod quickstart;

/// Its way in, which connects by a variable that a test cannot set.
const _: fn() -> Result<(), Box<dyn std::error::Error>> = quickstart::main;

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_runs_and_can_be_run_again() {
    let world = start_world().await;
    for round in 1..=2 {
        quickstart::tour(&world.client).await.expect("the tour");
        assert_eq!(read(&world.client, "/quickstart/greeting").await.unwrap(), b"hello\nand welcome\n");
        let verification = world.client.verify(&path("/quickstart/greeting"), None).await.unwrap();
        assert_eq!(verification.entry.version, Version(2 * round));
        assert_eq!(verification.good_count(), verification.replicas.len());
    }
    world.stop().await;
}
