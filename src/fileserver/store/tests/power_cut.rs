//! A series of writes is recorded, and the power fails at every point of it: what was synced is on the disk, and of what was not, any
//! part in any order, with anything in between.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;
use crate::{
    fileserver::store::record::HEADER_LENGTH,
    types::{Inode, Version},
};

/// What reached the disk, and what the store's callers were told, in order.
#[derive(Clone, Debug)]
enum Event {
    /// A segment is there, with its header on stable storage.
    Made {
        file: u64,
        header: Vec<u8>,
    },
    Write {
        file: u64,
        position: usize,
        bytes: Vec<u8>,
    },
    Cut {
        file: u64,
        length: usize,
    },
    Sync {
        file: u64,
    },
    /// Its fate is open from here to the answer.
    Asked(u128),
    Acknowledged(u128, Fate),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sealed(usize),
    Deleted,
}

/// A disk that writes down what it is told to do.
#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Event>>,
    known: Mutex<Vec<u64>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    /// A file's name for the record. Its header is written beside the disk, before anything else of it.
    fn file(&self, file: &File) -> io::Result<u64> {
        let inode = file.metadata()?.ino();
        let mut known = self.known.lock().unwrap();
        if !known.contains(&inode) {
            known.push(inode);
            let mut header = vec![0; segment::RECORDS_START as usize];
            LocalDisk.read(file, 0, &mut header)?;
            self.note(Event::Made { file: inode, header });
        }
        Ok(inode)
    }
}

impl Disk for Recorder {
    fn write(&self, file: &File, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let event = Event::Write { file: self.file(file)?, position: position as usize, bytes };
        self.note(event);
        LocalDisk.write(file, position, parts)
    }

    fn read(&self, file: &File, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
        LocalDisk.read(file, position, bytes)
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        let event = Event::Cut { file: self.file(file)?, length: length as usize };
        self.note(event);
        LocalDisk.set_length(file, length)
    }

    fn allocate(&self, _: &File, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let event = Event::Sync { file: self.file(file)? };
        self.note(event);
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space { free: DISK_BYTES, total: DISK_BYTES })
    }
}

const SEGMENT: u64 = 8 << 10;
/// States of the disk that are looked at for each point in time.
const REMAINS_MAX: usize = 8;

/// Blobs are put a few at a time, published and deleted, until the log has several segments.
async fn record(random: &mut StdRng) -> Vec<Event> {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(Recorder::default());
    let (store, _, _) = Store::open_on(options(root.path(), SEGMENT), disk.clone()).unwrap();
    let mut alive = Vec::new();
    let mut next = 1;
    for _ in 0..12 {
        let puts = (0..random.random_range(1..4)).map(|_| {
            let chunks: Vec<usize> = (0..random.random_range(1..3)).map(|_| random.random_range(1..700)).collect();
            next += 1;
            alive.push(next);
            (next, chunks)
        });
        futures::future::join_all(puts.collect::<Vec<_>>().into_iter().map(|(blob, chunks)| {
            let (store, disk) = (&store, &disk);
            async move {
                put(store, id(blob), &chunks).await.unwrap();
                disk.note(Event::Acknowledged(blob, Fate::Sealed(chunks.iter().sum())));
                store.publish(id(blob), Inode(1), Version(1)).await.unwrap();
            }
        }))
        .await;
        if random.random_bool(0.4) {
            let blob = alive.swap_remove(random.random_range(0..alive.len()));
            disk.note(Event::Asked(blob));
            store.delete(vec![id(blob)]).await.unwrap();
            disk.note(Event::Acknowledged(blob, Fate::Deleted));
        }
    }
    let events = disk.events.lock().unwrap().clone();
    store.close().await;
    events
}

/// A file of which a part is on stable storage.
#[derive(Clone, Default)]
struct Torn {
    synced: Vec<u8>,
    /// Written since, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

fn apply(bytes: &mut Vec<u8>, position: usize, new: &[u8]) {
    bytes.resize(bytes.len().max(position + new.len()), 0);
    bytes[position..position + new.len()].copy_from_slice(new);
}

impl Torn {
    fn sync(&mut self) {
        for (position, new) in self.unsynced.drain(..) {
            apply(&mut self.synced, position, &new);
        }
    }

