//! A format of one's own: files of `key = value` lines, registered beside the built-in formats and inferred like them.
//!
//! ```text
//! cargo run -p duckrun-examples --example own_format
//! ```

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use duckrun::sources::{Files, Format, Registry, Scan};
use duckrun::{Error, Relation, Resolved, Result, Session};
use duckrun_examples::output_folder;

/// Properties: one `key = value` a line, `#` before a comment.
#[derive(Debug)]
struct Properties;

#[async_trait]
impl Format for Properties {
    fn name(&self) -> &str {
        "properties"
    }

    fn extensions(&self) -> Vec<&str> {
        vec!["properties", "conf"]
    }

    /// DuckDB reads the texts and takes them apart, so that the format is as lazy as its own.
    async fn relation(&self, scan: &Scan<'_>) -> Result<Resolved> {
        let sql = format!(
            "SELECT filename, trim(split_part(line, '=', 1)) AS key, trim(line[strpos(line, '=') + 1:]) AS value
             FROM (SELECT filename, unnest(string_split(content, chr(10))) AS line FROM read_text({}))
             WHERE line LIKE '%=%' AND line NOT LIKE '#%' {}",
            scan.file_list(),
            if scan.no_rows { "AND false" } else { "" }
        );
        Ok(Relation::Sql(sql).into())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    duckrun_examples::init_tracing();
    let (root, _guard) = output_folder("own-format")?;
    let fail = |e: std::io::Error| Error::invalid(format!("cannot write the files: {e}"));
    fs::create_dir_all(root.join("etc")).map_err(fail)?;
    fs::write(root.join("etc/a.properties"), "# the first\nhost = a.example\nport=80\n").map_err(fail)?;
    fs::write(root.join("etc/b.conf"), "host = b.example\nfilter = x=1\n").map_err(fail)?;

    let registry = Registry::default().with(Arc::new(Properties));
    let files = Files::folder(root.join("etc")).registry(registry);
    println!("etc is {}", files.inspect().await?.inferred.why);

    let lake = Session::open(root.join("warehouse")).writable().await?;
    let report = lake
        .model("mart.settings")
        .source("etc", files)
        .sql("select parse_filename(filename) as file, key, value from etc")
        .run()
        .await?;
    println!("{report}");
    println!("{}", lake.sql("select * from mart.settings order by all").to_table().await?);
    Ok(())
}
