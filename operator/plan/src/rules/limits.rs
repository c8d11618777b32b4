//! Refuses durations that cannot work together (docs/rotation.md, rule 4 of "The times").

use std::time::Duration;

use gaia_api::crd::{PropagationSpec, TrustDomainSpec};

use crate::Refusal;
use gaia_api::crd::reason::DURATION_NOT_POSSIBLE;

/// R, the cap of the retry delay for a leaf of that validity: `min(10m, life/12)`.
#[must_use]
pub fn retry_cap(life: Duration) -> Duration {
    (life / 12).min(LONGEST_RETRY)
}

/// Checks that a leaf of that validity can be renewed in time: `life/3 >= P + S + R`.
///
/// # Errors
/// The inequality with both sides in numbers.
pub fn check_leaf(life: Duration, times: &PropagationSpec) -> Result<(), Refusal> {
    let (p, s, r) = (times.min_delay.value(), times.clock_skew.value(), retry_cap(life));
    let (left, right) = (life / 3, p + s + r);
    if left >= right {
        return Ok(());
    }
    Err(Refusal::stalled(
        DURATION_NOT_POSSIBLE,
        format!(
            "duration {} is too short: it must satisfy duration/3 >= propagation.minDelay + propagation.clockSkew + \
             min(10m, duration/12), but {} < {} + {} + {} = {}",
            text(life),
            text(left),
            text(p),
            text(s),
            text(r),
            text(right)
        ),
    ))
}

/// Checks that a CA of that validity leaves time to rotate: `CA >= 4(leaf + P + D) + G + 2S`, with `G = P`. With a
/// factor of two, a CA would start its own replacement as soon as it is activated.
///
/// # Errors
/// The inequality with both sides in numbers.
pub fn check_ca(ca: Duration, leaf: Duration, times: &PropagationSpec) -> Result<(), Refusal> {
    let (p, d, s) = (times.min_delay.value(), times.deadline.value(), times.clock_skew.value());
    let right = least_ca_life(leaf, times);
    if ca >= right {
        return Ok(());
    }
    Err(Refusal::stalled(
        DURATION_NOT_POSSIBLE,
        format!(
            "the CA's validity of {} is too short for a certificate of {}: it must satisfy ca.duration >= \
             4(certificateDefaults.duration + propagation.minDelay + propagation.deadline) + propagation.minDelay + 2 \
             propagation.clockSkew, but {} < 4({} + {} + {}) + {} + 2 * {} = {}",
            text(ca),
            text(leaf),
            text(ca),
            text(leaf),
            text(p),
            text(d),
            text(p),
            text(s),
            text(right)
        ),
    ))
}

/// The shortest validity of a CA: `4(leaf + P + D) + G + 2S`, with `G = P`.
#[must_use]
pub fn least_ca_life(leaf: Duration, times: &PropagationSpec) -> Duration {
    2 * ca_lead(leaf, times) + times.min_delay.value() + 2 * times.clock_skew.value()
}

/// The time before a CA's expiry at which its rotation starts: `2(leaf + P + D)`.
#[must_use]
pub fn ca_lead(leaf: Duration, times: &PropagationSpec) -> Duration {
    2 * (leaf + times.min_delay.value() + times.deadline.value())
}

/// The shortest remaining validity with which a bring-your-own CA is accepted: `2(leaf + P + D) + G + 2S`, with `G =
/// P`. The operator does not replace it on a schedule, so it needs no second half of its validity.
#[must_use]
pub fn least_life_left(leaf: Duration, times: &PropagationSpec) -> Duration {
    ca_lead(leaf, times) + times.min_delay.value() + 2 * times.clock_skew.value()
}

/// The shortest period in which a ring can be rotated: `P + D + G + T + 2S`, with `G = P`.
#[must_use]
pub fn least_rotation_period(signed_life: Duration, times: &PropagationSpec) -> Duration {
    2 * times.min_delay.value() + times.deadline.value() + signed_life + 2 * times.clock_skew.value()
}

