//! Sanitises texts of other programs for logs, events and statuses.
//!
//! An error of a client library can hold a response body, and a message of the API server can quote the value that it
//! refuses. Either can hold a private key.

/// The text without anything that could be key material, at most [`MAX_CHARS`] characters long: PEM is cut off, long runs
/// of base64 or hexadecimal digits and lists of bytes are replaced by `…`.
pub(crate) fn without_keys(text: &str) -> String {
    let end = ["-----", "PRIVATE KEY"].iter().filter_map(|mark| text.find(mark)).min();
    let is_cut = end.is_some();
    let text = end.map_or(text, |end| text.get(..end).unwrap_or_default());
    let mut safe = String::new();
    let mut run = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if is_digit_of_keys(c) {
            run.push(c);
            continue;
        }
        safe.push_str(if run.len() < SHORTEST_RUN { &run } else { "…" });
        run.clear();
        safe.push(if c.is_control() { ' ' } else { c });
    }
    let mut safe = without_byte_lists(safe.trim_end());
    if is_cut {
        safe.push('…');
    }
    match safe.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", safe.get(..end).unwrap_or_default()),
        None => safe,
    }
}

fn is_digit_of_keys(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_')
}

/// Go prints a byte slice as `[]byte{0x2d, 0x2d}` or `[45 45]`.
fn without_byte_lists(text: &str) -> String {
    let mut safe = String::new();
    let mut list = String::new();
    for c in text.chars() {
        let goes_on = !list.is_empty() && (c.is_ascii_hexdigit() || matches!(c, 'x' | ',' | ' '));
        if goes_on || (list.is_empty() && c.is_ascii_digit()) {
            list.push(c);
            continue;
        }
        push_list(&mut safe, &list);
        list.clear();
        safe.push(c);
    }
    push_list(&mut safe, &list);
    safe
}

fn push_list(safe: &mut String, list: &str) {
    let numbers = list.split([' ', ',']).filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).count();
    safe.push_str(if numbers < SHORTEST_LIST { list } else { "…" });
}

const MAX_CHARS: usize = 1000;
/// Names of Kubernetes objects have hyphens and dots; a piece of a key that is shorter is of no use.
const SHORTEST_RUN: usize = 24;
const SHORTEST_LIST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_without_keys_stay_as_they_are() {
        for text in [
            "secrets \"orders-tls\" is forbidden: exceeded quota: small, requested: secrets=1, used: secrets=3",
            "admission webhook \"policy.example.com\" denied the request: label team is missing",
            "ServiceCertificate.gaia.dev \"orders\" is invalid: spec.secretName: Too long: may not be more than 253 bytes",
        ] {
            assert_eq!(without_keys(text), text);
        }
    }

    #[test]
    fn key_material_is_left_out() {
        let pem =
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIB\n-----END PRIVATE KEY-----";
        for (text, expected) in [
            (format!("invalid value {pem}"), "invalid value…"),
            ("data: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0t is wrong".to_owned(), "data: … is wrong"),
            ("key 30818702010030130607aa8648ce3d0201".to_owned(), "key …"),
            ("[]byte{0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0x42, 0x45, 0x47}: bad".to_owned(), "[]byte{…}: bad"),
            ("[45 45 45 45 45 66 69 71 73]".to_owned(), "[…]"),
        ] {
            assert_eq!(without_keys(&text), expected);
        }
    }

    #[test]
    fn a_text_has_an_end() {
        assert_eq!(without_keys(&"no ".repeat(10_000)).chars().count(), MAX_CHARS + 1);
    }
}
