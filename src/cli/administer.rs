//! Groups that move: `servers drain|resume|rm`, `rebalance`.

use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    output::Row,
    table::{self, Column},
};
use crate::client::{Client, PlannedMove, Server, ServerState};

mod waiting;

use waiting::{Left, Waiting, groups};

#[derive(Debug, clap::Args)]
pub struct DrainArguments {
    /// The server's id
    #[arg(value_name = "SERVER")]
    server: String,
    /// Say what would be moved, and move nothing
    #[arg(short = 'n', long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
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
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub struct RebalanceArguments {
    /// Say what would be moved, and move nothing
    #[arg(short = 'n', long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
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

pub async fn drain(context: &mut Context, arguments: DrainArguments) -> Result<()> {
    let client = context.client().await?;
    let server = arguments.server.as_str();
    if arguments.dry_run {
        return context.output.all(client.plan_drain(server).await?.into_iter().map(MoveView::from));
    }
    let count = client.drain_server(server).await?.len();
    if arguments.waiting.wait {
        arguments.waiting.until_done(context, &client, async || held(&client, server).await).await?;
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

/// What a server that is drained still has.
async fn held(client: &Client, server: &str) -> Result<Option<Left>> {
    let Some(now) = find(client, server).await? else { return Ok(None) };
    // A Directory that has just come to lead does not know yet how much it has.
    let may_hold_blobs = now.state != ServerState::Down && (now.blob_count > 0 || now.last_seen.is_none());
    if now.group_count == 0 && !may_hold_blobs {
        return Ok(None);
    }
    if !now.draining {
        return Err(Error::Unhealthy(format!("{server} is not drained any more: somebody has resumed it")));
    }
    let size = table::binary_size(now.stored_bytes);
    let sentence = format!("{server}: {}, {} blobs, {size} left", groups(now.group_count as usize), now.blob_count);
    Ok(Some(Left { sentence, blob_count: now.blob_count }))
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
    if arguments.waiting.wait && remaining > 0 {
        arguments.waiting.until_done(context, &client, async || places(&client, server).await).await?;
        remaining = 0;
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
    if arguments.waiting.wait {
        arguments.waiting.until_done(context, &client, async || uneven(&client).await).await?;
        let view = ChangedView { server_id: "", change: "rebalanced", group_count: 0 };
        return context.output.done(&view, "", "every file server has its share");
    }
    let view = ChangedView { server_id: "", change: "rebalancing", group_count: count };
    context.output.done(&view, "", &format!("{} to move", groups(count)))
}

/// Groups in which a server that is lost is still to be replaced.
async fn places(client: &Client, server: &str) -> Result<Option<Left>> {
    let now = find(client, server).await?.filter(|known| known.group_count > 0);
    let sentence = |count| format!("{server}: {} left to replace it in", groups(count));
    Ok(now.map(|known| Left { sentence: sentence(known.group_count as usize), blob_count: 0 }))
}

async fn uneven(client: &Client) -> Result<Option<Left>> {
    let status = client.status().await?;
    let sentence = format!("{} moving", groups(status.moving_group_count as usize));
    Ok(status.rebalancing.then_some(Left { sentence, blob_count: 0 }))
}
