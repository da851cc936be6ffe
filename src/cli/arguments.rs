//! The command line: what can be asked, in the words of the user.

use clap::{Parser, Subcommand};

use super::{
    administer, cluster, context::Context, copy, dev, diagnose, diff, doctor, edit, error::Result, fsck, healthcheck,
    list, local, locks, members, read, remove, replicas, scrub, settings::Flags, shell, stat, transfer, tree, versions,
    watch, write,
};

/// A distributed file store that cannot lose an update
#[derive(Debug, Parser)]
#[command(
    name = "dfs-cli",
    version,
    after_help = "Without a command, on a terminal: the shell. Exit codes: 0 ok, 1 other, 2 usage, 3 not found, \
                  4 conflict, 5 lock, 6 unavailable, 7 auth, 8 integrity, 9 partial, 10 unhealthy, 11 space."
)]
pub struct Arguments {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// One line of the shell: the same commands without the program's name.
#[derive(Debug, Parser)]
#[command(name = "dfs", no_binary_name = true, disable_help_subcommand = true, disable_version_flag = true)]
pub struct Line {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Dev(dev::DevArgs),
    /// List a directory
    #[command(visible_alias = "ls")]
    List(list::Arguments),
    /// Print files
    #[command(visible_alias = "cat")]
    Read(read::Arguments),
    /// Write a file under its lock, as a new version
    Write(write::WriteArguments),
    /// Add to the end of a file
    Append(write::AppendArguments),
    /// Change a file in $VISUAL or $EDITOR, under its lock
    Edit(edit::Arguments),
    /// Copy files of this machine into the store
    Put(transfer::PutArguments),
    /// Copy files of the store to this machine
    Get(transfer::GetArguments),
    /// Copy a file within the store; no data moves
    Cp(copy::CopyArguments),
    /// Move or rename a file or a directory
    Mv(copy::MoveArguments),
    /// Delete files, and directories with -r
    Rm(remove::Arguments),
    /// Make directories
    Mkdir(stat::MakeDirectoryArguments),
    /// All that is known about an entry
    Stat(stat::Arguments),
    /// Everything below a directory, as a tree
    Tree(tree::Arguments),
    /// CRC32C of files, as the cluster keeps it
    Checksum(stat::ChecksumArguments),
    /// The versions of a file that are kept
    Versions(versions::Arguments),
    /// Make an earlier version the newest
    Restore(versions::RestoreArguments),
    /// What changed between two versions
    Diff(diff::Arguments),
    /// Locks: run a command under one, take, release, look at, break
    #[command(subcommand)]
    Lock(locks::Command),
    /// How the cluster is
    Status,
    /// The servers of the cluster
    #[command(subcommand)]
    Servers(cluster::ServersCommand),
    /// Spread the groups evenly over the file servers now; without this it happens slowly, while the cluster is calm
    Rebalance(administer::RebalanceArguments),
    /// The replica groups, and who is in them
    Groups(cluster::GroupsArguments),
    /// The nodes of a consensus group, the Directory's or the Lock service's
    Members(members::Members),
    /// The copies of a file, read and checked on each server's own disk
    #[command(visible_alias = "explain")]
    Replicas(replicas::Arguments),
    /// Compare what the Directory says with what every file server has
    Fsck(fsck::FsckArguments),
    /// Have file servers fetch what fsck finds missing or damaged
    Repair(fsck::RepairArguments),
    /// Have file servers read everything on their disks now, and mend what is damaged
    Scrub(scrub::ScrubArguments),
    /// Follow the changes of a path and below
    Watch(watch::Arguments),
    /// Reach every server, and say how long it took
    Ping,
    /// Look at everything that can go wrong, also as seen from here, and say what to do
    Doctor,
    /// Wait until the cluster takes reads and writes
    Ready(diagnose::ReadyArguments),
    /// Ask one server's gRPC health, with the exit codes of grpc_health_probe
    Healthcheck(healthcheck::Arguments),
    /// The version of this program
    Version,
    /// The settings in force, and where each comes from
    Config,
    /// Type commands one after the other
    Shell,
    /// How to use it, on one screen
    Instructions,
    /// A completion script
    Completion(local::CompletionArguments),
}

impl Command {
    /// Not what would open another shell, or means nothing in one.
    pub fn is_for_the_shell(&self) -> bool {
        !matches!(self, Self::Dev(_) | Self::Shell | Self::Completion(_) | Self::Healthcheck(_))
    }

    /// The shell cancels commands, not itself; `dev` has servers to stop.
    pub fn sees_to_signals(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Shell)
    }

    pub async fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Dev(arguments) => local::dev(context, arguments).await,
            Self::List(arguments) => list::run(context, arguments).await,
            Self::Read(arguments) => read::run(context, arguments).await,
            Self::Write(arguments) => write::write(context, arguments).await,
            Self::Append(arguments) => write::append(context, arguments).await,
            Self::Edit(arguments) => edit::run(context, arguments).await,
            Self::Put(arguments) => transfer::put(context, arguments).await,
            Self::Get(arguments) => transfer::get(context, arguments).await,
            Self::Cp(arguments) => copy::copy(context, arguments).await,
            Self::Mv(arguments) => copy::rename(context, arguments).await,
            Self::Rm(arguments) => remove::run(context, arguments).await,
            Self::Mkdir(arguments) => stat::make_directories(context, arguments).await,
            Self::Stat(arguments) => stat::run(context, arguments).await,
            Self::Tree(arguments) => tree::run(context, arguments).await,
            Self::Checksum(arguments) => stat::checksums(context, arguments).await,
            Self::Versions(arguments) => versions::run(context, arguments).await,
            Self::Restore(arguments) => versions::restore(context, arguments).await,
            Self::Diff(arguments) => diff::run(context, arguments).await,
            Self::Lock(command) => locks::run(context, command).await,
            Self::Status => cluster::status(context).await,
            Self::Servers(command) => cluster::servers(context, command).await,
            Self::Rebalance(arguments) => administer::rebalance(context, arguments).await,
            Self::Groups(arguments) => cluster::groups(context, arguments).await,
            Self::Members(command) => members::run(context, command).await,
            Self::Replicas(arguments) => replicas::run(context, arguments).await,
            Self::Fsck(arguments) => fsck::fsck(context, arguments).await,
            Self::Repair(arguments) => fsck::repair(context, arguments).await,
            Self::Scrub(arguments) => scrub::scrub(context, arguments).await,
            Self::Watch(arguments) => watch::run(context, arguments).await,
            Self::Ping => diagnose::ping(context).await,
            Self::Doctor => doctor::run(context).await,
            Self::Ready(arguments) => diagnose::ready(context, arguments).await,
            Self::Healthcheck(arguments) => healthcheck::run(context, arguments).await,
            Self::Version => local::version(context),
            Self::Config => local::config(context),
            Self::Shell => shell::run(context).await,
            Self::Instructions => local::instructions(context),
            Self::Completion(arguments) => local::completion(context, arguments),
        }
    }
}
