//! PEM encoding and decoding (RFC 7468).
//!
//! The parser is rustls-pki-types', whose base64 is constant-time. This module adds checks for Secrets that users
//! write: a truncated or unknown block is an error that names its label, where other parsers skip it silently, and no
//! error repeats content, because the content may be a key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

/// The reason why a text could not be read as PEM. Never carries content, only labels and counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmorError {
    /// There is text without a `-----BEGIN …-----` line.
    #[error("no PEM block was found in {bytes} bytes")]
    NoBlock {
        /// Length of the input in bytes.
        bytes: usize,
    },
    /// A block is truncated, its end line does not match its begin line, or its base64 is invalid.
    #[error("PEM block {position} ({label}) is truncated or is not base64")]
    Malformed {
        /// 1-based position of the block.
        position: usize,
        /// Its label, such as `CERTIFICATE`.
        label: String,
    },
    /// A block of a kind that has no place here.
    #[error("PEM block {position} is a {label}, which is not accepted here")]
    UnexpectedLabel {
        /// 1-based position of the block.
        position: usize,
        /// Its label, such as `ENCRYPTED PRIVATE KEY`.
        label: String,
    },
}

/// One PEM block: its kind and its DER, wiped on drop.
pub(crate) struct Block {
    pub(crate) kind: SectionKind,
    pub(crate) der: Zeroizing<Vec<u8>>,
}

/// Reads every block of `text`, all of which must be of an `accepted` kind. Blocks labelled with a name in `skipped`
/// are passed over. Text before and between the blocks is ignored, as RFC 7468 section 2 allows.
///
/// # Errors
/// See [`ArmorError`]. A blank text has no blocks and is no error.
pub(crate) fn blocks(text: &[u8], accepted: &[SectionKind], skipped: &[&str]) -> Result<Vec<Block>, ArmorError> {
    let labels = labels(text);
    if labels.is_empty() {
        return if text.iter().all(u8::is_ascii_whitespace) {
            Ok(Vec::new())
        } else {
            Err(ArmorError::NoBlock { bytes: text.len() })
        };
    }
    for (index, label) in labels.iter().enumerate() {
        let known = SectionKind::try_from(label.as_bytes()).is_ok_and(|kind| accepted.contains(&kind));
        if !known && !skipped.contains(&label.as_str()) {
            return Err(ArmorError::UnexpectedLabel { position: index + 1, label: label.clone() });
        }
    }
    let wanted: Vec<(usize, &String)> =
        labels.iter().enumerate().filter(|(_, label)| !skipped.contains(&label.as_str())).collect();
    let malformed = |done: usize| {
        let (index, label) = wanted.get(done).copied().unwrap_or((labels.len() - 1, &labels[labels.len() - 1]));
        ArmorError::Malformed { position: index + 1, label: label.clone() }
    };
    let mut blocks = Vec::with_capacity(wanted.len());
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|_| malformed(blocks.len()))?;
        blocks.push(Block { kind, der: Zeroizing::new(der) });
    }
    if blocks.len() == wanted.len() { Ok(blocks) } else { Err(malformed(blocks.len())) }
}

/// Encodes `der` as one PEM block with `label`, 64 characters a line and a newline at the end.
///
/// The result is built in a buffer of its final size, so no copy of a key is left behind by a reallocation.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let lines = base64.len().div_ceil(LINE);
    let mut text = Zeroizing::new(String::with_capacity(base64.len() + lines + 2 * label.len() + MARKERS));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The labels of all lines that begin a block, in order.
fn labels(text: &[u8]) -> Vec<String> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter_map(|line| line.trim_ascii().strip_prefix(b"-----BEGIN "))
        .map(|rest| {
            let label = rest.strip_suffix(b"-----").unwrap_or(rest);
            String::from_utf8_lossy(&label[..label.len().min(MAX_LABEL)]).escape_debug().to_string()
        })
        .collect()
}

/// Characters of base64 in a line (RFC 7468 section 2).
const LINE: usize = 64;
/// Room for both marker lines apart from their labels.
const MARKERS: usize = 34;
/// A label longer than this is shortened in errors.
const MAX_LABEL: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn certificates(text: &str) -> Result<Vec<Block>, ArmorError> {
        blocks(text.as_bytes(), &[SectionKind::Certificate], &[])
    }

    #[test]
    fn what_was_encoded_is_read_back_with_text_around_it() {
        let der = vec![7_u8; 100];
        let text = format!("subject: x\n{0}\nissuer: y\r\n{0}", *encode("CERTIFICATE", &der));
        let read = certificates(&text).unwrap();
        assert_eq!(read.len(), 2);
        assert!(read.iter().all(|block| *block.der == der));
    }

    #[test]
    fn encoding_never_outgrows_the_buffer_it_reserved() {
        for length in [0, 1, 47, 48, 49, 95, 96, 97, 1200] {
            let der = vec![0xa5; length];
            let text = encode("PRIVATE KEY", &der);
            assert!(text.lines().all(|line| line.len() <= LINE));
            assert!(text.len() <= STANDARD.encode(&der).len() + length.div_ceil(48) + 2 * 11 + MARKERS);
        }
    }

    #[test]
    fn a_block_that_is_cut_off_is_an_error_and_not_one_block_less() {
        let whole = encode("CERTIFICATE", &[1; 90]);
        let text = format!("{}{}", *whole, &whole[..whole.len() - 20]);
        let error = certificates(&text).err();
        assert_eq!(error, Some(ArmorError::Malformed { position: 2, label: "CERTIFICATE".to_owned() }));
    }

    #[test]
    fn a_foreign_block_is_named_by_its_label() {
        let text = format!("{}{}", *encode("CERTIFICATE", &[1; 9]), *encode("ENCRYPTED PRIVATE KEY", b"secret"));
        let error = certificates(&text).err().unwrap();
        assert_eq!(error.to_string(), "PEM block 2 is a ENCRYPTED PRIVATE KEY, which is not accepted here");
    }

    #[test]
    fn errors_never_repeat_content() {
        let text = "-----BEGIN PRIVATE KEY-----\nhunter2 hunter2!\n-----END PRIVATE KEY-----\n";
        let error = blocks(text.as_bytes(), &[SectionKind::PrivateKey], &[]).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn blank_text_has_no_blocks_and_other_text_is_no_pem() {
        assert!(certificates(" \n").unwrap().is_empty());
        assert_eq!(certificates("hello").err(), Some(ArmorError::NoBlock { bytes: 5 }));
    }
}
