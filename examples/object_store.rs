//! A lake in an object store that the program makes itself: any `ObjectStore` will do, with whatever it is wrapped in.
//!
//! ```text
//! cargo run -p duckrun-examples --example object_store
//! ```

use std::sync::Arc;

use duckrun::sources::Csv;
use duckrun::{Error, Result, SafeAppend, Session};
use duckrun_examples::{data, init_tracing};
use duckrun_testkit::CountingStore;
use object_store::memory::InMemory;

#[tokio::main]
async fn main() -> Result<()> {
    init_tracing();
    // In memory, and counted: instead of it an `AmazonS3`, a cache, a store of your own.
    let store = CountingStore::new(InMemory::new());
    let url = "memory://lake/".parse().map_err(|e| Error::invalid(format!("not a URL: {e}")))?;
    let lake = Session::open_in(url, Arc::new(store.clone()), "tables").writable().await?;
    for day in 1..=3 {
        let file = data().join(format!("flights/flights-2013-01-{day:02}.csv"));
        let report = lake
            .model("mart.flights")
            .source("day", Csv::file(file).null_strings(["NA"]))
            .sql("select * from day")
            .strategy(SafeAppend)
            .run()
            .await?;
        let asked = store.take();
        println!("{report}\n  {} requests, {} bytes written", asked.total(), asked.bytes_written);
    }
    // DuckDB's own parquet reader, over the store: only footers and the chunks of one column are fetched.
    let sql = "select origin, count(*) as flights from mart.flights group by origin order by origin";
    println!("{}", lake.sql(sql).to_table().await?);
    let asked = store.take();
    println!("  {} requests, {} bytes read", asked.total(), asked.bytes_read);
    Ok(())
}