/// Checks that a ring can be rotated that often: `rotationPeriod >= P + D + G + T + 2S`, with `G = P`.
///
/// # Errors
/// The inequality with both sides in numbers.
pub fn check_rotation_period(
    field: &str,
    period: Duration,
    signed_life: Duration,
    times: &PropagationSpec,
) -> Result<(), Refusal> {
    let (p, d, s) = (times.min_delay.value(), times.deadline.value(), times.clock_skew.value());
    let right = least_rotation_period(signed_life, times);
    if period >= right {
        return Ok(());
    }
    Err(Refusal::stalled(
        DURATION_NOT_POSSIBLE,
        format!(
            "{field} is too short: it must satisfy rotationPeriod >= 2 propagation.minDelay + propagation.deadline + \
             validity of tokens + 2 propagation.clockSkew, but {} < 2 * {} + {} + {} + 2 * {} = {}",
            text(period),
            text(p),
            text(d),
            text(signed_life),
            text(s),
            text(right)
        ),
    ))
}

/// The inequalities that a TrustDomain's own spec breaks. `longest_token` is the longest validity of a token that may
/// still be in use, if that is longer than `tokens.maxTTL`.
#[must_use]
pub fn broken_inequalities(spec: &TrustDomainSpec, longest_token: Duration) -> Vec<Refusal> {
    let times = &spec.propagation;
    let leaf = spec.certificate_defaults.duration.value();
    let is_own_ca = spec.ca.existing_secret_ref.is_none();
    let token = spec.tokens.max_ttl.value().max(longest_token);
    let ca_period = spec
        .ca
        .rotation_period
        .as_ref()
        .map(|period| check_rotation_period("spec.ca.rotationPeriod", period.value(), Duration::ZERO, times));
    let signing_period = spec.tokens.rotation_period.value();
    let all = [
        Some(check_leaf(leaf, times).map_err(|refusal| refusal.about("spec.certificateDefaults"))),
        is_own_ca
            .then(|| check_ca(spec.ca.duration().value(), leaf, times).map_err(|refusal| refusal.about("spec.ca"))),
        ca_period,
        Some(check_rotation_period("spec.tokens.rotationPeriod", signing_period, token, times)),
    ];
    all.into_iter().flatten().filter_map(Result::err).collect()
}

/// A duration in Kubernetes notation: `2160h`, `1h5m`, `290s`.
#[must_use]
pub fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m, s) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, 0) => format!("{h}h"),
        (h, m, 0) => format!("{h}h{m}m"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// The cap of R.
const LONGEST_RETRY: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use gaia_api::Span;

    use super::*;

    fn demo_times() -> PropagationSpec {
        PropagationSpec {
            min_delay: Span::seconds(5),
            deadline: Span::minutes(1),
            clock_skew: Span::seconds(1),
            ..PropagationSpec::default()
        }
    }

    #[test]
    fn ten_minute_leaves_need_short_propagation_times() {
        let life = Duration::from_secs(600);
        assert_eq!(check_leaf(life, &demo_times()), Ok(()));
        let refusal = check_leaf(life, &PropagationSpec::default()).unwrap_err();
        assert!(refusal.message.contains("3m20s < 3m + 1m + 50s = 4m50s"), "{}", refusal.message);
    }

    #[test]
    fn the_defaults_are_possible() {
        let spec = TrustDomainSpec {
            trust_domain: "gaia.local".into(),
            namespace_selector: None,
            allowed_names: vec![],
            allowed_endpoints: vec![],
            ca: Default::default(),
            certificate_defaults: Default::default(),
            tokens: Default::default(),
            revoked: Default::default(),
            user_token_issuers: vec![],
            auth: Default::default(),
            propagation: Default::default(),
        };
        assert_eq!(broken_inequalities(&spec, Duration::ZERO), []);
    }

    #[test]
    fn a_ca_that_ends_before_its_leaves_can_be_replaced_is_refused_with_both_numbers() {
        let day = Duration::from_secs(86_400);
        let refusal = check_ca(day, Duration::from_secs(3240 * 3600), &PropagationSpec::default()).unwrap_err();
        assert!(refusal.message.contains("24h < 4(3240h + 3m + 1h) + 3m + 2 * 1m = 12964h17m"), "{}", refusal.message);
    }
}
