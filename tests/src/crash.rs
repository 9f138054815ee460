//! The crash campaign: processes that are killed in the middle of their operations, and tables that must not show it.
//!
//! A child does operations on a table of its own, written to a synced ledger before and after. It is killed
//! - at the nth effect on the local disk, for every n and every kind of operation: each write, sync, link, rename, removal and
//!   creation, and in the middle of writes ([`broken_disk`](crate::broken_disk));
//! - at the nth request of an object store that changes something, before it or after it;
//! - at random times.
//!
//! Afterwards the table holds what the ledger says, to the row: nothing acknowledged is missing, nothing is there twice, the operation
//! that nobody was told the end of is there whole or not at all. The next process writes on, and a vacuum
//! leaves no file that the log does not name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use duckrun::Result;

use crate::Tally;
use crate::broken_disk::{Breakage, BrokenDisk};
use crate::work::{Broken, Ended, Faults, Kind, Mix, Numbers, Place, Playground, Program, Stand};

/// After so many kills the table is vacuumed.
const VACUUM_EVERY: u64 = 8;
/// A table is left behind after so many kills, so that ledgers stay short.
const KILLS_PER_TABLE: u64 = 150;

/// How a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// At an effect on the local disk; or in the middle of it.
    Disk { kind: Kind, torn: bool },
    /// At a request of a store; or after it.
    Store { kind: Kind, after: bool },
    /// At any time.
    Time,
}

/// A crash campaign.
///
/// ```no_run
/// use duckrun_testkit::crash::Crashes;
/// use duckrun_testkit::work::{Playground, Program};
/// # async fn doc() -> duckrun::Result<()> {
/// let program = Program::new(std::env::current_exe().unwrap(), ["--child"]);
/// let tally = Crashes::new(program, 42).kills(100).run(&Playground::local()?).await?;
/// assert!(tally.is_clean(), "{tally:?}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Crashes {
    program: Program,
    seed: u64,
    kills: u64,
    lanes: usize,
}

impl Crashes {
    /// A campaign of one kill, with the program that children are processes of.
    #[must_use]
    pub fn new(program: Program, seed: u64) -> Self {
        let lanes = std::thread::available_parallelism().map_or(2, usize::from);
        Self { program, seed, kills: 1, lanes }
    }

    /// How many processes are killed.
    #[must_use]
    pub fn kills(mut self, kills: u64) -> Self {
        self.kills = kills;
        self
    }

