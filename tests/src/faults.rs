//! The fault campaign: operations whose requests or disk fail, and tables that must not show it.
//!
//! Every operation is done over an object store that fails some of its requests in one of many ways, and by processes whose
//! local disk is full or broken at the nth effect. Afterwards the rows are those of before or of after, as the
//! operation said; an operation that fails says so with an error that tells what to do; the table can be written again, and a
//! vacuum leaves no file that the log does not name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use duckrun::{At, Error, Result};
use futures::StreamExt;
use object_store::memory::InMemory;

use crate::broken_disk::{Breakage, BrokenDisk};
use crate::work::{
    Broken, End, Ended, Features, Kind, Mix, Numbers, Operation, Place, Playground, Program, Root, Rows, Stand,
    compare, create, read, run, vacuumed,
};
use crate::{Fault, FaultyStore, Tally};

/// Kinds of errors that an operation may end with: none of them blames the input, or says that something is impossible.
const TYPED: [&str; 6] =
    ["Unavailable", "PermissionDenied", "Corrupt", "AlreadyExists", "ResourceExhausted", "CommitUnknown"];
/// Of so many faults one is met by the local disk.
const DISK_SHARE: u64 = 8;
/// Operations side by side: those that wait for answers sleep most of the time.
const SIDE_BY_SIDE: usize = 12;

/// A fault campaign.
#[derive(Debug, Clone)]
pub struct FaultCampaign {
    program: Program,
    seed: u64,
    faults: u64,
}

impl FaultCampaign {
    /// A campaign of one fault, with the program that children are processes of.
    #[must_use]
    pub fn new(program: Program, seed: u64) -> Self {
        Self { program, seed, faults: 1 }
    }

    /// How many faults are injected, at least.
    #[must_use]
    pub fn faults(mut self, faults: u64) -> Self {
        self.faults = faults;
        self
    }

    /// Runs it: faults of a store, in memory or in the playground's, and of the local disk where it can be made to fail.
    ///
    /// # Errors
    /// A machine on which it cannot run. Broken promises are in the tally.
    pub async fn run(&self, playground: &Playground) -> Result<Tally> {
        let disk = if playground.is_local() { BrokenDisk::compile() } else { Err("the store is remote".to_owned()) };
        let of_disk = match &disk {
            Ok(_) => self.faults / DISK_SHARE,
            Err(why) => {
                tracing::warn!("no faults of the local disk: {why}");
                0
            }
        };
        let of_disk_done = async {
            match &disk {
                Ok(disk) if of_disk > 0 => self.disk(playground, disk, of_disk).await,
                _ => Ok(Tally::default()),
            }
        };
        let (mut tally, of_store) = futures::try_join!(of_disk_done, self.store(playground, self.faults - of_disk))?;
        tally.absorb(of_store);
        Ok(tally)
    }

    /// Only faults of the local disk.
    ///
    /// # Errors
    /// A machine on which it cannot run.
    pub async fn disk(&self, playground: &Playground, disk: &BrokenDisk, faults: u64) -> Result<Tally> {
        const HOW: [Breakage; 4] = [
            Breakage::Full { lasting: false },
            Breakage::Full { lasting: true },
            Breakage::Failing { lasting: false },
            Breakage::Failing { lasting: true },
        ];
        let mut numbers = Numbers::of_part(self.seed, 1);
        let mut ways: Vec<(Kind, Breakage)> = Kind::ALL.into_iter().flat_map(|k| HOW.map(|how| (k, how))).collect();
        for i in (1..ways.len()).rev() {
            ways.swap(i, numbers.below(i as u64 + 1) as usize);
        }
        let mut at: BTreeMap<usize, u64> = BTreeMap::new();
        let (mut tally, mut turn, mut met_so_far) = (Tally::default(), 0, 0);
        for table in 0.. {
            if met_so_far >= faults {
                break;
            }
            let mut stand = Stand::new(playground, &format!("disk-{table}"), self.seed, numbers.next()).await?;
            let Some(folder) = stand.root.folder() else { break };
            for trial in 1..=100 {
                if met_so_far >= faults || stand.is_broken()? {
                    break;
                }
                let way = turn % ways.len();
                let (kind, how) = ways[way];
                turn += 1;
                let nth = at.entry(way).or_default();
                *nth += 1;
                let mut orders = stand.orders.clone();
                (orders.operations, orders.mix) = (1, Mix::Only(kind));
                let mut command = self.program.command(&orders)?;
                disk.breaks(command.as_std_mut(), &folder, *nth, how);
                let ended = stand.ended(&mut command, None).await?;
                let met = disk.met(&folder);
                let what = format!("{kind:?} with {how:?} at effect {nth} ({})", met.as_deref().unwrap_or("not met"));
                tracing::debug!(what, ?ended, "a child ended");
                if met.is_some() {
                    met_so_far += 1;
                    stand.tally.faults += 1;
                } else {
                    *nth = 0;
                }
                if ended != Ended::Well {
                    stand.violation(Broken::other(format!("{what}: the child {ended:?}")));
                }
                let replay = stand.settle(&what).await?;
                if let Some((operation, kind, message)) = replay.refused.last()
                    && operation.number == replay.last
                    && (met.is_none() || !TYPED.contains(&kind.as_str()))
                {
                    stand.violation(Broken::other(format!("{what}: {operation:?} was refused: {kind}: {message}")));
                }
                stand.append(&what).await?;
                if trial % 10 == 0 {
                    stand.vacuum(&what).await;
                }
            }
            stand.vacuum("at the end").await;
            stand.settle("at the end").await?;
            let part = stand.finish()?;
            let clean = part.is_clean();
            tally.absorb(part);
            tracing::info!(table, faults = tally.faults, clean, "faults of the disk");
            if !clean {
                break;
            }
        }
        Ok(tally)
    }

