//! Lifetimes that do not fit together: a warning where rings exist, and never a loop or a CA that is left to expire.

use super::*;
use gaia_plan::keyring::ring::State;

/// A ring that main wrote with these validities, when no check refused them. The certificates of tenants request
/// `tenant`.
fn upgraded(ca: &str, leaf: &str, tenant: &str) -> World {
    let mut world = World::new();
    world.create_domain(TD, plain_domain());
    world.settle();
    // The first CA is replaced by one of the given validity, as main did it.
    world.edit_domain(TD, |found| {
        found.spec.ca.duration = Some(Span::parse(ca).unwrap());
        found.spec.certificate_defaults.duration = Span::parse(leaf).unwrap();
        found.spec.ca.rotation_revision += 1;
    });
    world.settle();
    until(&mut world, true, "Removed, Active");
    world.create_certificate_of("shop", "web", ServiceCertificateSpec::default());
    let tenant = ServiceCertificateSpec { duration: Some(Span::parse(tenant).unwrap()), ..Default::default() };
    world.create_certificate_of("shop", "tenant", tenant);
    world.settle();
    quiet(world)
}

/// The number of CAs activated so far.
fn signed(world: &World) -> usize {
    events(world, 0).iter().filter(|reason| **reason == "RotationSwitched").count()
}

/// Advances this number of hours, with a reconcile at each planned check; the active CA and every certificate stay
/// valid.
#[track_caller]
fn live_for(world: &mut World, hours: i64) {
    let end = world.now.checked_add(jiff::SignedDuration::from_hours(hours)).unwrap();
    while world.now < end {
        world.settle();
        let next = world.resources().iter().map(|resource| world.plan(resource).next_check).min().unwrap();
        let step = next.duration_since(world.now).as_secs().clamp(1, 3600);
        // Between rotations nothing is due to the hour, except with validities of hours.
        world.advance(if hours > 1000 && step == 3600 { 12 * 3600 } else { step });
        let active = world.ca_ring(TD).unwrap().active().unwrap().material.not_after;
        assert!(active > world.now, "the CA expired at {active}: {:?}", world.reported(&domain()).conditions());
        for name in ["web-tls", "tenant-tls"] {
            let stored = world.secret("shop", name).unwrap();
            let (leaf, _) = world.leaf(stored).unwrap();
            assert!(leaf.not_after > world.now, "{name} expired at {}", leaf.not_after);
        }
    }
}

#[test]
fn an_upgrade_with_a_ca_of_a_year_and_default_leaves_warns_and_rotates_at_half_of_its_life() {
    let mut world = upgraded("8760h", "3240h", "4320h");
    let message = says(&world, &domain(), "LifetimesTooTight", "True", "LifetimesTooTight");
    assert!(message.contains("8760h < 4(3240h + 3m + 1h) + 3m + 2 * 1m = 12964h17m"), "{message}");
    says(&world, &domain(), "Stalled", "False", "Settled");
    says(&world, &domain(), "Ready", "True", "Ready");
    let before = signed(&world);
    live_for(&mut world, 4340);
    assert_eq!(signed(&world) - before, 0, "not in the first half of its life");
    live_for(&mut world, 60);
    assert_eq!(signed(&world) - before, 1);
    // Leaves of half a year under a CA of a year, replaced every half year.
    live_for(&mut world, 4300);
    assert_eq!(signed(&world) - before, 1);
    sound(&world);
}

#[rstest]
#[case::the_reported_loop("10h", "1h", "4h59m40s", 100)]
#[case::a_year_and_half_a_year("8760h", "1000h", "4320h", 13_500)]
#[case::longer_than_the_ca("8760h", "720h", "26280h", 13_500)]
#[case::too_tight_itself("8760h", "8000h", "26280h", 13_500)]
fn a_tenants_duration_never_makes_a_ca_rotate_again_and_again(
    #[case] ca: &str,
    #[case] leaf: &str,
    #[case] tenant: &str,
    #[case] hours: i64,
) {
    let mut world = upgraded(ca, leaf, tenant);
    world.edit_domain(TD, |found| found.spec.propagation.min_delay = Span::seconds(30));
    let before = signed(&world);
    live_for(&mut world, hours);
    let life = Span::parse(ca).unwrap().value().as_secs() / 3600;
    let most = 2 * u64::try_from(hours).unwrap() / life + 1;
    let rotations = u64::try_from(signed(&world) - before).unwrap();
    assert!(rotations <= most, "{rotations} rotations in {hours} h of CAs of {ca}");
    sound(&world);
}

#[test]
fn without_a_ring_a_broken_inequality_is_refused_with_both_sides() {
    let mut world = web();
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::hours(8760)));
    assert_eq!(doing(&mut world), [""; 0]);
    let message = says(&world, &domain(), "Stalled", "True", "DurationNotPossible");
    assert!(message.contains("8760h < 4(3240h + 3m + 1h) + 3m + 2 * 1m = 12964h17m"), "{message}");
}

