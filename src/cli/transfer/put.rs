//! `put`: from this machine into the store.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path as LocalPath, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Outcome, Tally};
use crate::{
    cli::{
        context::Context,
        error::{Error, Result},
        paths,
        receipt::sentence,
        source::Source,
        write,
    },
    client::{AsOf, Client, CreateDirectory, Receipt, WriteOptions},
    status::{Failure, Reason},
    types::{Path, Precondition, Version},
};

/// A file up to this size is sent from memory.
const SMALL_BYTES_MAX: u64 = 256 << 10;
/// When others write the same file meanwhile, `-f` tries again with what they left.
const ATTEMPTS: usize = 5;

#[derive(Debug, clap::Args)]
pub struct PutArguments {
    /// Files of this machine, and directories with -r; then where to put them
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
}

/// Something to be put, and where.
struct Job {
    from: PathBuf,
    to: Path,
    is_directory: bool,
}

pub async fn put(context: &mut Context, arguments: PutArguments) -> Result<()> {
    let [sources @ .., target] = arguments.paths.as_slice() else {
        return Err(Error::Usage("put takes a source and a target".to_owned()));
    };
    let client = context.client().await?;
    let jobs = plan(context, &client, sources, target, arguments.recursive).await?;
    if let [Job { from, to, is_directory: false }] = jobs.as_slice() {
        let receipt = one_file(context, &client, from, to, arguments.force).await?;
        return write::done(context, "put", &receipt);
    }
    many(context, &client, jobs, &arguments).await
}

/// Where each source goes: below a directory that is there, else the target is the new name.
async fn plan(
    context: &Context,
    client: &Client,
    sources: &[String],
    target: &str,
    recursive: bool,
) -> Result<Vec<Job>> {
    let to = context.path(target)?;
    let into = match client.get(&to, AsOf::Now).await {
        Ok(entry) => entry.is_directory(),
        Err(error) if error.reason() == Reason::EntryNotFound => paths::names_a_directory(target),
        Err(error) => return Err(error.into()),
    };
    if sources.len() > 1 && !into {
        return Err(Error::Usage(format!("{to} is not a directory, but there are several sources")));
    }
    let mut jobs = Vec::new();
    for source in sources {
        let from = PathBuf::from(source);
        let metadata = fs::metadata(&from).map_err(Error::local_file(&from))?;
        if metadata.is_dir() && !recursive {
            return Err(Error::Usage(format!("{source} is a directory; -r puts it with all below it")));
        }
        let to = if into { paths::join(&to, &local_name(&from)?)? } else { to.clone() };
        jobs.push(Job { from, to, is_directory: metadata.is_dir() });
    }
    Ok(jobs)
}

/// The name that a file of this machine gets in the store.
fn local_name(path: &LocalPath) -> Result<String> {
    let whole = if path.file_name().is_none() {
        // `.` and `..` have a name only once it is known where they are.
        fs::canonicalize(path).map_err(Error::local_file(path))?
    } else {
        path.to_owned()
    };
    let name = whole.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| Error::Usage(format!("{}: a name must be UTF-8", path.display())))
}

async fn one_file(context: &Context, client: &Client, from: &LocalPath, to: &Path, force: bool) -> Result<Receipt> {
    let length = fs::metadata(from).map_err(Error::local_file(from))?.len();
    let bar = context.progress.bytes(to.as_str(), Some(length));
    let mut attempt = 1;
    loop {
        let if_version = if force { current(client, to).await? } else { Version(0) };
        let precondition = Precondition { fencing_token: context.lent_token(to), if_version: Some(if_version) };
        let options = WriteOptions {
            create_parents: true,
            create_mode: Some(mode(from)?),
            ..WriteOptions::replace(precondition)
        };
        let (file, length) = open(from)?;
        let source = match length {
            length if length <= SMALL_BYTES_MAX => Source::Bytes(read(file, from)?),
            length => Source::File { file, length },
        };
        match source.send(client, to, options, &bar).await {
            Err(Error::Failure(failure)) if failure.reason == Reason::VersionMismatch && !force => {
                return Err(Failure::new(Reason::EntryExists, format!("{to} exists already")).into());
            }
            Err(Error::Failure(failure)) if failure.reason == Reason::VersionMismatch && attempt < ATTEMPTS => {
                attempt += 1
            }
            sent => return sent,
        }
    }
}

