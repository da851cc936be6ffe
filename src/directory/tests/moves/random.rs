//! Groups that move at random, with a book of who holds which blob.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::directory::{
    group::Fitness,
    lease::Stats,
    plan::{self, Pace, Patience, Situation, Step},
    records::server_kind_out,
};

const REPAIR_AFTER: u64 = 10 * MINUTE;

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    Write { file: usize },
    Delete { file: usize },
    MarkDown { server: usize },
    MarkUp { server: usize },
    MarkReadOnly { server: usize },
    MarkWritable { server: usize },
    Begin { group: u32, leaving: usize, arriving: usize },
    Drop { group: u32 },
    PassLead { group: u32 },
    Join { group: u32, member: usize },
    Evict { group: u32, member: usize },
    Drain { server: usize },
    Resume { server: usize },
    Remove { server: usize, lost: bool },
    Register { server: usize },
    Empty { server: usize },
    DeleteBlobs { server: usize },
    Plan,
    Collect,
    Pass { millis: u64 },
}

fn an_op() -> impl Strategy<Value = Op> {
    let one = || 0..NAMES.len();
    let group = || 0..4u32;
    prop_oneof![
        6 => (0..6usize).prop_map(|file| Op::Write { file }),
        2 => (0..6usize).prop_map(|file| Op::Delete { file }),
        2 => one().prop_map(|server| Op::MarkDown { server }),
        3 => one().prop_map(|server| Op::MarkUp { server }),
        1 => one().prop_map(|server| Op::MarkReadOnly { server }),
        2 => one().prop_map(|server| Op::MarkWritable { server }),
        5 => (group(), one(), one()).prop_map(|(group, leaving, arriving)| Op::Begin { group, leaving, arriving }),
        1 => group().prop_map(|group| Op::Drop { group }),
        2 => group().prop_map(|group| Op::PassLead { group }),
        12 => (group(), one()).prop_map(|(group, member)| Op::Join { group, member }),
        1 => (group(), one()).prop_map(|(group, member)| Op::Evict { group, member }),
        1 => one().prop_map(|server| Op::Drain { server }),
        1 => one().prop_map(|server| Op::Resume { server }),
        1 => (one(), any::<bool>()).prop_map(|(server, lost)| Op::Remove { server, lost }),
        2 => one().prop_map(|server| Op::Register { server }),
        3 => one().prop_map(|server| Op::Empty { server }),
        2 => one().prop_map(|server| Op::DeleteBlobs { server }),
        2 => Just(Op::Plan),
        2 => Just(Op::Collect),
        2 => prop_oneof![Just(SECOND), Just(REPAIR_AFTER), Just(30 * HOUR)].prop_map(|millis| Op::Pass { millis }),
    ]
}

/// A world with the book of who holds what.
struct Run {
    world: World,
    held: BTreeSet<(ServerId, BlobId)>,
    groups_of_blobs: BTreeMap<BlobId, GroupId>,
    /// The data folder of each server; it gets a new one when it was removed.
    stores: BTreeMap<usize, u128>,
}

impl Run {
    fn new() -> Self {
        let world = a_world_with(&["d", "e"]);
        let stores = (0..NAMES.len()).map(|number| (number, number as u128)).collect();
        Self { world, held: BTreeSet::new(), groups_of_blobs: BTreeMap::new(), stores }
    }

    fn write(&mut self, file: usize) {
        let at = format!("/f{file}");
        let version = self.world.look(&at).map_or(0, |found| found.entry.version.0);
        let commit = self.world.a_replace(&at, &[file as u8], if_version(version));
        let (group, blob) = (commit.group, commit.pieces[0].0);
        let in_sync = self.world.group(group.0).in_sync;
        if self.world.try_commit(commit).is_ok() {
            // As its primary sees to it before it asks for the commit.
            self.held.extend(in_sync.into_iter().map(|member| (member, blob)));
            self.groups_of_blobs.insert(blob, group);
        }
    }

