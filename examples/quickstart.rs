//! The main job on real data: days of flights arrive as CSV files and are loaded exactly once into a Delta table.
//!
//! ```text
//! cargo run -p duckrun-examples --example quickstart [-- OUTPUT_FOLDER]
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use duckrun::sources::{Csv, NewFiles};
use duckrun::{
    At, Error, FairGovernor, Model, Overwrite, Relation, Report, Resolved, Result, SafeAppend, Session, Source,
    SourceContext,
};
use duckrun_examples::{bar, data, output_folder};

/// The flights of the files that the table has no row of yet.
fn load(lake: &Session, landing: &Path, files: &str) -> Model {
    let files = Csv::glob(landing.join(files)).rfc4180().null_strings(["NA"]).filename_relative_to(landing);
    lake.model("mart.flights")
        .source("landing", NewFiles::by_column(files))
        .sql("select * from landing")
        .strategy(SafeAppend)
        .comment("Flights out of New York City, one row per flight")
}

/// Runs a model behind a progress bar and prints its report.
async fn run(model: Model) -> Result<Report> {
    let bar = bar();
    let shown = bar.clone();
    let report = model.on_progress(move |p| duckrun_examples::show(&shown, p)).run().await;
    bar.finish_and_clear();
    let report = report?;
    println!("  {report}");
    Ok(report)
}

/// The same for a run that must not be refused.
async fn run_all(model: Model) -> Result<()> {
    run(model).await?.committed().map(|_| ())
}

/// Lets the files of some days arrive in the landing folder.
fn arrive(landing: &Path, days: std::ops::RangeInclusive<u32>) -> Result<()> {
    println!("\nDays {} to {} arrive.", days.start(), days.end());
    for day in days {
        let name = format!("flights-2013-01-{day:02}.csv");
        std::fs::copy(data().join("flights").join(&name), landing.join(&name))
            .map_err(|e| Error::invalid(format!("cannot copy {name}: {e}")))?;
    }
    Ok(())
}

/// A competitor who loads the last day between our reading and our commit. It stands where a source may: after the pin.
#[derive(Debug)]
struct Competitor {
    root: PathBuf,
    landing: PathBuf,
}

#[async_trait]
impl Source for Competitor {
    fn describe(&self) -> String {
        "somebody who loads the same files".to_owned()
    }

    async fn resolve(&self, _cx: &SourceContext<'_>) -> Result<Resolved> {
        // Another process would have a session and memory of its own; so has this one.
        let theirs = Session::open(&self.root).governor(Arc::new(FairGovernor::new())).writable().await?;
        let report = load(&theirs, &self.landing, "*-31.csv").run().await?;
        println!("  somebody else: {report}");
        Ok(Relation::Sql("select 1 as nothing".to_owned()).into())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    duckrun_examples::init_tracing();
    let (root, _guard) = output_folder("quickstart")?;
    let landing = root.join("landing");
    std::fs::create_dir_all(&landing).map_err(|e| Error::invalid(format!("cannot create the landing folder: {e}")))?;
    let lake = Session::open(root.join("warehouse")).writable().await?;

    println!("The airlines, replaced as a whole:");
    let airlines = Csv::file(data().join("flights").join("airlines.csv"));
    run_all(
        lake.model("mart.airlines").source("file", airlines).sql("select * from file").strategy(Overwrite::default()),
    )
    .await?;

    arrive(&landing, 1..=10)?;
    let first = run(load(&lake, &landing, "*.csv")).await?;
    arrive(&landing, 11..=20)?;
    run_all(load(&lake, &landing, "*.csv")).await?;
    println!("\nNothing new has arrived, so nothing is committed:");
    run_all(load(&lake, &landing, "*.csv")).await?;

    arrive(&landing, 21..=31)?;
    println!(
        "Somebody else loads the last day while our run is reading, so ours is refused and leaves nothing behind:"
    );
    let competitor = Competitor { root: root.join("warehouse"), landing: landing.clone() };
    let refused = run(load(&lake, &landing, "*.csv").source("competitor", competitor)).await?;
    assert!(refused.is_conflict());
    println!("The same run again reads the table as it is now and loads the rest:");
    run_all(load(&lake, &landing, "*.csv")).await?;

    println!("\nDelays by carrier:");
    let delays = "select a.name as carrier, count(*) as flights, round(avg(f.arr_delay), 1) as delay_minutes \
                  from mart.flights f join mart.airlines a using (carrier) group by all order by delay_minutes desc limit 8";
    println!("{}", lake.sql(delays).to_table().await?);

    let count = "select count(*) as flights, max(day) as last_day, count(distinct filename) as files from mart.flights";
    println!("The table now, and as it was after the first run:");
    println!("{}", lake.sql(count).to_table().await?);
    let version = first.version().unwrap_or_default();
    println!("{}", lake.sql(count).at("mart.flights", At::Version(version)).to_table().await?);

    println!("The tables are in {}", root.join("warehouse").display());
    Ok(())
}
