//! What campaigns with child processes share: where their tables are, the program that is started, and one table with one writer.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use duckrun::Result;
use tokio::process::Command;

use super::child::Child;
use super::judge::{self, Broken};
use super::ledger::{End, Entry, Ledger, Replay};
use super::operation::{Kind, Mix, Operation};
use super::place::{Place, Root};
use super::{Features, Numbers, create, machine, run, vacuumed};
use crate::{Emulated, Emulator, Tally};

/// A child that takes longer hangs.
const HANGS: Duration = Duration::from_secs(120);

/// How child processes are started: a program that hands its last argument to [`child`](super::child()).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    /// A program, with the arguments before the orders.
    pub fn new<S: Into<String>>(path: impl Into<PathBuf>, arguments: impl IntoIterator<Item = S>) -> Self {
        Self { path: path.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// A child with its orders. It dies with the handle that is made of it.
    ///
    /// # Errors
    /// Orders that cannot be written down: a path that is no text.
    pub fn command(&self, orders: &Child) -> Result<Command> {
        let orders = serde_json::to_string(orders).map_err(|e| duckrun::Error::invalid(e.to_string()))?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(orders).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(command)
    }
}

/// Where the tables of a campaign are made; everything is gone when this is dropped.
#[derive(Debug)]
pub struct Playground {
    folder: tempfile::TempDir,
    emulator: Option<Emulator>,
}

impl Playground {
    /// On the local disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn local() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().map_err(machine("make a folder"))?, emulator: None })
    }

    /// In an emulated store, installed below `tools`. Blocks.
    ///
    /// # Errors
    /// Why it cannot be installed or started.
    pub fn emulated(emulated: Emulated, tools: &Path) -> Result<Self, String> {
        let emulator = Emulator::start(emulated, tools)?;
        Ok(Self { emulator: Some(emulator), ..Self::local().map_err(|e| e.to_string())? })
    }

    /// Whether the tables are on the local disk.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.emulator.is_none()
    }

    /// A place of its own.
    ///
    /// # Errors
    /// The file system's.
    pub fn place(&self, name: &str) -> Result<Place> {
        let Some(emulator) = &self.emulator else {
            let folder = self.folder.path().canonicalize().map_err(machine("open the folder"))?.join(name);
            std::fs::create_dir_all(&folder).map_err(machine("make a folder"))?;
            return Ok(Place::Local(folder));
        };
        let options = emulator.options("none");
        let options = options.expose().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Ok(Place::Url { url: emulator.url(name), options })
    }

    /// The path of a file beside the tables: a ledger, a sign to stop.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It did what it was told.
    Well,
    /// It was killed, or aborted.
    Killed,
    /// With an error, which it has printed.
    Failed,
    /// Not at all within two minutes.
    Hung,
}

/// A table with one writer, whose processes come and go.
#[derive(Debug)]
pub struct Stand {
    /// Where the table is.
    pub place: Place,
    /// The same, opened.
    pub root: Root,
    /// The orders of its writer.
    pub orders: Child,
    /// What was counted so far, beside what the ledger says.
    pub tally: Tally,
    ledger: Ledger,
    /// The campaign's.
    seed: u64,
}

impl Stand {
    /// Makes the table of a campaign with a seed; the choices of its writer have a seed of their own.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(playground: &Playground, name: &str, campaign: u64, seed: u64) -> Result<Self> {
        let place = playground.place(name)?;
        let root = place.open()?;
        let path = playground.file(&format!("{name}.ledger"));
        create(&root.session().await?, Features::of(seed).forgets(true)).await?;
        let ledger = Ledger::open(&path)?;
        let orders = Child::new(place.clone(), path, seed);
        Ok(Self { place, root, orders, tally: Tally::default(), ledger, seed: campaign })
    }

    /// Starts a child and waits for its end; kills it after a while, if one is given.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub async fn ended(&self, command: &mut Command, kill_after: Option<Duration>) -> Result<Ended> {
        let mut child = command.spawn().map_err(machine("start a child"))?;
        let waited = tokio::time::timeout(kill_after.unwrap_or(HANGS), child.wait()).await;
        let status = match waited {
            Ok(status) => status.map_err(machine("wait for a child"))?,
            Err(_) => {
                child.kill().await.map_err(machine("kill a child"))?;
                return Ok(if kill_after.is_some() { Ended::Killed } else { Ended::Hung });
            }
        };
        Ok(match status.code() {
            Some(0) => Ended::Well,
            Some(_) => Ended::Failed,
            None => Ended::Killed,
        })
    }

    /// Reads the table, against the ledger. No child is running.
    ///
    /// # Errors
    /// The ledger's. A table that cannot be read is a broken promise.
    pub async fn settle(&mut self, what: &str) -> Result<Replay> {
        let session = self.root.session().maintenance(false).await?;
        match judge::settle(&session, self.orders.writer, &mut self.ledger).await {
            Ok(replay) => Ok(replay),
            Err(e) => {
                self.violation(Broken::other(format!("{what}: the table cannot be read: {e}")));
                self.ledger.replay()
            }
        }
    }

    /// Appends in this process, which must succeed.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn append(&mut self, what: &str) -> Result<()> {
        let session = self.root.session().maintenance(false).await?;
        let replay = self.ledger.replay()?;
        let number = replay.last + 1;
        let mut numbers = Numbers::of_part(self.orders.seed, number as u64);
        let operation = Operation::choose(Mix::Only(Kind::Append), number, &replay.rows, &mut numbers);
        self.ledger.write(&Entry::Intent(operation.clone()))?;
        let end = run(&session, self.orders.writer, &operation).await;
        if end != End::Committed {
            self.violation(Broken::other(format!("{what}: afterwards an append ended with {end:?}")));
        }
        self.ledger.write(&Entry::End { number, end, faults: 0 })
    }

    /// Vacuums without a retention: nothing is left that the log does not name. No child is running.
    pub async fn vacuum(&mut self, what: &str) {
        match vacuumed(&self.root).await {
            Ok(wrong) => wrong.into_iter().for_each(|w| self.violation(Broken::other(format!("{what}: {w}")))),
            Err(e) => self.violation(Broken::other(format!("{what}: the vacuum failed: {e}"))),
        }
    }

    /// Counts a broken promise.
    pub fn violation(&mut self, broken: Broken) {
        broken.count(self.seed, &mut self.tally);
    }

    /// Whether a promise was broken so far, here or in the ledger.
    ///
    /// # Errors
    /// The ledger's.
    pub fn is_broken(&self) -> Result<bool> {
        Ok(!self.tally.is_clean() || !self.ledger.replay()?.violations.is_empty())
    }

    /// What was counted, with what the ledger says.
    ///
    /// # Errors
    /// The ledger's.
    pub fn finish(mut self) -> Result<Tally> {
        let replay = self.ledger.replay()?;
        replay.count(self.seed, &mut self.tally);
        Ok(self.tally)
    }
}

impl Replay {
    /// Adds what the ledger says to a tally.
    pub fn count(&self, seed: u64, tally: &mut Tally) {
        tally.operations += self.operations + self.reads;
        tally.commits += self.commits;
        tally.conflicts += self.conflicts;
        tally.faults += self.faults;
        self.violations.iter().for_each(|broken| broken.count(seed, tally));
    }
}
