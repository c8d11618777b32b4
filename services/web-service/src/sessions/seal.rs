//! Authenticated encryption of values stored in browsers, bound to a purpose.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The encryption keys: the newest seals, all open. There may be two, so that a new key can be introduced while values
/// sealed with the previous one can still be opened.
pub struct SealingKeys {
    newest_first: Vec<RandomizedNonceKey>,
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKeys").field("count", &self.newest_first.len()).finish_non_exhaustive()
    }
}

/// Reason why a file with keys is invalid. It never contains the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealingKeysError {
    /// The file has no keys.
    #[error("the file has no key; write 32 random bytes in base64 into it, as `openssl rand -base64 32` prints them")]
    Empty,
    /// The file has more than two keys.
    #[error("the file has {0} keys; at most two are permitted: the newest, and below it the previous one")]
    TooMany(usize),
    /// A line is not 32 bytes in base64.
    #[error("line {0} is not a key: 32 bytes in base64, as `openssl rand -base64 32` prints them")]
    NotAKey(usize),
    /// Both lines have the same key, so a rotation was not completed.
    #[error("both keys are the same")]
    Repeated,
}

/// A text cannot be sealed, because the system has no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("encryption failed: the system has no random bytes")]
pub struct SealError;

impl SealingKeys {
    /// Parses one or two lines, the newest key first.
    ///
    /// # Errors
    /// [`SealingKeysError`] with the number of the line.
    pub fn parse(text: &[u8]) -> Result<Self, SealingKeysError> {
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let mut keys: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let key = STANDARD.decode(line).map(Zeroizing::new).map_err(|_| SealingKeysError::NotAKey(at + 1))?;
            if key.len() != AES_256_GCM.key_len() {
                return Err(SealingKeysError::NotAKey(at + 1));
            }
            keys.push(key);
        }
        match keys.as_slice() {
            [] => Err(SealingKeysError::Empty),
            [newest, before] if newest == before => Err(SealingKeysError::Repeated),
            [_] | [_, _] => {
                let made = keys.iter().map(|key| RandomizedNonceKey::new(&AES_256_GCM, key)).collect::<Result<_, _>>();
                Ok(Self { newest_first: made.map_err(|_| SealingKeysError::NotAKey(1))? })
            }
            more => Err(SealingKeysError::TooMany(more.len())),
        }
    }

    /// Seals a text for a purpose, in characters permitted in a cookie.
    ///
    /// # Errors
    /// [`SealError`] without randomness.
    pub fn seal(&self, purpose: &str, text: &[u8]) -> Result<String, SealError> {
        let key = self.newest_first.first().ok_or(SealError)?;
        let mut sealed = text.to_vec();
        let nonce = key.seal_in_place_append_tag(aad(purpose), &mut sealed).map_err(|_| SealError)?;
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// Opens a value sealed for this purpose with one of the keys; `None` for anything else.
    #[must_use]
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN)?;
        self.newest_first.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = Zeroizing::new(sealed.to_vec());
            let length = key.open_in_place(nonce, aad(purpose), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }
}

/// Returns the additional data: purpose and format version, so that neither can be exchanged.
fn aad(purpose: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{purpose} {VERSION}").into_bytes())
}

/// Version of the sealed format. Values of other versions cannot be opened.
const VERSION: &str = "v1";

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=";
    const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bjE=";

    fn keys(lines: &str) -> SealingKeys {
        SealingKeys::parse(lines.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_for_the_same_purpose_only() {
        let keys = keys(NEW);
        let sealed = keys.seal("a", b"text").unwrap();
        assert_eq!(keys.open("a", &sealed).unwrap().as_slice(), b"text");
        assert!(keys.open("b", &sealed).is_none());
        assert_ne!(sealed, keys.seal("a", b"text").unwrap(), "each is sealed with a nonce of its own");
    }

    #[test]
    fn a_change_of_any_character_is_noticed() {
        let keys = keys(NEW);
        let sealed = keys.seal("a", b"the text of a session").unwrap();
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(keys.open("a", &changed).is_none(), "character {at}");
            assert!(keys.open("a", &sealed[..at]).is_none(), "cut off at {at}");
        }
        assert!(keys.open("a", &format!("{sealed}AAAA")).is_none());
        assert!(keys.open("a", "").is_none() && keys.open("a", "not base64 !").is_none());
    }

    #[test]
    fn the_newest_key_seals_and_both_open_until_the_old_one_is_gone() {
        let (old, both, new) = (keys(OLD), keys(&format!("{NEW}\n{OLD}\n")), keys(NEW));
        let (by_old, by_both) = (old.seal("a", b"1").unwrap(), both.seal("a", b"2").unwrap());
        assert!(both.open("a", &by_old).is_some() && new.open("a", &by_both).is_some());
        assert!(old.open("a", &by_both).is_none() && new.open("a", &by_old).is_none());
    }

    #[test]
    fn a_file_that_is_not_one_or_two_keys_is_refused_without_quoting_it() {
        let refused = |text: &str| SealingKeys::parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused(" \n\n"), SealingKeysError::Empty);
        assert_eq!(refused(&format!("{NEW}\nc2hvcnQ=")), SealingKeysError::NotAKey(2));
        assert_eq!(refused("hunter2"), SealingKeysError::NotAKey(1));
        assert_eq!(refused(&format!("{NEW}\n{NEW}")), SealingKeysError::Repeated);
        assert_eq!(refused(&format!("{NEW}\n{OLD}\n{NEW}")), SealingKeysError::TooMany(3));
        assert!(!refused("hunter2").to_string().contains("hunter2"));
        assert!(!format!("{:?}", keys(NEW)).contains("bmV3"));
    }
}
