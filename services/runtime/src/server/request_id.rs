//! IDs of requests.

use gaia_auth::{REQUEST_ID_HEADER, request_id};
use http::{HeaderMap, HeaderValue};

use crate::random::random;

/// Gives a request an ID unless it has a usable one, so that the audit lines of all services that it leads to have the same.
pub(crate) fn name_request(headers: &mut HeaderMap) {
    if request_id(headers).is_some() {
        return;
    }
    headers.remove(REQUEST_ID_HEADER);
    let id = random::<16>().map(|bytes| format!("{:032x}", u128::from_be_bytes(bytes)));
    // Without randomness the request has no ID.
    if let Some(id) = id.and_then(|id| HeaderValue::try_from(id).ok()) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind: audit lines of a request without an ID cannot be put together.
    #[test]
    fn request_without_a_usable_id_gets_one() {
        let long = "x".repeat(65);
        for unusable in [None, Some(""), Some("a b"), Some(long.as_str())] {
            let mut headers = HeaderMap::new();
            if let Some(text) = unusable {
                headers.insert(REQUEST_ID_HEADER, text.parse().unwrap());
            }
            name_request(&mut headers);
            let first = request_id(&headers).unwrap().to_owned();
            assert_eq!(first.len(), 32);
            name_request(&mut headers);
            assert_eq!(request_id(&headers), Some(first.as_str()), "a usable one stays");
        }
    }
}
