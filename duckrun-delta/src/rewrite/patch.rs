//! A piece of a column with some rows replaced and some left out.
//!
//! The invariant: values of kept rows are copied, never computed; a value counts as changed unless it is the same to the
//! bit, or both are NaN.

use arrow::array::types::ArrowPrimitiveType;
use arrow::array::{Array, ArrayRef, AsArray, MutableArrayData, PrimitiveArray, downcast_primitive_array, make_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type};

use duckrun_core::{Error, Result};

use super::changes::Happens;

/// The new values of one column, for all rows of a patch.
pub(super) struct NewValues {
    pub(super) array: ArrayRef,
    /// Whether a new value that equals the old one counts as none.
    pub(super) compare: bool,
    /// For each row of the patch whether this column changed it.
    pub(super) changed: Vec<bool>,
}

impl NewValues {
    pub(super) fn new(array: ArrayRef, compare: bool) -> Self {
        let changed = vec![false; array.len()];
        Self { array, compare, changed }
    }
}

/// A piece whose first row is `first`, with `events` (all of them within the piece) applied.
pub(super) fn apply(
    piece: &ArrayRef,
    first: u64,
    events: &[(u64, Happens)],
    new: Option<&mut NewValues>,
) -> Result<ArrayRef> {
    if events.is_empty() {
        return Ok(piece.clone());
    }
    let mut cuts = Cuts { kept: 0, list: Vec::with_capacity(2 * events.len() + 1) };
    match new {
        None => {
            for (row, happens) in events {
                if *happens == Happens::Goes {
                    cuts.drop((row - first) as usize);
                }
            }
        }
        Some(new) => {
            let array = new.array.clone();
            let same = new.compare.then(|| equality(piece, &array));
            for (row, happens) in events {
                let at = (row - first) as usize;
                match happens {
                    Happens::Goes => cuts.drop(at),
                    Happens::Update(i) => {
                        if same.as_ref().is_some_and(|same| same(at, *i)) {
                            continue;
                        }
                        new.changed[*i] = true;
                        cuts.replace(at, *i);
                    }
                }
            }
            if let Some(cuts) = cuts.finish(piece.len()) {
                return assemble(piece, Some(&array), &cuts);
            }
            return Ok(piece.clone());
        }
    }
    match cuts.finish(piece.len()) {
        Some(cuts) => assemble(piece, None, &cuts),
        None => Ok(piece.clone()),
    }
}

/// A run of rows of the piece (0) or of the new values (1).
type Cut = (usize, usize, usize);

struct Cuts {
    /// The first row of the piece that is not accounted for.
    kept: usize,
    list: Vec<Cut>,
}

impl Cuts {
    fn keep_until(&mut self, row: usize) {
        if self.kept < row {
            self.list.push((0, self.kept, row));
        }
        self.kept = row;
    }

    fn drop(&mut self, row: usize) {
        self.keep_until(row);
        self.kept = row + 1;
    }

    fn replace(&mut self, row: usize, new: usize) {
        self.drop(row);
        match self.list.last_mut() {
            Some((1, _, end)) if *end == new => *end += 1,
            _ => self.list.push((1, new, new + 1)),
        }
    }

    /// `None` where the piece stays as it is.
    fn finish(mut self, rows: usize) -> Option<Vec<Cut>> {
        self.keep_until(rows);
        (self.list != [(0, 0, rows)]).then_some(self.list)
    }
}

fn assemble(piece: &ArrayRef, new: Option<&ArrayRef>, cuts: &[Cut]) -> Result<ArrayRef> {
    let old = piece.to_data();
    let new = new.map(|n| n.to_data());
    let rows = cuts.iter().map(|(_, from, to)| to - from).sum();
    let mut out = MutableArrayData::new(std::iter::once(&old).chain(&new).collect(), false, rows);
    for (source, from, to) in cuts {
        out.try_extend(*source, *from, *to).map_err(|e| Error::internal(format!("a column cannot be patched: {e}")))?;
    }
    Ok(make_array(out.freeze()))
}

/// Whether a row of one array equals a row of another of the same type.
pub(crate) type Equality<'a> = Box<dyn Fn(usize, usize) -> bool + 'a>;

