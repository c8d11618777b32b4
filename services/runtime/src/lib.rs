//! The runtime of a Gaia service: mounted-directory reload, listeners, mTLS client.