    /// Only faults of a store: in memory, or the playground's where that is remote.
    ///
    /// # Errors
    /// A machine on which it cannot run.
    pub async fn store(&self, playground: &Playground, faults: u64) -> Result<Tally> {
        let features = Features { partitioned: false, ..Features::of(self.seed) }.forgets(true);
        let memory = match playground.is_local() {
            true => Some(Arc::new(prepared(features).await?)),
            false => None,
        };
        let injected = Arc::new(AtomicU64::new(0));
        let mut counts = [0; Kind::ALL.len()];
        for (trial, count) in counts.iter_mut().enumerate() {
            let place = format!("requests-{trial}");
            let root = root(memory.as_deref(), features, || playground.place(&place).map(Some)).await?;
            *count = Trial { seed: self.seed, number: trial as u64, root, requests: None }.requests().await?;
        }
        let trials = (0..).take_while(|_| injected.load(Ordering::SeqCst) < faults).map(|trial| {
            let (seed, memory, injected) = (self.seed, memory.clone(), injected.clone());
            let place = memory.is_none().then(|| playground.place(&format!("faults-{trial}")));
            let requests = Some(counts[(trial % counts.len() as u64) as usize]);
            async move {
                let root = root(memory.as_deref(), features, || place.transpose()).await?;
                let trial = Trial { seed, number: trial, root, requests };
                let tally = trial.run().await?;
                let before = injected.fetch_add(tally.faults, Ordering::SeqCst);
                if before / 1000 != (before + tally.faults) / 1000 {
                    tracing::info!(faults = before + tally.faults, "faults of the store");
                }
                Ok::<_, Error>(tally)
            }
        });
        let spawned = trials.map(tokio::spawn);
        let mut done = futures::stream::iter(spawned).buffer_unordered(SIDE_BY_SIDE);
        let mut tally = Tally::default();
        while let Some(part) = done.next().await {
            tally.absorb(part.map_err(|e| Error::internal("a trial panicked").with_source(e))??);
            // What is broken stays broken: a few examples are enough.
            if tally.violations.len() > 20 {
                break;
            }
        }
        Ok(tally)
    }
}

const WRITER: i64 = 0;

/// The rows before each trial: of two appends.
fn rows_before() -> [Operation; 2] {
    let mut numbers = Numbers::new(0);
    let mut append = |number| Operation::choose(Mix::Only(Kind::Append), number, &[], &mut numbers);
    [append(1), append(2)]
}

async fn prepare(root: &Root, features: Features) -> Result<Rows> {
    let session = root.session().await?;
    create(&session, features).await?;
    let mut rows = Rows::new();
    for append in rows_before() {
        rows = append.apply(&rows);
        if run(&session, WRITER, &append).await != End::Committed {
            return Err(Error::internal("the table of a trial cannot be made"));
        }
    }
    Ok(rows)
}

async fn prepared(features: Features) -> Result<InMemory> {
    let store = Arc::new(InMemory::new());
    prepare(&Root::within(store.clone()), features).await?;
    Ok(store.fork())
}

/// A table of the same content for each trial: a copy of the one in memory, or made in a place of its own.
async fn root(
    memory: Option<&InMemory>,
    features: Features,
    place: impl FnOnce() -> Result<Option<Place>>,
) -> Result<Root> {
    match memory {
        Some(memory) => Ok(Root::within(Arc::new(memory.fork()))),
        None => {
            let root = place()?.ok_or_else(|| Error::internal("a trial without a place"))?.open()?;
            prepare(&root, features).await?;
            Ok(root)
        }
    }
}

