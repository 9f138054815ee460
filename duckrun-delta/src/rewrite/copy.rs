//! Column chunks taken into the new file as they are, and what may be said about them.
//!
//! The invariant: a chunk is taken only where our writer would describe its column in exactly the same words, so that
//! every reader of the new footer decodes it as it did with the old one; and of the old footer's statistics only those are
//! taken that cannot lie.
//!
//! A chunk keeps its codec, whatever the write asks for: a file may mix them, and compaction makes them one. Bloom filters and
//! page indexes stay behind with the old file.

use duckrun_core::Result;
use parquet::basic::ColumnOrder;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::{Statistics, ValueStatistics};
use serde_json::Value;

use super::column::{Done, Encoder, Task, encode_error};
use crate::scan::{Fetched, OpenFile};
use crate::snapshot::LiveFile;
use crate::write::layout::Layout;
use crate::write::sink::Part;
use crate::write::stats::{Counts, Measure, StatKind};

/// For each column of the layout whether its chunks in this file may be taken.
pub(super) fn copyable(layout: &Layout, encoders: &[Encoder], file: &OpenFile) -> Vec<bool> {
    let theirs = file.metadata().file_metadata().schema_descr();
    let ours = &layout.parquet;
    let same = |(column, encoder): (&crate::write::layout::Column, &Encoder)| {
        let Some(root) = file.root(column.position) else { return false };
        let leaves = file.leaves(root);
        leaves.len() == column.leaves
            // The whole tree above the leaves, and the leaves with their levels.
            && theirs.get_column_root(leaves.start) == ours.get_column_root(encoder.leaf)
            && leaves.zip(encoder.leaf..).all(|(a, b)| theirs.column(a) == ours.column(b))
    };
    layout.columns.iter().zip(encoders).map(same).collect()
}

/// For each leaf of the layout whether the log's statistics prove that the file has no NaN and no infinity there. Only our own
/// writer's are known to leave the bounds out otherwise.
pub(super) fn finite(layout: &Layout, live: &LiveFile, footer: &ParquetMetaData) -> Vec<bool> {
    let mut finite = vec![false; layout.leaves];
    let ours = footer.file_metadata().created_by().is_some_and(|by| by.contains("duckrun"));
    let stats: Option<Value> = live.stats.as_deref().filter(|_| ours).and_then(|s| serde_json::from_str(s).ok());
    let Some(stats) = stats else { return finite };
    let has = |side: &str, keys: &[String]| {
        keys.iter().try_fold(&stats[side], |value, key| value.get(key)).is_some_and(|bound| !bound.is_null())
    };
    for column in &layout.stats {
        if let Measure::Leaf(leaf) = column.measure {
            finite[leaf] = has("minValues", &column.keys) && has("maxValues", &column.keys);
        }
    }
    finite
}

/// The chunks of a root column, with honest statistics; `None` where their place in the file cannot be trusted.
pub(super) fn copy(task: &Task, root: usize, fetched: Fetched) -> Result<Option<Done>> {
    let (file, encoder) = (&task.input.file, &task.shared.encoders[task.column]);
    let group = file.metadata().row_group(task.segment.group);
    let (mut parts, mut bytes, mut decode) = (Vec::new(), 0, false);
    for (leaf, ours) in file.leaves(root).zip(encoder.leaf..) {
        let chunk = group.column(leaf);
        let data = chunk.data_page_offset();
        let placed = chunk.dictionary_page_offset().is_none_or(|dictionary| (4..data).contains(&dictionary));
        if !placed || chunk.file_path().is_some() || group.num_rows() < 1 {
            return Ok(None);
        }
        let order = file.metadata().file_metadata().column_order(leaf);
        let described = task.shared.layout.stats.iter().find(|s| s.measure == Measure::Leaf(ours));
        let metadata = described_honestly(chunk, order)?;
        let floats = described.is_some_and(|s| s.kind == StatKind::Float);
        let ranged = metadata.statistics().is_some_and(|s| s.min_bytes_opt().is_some());
        decode |= floats && ranged && !task.input.finite[ours];
        let close = ColumnCloseResult {
            bytes_written: chunk.compressed_size().unsigned_abs(),
            rows_written: group.num_rows().unsigned_abs(),
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        bytes += close.bytes_written;
        parts.push(Part::Copied(fetched.clone(), Box::new(close)));
    }
    let column = &task.shared.layout.columns[task.column];
    let counters = encoder.counter..encoder.counter + column.counters;
    let counted = |measure| matches!(measure, Measure::Counter(i) if counters.contains(&i));
    decode |= task.shared.layout.stats.iter().any(|s| counted(s.measure));
    let counts = match decode {
        true => task.count(fetched)?,
        false => Counts::new(column.counters, column.leaves),
    };
    Ok(Some(Done { parts, counts, bytes, changed: Vec::new() }))
}

/// The chunk's metadata without bounds that are in an order nobody defined.
fn described_honestly(chunk: &ColumnChunkMetaData, order: ColumnOrder) -> Result<ColumnChunkMetaData> {
    use Statistics as S;
    let Some(statistics) = chunk.statistics() else { return Ok(chunk.clone()) };
    // Old and undefined orders are signed, which is the right one for numbers (ours are never unsigned).
    let signed = matches!(statistics, S::Int32(_) | S::Int64(_) | S::Float(_) | S::Double(_));
    if signed || (!statistics.is_min_max_deprecated() && matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))) {
        return Ok(chunk.clone());
    }
    let nulls = statistics.null_count_opt();
    let without = match statistics {
        S::ByteArray(_) => S::ByteArray(ValueStatistics::<ByteArray>::new(None, None, None, nulls, false)),
        S::FixedLenByteArray(_) => S::FixedLenByteArray(ValueStatistics::new(None, None, None, nulls, false)),
        _ => return chunk.clone().into_builder().clear_statistics().build().map_err(encode_error),
    };
    chunk.clone().into_builder().set_statistics(without).build().map_err(encode_error)
}