    /// How many tables are worked on side by side; by default as many as there are processors.
    #[must_use]
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes.max(1);
        self
    }

    /// Runs it. It ends at the first broken promise of each table.
    ///
    /// # Errors
    /// A machine on which it cannot run. Broken promises are in the tally.
    pub async fn run(&self, playground: &Playground) -> Result<Tally> {
        let disk = match playground.is_local().then(BrokenDisk::compile) {
            Some(Err(why)) => {
                tracing::warn!("no kills at the effects on the disk: {why}");
                None
            }
            disk => disk.and_then(Result::ok).map(Arc::new),
        };
        let left = AtomicU64::new(self.kills);
        let lanes = (0..self.lanes).map(|lane| self.lane(playground, disk.clone(), lane as u64, &left));
        let mut tally = Tally::default();
        for part in futures::future::try_join_all(lanes).await? {
            tally.absorb(part);
        }
        Ok(tally)
    }

    async fn lane(
        &self,
        playground: &Playground,
        disk: Option<Arc<BrokenDisk>>,
        lane: u64,
        left: &AtomicU64,
    ) -> Result<Tally> {
        let mut numbers = Numbers::of_part(self.seed, lane);
        let ways = ways(disk.is_some(), &mut numbers);
        // Where the next kill of a way is; 0 once a child has done everything without reaching it.
        let mut at: BTreeMap<Way, u64> = BTreeMap::new();
        let (mut tally, mut turn) = (Tally::default(), 0);
        for table in 0.. {
            if left.load(Ordering::SeqCst) == 0 {
                break;
            }
            let mut stand = Stand::new(playground, &format!("crash-{lane}-{table}"), numbers.next()).await?;
            let mut kills = 0;
            while kills < KILLS_PER_TABLE && left.load(Ordering::SeqCst) > 0 && !stand.is_broken()? {
                let way = ways[turn % ways.len()];
                turn += 1;
                let nth = at.entry(way).or_default();
                *nth += 1;
                let what = format!("{way:?} at {nth}");
                let (ended, met) = self.one(&stand, disk.as_deref(), way, *nth, &mut numbers).await?;
                let what = met.map_or_else(|| what.clone(), |met| format!("{what} ({met})"));
                match ended {
                    Ended::Killed => {
                        kills += 1;
                        stand.tally.kills += 1;
                        let _ = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                    }
                    Ended::Well => *nth = 0,
                    Ended::Failed | Ended::Hung => {
                        stand.violation(Broken::other(format!("{what}: the child {ended:?}")));
                    }
                }
                tracing::debug!(way = what, ?ended, "a child ended");
                judge(&mut stand, &what).await?;
                if kills.is_multiple_of(VACUUM_EVERY) && ended == Ended::Killed {
                    stand.append(&what).await?;
                    stand.vacuum(&what).await;
                }
            }
            stand.vacuum("at the end").await;
            judge(&mut stand, "at the end").await?;
            let part = stand.finish()?;
            let clean = part.is_clean();
            tally.absorb(part);
            tracing::info!(lane, table, kills = tally.kills, commits = tally.commits, clean, "crashes");
            if !clean {
                break;
            }
        }
        Ok(tally)
    }

    /// Starts a child that is to die, and waits for its end.
    async fn one(
        &self,
        stand: &Stand,
        disk: Option<&BrokenDisk>,
        way: Way,
        nth: u64,
        numbers: &mut Numbers,
    ) -> Result<(Ended, Option<String>)> {
        let mut orders = stand.orders.clone();
        orders.operations = 1;
        match (way, disk, stand.root.folder()) {
            (Way::Disk { kind, torn }, Some(disk), Some(folder)) => {
                orders.mix = Mix::Only(kind);
                let mut command = self.program.command(&orders)?;
                disk.breaks(command.as_std_mut(), &folder, nth, if torn { Breakage::Tear } else { Breakage::Kill });
                let ended = stand.ended(&mut command, None).await?;
                Ok((ended, disk.met(&folder)))
            }
            (Way::Store { kind, after }, ..) => {
                orders.mix = Mix::Only(kind);
                orders.faults = Some(Faults::Death { nth, after });
                if let Place::Local(folder) = orders.place {
                    orders.place = Place::Folder(folder);
                }
                Ok((stand.ended(&mut self.program.command(&orders)?, None).await?, None))
            }
            _ => {
                orders.operations = u64::MAX;
                let after = Duration::from_millis(20 + numbers.below(500));
                Ok((stand.ended(&mut self.program.command(&orders)?, Some(after)).await?, None))
            }
        }
    }
}

/// A writer that is alone and meets no faults is never refused; whatever a crash has left behind.
async fn judge(stand: &mut Stand, what: &str) -> Result<()> {
    let replay = stand.settle(what).await?;
    if let Some((operation, kind, message)) = replay.refused.first() {
        stand.violation(Broken::other(format!("{what}: {operation:?} was refused: {kind}: {message}")));
    }
    if replay.conflicts > 0 {
        stand.violation(Broken::other(format!("{what}: a conflict without another writer")));
    }
    Ok(())
}

/// All ways, in an order of their own.
fn ways(disk: bool, numbers: &mut Numbers) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    for kind in Kind::ALL {
        for later in [false, true] {
            if disk {
                ways.push(Way::Disk { kind, torn: later });
            }
            ways.push(Way::Store { kind, after: later });
        }
        ways.push(Way::Time);
    }
    for i in (1..ways.len()).rev() {
        ways.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    ways
}
