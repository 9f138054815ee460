//! The chaos campaign in short: eight writer processes, half of them killed, a foreign appender, a compactor, readers.
//!
//! The long one: `cargo run -p duckrun-testkit --bin campaign -- --seconds 600`.

use std::time::Duration;

use duckrun_testkit::chaos::Chaos;
use duckrun_testkit::work::Playground;

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_on_one_table() {
    let playground = Playground::local().unwrap();
    let chaos = Chaos::new(crate::crashes::program(), 11).time(Duration::from_secs(6));
    let tally = chaos.run(&playground).await.unwrap();
    assert!(tally.is_clean(), "{tally:#?}");
    assert!(tally.commits > 0 && tally.kills > 0, "{tally:?}");
}
