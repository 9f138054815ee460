//! A table in fragments, before and after its maintenance: many small appends, then one compaction, a z-order and a vacuum.
//!
//! ```text
//! cargo run -p duckrun-examples --example maintain [-- OUTPUT_FOLDER]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use duckrun::sources::Csv;
use duckrun::{At, DefaultPolicy, Maintain, PolicySettings, Result, Session};
use duckrun_examples::{bar, data, output_folder};

const TABLE: &str = "mart.flights";
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Files, bytes, and how long a query over everything takes.
async fn show(lake: &Session, what: &str) -> Result<()> {
    let snapshot = lake.snapshot(TABLE, At::Latest).await?;
    let files = snapshot.files().await?.files;
    let bytes: u64 = files.iter().map(|f| f.size).sum();
    let started = Instant::now();
    let sql = "select count(*), round(avg(arr_delay), 2) from mart.flights where origin = 'JFK' and distance > 1000";
    let rows = lake.sql(sql).collect().await?;
    let rows: usize = rows.iter().map(|b| b.num_rows()).sum();
    println!(
        "  {what:<24} v{:<4} {:>4} files {:>6} KB, a query in {:>4} ms ({rows} row)",
        snapshot.version(),
        files.len(),
        bytes / 1000,
        started.elapsed().as_millis(),
    );
    Ok(())
}

/// Runs maintenance behind a progress bar and prints its report.
async fn run(maintain: Maintain) -> Result<()> {
    let bar = bar();
    let shown = bar.clone();
    let report = maintain.on_progress(move |_, p| duckrun_examples::show(&shown, p)).run().await;
    bar.finish_and_clear();
    println!("  {}", report?);
    Ok(())
}

/// A day of flights in four appends: what a pipeline does that loads every few hours.
async fn load(lake: &Session, days: std::ops::RangeInclusive<u32>) -> Result<()> {
    let flights = data().join("flights");
    for day in days {
        let file = flights.join(format!("flights-2013-01-{day:02}.csv"));
        for quarter in 0..4 {
            let source = Csv::file(&file).null_strings(["NA"]);
            let sql = format!("select * from day where coalesce(hour, 0) // 6 = {quarter}");
            let report = lake.model(TABLE).source("day", source).sql(sql).run().await?;
            for line in &report.maintenance {
                println!("  after day {day:>2}, quarter {quarter}: {line}");
            }
        }
    }
    Ok(())
}

async fn on_request(root: &Path) -> Result<()> {
    println!("Without maintenance, 31 days in four appends each:");
    let lake = Session::open(root.join("by-hand")).writable().maintenance(false).await?;
    load(&lake, 1..=31).await?;
    show(&lake, "in fragments").await?;

    println!("\nCompacted, on request:");
    run(lake.maintain(TABLE).compact().checkpoint()).await?;
    show(&lake, "compacted").await?;

    println!("\nOrdered for queries by origin, destination and carrier:");
    run(lake.maintain(TABLE).z_order(["origin", "dest", "carrier"])).await?;
    show(&lake, "z-ordered").await?;

    println!("\nThe files of older versions stay for a week, so there is nothing to delete yet:");
    let plan = lake.maintain(TABLE).vacuum_plan(WEEK).await?;
    println!("  a vacuum would delete {} files, {} KB", plan.files.len(), plan.bytes() / 1000);
    run(lake.maintain(TABLE).vacuum(WEEK)).await?;
    println!("Without regard for readers of older versions, which is what `unsafe_retention` is for:");
    let plan = lake.maintain(TABLE).unsafe_retention().vacuum_plan(Duration::ZERO).await?;
    println!("  a vacuum would delete {} files, {} KB", plan.files.len(), plan.bytes() / 1000);
    run(lake.maintain(TABLE).unsafe_retention().vacuum(Duration::ZERO)).await?;
    show(&lake, "vacuumed").await
}

#[tokio::main]
async fn main() -> Result<()> {
    duckrun_examples::init_tracing();
    let (root, _guard) = output_folder("maintain")?;
    on_request(&root).await?;

    println!("\nThe same with maintenance after each run, as by default, at most 40 small files:");
    let mut settings = PolicySettings::default();
    settings.max_small_files = 40;
    let lake = Session::open(root.join("by-itself")).writable().policy(DefaultPolicy::new(settings)?).await?;
    load(&lake, 1..=31).await?;
    show(&lake, "kept by itself").await?;
    println!("\nAll tables of a root at once: \n  {}", lake.maintain_all().run().await?);
    Ok(())
}
