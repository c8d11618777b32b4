//! Paths and names of the protocol between services and auth-service.

/// Path for requesting a service token.
pub const SERVICE_TOKEN_PATH: &str = "/internal/service-token";
/// Path for exchanging a credential for a delegated token (RFC 8693).
pub const TOKEN_EXCHANGE_PATH: &str = "/internal/token-exchange";
/// Path for token introspection (RFC 7662).
pub const VALIDATE_PATH: &str = "/internal/validate";

/// `grant_type` of an exchange: RFC 8693, section 2.1.
pub const EXCHANGE_GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The type of a JWT: RFC 8693, section 3.
pub const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The type of an access token, which here is a JWT: the same section.
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The type of an API key: a name defined by Gaia.
pub const API_KEY_TYPE: &str = "urn:gaia:params:oauth:token-type:api-key";
