//! Panics: one in a request ends that request, one in a background task or thread ends the process.
//!
//! The release profile unwinds. tokio catches a panic at the task, so a connection or request that panics ends alone.
//! A task that all requests depend on (an accept loop, the reload of the credential directory, the audit writer) must not
//! end silently: it is marked [`essential`], and its panic aborts the process, which is then restarted.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::LazyLock;
use std::task::Poll;

use prometheus_client::metrics::counter::Counter;

/// A future that panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task panicked")]
pub(crate) struct Panicked;

/// Returns `gaia_panics_total`. The panic hook is one per process, so the counter is too.
pub(crate) fn counter() -> Counter {
    PANICS.clone()
}

/// Installs the panic hook of a service: it counts, logs only the source location (the message of a panic can contain
/// request data), and aborts the process if the panic is in something [`essential`].
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    PANICS.inc();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let is_essential = IS_ESSENTIAL.with(Cell::get);
    tracing::error!(place, is_essential, "panicked");
    if is_essential {
        std::process::abort();
    }
}

/// Marks the current thread as essential: a panic on it aborts the process.
pub fn essential_thread() {
    IS_ESSENTIAL.with(|flag| flag.set(true));
}

/// Marks a task as essential: a panic in it aborts the process.
pub(crate) async fn essential<F: Future>(future: F) -> F::Output {
    let mut future = Box::pin(future);
    poll_fn(|cx| {
        let before = IS_ESSENTIAL.with(|flag| flag.replace(true));
        let polled = future.as_mut().poll(cx);
        IS_ESSENTIAL.with(|flag| flag.set(before));
        polled
    })
    .await
}

/// Returns the output of a future, or an error if it panicked; then it is dropped immediately.
pub(crate) async fn contained<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = Some(Box::pin(future));
    poll_fn(|cx| {
        let Some(running) = &mut future else { return Poll::Ready(Err(Panicked)) };
        // Sound: the future is never polled again, and all state that requests share is behind locks that hold no
        // invariant over a panic (docs/adr/0021).
        match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => {
                future = None;
                Poll::Ready(Err(Panicked))
            }
        }
    })
    .await
}

static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

thread_local! {
    static IS_ESSENTIAL: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_contained_before_and_after_a_pause() {
        assert_eq!(contained(async { 1 }).await, Ok(1));
        assert_eq!(contained(async { panic!("at once") }).await.map(|(): ()| ()), Err(Panicked));
        let later = async {
            tokio::task::yield_now().await;
            panic!("later")
        };
        assert_eq!(contained(later).await.map(|(): ()| ()), Err(Panicked));
    }

    #[tokio::test]
    async fn only_what_is_marked_is_essential() {
        let is_essential = || IS_ESSENTIAL.with(Cell::get);
        let within = essential(async {
            tokio::task::yield_now().await;
            is_essential()
        });
        assert!(within.await);
        assert!(!is_essential());
    }
}
