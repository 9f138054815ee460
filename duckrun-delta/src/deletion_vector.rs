//! Deletion vectors: which rows of a file are gone.
//!
//! Source: the Delta protocol, "Deletion Vectors" (descriptor) and "Deletion Vector Format" (bytes): a descriptor is inline
//! (`i`), in a file below the table (`u`, a prefix and a z85 UUID) or at an absolute path (`p`); the bytes are a magic number
//! and a 64-bit Roaring bitmap in its portable format.

use std::io::Cursor;

use bytes::Bytes;
use duckrun_core::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use roaring::{RoaringBitmap, RoaringTreemap};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::store_error;

/// The magic number before a bitmap in the portable format, little-endian.
const PORTABLE: u32 = 1_681_511_377;
/// The magic number before a bitmap in the older native format, big-endian; the protocol's own example has it.
const NATIVE: u32 = 1_681_511_376;

/// A deletion vector as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) storage_type: String,
    pub(crate) path_or_inline_dv: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<i32>,
    pub(crate) size_in_bytes: i32,
    pub(crate) cardinality: i64,
}

impl Descriptor {
    /// The file below the table that holds it; `None` for one that is inline or outside.
    pub(crate) fn file(&self) -> Result<Option<Path>> {
        (self.storage_type == "u").then(|| relative_path(&self.path_or_inline_dv)).transpose()
    }

    /// The row numbers, ascending.
    pub(crate) async fn rows(&self, store: &dyn ObjectStore) -> Result<Vec<u64>> {
        let bitmap = match self.storage_type.as_str() {
            "i" => bitmap(&z85_decode(&self.path_or_inline_dv)?, self.size_in_bytes)?,
            "u" => bitmap(&self.read(store, &relative_path(&self.path_or_inline_dv)?).await?, self.size_in_bytes)?,
            "p" => {
                return Err(Error::unsupported(
                    "the table has a deletion vector at an absolute path (a shallow clone?), which is not read",
                ));
            }
            other => return Err(Error::corrupt(format!("a deletion vector of the unknown storage type {other:?}"))),
        };
        let rows: Vec<u64> = bitmap.iter().collect();
        if rows.len() as i64 != self.cardinality {
            return Err(Error::corrupt(format!(
                "a deletion vector holds {} rows where the log says {}",
                rows.len(),
                self.cardinality
            )));
        }
        Ok(rows)
    }

    async fn read(&self, store: &dyn ObjectStore, path: &Path) -> Result<Vec<u8>> {
        let offset = u64::from(self.offset.unwrap_or(1).unsigned_abs());
        let size = u64::from(self.size_in_bytes.unsigned_abs());
        let bytes: Bytes = store
            .get_range(path, offset..offset + 4 + size + 4)
            .await
            .map_err(|e| store_error(e, format_args!("read the deletion vector {path}")))?;
        let broken = || Error::corrupt(format!("the deletion vector in {path} is cut short"));
        let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let stored = number(0).ok_or_else(broken)? as u64;
        if stored != size {
            return Err(Error::corrupt(format!(
                "the deletion vector in {path} has {stored} bytes, the log says {size}"
            )));
        }
        let body = bytes.get(4..4 + size as usize).ok_or_else(broken)?;
        if number(4 + size as usize).ok_or_else(broken)? != crc32fast::hash(body) {
            return Err(Error::corrupt(format!("the deletion vector in {path} fails its checksum")));
        }
        Ok(body.to_vec())
    }
}

/// `<random prefix><z85 of a UUID>` as the path below the table.
fn relative_path(text: &str) -> Result<Path> {
    let bad = || Error::corrupt("a deletion vector's path is not a z85 UUID");
    let at = text.len().checked_sub(20).filter(|at| text.is_char_boundary(*at)).ok_or_else(bad)?;
    let (prefix, encoded) = text.split_at(at);
    let id = Uuid::from_slice(&z85_decode(encoded)?).map_err(|_| bad())?;
    let name = format!("deletion_vector_{id}.bin");
    Path::parse(if prefix.is_empty() { name } else { format!("{prefix}/{name}") }).map_err(|_| bad())
}

