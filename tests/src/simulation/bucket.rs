//! The simulated object store: objects with the dates of the virtual clock, and what a request does to them.
//!
//! Strongly consistent, as S3, Azure and GCS are: a listing and a read see every effect that came before them.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectMeta, PutResult, Result};

/// A request to the store, or a wait on the clock.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Put { path: Path, bytes: Bytes, create: bool },
    Get { path: Path, options: GetOptions },
    Delete { path: Path },
    List { prefix: Option<Path>, offset: Option<Path> },
    Sleep { milliseconds: u64 },
}

/// An answer.
#[derive(Debug)]
pub(super) enum Reply {
    Put(PutResult),
    Got { meta: ObjectMeta, bytes: Bytes, range: Range<u64> },
    Listed(Vec<ObjectMeta>),
    Done,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Put { path, .. } | Self::Get { path, .. } | Self::Delete { path } => path.as_ref(),
            Self::List { prefix, .. } => prefix.as_ref().map_or("", AsRef::as_ref),
            Self::Sleep { .. } => "",
        }
    }

    pub(super) fn kind(&self) -> u64 {
        match self {
            Self::Put { .. } => 1,
            Self::Get { .. } => 2,
            Self::Delete { .. } => 3,
            Self::List { .. } => 4,
            Self::Sleep { .. } => 5,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. })
    }

    pub(super) fn is_in_log(&self) -> bool {
        self.path().contains("/_delta_log")
    }

    /// Whether it asks what the store can, by objects that are nobody's.
    pub(super) fn is_probe(&self) -> bool {
        self.path().contains("_duckrun_probe_")
    }

    /// The version that a put would commit.
    pub(super) fn commits(&self) -> Option<u64> {
        match self {
            Self::Put { path, create: true, .. } => version(path),
            _ => None,
        }
    }

    /// A name that is the same whenever the seed is: names with random parts are called after what they are.
    pub(super) fn alias(&self) -> &str {
        let path = self.path();
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.starts_with(".clock") {
            "clock"
        } else if self.is_probe() {
            "probe"
        } else if name.starts_with("part-") {
            "part"
        } else {
            path
        }
    }
}

/// The version of a commit's path.
pub(super) fn version(path: &Path) -> Option<u64> {
    path.as_ref().contains("/_delta_log/").then(|| path.filename()?.strip_suffix(".json")?.parse().ok())?
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) modified: DateTime<Utc>,
    tag: u64,
}

/// What the store holds.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    objects: BTreeMap<Path, Object>,
    tags: u64,
}

impl Bucket {
    pub(super) fn object(&self, path: &Path) -> Option<&Object> {
        self.objects.get(path)
    }

    pub(super) fn clear(&mut self) {
        self.objects.clear();
    }

    /// Carries a request out.
    ///
    /// # Errors
    /// As a store answers.
    pub(super) fn carry_out(&mut self, request: &Request, now: DateTime<Utc>, honours_create: bool) -> Result<Reply> {
        match request {
            Request::Put { path, bytes, create } => {
                if *create && honours_create && self.objects.contains_key(path) {
                    return Err(Error::AlreadyExists { path: path.to_string(), source: "it exists".into() });
                }
                self.tags += 1;
                let tag = self.tags;
                self.objects.insert(path.clone(), Object { bytes: bytes.clone(), modified: now, tag });
                Ok(Reply::Put(PutResult { e_tag: Some(tag.to_string()), version: None }))
            }
            Request::Get { path, options } => {
                let missing = || Error::NotFound { path: path.to_string(), source: "no such object".into() };
                let object = self.objects.get(path).ok_or_else(missing)?;
                let meta = meta(path, object);
                options.check_preconditions(&meta)?;
                let length = object.bytes.len() as u64;
                let range = match &options.range {
                    Some(range) => range.as_range(length).map_err(|e| Error::Generic {
                        store: "simulated",
                        source: Box::new(std::io::Error::other(e.to_string())),
                    })?,
                    None => 0..length,
                };
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(object.bytes.len());
                let bytes =
                    if options.head { Bytes::new() } else { object.bytes.slice(at(range.start)..at(range.end)) };
                Ok(Reply::Got { meta, bytes, range })
            }
            Request::Delete { path } => match self.objects.remove(path) {
                Some(_) => Ok(Reply::Done),
                None => Err(Error::NotFound { path: path.to_string(), source: "no such object".into() }),
            },
            Request::List { prefix, offset } => {
                let listed = self.objects.iter().filter(|(path, _)| {
                    prefix.as_ref().is_none_or(|p| path.prefix_match(p).is_some_and(|mut rest| rest.next().is_some()))
                        && offset.as_ref().is_none_or(|offset| *path > offset)
                });
                Ok(Reply::Listed(listed.map(|(path, object)| meta(path, object)).collect()))
            }
            Request::Sleep { .. } => Ok(Reply::Done),
        }
    }
}

fn meta(path: &Path, object: &Object) -> ObjectMeta {
    ObjectMeta {
        location: path.clone(),
        last_modified: object.modified,
        size: object.bytes.len() as u64,
        e_tag: Some(object.tag.to_string()),
        version: None,
    }
}
