//! Refresh tokens as texts.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::gotrue::keys::base64;
use crate::random::random;

/// A well-formed refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Twelve letters and digits.
    V1,
    /// A session and the number of its refreshes, signed.
    V2(Signed),
}

/// The message in a refresh token of the second form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The session, as a UUID.
    pub(crate) session: u128,
    /// The number of tokens of the session before this one.
    pub(crate) counter: u64,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

/// The form of a text; none: it is no refresh token.
pub(crate) fn parse(text: &str) -> Option<Parsed> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match text.len() {
        0..V1_LENGTH => None,
        V1_LENGTH => text.bytes().all(is_plain).then_some(Parsed::V1),
        _ => parse_signed(text).map(Parsed::V2),
    }
}

fn parse_signed(text: &str) -> Option<Signed> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (message, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    let (signed, signature) = message.split_at_checked(message.len().checked_sub(SIGNATURE_BYTES)?)?;
    if digest(&SHA256, message).as_ref().get(..CHECKSUM_BYTES)? != checksum {
        return None;
    }
    let (0, rest) = signed.split_first().map(|(version, rest)| (*version, rest))? else { return None };
    let (session, counter) = rest.split_first_chunk::<16>()?;
    let counter = from_varint(counter)?;
    let session = u128::from_be_bytes(*session);
    Some(Signed { session, counter, signed: signed.to_vec(), signature: signature.to_vec() })
}

impl Signed {
    /// True if the session with this key signed it.
    pub(crate) fn is_signed_by(&self, key: &[u8; 32]) -> bool {
        signature(key, &self.signed) == self.signature
    }
}

/// A refresh token of the first form.
pub(crate) fn new_v1() -> Result<String> {
    let bytes: [u8; V1_LENGTH] = random()?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect())
}

/// The refresh token of a session after `counter` earlier ones.
pub(crate) fn new_v2(session: u128, counter: u64, key: &[u8; 32]) -> String {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&session.to_be_bytes());
    push_varint(&mut bytes, counter);
    let signature = signature(key, &bytes);
    bytes.extend_from_slice(&signature);
    let checksum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(checksum.as_ref().get(..CHECKSUM_BYTES).unwrap_or_default());
    base64(&bytes)
}

fn signature(key: &[u8; 32], bytes: &[u8]) -> Vec<u8> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes);
    tag.as_ref().iter().take(SIGNATURE_BYTES).copied().collect()
}

/// Seven bits a byte, the lowest first.
fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn from_varint(bytes: &[u8]) -> Option<u64> {
    let (last, others) = bytes.split_last()?;
    if *last >= 0x80 || bytes.len() > 9 || others.iter().any(|byte| *byte < 0x80) {
        return None;
    }
    Some(bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)))
}

const V1_LENGTH: usize = 12;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const SIGNATURE_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_read_back_and_a_changed_one_is_none() {
        let key = [7; 32];
        for counter in [0, 1, 127, 128, 300_000] {
            let text = new_v2(42, counter, &key);
            let Some(Parsed::V2(token)) = parse(&text) else { panic!("{text}") };
            assert_eq!((token.session, token.counter), (42, counter));
            assert!(token.is_signed_by(&key) && !token.is_signed_by(&[8; 32]));
            let changed = format!("{}{}", &text[1..], &text[..1]);
            assert_eq!(parse(&changed), None);
        }
        assert_eq!(parse(&new_v1().unwrap()), Some(Parsed::V1));
        for text in ["", "short", "UPPERCASE123", "thirteen-char", "a.b.c", "ümlautümlaut"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
