//! The chaos campaign: many processes on one table, some of which are killed again and again, some of whose requests fail.
//!
//! Eight writers change rows of their own by every kind of operation, a plain delta-rs appends beside them, another process compacts, and
//! readers compare what they see with the ledgers all the time. The invariants: lost = phantom = torn = duplicate = 0.

use std::path::Path;
use std::time::{Duration, Instant};

use duckrun::{At, Result};
use tokio::process;

use crate::Tally;
use crate::work::{
    Broken, Child, Faults, Features, Kind, Ledger, Mix, Numbers, Place, Playground, Program, Role, create, machine,
    read, settle, vacuumed,
};

/// Numbers of the writers that are none of ours.
const FOREIGN: i64 = 100;
const COMPACTOR: i64 = 200;

/// A chaos campaign.
#[derive(Debug, Clone)]
pub struct Chaos {
    program: Program,
    seed: u64,
    time: Duration,
    writers: i64,
    readers: u64,
}

/// A process that is started again whenever it was killed.
struct Actor {
    orders: Child,
    child: Option<process::Child>,
    /// When it is killed next; `None` where it is left alone.
    doomed: Option<Instant>,
}

impl Chaos {
    /// A campaign of eight writers and two readers, with the program that children are processes of.
    #[must_use]
    pub fn new(program: Program, seed: u64) -> Self {
        Self { program, seed, time: Duration::from_secs(10), writers: 8, readers: 2 }
    }

    /// How long it lasts, before it is judged.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// How many writers and readers there are.
    #[must_use]
    pub fn actors(mut self, writers: u32, readers: u32) -> Self {
        (self.writers, self.readers) = (i64::from(writers), u64::from(readers));
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// A machine on which it cannot run. Broken promises are in the tally.
    pub async fn run(&self, playground: &Playground) -> Result<Tally> {
        let name = format!("chaos-{}", self.seed);
        let place = playground.place(&name)?;
        let root = place.open()?;
        create(&root.session().await?, Features::of(self.seed)).await?;
        let stop = playground.file(&format!("{name}.stop"));
        let mut tally = Tally::default();
        let mut numbers = Numbers::new(self.seed);
        let mut actors: Vec<Actor> = self
            .orders(playground, &name, &place, &stop)
            .into_iter()
            .map(|orders| Actor { orders, child: None, doomed: None })
            .collect();

        let begun = Instant::now();
        while begun.elapsed() < self.time && tally.is_clean() {
            for actor in &mut actors {
                self.tend(actor, &mut numbers, &mut tally).await?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::write(&stop, "").map_err(machine("write a file"))?;
        for actor in &mut actors {
            self.end(actor, &mut tally).await?;
        }

        // Everything is quiet: the table against every ledger.
        let session = root.session().maintenance(false).await?;
        for actor in &actors {
            let mut ledger = Ledger::open(&actor.orders.ledger)?;
            let replay = match actor.orders.role {
                Role::Reader { .. } => ledger.replay()?,
                Role::Writer | Role::Foreign => settle(&session, actor.orders.writer, &mut ledger).await?,
            };
            tracing::debug!(
                writer = actor.orders.writer,
                operations = replay.operations,
                commits = replay.commits,
                conflicts = replay.conflicts,
                faults = replay.faults,
                reads = replay.reads,
                "a ledger"
            );
            replay.count(self.seed, &mut tally);
            for (operation, kind, message) in &replay.refused {
                // Only requests that fail may refuse what a writer does.
                let expected = actor.orders.faults.is_some() || matches!(place, Place::Url { .. });
                if !expected && kind != "Unavailable" {
                    let text = format!("writer {}: {operation:?}: {kind}: {message}", actor.orders.writer);
                    Broken::other(text).count(self.seed, &mut tally);
                }
            }
        }
        let known: Vec<i64> = actors.iter().map(|a| a.orders.writer).collect();
        for (writer, rows) in read(&session, At::Latest).await?.1 {
            if !known.contains(&writer) {
                let text = format!("there are rows of nobody: {writer}, {rows:?}");
                Broken { phantom: rows.len() as u64, text, ..Broken::default() }.count(self.seed, &mut tally);
            }
        }
        for wrong in vacuumed(&root).await? {
            Broken::other(wrong).count(self.seed, &mut tally);
        }
        Ok(tally)
    }

    /// Everybody's orders.
    fn orders(&self, playground: &Playground, name: &str, place: &Place, stop: &Path) -> Vec<Child> {
        let one = |writer: i64, mix: Mix| Child {
            writer,
            mix,
            stop: Some(stop.to_owned()),
            ..Child::new(
                place.clone(),
                playground.file(&format!("{name}.{writer}.ledger")),
                Numbers::of_part(self.seed, writer as u64).next(),
            )
        };
        let mut all = Vec::new();
        for writer in 0..self.writers {
            let mut orders = one(writer, Mix::Shared);
            // Two of four are killed, one of four has requests that fail, of either half.
            orders.faults = (writer % 4 >= 2).then_some(Faults::OneIn(40));
            if let (Some(_), Place::Local(folder)) = (orders.faults, place) {
                orders.place = Place::Folder(folder.clone());
            }
            all.push(orders);
        }
        all.push(Child { role: Role::Foreign, pause: 150, ..one(FOREIGN, Mix::Only(Kind::Append)) });
        all.push(Child { pause: 300, ..one(COMPACTOR, Mix::Only(Kind::Compact)) });
        let of: Vec<_> = all.iter().map(|orders| (orders.writer, orders.ledger.clone())).collect();
        for reader in 0..self.readers {
            let writer = 1000 + reader as i64;
            all.push(Child { role: Role::Reader { of: of.clone() }, pause: 50, ..one(writer, Mix::Shared) });
        }
        all
    }

    /// Starts what does not run, kills what is due.
    async fn tend(&self, actor: &mut Actor, numbers: &mut Numbers, tally: &mut Tally) -> Result<()> {
        let killed = matches!(actor.orders.role, Role::Writer) && actor.orders.writer % 2 == 1;
        let Some(child) = &mut actor.child else {
            actor.child = Some(self.program.command(&actor.orders)?.spawn().map_err(machine("start a child"))?);
            actor.doomed = killed.then(|| Instant::now() + Duration::from_millis(200 + numbers.below(3000)));
            return Ok(());
        };
        if let Some(status) = child.try_wait().map_err(machine("wait for a child"))? {
            actor.child = None;
            // A writer ends by itself only where it saw a promise broken, which its ledger says.
            let text = format!("the process of writer {} ended with {status}", actor.orders.writer);
            Broken::other(text).count(self.seed, tally);
        } else if actor.doomed.is_some_and(|at| at <= Instant::now()) {
            child.kill().await.map_err(machine("kill a child"))?;
            tally.kills += 1;
            actor.child = None;
            // A request of the dead may still be on its way in a network.
            if matches!(actor.orders.place, Place::Url { .. }) {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        Ok(())
    }

    async fn end(&self, actor: &mut Actor, tally: &mut Tally) -> Result<()> {
        let Some(mut child) = actor.child.take() else { return Ok(()) };
        match tokio::time::timeout(Duration::from_secs(120), child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => {}
            Ok(status) => {
                let text = format!("the process of writer {} ended with {status:?}", actor.orders.writer);
                Broken::other(text).count(self.seed, tally);
            }
            Err(_) => {
                child.kill().await.map_err(machine("kill a child"))?;
                let text = format!("the process of writer {} does not end", actor.orders.writer);
                Broken::other(text).count(self.seed, tally);
            }
        }
        Ok(())
    }
}
