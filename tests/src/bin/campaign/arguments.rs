//! The command line of the campaign.

/// How it is used.
pub(crate) const USAGE: &str = "\
Campaigns against duckrun's promises. Without a count: a little of each part.

usage: campaign [--operations N] [--simulate N] [--kills N] [--faults N] [--seconds N]
                [--seed S] [--store local|s3|azure] [--json]

  --operations N   operations on real tables, compared with the model after every step
  --simulate N     operations of the simulation
  --kills N        processes killed in the middle of operations
  --faults N       faults injected into stores and disks
  --seconds N      seconds of chaos: many processes on one table
  --seed S         the seed of all choices (default 1)
  --store STORE    where the tables are: local (default), or an emulator of s3 or azure
  --json           the summary as one JSON object on standard output, and nothing else there

exit status: 0 every promise held, 1 a promise was broken, 2 wrong usage, 3 skipped";

/// Where the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Local,
    S3,
    Azure,
}

/// What was asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    Campaign(Arguments),
    /// The orders of a child process of a campaign.
    Child(String),
}

/// How much of each part; `None` for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) operations: Option<u64>,
    pub(crate) simulate: Option<u64>,
    pub(crate) kills: Option<u64>,
    pub(crate) faults: Option<u64>,
    pub(crate) seconds: Option<u64>,
}

/// A campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    counts: Counts,
    pub(crate) seed: u64,
    pub(crate) store: Store,
    pub(crate) json: bool,
}

impl Arguments {
    /// Whether counts were given.
    pub(crate) fn is_explicit(&self) -> bool {
        self.counts != Counts::default()
    }

    /// The counts; a short campaign where none was given.
    pub(crate) fn counts(&self) -> Counts {
        if self.is_explicit() {
            return self.counts;
        }
        let (operations, simulate) = (Some(300), Some(20_000));
        let (kills, faults, seconds) = match self.store {
            Store::Local => (Some(60), Some(600), Some(15)),
            Store::S3 | Store::Azure => (Some(15), Some(60), Some(20)),
        };
        Counts { operations, simulate, kills, faults, seconds }
    }
}

impl Asked {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut asked = Arguments { counts: Counts::default(), seed: 1, store: Store::Local, json: false };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{name}: {text:?} is not a number"));
            match name.as_str() {
                "--help" | "-h" => return Ok(Self::Help),
                "--child" => return Ok(Self::Child(value()?)),
                "--operations" => asked.counts.operations = Some(number(value()?)?),
                "--simulate" => asked.counts.simulate = Some(number(value()?)?),
                "--kills" => asked.counts.kills = Some(number(value()?)?),
                "--faults" => asked.counts.faults = Some(number(value()?)?),
                "--seconds" => asked.counts.seconds = Some(number(value()?)?),
                "--seed" => asked.seed = number(value()?)?,
                "--json" => asked.json = true,
                "--store" => {
                    asked.store = match value()?.as_str() {
                        "local" => Store::Local,
                        "s3" => Store::S3,
                        "azure" => Store::Azure,
                        other => return Err(format!("{other:?} is not a store: local, s3 or azure")),
                    };
                }
                other => return Err(format!("{other:?} is not an argument")),
            }
        }
        Ok(Self::Campaign(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, String> {
        Asked::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_what_they_say() {
        let Ok(Asked::Campaign(all)) = parse("--kills 5 --seed 9 --store s3 --json") else { panic!() };
        assert!(all.is_explicit() && all.json && all.seed == 9 && all.store == Store::S3);
        assert_eq!(all.counts(), Counts { kills: Some(5), ..Counts::default() });
        let Ok(Asked::Campaign(none)) = parse("") else { panic!() };
        assert!(!none.is_explicit() && none.counts().faults.is_some());
        for wrong in ["--kills", "--kills x", "--kills -1", "--store gcs", "--what", "5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("--help"), Ok(Asked::Help));
    }
}
