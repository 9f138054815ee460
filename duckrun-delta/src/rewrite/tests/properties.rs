//! Random tables, writers and changes: the new files hold what a model says, and statistics never lie.

use std::collections::BTreeMap;

use arrow::compute::{concat, interleave, take};
use duckrun_core::Compression;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterVersion};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Numbers that follow from a seed: a failing case is one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.one_in(6) { None } else { Some(value(self)) }
    }
}

/// Rows of all types; few distinct values where `narrow`, so that columns have dictionaries and updates hit equal values.
fn rows(random: &mut Random, n: usize) -> RecordBatch {
    let narrow = random.one_in(2);
    let range = if narrow { 5 } else { u64::MAX };
    fn column<T, A: FromIterator<Option<T>>>(r: &mut Random, n: usize, mut f: impl FnMut(&mut Random) -> T) -> A {
        (0..n).map(|_| r.option(&mut f)).collect()
    }
    let float = |r: &mut Random| match r.below(8) {
        0 => f64::NAN,
        1 => -0.0,
        2 => 0.0,
        3 => f64::INFINITY,
        n => n as f64 / 4.0,
    };
    let finite = |r: &mut Random| (r.below(range.min(1000)) as f64) / 8.0 - 3.0;
    let text = |r: &mut Random| match r.below(4) {
        0 => String::new(),
        1 => "x".repeat(r.below(200) as usize),
        _ => format!("text that is not inlined {}", r.below(range)),
    };
    let finite_column: Float64Array = column(random, n, finite);
    let ids: Int64Array = (0..n).map(|_| Some((random.below(range) as i64).wrapping_mul(3))).collect();
    let decimals: Decimal128Array = column(random, n, |r| i128::from(r.below(range.min(1 << 50))) - 7);
    let list = {
        let values: Vec<Option<Vec<Option<i32>>>> = (0..n)
            .map(|_| {
                random.option(|r| {
                    let len = r.below(3);
                    (0..len).map(|_| r.option(|r| r.below(4) as i32)).collect()
                })
            })
            .collect();
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(values);
        let field = Arc::new(Field::new("element", DataType::Int32, true));
        ListArray::new(field, list.offsets().clone(), Arc::clone(list.values()), list.nulls().cloned())
    };
    let texts: StringArray = column(random, n, text);
    let members: Fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)].into();
    let inner: Int32Array = column(random, n, |r| r.below(3) as i32);
    let nulls: Vec<bool> = (0..n).map(|_| !random.one_in(5)).collect();
    let members = StructArray::new(members, vec![Arc::new(inner), Arc::new(texts.clone())], Some(nulls.into()));
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int64Builder::new());
    for _ in 0..n {
        for _ in 0..random.below(3) {
            map.keys().append_value(format!("k{}", random.below(9)));
            map.values().append_option(random.option(|r| r.below(4) as i64));
        }
        map.append(!random.one_in(4)).unwrap();
    }
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(ids), false),
        ("b", Arc::new(column::<_, BooleanArray>(random, n, |r| r.one_in(2))), true),
        ("i8", Arc::new(column::<_, Int8Array>(random, n, |r| r.below(range) as i8)), true),
        ("i16", Arc::new(column::<_, Int16Array>(random, n, |r| r.below(range) as i16)), true),
        ("i32", Arc::new(column::<_, Int32Array>(random, n, |r| r.below(range) as i32)), true),
        ("f32", Arc::new(column::<_, Float32Array>(random, n, |r| float(r) as f32)), true),
        ("f64", Arc::new(column::<_, Float64Array>(random, n, float)), true),
        ("finite", Arc::new(finite_column), true),
        ("d", Arc::new(decimals.with_precision_and_scale(18, 2).unwrap()), true),
        ("date", Arc::new(column::<_, Date32Array>(random, n, |r| r.below(range.min(40_000)) as i32)), true),
        (
            "ts",
            {
                let ts: TimestampMicrosecondArray = column(random, n, |r| r.below(range.min(1 << 52)) as i64);
                Arc::new(ts.with_timezone("UTC"))
            },
            true,
        ),
        (
            "ntz",
            Arc::new(column::<_, TimestampMicrosecondArray>(random, n, |r| r.below(range.min(1 << 52)) as i64)),
            true,
        ),
        ("t", Arc::new(texts), true),
        (
            "bin",
            Arc::new(column::<_, BinaryArray>(random, n, |r| vec![r.below(range) as u8; r.below(30) as usize])),
            true,
        ),
        ("l", Arc::new(list), true),
        ("s", Arc::new(members), true),
        ("m", Arc::new(map.finish()), true),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, a, null)| Field::new(*name, a.data_type().clone(), *null)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, a, _)| a).collect()).unwrap()
}