fn z85_decode(text: &str) -> Result<Vec<u8>> {
    z85::decode(text).map_err(|e| Error::corrupt("a deletion vector is not valid z85").with_source(e))
}

fn bitmap(bytes: &[u8], size: i32) -> Result<RoaringTreemap> {
    let broken = || Error::corrupt("a deletion vector is not a Roaring bitmap");
    // Inline vectors are padded to z85's groups of four.
    let bytes = bytes.get(..size.unsigned_abs() as usize).ok_or_else(broken)?;
    let (magic, rest) = bytes.split_at_checked(4).ok_or_else(broken)?;
    if magic == PORTABLE.to_le_bytes() {
        RoaringTreemap::deserialize_from(Cursor::new(rest)).map_err(|e| broken().with_source(e))
    } else if magic == NATIVE.to_be_bytes() {
        native(rest).ok_or_else(broken)
    } else {
        Err(Error::corrupt("a deletion vector has an unknown format"))
    }
}

/// The native format: a count, then for each bitmap of 2^32 rows its size and itself, all numbers big-endian.
fn native(bytes: &[u8]) -> Option<RoaringTreemap> {
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let (count, mut rest) = bytes.split_at_checked(4)?;
    let mut bitmaps = Vec::new();
    for high in 0..number(count)? {
        let (size, tail) = rest.split_at_checked(4)?;
        let (body, tail) = tail.split_at_checked(number(size)? as usize)?;
        bitmaps.push((high, RoaringBitmap::deserialize_from(Cursor::new(body)).ok()?));
        rest = tail;
    }
    Some(RoaringTreemap::from_bitmaps(bitmaps))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inline example of the protocol's text: rows 3, 4, 7, 11, 18, 29.
    #[tokio::test]
    async fn the_protocol_s_example_decodes() {
        let d = Descriptor {
            storage_type: "i".into(),
            path_or_inline_dv: "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L".into(),
            offset: None,
            size_in_bytes: 40,
            cardinality: 6,
        };
        let store = object_store::memory::InMemory::new();
        assert_eq!(d.rows(&store).await.unwrap(), [3, 4, 7, 11, 18, 29]);
        let wrong = Descriptor { cardinality: 5, ..d };
        assert_eq!(wrong.rows(&store).await.unwrap_err().kind(), duckrun_core::ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn a_vector_in_a_file_is_checked() {
        use object_store::ObjectStoreExt;
        let rows: RoaringTreemap = [1u64, 5, 1 << 33].into_iter().collect();
        let mut body = PORTABLE.to_le_bytes().to_vec();
        rows.serialize_into(&mut body).unwrap();
        let mut file = vec![1u8];
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(&body);
        file.extend(crc32fast::hash(&body).to_be_bytes());
        let store = object_store::memory::InMemory::new();
        let path = Path::from("ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin");
        store.put(&path, file.clone().into()).await.unwrap();
        let d = Descriptor {
            storage_type: "u".into(),
            path_or_inline_dv: "ab^-aqEH.-t@S}K{vb[*k^".into(),
            offset: Some(1),
            size_in_bytes: body.len() as i32,
            cardinality: 3,
        };
        assert_eq!(d.rows(&store).await.unwrap(), [1, 5, 1 << 33]);
        let last = file.len() - 6;
        file[last] ^= 1;
        store.put(&path, file.into()).await.unwrap();
        assert!(d.rows(&store).await.unwrap_err().message().contains("checksum"));
    }

    #[test]
    fn the_protocol_s_path_decodes() {
        let path = relative_path("ab^-aqEH.-t@S}K{vb[*k^").unwrap();
        assert_eq!(path.as_ref(), "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin");
    }
}
