//! Waiting for a condition, instead of sleeping.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// The result of one evaluation of a condition.
#[derive(Debug)]
pub enum Seen<T> {
    /// It holds, with this value.
    Yes(T),
    /// It does not hold yet; the text describes the present state.
    NotYet(String),
}

impl<T> From<Option<T>> for Seen<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or_else(|| Self::NotYet(String::new()), Self::Yes)
    }
}

impl From<bool> for Seen<()> {
    fn from(holds: bool) -> Self {
        holds.then_some(()).into()
    }
}

/// An error is "not yet": the API server may be unavailable, the object may not exist.
impl<T, E: std::fmt::Display> From<Result<T, E>> for Seen<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Yes(value),
            Err(error) => Self::NotYet(format!("{error:#}")),
        }
    }
}

/// Evaluates `condition` until it holds, and returns its value. The condition returns `bool`, `Option`, `Result` (an
/// error counts as not yet) or [`Seen`] itself.
///
/// # Errors
/// After `timeout`, with `description` and the last state.
pub async fn until<T, S>(description: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> S) -> Result<T>
where
    S: Into<Seen<T>>,
{
    let deadline = Instant::now() + timeout;
    let mut last = "no answer".to_owned();
    loop {
        // A condition that hangs (a paused server) must not hang the test; its previous result is more informative.
        if let Ok(seen) = tokio::time::timeout_at(deadline.max(Instant::now() + POLL), condition()).await {
            match seen.into() {
                Seen::Yes(found) => return Ok(found),
                Seen::NotYet(detail) => last = detail,
            }
        }
        if Instant::now() >= deadline {
            let seen = if last.is_empty() { String::new() } else { format!("; last seen: {last}") };
            bail!("gave up after {:.1} s waiting until {description}{seen}", timeout.as_secs_f32());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Evaluates `condition` until it returns `Ok` and holds. With [`until`], `Ok(false)` would be a value like any
/// other, and the end of the wait.
///
/// # Errors
/// After `timeout`, with `description` and the last state.
pub async fn until_true<E: std::fmt::Display>(
    description: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool, E>,
) -> Result<()> {
    until(description, timeout, async || match condition().await {
        Ok(holds) => Seen::from(holds),
        Err(error) => Seen::NotYet(format!("{error:#}")),
    })
    .await
}

/// Evaluates `condition` for the whole of `period` and fails if it ever stops holding: for "nothing happens".
///
/// # Errors
/// As soon as the condition does not hold, with `description` and its state.
pub async fn throughout<S>(description: &str, period: Duration, mut condition: impl AsyncFnMut() -> S) -> Result<()>
where
    S: Into<Seen<()>>,
{
    let end = Instant::now() + period;
    while Instant::now() < end {
        if let Seen::NotYet(detail) = condition().await.into() {
            bail!("it did not hold throughout {:.1} s that {description}: {detail}", period.as_secs_f32());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some("here")
        })
        .await;
        assert_eq!(found.unwrap(), "here");
    }

    #[tokio::test]
    async fn a_condition_that_can_be_looked_at_but_does_not_hold_is_waited_for() {
        let mut looks = 0;
        let waited = until_true("the third look", Duration::from_secs(5), async || {
            looks += 1;
            anyhow::Ok(looks == 3)
        });
        waited.await.unwrap();
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_holds_is_named_with_what_was_seen_last() {
        let result: Result<()> = until("the moon is green", SHORT, async || Err::<(), _>("it is grey")).await;
        let message = result.unwrap_err().to_string();
        assert_eq!(message, "gave up after 0.2 s waiting until the moon is green; last seen: it is grey");
    }

    #[tokio::test]
    async fn a_condition_that_hangs_does_not_hang_the_wait() {
        let result: Result<()> = until("an answer comes", SHORT, async || std::future::pending::<bool>().await).await;
        assert!(result.unwrap_err().to_string().contains("no answer"));
    }
}
