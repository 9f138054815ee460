//! The steps of a sequence, and how they are drawn for a table.

use duckrun::SchemaChange;
use duckrun::core::NullKeys;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest_state_machine::ReferenceStateMachine;

use super::shape::{Shape, shape};
use crate::Moment;
use crate::generate::{self, incoming, merge_options, one_per_key, settle_duplicates, value};
use crate::model::{BySource, Column, Expr, MergeOptions, Rows, Type, Value};

/// How many sessions take part. The last one maintains the table after its runs.
pub(super) const ACTORS: usize = 3;

/// One step.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A run.
    Write(Write),
    /// A run that has pinned its version when others commit.
    Race {
        /// The run.
        loser: Write,
        /// When the others commit.
        moment: Moment,
        /// What they do, one after the other.
        winners: Vec<Winner>,
    },
    /// Maintenance while nobody writes.
    Maintain(Upkeep),
    /// Another writer deletes rows by deletion vectors.
    Vectors(Vec<Index>),
    /// A read of a version with a filter.
    Filter {
        /// Who reads.
        actor: usize,
        /// Which version, by its place among those that there are.
        version: Index,
        /// The filter.
        condition: Expr,
        /// The columns that it knows.
        of: Vec<Column>,
    },
    /// A read of an older version.
    Travel(Index),
}

/// What another one does during a race.
#[derive(Debug, Clone)]
pub(super) enum Winner {
    /// A run.
    Write(Box<Write>),
    /// Compaction.
    Compact,
    /// Z-order by the keys.
    ZOrder,
}

/// Maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upkeep {
    /// Merges small files.
    Compact,
    /// Orders rows by the keys.
    ZOrder,
    /// Deletes every file that the newest version does not need.
    Vacuum,
    /// Writes a checkpoint.
    Checkpoint,
    /// Deletes log entries that a checkpoint covers, as far as the table allows.
    CleanLog,
}

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// Who runs it.
    pub(super) actor: usize,
    /// The table's columns that it was made for.
    pub(super) of: Vec<Column>,
    /// The incoming rows, of a strategy that has some.
    pub(super) incoming: Rows,
    /// What happens when the columns differ.
    pub(super) change: SchemaChange,
    /// Rows of a row group.
    pub(super) row_group_rows: usize,
    /// The size at which files are closed.
    pub(super) file_size: u64,
    /// The strategy.
    pub(super) how: How,
}

/// A strategy with its options.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// `append`; fenced or not.
    Append(bool),
    /// `safeappend`
    SafeAppend,
    /// `overwrite`: whether the schema is kept, whether it is blind.
    Overwrite(bool, bool),
    /// `merge`
    Merge(Box<MergeOptions>),
    /// `full_sync`, with the condition under which missing rows go.
    FullSync(Option<Expr>),
    /// `insert`
    Insert(NullKeys),
    /// `delete_insert`
    DeleteInsert(NullKeys, Option<Expr>),
    /// `replace_where`
    ReplaceWhere(Expr),
    /// `insert_overwrite`
    InsertOverwrite,
    /// `microbatch` by days: the first day and how many.
    Microbatch(i64, i64),
    /// `delete`
    Delete(Option<Expr>),
    /// `update`
    Update(String, Expr, Option<Expr>),
    /// `scd2`
    Scd2,
}

impl Write {
    /// Whether the run has incoming rows.
    pub(super) fn has_source(&self) -> bool {
        !matches!(self.how, How::Delete(_) | How::Update(..))
    }

    /// Whether the run suits a table with these columns.
    pub(super) fn fits(&self, columns: &[Column]) -> bool {
        let clashes = |c: &Column| columns.iter().any(|t| t.name == c.name && t.ty != c.ty);
        self.of.iter().all(|c| columns.contains(c))
            && (matches!(self.how, How::Overwrite(false, _)) || !self.incoming.columns.iter().any(clashes))
    }

