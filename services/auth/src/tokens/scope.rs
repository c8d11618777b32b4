//! Parsing of `scope` strings.

/// Splits a `scope` string into its tokens: printable ASCII without `"` and `\`, separated by one space (RFC 6749,
/// section 3.3), at most 64 of at most 128 bytes each. `None` for anything else, including the empty string.
#[must_use]
pub fn parse_scope(text: &str) -> Option<Vec<&str>> {
    let is_token = |token: &&str| {
        (1..=MAX_BYTES).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
    };
    let scopes: Vec<&str> = text.split(' ').take(MAX_SCOPES + 1).collect();
    (scopes.len() <= MAX_SCOPES && scopes.iter().all(is_token)).then_some(scopes)
}

const MAX_SCOPES: usize = 64;
const MAX_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_text_is_tokens_one_space_apart() {
        assert_eq!(parse_scope("assets:read chat:write"), Some(vec!["assets:read", "chat:write"]));
        for text in ["", " ", "a  b", " a", "a ", "a\tb", "a\"b", "a\\b", "ä"] {
            assert_eq!(parse_scope(text), None, "{text:?}");
        }
        assert_eq!(parse_scope(&"a ".repeat(64)), None);
        assert_eq!(parse_scope(&"a".repeat(129)), None);
    }
}
