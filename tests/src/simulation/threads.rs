//! Whether any thread of the simulation's runtime is doing anything.
//!
//! The library hands work to threads that block: they replay logs, decode, encode, and ask for more as they go. A runtime whose
//! worker is parked may have such a thread at work, and what that one asks for next would come to the gate before or after the
//! next turn as the machine pleases. So a turn is over only when all of them sleep, which Linux tells of each thread.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

/// The threads of a runtime.
#[derive(Debug, Default)]
pub(super) struct Threads(Mutex<HashMap<ThreadId, Thread>>);

/// What the system tells of a thread: its state, and how long and how often it has run.
#[derive(Debug)]
struct Thread {
    stat: File,
    schedstat: File,
}

impl Threads {
    /// The current thread has begun. Where the system does not tell of threads, it is taken to sleep.
    pub(super) fn begin(&self) {
        let open = |what: &str| File::open(format!("/proc/thread-self/{what}"));
        if let (Ok(stat), Ok(schedstat)) = (open("stat"), open("schedstat")) {
            self.lock().insert(thread::current().id(), Thread { stat, schedstat });
        }
    }

    /// The current thread ends.
    pub(super) fn end(&self) {
        self.lock().remove(&thread::current().id());
    }

    /// Whether all of them sleep. One that was woken by another while this was found out has run in between, or runs still.
    pub(super) fn sleep(&self) -> bool {
        let threads = self.lock();
        let look = || threads.values().map(Thread::sleeps).collect::<Option<Vec<_>>>();
        look().is_some_and(|before| look() == Some(before))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ThreadId, Thread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thread {
    /// How much it has run so far, if it sleeps.
    fn sleeps(&self) -> Option<[u8; 96]> {
        let mut line = [0; 96];
        // `1234 (its name) S 1 ..`: the name may hold anything, parentheses too.
        let length = read(&self.stat, &mut line);
        let state = line[..length].rsplit(|byte| *byte == b')').next()?.get(1)?;
        if *state != b'S' {
            return None;
        }
        line = [0; 96];
        read(&self.schedstat, &mut line);
        Some(line)
    }
}

/// Reads a file from its beginning. A thread that is gone has nothing to tell.
fn read(file: &File, line: &mut [u8]) -> usize {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, line, 0).unwrap_or_default();
    #[cfg(not(unix))]
    return 0;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_at_work_is_seen() {
        let threads = Arc::new(Threads::default());
        assert!(threads.sleep());
        let (works, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (threads, works, ends) = (threads.clone(), works.clone(), ends.clone());
            thread::spawn(move || {
                threads.begin();
                while !ends.load(Ordering::SeqCst) {
                    if !works.load(Ordering::SeqCst) {
                        thread::park_timeout(Duration::from_secs(60));
                    }
                }
                threads.end();
            })
        };
        while threads.lock().is_empty() {
            thread::yield_now();
        }
        assert!((0..1000).all(|_| !threads.sleep()));
        works.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        while !threads.sleep() {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        ends.store(true, Ordering::SeqCst);
        thread.thread().unpark();
        thread.join().unwrap();
        assert!(threads.lock().is_empty());
    }
}