    /// The table's columns after the run, unless it is refused.
    fn after(&self, shape: &mut Shape) {
        match self.how {
            How::Overwrite(false, _) => shape.columns.clone_from(&self.incoming.columns),
            _ if self.has_source() && self.change != SchemaChange::Ignore => {
                let new = |c: &&Column| !shape.columns.iter().any(|t| t.name == c.name);
                let added: Vec<Column> = self.incoming.columns.iter().filter(new).cloned().collect();
                shape.columns.extend(added);
            }
            _ => {}
        }
    }
}

fn nulls() -> BoxedStrategy<NullKeys> {
    select(vec![NullKeys::Equal, NullKeys::Distinct, NullKeys::Refuse]).boxed()
}

fn some<T: std::fmt::Debug + Clone + 'static>(e: BoxedStrategy<T>) -> BoxedStrategy<Option<T>> {
    prop::option::weighted(0.7, e).boxed()
}

/// Incoming rows and a strategy for them.
fn sourced(shape: &Shape) -> BoxedStrategy<(Rows, SchemaChange, How)> {
    let needed = |names: &[&str]| incoming(&shape.columns, &shape.pools, names, shape.extra());
    let count = shape.keys.len();
    let table = shape.columns.clone();
    let shared =
        move |rows: &Rows| -> Vec<Column> { rows.columns.iter().filter(|c| table.contains(c)).cloned().collect() };
    let unique = move |(mut rows, change): (Rows, SchemaChange), kind: u8| {
        if !kind.is_multiple_of(8) {
            one_per_key(&mut rows.rows, count);
        }
        (rows, change)
    };
    let plain = (needed(&[]), select(vec![How::Append(false), How::Append(true), How::SafeAppend]))
        .prop_map(|((rows, change), how)| (rows, change, how));
    let keys = shape.keys.clone();
    let both = shared.clone();
    let merge = needed(&["part"])
        .prop_flat_map(move |(rows, change)| {
            let options = merge_options(&both(&rows), &keys);
            (Just((rows, change)), options, any::<u8>())
        })
        .prop_map(|((mut rows, change), mut options, kind)| {
            settle_duplicates(&mut options, &mut rows, kind);
            (rows, change, How::Merge(Box::new(options)))
        });
    let any_row = generate::expression(&shape.columns, true, false);
    let sync = (needed(&["part"]), some(any_row.clone()), any::<u8>()).prop_map(move |(source, condition, kind)| {
        let (rows, change) = unique(source, kind);
        (rows, change, How::FullSync(condition))
    });
    let insert = (needed(&["part"]), nulls(), any::<u8>()).prop_map(move |(source, nulls, kind)| {
        let (rows, change) = unique(source, kind);
        (rows, change, How::Insert(nulls))
    });
    let delete_insert = (needed(&["part"]), nulls(), some(any_row))
        .prop_map(|((rows, change), nulls, condition)| (rows, change, How::DeleteInsert(nulls, condition)));
    let replace_where = needed(&["part"])
        .prop_flat_map(move |(rows, change)| {
            let condition = generate::expression(&shared(&rows), true, false);
            (Just((rows, change)), condition, prop::bool::weighted(0.9))
        })
        .prop_map(|((rows, change), condition, inside)| {
            // A row outside is refused; mostly there is none.
            let rows = if inside { rows.filter(&condition).unwrap_or(rows) } else { rows };
            (rows, change, How::ReplaceWhere(condition))
        });
    let microbatch = (needed(&["part", "at"]), -3_i64..3, 1_i64..4)
        .prop_map(|((rows, change), day, count)| (rows, change, How::Microbatch(day, count)));
    let kept = (needed(&["part"]), any::<bool>()).prop_map(|((r, change), b)| (r, change, How::Overwrite(true, b)));
    let partitions = if shape.partition_by.is_empty() {
        kept.boxed()
    } else {
        let whole = needed(&["part"]).prop_map(|(rows, change)| (rows, change, How::InsertOverwrite)).boxed();
        prop_oneof![1 => kept, 2 => whole].boxed()
    };
    prop_oneof![
        3 => plain,
        5 => merge,
        1 => sync,
        1 => insert,
        1 => delete_insert,
        1 => replace_where,
        1 => microbatch,
        1 => partitions,
        1 => rebuilt(shape),
    ]
    .boxed()
}

