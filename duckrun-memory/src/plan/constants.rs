//! Every number behind a plan, each with where it comes from.
//!
//! "Upstream" is what was measured with `duckdb` 1.20000.1 (DuckDB 2.0.0) and `deltalake` 1.1.2 on two cores, before this
//! project: the figures of its notes on those libraries. The suite `memory` of `duckrun-bench` runs jobs in real control
//! groups and is where to measure again when a version changes.

use crate::{GIB, MIB};

/// The process before any job. Upstream: 60 to 80 MB resident with DataFusion and a runtime linked in.
pub const PROCESS_FLOOR: u64 = 80 * MIB;

/// DuckDB's `memory_limit` at least. Upstream: a sort of 20 million rows ends in 100 MB with one thread.
pub const ENGINE_FLOOR: u64 = 100 * MIB;

/// What one more thread of DuckDB needs. Upstream: the same sort needs 200 MB with two threads.
pub const ENGINE_PER_THREAD: u64 = 100 * MIB;

/// What DuckDB takes beyond its limit. Upstream: 60 to 90 MB, for exported Arrow buffers are plain `malloc` and are not
/// counted.
pub const RESERVE_FLOOR: u64 = 90 * MIB;

/// The reserve grows with the limit up to this, for the overshoot grows with threads and rows in flight, not with the data.
pub const RESERVE_CEILING: u64 = 768 * MIB;

/// One writer: a row group of 122,880 rows by 16 columns (20 to 40 MB upstream) and one upload part.
pub const WRITER_FLOOR: u64 = 48 * MIB;

/// A writer's row group at most. Upstream: the default of 1,048,576 rows took 187 MB more than 122,880 rows did. Larger
/// groups make no file better.
pub const ROW_GROUP_CEILING: u64 = 192 * MIB;

/// One part of an upload in flight. The smallest that S3 takes is 5 MiB.
pub const UPLOAD_PART: u64 = 8 * MIB;

/// Uploads in flight for each writer at most: more do not make one file's upload faster.
pub const UPLOADS_PER_WRITER: usize = 4;

/// Memory of an encoder per byte of Arrow data in the row group, in tenths. Upstream: 925,696 more rows of 165 bytes in a
/// group cost 187 MB, which is 1.22; the rest is caution.
pub const ENCODING_TENTHS: u64 = 13;

/// Bytes per row where the caller gives no hint: sixteen columns of a dozen bytes.
pub const ROW_WIDTH: u64 = 200;

/// Rows come from DuckDB in vectors of this many; row groups are whole vectors.
pub const VECTOR_ROWS: usize = 2_048;

/// The rows of a row group at most, parquet's usual default.
pub const ROW_GROUP_ROWS: usize = 1_048_576;

/// delta-rs rewriting files: decoded batches of a few files at a time.
pub const DELTA_RS_FLOOR: u64 = 64 * MIB;

/// delta-rs's merge, below which nothing but toys completes. Upstream: it cannot spill and buffers scanned files outside
/// its pool.
pub const DELTA_RS_MERGE_FLOOR: u64 = GIB / 4;
