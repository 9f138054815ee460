//! The cases: what comes in, what the table must look like afterwards, and what kind of change that is.
//!
//! All SQL is DuckDB's, over the views `lineitem` (the table before the change) and `source` (the incoming rows). Rows are
//! picked by a hash of their key, so that they lie in every row group; new keys are old ones plus 8, which TPC-H never
//! generates (of 32 order keys it uses the first 8).

/// The key of `lineitem`.
pub(super) const KEYS: [&str; 2] = ["l_orderkey", "l_linenumber"];

/// The month of the month cases, as DuckDB and DataFusion both read it.
pub(super) const MONTH: &str = "l_shipdate >= date '1995-03-01' and l_shipdate < date '1995-04-01'";

/// One row in a hundred, anywhere in the table; no statistics help.
pub(super) const ONE_IN_A_HUNDRED: &str = "l_partkey % 100 = 7";

/// The columns that case `update_columns` updates.
pub(super) const TWO_COLUMNS: [&str; 2] = ["l_quantity", "l_discount"];

/// A change of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) change: Change,
    /// The incoming rows over `lineitem`; none where the change is a condition.
    pub(super) source: Option<&'static str>,
    /// The table afterwards.
    pub(super) expected: &'static str,
    /// The case whose change is made beforehand, by `ours`, with its rows.
    pub(super) after: Option<&'static str>,
}

/// What is done with the incoming rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Updates matches, inserts the rest.
    Upsert,
    /// Inserts what is new, and nothing else.
    Insert,
    /// Updates [`TWO_COLUMNS`] of matches, inserts the rest.
    UpdateColumns,
    /// Deletes the rows of [`ONE_IN_A_HUNDRED`].
    Delete,
    /// Updates the rows of [`ONE_IN_A_HUNDRED`].
    Update,
    /// An upsert that also deletes what does not come in.
    Sync,
    /// Replaces the rows of [`MONTH`], as a batch of one month.
    Microbatch,
    /// Replaces the rows of [`MONTH`], by a condition.
    ReplaceWhere,
}

const UPSERTED: &str = "select * from lineitem anti join source using (l_orderkey, l_linenumber) \
                        union all select * from source";
const INSERTED: &str = "select * from lineitem union all select * from source";
const MONTH_SOURCE: &str = "select * replace (reverse(l_comment) as l_comment) from lineitem \
                            where l_shipdate >= date '1995-03-01' and l_shipdate < date '1995-04-01'";
const MONTH_EXPECTED: &str = "select * from lineitem \
                              where not (l_shipdate >= date '1995-03-01' and l_shipdate < date '1995-04-01') \
                              union all select * from source";

