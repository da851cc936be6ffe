//! Groups that move: `servers drain|resume|rm`, `rebalance`.

use std::time::Duration;

use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    output::Row,
    table::{self, Column},
};
use crate::client::{Client, PlannedMove, Server, ServerState};

const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct DrainArguments {
    /// The server's id
    #[arg(value_name = "SERVER")]
    server: String,
    /// Say what would be moved, and move nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until the server is empty; an interrupt ends the waiting, not the moving
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

#[derive(Debug, clap::Args)]
pub struct ResumeArguments {
    /// The server's id
    #[arg(value_name = "SERVER")]
    server: String,
}

#[derive(Debug, clap::Args)]
pub struct RemoveArguments {
    /// The server's id
    #[arg(value_name = "SERVER")]
    server: String,
    /// It is dead and will never come back: others take its places at once
    #[arg(long)]
    lost: bool,
    /// Wait until it is gone; an interrupt ends the waiting, not the removal
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
pub struct RebalanceArguments {
    /// Say what would be moved, and move nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until it is done; an interrupt ends the waiting, not the moving
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MoveView {
    group: u32,
    leaving: Option<String>,
    arriving: String,
}

impl From<PlannedMove> for MoveView {
    fn from(planned: PlannedMove) -> Self {
        let leaving = planned.leaving.map(|server| server.to_string());
        Self { group: planned.group.0, leaving, arriving: planned.arriving.to_string() }
    }
}

impl Row for MoveView {
    const COLUMNS: &'static [Column] = &[Column::right("GROUP"), Column::left("FROM"), Column::left("TO")];

    fn cells(&self) -> Vec<String> {
        let leaving = table::or_dash(self.leaving.clone().unwrap_or_default());
        vec![self.group.to_string(), leaving, self.arriving.clone()]
    }

    fn name(&self) -> String {
        self.group.to_string()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangedView<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    server_id: &'a str,
    change: &'static str,
    /// Groups that are still to be moved.
    group_count: usize,
}

fn groups(count: usize) -> String {
    if count == 1 { "1 group".to_owned() } else { format!("{count} groups") }
}

pub async fn drain(context: &mut Context, arguments: DrainArguments) -> Result<()> {
    let client = context.client().await?;
    let server = arguments.server.as_str();
    if arguments.dry_run {
        return context.output.all(client.plan_drain(server).await?.into_iter().map(MoveView::from));
    }
    let count = client.drain_server(server).await?.len();
    if arguments.wait {
        wait_until_empty(context, &client, server).await?;
        let view = ChangedView { server_id: server, change: "drained", group_count: 0 };
        return context.output.done(&view, server, &format!("{server} is empty; `servers rm {server}` takes it out"));
    }
    let view = ChangedView { server_id: server, change: "draining", group_count: count };
    context.output.done(&view, server, &format!("{server} is being drained: {} to move", groups(count)))
}

async fn find(client: &Client, server: &str) -> Result<Option<Server>> {
    let servers = client.servers().await?;
    Ok(servers.fileservers.into_iter().find(|known| known.server.as_str() == server))
}

async fn wait_until_empty(context: &mut Context, client: &Client, server: &str) -> Result<()> {
    let mut said = None;
    loop {
        let Some(now) = find(client, server).await? else { return Ok(()) };
        let holds_blobs = now.state != ServerState::Down && now.blob_count > 0;
        if now.group_count == 0 && !holds_blobs {
            return Ok(());
        }
        if !now.draining {
            return Err(Error::Unhealthy(format!("{server} is not drained any more: somebody has resumed it")));
        }
        if said.replace(now.group_count) != Some(now.group_count) {
            let size = table::binary_size(now.stored_bytes);
            let left = groups(now.group_count as usize);
            context.output.say(&format!("{server}: {left}, {} blobs, {size} left", now.blob_count))?;
        }
        tokio::time::sleep(POLL).await;
    }
}

pub async fn resume(context: &mut Context, arguments: ResumeArguments) -> Result<()> {
    let server = arguments.server.as_str();
    context.client().await?.resume_server(server).await?;
    let view = ChangedView { server_id: server, change: "resumed", group_count: 0 };
    context.output.done(&view, server, &format!("{server} keeps what it has, and may be given more"))
}

pub async fn remove(context: &mut Context, arguments: RemoveArguments) -> Result<()> {
    let client = context.client().await?;
    let server = arguments.server.as_str();
    let mut remaining = 0;
    if arguments.lost {
        remaining = client.remove_lost_server(server).await?;
    } else {
        client.remove_server(server).await?;
    }
    while arguments.wait && remaining > 0 {
        let now = find(&client, server).await?.map_or(0, |known| known.group_count);
        if now != remaining {
            remaining = now;
            context.output.say(&format!("{server}: {} left to replace it in", groups(now as usize)))?;
        }
        tokio::time::sleep(POLL).await;
    }
    let (change, sentence) = match remaining {
        0 => ("removed", format!("{server} does not belong to the cluster any more")),
        some => ("removing", format!("{server} goes when it has been replaced in {}", groups(some as usize))),
    };
    let view = ChangedView { server_id: server, change, group_count: remaining as usize };
    context.output.done(&view, server, &sentence)
}

pub async fn rebalance(context: &mut Context, arguments: RebalanceArguments) -> Result<()> {
    let client = context.client().await?;
    if arguments.dry_run {
        return context.output.all(client.plan_rebalance().await?.into_iter().map(MoveView::from));
    }
    let count = client.rebalance().await?.len();
    if arguments.wait {
        wait_until_even(context, &client).await?;
        let view = ChangedView { server_id: "", change: "rebalanced", group_count: 0 };
        return context.output.done(&view, "", "every file server has its share");
    }
    let view = ChangedView { server_id: "", change: "rebalancing", group_count: count };
    context.output.done(&view, "", &format!("{} to move", groups(count)))
}

async fn wait_until_even(context: &mut Context, client: &Client) -> Result<()> {
    let mut said = None;
    loop {
        let status = client.status().await?;
        if !status.rebalancing {
            return Ok(());
        }
        if said.replace(status.moving_group_count) != Some(status.moving_group_count) {
            context.output.say(&format!("{} moving", groups(status.moving_group_count as usize)))?;
        }
        tokio::time::sleep(POLL).await;
    }
}