    /// The member fetches all that the primary has, and is taken in.
    fn join(&mut self, group: u32, member: &ServerId) {
        let config = self.world.group(group);
        let Some(primary) = config.primary.clone() else { return };
        let command = Command::AddInSync {
            primary: primary.clone(),
            group: config.group,
            epoch: config.epoch,
            member: member.clone(),
        };
        if config.is_member(member) {
            let of_group = |blob: &BlobId| self.groups_of_blobs.get(blob) == Some(&config.group);
            let blobs: Vec<BlobId> = self
                .held
                .iter()
                .filter(|(holder, blob)| *holder == primary && of_group(blob))
                .map(|(_, blob)| *blob)
                .collect();
            self.held.extend(blobs.into_iter().map(|blob| (member.clone(), blob)));
        }
        self.world.apply(&command);
    }

    /// The server deletes what it was told to have left.
    fn empty(&mut self, server: &ServerId) {
        let groups = self.world.view().departures_of(server).unwrap();
        let left: BTreeSet<GroupId> = groups.iter().map(|(group, _)| *group).collect();
        let of_blobs = &self.groups_of_blobs;
        self.held.retain(|(holder, blob)| holder != server || of_blobs.get(blob).is_none_or(|at| !left.contains(at)));
        self.world.apply(&Command::ConfirmEmptied { server: server.clone(), groups });
    }

    fn delete(&mut self, server: &ServerId) {
        let blobs = self.world.view().blobs_to_delete(server, 3).unwrap();
        self.held.retain(|(holder, blob)| holder != server || !blobs.contains(blob));
        self.world.apply(&Command::ConfirmDeleted { server: server.clone(), blobs });
    }

    fn situation(&self) -> Situation {
        let patience = Patience { now: self.world.now, repair_after_ms: REPAIR_AFTER, led_ms: 0, waits: false };
        let stats = NAMES.map(|name| (server(name), Stats::default())).into();
        Situation::of(&self.world.view(), patience, &stats).unwrap()
    }

    fn plan(&mut self) {
        let situation = self.situation();
        let mut steps = plan::drops(&situation);
        steps.extend(plan::settlements(&situation));
        steps.extend(plan::repairs(&situation, Pace::Bounded).steps);
        steps.extend(plan::spread(&situation, Pace::Bounded).unwrap_or_default());
        for step in steps {
            self.world.expect(match step {
                Step::Move { group, epoch, leaving, arriving } => {
                    Command::MoveGroup { group, epoch, leaving, arriving }
                }
                Step::Drop { group, epoch } => Command::DropArriving { group, epoch },
                Step::PassLead { group, epoch } => Command::PassLead { group, epoch },
            });
        }
    }

    fn register(&mut self, number: usize) {
        let id = server(NAMES[number]);
        let store = self.stores[&number];
        if register(&mut self.world, NAMES[number], store) == Err(Rejected::ServerRemoved { server: id.clone() }) {
            // Somebody gives the machine an empty folder.
            self.stores.insert(number, store + 100);
            if register(&mut self.world, NAMES[number], store + 100).is_ok() {
                self.held.retain(|(holder, _)| *holder != id);
            }
        }
    }

    fn run(&mut self, op: &Op) {
        let id = |number: usize| server(NAMES[number]);
        let command = match op.clone() {
            Op::Write { file } => return self.write(file),
            Op::Join { group, member } => return self.join(group, &id(member)),
            Op::Empty { server } => return self.empty(&id(server)),
            Op::DeleteBlobs { server } => return self.delete(&id(server)),
            Op::Plan => return self.plan(),
            Op::Register { server } => return self.register(server),
            Op::Pass { millis } => return self.world.pass(millis),
            Op::Collect => return self.world.collect(),
            Op::Delete { file } => {
                return drop(self.world.try_delete(&format!("/f{file}"), true, Precondition::default()));
            }
            Op::MarkDown { server } => Command::MarkDown { server: id(server), incarnation: None },
            Op::MarkUp { server } => Command::MarkUp { server: id(server) },
            Op::MarkReadOnly { server } => Command::MarkReadOnly { server: id(server), reason: "full".to_owned() },
            Op::MarkWritable { server } => Command::MarkWritable { server: id(server) },
            Op::Begin { group, leaving, arriving } => {
                let epoch = self.world.group(group).epoch;
                let leaving = Some(id(leaving));
                Command::MoveGroup { group: GroupId(group), epoch, leaving, arriving: id(arriving) }
            }
            Op::Drop { group } => Command::DropArriving { group: GroupId(group), epoch: self.world.group(group).epoch },
            Op::PassLead { group } => Command::PassLead { group: GroupId(group), epoch: self.world.group(group).epoch },
            Op::Evict { group, member } => {
                let config = self.world.group(group);
                let Some(primary) = config.primary else { return };
                Command::EvictReplica { primary, suspect: id(member), groups: vec![(config.group, config.epoch)] }
            }
            Op::Drain { server } => Command::DrainServer { server: id(server) },
            Op::Resume { server } => Command::ResumeServer { server: id(server) },
            Op::Remove { server, lost } => Command::RemoveServer { server: id(server), lost },
        };
        self.world.apply(&command);
    }

