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
//!
//! What a killed process has written stays, synced or not: what a machine loses when its power fails is not covered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
            disk => disk.and_then(Result::ok),
        };
        let sweep = Sweep::new(self.kills, ways(disk.is_some(), &mut Numbers::new(self.seed)));
        let lanes = (0..self.lanes).map(|lane| self.lane(playground, disk.as_ref(), lane as u64, &sweep));
        let mut tally = Tally::default();
        for part in futures::future::try_join_all(lanes).await? {
            tally.absorb(part);
        }
        sweep.log();
        Ok(tally)
    }

    async fn lane(
        &self,
        playground: &Playground,
        disk: Option<&BrokenDisk>,
        lane: u64,
        sweep: &Sweep,
    ) -> Result<Tally> {
        let mut numbers = Numbers::of_part(self.seed, lane);
        let mut tally = Tally::default();
        for table in 0.. {
            if sweep.is_done() {
                break;
            }
            let mut stand = Stand::new(playground, &format!("crash-{lane}-{table}"), self.seed, numbers.next()).await?;
            let mut kills = 0;
            while kills < KILLS_PER_TABLE && !sweep.is_done() && !stand.is_broken()? {
                let (way, nth) = sweep.next();
                let what = format!("{way:?} at {nth}");
                let (ended, met) = self.one(&stand, disk, way, nth, &mut numbers).await?;
                let what = met.as_ref().map_or_else(|| what.clone(), |met| format!("{what} ({met})"));
                match ended {
                    Ended::Killed => {
                        kills += 1;
                        stand.tally.kills += 1;
                        sweep.killed(way, met.as_deref());
                    }
                    Ended::Well => sweep.complete(way),
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

/// Which kill is next: all ways take turns, each goes on where its last kill was.
struct Sweep {
    left: AtomicU64,
    ways: Vec<Way>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    turn: usize,
    /// Where the last kill of a way was; 0 once a child has done everything without reaching the next.
    at: BTreeMap<Way, u64>,
    /// How often each way has got to its end.
    complete: BTreeMap<Way, u64>,
    /// The effects on the disk at which processes were killed.
    effects: BTreeMap<(Kind, String), u64>,
}

impl Sweep {
    fn new(kills: u64, ways: Vec<Way>) -> Self {
        Self { left: AtomicU64::new(kills), ways, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn next(&self) -> (Way, u64) {
        let mut state = self.state();
        let way = self.ways[state.turn % self.ways.len()];
        state.turn += 1;
        let at = state.at.entry(way).or_default();
        *at += 1;
        (way, *at)
    }

    fn killed(&self, way: Way, met: Option<&str>) {
        let _ = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if let (Way::Disk { kind, .. }, Some(met)) = (way, met) {
            *self.state().effects.entry((kind, effect(met))).or_default() += 1;
        }
    }

    fn complete(&self, way: Way) {
        let mut state = self.state();
        state.at.insert(way, 0);
        *state.complete.entry(way).or_default() += 1;
    }

    fn log(&self) {
        let state = self.state();
        let seams = self.ways.iter().filter(|way| **way != Way::Time).collect::<BTreeSet<_>>();
        tracing::info!(
            "processes were killed at {} kinds of effects on the disk ({} with the kind of operation); {} of {} sweeps over \
             effects and requests have reached their end",
            state.effects.keys().map(|(_, effect)| effect).collect::<BTreeSet<_>>().len(),
            state.effects.len(),
            seams.iter().filter(|way| state.complete.contains_key(way)).count(),
            seams.len()
        );
        for ((kind, effect), kills) in &state.effects {
            tracing::debug!(?kind, effect, kills, "killed");
        }
    }
}

/// An effect without the names that are different each time: `fsync data file`.
fn effect(met: &str) -> String {
    let (call, path) = met.split_once(" /").unwrap_or((met, ""));
    let name = path.rsplit('/').next().unwrap_or_default();
    let in_log = path.contains("_delta_log/");
    let staged = if name.contains('#') { "unfinished " } else { "" };
    let what = match name {
        "_delta_log" => "log folder",
        _ if name.starts_with('.') && name.ends_with(".tmp") => "unfinished commit",
        _ if name.contains(".checkpoint.") => "checkpoint",
        _ if name.starts_with("_last_checkpoint") => "_last_checkpoint",
        _ if in_log && name.contains(".json") => "commit",
        _ if name.contains(".parquet") => "data file",
        _ if in_log => "file of the log",
        _ => "folder",
    };
    format!("{call} {staged}{what}")
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