/// How rows of two arrays of one type are compared: what is equal here counts as unchanged.
pub(crate) fn equality<'a>(old: &'a ArrayRef, new: &'a ArrayRef) -> Equality<'a> {
    let (old_nulls, new_nulls) = (old.logical_nulls(), new.logical_nulls());
    let null = |nulls: &Option<arrow::buffer::NullBuffer>, i| nulls.as_ref().is_some_and(|n| n.is_null(i));
    let values = values_equal(old, new);
    Box::new(move |i, j| match (null(&old_nulls, i), null(&new_nulls, j)) {
        (false, false) => values(i, j),
        (a, b) => a == b,
    })
}

fn values_equal<'a>(old: &'a ArrayRef, new: &'a ArrayRef) -> Equality<'a> {
    fn plain<'a, T: ArrowPrimitiveType>(a: &'a PrimitiveArray<T>, b: &'a ArrayRef) -> Equality<'a> {
        let b = b.as_primitive::<T>();
        Box::new(move |i, j| a.value(i) == b.value(j))
    }
    let old_ref: &dyn Array = old.as_ref();
    match old.data_type() {
        DataType::Float64 => {
            let (a, b) = (old.as_primitive::<Float64Type>(), new.as_primitive::<Float64Type>());
            Box::new(move |i, j| {
                let (a, b) = (a.value(i), b.value(j));
                a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
            })
        }
        DataType::Float32 => {
            let (a, b) = (old.as_primitive::<Float32Type>(), new.as_primitive::<Float32Type>());
            Box::new(move |i, j| {
                let (a, b) = (a.value(i), b.value(j));
                a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
            })
        }
        DataType::Boolean => {
            let (a, b) = (old.as_boolean(), new.as_boolean());
            Box::new(move |i, j| a.value(i) == b.value(j))
        }
        DataType::Utf8 => {
            let (a, b) = (old.as_string::<i32>(), new.as_string::<i32>());
            Box::new(move |i, j| a.value(i) == b.value(j))
        }
        DataType::Utf8View => {
            let (a, b) = (old.as_string_view(), new.as_string_view());
            Box::new(move |i, j| a.value(i) == b.value(j))
        }
        DataType::Binary => {
            let (a, b) = (old.as_binary::<i32>(), new.as_binary::<i32>());
            Box::new(move |i, j| a.value(i) == b.value(j))
        }
        DataType::BinaryView => {
            let (a, b) = (old.as_binary_view(), new.as_binary_view());
            Box::new(move |i, j| a.value(i) == b.value(j))
        }
        _ => downcast_primitive_array!(
            old_ref => plain(old_ref, new),
            // Nested: arrow compares the values that are not NULL, floats by their bits.
            _ => {
                let (a, b) = (old.to_data(), new.to_data());
                Box::new(move |i, j| a.slice(i, 1) == b.slice(j, 1))
            }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use std::sync::Arc;

    #[test]
    fn rows_are_replaced_and_left_out() {
        let piece: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a"), None, Some("c"), Some("a long text that is not inlined")]));
        let array: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("c"), Some("another text that is not inlined"), None]));
        let mut new = NewValues::new(array, true);
        let events = [(10, Happens::Goes), (12, Happens::Update(0)), (13, Happens::Update(1))];
        let out = apply(&piece, 10, &events, Some(&mut new)).unwrap();
        let want = StringViewArray::from(vec![None, Some("c"), Some("another text that is not inlined")]);
        assert_eq!(out.as_ref(), &want as &dyn Array);
        assert_eq!(new.changed, [false, true, false]);
        let same = apply(&piece, 10, &[(12, Happens::Update(0))], Some(&mut new)).unwrap();
        assert!(Arc::ptr_eq(&same, &piece));
    }

    #[test]
    fn zeros_differ_by_sign_and_nans_do_not_differ() {
        let old: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(f64::NAN), None, Some(1.0)]));
        let new: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), None, None]));
        let equal = equality(&old, &new);
        assert_eq!((0..4).map(|i| equal(i, i)).collect::<Vec<_>>(), [false, true, true, false]);
    }
}
