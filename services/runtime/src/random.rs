//! The only source of randomness of the services.

use std::time::Duration;

/// Returns random bytes; none if the system has none.
#[must_use]
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// `age` less up to a fifth, taken from `random`, so that connections that began together end at different times.
pub(crate) fn jittered(age: Duration, random: [u8; 2]) -> Duration {
    age - age / 5 * u32::from(u16::from_be_bytes(random)) / (1 << 16)
}
