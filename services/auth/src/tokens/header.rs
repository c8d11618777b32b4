//! Parsing of a token into its parts, before anything is verified.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::keys::Algorithm;
use crate::Reason;
use crate::tokens::strict_json::{self, StrictJsonError};

/// A token split into its parts, with a header that passed the closed-set rules. Nothing is verified.
pub struct Unverified<'a> {
    /// The key ID from the header, used only as a map key.
    pub kid: String,
    /// The algorithm from the header. It must agree with the algorithm of the key, which decides.
    pub algorithm: Algorithm,
    /// The header's `typ`, unchanged.
    pub typ: Option<String>,
    /// The signed bytes.
    pub signed: &'a [u8],
    /// The payload within the signed bytes, still encoded.
    pub payload: &'a str,
    /// The signature, still encoded (RFC 7515, appendix C: base64url without padding).
    pub signature: &'a str,
}

impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl<'a> Unverified<'a> {
    /// Splits a compact JWS (RFC 7515, section 3.1).
    ///
    /// # Errors
    /// A [`Reason`] if it is not three base64url parts, or its header is not the closed set {alg, kid, typ, cty}.
    pub fn parse(token: &'a str) -> Result<Self, Reason> {
        Self::of(&Parts::cut(token)?, HeaderRules::Platform)
    }

    /// Parses the header of a token by the rules of its kind.
    pub(crate) fn of(parts: &Parts<'a>, rules: HeaderRules) -> Result<Self, Reason> {
        let header = parts.header(rules)?;
        let algorithm = header
            .algorithm()?
            .and_then(|alg| Algorithm::ALL.into_iter().find(|a| a.as_str() == alg))
            .ok_or(Reason::AlgorithmWrong)?;
        let kid = header.text("kid")?.filter(|kid| !kid.is_empty() && kid.len() <= MAX_KID_BYTES);
        let kid = kid.ok_or(Reason::KidMissing)?.to_owned();
        let typ = header.text("typ")?.map(str::to_owned);
        Ok(Self { kid, algorithm, typ, signed: parts.signed, payload: parts.payload, signature: parts.signature })
    }
}

/// Permitted header parameters of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderRules {
    /// Platform tokens: {alg, kid, typ, cty} and nothing else.
    Platform,
    /// Tokens of external issuers: parameters that are not understood are ignored (RFC 7515, section 4), and so are
    /// references to keys, which are never followed. Those that change the meaning of the signed bytes are refused.
    External,
}

impl HeaderRules {
    fn max_bytes(self) -> usize {
        match self {
            Self::Platform => MAX_HEADER_BYTES,
            Self::External => MAX_EXTERNAL_HEADER_BYTES,
        }
    }

    fn accept(self, name: &str) -> bool {
        match self {
            Self::Platform => matches!(name, "alg" | "kid" | "typ" | "cty"),
            Self::External => !matches!(name, "crit" | "jwk" | "zip" | "b64"),
        }
    }
}

/// The three parts of a compact JWS, each in the base64url alphabet and not empty.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    signed: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(crate) fn cut(token: &'a str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::CredentialTooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Reason::TokenShape);
        };
        // Unsigned tokens have an empty signature (RFC 7515, appendix A.5); they are refused for their algorithm, not
        // their shape.
        if header.is_empty() || payload.is_empty() {
            return Err(Reason::TokenShape);
        }
        if ![header, payload, signature].into_iter().all(is_base64url) {
            return Err(Reason::TokenAlphabet);
        }
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        Ok(Self { header, payload, signature, signed })
    }

    /// Parses the header and checks it against the rules.
    pub(crate) fn header(&self, rules: HeaderRules) -> Result<Header, Reason> {
        if self.header.len() > rules.max_bytes() {
            return Err(Reason::TokenHeaderTooLong);
        }
        let header = Header(fields(self.header, rules)?);
        // A nested token would be a second one that is not verified (RFC 7519, section 5.2). The claims of an external
        // issuer's token are JSON in any case.
        if rules == HeaderRules::Platform
            && header.text("cty")?.is_some_and(|cty| cty.to_ascii_lowercase().contains("jwt"))
        {
            return Err(Reason::HeaderFieldRefused);
        }
        Ok(header)
    }

    /// Parses the claims. They are untrusted until the signature is verified.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, Reason> {
        claims(self.payload)
    }
}

/// Returns true if the text is in the base64url alphabet. It does not stop at the first other byte, so that the
/// compiler can vectorize it.
fn is_base64url(text: &str) -> bool {
    let is_in = |byte: u8| byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_');
    text.bytes().fold(true, |so_far, byte| so_far & is_in(byte))
}

