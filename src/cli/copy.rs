//! `cp` and `mv` within the store: no data moves.

use std::time::Duration;

use super::{
    context::Context,
    error::{Error, Result},
    list::EntryView,
    locking::{Locking, under_lock},
    paths,
    receipt::version_sentence,
};
use crate::{
    client::{AsOf, Client, Copy, Entry, Move},
    config::parse_duration,
    status::Reason,
    types::{Path, Precondition, Version},
};

#[derive(Debug, clap::Args)]
pub struct CopyArguments {
    from: String,
    /// A new name, or a directory to copy into
    to: String,
    /// Copy this version instead of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    replacing: Replacing,
}

#[derive(Debug, clap::Args)]
pub struct MoveArguments {
    from: String,
    /// A new name, or a directory to move into
    to: String,
    #[command(flatten)]
    replacing: Replacing,
}

/// What to do about a file that has the new name already.
#[derive(Debug, clap::Args)]
struct Replacing {
    /// Replace a file that is there, under its lock
    #[arg(short, long)]
    force: bool,
    /// Replace it only if this is its newest version, without locking
    #[arg(long, value_name = "N", conflicts_with = "force", value_parser = clap::value_parser!(u64).range(1..))]
    if_version: Option<u64>,
    /// How long to queue for the lock [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "force")]
    wait: Option<Duration>,
}

pub async fn copy(context: &mut Context, arguments: CopyArguments) -> Result<()> {
    let client = context.client().await?;
    let from = context.path(&arguments.from)?;
    let to = target(context, &client, &from, &arguments.to).await?;
    let version = arguments.version.map(Version);
    let entry = replacing(context, &to, &arguments.replacing, async |precondition| {
        let copy = Copy { version, replace: !precondition.is_none(), to: precondition };
        Ok(client.copy(&from, &to, copy).await?)
    })
    .await?;
    let sentence = version_sentence(&format!("copied {from} to"), &entry);
    context.output.done(&EntryView::by_path(&entry), to.as_str(), &sentence)
}

pub async fn rename(context: &mut Context, arguments: MoveArguments) -> Result<()> {
    let client = context.client().await?;
    let from = context.path(&arguments.from)?;
    let to = target(context, &client, &from, &arguments.to).await?;
    let entry = replacing(context, &to, &arguments.replacing, async |precondition| {
        let replace = !precondition.is_none();
        let rename = Move { replace, from: Precondition::default(), to: precondition };
        Ok(client.move_entry(&from, &to, rename).await?)
    })
    .await?;
    context.output.done(&EntryView::by_path(&entry), to.as_str(), &format!("moved {from} to {to}"))
}

/// Runs `work` with what it takes to replace the file at `to`, or with nothing when nothing may be replaced.
async fn replacing(
    context: &mut Context,
    to: &Path,
    replacing: &Replacing,
    work: impl AsyncFnOnce(Precondition) -> Result<Entry>,
) -> Result<Entry> {
    let fencing_token = context.lent_token(to);
    let precondition = Precondition { fencing_token, if_version: replacing.if_version.map(Version) };
    if !replacing.force || fencing_token.is_some() {
        let replace = replacing.force || replacing.if_version.is_some();
        return work(if replace { precondition } else { Precondition::default() }).await;
    }
    under_lock(context, to, Locking::exclusive(replacing.wait), async |_, held| work(held.precondition()?).await).await
}

/// A directory that is there takes the entry under its own name.
async fn target(context: &Context, client: &Client, from: &Path, text: &str) -> Result<Path> {
    let to = context.path(text)?;
    match client.get(&to, AsOf::Now).await {
        Ok(entry) if entry.is_directory() => {
            let name = from.name().ok_or_else(|| Error::Usage("the root has no other place".to_owned()))?;
            paths::join(&to, name)
        }
        Err(error) if error.reason() == Reason::EntryNotFound && !paths::names_a_directory(text) => Ok(to),
        Ok(_) => Ok(to),
        Err(error) => Err(error.into()),
    }
}