/// Incoming rows of the scattered upsert.
const SCATTERED: &str = "select * replace ( \
    case when hash(l_orderkey, l_linenumber) % 1000 = 9 then l_orderkey + 8 else l_orderkey end as l_orderkey, \
    (l_quantity + 1)::decimal(15, 2) as l_quantity, reverse(l_comment) as l_comment) \
    from lineitem where hash(l_orderkey, l_linenumber) % 1000 < 10";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "upsert_scattered",
        about: "upsert of 1 %, one row in ten new, anywhere in the table",
        change: Change::Upsert,
        source: Some(SCATTERED),
        expected: UPSERTED,
        after: None,
    },
    Case {
        name: "again",
        about: "the scattered upsert once more, right after it",
        change: Change::Upsert,
        source: Some(SCATTERED),
        expected: UPSERTED,
        after: Some("upsert_scattered"),
    },
    Case {
        name: "upsert_narrow",
        about: "upsert of 1 %, one row in ten new, in a range of keys",
        change: Change::Upsert,
        source: Some(
            "select * replace ( \
               case when hash(l_orderkey, l_linenumber) % 10 = 9 then l_orderkey + 8 else l_orderkey end as l_orderkey, \
               (l_quantity + 1)::decimal(15, 2) as l_quantity, reverse(l_comment) as l_comment) \
             from lineitem where l_orderkey * 100 >= (select max(l_orderkey) * 45 from lineitem) \
             and l_orderkey * 100 < (select max(l_orderkey) * 46 from lineitem)",
        ),
        expected: UPSERTED,
        after: None,
    },
    Case {
        name: "insert_only",
        about: "insert of 5 % new rows, anywhere in the table",
        change: Change::Insert,
        source: Some(
            "select * replace (l_orderkey + 8 as l_orderkey) from lineitem \
             where hash(l_orderkey, l_linenumber) % 100 < 5",
        ),
        expected: INSERTED,
        after: None,
    },
    Case {
        name: "update_only",
        about: "upsert of 5 %, all rows there already",
        change: Change::Upsert,
        source: Some(
            "select * replace ((l_quantity + 1)::decimal(15, 2) as l_quantity, reverse(l_comment) as l_comment) \
             from lineitem where hash(l_orderkey, l_linenumber) % 100 < 5",
        ),
        expected: UPSERTED,
        after: None,
    },
    Case {
        name: "update_columns",
        about: "upsert of 1 %, all rows there already, two of sixteen columns updated",
        change: Change::UpdateColumns,
        source: Some(
            "select * replace ((l_quantity + 1)::decimal(15, 2) as l_quantity, 0.05::decimal(15, 2) as l_discount, \
             reverse(l_comment) as l_comment) \
             from lineitem where hash(l_orderkey, l_linenumber) % 1000 < 10",
        ),
        expected: "select l.* replace (coalesce(s.l_quantity, l.l_quantity) as l_quantity, \
                   coalesce(s.l_discount, l.l_discount) as l_discount) \
                   from lineitem l left join source s using (l_orderkey, l_linenumber)",
        after: None,
    },
    Case {
        name: "idempotent",
        about: "upsert of 1 % that are there already, and were not merged before",
        change: Change::Upsert,
        source: Some("select * from lineitem where hash(l_orderkey, l_linenumber) % 1000 < 10"),
        expected: "select * from lineitem",
        after: None,
    },
    Case {
        name: "delete",
        about: "delete of 1 % by a condition that no statistics help with",
        change: Change::Delete,
        source: None,
        expected: "select * from lineitem where l_partkey % 100 <> 7",
        after: None,
    },
    Case {
        name: "update",
        about: "update of two columns of 1 % by a condition that no statistics help with",
        change: Change::Update,
        source: None,
        expected: "select * replace (case l_partkey % 100 when 7 then 'X' else l_returnflag end as l_returnflag, \
                   case l_partkey % 100 when 7 then 'Y' else l_linestatus end as l_linestatus) from lineitem",
        after: None,
    },
    Case {
        name: "sync",
        about: "the whole table comes in, 1 % changed, 1 % new, 1 % missing",
        change: Change::Sync,
        source: Some(
            "select * replace (case hash(l_orderkey, l_linenumber) % 100 when 1 then reverse(l_comment) \
             else l_comment end as l_comment) from lineitem where hash(l_orderkey, l_linenumber) % 100 > 0 \
             union all select * replace (l_orderkey + 8 as l_orderkey) from lineitem \
             where hash(l_orderkey, l_linenumber) % 100 = 2",
        ),
        expected: "select * from source",
        after: None,
    },
    Case {
        name: "microbatch",
        about: "the rows of one month replaced, in every file",
        change: Change::Microbatch,
        source: Some(MONTH_SOURCE),
        expected: MONTH_EXPECTED,
        after: None,
    },
    Case {
        name: "replace_where",
        about: "the same by a condition",
        change: Change::ReplaceWhere,
        source: Some(MONTH_SOURCE),
        expected: MONTH_EXPECTED,
        after: None,
    },
];

impl Case {
    /// The case of that name.
    pub(super) fn by_name(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }

    /// Whether incoming rows are matched by key.
    pub(super) fn joins(&self) -> bool {
        matches!(self.change, Change::Upsert | Change::UpdateColumns | Change::Insert | Change::Sync)
    }

    /// Which rows of `lineitem` change or go, as a condition that may read `source`; none where rows are only added.
    pub(super) fn touches(&self) -> Option<&'static str> {
        match self.change {
            Change::Upsert if matches!(self.name, "idempotent" | "again") => None,
            Change::Upsert | Change::UpdateColumns => {
                Some("(l_orderkey, l_linenumber) in (select (l_orderkey, l_linenumber) from source)")
            }
            Change::Insert => None,
            Change::Delete | Change::Update => Some(ONE_IN_A_HUNDRED),
            Change::Sync => Some("true"),
            Change::Microbatch | Change::ReplaceWhere => Some(MONTH),
        }
    }
}
