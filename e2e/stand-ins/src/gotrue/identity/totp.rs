//! One-time passwords by time (RFC 6238), as authenticator apps show them.

use aws_lc_rs::hmac;
use jiff::Timestamp;

/// The six digits of this secret at `now`.
#[must_use]
pub fn totp(secret: &[u8], now: Timestamp) -> String {
    at_step(secret, u64::try_from(now.as_second()).unwrap_or_default() / STEP_SECONDS)
}

/// Accepts the digits of the current step, and of the one before and after.
pub(crate) fn is_totp(secret: &[u8], digits: &str, now: Timestamp) -> bool {
    let step = u64::try_from(now.as_second()).unwrap_or_default() / STEP_SECONDS;
    (step.saturating_sub(1)..=step + 1).any(|step| at_step(secret, step) == digits)
}

fn at_step(secret: &[u8], step: u64) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().copied().unwrap_or_default() & 0x0f);
    let bits = tag.iter().skip(offset).take(4).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) & 0x7fff_ffff;
    format!("{:06}", bits % 1_000_000)
}

/// RFC 4648, section 6, without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let letters = (0..bytes.len() * 8).step_by(5).map(|at| (at..at + 5).fold(0, |value, at| value << 1 | bit(at)));
    letters.map(|value| char::from(ALPHABET[usize::from(value)])).collect()
}

/// The bytes of a secret in an authenticator app's form; none: it is no base32.
#[must_use]
pub fn totp_secret(text: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        bits.extend((0..5).rev().map(|at| value >> at & 1 == 1));
    }
    Some(bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | u8::from(*bit))).collect())
}

const STEP_SECONDS: u64 = 30;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_rfc() {
        // RFC 6238, appendix B, the last six of eight digits.
        let secret = b"12345678901234567890";
        for (second, digits) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(totp(secret, Timestamp::from_second(second).unwrap()), digits);
        }
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
        assert_eq!(totp_secret(&base32(secret)).unwrap(), secret);
        assert!(is_totp(secret, "287082", Timestamp::from_second(61).unwrap()));
        assert!(!is_totp(secret, "287082", Timestamp::from_second(200).unwrap()));
    }
}
