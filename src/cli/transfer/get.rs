//! `get`: from the store to this machine.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path as LocalPath, PathBuf},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::{Outcome, Room, Tally};
use crate::{
    cli::{
        context::Context,
        download::{self, Replace},
        error::{Error, Result},
        list::{At, name_below},
        progress::Bar,
    },
    client::{self, AsOf, Client, Entry, EntryKind, Listed, READER_BYTES_MAX, ReadOptions, WalkOptions},
};

/// A file up to this size is held in memory, with others.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Listed, fetched and stored together.
const BATCH_ENTRIES: usize = 512;

#[derive(Debug, clap::Args)]
pub struct GetArguments {
    /// Files of the store, and directories with -r; then where to put them on this machine
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
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
    let mut tally = Tally::default();
    let mut entries = Vec::new();
    for source in sources {
        let name = source.to_string_lossy();
        match find(context, &client, source, as_of).await {
            Ok(entry) if entry.is_directory() && !arguments.recursive => {
                return Err(Error::Usage(format!("{} is a directory; -r gets it with all below it", entry.path)));
            }
            Ok(entry) => {
                let to = match entry.path.name() {
                    Some(name) if into => target.join(name),
                    _ => target.to_owned(),
                };
                entries.push((entry, to));
            }
            Err(error) if sources.len() == 1 => return Err(error),
            Err(error) => tally.count(context, &Bar::hidden(), &name, Err(error))?,
        }
    }
    if let ([_], [(entry, to)]) = (sources, entries.as_slice())
        && !entry.is_directory()
    {
        return single(context, &client, entry, to, &arguments).await;
    }
    let bar = context.progress.bytes("get", None);
    for (entry, to) in &entries {
        if entry.is_directory() {
            let ended = tree(context, &client, &bar, &mut tally, (entry, to), &arguments).await;
            if let Err(error) = ended {
                tally.count(context, &bar, entry.path.as_str(), Err(error))?;
            }
        } else {
            let got = file(&client, entry, to, as_of, arguments.replace(), &Bar::hidden()).await;
            tally.count(context, &bar, entry.path.as_str(), got)?;
        }
    }
    drop(bar);
    let sentence = tally.sentence("got");
    tally.finish(context, &sentence)
}

async fn find(context: &Context, client: &Client, source: &OsStr, as_of: AsOf) -> Result<Entry> {
    let source = source.to_str().ok_or_else(|| Error::Usage(format!("{}: a name must be UTF-8", source.display())))?;
    Ok(client.get(&context.path(source)?, as_of).await?)
}

async fn single(
    context: &mut Context,
    client: &Client,
    entry: &Entry,
    to: &LocalPath,
    arguments: &GetArguments,
) -> Result<()> {
    let bar = context.progress.bytes(entry.path.as_str(), Some(entry.size));
    let outcome = file(client, entry, to, arguments.at.as_of(), arguments.replace(), &bar).await?;
    drop(bar);
    let mut tally = Tally::default();
    tally.count(context, &Bar::hidden(), "", Ok(outcome))?;
    let sentence = tally.sentence("got");
    tally.finish(context, &sentence)
}

/// One file, streamed.
async fn file(
    client: &Client,
    entry: &Entry,
    to: &LocalPath,
    as_of: AsOf,
    replace: Replace,
    bar: &Bar,
) -> Result<Outcome> {
    let reader = client.read(&entry.path, ReadOptions { as_of, ..ReadOptions::default() }).await?;
    named(entry, to, reader, replace, bar).await
}

/// Content with its permission bits, in a folder that is made if there is none.
async fn named(
    entry: &Entry,
    to: &LocalPath,
    content: impl Stream<Item = Result<Bytes, client::Error>> + Unpin,
    replace: Replace,
    bar: &Bar,
) -> Result<Outcome> {
    if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(Error::local_file(parent))?;
    }
    let bytes = download::to_file(content, to, replace, bar).await?;
    let permissions = fs::Permissions::from_mode(entry.mode & 0o777);
    fs::set_permissions(to, permissions).map_err(Error::local_file(to))?;
    Ok(Outcome::File { bytes, to: to.display().to_string() })
}

/// A directory with all below it, or a file among others, a batch of entries at a time.
async fn tree(
    context: &mut Context,
    client: &Client,
    bar: &Bar,
    tally: &mut Tally,
    (root, to): (&Entry, &LocalPath),
    arguments: &GetArguments,
) -> Result<()> {
    let as_of = arguments.at.as_of();
    fs::create_dir_all(to).map_err(Error::local_file(to))?;
    let mut walked = client.walk(&root.path, WalkOptions { extents: true, as_of }).await?.chunks(BATCH_ENTRIES);
    while let Some(batch) = walked.next().await {
        // A walk that breaks off is the end: what else is there is not known.
        let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
        for (entry, outcome) in fetch(client, batch, (root, to), arguments).await {
            tally.count(context, bar, entry.path.as_str(), outcome)?;
        }
    }
    Ok(())
}

/// Small files together in a few calls, large ones by themselves.
async fn fetch(
    client: &Client,
    batch: Vec<Listed>,
    (root, to): (&Entry, &LocalPath),
    arguments: &GetArguments,
) -> Vec<(Entry, Result<Outcome>)> {
    let (as_of, replace) = (arguments.at.as_of(), arguments.replace());
    let local = |entry: &Entry| place(to, &name_below(&root.path, &entry.path));
    let (mut done, mut small, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for listed in batch {
        let entry = &listed.entry;
        match entry.kind {
            EntryKind::Directory => {
                let to = local(entry);
                let made = fs::create_dir_all(&to).map_err(Error::local_file(&to));
                done.push((listed.entry, made.map(|()| Outcome::Directory)));
            }
            EntryKind::Symlink => {
                let refused = Error::Here("symbolic links are not fetched".to_owned());
                done.push((listed.entry, Err(refused)));
            }
            EntryKind::File if entry.size <= SMALL_BYTES_MAX => small.push(listed),
            EntryKind::File => large.push(listed.entry),
        }
    }
    let mut read = client.read_many(stream::iter(small));
    while let Some((entry, content)) = read.next().await {
        let outcome = match content {
            Ok(Some(bytes)) => named(&entry, &local(&entry), stream::iter([Ok(bytes)]), replace, &Bar::hidden()).await,
            Ok(None) => {
                large.push(entry);
                continue;
            }
            Err(error) => Err(error.into()),
        };
        done.push((entry, outcome));
    }
    let room = &Room::new();
    let alone = stream::iter(large).map(|entry| async move {
        let to = place(to, &name_below(&root.path, &entry.path));
        let fetched = async {
            let _room = room.take(entry.size.min(READER_BYTES_MAX)).await?;
            file(client, &entry, &to, as_of, replace, &Bar::hidden()).await
        };
        let fetched = fetched.await;
        (entry, fetched)
    });
    done.extend(alone.buffer_unordered(usize::from(arguments.jobs)).collect::<Vec<_>>().await);
    // In the order of their names, whichever was done first.
    done.sort_by(|(a, _), (b, _)| a.path.as_str().cmp(b.path.as_str()));
    done
}

/// Names of the store have no `/`, `.` or `..`, so nothing leads out of the target.
fn place(target: &LocalPath, below: &str) -> PathBuf {
    if below.is_empty() { target.to_owned() } else { target.join(below) }
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
