//! `rm`: asks before a directory goes with all below it, and can say first what would go.

use futures::StreamExt;
use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    output::{Done, Row},
    table::{self, Column},
    tried::Tried,
};
use crate::{
    client::{AsOf, Client, Delete, Entry, WalkOptions},
    types::{Path, Precondition, Version},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(required = true)]
    paths: Vec<String>,
    /// Directories with all below them
    #[arg(short, long)]
    recursive: bool,
    /// Say what would be deleted, and delete nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only if this is the file's newest version
    #[arg(long, value_name = "N", conflicts_with = "recursive", value_parser = clap::value_parser!(u64).range(1..))]
    if_version: Option<u64>,
}

#[derive(Default)]
struct Extent {
    entries: u64,
    bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deleted {
    path: String,
    entries: u64,
}

impl Row for Deleted {
    const COLUMNS: &'static [Column] = &[Column::left("PATH"), Column::right("ENTRIES")];

    fn cells(&self) -> Vec<String> {
        vec![self.path.clone(), self.entries.to_string()]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    // All of them are looked at before the first is deleted.
    let mut found = Vec::new();
    for text in &arguments.paths {
        found.push((text, find(context, &client, text).await));
    }
    let mut tried = Tried::new(arguments.paths.len());
    if arguments.dry_run {
        let mut entries = Vec::new();
        for (text, entry) in found {
            entries.extend(tried.count(&mut context.output, text, entry)?);
        }
        say_what_would_go(context, &client, &entries, arguments.recursive).await?;
        return tried.finish();
    }
    if arguments.recursive && found.iter().any(|(_, entry)| entry.as_ref().is_ok_and(Entry::is_directory)) {
        context.must_be_able_to_ask("Directories are deleted with all below them.")?;
    }
    let mut deleted = Vec::new();
    for (text, entry) in found {
        let done = match entry {
            Ok(entry) => delete(context, &client, &entry, &arguments).await,
            Err(error) => Err(error),
        };
        deleted.extend(tried.count(&mut context.output, text, done)?);
    }
    context.output.done_many(&deleted)?;
    tried.finish()
}

async fn find(context: &Context, client: &Client, text: &str) -> Result<Entry> {
    Ok(client.get(&context.path(text)?, AsOf::Now).await?)
}

async fn delete(context: &mut Context, client: &Client, entry: &Entry, arguments: &Arguments) -> Result<Done<Deleted>> {
    let force = arguments.recursive && entry.is_directory();
    if force {
        let below = extent(client, &entry.path).await?;
        let size = table::binary_size(below.bytes);
        context.confirm(&format!("Delete {} with {} entries below it, {size}?", entry.path, below.entries)).await?;
    }
    let fencing_token = context.lent_token(&entry.path);
    let precondition = Precondition { fencing_token, if_version: arguments.if_version.map(Version) };
    let count = client.delete(&entry.path, Delete { force, precondition }).await?;
    let name = entry.path.to_string();
    let sentence = match count {
        0 | 1 => format!("deleted {name}"),
        count => format!("deleted {name} and {} entries below it", count - 1),
    };
    Ok(Done { value: Deleted { path: name.clone(), entries: count }, name, sentence })
}

/// What lies below a directory.
async fn extent(client: &Client, path: &Path) -> Result<Extent> {
    let mut extent = Extent::default();
    let mut entries = client.walk(path, WalkOptions::default()).await?;
    while let Some(listed) = entries.next().await {
        let entry = listed?.entry;
        if &entry.path != path {
            extent.entries += 1;
            extent.bytes = extent.bytes.saturating_add(entry.size);
        }
    }
    Ok(extent)
}

async fn say_what_would_go(context: &mut Context, client: &Client, entries: &[Entry], recursive: bool) -> Result<()> {
    let mut rows = context.output.rows();
    for entry in entries {
        rows.push(&Deleted { path: entry.path.to_string(), entries: 1 })?;
        if !recursive || !entry.is_directory() {
            continue;
        }
        let mut below = client.walk(&entry.path, WalkOptions::default()).await?;
        while let Some(listed) = below.next().await {
            let found = listed?.entry;
            if found.path != entry.path {
                rows.push(&Deleted { path: found.path.to_string(), entries: 1 })?;
            }
        }
    }
    rows.finish()?;
    context.output.say("nothing was deleted")
}
