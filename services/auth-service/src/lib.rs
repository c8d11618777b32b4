//! Gaia's auth-service.
