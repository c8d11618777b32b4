//! Certificate serial numbers.

use std::fmt;

use data_encoding::HEXLOWER;

/// A certificate serial number: positive, never zero, at most 17 octets (RFC 5280 section 4.1.2.2 allows 20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Takes 128 random bits as they are. Where the top bit is set the DER gets a leading zero octet, so that the
    /// number stays positive without giving up a bit. The one value that is not allowed, zero, becomes one.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        if bits == [0; 16] {
            let mut one = bits;
            one[15] = 1;
            return Self(one);
        }
        Self(bits)
    }

    /// The number, big-endian, without leading zero octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        &self.0[zeros..]
    }
}

/// Lowercase hex, two digits an octet, without leading zero octets: what [`crate::Certificate::serial`] returns.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_random_value_is_kept_and_never_zero(bits in any::<[u8; 16]>()) {
            let serial = Serial::from_random(bits);
            let value = serial.as_bytes().iter().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
            prop_assert_eq!(value, u128::from_be_bytes(bits).max(1));
            prop_assert_ne!(serial.as_bytes()[0], 0);
        }
    }

    #[test]
    fn zero_becomes_one() {
        assert_eq!(Serial::from_random([0; 16]).to_string(), "01");
    }
}