/// Header parameters within the closed set.
pub(crate) struct Header(Map<String, Value>);

impl Header {
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Reason> {
        match self.0.get(name) {
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            None => Ok(None),
            Some(_) => Err(Reason::HeaderFieldRefused),
        }
    }

    pub(crate) fn algorithm(&self) -> Result<Option<&str>, Reason> {
        self.text("alg")
    }
}

/// Parses an encoded payload as one object without repeated names.
pub(crate) fn claims(payload: &str) -> Result<Map<String, Value>, Reason> {
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Reason::TokenAlphabet)?;
    strict_json::object(&payload).map_err(|error| match error {
        StrictJsonError::NameRepeated => Reason::ClaimRepeated,
        StrictJsonError::NotJson | StrictJsonError::NotAnObject => Reason::ClaimsNotJson,
    })
}

/// Parses the header and checks that each parameter is permitted.
fn fields(encoded: &str, rules: HeaderRules) -> Result<Map<String, Value>, Reason> {
    let text = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Reason::TokenAlphabet)?;
    let fields = strict_json::object(&text).map_err(|error| match error {
        StrictJsonError::NameRepeated => Reason::HeaderNameRepeated,
        StrictJsonError::NotJson | StrictJsonError::NotAnObject => Reason::HeaderNotJson,
    })?;
    if fields.keys().all(|name| rules.accept(name)) { Ok(fields) } else { Err(Reason::HeaderFieldRefused) }
}

