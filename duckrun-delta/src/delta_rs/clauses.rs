//! From the clauses of a plan to those of delta-rs, which knows neither "do nothing" nor "leave alone what is as it should be".

use arrow::datatypes::{DataType, Schema, SchemaRef};
use deltalake::datafusion::common::tree_node::{Transformed, TreeNode};
use deltalake::datafusion::common::{Column, DFSchema, ScalarValue};
use deltalake::datafusion::execution::SessionState;
use deltalake::datafusion::logical_expr::utils::{conjunction, disjunction};
use deltalake::datafusion::logical_expr::{Expr as Logical, Operator, lit};
use deltalake::datafusion::prelude::DataFrame;
use deltalake::operations::merge::{DeleteBuilder, InsertBuilder, MergeBuilder, UpdateBuilder};
use deltalake::{DeltaResult, DeltaTable};
use duckrun_core::{Assignment, Clause, Error, MergePlan, NullKeys, Result, Snapshot, Then, When};

use super::expr::{Computed, Prepared, SOURCE, TARGET, column, comparable, operation, schema_of};
use crate::snapshot::DeltaSnapshot;

/// The clauses of a plan, but for what DuckDB has to compute first.
#[derive(Debug)]
pub(super) struct Clauses {
    pub(super) computed: Computed,
    predicates: Vec<Prepared>,
    clauses: Vec<(When, Option<Prepared>, Action<Prepared>)>,
}

/// What a clause does, over expressions of some stage.
#[derive(Debug, Clone)]
enum Action<E> {
    Update(Vec<(String, E)>),
    Insert(Vec<(String, E)>),
    Delete,
    Nothing,
}

/// What delta-rs is to do.
#[derive(Debug)]
pub(super) enum Work {
    Delete(Option<Logical>),
    Update { predicate: Option<Logical>, set: Vec<(String, Logical)> },
    Merge(Merged),
}

/// A merge in delta-rs's terms.
#[derive(Debug)]
pub(super) struct Merged {
    on: Logical,
    clauses: Vec<(When, Option<Logical>, Action<Logical>)>,
    /// Whether delta-rs may rule files out by what the condition says about their columns.
    prune: bool,
}

impl Clauses {
    /// The SQL texts of a clause.
    pub(super) fn texts(clause: &Clause) -> Vec<&str> {
        let assigned: &[Assignment] = match &clause.then {
            Then::Update(a) | Then::Insert(a) => a,
            _ => &[],
        };
        assigned.iter().map(|a| &a.value).chain(&clause.condition).map(|e| e.sql.as_str()).collect()
    }

    /// Parses every expression and sorts out what DuckDB computes.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](duckrun_core::ErrorKind::Unsupported) for an expression that DataFusion would compute differently.
    pub(super) fn prepare(merge: &MergePlan, at: &DeltaSnapshot, schema: &SchemaRef) -> Result<Self> {
        let (mut computed, incoming) = (Computed::default(), merge.incoming.as_ref());
        if merge.source {
            computed.used.extend(merge.keys.iter().cloned());
        }
        let predicates = merge
            .predicates
            .iter()
            .map(|p| computed.prepare(p, merge.source, incoming, &DataType::Boolean))
            .collect::<Result<_>>()?;
        let table = at.schema();
        let mut clauses = Vec::new();
        for clause in &merge.clauses {
            let source = merge.source && clause.when != When::NotMatchedBySource;
            let condition = match &clause.condition {
                Some(e) => Some(computed.prepare(e, source, incoming, &DataType::Boolean)?),
                None => None,
            };
            let mut assigned = |list: &[Assignment]| -> Result<Vec<(String, Prepared)>> {
                let one = |a: &Assignment| {
                    let field = table.field_with_name(&a.column).or_else(|_| schema.field_with_name(&a.column));
                    let field = field
                        .map_err(|_| Error::invalid(format!("a clause sets {:?}, which the table lacks", a.column)))?;
                    Ok((a.column.clone(), computed.prepare(&a.value, source, incoming, field.data_type())?))
                };
                list.iter().map(one).collect()
            };
            let action = match &clause.then {
                Then::Update(list) => Action::Update(assigned(list)?),
                Then::Insert(list) => Action::Insert(assigned(list)?),
                Then::Delete => Action::Delete,
                Then::Nothing => Action::Nothing,
                other => return Err(Error::unsupported(format!("delta-rs does not carry out {other:?}"))),
            };
            clauses.push((clause.when, condition, action));
        }
        Ok(Self { computed, predicates, clauses })
    }

