//! Keys, CAs, leaves, bundles and JWK sets, with time, entropy and serials as arguments.
