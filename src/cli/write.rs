//! `write` and `append`: new content for a file, under its lock or with another right to write.

use std::time::Duration;

use super::{
    context::Context,
    error::{Error, Result},
    locking::{Locking, under_lock},
    receipt::{ReceiptView, sentence},
    shell::typed,
    source::{Source, SourceArguments},
};
use crate::{
    client::{Receipt, WriteOptions},
    config::parse_duration,
    types::{Path, Precondition, Version},
};

#[derive(Debug, clap::Args)]
pub struct WriteArguments {
    /// The file; made if there is none
    pub path: String,
    #[command(flatten)]
    source: SourceArguments,
    /// Only if this is the newest version, without locking; 0: only if there is no such file
    #[arg(long, value_name = "N", conflicts_with = "wait")]
    if_version: Option<u64>,
    /// Put the data there, in bytes, and keep what is around it
    #[arg(long, value_name = "BYTES")]
    offset: Option<u64>,
    /// Make missing parents
    #[arg(short, long)]
    parents: bool,
    /// How long to queue for the lock [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Lease of the lock while it is held: how long others wait should this client vanish [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct AppendArguments {
    /// The file; made if there is none
    path: String,
    #[command(flatten)]
    source: SourceArguments,
    /// Only if this is the newest version; 0: only if there is no such file
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// Make missing parents
    #[arg(short, long)]
    parents: bool,
}

impl WriteArguments {
    pub fn options(&self, precondition: Precondition) -> WriteOptions {
        let options = match self.offset {
            Some(offset) => WriteOptions::patch(offset, precondition),
            None => WriteOptions::replace(precondition),
        };
        WriteOptions { create_parents: self.parents, ..options }
    }

    pub fn locking(&self) -> Locking {
        let locking = Locking::exclusive(self.wait);
        Locking { ttl: self.ttl.unwrap_or(locking.ttl), ..locking }
    }
}

pub async fn write(context: &mut Context, arguments: WriteArguments) -> Result<()> {
    let path = context.path(&arguments.path)?;
    let source = arguments.source.open(context)?;
    let right = right_without_lock(context, &path, arguments.if_version);
    let receipt = match (right, source) {
        (Some(right), Source::Typed) => {
            let text = typed::read(context).await?;
            send(context, Source::Bytes(text), &path, arguments.options(right)).await?
        }
        (Some(right), source) => send(context, source, &path, arguments.options(right)).await?,
        (None, Source::Typed) => typed::write(context, &path, &arguments).await?,
        (None, source) => {
            under_lock(context, &path, arguments.locking(), async |context, held| {
                send(context, source, &path, arguments.options(held.precondition()?)).await
            })
            .await?
        }
    };
    done(context, "wrote", &receipt)
}

/// What a write may carry instead of a lock of its own: the version it is based on, a lock that is lent to it, or both.
fn right_without_lock(context: &Context, path: &Path, if_version: Option<u64>) -> Option<Precondition> {
    let fencing_token = context.lent_token(path);
    let right = Precondition { fencing_token, if_version: if_version.map(Version) };
    (!right.is_none()).then_some(right)
}

/// An append overwrites nothing, so it needs no lock; a lent one is checked.
pub async fn append(context: &mut Context, arguments: AppendArguments) -> Result<()> {
    let path = context.path(&arguments.path)?;
    let source = match arguments.source.open(context)? {
        Source::Typed => Source::Bytes(typed::read(context).await?),
        source => source,
    };
    let precondition = right_without_lock(context, &path, arguments.if_version).unwrap_or_default();
    let options = WriteOptions { precondition, create_parents: arguments.parents, ..WriteOptions::append() };
    let receipt = send(context, source, &path, options).await?;
    done(context, "appended to", &receipt)
}

pub async fn send(context: &mut Context, source: Source, path: &Path, options: WriteOptions) -> Result<Receipt> {
    let client = context.client().await?;
    let bar = context.progress.bytes(path.as_str(), source.length());
    source.send(&client, path, options, &bar).await
}

pub fn done(context: &mut Context, verb: &str, receipt: &Receipt) -> Result<()> {
    acknowledged(receipt)?;
    context.output.done(&ReceiptView::from(receipt), receipt.path.as_str(), &sentence(verb, receipt))
}

/// A receipt that names no server is none.
pub fn acknowledged(receipt: &Receipt) -> Result<()> {
    if receipt.servers.is_empty() {
        return Err(Error::Here(format!("{} was written, but the receipt names no server", receipt.path)));
    }
    Ok(())
}
