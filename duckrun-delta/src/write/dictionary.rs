//! Whether a column of a row group gains from a dictionary, guessed from a sample before anything is encoded.
//!
//! parquet would begin every column with a dictionary and give up once the dictionary page is full; at 122,880 rows a column
//! of distinct BIGINTs never fills it, and is stored twice over: as dictionary and as indices.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

/// Values looked at in a row group.
const SAMPLE: usize = 2_048;

/// Whether to try a dictionary for a flat column: yes, unless more than seven tenths of the sampled values are distinct,
/// which is about 2,700 distinct values in a row group.
///
/// Measured on 6 million lineitem-like rows (ZSTD 1, CPU seconds of process, DuckDB included): limits of 5, 7 and 8
/// tenths cost the same within noise (5.1 to 5.3), but with 5 the three dates (2,500 values) go without and the files
/// take 145 MB, not 136; with 10, that is for nearly every column, they take 141 MB.
pub(super) fn worth_a_dictionary(pieces: &[ArrayRef], rows: usize) -> bool {
    // The step is odd, so that it does not fall into step with values that repeat every so many rows.
    let step = (rows / SAMPLE) | 1;
    let mut distinct = Distinct::default();
    let mut row = 0_usize;
    for piece in pieces {
        if !distinct.sample(piece, row, step) {
            return true;
        }
        let len = piece.len();
        row = if row >= len { row - len } else { (step - (len - row) % step) % step };
    }
    distinct.sampled < 64 || distinct.found * 10 <= distinct.sampled * 7
}

/// Counts distinct values in a bitmap of their hashes: 2,048 values in 65,536 bits collide 1.5 times in a hundred.
struct Distinct {
    bits: [u64; 1_024],
    found: usize,
    sampled: usize,
}

impl Default for Distinct {
    fn default() -> Self {
        Self { bits: [0; 1_024], found: 0, sampled: 0 }
    }
}

impl Distinct {
    fn add(&mut self, value: &[u8]) {
        let (words, rest) = value.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let hash = words.iter().chain([&last]).fold(value.len() as u64, |hash, word| {
            let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^ (mixed >> 29)
        });
        let hash = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let (word, bit) = ((hash >> 54) as usize, 1 << ((hash >> 48) & 63));
        self.found += usize::from(self.bits[word] & bit == 0);
        self.bits[word] |= bit;
        self.sampled += 1;
    }

    /// Samples every `step`th row from `row` on; `false` for types that are left to parquet's own judgement.
    fn sample(&mut self, array: &ArrayRef, row: usize, step: usize) -> bool {
        let rows = (row..array.len()).step_by(step).filter(|i| array.is_valid(*i));
        match array.data_type() {
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                rows.for_each(|i| self.add(values.value(i).as_bytes()));
            }
            DataType::LargeUtf8 => {
                let values = array.as_string::<i64>();
                rows.for_each(|i| self.add(values.value(i).as_bytes()));
            }
            DataType::Utf8View => {
                let values = array.as_string_view();
                rows.for_each(|i| self.add(values.value(i).as_bytes()));
            }
            fixed => {
                let Some(width) = fixed.primitive_width() else { return false };
                let data = array.to_data();
                let Some(values) = data.buffers().first() else { return false };
                for i in rows {
                    let start = (data.offset() + i) * width;
                    if let Some(value) = values.as_slice().get(start..start + width) {
                        self.add(value);
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    fn ints(of: impl Fn(i64) -> i64) -> Vec<ArrayRef> {
        let piece = |p: i64| Arc::new((p * 2_048..(p + 1) * 2_048).map(&of).collect::<Int64Array>()) as ArrayRef;
        (0..60).map(piece).collect()
    }

    #[test]
    fn distinct_values_get_none_and_repeated_ones_get_one() {
        let rows = 60 * 2_048;
        assert!(!worth_a_dictionary(&ints(|i| i), rows));
        assert!(worth_a_dictionary(&ints(|i| i % 500), rows));
        assert!(worth_a_dictionary(&ints(|i| i / 4096), rows));
        let text: ArrayRef = Arc::new((0..4_096).map(|i| Some(format!("text {i}"))).collect::<StringArray>());
        assert!(!worth_a_dictionary(&[text], 4_096));
        assert!(worth_a_dictionary(&[arrow::array::new_null_array(&DataType::Utf8, 10)], 10));
    }
}