/// 0 for a file that is not there.
async fn current(client: &Client, path: &Path) -> Result<Version> {
    match client.get(path, AsOf::Now).await {
        Ok(entry) => Ok(entry.version),
        Err(error) if error.reason() == Reason::EntryNotFound => Ok(Version(0)),
        Err(error) => Err(error.into()),
    }
}

fn mode(from: &LocalPath) -> Result<u32> {
    Ok(fs::metadata(from).map_err(Error::local_file(from))?.permissions().mode() & 0o777)
}

fn open(from: &LocalPath) -> Result<(fs::File, u64)> {
    let file = fs::File::open(from).map_err(Error::local_file(from))?;
    let metadata = file.metadata().map_err(Error::local_file(from))?;
    if !metadata.is_file() {
        return Err(Error::Here(format!("{} is neither a file nor a directory", from.display())));
    }
    Ok((file, metadata.len()))
}

fn read(mut file: fs::File, from: &LocalPath) -> Result<Bytes> {
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut content).map_err(Error::local_file(from))?;
    Ok(Bytes::from(content))
}

/// Directories as they are met, their files several at a time.
async fn many(context: &mut Context, client: &Client, jobs: Vec<Job>, arguments: &PutArguments) -> Result<()> {
    let bar = context.progress.bytes("put", None);
    let mut tally = Tally::default();
    let mut walk = Walk { pending: jobs };
    loop {
        // As many as are done at a time are known at a time: a tree of a million files needs no memory.
        let mut files = Vec::new();
        while files.len() < usize::from(arguments.jobs) * 8 {
            let Some(job) = walk.pending.pop() else { break };
            if !job.is_directory {
                files.push(job);
                continue;
            }
            let name = job.from.display().to_string();
            let made = directory(client, &mut walk, &job).await;
            tally.count(context, &bar, &name, made)?;
        }
        if files.is_empty() {
            break;
        }
        let shared = &*context;
        let mut sent = stream::iter(files)
            .map(|job| async move {
                let sent = one_file(shared, client, &job.from, &job.to, arguments.force).await;
                (job.from, sent)
            })
            .buffer_unordered(usize::from(arguments.jobs));
        let mut done = Vec::new();
        while let Some(sent) = sent.next().await {
            done.push(sent);
        }
        drop(sent);
        for (from, sent) in done {
            let outcome = sent.map(|receipt| {
                tracing::info!("{}", sentence("put", &receipt));
                Outcome::File { bytes: receipt.size }
            });
            tally.count(context, &bar, &from.display().to_string(), outcome)?;
        }
    }
    drop(bar);
    tally.finish(context, "put")
}

/// What is still to be looked at, the next one last.
struct Walk {
    pending: Vec<Job>,
}

/// Makes the directory and queues what is in it.
async fn directory(client: &Client, walk: &mut Walk, job: &Job) -> Result<Outcome> {
    let how = CreateDirectory { parents: true, mode: Some(mode(&job.from)?) };
    client.create_directory(&job.to, how).await?;
    let mut below = Vec::new();
    for entry in fs::read_dir(&job.from).map_err(Error::local_file(&job.from))? {
        let entry = entry.map_err(Error::local_file(&job.from))?;
        let from = entry.path();
        let to = paths::join(&job.to, &local_name(&from)?)?;
        let is_directory = entry.file_type().map_err(Error::local_file(&from))?.is_dir();
        below.push(Job { from, to, is_directory });
    }
    // In name order, so that two runs do the same.
    below.sort_by(|a, b| b.from.cmp(&a.from));
    walk.pending.extend(below);
    Ok(Outcome::Directory)
}