    /// As if all of it had reached the disk.
    fn whole(&self) -> Vec<u8> {
        let mut all = self.clone();
        all.sync();
        all.synced
    }

    /// What a power cut may leave of it.
    fn remains(&self, random: &mut StdRng) -> Vec<Vec<u8>> {
        let (from, whole) = (self.synced.len(), self.whole());
        if from == whole.len() {
            return vec![whole];
        }
        let mut remains = vec![self.synced.clone(), whole.clone()];
        // Ends of writes, of headers and places between.
        let writes = self.unsynced.iter().flat_map(|(position, new)| [*position, position + new.len()]);
        let borders = writes.flat_map(|border| [border.saturating_sub(1), border + 1, border + HEADER_LENGTH]);
        let between = (0..6).map(|_| random.random_range(from..whole.len())).collect::<Vec<_>>();
        for cut in borders.chain(between).filter(|cut| (from..whole.len()).contains(cut)) {
            remains.push(whole[..cut].to_vec());
            let mut zeros = whole[..cut].to_vec();
            zeros.resize(whole.len() + 512, 0);
            remains.push(zeros);
            let mut garbage = whole[..cut].to_vec();
            garbage.extend((cut..whole.len()).map(|_| random.random::<u8>()));
            remains.push(garbage);
            // What stood elsewhere in the log.
            let mut stale = whole[..cut].to_vec();
            stale.extend_from_slice(&whole[segment::RECORDS_START as usize..from.min(cut)]);
            remains.push(stale);
        }
        for block in [64, 512] {
            for _ in 0..4 {
                let mut some = whole.clone();
                let first = from / block * block;
                for start in (first..whole.len()).step_by(block).filter(|_| random.random_bool(0.5)) {
                    some[start.max(from)..(start + block).min(whole.len())].fill(0);
                }
                remains.push(some);
            }
        }
        remains.shuffle(random);
        remains.truncate(REMAINS_MAX);
        remains
    }
}

/// The disk and what was promised, after the first events.
fn replay(events: &[Event]) -> (BTreeMap<u64, Torn>, BTreeMap<u128, Option<Fate>>) {
    let (mut files, mut promised) = (BTreeMap::<u64, Torn>::new(), BTreeMap::new());
    for event in events.iter().cloned() {
        match event {
            Event::Made { file, header } => files.entry(file).or_default().synced = header,
            Event::Write { file, position, bytes } => files.entry(file).or_default().unsynced.push((position, bytes)),
            Event::Cut { file, length } => {
                let torn = files.entry(file).or_default();
                assert!(length >= torn.whole().len(), "nothing that was written is cut off while the store runs");
            }
            Event::Sync { file } => files.entry(file).or_default().sync(),
            Event::Asked(blob) => drop(promised.insert(blob, None)),
            Event::Acknowledged(blob, fate) => drop(promised.insert(blob, Some(fate))),
        }
    }
    (files, promised)
}

fn number_of(header: &[u8]) -> u32 {
    u32::from_le_bytes(header[12..16].try_into().unwrap())
}

fn expect_promised(found: &Replayed, promised: &BTreeMap<u128, Option<Fate>>, what: &str) {
    assert_eq!(found.recovered.damaged_regions, [], "{what}");
    assert_eq!(found.recovered.damaged_chunks, [], "{what}");
    for (&blob, fate) in promised {
        let sealed = found.index.sealed(id(blob));
        match fate {
            Some(Fate::Sealed(length)) => {
                assert_eq!(sealed.map(|sealed| sealed.length as usize), Some(*length), "{what}: blob {blob}");
            }
            Some(Fate::Deleted) => assert!(sealed.is_none(), "{what}: blob {blob} comes back"),
            None => {}
        }
    }
}

async fn expect_readable(root: &Path, promised: &BTreeMap<u128, Option<Fate>>) {
    let disk = Arc::new(TestDisk::default());
    let (store, _, _) = Store::open_on(options(root, SEGMENT), disk).unwrap();
    for (&blob, fate) in promised {
        if let Some(Fate::Sealed(length)) = fate {
            expect_content(&store, id(blob), *length).await;
        }
    }
    put(&store, id(u128::MAX), &[10]).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn wherever_the_power_fails_what_was_acknowledged_is_there_and_nothing_else_is_said() {
    for seed in [1, 2] {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let events = record(&mut random).await;
        let (mut cuts, mut torn) = (0, 0);
        for count in 1..=events.len() {
            if matches!(events[count - 1], Event::Acknowledged(..) | Event::Asked(_)) && count < events.len() {
                continue;
            }
            // What was acknowledged since is promised too: the disk is as it was.
            let more =
                events[count..].iter().take_while(|event| matches!(event, Event::Acknowledged(..) | Event::Asked(_)));
            let (files, promised) = replay(&events[..count + more.count()]);
            let unsynced: Vec<u64> =
                files.iter().filter(|(_, torn)| !torn.unsynced.is_empty()).map(|(file, _)| *file).collect();
            assert!(unsynced.len() <= 1, "a segment is begun when the one before is synced");
            let last = unsynced.first().copied().or_else(|| files.keys().next_back().copied());
            let Some(last) = last else { continue };
            for (number, remains) in files[&last].remains(&mut random).into_iter().enumerate() {
                let root = tempfile::tempdir().unwrap();
                fs::create_dir(dir(root.path())).unwrap();
                for (file, torn) in &files {
                    let bytes = if *file == last { &remains } else { &torn.synced };
                    fs::write(segment_path(root.path(), number_of(&torn.synced)), bytes).unwrap();
                }
                let found = recover(root.path());
                let what = format!("seed {seed}, after {count} events, remains {number}");
                expect_promised(&found, &promised, &what);
                let again = recover(root.path());
                assert_eq!(again.recovered.torn_bytes_cut, 0, "{what}: what was cut is gone");
                assert_eq!(everything(&again.index), everything(&found.index), "{what}: a second start finds the same");
                cuts += 1;
                torn += usize::from(found.recovered.torn_bytes_cut > 0);
                if cuts % 50 == 0 {
                    expect_readable(root.path(), &promised).await;
                }
            }
        }
        let (files, _) = replay(&events);
        println!("{cuts} states of the disk, {torn} of them torn, {} segments", files.len());
        assert!(torn > 100 && files.len() > 2, "the series says too little");
    }
}

#[tokio::test]
async fn damage_to_what_was_synced_is_never_passed_over_in_any_segment() {
    let seed = 4;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let events = record(&mut random).await;
    let (files, promised) = replay(&events);
    let last = files.values().map(|torn| number_of(&torn.synced)).max().unwrap();
    for torn in files.values().filter(|torn| number_of(&torn.synced) < last) {
        for at in (segment::RECORDS_START as usize..torn.synced.len()).step_by(211) {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(dir(root.path())).unwrap();
            for torn in files.values() {
                fs::write(segment_path(root.path(), number_of(&torn.synced)), torn.whole()).unwrap();
            }
            tamper(&segment_path(root.path(), number_of(&torn.synced)), |bytes| bytes[at] ^= 0x55);
            let (store, recovered, _) =
                Store::open_on(options(root.path(), SEGMENT), Arc::new(TestDisk::default())).unwrap();
            assert_eq!(recovered.torn_bytes_cut, 0, "damage at {at} is no tear");
            let reported = !recovered.damaged_regions.is_empty();
            for (&blob, fate) in &promised {
                let got = get(&store, id(blob)).await;
                match (fate, got) {
                    (Some(Fate::Sealed(length)), Ok(got)) => {
                        assert!(got == content(id(blob), *length), "damage at {at}")
                    }
                    (Some(Fate::Sealed(_)), Err(StoreError::NoSuchBlob(_))) => assert!(reported, "damage at {at}"),
                    // It is known to be damaged, and not served.
                    (Some(Fate::Sealed(_)), Err(_)) => {}
                    (Some(Fate::Deleted), Ok(_)) => assert!(reported, "damage at {at} brings blob {blob} back"),
                    (Some(Fate::Deleted) | None, _) => {}
                }
            }
            store.close().await;
        }
    }
}