/// An overwrite that may change the columns.
fn rebuilt(shape: &Shape) -> BoxedStrategy<(Rows, SchemaChange, How)> {
    let names = ["v", "größe", "Target", "order"];
    let columns: Vec<BoxedStrategy<Option<Column>>> = shape
        .columns
        .iter()
        .map(|c| match (names.contains(&c.name.as_str()), shape.extras.contains(c)) {
            (true, _) => {
                let (same, name) = (c.clone(), c.name.clone());
                let other = generate::value_type().prop_map(move |t| Some(Column::new(name.clone(), t)));
                prop_oneof![6 => Just(Some(same)), 1 => Just(None), 1 => other].boxed()
            }
            (_, true) => prop::option::of(Just(c.clone())).boxed(),
            _ => Just(Some(c.clone())).boxed(),
        })
        .collect();
    let pools = shape.pools.clone();
    (columns, any::<bool>())
        .prop_flat_map(move |(columns, blind)| {
            let columns: Vec<Column> = columns.into_iter().flatten().collect();
            let rows = prop::collection::vec(generate::row(&columns, &pools), 0..10);
            (Just((columns, blind)), rows)
        })
        .prop_map(|((columns, blind), mut rows)| {
            generate::number(&columns, &mut rows, 1000);
            (Rows::new(columns, rows), SchemaChange::Ignore, How::Overwrite(false, blind))
        })
        .boxed()
}

/// Changes of rows that are there.
fn changes(shape: &Shape) -> BoxedStrategy<How> {
    let condition = some(generate::expression(&shape.columns, true, false));
    // The columns of a history are its own business.
    let source = shape.source();
    let settable: Vec<Column> = source.iter().filter(|c| shape.history.is_none() || c.name == "v").cloned().collect();
    let set = select(settable).prop_flat_map(|c| {
        let literal = if c.name == "part" { generate::partition_value(&c.ty) } else { value(&c.ty) };
        (Just(c.name.clone()), prop_oneof![3 => literal.prop_map(Expr::Literal), 1 => Just(Expr::Target(c.name))])
    });
    prop_oneof![
        1 => condition.clone().prop_map(How::Delete),
        1 => (set, condition).prop_map(|((c, v), e)| How::Update(c, v, e)),
    ]
    .boxed()
}

/// The rows of a run of a history: unique ids, times that mostly go forward.
fn versions(shape: &Shape) -> BoxedStrategy<(Rows, SchemaChange, How)> {
    const DAY: i64 = 86_400_000_000;
    let columns = shape.source();
    let row = (0_i64..5, prop::option::weighted(0.8, 0_i64..3), 1_i64..30);
    prop::collection::vec(row, 0..5)
        .prop_map(move |rows| {
            let mut rows: Vec<Vec<Value>> = rows
                .into_iter()
                .map(|(id, v, day)| vec![Value::Int(id), Value::from(v), Value::Timestamp((18_262 + day) * DAY)])
                .collect();
            one_per_key(&mut rows, 1);
            (Rows::new(columns.clone(), rows), SchemaChange::Ignore, How::Scd2)
        })
        .boxed()
}

/// A run.
pub(super) fn write(shape: &Shape) -> BoxedStrategy<Write> {
    let empty = Rows::new(Vec::new(), Vec::new());
    let sourced = if shape.history.is_some() { versions(shape) } else { sourced(shape) };
    let change = changes(shape).prop_map(move |how| (empty.clone(), SchemaChange::Ignore, how));
    let of = shape.columns.clone();
    let files = (select(vec![1_usize, 3, 1000]), select(vec![1_500_u64, 1 << 20, 1 << 20]));
    (0..ACTORS, prop_oneof![4 => sourced, 1 => change], files)
        .prop_map(move |(actor, (incoming, change, how), (row_group_rows, file_size))| Write {
            actor,
            of: of.clone(),
            incoming,
            change,
            row_group_rows,
            file_size,
            how,
        })
        .boxed()
}

