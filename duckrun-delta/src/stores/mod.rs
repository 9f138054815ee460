//! Stores: opened by URL with one set of options, wrapped so that the log can rely on them, and asked before the first
//! write whether they honour conditional puts.
//!
//! What the log relies on: a put that must create fails where the object exists ([`guard`]), and a listing of the log is sorted
//! ([`steady`]). Credentials are used here and shown nowhere.

#[cfg(feature = "azure")]
mod deletes;
pub(crate) mod guard;
pub(crate) mod lock;
mod open;
mod steady;
mod tokens;
mod uploads;

pub use self::lock::{HeldLock, LeaseLock, WriterLock};
pub use self::open::StoreRoot;
pub(crate) use self::steady::Steady;
pub use self::tokens::{Token, TokenProvider};
