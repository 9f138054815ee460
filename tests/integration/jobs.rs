//! One job for every strategy and action, with the table before and after: what suites over stores and faults run through.

use std::future::Future;
use std::pin::Pin;

use duckrun::core::{CommitOutcome, Nothing};
use duckrun::delta::{DeleteInsert, FullSync, Insert, Merge, ReplaceWhere};
use duckrun::{Append, Overwrite, Result, SafeAppend, Session};

/// What a job came to.
#[derive(Debug)]
pub(crate) enum End {
    Committed,
    Unknown,
    Nothing,
    Conflict,
}

type Run = for<'a> fn(&'a Session) -> Pin<Box<dyn Future<Output = Result<End>> + Send + 'a>>;

pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// `id|msg` of every row, by id.
    pub(crate) after: &'static [&'static str],
}

/// The table before each job; a second commit holds the last two rows.
pub(crate) const BEFORE: [&str; 6] = ["0|old 0", "1|old 1", "2|old 2", "3|old 3", "4|old 4", "5|old 5"];

pub(crate) async fn prepare(session: &Session) {
    let create = "select i::int as id, 'old ' || i as msg, (i % 3)::int as grp from range(4) t(i)";
    session.model("a.t").sql(create).run().await.unwrap().committed().map(drop).unwrap();
    let more = "select i::int as id, 'old ' || i as msg, (i % 3)::int as grp from range(4, 6) t(i)";
    session.model("a.t").sql(more).strategy(Append::default()).run().await.unwrap().committed().map(drop).unwrap();
}

pub(crate) async fn table(session: &Session) -> Vec<String> {
    duckrun_testkit::rows(session.sql("select id, msg from a.t order by all")).await.unwrap()
}

fn end(outcome: &CommitOutcome) -> End {
    match outcome {
        CommitOutcome::Committed(_) => End::Committed,
        CommitOutcome::Unknown { .. } => End::Unknown,
        CommitOutcome::NothingToDo(Nothing::AlreadyApplied { .. } | Nothing::Unchanged) => End::Nothing,
        CommitOutcome::NothingToDo(_) => End::Nothing,
        CommitOutcome::Conflict { .. } => End::Conflict,
        other => panic!("an outcome of a new kind: {other:?}"),
    }
}

/// A job that is a model with a SQL text and a strategy.
macro_rules! model {
    ($name:literal, $sql:literal, $strategy:expr, $after:expr) => {
        Job {
            name: $name,
            run: |session| {
                Box::pin(async move {
                    let report = session.model("a.t").sql($sql).strategy($strategy).run().await?;
                    Ok(end(&report.outcome))
                })
            },
            after: &$after,
        }
    };
}

pub(crate) fn all() -> Vec<Job> {
    vec![
        model!("overwrite", "select 9::int as id, 'x' as msg, 0::int as grp", Overwrite::default(), ["9|x"]),
        model!(
            "append",
            "select 9::int as id, 'x' as msg, 0::int as grp",
            Append::default(),
            ["0|old 0", "1|old 1", "2|old 2", "3|old 3", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "safeappend",
            "select max(id) + 4 as id, 'x' as msg, 0::int as grp from this",
            SafeAppend,
            ["0|old 0", "1|old 1", "2|old 2", "3|old 3", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "insert",
            "select * from (values (5, 'no', 1), (9, 'x', 0)) v(id, msg, grp)",
            Insert::on(["id"]),
            ["0|old 0", "1|old 1", "2|old 2", "3|old 3", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "merge",
            "select * from (values (1, 'new', 1), (9, 'x', 0)) v(id, msg, grp)",
            Merge::on(["id"]),
            ["0|old 0", "1|new", "2|old 2", "3|old 3", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "delete_insert",
            "select * from (values (1, 'a', 1), (1, 'b', 1), (9, 'x', 0)) v(id, msg, grp)",
            DeleteInsert::on(["id"]),
            ["0|old 0", "1|a", "1|b", "2|old 2", "3|old 3", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "replace_where",
            "select 9::int as id, 'x' as msg, 0::int as grp",
            ReplaceWhere::new("grp = 0"),
            ["1|old 1", "2|old 2", "4|old 4", "5|old 5", "9|x"]
        ),
        model!(
            "full_sync",
            "select * from (values (1, 'new', 1), (9, 'x', 0)) v(id, msg, grp)",
            FullSync::on(["id"]),
            ["1|new", "9|x"]
        ),
        Job {
            name: "delete",
            run: |session| {
                Box::pin(async move { Ok(end(&session.table("a.t")?.delete("id in (2, 5)").run().await?.outcome)) })
            },
            after: &["0|old 0", "1|old 1", "3|old 3", "4|old 4"],
        },
        Job {
            name: "update",
            run: |session| {
                Box::pin(async move {
                    let update = session.table("a.t")?.update([("msg", "msg || '!'")], Some("id = 4"));
                    Ok(end(&update.run().await?.outcome))
                })
            },
            after: &["0|old 0", "1|old 1", "2|old 2", "3|old 3", "4|old 4!", "5|old 5"],
        },
        Job {
            name: "compact",
            run: |session| {
                Box::pin(async move {
                    let report = session.maintain("a.t").compact().run().await?;
                    Ok(if report.is_clean() { End::Committed } else { End::Nothing })
                })
            },
            after: &BEFORE,
        },
    ]
}
