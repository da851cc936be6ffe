//! Is it there, is it ready: `ping`, `ready`.

use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    output::Row,
    table::{self, Column},
};
use crate::{
    client::{Client, Server},
    config::parse_duration,
    status::Retry,
};

/// Servers asked at once.
const PINGS_AT_ONCE: usize = 16;
const READY_POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PingView {
    server_id: String,
    kind: &'static str,
    address: String,
    /// Round trip; none when nothing came back.
    millis: Option<f64>,
    error: Option<String>,
}

impl Row for PingView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::left("KIND"),
        Column::left("ADDRESS"),
        Column::right("TIME"),
        Column::left("ERROR"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.server_id.clone(),
            self.kind.to_owned(),
            self.address.clone(),
            self.millis.map_or("-".to_owned(), |millis| format!("{millis:.2} ms")),
            self.error.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

/// Exit code 10 when a server does not answer; 6 when the Directory does not, who knows the others.
pub async fn ping(context: &mut Context) -> Result<()> {
    let client = context.client().await?;
    let servers = client.servers().await?;
    let asked = servers.by_kind().map(|(kind, server)| ping_one(&client, kind, server));
    let pings: Vec<PingView> = stream::iter(asked).buffered(PINGS_AT_ONCE).collect().await;
    let silent = pings.iter().filter(|ping| ping.millis.is_none()).count();
    let total = pings.len();
    context.output.all(pings)?;
    if silent > 0 {
        return Err(Error::Unhealthy(format!("{silent} of {total} servers do not answer")));
    }
    Ok(())
}

async fn ping_one(client: &Client, kind: &'static str, server: &Server) -> PingView {
    let address = client.address_of(server).to_owned();
    let (millis, error) = match client.ping(&address).await {
        Ok(time) => (Some((time.as_secs_f64() * 1e5).round() / 100.0), None),
        Err(error) => (None, Some(error.to_string())),
    };
    PingView { server_id: server.server.to_string(), kind, address, millis, error }
}

#[derive(Debug, clap::Args)]
pub struct ReadyArguments {
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
}

/// Exit code 10 when it is not ready in time.
pub async fn ready(context: &mut Context, arguments: ReadyArguments) -> Result<()> {
    let deadline = tokio::time::Instant::now() + arguments.wait;
    let waited = format!("not ready after {}", table::age(arguments.wait.as_millis() as u64));
    loop {
        // With no time to wait it is asked once, and gets the time that any call has.
        let asked = asked_readiness(context);
        let asked = match arguments.wait {
            Duration::ZERO => asked.await,
            _ => match tokio::time::timeout_at(deadline, asked).await {
                Ok(asked) => asked,
                Err(_) => return Err(Error::Unhealthy(format!("{waited}: no answer"))),
            },
        };
        let cause = match asked {
            Ok(waiting_for) if waiting_for.is_empty() => {
                return context.output.say("ready: the cluster takes reads and writes");
            }
            Ok(waiting_for) => format!("waiting for {}", waiting_for.join(", ")),
            // What makes no sense now makes none later.
            Err(error) if error.reason().is_none_or(|reason| reason.retry() == Retry::Never) => return Err(error),
            Err(error) => error.line(),
        };
        let next = tokio::time::Instant::now() + READY_POLL;
        if next > deadline {
            return Err(Error::Unhealthy(format!("{waited}: {cause}")));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// What is still missing; nothing when it is ready.
async fn asked_readiness(context: &mut Context) -> Result<Vec<String>> {
    let client = context.client().await?;
    Ok(client.readiness().await.waiting_for)
}
