//! The Rust end of `remote.cpp`: a table of functions that DuckDB's readers call for the files of object stores.
//!
//! Three rules keep this sound. `files` is an `Arc<RemoteFiles>` and `file` a `Box<RemoteFile>`, each released once, by its
//! C++ owner's destructor. Nothing unwinds into C++: every call is caught, and a panic becomes a failure. Strings that
//! go out are copied into the caller's buffer, or live until `end_list`.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::duckdb::failure::read_failure;
use crate::duckdb::remote::{RemoteFile, RemoteFiles};
use crate::{Error, ErrorKind, Result};

const TEXT: usize = 1016;
/// In microseconds since the epoch.
const MODIFIED: i64 = 1_000_000;

/// `DuckrunFailure` of `remote.cpp`.
#[repr(C)]
struct Failure {
    code: i32,
    length: u32,
    text: [u8; TEXT],
}

/// `DuckrunCalls` of `remote.cpp`.
#[repr(C)]
struct Calls {
    handles: unsafe extern "C" fn(*const c_void, *const c_char, usize) -> bool,
    open: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut u64, *mut i64, *mut Failure) -> *mut c_void,
    read_at: unsafe extern "C" fn(*const c_void, *mut u8, u64, u64, *mut Failure),
    read_next: unsafe extern "C" fn(*const c_void, *mut u8, u64, u64, *mut Failure) -> u64,
    close: unsafe extern "C" fn(*mut c_void),
    list: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut Failure) -> *mut c_void,
    listed: unsafe extern "C" fn(*const c_void, usize, *mut usize) -> *const c_char,
    end_list: unsafe extern "C" fn(*mut c_void),
    release: unsafe extern "C" fn(*mut c_void),
}

static CALLS: Calls = Calls { handles, open, read_at, read_next, close, list, listed, end_list, release };

unsafe extern "C" {
    fn duckrun_register_files(
        database: *mut c_void,
        calls: *const Calls,
        files: *mut c_void,
        failure: *mut Failure,
    ) -> bool;
}

/// Registers `files` with a `duckdb_database` that is open.
pub(super) fn register(database: *mut c_void, files: Arc<RemoteFiles>) -> std::result::Result<(), String> {
    let mut failure = Failure { code: 0, length: 0, text: [0; TEXT] };
    let files = Arc::into_raw(files).cast_mut().cast::<c_void>();
    // SAFETY: the caller's database is open; `CALLS` is copied; the C++ side owns `files` from here on and gives it back
    // through `release`; it catches its own exceptions.
    let done = unsafe { duckrun_register_files(database, &CALLS, files, &mut failure) };
    if done { Ok(()) } else { Err(String::from_utf8_lossy(&failure.text[..failure.length as usize]).into_owned()) }
}

/// Runs the body of a call; a failure or a panic goes into `failure`, and the fallback is returned.
///
/// # Safety
/// `failure` is valid for writes.
unsafe fn guarded<T>(failure: *mut Failure, fallback: T, body: impl FnOnce() -> Result<T>) -> T {
    let done =
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Error::internal("reading a remote file panicked")));
    let error = match done {
        Ok(value) => return value,
        Err(error) => error,
    };
    let text = read_failure(&error);
    let mut length = text.len().min(TEXT);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    // SAFETY: the caller says that `failure` may be written.
    let failure = unsafe { &mut *failure };
    failure.code = if error.kind() == ErrorKind::Cancelled { 2 } else { 1 };
    failure.text[..length].copy_from_slice(&text.as_bytes()[..length]);
    failure.length = length as u32;
    fallback
}

/// # Safety
/// `path` points to `length` bytes.
unsafe fn text<'a>(path: *const c_char, length: usize) -> Option<&'a str> {
    // SAFETY: as the caller says; DuckDB's strings do not move during the call.
    std::str::from_utf8(unsafe { std::slice::from_raw_parts(path.cast::<u8>(), length) }).ok()
}

/// # Safety
/// `files` came from `Arc::into_raw` in [`register`] and was not released.
unsafe fn shared(files: *const c_void) -> Arc<RemoteFiles> {
    let files = files.cast::<RemoteFiles>();
    // SAFETY: the C++ side holds one count until `release`; this adds one for the Arc that is returned.
    unsafe {
        Arc::increment_strong_count(files);
        Arc::from_raw(files)
    }
}

