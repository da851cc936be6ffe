//! Everything that the servers, their disks, the network and the Directory hold at one moment.
//!
//! The network holds whatever was ever said. A message is taken when a step needs it, at any later time, as often as it likes,
//! or never: so it is lost, late, copied and overtaken without a step of its own. What is said once and stays true (an
//! acknowledgement, what became of a blob) is therefore a bit that is set and never cleared.

/// Servers, all of them members of the one group.
pub const SERVERS: usize = 3;
/// Writes of one file, a blob each; at most.
pub const BLOBS: usize = 2;
/// Claims of members to be taken into the in-sync set.
pub const CLAIMS: usize = 2;
/// Below this the in-sync set does not fall.
pub const MIN_IN_SYNC: u32 = 2;

/// Servers, or blobs, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(pub u8);

impl Set {
    pub fn of(items: impl IntoIterator<Item = usize>) -> Self {
        Self(items.into_iter().fold(0, |bits, item| bits | 1 << item))
    }

    pub fn has(self, item: usize) -> bool {
        self.0 & 1 << item != 0
    }

    pub fn members(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |item| self.has(*item))
    }

    pub fn with(self, item: usize) -> Self {
        Self(self.0 | 1 << item)
    }

    pub fn without(self, item: usize) -> Self {
        Self(self.0 & !(1 << item))
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn holds_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// The configuration that the Directory holds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Config {
    pub epoch: u8,
    pub primary: usize,
    pub in_sync: Set,
    /// Members out of sync whose stores take no writes: it counts none of them in.
    pub unwritable: Set,
}

/// A server's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    pub down: bool,
    /// The newest configuration it has heard of in which it leads; it may be long outdated.
    pub leads: Option<Lead>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lead {
    pub epoch: u8,
    pub in_sync: Set,
}

/// What the Directory knows of a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    #[default]
    Unknown,
    /// The newest version is made of it.
    Needed,
    /// Of a version that was superseded and is not kept; readers may still be at it.
    Garbage,
    /// The members are told to delete it.
    Deleting,
    /// Somebody asked about it and it had not been committed, nor will it be.
    Abandoned,
}

/// What the primary that began a write makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Nothing: it was not begun, its process ended, or it is known what became of it.
    #[default]
    None,
    Running,
    /// It has failed for good, and whoever has a copy was told to throw it away.
    GivenUp,
}

/// What the primary knows of its requests to commit a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// It made none.
    #[default]
    Unasked,
    /// One at least was not answered.
    Missing,
    /// Each was refused.
    Refused,
}

/// A blob and the write that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// The server that began the write, as primary.
    pub begun_by: Option<usize>,
    pub work: Work,
    /// Servers that have it in their page cache.
    pub written: Set,
    /// Servers that have it on stable storage.
    pub durable: Set,
    /// Servers that have said so.
    pub acknowledged: Set,
    /// The epochs at which the Directory was asked to commit it.
    pub asked_at: Set,
    pub answer: Answer,
    pub fate: Fate,
}

/// One attempt of a member to get into the in-sync set, at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    #[default]
    Unused,
    Open(Admission),
    /// Over, and nothing of it is left in the network.
    Spent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Admission {
    pub primary: usize,
    pub member: usize,
    /// The group's, when the primary admitted the member.
    pub epoch: u8,
    /// The primary's commits wait for the member.
    pub counts: bool,
    /// What the primary had and the member lacked, when the member listed it.
    pub lacked: Option<Set>,
    /// Some of that was committed already.
    pub lacked_committed: bool,
    /// The Directory has been asked to count the member in.
    pub asked: bool,
    /// It has said no, to a request that may come again.
    pub refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub config: Config,
    pub servers: [Server; SERVERS],
    pub blobs: [Blob; BLOBS],
    pub claims: [Claim; CLAIMS],
    pub crashes: u8,
}

impl Blob {
    pub fn is_running(&self) -> bool {
        self.work == Work::Running
    }

    /// A server has put its copy on stable storage, and says so.
    pub fn sync(&mut self, server: usize) {
        self.written = self.written.without(server);
        self.durable = self.durable.with(server);
        self.acknowledged = self.acknowledged.with(server);
    }
}

impl State {
    /// A group at its first epoch, led by server 0, with these in sync.
    pub fn at_first(in_sync: Set, claim_count: usize) -> Self {
        let config = Config { epoch: 1, primary: 0, in_sync, unwritable: Set::default() };
        let mut servers = [Server::default(); SERVERS];
        servers[0].leads = Some(Lead { epoch: 1, in_sync });
        let mut claims = [Claim::Spent; CLAIMS];
        claims[..claim_count].fill(Claim::Unused);
        Self { config, servers, blobs: Default::default(), claims, crashes: 0 }
    }

    pub fn is_up(&self, server: usize) -> bool {
        !self.servers[server].down
    }

    /// The configuration that a running server takes itself to lead.
    pub fn lead(&self, server: usize) -> Option<Lead> {
        self.servers[server].leads.filter(|_| self.is_up(server))
    }

    /// The claims that are not over.
    pub fn open_claims(&self) -> impl Iterator<Item = (usize, Admission)> + '_ {
        self.claims.iter().enumerate().filter_map(|(number, claim)| match claim {
            Claim::Open(admission) => Some((number, *admission)),
            Claim::Unused | Claim::Spent => None,
        })
    }
}