    fn fitness(&self, member: &ServerId) -> Fitness {
        let record = self.world.view().server(ServerKind::FileServer, member).unwrap();
        record.map_or(Fitness::Dead, |record| record.fitness())
    }

    /// Why a set got smaller, or another member.
    fn check_sets(&self, before: &[Group], op: &Op) {
        for (group, before) in groups(&self.world).iter().zip(before) {
            let context = format!("{op:?} made {group:?} of {before:?}");
            let takes_out = matches!(
                op,
                Op::MarkDown { .. } | Op::MarkReadOnly { .. } | Op::Evict { .. } | Op::Remove { lost: true, .. }
            );
            let went: Vec<&ServerId> = before.in_sync.iter().filter(|member| !group.is_in_sync(member)).collect();
            let has_arrived = |arriving: &ServerId| before.is_in_sync(arriving) || group.is_in_sync(arriving);
            let move_ended = group.replacement.is_none()
                && before.replacement.as_ref().is_some_and(|replacement| has_arrived(&replacement.arriving));
            for member in went.iter().filter(|_| !takes_out) {
                let is_replaced = move_ended && (before.is_leaving(member) || self.fitness(member) == Fitness::Dead);
                // One that takes no writes may be spared when somebody joins, or when it is up again.
                let may_be_spared = matches!(op, Op::Join { .. } | Op::MarkUp { .. });
                let is_spared = may_be_spared && self.fitness(member) == Fitness::ReadOnly;
                assert!(is_replaced || is_spared, "{member}: {context}");
            }
            let spared = usize::from(matches!(op, Op::Join { .. } | Op::MarkUp { .. }));
            assert!(takes_out || went.len() <= usize::from(move_ended) + spared, "{context}");
        }
    }

    fn check(&self, before: &[Group], op: &Op) {
        for (group, before) in groups(&self.world).iter().zip(before) {
            let context = format!("{op:?} made {group:?} of {before:?}");
            assert!(group.in_sync.len() >= 2, "{context}");
            assert!(group.in_sync.iter().all(|member| group.is_member(member)), "{context}");
            assert!(group.primary.as_ref().is_none_or(|primary| group.is_in_sync(primary)), "{context}");
            assert!(group.members.len() <= 3 + usize::from(group.replacement.is_some()), "{context}");
            let distinct: BTreeSet<&ServerId> = group.members.iter().collect();
            assert_eq!(distinct.len(), group.members.len(), "{context}");
            if let Some(replacement) = &group.replacement {
                assert!(group.is_member(&replacement.leaving) && group.is_member(&replacement.arriving), "{context}");
                assert_ne!(replacement.leaving, replacement.arriving, "{context}");
            }
            let changed = (&group.members, &group.in_sync, &group.primary, &group.replacement)
                != (&before.members, &before.in_sync, &before.primary, &before.replacement);
            assert!(!changed || group.epoch > before.epoch, "{context}");
            for member in &group.members {
                assert!(
                    !departures(&self.world, member.as_str()).iter().any(|(left, _)| *left == group.group),
                    "{context}"
                );
            }
        }
        let transaction = self.world.database.begin_write().unwrap();
        let tables = Tables::open(&transaction).unwrap();
        for row in tables.blobs.table.iter().unwrap() {
            let (key, bytes) = row.unwrap();
            let blob = tables.blobs.decode(key.value(), bytes.value()).unwrap();
            let id = BlobId(Uuid::from_u128(key.value()));
            for member in self.world.group(blob.group.0).in_sync.iter().filter(|_| blob.references > 0) {
                assert!(self.held.contains(&(member.clone(), id)), "{member} lacks {id} after {op:?}");
            }
        }
    }

