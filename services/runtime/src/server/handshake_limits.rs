//! Limits for TLS handshakes: each costs about a thousand times as much as its first bytes cost the client.
//!
//! A source (an IPv4 address, or a /64 of IPv6) may begin so many handshakes a second. The steps of handshakes that need
//! the processor take turns over their sources, and half of the worker threads are kept for requests. So a source that
//! only begins handshakes, or fifty of them, delay the handshakes of others by one step each.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::available_parallelism;

use ipnet::IpNet;

use crate::client_ip::site;
use crate::concurrency::turns::Turns;
use crate::observability::rate::{Limit, Rate};

/// The limits of one process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct HandshakeLimits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rate: Option<Limit>,
    turns: Turns<IpAddr>,
}

/// A handshake that is refused before it costs anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeRefused {
    #[error("the source address exceeded the rate of TLS handshakes set by GAIA_HANDSHAKE_RATE")]
    Rate,
    #[error("too many TLS handshakes of the source address are waiting")]
    Share,
}

impl HandshakeRefused {
    /// The text used as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Share => "share",
        }
    }
}

impl HandshakeLimits {
    pub(crate) fn new(rate: Rate) -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self::with_steps(rate, (threads / 2).max(1))
    }

    fn with_steps(rate: Rate, steps: usize) -> Self {
        Self(Arc::new(Shared { rate: rate.limit(), turns: Turns::new(steps, steps, MAX_WAITING) }))
    }

    /// Counts a handshake for the rate of its source. Trusted proxies have no rate: all their clients have one address.
    ///
    /// # Errors
    /// [`HandshakeRefused::Rate`]: then the connection must be closed.
    pub(crate) fn begin(&self, from: IpAddr, trusted_proxies: &[IpNet]) -> Result<(), HandshakeRefused> {
        let from = from.to_canonical();
        match &self.0.rate {
            Some(rate) if !trusted_proxies.iter().any(|proxies| proxies.contains(&from)) => {
                rate.check(&site(from)).map_err(|_| HandshakeRefused::Rate)
            }
            _ => Ok(()),
        }
    }

    /// Runs a handshake. Each of its steps between two waits for the network needs a turn.
    ///
    /// # Errors
    /// The error of the handshake, or [`HandshakeRefused::Share`].
    pub(crate) async fn run<T>(&self, from: IpAddr, handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let source = site(from.to_canonical());
        let mut handshake = pin!(handshake);
        loop {
            let turn = self.0.turns.take(source).await.map_err(|_| io::Error::other(HandshakeRefused::Share))?;
            let step = std::future::poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(turn);
            if let Poll::Ready(done) = step {
                return done;
            }
            woken().await;
        }
    }
}

/// Waits until this task is woken by something that was polled in it before.
async fn woken() {
    let mut is_first = true;
    std::future::poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

/// Handshakes of one source: as many as a burst has.
const MAX_WAITING: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn one_source_uses_up_its_own_rate_only() {
        let limits = HandshakeLimits::new("10:100".parse().unwrap());
        let begun = |from: IpAddr| (0..1000).take_while(|_| limits.begin(from, &[]).is_ok()).count();
        assert!((100..200).contains(&begun(source(1))));
        assert_eq!(limits.begin(source(1), &[]), Err(HandshakeRefused::Rate));
        assert_eq!(limits.begin("::ffff:10.0.0.1".parse().unwrap(), &[]), Err(HandshakeRefused::Rate));
        assert_eq!(limits.begin(source(2), &[]), Ok(()));
        assert!((100..200).contains(&begun("2001:db8::1".parse().unwrap())));
        let neighbour = "2001:db8::2".parse().unwrap();
        assert_eq!(limits.begin(neighbour, &[]), Err(HandshakeRefused::Rate), "a source of IPv6 is a /64");
    }

    #[test]
    fn a_trusted_proxy_and_a_rate_of_zero_have_no_limit() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/24".parse().unwrap()];
        let limits = HandshakeLimits::new("1:1".parse().unwrap());
        assert!((0..1000).all(|_| limits.begin(source(1), &proxies).is_ok()));
        assert!((0..1000).any(|_| limits.begin([192, 0, 2, 1].into(), &proxies).is_err()));
        let unlimited = HandshakeLimits::new("0".parse().unwrap());
        assert!((0..1000).all(|_| unlimited.begin(source(1), &[]).is_ok()));
    }

    /// A handshake of two steps, with a wait in between. Each step is counted.
    async fn handshake(limits: &HandshakeLimits, from: IpAddr, steps: &AtomicUsize) {
        let work = async {
            steps.fetch_add(1, Ordering::Relaxed);
            let mut is_first = true;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            steps.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let _ = limits.run(from, work).await;
    }

    #[tokio::test]
    async fn floods_of_handshakes_delay_others_by_one_step_of_each_source() {
        for sources in [1u8, 50] {
            let limits = HandshakeLimits::with_steps(Rate::Unlimited, 1);
            let steps = Arc::<AtomicUsize>::default();
            // While this step lasts, all the others wait.
            let turn = limits.0.turns.take(source(0)).await.unwrap();
            let mut flood = JoinSet::new();
            for n in 0..1000u32 {
                let (limits, steps) = (limits.clone(), Arc::clone(&steps));
                let from = source(u8::try_from(n % u32::from(sources) + 1).unwrap());
                flood.spawn(async move { handshake(&limits, from, &steps).await });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(steps.load(Ordering::Relaxed), 0);
            let counted = Arc::clone(&steps);
            let other = tokio::spawn({
                let limits = limits.clone();
                async move {
                    handshake(&limits, source(200), &AtomicUsize::new(0)).await;
                    counted.load(Ordering::Relaxed)
                }
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(turn);
            let others = other.await.unwrap();
            assert!(others <= 3 * (usize::from(sources) + 1), "{others} steps of {sources} others came before");
            flood.abort_all();
        }
    }

    #[tokio::test]
    async fn a_source_with_too_many_waiting_handshakes_is_refused() {
        let limits = HandshakeLimits::with_steps(Rate::Unlimited, 1);
        let _turn = limits.0.turns.take(source(9)).await.unwrap();
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let limits = limits.clone();
            waiting.spawn(async move { handshake(&limits, source(1), &AtomicUsize::new(0)).await });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let run = limits.run(source(1), async { Ok(()) });
        let refused = tokio::time::timeout(Duration::from_secs(5), run).await.unwrap().unwrap_err();
        assert_eq!(refused.to_string(), HandshakeRefused::Share.to_string());
    }
}
