//! `scrub`: having servers read every chunk from disk, and mend what is damaged.

use futures::{StreamExt, stream};
use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    output::Row,
    table::{self, Column},
};
use crate::client::{Client, Failure, Reason, ScrubResult, ServerId, ServerState};

/// Servers that scrub at once.
const SCRUBS_AT_ONCE: usize = 32;

#[derive(Debug, clap::Args)]
pub struct ScrubArguments {
    /// File servers; without any: all
    servers: Vec<ServerId>,
    /// Bytes per second that each reads at most, such as 50M [default: as it scrubs anyway]
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<u64>,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no rate: use a number of bytes per second, or one with K, M or G");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(bad()),
    };
    let rate = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    rate.filter(|rate| *rate > 0).ok_or_else(bad)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScrubView {
    server_id: String,
    read_bytes: u64,
    damaged_chunk_count: u64,
    repaired_chunk_count: u64,
    lost_blob_count: u64,
    error: Option<String>,
}

impl Row for ScrubView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::right("READ"),
        Column::right("DAMAGED"),
        Column::right("REPAIRED"),
        Column::right("LOST"),
        Column::left("ERROR"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.server_id.clone(),
            table::binary_size(self.read_bytes),
            self.damaged_chunk_count.to_string(),
            self.repaired_chunk_count.to_string(),
            self.lost_blob_count.to_string(),
            self.error.clone().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

/// Exit code 10 when a server found damage, mended or not, or could not be asked.
pub async fn scrub(context: &mut Context, arguments: ScrubArguments) -> Result<()> {
    let client = context.client().await?;
    let map = client.refresh_map().await?;
    let servers: Vec<ServerId> = match arguments.servers.is_empty() {
        true => map.servers.values().filter(|it| it.state != ServerState::Down).map(|it| it.server.clone()).collect(),
        false => arguments.servers,
    };
    if let Some(stranger) = servers.iter().find(|id| !map.servers.contains_key(*id)) {
        return Err(Failure::new(Reason::ServerNotFound, format!("no file server {stranger}")).into());
    }
    let bar = context.progress.bytes("read", None);
    let scrubs =
        servers.into_iter().map(|server| scrub_one(&client, server, arguments.rate, |bytes| bar.advance(bytes)));
    let views: Vec<ScrubView> = stream::iter(scrubs).buffered(SCRUBS_AT_ONCE).collect().await;
    drop(bar);
    let damaged: u64 = views.iter().map(|view| view.damaged_chunk_count).sum();
    let repaired: u64 = views.iter().map(|view| view.repaired_chunk_count).sum();
    let failed = views.iter().filter(|view| view.error.is_some()).count();
    context.output.all(views)?;
    match (damaged, failed) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Error::Unhealthy(format!("{damaged} chunks were damaged, {repaired} of them are mended"))),
        _ => Err(Error::Unhealthy(format!("{failed} servers could not be scrubbed; {damaged} chunks were damaged"))),
    }
}

async fn scrub_one(client: &Client, server: ServerId, rate: Option<u64>, advance: impl Fn(u64)) -> ScrubView {
    let mut read_bytes = 0;
    let mut result = ScrubResult::default();
    let scrubbed = async {
        let mut scrub = client.scrub(&server, rate).await?;
        let mut is_done = false;
        while let Some(progress) = scrub.next().await? {
            advance(progress.read_bytes.saturating_sub(read_bytes));
            read_bytes = progress.read_bytes;
            if let Some(done) = progress.result {
                (result, is_done) = (done, true);
            }
        }
        Ok::<_, crate::client::Error>(is_done)
    };
    let error = match scrubbed.await {
        Ok(true) => None,
        Ok(false) => Some("the server stopped before the end".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    ScrubView {
        server_id: server.to_string(),
        read_bytes,
        damaged_chunk_count: result.damaged_chunks,
        repaired_chunk_count: result.repaired_chunks,
        lost_blob_count: result.lost_blobs,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_may_have_units() {
        assert_eq!(parse_rate("100"), Ok(100));
        assert_eq!(parse_rate("50M"), Ok(50 << 20));
        for bad in ["", "0", "M", "5X", "-1", "99999999999999999999", "99999999999G"] {
            assert!(parse_rate(bad).is_err(), "{bad:?}");
        }
    }
}
