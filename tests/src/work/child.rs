//! A child process of a campaign: it works until it is told to stop, is done, or dies.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use duckrun::{Error, Result, Session};
use serde::{Deserialize, Serialize};

use super::ledger::{End, Entry, Ledger};
use super::operation::{Mix, Operation};
use super::place::{Place, Root};
use super::{Numbers, foreign, judge, reader, run};
use crate::{Fault, FaultyStore, Operation as Request};

/// What a child process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Operations, one after another.
    Writer,
    /// Appends with plain delta-rs.
    Foreign,
    /// Reads, and compares with the ledgers of these writers.
    Reader {
        /// Writers and their ledgers.
        of: Vec<(i64, PathBuf)>,
    },
}

/// What goes wrong with the requests of a child; requests then go through an object store, also to a local folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Faults {
    /// One request in so many meets a fault.
    OneIn(u64),
    /// The process aborts at a request that changes something, counted from 1: just before it, or when it has been carried out.
    Death {
        /// Which.
        nth: u64,
        /// When it has been carried out.
        after: bool,
    },
}

/// The orders of a child process, as JSON on its command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// What it does.
    pub role: Role,
    /// Where the table is.
    pub place: Place,
    /// Its ledger.
    pub ledger: PathBuf,
    /// The number of the writer.
    pub writer: i64,
    /// The seed of its choices.
    pub seed: u64,
    /// What it chooses from.
    pub mix: Mix,
    /// After so many operations it ends.
    pub operations: u64,
    /// It ends when this file is there.
    pub stop: Option<PathBuf>,
    /// What goes wrong.
    pub faults: Option<Faults>,
    /// A pause after each operation, in milliseconds.
    pub pause: u64,
}

impl Child {
    /// A writer that is alone, without faults.
    #[must_use]
    pub fn new(place: Place, ledger: PathBuf, seed: u64) -> Self {
        Self {
            role: Role::Writer,
            place,
            ledger,
            writer: 0,
            seed,
            mix: Mix::Alone,
            operations: u64::MAX,
            stop: None,
            faults: None,
            pause: 0,
        }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.exists())
    }
}

/// Carries out the orders of a child process. Broken promises are in its ledger.
///
/// # Errors
/// Orders that cannot be read; a machine on which the campaign cannot run; a table that cannot be read.
pub async fn child(orders: &str) -> Result<()> {
    let orders: Child =
        serde_json::from_str(orders).map_err(|e| Error::invalid(format!("these are no orders: {e}")))?;
    let root = orders.place.open()?;
    let ledger = Ledger::open(&orders.ledger)?;
    match &orders.role {
        Role::Writer => write(&orders, &root, ledger).await,
        Role::Foreign => foreign::append(&orders, &root, ledger).await,
        Role::Reader { of } => reader::read(&orders, of, &root, ledger).await,
    }
}

async fn write(orders: &Child, root: &Root, mut ledger: Ledger) -> Result<()> {
    let met = Arc::new(AtomicU64::new(0));
    // Settling reads the table as it is.
    let plain = root.session().maintenance(false).await?;
    let session = match orders.faults {
        None => root.session().await?,
        Some(faults) => root.through(Arc::new(faulty(root, faults, orders, met.clone()))).session().await?,
    };
    for _ in 0..orders.operations {
        if orders.stopped() || !step(orders, &plain, &session, &mut ledger, &met).await? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(orders.pause)).await;
    }
    Ok(())
}

/// One operation; `false` where a promise was seen broken.
async fn step(
    orders: &Child,
    plain: &Session,
    session: &Session,
    ledger: &mut Ledger,
    met: &AtomicU64,
) -> Result<bool> {
    let mut replay = ledger.replay()?;
    if replay.pending.is_some() {
        replay = judge::settle(plain, orders.writer, ledger).await?;
    }
    if !replay.violations.is_empty() {
        return Ok(false);
    }
    let number = replay.last + 1;
    let mut numbers = Numbers::of_part(orders.seed, number as u64);
    let operation = Operation::choose(orders.mix, number, &replay.rows, &mut numbers);
    ledger.write(&Entry::Intent(operation.clone()))?;
    let before = met.load(Ordering::SeqCst);
    let end = run(session, orders.writer, &operation).await;
    let faults = met.load(Ordering::SeqCst) - before;
    ledger.write(&Entry::End { number, end, faults })?;
    Ok(true)
}

/// A store in which things go wrong.
fn faulty(root: &Root, faults: Faults, orders: &Child, met: Arc<AtomicU64>) -> FaultyStore {
    const PASSING: [Fault; 7] = [
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Throttled,
        Fault::ServerError,
        Fault::ConflictAfter,
        Fault::BrokenBody,
        Fault::Delay(Duration::from_millis(30)),
    ];
    let store = FaultyStore::new(root.store.clone());
    // The process may be one of many with the same seed: where it is killed and started again it shall go on differently.
    let mut numbers = Numbers::of_part(orders.seed, u64::from(std::process::id()));
    let mut effects = 0;
    store.set_rule(move |request, _| match faults {
        Faults::OneIn(many) => {
            let fault = (numbers.below(many) == 0).then(|| numbers.one_of(&PASSING));
            met.fetch_add(u64::from(fault.is_some()), Ordering::SeqCst);
            fault
        }
        Faults::Death { nth, after } => {
            effects += u64::from(!matches!(request, Request::Get | Request::List));
            let here = effects == nth && !matches!(request, Request::Get | Request::List);
            here.then_some(if after { Fault::DeathAfter } else { Fault::Death })
        }
    });
    store
}

impl End {
    /// An operation of a writer that is not ours failed: whether it is in the table must be found out.
    pub(super) fn of_others<T, E>(done: Result<T, E>) -> Self {
        if done.is_ok() { Self::Committed } else { Self::Unknown }
    }
}