    /// Makes expressions of DataFusion of everything, and decides by which operation they are carried out.
    ///
    /// # Errors
    /// As [`Prepared::finish`].
    pub(super) fn finish(
        self,
        merge: &MergePlan,
        state: &SessionState,
        target: &Schema,
        source: &Schema,
        constants: &[ScalarValue],
    ) -> Result<Work> {
        let schema = schema_of(target, source, constants)?;
        let finish = Finish { state, schema: &schema, constants, skip_unchanged: merge.skip_unchanged };
        let mut on = keys_equal(merge, target)?;
        for predicate in &self.predicates {
            on.push(finish.one(predicate)?);
        }
        let mut clauses = Vec::new();
        for when in [When::Matched, When::NotMatched, When::NotMatchedBySource] {
            finish.exclusive(when, &self.clauses, &mut clauses)?;
        }
        let prune = merge.null_keys != NullKeys::Equal && on.iter().all(|e| exact(e, target));
        if !merge.source
            && let [(_, condition, action)] = clauses.as_slice()
            && condition.as_ref().is_none_or(|c| exact(c, target))
        {
            match action {
                Action::Delete => return Ok(Work::Delete(condition.clone().map(unqualified).transpose()?)),
                Action::Update(set) => {
                    let set = set.iter().map(|(c, e)| Ok((c.clone(), unqualified(e.clone())?)));
                    return Ok(Work::Update {
                        predicate: condition.clone().map(unqualified).transpose()?,
                        set: set.collect::<Result<_>>()?,
                    });
                }
                _ => {}
            }
        }
        // Without keys nothing matches.
        let on = match merge.source && !merge.keys.is_empty() {
            true => conjunction(on).unwrap_or_else(|| lit(false)),
            false => lit(false),
        };
        Ok(Work::Merge(Merged { on, clauses, prune }))
    }
}

/// What is needed to finish expressions.
struct Finish<'a> {
    state: &'a SessionState,
    schema: &'a DFSchema,
    constants: &'a [ScalarValue],
    skip_unchanged: bool,
}

impl Finish<'_> {
    fn one(&self, prepared: &Prepared) -> Result<Logical> {
        prepared.finish(self.state, self.schema, self.constants)
    }

    fn all(&self, list: &[(String, Prepared)]) -> Result<Vec<(String, Logical)>> {
        list.iter().map(|(c, e)| Ok((c.clone(), self.one(e)?))).collect()
    }

    /// The clauses of a kind, with conditions that keep a later clause from a row that an earlier one leaves as it is.
    fn exclusive(
        &self,
        when: When,
        clauses: &[(When, Option<Prepared>, Action<Prepared>)],
        out: &mut Vec<(When, Option<Logical>, Action<Logical>)>,
    ) -> Result<()> {
        let mut settled: Vec<Logical> = Vec::new();
        for (_, condition, action) in clauses.iter().filter(|(w, ..)| *w == when) {
            let own = match condition {
                Some(e) => Some(Logical::IsTrue(Box::new(self.one(e)?))),
                None => None,
            };
            let mut all: Vec<Logical> = own.iter().cloned().collect();
            all.extend(settled.iter().cloned().map(|e| Logical::Not(Box::new(e))));
            let action = match action {
                Action::Nothing => Action::Nothing,
                Action::Delete => Action::Delete,
                Action::Insert(list) => Action::Insert(self.all(list)?),
                Action::Update(list) => {
                    let list = self.all(list)?;
                    if let Some(changed) = self.changed(&list) {
                        all.push(changed);
                    }
                    Action::Update(list)
                }
            };
            let holds_back = matches!(action, Action::Nothing | Action::Update(_));
            if !matches!(action, Action::Nothing) {
                out.push((when, conjunction(all), action));
            }
            match own {
                Some(own) if holds_back => settled.push(own),
                Some(_) => {}
                // Nothing passes a clause without a condition.
                None => break,
            }
        }
        Ok(())
    }

    /// Whether an assignment changes anything; `None` where that is not asked.
    fn changed(&self, list: &[(String, Logical)]) -> Option<Logical> {
        if !self.skip_unchanged {
            return None;
        }
        let differs =
            |(c, value): &(String, Logical)| operation(column(TARGET, c), Operator::IsDistinctFrom, value.clone());
        disjunction(list.iter().map(differs))
    }
}

