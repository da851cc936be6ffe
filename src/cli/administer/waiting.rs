//! Waits until groups have moved, and says why if nothing goes on.

use std::time::{Duration, Instant};

use crate::{
    cli::{
        context::Context,
        error::{Error, Result},
    },
    client::{Client, HealthCheck},
    config::parse_duration,
    types::ServerId,
};

const POLL: Duration = Duration::from_millis(500);
/// What may keep groups from moving: the check that tells most comes first.
const OBSTACLES: [&str; 8] = [
    "NO_ROOM",
    "NO_SPARE_SERVER",
    "MOVES_FAILED",
    "GROUP_WITHOUT_PRIMARY",
    "GROUP_BELOW_MINIMUM",
    "SERVER_READ_ONLY",
    "SERVER_DOWN",
    "GROUP_SHORT",
];

#[derive(Debug, clap::Args)]
pub struct Waiting {
    /// Wait until it is done; an interrupt ends the waiting, not the moving
    #[arg(long)]
    pub wait: bool,
    /// With --wait: when nothing has gone on for so long, say why, and end with exit code 10; groups still move when they can
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration, requires = "wait")]
    patience: Duration,
}

/// What is still to be done.
pub struct Left {
    /// For people, told when it changes.
    pub sentence: String,
    /// Blobs that are still to be deleted.
    pub blob_count: u64,
}

/// Whatever changes while anything goes on: blobs to be deleted, configurations of groups, bytes of those who arrive.
#[derive(PartialEq, Eq)]
struct Progress {
    blob_count: u64,
    epochs: u64,
    arrived_bytes: u64,
}

impl Waiting {
    /// Until `look` finds nothing left.
    pub async fn until_done(
        &self,
        context: &mut Context,
        client: &Client,
        mut look: impl AsyncFnMut() -> Result<Option<Left>>,
    ) -> Result<()> {
        let mut said = String::new();
        let mut last: Option<(Progress, Instant)> = None;
        while let Some(left) = look().await? {
            let progress = progress(client, left.blob_count).await?;
            if said != left.sentence {
                context.output.say(&left.sentence)?;
                said = left.sentence;
            }
            match &last {
                Some((before, since)) if *before == progress => {
                    if since.elapsed() >= self.patience {
                        return Err(Error::Unhealthy(self.stuck(client, &said).await?));
                    }
                }
                _ => last = Some((progress, Instant::now())),
            }
            tokio::time::sleep(POLL.min(self.patience)).await;
        }
        Ok(())
    }

    async fn stuck(&self, client: &Client, left: &str) -> Result<String> {
        let checks = client.status().await?.checks;
        let why = OBSTACLES.iter().find_map(|code| checks.iter().find(|check| check.code == *code));
        let why = match why {
            Some(HealthCheck { code, summary, hint, .. }) => format!("{code}: {summary}; {hint}"),
            None => {
                "`dfs-cli status` knows no reason; see the logs of the Directory and of the file servers".to_owned()
            }
        };
        Ok(format!("{left}, and nothing has gone on for {:?}. {why}", self.patience))
    }
}

async fn progress(client: &Client, blob_count: u64) -> Result<Progress> {
    let groups = client.groups().await?;
    let arriving: Vec<ServerId> =
        groups.iter().filter_map(|group| Some(group.replacement.as_ref()?.arriving.clone())).collect();
    let servers = client.servers().await?.fileservers;
    let arrivals = servers.iter().filter(|server| arriving.contains(&server.server));
    Ok(Progress {
        blob_count,
        epochs: groups.iter().map(|group| group.epoch.0).sum(),
        arrived_bytes: arrivals.map(|server| server.stored_bytes).sum(),
    })
}

pub fn groups(count: usize) -> String {
    if count == 1 { "1 group".to_owned() } else { format!("{count} groups") }
}