unsafe extern "C" fn handles(files: *const c_void, path: *const c_char, length: usize) -> bool {
    // SAFETY: `remote.cpp` passes its own `files` and a string with its length.
    let (files, path) = unsafe { (&*files.cast::<RemoteFiles>(), text(path, length)) };
    catch_unwind(AssertUnwindSafe(|| path.is_some_and(|path| files.handles(path)))).unwrap_or(false)
}

unsafe extern "C" fn open(
    files: *const c_void,
    path: *const c_char,
    length: usize,
    size: *mut u64,
    modified: *mut i64,
    failure: *mut Failure,
) -> *mut c_void {
    // SAFETY: as in `handles`; the three out-parameters are fields and locals of the C++ caller.
    unsafe {
        let (files, path) = (shared(files), text(path, length));
        guarded(failure, std::ptr::null_mut(), || {
            let Some(file) = path.and_then(|path| files.open(path)) else { return Ok(std::ptr::null_mut()) };
            *size = file.size();
            // Registered files do not change: long ago, but not at the epoch, which DuckDB's file cache takes for unknown.
            *modified = MODIFIED;
            Ok(Box::into_raw(Box::new(file)).cast::<c_void>())
        })
    }
}

unsafe extern "C" fn read_at(file: *const c_void, out: *mut u8, count: u64, offset: u64, failure: *mut Failure) {
    // SAFETY: `file` came from `open` and is not closed while it is read; `out` has room for `count` bytes, which only
    // this call writes and nobody reads before it returns (a `u8` has no invalid value, and they are written first).
    unsafe {
        let file = &*file.cast::<RemoteFile>();
        guarded(failure, (), || file.read_at(buffer(out, count), offset));
    }
}

unsafe extern "C" fn read_next(
    file: *const c_void,
    out: *mut u8,
    count: u64,
    offset: u64,
    failure: *mut Failure,
) -> u64 {
    // SAFETY: as in `read_at`.
    unsafe {
        let file = &*file.cast::<RemoteFile>();
        guarded(failure, 0, || Ok(file.read_next(buffer(out, count), offset)? as u64))
    }
}

/// # Safety
/// `out` has room for `count` bytes that nobody else uses, or `count` is 0.
unsafe fn buffer<'a>(out: *mut u8, count: u64) -> &'a mut [u8] {
    if count == 0 {
        return &mut [];
    }
    // SAFETY: as the caller says. The bytes are zeroed first, since a slice must not show uninitialised memory.
    unsafe {
        std::ptr::write_bytes(out, 0, count as usize);
        std::slice::from_raw_parts_mut(out, count as usize)
    }
}

unsafe extern "C" fn close(file: *mut c_void) {
    // SAFETY: `file` came from `Box::into_raw` in `open`, and the C++ handle closes it once.
    let file = unsafe { Box::from_raw(file.cast::<RemoteFile>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(file)));
}

unsafe extern "C" fn list(
    files: *const c_void,
    path: *const c_char,
    length: usize,
    failure: *mut Failure,
) -> *mut c_void {
    // SAFETY: as in `open`.
    unsafe {
        let (files, path) = (shared(files), text(path, length));
        guarded(failure, std::ptr::null_mut(), || {
            let found: Vec<String> = match path {
                Some(path) if files.open(path).is_some() => vec![path.to_owned()],
                _ => Vec::new(),
            };
            Ok(Box::into_raw(Box::new(found)).cast::<c_void>())
        })
    }
}

unsafe extern "C" fn listed(list: *const c_void, index: usize, length: *mut usize) -> *const c_char {
    // SAFETY: `list` came from `list` and is not ended; `length` is a local of the caller.
    unsafe {
        let list = &*list.cast::<Vec<String>>();
        let Some(name) = list.get(index) else { return std::ptr::null() };
        *length = name.len();
        name.as_ptr().cast::<c_char>()
    }
}

unsafe extern "C" fn end_list(list: *mut c_void) {
    // SAFETY: `list` came from `Box::into_raw` in `list`, ended once.
    drop(unsafe { Box::from_raw(list.cast::<Vec<String>>()) });
}

unsafe extern "C" fn release(files: *mut c_void) {
    // SAFETY: the count that `register` gave to C++, taken back once.
    let files = unsafe { Arc::from_raw(files.cast::<RemoteFiles>().cast_const()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(files)));
}
