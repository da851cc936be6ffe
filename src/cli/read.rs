//! `read`: bytes of files to stdout as they are, or into a file that is whole or not there.

use std::path::PathBuf;

use futures::StreamExt;

use super::{
    context::Context,
    download::{self, Replace},
    error::{Error, Result},
    list::At,
    tried::Tried,
};
use crate::{
    client::{Client, ReadOptions},
    types::Version,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(required = true)]
    paths: Vec<String>,
    /// Begin here, in bytes
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    offset: u64,
    /// At most this many bytes
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    /// This version instead of the newest
    #[arg(long, value_name = "N", conflicts_with = "at", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Into this file of this machine, which is replaced as a whole
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    at: At,
}

impl Arguments {
    fn options(&self) -> ReadOptions {
        ReadOptions {
            version: self.version.map(Version),
            as_of: self.at.as_of(),
            offset: self.offset,
            length: self.length,
        }
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    if arguments.out.is_some() && arguments.paths.len() > 1 {
        return Err(Error::Usage("--out takes one file".to_owned()));
    }
    let mut tried = Tried::new(arguments.paths.len());
    for text in &arguments.paths {
        let read = one(context, &client, text, &arguments).await;
        tried.count(&mut context.output, text, read)?;
    }
    tried.finish()
}

async fn one(context: &mut Context, client: &Client, text: &str, arguments: &Arguments) -> Result<()> {
    let path = context.path(text)?;
    let mut reader = client.read(&path, arguments.options()).await?;
    if let Some(out) = &arguments.out {
        let bar = context.progress.bytes(path.as_str(), Some(reader.length()));
        let length = download::to_file(reader, out, Replace::Yes, &bar).await?;
        drop(bar);
        return context.output.say(&format!("{length} bytes of {path} are in {}", out.display()));
    }
    while let Some(bytes) = reader.next().await {
        context.output.raw(&bytes?)?;
    }
    context.output.flush()
}