fn foreign(random: &mut Random) -> WriterProperties {
    let statistics = [EnabledStatistics::None, EnabledStatistics::Chunk, EnabledStatistics::Page];
    let codecs = [Codec::UNCOMPRESSED, Codec::SNAPPY, Codec::ZSTD(ZstdLevel::try_new(3).unwrap())];
    let mut properties = WriterProperties::builder()
        .set_dictionary_enabled(random.one_in(2))
        .set_writer_version(if random.one_in(2) { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
        .set_statistics_enabled(statistics[random.below(3) as usize])
        .set_compression(codecs[random.below(3) as usize])
        .set_max_row_group_row_count(Some(1 + random.below(150) as usize))
        .set_data_page_row_count_limit(1 + random.below(60) as usize)
        .set_bloom_filter_enabled(random.one_in(3));
    if random.one_in(3) {
        properties = properties.set_dictionary_page_size_limit(16);
    }
    properties.build()
}

fn equal(a: &dyn Array, b: &dyn Array) -> bool {
    a.to_data() == b.to_data()
}

/// Whether a row of one column is the row of another, for the model: to the bit, but every NaN is one.
fn same(a: &ArrayRef, i: usize, b: &ArrayRef, j: usize) -> bool {
    let nan = |x: &ArrayRef, k: usize| match x.data_type() {
        DataType::Float64 => x.is_valid(k) && x.as_primitive::<Float64Type>().value(k).is_nan(),
        DataType::Float32 => x.is_valid(k) && x.as_primitive::<Float32Type>().value(k).is_nan(),
        _ => false,
    };
    (nan(a, i) && nan(b, j)) || equal(&a.slice(i, 1), &b.slice(j, 1))
}

/// Statistics against the rows, for the types that JSON compares without help.
fn check_statistics(batch: &RecordBatch, stats: &str) {
    let json: Value = serde_json::from_str(stats).unwrap();
    assert_eq!(json["numRecords"], batch.num_rows());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let name = field.name().as_str();
        if let Some(nulls) = json["nullCount"].get(name).and_then(Value::as_u64) {
            assert_eq!(nulls, column.null_count() as u64, "{name}");
        }
        let (min, max) = (&json["minValues"][name], &json["maxValues"][name]);
        if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            for n in numbers.iter().flatten() {
                assert!(
                    min.as_i64().is_none_or(|m| m <= n) && max.as_i64().is_none_or(|m| m >= n),
                    "{name} {n} {stats}"
                );
            }
        }
        if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
            let all = numbers.iter().flatten();
            for n in all {
                let within = min.as_f64().is_none_or(|m| m <= n) && max.as_f64().is_none_or(|m| m >= n);
                assert!(within, "{name} {n} {stats}");
            }
        }
        if let Some(texts) = column.as_string_opt::<i32>() {
            for t in texts.iter().flatten() {
                assert!(min.as_str().is_none_or(|m| m <= t), "{name} {t} {stats}");
                assert!(max.as_str().is_none_or(|m| m >= t), "{name} {t} {stats}");
            }
        }
    }
}

