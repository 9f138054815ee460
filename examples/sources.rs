//! A folder of each kind that a source can be: what it was taken for, why, and what SQL sees of it.
//!
//! ```text
//! cargo run -p duckrun-examples --example sources [-- OUTPUT_FOLDER]
//! ```

use std::fs::{self, File};
use std::path::Path;

use arrow_ipc::writer::FileWriter;
use duckrun::duckdb::Connection;
use duckrun::sources::{Csv, Files};
use duckrun::{Error, Overwrite, Result, Session};
use duckrun_examples::{data, output_folder};

/// An Iceberg table without a snapshot: its metadata alone has the schema.
const ICEBERG: &str = r#"{
    "format-version": 2, "location": "/anywhere/flights", "current-schema-id": 0, "current-snapshot-id": null,
    "schemas": [{"type": "struct", "schema-id": 0, "fields": [
        {"id": 1, "name": "flight", "required": true, "type": "long"},
        {"id": 2, "name": "delays", "required": false,
         "type": {"type": "list", "element-id": 3, "element": "double", "element-required": false}}
    ]}]
}"#;

/// Makes the folders out of two days of flights.
async fn fill(lake: &Session, root: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::invalid(format!("cannot fill {}: {e}", root.display()));
    for folder in ["csv", "json", "arrow", "iceberg/metadata", "nothing"] {
        fs::create_dir_all(root.join(folder)).map_err(fail)?;
    }
    for day in ["01", "02"] {
        let name = format!("flights-2013-01-{day}.csv");
        fs::copy(data().join("flights").join(&name), root.join("csv").join(&name)).map_err(fail)?;
    }
    fs::write(root.join("csv/README.txt"), "Two days of flights").map_err(fail)?;
    fs::write(root.join("iceberg/metadata/v1.metadata.json"), ICEBERG).map_err(fail)?;
    let shown = root.display();
    let flights = format!("read_csv('{shown}/csv/*.csv', nullstr = 'NA')");
    Connection::open_in_memory()
        .and_then(|db| {
            db.execute_batch(&format!(
                "copy (select * from {flights}) to '{shown}/parquet' (format parquet, partition_by (origin, carrier));
                 copy (select carrier, flight from {flights} limit 9) to '{shown}/json/flights.ndjson.gz' (format json);"
            ))
        })
        .map_err(|e| Error::invalid(format!("DuckDB cannot write the files: {e}")))?;
    let landing = Csv::folder(root.join("csv")).null_strings(["NA"]);
    let flights = lake.model("mart.flights").source("landing", landing.clone()).sql("select * from landing");
    flights.strategy(Overwrite::default()).run().await?.committed().map(drop)?;
    let batches = lake.sql("select carrier, flight, day from landing").source("landing", landing).collect().await?;
    let ipc = |e| Error::invalid(format!("cannot write Arrow IPC: {e}"));
    let file = File::create(root.join("arrow/flights.arrow")).map_err(fail)?;
    let mut writer = FileWriter::try_new(file, &batches[0].schema()).map_err(ipc)?;
    batches.iter().try_for_each(|b| writer.write(b)).and_then(|()| writer.finish()).map_err(ipc)
}

#[tokio::main]
async fn main() -> Result<()> {
    duckrun_examples::init_tracing();
    let (root, _guard) = output_folder("sources")?;
    let lake = Session::open(root.join("warehouse")).writable().await?;
    fill(&lake, &root).await?;
    let folders = ["csv", "parquet/origin=EWR", "json", "arrow", "warehouse/mart/flights", "iceberg"];
    for folder in folders {
        let files = Files::at(root.join(folder));
        let found = files.inspect().await?;
        println!(
            "\n{folder} is {}: {}",
            found.inferred.format,
            found.inferred.why.replace(&root.display().to_string(), "")
        );
        // Dropped at once: a stream holds the session's memory, and the next query would wait for it.
        let schema = lake.sql("select * from s").source("s", files.clone()).stream().await?.schema().clone();
        let columns: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        println!("  columns: {}", columns.join(", "));
        println!("{}", lake.sql("select count(*) as rows from s").source("s", files).to_table().await?);
    }
    for folder in ["nothing", "parquet", "."] {
        let files = Files::at(folder).root(&root);
        match files.inspect().await {
            Ok(found) => println!("\n{folder} is {}: {}", found.inferred.format, found.inferred.why),
            Err(e) => println!("\n{folder} is refused: {}", e.message().replace(&root.display().to_string(), "")),
        }
    }
    Ok(())
}
