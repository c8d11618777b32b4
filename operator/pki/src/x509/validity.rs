//! Validity period of a certificate.

use jiff::Timestamp;

/// The validity period of a certificate, including both ends (RFC 5280 section 4.1.2.5). Certificates have whole
/// seconds; fractions are truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: Timestamp,
    /// The last moment.
    pub not_after: Timestamp,
}

/// The reason why a [`Validity`] cannot be written into a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidityError {
    /// Its end is before its start, or less than a second after it.
    #[error("a certificate cannot be valid from {not_before} until {not_after}: the period is empty")]
    Empty {
        /// As requested.
        not_before: Timestamp,
        /// As requested.
        not_after: Timestamp,
    },
    /// It starts before 1970, which can only be a wrong clock.
    #[error("a certificate cannot be valid from {not_before}: that is before 1970")]
    BeforeEpoch {
        /// As requested.
        not_before: Timestamp,
    },
}

impl Validity {
    /// Both ends truncated to whole seconds since the epoch, checked to be a period of at least a second.
    pub(crate) fn seconds(&self) -> Result<(u64, u64), ValidityError> {
        let Self { not_before, not_after } = *self;
        if not_before < Timestamp::UNIX_EPOCH {
            return Err(ValidityError::BeforeEpoch { not_before });
        }
        match (u64::try_from(not_before.as_second()), u64::try_from(not_after.as_second())) {
            (Ok(from), Ok(until)) if from < until => Ok((from, until)),
            _ => Err(ValidityError::Empty { not_before, not_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::ends_before_it_begins("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z")]
    #[case::is_no_time_at_all("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")]
    #[case::is_shorter_than_a_second("2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.9Z")]
    #[case::begins_before_1970("1969-12-31T23:59:59Z", "2026-01-01T00:00:00Z")]
    fn a_validity_is_refused_that(#[case] not_before: Timestamp, #[case] not_after: Timestamp) {
        assert!(Validity { not_before, not_after }.seconds().is_err());
    }
}
