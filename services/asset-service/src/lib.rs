//! Gaia's asset-service.
