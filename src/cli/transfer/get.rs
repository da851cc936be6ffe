//! `get`: from the store to this machine.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path as LocalPath, PathBuf},
};

use futures::{StreamExt, stream};

use super::{Outcome, Tally};
use crate::{
    cli::{
        context::Context,
        download::{self, Replace},
        error::{Error, Result},
        list::{At, name_below},
        progress::Bar,
    },
    client::{AsOf, Client, Entry, EntryKind, ReadOptions, WalkOptions},
};

#[derive(Debug, clap::Args)]
pub struct GetArguments {
    /// Files of the store, and directories with -r; then where to put them on this machine
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<String>,
    /// Directories with all below them
    #[arg(short, long)]
    recursive: bool,
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
    /// Files at a time
    #[arg(short, long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    #[command(flatten)]
    at: At,
}

impl GetArguments {
    fn replace(&self) -> Replace {
        if self.force { Replace::Yes } else { Replace::No }
    }
}

pub async fn get(context: &mut Context, arguments: GetArguments) -> Result<()> {
    let [sources @ .., target] = arguments.paths.as_slice() else {
        return Err(Error::Usage("get takes a source and a target".to_owned()));
    };
    let client = context.client().await?;
    let as_of = arguments.at.as_of();
    let target = LocalPath::new(target);
    let into = target.is_dir() || target.as_os_str().to_string_lossy().ends_with('/');
    if sources.len() > 1 && !into {
        return Err(Error::Usage(format!("{} is not a directory, but there are several sources", target.display())));
    }
    let mut entries = Vec::new();
    for source in sources {
        let entry = client.get(&context.path(source)?, as_of).await?;
        if entry.is_directory() && !arguments.recursive {
            return Err(Error::Usage(format!("{} is a directory; -r gets it with all below it", entry.path)));
        }
        let to = match entry.path.name() {
            Some(name) if into => target.join(name),
            _ => target.to_owned(),
        };
        entries.push((entry, to));
    }
    if let [(entry, to)] = entries.as_slice()
        && !entry.is_directory()
    {
        return single(context, &client, entry, to, &arguments).await;
    }
    let bar = context.progress.bytes("get", None);
    let mut tally = Tally::default();
    for (entry, to) in &entries {
        tree(context, &client, &bar, &mut tally, (entry, to), &arguments).await?;
    }
    drop(bar);
    tally.finish(context, "got")
}

async fn single(
    context: &mut Context,
    client: &Client,
    entry: &Entry,
    to: &LocalPath,
    arguments: &GetArguments,
) -> Result<()> {
    let bar = context.progress.bytes(entry.path.as_str(), Some(entry.size));
    let bytes = file(client, entry, to, arguments.at.as_of(), arguments.replace(), &bar).await?;
    drop(bar);
    Tally { files: 1, bytes, ..Tally::default() }.finish(context, "got")
}

/// One file with its permission bits.
async fn file(client: &Client, entry: &Entry, to: &LocalPath, as_of: AsOf, replace: Replace, bar: &Bar) -> Result<u64> {
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(Error::local_file(parent))?;
    }
    let reader = client.read(&entry.path, ReadOptions { as_of, ..ReadOptions::default() }).await?;
    let bytes = download::to_file(reader, to, replace, bar).await?;
    let permissions = fs::Permissions::from_mode(entry.mode & 0o777);
    fs::set_permissions(to, permissions).map_err(Error::local_file(to))?;
    Ok(bytes)
}

/// A directory with all below it, or a file among others. The walk is read only as fast as files are fetched.
async fn tree(
    context: &mut Context,
    client: &Client,
    bar: &Bar,
    tally: &mut Tally,
    (root, to): (&Entry, &LocalPath),
    arguments: &GetArguments,
) -> Result<()> {
    let as_of = arguments.at.as_of();
    let walked = if root.is_directory() {
        client
            .walk(&root.path, WalkOptions { extents: false, as_of })
            .await?
            .map(|listed| listed.map(|l| l.entry))
            .boxed()
    } else {
        stream::iter([Ok(root.clone())]).boxed()
    };
    let unseen = Bar::hidden();
    let mut got = walked
        .map(|entry| {
            let unseen = &unseen;
            async move {
                let entry = entry?;
                let local = place(to, &name_below(&root.path, &entry.path));
                let outcome = one(client, &entry, &local, as_of, arguments.replace(), unseen).await;
                Ok::<_, Error>((entry, outcome))
            }
        })
        .buffer_unordered(usize::from(arguments.jobs));
    while let Some(got) = got.next().await {
        // A walk that breaks off is the end: what else is there is not known.
        let (entry, outcome) = got?;
        tally.count(context, bar, entry.path.as_str(), outcome)?;
    }
    Ok(())
}

/// Names of the store have no `/`, `.` or `..`, so nothing leads out of the target.
fn place(target: &LocalPath, below: &str) -> PathBuf {
    if below.is_empty() { target.to_owned() } else { target.join(below) }
}

async fn one(
    client: &Client,
    entry: &Entry,
    to: &LocalPath,
    as_of: AsOf,
    replace: Replace,
    bar: &Bar,
) -> Result<Outcome> {
    match entry.kind {
        EntryKind::Directory => match fs::create_dir_all(to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::local_file(to)(error)),
            _ => Ok(Outcome::Directory),
        },
        EntryKind::File => Ok(Outcome::File { bytes: file(client, entry, to, as_of, replace, bar).await? }),
        EntryKind::Symlink => Err(Error::Here("symbolic links are not fetched".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_directory_comes_below_the_target() {
        assert_eq!(place(LocalPath::new("out"), "a/b"), LocalPath::new("out/a/b"));
        assert_eq!(place(LocalPath::new("out"), ""), LocalPath::new("out"));
    }
}
