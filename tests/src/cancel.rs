//! Cancellation: an operation whose future is dropped wherever it waits.
//!
//! A future can only be dropped between two polls. So the operation is polled once and dropped, then anew twice and dropped, and so on
//! until it completes: every await point that is reached in that run is one at which it was dropped.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// How far an operation got before it was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped<T> {
    /// It was dropped after so many polls.
    After(usize),
    /// It was not: it completed.
    Completed(T),
}

/// Polls a future so often, and drops it unless it has completed.
///
/// Between two polls the future is waited for as usual: each poll is one at which something has happened.
pub async fn after<T>(polls: usize, future: impl Future<Output = T>) -> Dropped<T> {
    let mut future = pin!(future);
    let mut done = 0;
    poll_fn(|cx| {
        if done == polls {
            return Poll::Ready(Dropped::After(polls));
        }
        done += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Dropped::Completed(value)),
            // The last poll is not followed by another wake-up that would have to be waited for.
            Poll::Pending if done == polls => Poll::Ready(Dropped::After(polls)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops an operation after so many polls (`1..` is every await point), each time in a world of its own, until it completes. Returns
/// how often it was dropped.
///
/// `world` makes what the operation works on, `run` is the operation, `check` looks at what has become of the world.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use duckrun_testkit::cancel::{Dropped, at_every_await};
/// let drops = at_every_await(
///     1..,
///     async || tokio::sync::Mutex::new(0),
///     async |world: &tokio::sync::Mutex<i32>| {
///         tokio::task::yield_now().await;
///         *world.lock().await += 1;
///         tokio::task::yield_now().await;
///     },
///     async |world, dropped| match dropped {
///         Dropped::After(1) => assert_eq!(world.into_inner(), 0),
///         Dropped::After(_) | Dropped::Completed(()) => assert_eq!(world.into_inner(), 1),
///     },
/// )
/// .await;
/// assert_eq!(drops, 2);
/// # }
/// ```
pub async fn at_every_await<W, T>(
    polls: impl IntoIterator<Item = usize>,
    mut world: impl AsyncFnMut() -> W,
    mut run: impl AsyncFnMut(&W) -> T,
    mut check: impl AsyncFnMut(W, Dropped<T>),
) -> usize {
    let mut drops = 0;
    for polls in polls {
        let here = world().await;
        let dropped = after(polls, run(&here)).await;
        let completed = matches!(dropped, Dropped::Completed(_));
        check(here, dropped).await;
        if completed {
            break;
        }
        drops += 1;
    }
    drops
}