fn race(shape: &Shape) -> BoxedStrategy<Step> {
    let moments = select(vec![Moment::Pinned, Moment::Stage, Moment::Rewrite, Moment::Commit]);
    let winner = prop_oneof![
        6 => write(shape).prop_map(|w| Winner::Write(Box::new(w))),
        1 => Just(Winner::Compact),
        1 => Just(Winner::ZOrder),
    ];
    (write(shape), moments, prop::collection::vec(winner, 1..3))
        .prop_map(|(loser, moment, mut winners)| {
            // A session runs one job at a time: the others are others.
            for winner in &mut winners {
                if let Winner::Write(write) = winner
                    && write.actor == loser.actor
                {
                    write.actor = (write.actor + 1) % ACTORS;
                }
            }
            match loser.how {
                // Its windows are several runs, and the moment may come in any of them.
                How::Microbatch(..) => Step::Write(loser),
                _ => Step::Race { loser, moment, winners },
            }
        })
        .boxed()
}

/// A step on a table.
pub(super) fn step(shape: &Shape) -> BoxedStrategy<Step> {
    let upkeep = select(vec![
        Upkeep::Compact,
        Upkeep::Compact,
        Upkeep::ZOrder,
        Upkeep::Vacuum,
        Upkeep::Checkpoint,
        Upkeep::Checkpoint,
        Upkeep::CleanLog,
    ]);
    let of = shape.columns.clone();
    let filter = (0..ACTORS, any::<Index>(), generate::expression(&shape.columns, true, false))
        .prop_map(move |(actor, version, condition)| Step::Filter { actor, version, condition, of: of.clone() });
    prop_oneof![
        10 => write(shape).prop_map(Step::Write),
        5 => race(shape),
        3 => upkeep.prop_map(Step::Maintain),
        1 => prop::collection::vec(any::<Index>(), 1..4).prop_map(Step::Vectors),
        3 => filter,
        1 => any::<Index>().prop_map(Step::Travel),
    ]
    .boxed()
}

/// The generator of sequences. The model of the rows is not here: it follows what really happens, see [`super::World`].
#[derive(Debug)]
pub(super) struct Sequence;

impl ReferenceStateMachine for Sequence {
    type State = Shape;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Shape> {
        shape()
    }

    fn transitions(state: &Shape) -> BoxedStrategy<Step> {
        step(state)
    }

    fn apply(mut state: Shape, transition: &Step) -> Shape {
        match transition {
            Step::Write(write) => write.after(&mut state),
            Step::Race { winners, .. } => {
                for winner in winners {
                    if let Winner::Write(write) = winner
                        && write.fits(&state.columns)
                    {
                        write.after(&mut state);
                    }
                }
            }
            _ => {}
        }
        state
    }
}

/// Whether a run may hand on another zero than the stored one, because the engine joins on floats.
pub(super) fn joins_floats(write: &Write) -> bool {
    let float = |name: &String| write.of.iter().any(|c| c.name == *name && matches!(c.ty, Type::Float | Type::Double));
    let keys = |options: &MergeOptions| options.keys.iter().any(float);
    match &write.how {
        How::Merge(options) => !options.predicates.is_empty() || keys(options),
        How::FullSync(_) | How::Insert(_) | How::DeleteInsert(..) => true,
        _ => false,
    }
}

/// What a `full_sync` is in the model.
pub(super) fn full_sync(keys: &[String], condition: Option<&Expr>) -> MergeOptions {
    MergeOptions { by_source: Some(BySource::Delete(condition.cloned())), ..MergeOptions::on(keys.to_vec()) }
}