#[test]
fn a_max_duration_clamps_at_the_next_renewal_and_names_both_numbers() {
    let mut world = quiet(fleet());
    let long = ServiceCertificateSpec { duration: Some(Span::hours(2160)), ..Default::default() };
    world.create_certificate_of("shop", "web", long);
    world.settle();
    world.edit_domain(TD, |found| {
        found.spec.certificate_defaults.duration = Span::hours(24);
        found.spec.certificate_defaults.max_duration = Some(Span::hours(48));
    });
    let before = world.log.len();
    world.settle();
    let reissued = world.log[before..].iter().filter(|done| done.by == certificate("shop", "web"));
    assert_eq!(reissued.count(), 0, "a limit re-issues nothing at once");
    let message = says(&world, &certificate("shop", "web"), "DurationClamped", "True", "DurationClamped");
    assert_eq!(
        message,
        "spec.duration: requested 2160h, limited to 48h by spec.certificateDefaults.maxDuration of TrustDomain gaia"
    );
    world.ask_to_renew(&name("shop", "web"), "now");
    world.settle();
    let (leaf, _) = world.leaf(world.secret("shop", "web-tls").unwrap()).unwrap();
    assert_eq!(leaf.not_after.duration_since(world.now).as_hours(), 48);
    says(&world, &certificate("shop", "web"), "Ready", "True", "Ready");
    sound(&world);
}

#[test]
fn a_raised_min_delay_stops_no_renewal_of_what_is_stored() {
    let mut world = quiet(web());
    world.edit_certificate(&name("shop", "web"), |found| found.spec.duration = Some(Span::hours(24)));
    world.settle();
    world.edit_domain(TD, |found| found.spec.propagation.min_delay = Span::hours(24));
    world.settle();
    let message = says(&world, &certificate("shop", "web"), "LifetimesTooTight", "True", "LifetimesTooTight");
    assert!(message.contains("duration 24h is too short"), "{message}");
    world.advance(17 * 3600);
    let done = doing(&mut world);
    assert!(done.iter().any(|done| done.contains("certificate for spiffe://")), "{done:#?}");
    // No workload uses a new one yet: it is refused.
    let short = ServiceCertificateSpec { duration: Some(Span::hours(24)), ..Default::default() };
    world.create_certificate_of("shop", "late", short);
    world.settle();
    says(&world, &certificate("shop", "late"), "Stalled", "True", "DurationNotPossible");
    sound(&world);
}

#[rstest]
#[case::lifetimes_fit("87600h", 3240)]
#[case::too_tight("8760h", 2)]
fn a_laggard_is_overruled_only_when_the_time_floor_is_reached(#[case] ca: &str, #[case] hours_before_end: i64) {
    let mut world = quiet(fleet());
    world.edit_domain(TD, |found| found.spec.ca.duration = Some(Span::parse(ca).unwrap()));
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    world.start(Pod::of("shop", "asset-service", "old").never_reloads());
    let end = world.ca_ring(TD).unwrap().active().unwrap().material.not_after;
    ask_to_rotate(&mut world, true);
    let floor = end.checked_sub(jiff::SignedDuration::from_hours(hours_before_end)).unwrap();
    let times = &world.domains[TD].spec.propagation;
    let floor = if hours_before_end == 2 {
        floor.checked_sub(jiff::SignedDuration::try_from(2 * times.min_delay.value()).unwrap()).unwrap()
    } else {
        floor
    };
    world.advance(floor.duration_since(world.now).as_secs() - 60);
    let before = world.log.len();
    world.settle();
    assert!(!events(&world, before).contains(&"RotationForced"));
    let next = world.ca_ring(TD).unwrap().next().map(|next| next.state);
    assert_eq!(next, Some(State::Published));
    world.advance(120);
    world.settle();
    let forced = world.log[before..].iter().flat_map(|done| done.action.events());
    let forced: Vec<_> = forced.filter(|event| event.reason == "RotationForced").collect();
    assert!(forced.len() == 1 && forced[0].message.starts_with("critical: "), "{forced:#?}");
}

/// Kind: a time far ahead of the clock stopped every rotation, also of a CA that expired meanwhile.
#[rstest]
#[case::signing_key_since(false, "since")]
#[case::ca_activated(true, "activatedTime")]
#[case::ca_published(true, "publishedTime")]
fn a_time_ahead_of_the_clock_lets_no_ca_expire(#[case] ca: bool, #[case] field: &str) {
    let mut world = upgraded("60h", "1h", "1h");
    if field == "publishedTime" {
        ask_to_rotate(&mut world, true);
    }
    let ring = if ca { gaia_api::names::ca_ring(TD) } else { gaia_api::names::signing_ring(TD) };
    world.edit_ring(ring, |document| {
        let generation = document["generations"].as_array_mut().unwrap().last_mut().unwrap();
        generation[field] = "2099-01-01T00:00:00Z".into();
    });
    world.settle();
    says(&world, &domain(), "ClockBehind", "True", "ClockBehind");
    let before = signed(&world);
    live_for(&mut world, 140);
    assert!(signed(&world) > before, "the CA was replaced");
    sound(&world);
}