async fn case(seed: u64) {
    let random = &mut Random(seed);
    let count = 1 + random.below(3) as usize;
    let contents: Vec<RecordBatch> = (0..count)
        .map(|_| {
            let n = 1 + random.below(350) as usize;
            rows(random, n)
        })
        .collect();
    let schema = contents[0].schema();
    let table = Table::new(&schema, &[]);
    let mut made = Vec::new();
    for (i, batch) in contents.iter().enumerate() {
        let mut file = if random.one_in(2) {
            let compression = if random.one_in(2) { Compression::Snappy } else { Compression::Zstd(1) };
            let own = table
                .own(batch, FileOptions { row_group_rows: 1 + random.below(200) as usize, compression, ..files() });
            own.await.remove(0)
        } else {
            table.foreign(&format!("part {i}.parquet"), batch, foreign(random))
        };
        if file.path.contains(' ') {
            file.path = file.path.replace(' ', "%20");
        }
        if random.one_in(2) {
            file.deleted = (0..batch.num_rows() as u64).filter(|_| random.one_in(4)).collect();
        }
        made.push(file);
    }
    let at = table.commit(&made).await;
    // The snapshot's order is that of the paths.
    let order = at.files().await.unwrap().files;
    let place = |path: &str| made.iter().position(|m| m.path == path).unwrap();

    let skip_unchanged = random.one_in(2);
    let set: Vec<usize> = (0..schema.fields().len()).filter(|_| !random.one_in(3)).collect();
    let (density, deletes, equal_values) = (1 + random.below(40), random.below(3), random.below(4));
    let mut list: Vec<(i64, i64, Option<u32>)> = Vec::new();
    let mut sources: Vec<(usize, usize)> = Vec::new();
    let fresh = rows(random, 400);
    for (number, file) in order.iter().enumerate() {
        let content = place(&file.path);
        if random.one_in(4) {
            continue;
        }
        for row in 0..contents[content].num_rows() {
            if made[content].deleted.contains(&(row as u64)) || !random.one_in(density) {
                continue;
            }
            let update = deletes == 0 || !random.one_in(4);
            list.push((number as i64, row as i64, update.then_some(sources.len() as u32)));
            if update {
                let own = equal_values > 0 && (equal_values == 3 || random.one_in(2));
                sources.push(if own { (content + 1, row) } else { (0, random.below(400) as usize) });
            }
        }
    }
    let values: Vec<ArrayRef> = set
        .iter()
        .map(|c| {
            let arrays: Vec<&dyn Array> =
                std::iter::once(&fresh).chain(&contents).map(|b| b.column(*c).as_ref()).collect();
            if sources.is_empty() { arrays[0].slice(0, 0) } else { interleave(&arrays, &sources).unwrap() }
        })
        .collect();
    let fields: Vec<FieldRef> = set.iter().map(|c| Arc::clone(&schema.fields()[*c])).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(sources.len()));
    let values = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), values, &options).unwrap();
    let all = changes(&list, &values);
    let mut batches = Vec::new();
    let mut from = 0;
    while from < all.num_rows() {
        let len = (1 + random.below(90) as usize).min(all.num_rows() - from);
        batches.push(all.slice(from, len));
        from += len;
    }
    batches.push(all.slice(0, 0));

    // A small share makes row groups be cut where their changes are many.
    let before = table.on_disk();
    let done = table.rewrite(&at, batches, skip_unchanged).await.unwrap();

    let mut expected: BTreeMap<String, RecordBatch> = BTreeMap::new();
    let (mut updated, mut deleted, mut copied, mut removed) = (0, 0, 0, Vec::new());
    for (number, file) in order.iter().enumerate() {
        let content = place(&file.path);
        let old = &contents[content];
        let here: BTreeMap<usize, Option<u32>> =
            list.iter().filter(|c| c.0 == number as i64).map(|c| (c.1 as usize, c.2)).collect();
        let changes_row = |row: usize, new: u32| {
            set.iter().enumerate().any(|(at, c)| !same(old.column(*c), row, values.column(at), new as usize))
        };
        let really: BTreeMap<usize, Option<u32>> = here
            .iter()
            .filter(|(row, new)| !skip_unchanged || new.is_none_or(|new| changes_row(**row, new)))
            .map(|(row, new)| (*row, *new))
            .collect();
        if really.is_empty() {
            continue;
        }
        removed.push(file.path.clone());
        let kept: Vec<usize> = (0..old.num_rows())
            .filter(|r| !made[content].deleted.contains(&(*r as u64)) && really.get(r) != Some(&None))
            .collect();
        updated += really.values().filter(|v| v.is_some()).count() as u64;
        deleted += really.values().filter(|v| v.is_none()).count() as u64;
        copied += kept.iter().filter(|r| !really.contains_key(r)).count() as u64;
        if kept.is_empty() {
            continue;
        }
        let columns: Vec<ArrayRef> = (0..schema.fields().len())
            .map(|c| match set.iter().position(|s| *s == c) {
                Some(at) => {
                    let pick = |r: &usize| match really.get(r) {
                        // A value that is the same keeps its old bits.
                        Some(Some(new))
                            if !(skip_unchanged && same(old.column(c), *r, values.column(at), *new as usize)) =>
                        {
                            (1, *new as usize)
                        }
                        _ => (0, *r),
                    };
                    let picks: Vec<(usize, usize)> = kept.iter().map(pick).collect();
                    interleave(&[old.column(c).as_ref(), values.column(at).as_ref()], &picks).unwrap()
                }
                None => {
                    take(old.column(c), &UInt32Array::from_iter_values(kept.iter().map(|r| *r as u32)), None).unwrap()
                }
            })
            .collect();
        expected.insert(file.path.clone(), RecordBatch::try_new(Arc::clone(&schema), columns).unwrap());
    }
    assert_eq!(done.removed, removed);
    assert_eq!((done.rows_updated, done.rows_deleted, done.rows_copied), (updated, deleted, copied));
    assert_eq!(done.staged.files.len(), expected.len());
    assert_eq!(table.on_disk(), before + expected.len());
    for (file, (_, want)) in done.staged.files.iter().zip(&expected) {
        assert_eq!(file.rows, want.num_rows() as u64);
        let have = table.read(&at, file).await;
        for ((field, have), want) in schema.fields().iter().zip(have.columns()).zip(want.columns()) {
            let (have, want) = (concat(&[have.as_ref()]).unwrap(), concat(&[want.as_ref()]).unwrap());
            assert!(equal(&have, &want), "{}: {have:?} is not {want:?}", field.name());
        }
        check_statistics(&have, file.stats.as_deref().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn new_files_hold_what_the_model_says(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(case(seed));
    }
}
