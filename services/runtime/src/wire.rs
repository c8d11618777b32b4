//! What services and auth-service agree on: where it is asked, and the names of what it is asked for.

/// Where a service asks for a token of its own.
pub const SERVICE_TOKEN_PATH: &str = "/internal/service-token";
/// Where a service asks for a token for somebody else (RFC 8693).
pub const TOKEN_EXCHANGE_PATH: &str = "/internal/token-exchange";
/// Where a service asks what a token says (RFC 7662).
pub const VALIDATE_PATH: &str = "/internal/validate";

/// `grant_type` of an exchange: RFC 8693, section 2.1.
pub const EXCHANGE_GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The type of a JWT: RFC 8693, section 3.
pub const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The type of an access token, which here is a JWT: the same section.
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The type of an API key: a name of our own.
pub const API_KEY_TYPE: &str = "urn:gaia:params:oauth:token-type:api-key";