/// Maximum length of a token.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Maximum length of the encoded header of a platform token.
const MAX_HEADER_BYTES: usize = 1024;
/// Maximum for a token of an external issuer, which may contain a certificate (`x5c`).
const MAX_EXTERNAL_HEADER_BYTES: usize = 4 * 1024;
/// Maximum length of a `kid`.
pub(super) const MAX_KID_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(header: &str) -> Result<String, Reason> {
        let token = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
        Unverified::parse(&token).map(|token| token.kid)
    }

    #[test]
    fn a_plain_header_is_read() {
        assert_eq!(parse(r#"{"alg":"RS256","kid":"k","typ":"at+jwt"}"#).as_deref(), Ok("k"));
        assert_eq!(parse(r#"{"alg":"ES256","kid":"k","cty":"text"}"#).as_deref(), Ok("k"));
    }

    #[test]
    fn each_header_trick_is_refused() {
        let table = [
            // No signature.
            (r#"{"alg":"none","kid":"k"}"#, Reason::AlgorithmWrong),
            (r#"{"alg":"nOnE","kid":"k"}"#, Reason::AlgorithmWrong),
            // The public key used as an HMAC secret.
            (r#"{"alg":"HS256","kid":"k"}"#, Reason::AlgorithmWrong),
            (r#"{"kid":"k"}"#, Reason::AlgorithmWrong),
            (r#"{"alg":["RS256"],"kid":"k"}"#, Reason::HeaderFieldRefused),
            // The token brings its own key, or a URL to fetch it from.
            (r#"{"alg":"RS256","kid":"k","jwk":{"kty":"oct","k":"AA"}}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","jku":"https://evil.example/jwks"}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","x5u":"https://evil.example/x"}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","x5c":["AA"]}"#, Reason::HeaderFieldRefused),
            // Extensions that change the meaning of the signed bytes.
            (r#"{"alg":"RS256","kid":"k","crit":["b64"],"b64":false}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","b64":false}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","zip":"DEF"}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","cty":"JWT"}"#, Reason::HeaderFieldRefused),
            (r#"{"alg":"RS256","kid":"k","cty":"application/jwt"}"#, Reason::HeaderFieldRefused),
            // Parsers disagree: some take the first value, others the last.
            (r#"{"alg":"RS256","kid":"k","alg":"none"}"#, Reason::HeaderNameRepeated),
            (r#"{"alg":"RS256"}"#, Reason::KidMissing),
            (r#"{"alg":"RS256","kid":""}"#, Reason::KidMissing),
            (r#"{"alg":"RS256","kid":7}"#, Reason::HeaderFieldRefused),
            (r#"["alg"]"#, Reason::HeaderNotJson),
            (r#"{"alg":"RS256","kid":"k"}{}"#, Reason::HeaderNotJson),
        ];
        for (header, reason) in table {
            assert_eq!(parse(header), Err(reason), "{header}");
        }
    }

    #[test]
    fn nobody_is_made_to_keep_long_headers_and_names() {
        let with_kid = |length: usize| parse(&format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(length)));
        assert_eq!(with_kid(128), Ok("k".repeat(128)));
        assert_eq!(with_kid(129), Err(Reason::KidMissing));
        // 768 bytes are 1,024 in base64url.
        let with_length = |length: usize| {
            let empty = r#"{"alg":"RS256","kid":"k","cty":"-"}"#.len() - 1;
            parse(&format!(r#"{{"alg":"RS256","kid":"k","cty":"{}"}}"#, "k".repeat(length - empty)))
        };
        assert_eq!(with_length(768).as_deref(), Ok("k"));
        assert_eq!(with_length(769), Err(Reason::TokenHeaderTooLong));
    }

    #[test]
    fn a_kid_is_only_ever_a_name() {
        for kid in ["../../dev/null", "' OR 1=1 --", "https://evil.example/key"] {
            assert_eq!(parse(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#)).as_deref(), Ok(kid));
        }
    }

    #[test]
    fn only_three_base64url_parts_are_a_token() {
        for (token, reason) in [
            ("a.b", Reason::TokenShape),
            ("a.b.c.d", Reason::TokenShape),
            ("a.b.c.d.e", Reason::TokenShape),
            ("..", Reason::TokenShape),
            ("e30..AAAA", Reason::TokenShape),
            (".e30.AAAA", Reason::TokenShape),
            ("e30=.e30.AAAA", Reason::TokenAlphabet),
            ("e30.e+0.AAAA", Reason::TokenAlphabet),
            ("e30.e/0.AAAA", Reason::TokenAlphabet),
            ("e30. e30.AAAA", Reason::TokenAlphabet),
            // Non-zero padding bits: a second encoding of the same header.
            ("e31.e30.AAAA", Reason::TokenAlphabet),
        ] {
            assert_eq!(Unverified::parse(token).map(|t| t.kid), Err(reason), "{token}");
        }
    }

    #[test]
    fn a_token_without_a_signature_is_refused_for_its_algorithm() {
        let token = format!("{}.e30.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#));
        assert_eq!(Unverified::parse(&token).map(|t| t.kid), Err(Reason::AlgorithmWrong));
    }

    #[test]
    fn nobody_is_made_to_parse_megabytes() {
        let of_length = |length: usize| {
            let token = format!("e30.{}.AAAA", "A".repeat(length - "e30..AAAA".len()));
            Unverified::parse(&token).map(|t| t.kid)
        };
        assert_eq!(of_length(8192), Err(Reason::AlgorithmWrong));
        assert_eq!(of_length(8193), Err(Reason::CredentialTooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(token in "[ -~]{0,200}") {
            let _ = Unverified::parse(&token);
        }

        #[test]
        fn any_header_is_answered_without_a_panic(header in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Unverified::parse(&format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header)));
        }

        #[test]
        fn three_parts_in_the_alphabet_are_cut_and_nothing_else_is(token in "[A-Za-z0-9_=+/. -]{0,12}(\\.[A-Za-z0-9_-]{0,6}){0,4}") {
            let parts: Vec<&str> = token.split('.').collect();
            let is_in_alphabet = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let is_whole = parts.len() == 3 && parts[..2].iter().all(|part| !part.is_empty());
            prop_assert_eq!(Parts::cut(&token).is_ok(), is_whole && parts.iter().all(is_in_alphabet), "{}", token);
        }

        #[test]
        fn a_header_is_taken_if_and_only_if_its_names_are_in_the_closed_set(
            names in proptest::collection::btree_set("(alg|kid|typ|cty|crit|jku|x5u|x5c|x5t|jwk|zip|b64|[a-z]{1,4})", 0..4),
        ) {
            let value = |name: &String| if name == "alg" { "RS256" } else { "x" }.to_owned();
            let header: Map<String, Value> = names.iter().map(|name| (name.clone(), value(name).into())).collect();
            let is_closed = names.iter().all(|name| ["alg", "kid", "typ", "cty"].contains(&name.as_str()));
            let is_whole = names.contains("alg") && names.contains("kid");
            prop_assert_eq!(parse(&Value::from(header).to_string()).is_ok(), is_closed && is_whole, "{:?}", names);
        }

        #[test]
        fn what_is_signed_is_the_token_up_to_its_last_dot(a in "[A-Za-z0-9_-]{1,20}", b in "[A-Za-z0-9_-]{1,20}") {
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k"}"#);
            let token = format!("{header}.{a}.{b}");
            let parsed = Unverified::parse(&token).unwrap();
            let expected = format!("{header}.{a}");
            prop_assert_eq!(parsed.signed, expected.as_bytes());
        }
    }
}