/// One operation over a store that fails.
struct Trial {
    seed: u64,
    number: u64,
    root: Root,
    /// How many requests an operation of its kind makes.
    requests: Option<u64>,
}

impl Trial {
    fn kind(&self) -> Kind {
        Kind::ALL[(self.number % Kind::ALL.len() as u64) as usize]
    }

    /// Does the operation without faults, and counts its requests.
    async fn requests(&self) -> Result<u64> {
        let before = rows_before().iter().fold(Rows::new(), |rows, append| append.apply(&rows));
        let operation = Operation::choose(Mix::Only(self.kind()), 3, &before, &mut Numbers::new(self.seed));
        let store = FaultyStore::new(self.root.store.clone());
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        store.set_rule(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            None
        });
        let session = self.root.through(Arc::new(store)).session().await?;
        match run(&session, WRITER, &operation).await {
            End::Committed | End::Nothing => Ok(seen.load(Ordering::SeqCst)),
            end => Err(Error::internal(format!("{operation:?} without faults ended with {end:?}"))),
        }
    }

    async fn run(&self) -> Result<Tally> {
        let mut numbers = Numbers::of_part(self.seed, self.number.wrapping_add(2));
        let kind = self.kind();
        let before = rows_before().iter().fold(Rows::new(), |rows, append| append.apply(&rows));
        let operation = Operation::choose(Mix::Only(kind), 3, &before, &mut numbers);
        // One fault, or a few; at requests that operations of this kind make.
        let requests = self.requests.unwrap_or_default();
        let mut planned = BTreeMap::new();
        for _ in 0..1 + numbers.below(4) {
            planned.insert(numbers.below(requests), numbers.one_of(&Fault::SURVIVABLE));
        }
        let what = format!("trial {}: {kind:?} with {planned:?} of {requests} requests", self.number);
        let met = Arc::new(AtomicU64::new(0));
        let seen = AtomicU64::new(0);
        let store = FaultyStore::new(self.root.store.clone());
        let session = self.root.through(Arc::new(store.clone())).session().await?;
        let hits = met.clone();
        store.set_rule(move |_, _| {
            let fault = planned.get(&seen.fetch_add(1, Ordering::SeqCst)).copied();
            hits.fetch_add(u64::from(fault.is_some()), Ordering::SeqCst);
            fault
        });
        let end = run(&session, WRITER, &operation).await;
        store.set_rule(|_, _| None);
        let mut tally = Tally { operations: 1, faults: met.load(Ordering::SeqCst), ..Tally::default() };
        let plain = self.root.session().maintenance(false).await?;
        let found = match read(&plain, At::Latest).await {
            Ok((_, mut rows)) => rows.remove(&WRITER).unwrap_or_default(),
            Err(e) => {
                Broken::other(format!("{what}, which ended with {end:?}: the table cannot be read: {e}"))
                    .count(self.seed, &mut tally);
                return Ok(tally);
            }
        };
        let after = operation.apply(&before);
        match said(&end, &before, &after, &found) {
            Ok(applied) => tally.commits += u64::from(applied),
            Err(broken) => {
                let text = format!("{what}, which ended with {end:?}: {}", broken.text);
                Broken { text, ..broken }.count(self.seed, &mut tally);
            }
        }
        // Now and then the table is written again, and what the fault has left is swept.
        if self.number.is_multiple_of(7) {
            let next = Operation::choose(Mix::Only(Kind::Append), 4, &found, &mut numbers);
            let end = run(&plain, WRITER, &next).await;
            if end != End::Committed {
                Broken::other(format!("{what}: afterwards an append ended with {end:?}")).count(self.seed, &mut tally);
            }
            for wrong in vacuumed(&self.root).await? {
                Broken::other(format!("{what}: {wrong}")).count(self.seed, &mut tally);
            }
        }
        Ok(tally)
    }
}

/// Whether what an operation said is true; and whether it was applied.
fn said(end: &End, before: &Rows, after: &Rows, found: &Rows) -> Result<bool, Broken> {
    match end {
        End::Committed => compare(after, found).map(|()| true),
        End::Unknown if found == after => Ok(true),
        End::Unknown => compare(before, found).map(|()| false),
        End::Refused { kind, .. } if !TYPED.contains(&kind.as_str()) => {
            Err(Broken::other("an error that does not tell what to do".to_owned()))
        }
        End::Nothing if before != after => Err(Broken::other("there was something to do".to_owned())),
        // A conflict may be what a store says of a write that nobody else has made.
        End::Nothing | End::Conflict | End::Refused { .. } => compare(before, found).map(|()| false),
    }
}
