//! Credentials to one Principal: token rules, API keys, policy.
