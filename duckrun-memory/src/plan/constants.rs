//! Every number behind a plan, each with where it comes from.
//!
//! "Measured" is what suite `floors` of `duckrun-bench` found with `duckdb` 1.20000.1 (DuckDB 2.0.0) and `deltalake` 1.1.2 on two
//! cores, as anonymous memory, which no kernel can take back. "Upstream" is what was known of those libraries before. Suite
//! `memory` holds the sums: it runs jobs in control groups of the kernel. Both are to be run again when a version changes.

use crate::{GIB, MIB};

/// The process before any job. Measured: 13 MiB for a session that answers `select 1`. What is left is for a program around it,
/// and for the pages of its code, which count in a control group while they are in use (upstream: 60 to 80 MB resident).
pub const PROCESS_FLOOR: u64 = 80 * MIB;

/// DuckDB's `memory_limit` at least. Measured: a sort of 20 million rows of 16 bytes needs 60 MiB with one thread (40 were not
/// enough); rows are often wider.
pub const ENGINE_FLOOR: u64 = 100 * MIB;

/// What one more thread of DuckDB is given. Measured: 20 MiB more let the same sort run with two threads; upstream it took 100
/// with wider rows, and a thread more is worth less than a run that fails.
pub const ENGINE_PER_THREAD: u64 = 100 * MIB;

/// What DuckDB takes beyond its limit, for exported Arrow buffers are plain `malloc` and are not counted. Measured: 20 to 35 MiB
/// in a sort, 42 while a result is streamed; upstream: up to 90 with wide rows.
pub const RESERVE_FLOOR: u64 = 90 * MIB;

/// The reserve grows with the limit up to this, for the overshoot grows with threads and rows in flight, not with the data.
pub const RESERVE_CEILING: u64 = 768 * MIB;

/// One writer: a row group of 122,880 rows by 16 columns, and one upload part. Measured: a second writer took 28 MiB.
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

/// delta-rs's merge, below which nothing but toys completes: it cannot spill and buffers scanned files outside its pool.
/// Measured: a merge of 1 % into six million rows held 219 MiB.
pub const DELTA_RS_MERGE_FLOOR: u64 = GIB / 4;
