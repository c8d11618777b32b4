//! Detection of RSA moduli from a vulnerable key generator (CVE-2017-15361, "ROCA").
//!
//! The generator of Infineon's RSALib produced primes of the form `k * M + (65537^a mod M)`, where `M` is a product of
//! small primes. The modulus is then a power of 65537 modulo each of these primes, and it can be factored. A modulus of
//! another generator has this property by chance in about one of 2^27 cases.

/// The primes that distinguish such a modulus (Nemec et al., "The Return of Coppersmith's Attack", 2017).
const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
const GENERATOR: u32 = 65_537;

/// Returns true for a modulus (big-endian) with the fingerprint.
pub(super) fn is_vulnerable(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|&prime| {
        let rest = modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime);
        is_power(rest, prime)
    })
}

/// Returns true if `value` is a power of the generator modulo `prime`.
fn is_power(value: u32, prime: u32) -> bool {
    let mut power = 1;
    (0..prime).any(|_| {
        let is_equal = power == value;
        power = power * (GENERATOR % prime) % prime;
        is_equal
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    /// A vulnerable modulus with 2048 bits, in base64url.
    const VULNERABLE: &str = include_str!("roca/modulus.txt");

    #[test]
    fn a_modulus_of_the_vulnerable_generator_is_found() {
        let modulus = BASE64URL_NOPAD.decode(VULNERABLE.trim().as_bytes()).unwrap();
        assert_eq!(modulus.len(), 256);
        assert!(is_vulnerable(&modulus));
        let next: Vec<u8> =
            modulus.iter().enumerate().map(|(at, &byte)| if at == 255 { byte ^ 2 } else { byte }).collect();
        assert!(!is_vulnerable(&next));
    }

    #[test]
    fn a_modulus_of_another_generator_is_not() {
        for number in 0..1000_u32 {
            let modulus = crate::sha256(&number.to_be_bytes());
            assert!(!is_vulnerable(&modulus), "{number}");
        }
    }
}
