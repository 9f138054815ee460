//! A lake on S3, end to end: an emulator is installed from PyPI and started, then everything is as it would be on S3 itself.
//!
//! ```text
//! cargo run -p duckrun-examples --example s3 [-- FOLDER_FOR_THE_EMULATOR]
//! ```

use duckrun::delta::Merge;
use duckrun::sources::Csv;
use duckrun::{Error, Result, Session, StoreRoot};
use duckrun_examples::{data, init_tracing, output_folder};
use duckrun_testkit::{Emulated, Emulator};
use object_store::ObjectStoreExt;

#[tokio::main]
async fn main() -> Result<()> {
    init_tracing();
    let (tools, _guard) = output_folder("s3")?;
    let started = tokio::task::spawn_blocking(move || Emulator::start(Emulated::S3, &tools)).await;
    let emulator = match started.map_err(|e| Error::internal("the emulator's thread failed").with_source(e))? {
        Ok(emulator) => emulator,
        Err(why) => {
            println!("skipped: the emulator cannot be started here: {why}");
            return Ok(());
        }
    };
    // For S3 itself: the bucket's URL, and aws_access_key_id, aws_secret_access_key and aws_region.
    let lake = Session::open_url(&emulator.url("lake"), &emulator.options("any-secret"))?.writable().await?;
    let bucket = StoreRoot::open(&emulator.url(""), &emulator.options("any-secret"))?;
    for day in 1..=3 {
        // What an upstream job would do: a file lands in the bucket.
        let name = format!("flights-2013-01-{day:02}.csv");
        let text = std::fs::read(data().join("flights").join(&name))
            .map_err(|e| Error::invalid("the example's data are missing").with_source(e))?;
        let landed = bucket.store().put(&format!("landing/{name}").into(), text.into()).await;
        landed.map_err(|e| Error::invalid("the bucket takes no files").with_source(e))?;
        // The file is read in place, by DuckDB's CSV reader, with the lake's credentials.
        let landing = Csv::file(emulator.url(&format!("landing/{name}")));
        let report = lake
            .model("mart.carriers")
            .source("day", landing.null_strings(["NA"]))
            .sql("select carrier, max(year * 10000 + month * 100 + day) as last_day, count(*) as flights from day group by carrier")
            .strategy(Merge::on(["carrier"]))
            .run()
            .await?;
        println!("{report}");
    }
    println!("{}", lake.sql("select * from mart.carriers order by flights desc limit 5").to_table().await?);
    Ok(())
}
