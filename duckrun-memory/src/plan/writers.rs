//! How the writer's share is spent: first one writer for each processor, because encoding parquet dominates every write,
//! then larger row groups.

use super::constants::{
    ENCODING_TENTHS, ROW_GROUP_CEILING, ROW_GROUP_ROWS, UPLOAD_PART, UPLOADS_PER_WRITER, VECTOR_ROWS,
};

/// The writers that fit in a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writers {
    pub(super) count: usize,
    pub(super) row_group_bytes: u64,
    pub(super) row_group_rows: usize,
    pub(super) uploads: usize,
}

impl Writers {
    /// The share beyond which more memory would not make `most` writers faster.
    pub(super) fn ceiling(most: usize) -> u64 {
        (ROW_GROUP_CEILING + UPLOADS_PER_WRITER as u64 * UPLOAD_PART).saturating_mul(most as u64)
    }

    /// At most `most` writers, each with at least `floor` bytes where the share holds so much.
    pub(super) fn within(share: u64, floor: u64, most: usize, row_width: u64) -> Self {
        let fed = usize::try_from(share / floor.max(1)).unwrap_or(usize::MAX);
        let count = fed.clamp(1, most.max(1));
        let each = share / count as u64;
        // A sixth for uploads: one part at the floor, all four once the row group is near its ceiling.
        let uploads = (each / 6 / UPLOAD_PART).clamp(1, UPLOADS_PER_WRITER as u64);
        let row_group_bytes = each.saturating_sub(uploads * UPLOAD_PART).min(ROW_GROUP_CEILING);
        Self {
            count,
            row_group_bytes,
            row_group_rows: rows(row_group_bytes, row_width),
            uploads: uploads as usize * count,
        }
    }
}

/// Whole vectors of rows whose encoding takes no more than `bytes`, one vector at least.
fn rows(bytes: u64, row_width: u64) -> usize {
    let arrow = bytes / ENCODING_TENTHS * 10;
    let rows = usize::try_from(arrow / row_width.max(1)).unwrap_or(usize::MAX).min(ROW_GROUP_ROWS);
    (rows / VECTOR_ROWS).max(1) * VECTOR_ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    #[test]
    fn the_floor_holds_a_row_group_of_duckdb() {
        let floor = super::super::constants::WRITER_FLOOR;
        let writers = Writers::within(floor, floor, 8, super::super::constants::ROW_WIDTH);
        assert_eq!((writers.count, writers.uploads, writers.row_group_bytes), (1, 1, 40 * MIB));
        assert!(writers.row_group_rows >= 122_880, "{writers:?}");
    }

    #[test]
    fn wide_rows_make_small_groups_but_never_empty_ones() {
        assert_eq!(rows(40 * MIB, 1 << 40), VECTOR_ROWS);
        assert_eq!(rows(u64::MAX, 1), ROW_GROUP_ROWS);
    }
}