impl Merged {
    /// The merge, ready to run but for session, commit and writer.
    ///
    /// # Errors
    /// delta-rs's.
    pub(super) fn build(self, table: DeltaTable, source: DataFrame) -> DeltaResult<MergeBuilder> {
        let mut builder = table.merge(source, self.on).with_source_alias(SOURCE).with_target_alias(TARGET);
        let by_source = self.clauses.iter().any(|(when, ..)| *when == When::NotMatchedBySource);
        for (when, condition, action) in self.clauses {
            builder = match (when, action) {
                (When::Matched, Action::Update(set)) => builder.when_matched_update(|b| update(b, condition, set))?,
                (When::Matched, _) => builder.when_matched_delete(|b| delete(b, condition))?,
                (When::NotMatched, Action::Insert(set)) => {
                    builder.when_not_matched_insert(|b| insert(b, condition, set))?
                }
                (When::NotMatchedBySource, Action::Update(set)) => {
                    builder.when_not_matched_by_source_update(|b| update(b, condition, set))?
                }
                (When::NotMatchedBySource, _) => builder.when_not_matched_by_source_delete(|b| delete(b, condition))?,
                (When::NotMatched, _) => builder,
            };
        }
        if !self.prune && !by_source {
            // A clause about rows without an incoming one is what keeps delta-rs from ruling files out (UPSTREAM: its statistics of
            // decimals are floats, those of timestamps cut to milliseconds). This one never applies.
            builder = builder.when_not_matched_by_source_delete(|b| b.predicate(lit(false)))?;
        }
        Ok(builder)
    }
}

fn target_column(name: String) -> Column {
    Column::new(Some(TARGET), name)
}

fn update(mut builder: UpdateBuilder, condition: Option<Logical>, set: Vec<(String, Logical)>) -> UpdateBuilder {
    if let Some(condition) = condition {
        builder = builder.predicate(condition);
    }
    set.into_iter().fold(builder, |b, (c, value)| b.update(target_column(c), value))
}

fn insert(mut builder: InsertBuilder, condition: Option<Logical>, set: Vec<(String, Logical)>) -> InsertBuilder {
    if let Some(condition) = condition {
        builder = builder.predicate(condition);
    }
    set.into_iter().fold(builder, |b, (c, value)| b.set(target_column(c), value))
}

fn delete(builder: DeleteBuilder, condition: Option<Logical>) -> DeleteBuilder {
    match condition {
        Some(condition) => builder.predicate(condition),
        None => builder,
    }
}

/// One condition per key.
fn keys_equal(merge: &MergePlan, target: &Schema) -> Result<Vec<Logical>> {
    if !merge.source {
        return Ok(Vec::new());
    }
    let op = if merge.null_keys == NullKeys::Equal { Operator::IsNotDistinctFrom } else { Operator::Eq };
    let one = |key: &String| {
        let field = target
            .field_with_name(key)
            .map_err(|_| Error::invalid(format!("the key {key:?} is no column of the table")))?;
        let side = |qualifier| comparable(column(qualifier, key), field.data_type());
        Ok(operation(side(TARGET), op, side(SOURCE)))
    };
    merge.keys.iter().map(one).collect()
}

/// Whether every column of the table in an expression has statistics that are exact, so that files may be ruled out by it.
fn exact(e: &Logical, target: &Schema) -> bool {
    let exact = |ty: &DataType| ty.is_signed_integer() || matches!(ty, DataType::Date32 | DataType::Boolean);
    e.column_refs()
        .into_iter()
        .filter(|c| c.relation.as_ref().is_some_and(|r| r.table() == TARGET))
        .all(|c| target.field_with_name(&c.name).is_ok_and(|f| exact(f.data_type())))
}

/// The same expression for an operation without a source.
fn unqualified(e: Logical) -> Result<Logical> {
    let strip = |e: Logical| {
        Ok(match e {
            Logical::Column(c) => Transformed::yes(Logical::Column(Column::new_unqualified(c.name))),
            e => Transformed::no(e),
        })
    };
    let stripped = e.transform_up(strip).map_err(|e| Error::internal("an expression").with_source(e))?;
    Ok(stripped.data)
}