    /// Everybody comes back but the dead, does its part, and nothing is under way any more.
    fn settle(&mut self, dead: &BTreeSet<usize>) {
        for (number, name) in NAMES.iter().enumerate() {
            let id = server(name);
            if dead.contains(&number) {
                self.world.apply(&Command::ResumeServer { server: id.clone() });
                self.world.apply(&Command::MarkDown { server: id, incarnation: None });
                continue;
            }
            self.register(number);
            if !dead.is_empty() {
                self.world.apply(&Command::ResumeServer { server: id.clone() });
            }
            for command in [Command::MarkUp { server: id.clone() }, Command::MarkWritable { server: id.clone() }] {
                self.world.apply(&command);
            }
        }
        self.world.pass(REPAIR_AFTER);
        for _ in 0..200 {
            let before = groups(&self.world);
            self.plan();
            for (_, name) in NAMES.iter().enumerate().filter(|(number, _)| !dead.contains(number)) {
                if !departures(&self.world, name).is_empty() {
                    self.empty(&server(name));
                }
            }
            for group in 0..4 {
                let config = self.world.group(group);
                let dead: Vec<ServerId> = dead.iter().map(|number| server(NAMES[*number])).collect();
                let lagging =
                    config.members.iter().filter(|member| !config.is_in_sync(member) && !dead.contains(member));
                lagging.for_each(|member| self.join(group, member));
            }
            self.check(&before, &Op::Plan);
            if groups(&self.world) == before {
                break;
            }
        }
        let situation = self.situation();
        if !dead.is_empty() {
            return Self::check_healed(&situation);
        }
        assert!(situation.is_level(), "{situation:#?}");
        assert_eq!(plan::repairs(&situation, Pace::Everything), plan::Plan::default());
        let record = |member: &ServerId| {
            let key = (server_kind_out(ServerKind::FileServer), member.as_str());
            let transaction = self.world.database.begin_write().unwrap();
            Tables::open(&transaction).unwrap().servers.get(key).unwrap().unwrap()
        };
        for group in groups(&self.world) {
            assert_eq!(group.members.len(), 3, "{group:?}");
            assert!(group.members.iter().all(|member| !record(member).draining), "{group:?}");
        }
        self.world.collect();
        for name in NAMES {
            while !self.world.view().blobs_to_delete(&server(name), 1).unwrap().is_empty() {
                self.delete(&server(name));
            }
        }
        let transaction = self.world.database.begin_write().unwrap();
        let tables = Tables::open(&transaction).unwrap();
        assert_eq!(tables.deletions.iter().unwrap().count(), 0, "nothing is waited for in vain");
    }
}

impl Run {
    /// Every group of which somebody in sync lives is whole, if there are enough servers for that.
    fn check_healed(situation: &Situation) {
        let is_gone = |server: &ServerId| situation.servers[server].standing == plan::Standing::GivenUp;
        let fit = situation.servers.values().filter(|facts| facts.standing == plan::Standing::Fit).count();
        for group in situation.groups.iter().filter(|group| fit >= 3 && !group.in_sync.iter().all(is_gone)) {
            let is_whole = group.members.len() == 3 && group.in_sync == group.members && group.replacement.is_none();
            assert!(is_whole && !group.members.iter().any(is_gone), "{group:?} of {situation:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_member_in_sync_holds_every_blob_and_all_moves_end(
        ops in proptest::collection::vec(an_op(), 1..100),
        dead in proptest::collection::btree_set(0..NAMES.len(), 0..3),
    ) {
        let mut run = Run::new();
        for op in &ops {
            let before = groups(&run.world);
            run.run(op);
            run.check(&before, op);
            run.check_sets(&before, op);
        }
        run.settle(&dead);
    }
}
