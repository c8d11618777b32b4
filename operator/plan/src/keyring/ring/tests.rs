//! Reading of rings.

use gaia_pki::KeySpec;

use super::*;

mod restore;

fn ring(states: &[State]) -> CaRing {
    let generations: Vec<_> = states.iter().map(|state| ("3f9a0000", *state)).collect();
    ring_of(&generations)
}

/// A ring of generations with these names, each in its state.
fn ring_of(generations: &[(&str, State)]) -> CaRing {
    let generations = generations.iter().map(|(name, state)| {
        let material = CaMaterial {
            fingerprint: (*name).to_owned(),
            not_after: Timestamp::UNIX_EPOCH,
            not_before: Timestamp::UNIX_EPOCH,
            chain: String::new(),
            root: String::new(),
            root_fingerprint: None,
            subject_id: None,
            key: KeySpec::Ecdsa256,
            is_external: false,
            path: CaPath::default(),
        };
        Generation::new(short_id(name), *state, Timestamp::UNIX_EPOCH, material)
    });
    Ring {
        format_version: FORMAT_VERSION,
        trust_domain: "gaia.local".into(),
        epoch: 1,
        max_ttl_high_water_seconds: None,
        revision: 1,
        handled_distrust: None,
        restored_from: None,
        handled: Handled::default(),
        generations: generations.collect(),
    }
}

#[test]
fn a_ring_survives_a_round_trip() {
    let ring = ring(&[State::Retiring, State::Active, State::Staged]);
    assert_eq!(CaRing::parse(&serde_json::to_vec(&ring).unwrap()), Ok(ring));
}

#[test]
fn a_ring_of_a_newer_format_is_not_touched() {
    let json = br#"{"formatVersion": 2, "generations": "something else"}"#;
    assert_eq!(CaRing::parse(json), Err(RingError::TooNew { found: 2 }));
}

#[test]
fn a_ring_without_exactly_one_signer_is_refused() {
    for states in [&[][..], &[State::Staged], &[State::Active, State::Active]] {
        let json = serde_json::to_vec(&ring(states)).unwrap();
        assert!(matches!(CaRing::parse(&json), Err(RingError::NotOneActive(_))));
    }
}

#[test]
fn garbage_is_corrupt() {
    assert!(matches!(CaRing::parse(b"not json"), Err(RingError::Corrupt(_))));
}
