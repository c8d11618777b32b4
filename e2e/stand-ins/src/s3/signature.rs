//! AWS's signature, version 4, verified.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use axum::body::Bytes;
use gaia_pki::sha256_hex;
use http::{HeaderMap, Method, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Keys, xml};

/// True if a request carries a valid signature of these keys.
pub(super) fn is_good(keys: &Keys, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> bool {
    judge(keys, method, uri, headers, body).unwrap_or(false)
}

fn judge(keys: &Keys, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Option<bool> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let fields = text(header::AUTHORIZATION.as_str())?.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let field = |name: &str| fields.split(", ").find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let (id, scope) = field("Credential")?.split_once('/')?;
    let signed = field("SignedHeaders")?;
    // The essential parts are signed: the host, the time, and the hash of the body.
    for name in ["host", "x-amz-content-sha256", "x-amz-date"] {
        signed.split(';').find(|signed| *signed == name)?;
    }
    let content = text("x-amz-content-sha256")?;
    let mut canonical = format!("{method}\n{}\n{}\n", uri.path(), sorted(uri.query().unwrap_or_default()));
    for name in signed.split(';') {
        let value = text(name)?.split_whitespace().collect::<Vec<_>>().join(" ");
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    canonical.push_str(&format!("\n{signed}\n{content}"));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", text("x-amz-date")?, sha256_hex(canonical.as_bytes()));
    let mut key = format!("AWS4{}", keys.secret).into_bytes();
    for part in scope.split('/') {
        key = hmac(&key, part);
    }
    let signature: String = hmac(&key, &to_sign).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(id == keys.id && field("Signature")? == signature && content == sha256_hex(body))
}

/// The query in its canonical form for the signature.
fn sorted(query: &str) -> String {
    let pairs = xml::query(query).into_iter().filter(|(name, _)| !name.is_empty());
    let spelled = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let mut pairs: Vec<(String, String)> = pairs.map(|(name, value)| (spelled(&name), spelled(&value))).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
