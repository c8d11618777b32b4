//! Rate limits of sign-in, refresh and sign-out.
//!
//! Each limit is counted per requester: a client that the calling service has authenticated, otherwise its address,
//! otherwise the calling service. The three actions share no limit, so anonymous attempts never delay an existing
//! session. Attempts are not counted per account, except for one ceiling far above the limit of an address; a client or
//! an address that has recently signed in to the account does not count towards it.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use gaia_auth::{Client, sha256};
use gaia_runtime::Recent;
use gaia_runtime::rate::Limit;

use super::failure::LoginFailure;

/// The identified parts of the requester.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    /// The calling service.
    pub(super) service: String,
    /// The address of the calling instance.
    pub(super) instance: Option<IpAddr>,
    /// The client described by a permitted caller; otherwise empty.
    pub(super) client: Client,
}

/// The account of a password attempt, as a hash of its canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Account([u8; 32]);

/// All limits of user sign-in.
#[derive(Debug)]
pub(super) struct LoginLimits {
    passwords: Passwords,
    codes: Budget,
    refreshes: Refreshes,
    sign_outs: Budget,
}

/// The limits of one action for unauthenticated clients.
#[derive(Debug)]
struct Budget {
    /// By address.
    clients: Limit,
    /// By calling instance, for all clients whose address is unknown.
    services: Limit,
    /// By authenticated client or subject.
    known: Limit,
}

#[derive(Debug)]
struct Passwords {
    budget: Budget,
    /// By address and account.
    pairs: Limit,
    /// By account, over all addresses.
    accounts: Limit,
    /// The last addresses from which an account was signed in to.
    sites: Recent<Account, [Option<IpAddr>; MAX_SITES]>,
}

#[derive(Debug)]
struct Refreshes {
    budget: Budget,
    /// Hashes of refresh tokens returned by this instance, which are therefore genuine.
    issued: Recent<[u8; 32], ()>,
}

impl Account {
    /// Creates the account of an email address. Case and surrounding spaces are ignored.
    pub(super) fn new(address: &str) -> Self {
        Self(sha256(address.trim().to_lowercase().as_bytes()))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Budget {
    fn new(clients: Limit, services: Limit, known: Limit) -> Self {
        Self { clients, services, known }
    }

    fn check_unknown(&self, asker: &Asker) -> Result<(), LoginFailure> {
        let checked = match asker.client.site() {
            Some(site) => self.clients.check(&site),
            None => self.services.check(&(&asker.service, asker.instance)),
        };
        checked.map_err(LoginFailure::RateLimited)
    }
}

impl Default for LoginLimits {
    fn default() -> Self {
        let services = || Limit::new(SERVICE.0, SERVICE.1);
        let slow = |rate: (Duration, NonZeroU32)| Limit::every(rate.0, rate.1);
        let fast = |rate: (NonZeroU32, NonZeroU32)| Limit::new(rate.0, rate.1);
        Self {
            passwords: Passwords {
                budget: Budget::new(slow(CLIENT), services(), slow(PAIR)),
                pairs: slow(PAIR),
                accounts: fast(ACCOUNT),
                sites: Recent::new(MAX_ACCOUNTS),
            },
            codes: Budget::new(slow(CLIENT), services(), slow(PAIR)),
            refreshes: Refreshes {
                budget: Budget::new(fast(CLIENT_OF_SESSIONS), services(), fast(SESSION)),
                issued: Recent::new(MAX_TOKENS),
            },
            sign_outs: Budget::new(fast(CLIENT_OF_SESSIONS), services(), fast(SESSION)),
        }
    }
}

impl LoginLimits {
    /// Counts a password attempt.
    pub(super) fn check_password(&self, asker: &Asker, account: Account) -> Result<(), LoginFailure> {
        let passwords = &self.passwords;
        let limited = LoginFailure::RateLimited;
        if let Some(known) = &asker.client.known {
            return passwords.budget.known.check(&(&asker.service, known, account)).map_err(limited);
        }
        let site = asker.client.site();
        if let Some(site) = site {
            let sites = passwords.sites.get(&account).unwrap_or_default();
            if sites.contains(&Some(site)) {
                return passwords.budget.known.check(&(site, account)).map_err(limited);
            }
            passwords.pairs.check(&(site, account)).map_err(limited)?;
        }
        passwords.budget.check_unknown(asker)?;
        passwords.accounts.check(&account).map_err(limited)
    }

    /// Records a successful password attempt.
    pub(super) fn signed_in(&self, asker: &Asker, account: Account) {
        let Some(site) = asker.client.site() else { return };
        let sites = self.passwords.sites.get(&account).unwrap_or_default();
        if sites.first() == Some(&Some(site)) {
            return;
        }
        let mut newest = [None; MAX_SITES];
        let others = sites.into_iter().flatten().filter(|other| *other != site);
        for (place, site) in newest.iter_mut().zip(std::iter::once(site).chain(others)) {
            *place = Some(site);
        }
        self.passwords.sites.insert(account, newest);
    }

    /// Counts an attempt with a provider's code.
    pub(super) fn check_code(&self, asker: &Asker) -> Result<(), LoginFailure> {
        self.codes.check_unknown(asker)
    }

    /// Counts a refresh with the token of this hash.
    pub(super) fn check_refresh(&self, asker: &Asker, token: [u8; 32]) -> Result<(), LoginFailure> {
        let Refreshes { budget, issued } = &self.refreshes;
        if let Some(known) = &asker.client.known {
            return budget.known.check(&(&asker.service, known)).map_err(LoginFailure::RateLimited);
        }
        if issued.contains(&token) {
            return budget.known.check(&token).map_err(LoginFailure::RateLimited);
        }
        budget.check_unknown(asker)
    }

    /// Records that the refresh token of this hash was returned to a client.
    pub(super) fn issued(&self, token: [u8; 32]) {
        self.refreshes.issued.insert(token, ());
    }

    /// Counts a sign-out of a user whose token was verified.
    pub(super) fn check_sign_out(&self, sub: &str) -> Result<(), LoginFailure> {
        self.sign_outs.known.check(&sub).map_err(LoginFailure::RateLimited)
    }

    /// Counts a sign-out whose token was refused.
    pub(super) fn check_refused_sign_out(&self, asker: &Asker) -> Result<(), LoginFailure> {
        self.sign_outs.check_unknown(asker)
    }
}

const fn number(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// All clients of one calling instance whose address is unknown: per second, and burst.
const SERVICE: (NonZeroU32, NonZeroU32) = (number(20), number(100));
/// Attempts of one address: period, and burst.
const CLIENT: (Duration, NonZeroU32) = (Duration::from_secs(2), number(20));
/// Attempts of one client or address for one account.
const PAIR: (Duration, NonZeroU32) = (Duration::from_secs(6), number(10));
/// Attempts for one account by clients and addresses that have not recently signed in to it.
const ACCOUNT: (NonZeroU32, NonZeroU32) = (number(10), number(1000));
/// Refreshes, and sign-outs with a refused token, of one address, which may be shared by many sessions.
const CLIENT_OF_SESSIONS: (NonZeroU32, NonZeroU32) = (number(10), number(100));
/// Refreshes of one session, and sign-outs of one user.
const SESSION: (NonZeroU32, NonZeroU32) = (number(1), number(30));
/// Addresses kept per account, such as home, work and mobile.
const MAX_SITES: usize = 4;
const MAX_ACCOUNTS: usize = 8192;
const MAX_TOKENS: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(address: &str) -> Asker {
        let client = Client { address: Some(address.parse().unwrap()), known: None };
        Asker { service: "web-service".to_owned(), instance: None, client }
    }

    fn known(id: &str) -> Asker {
        let client = Client { known: Some(id.to_owned()), ..asker("192.0.2.1").client };
        Asker { client, ..asker("192.0.2.1") }
    }

    fn passed(tries: usize, check: impl Fn() -> Result<(), LoginFailure>) -> usize {
        (0..tries).filter(|_| check().is_ok()).count()
    }

    #[test]
    fn wrong_passwords_of_one_address_leave_its_sessions_alone() {
        let (limits, account) = (LoginLimits::default(), Account::new("ann@example.com"));
        assert_eq!(passed(100, || limits.check_password(&asker("192.0.2.1"), account)), 10);
        let others = (0..100)
            .filter(|n| limits.check_password(&asker("192.0.2.1"), Account::new(&format!("{n}@example.com"))).is_ok());
        assert_eq!(others.count(), 10, "twenty of one address in all");
        assert_eq!(passed(12, || limits.check_refresh(&asker("192.0.2.1"), [1; 32])), 12);
        assert_eq!(passed(12, || limits.check_code(&asker("192.0.2.1"))), 12);
        assert_eq!(passed(12, || limits.check_sign_out("ann")), 12);
    }

    #[test]
    fn made_up_refresh_tokens_leave_genuine_sessions_of_the_same_address_alone() {
        let limits = LoginLimits::default();
        limits.issued([7; 32]);
        limits.issued([6; 32]);
        let made_up = (0..1000_u32).filter(|number| {
            let mut token = [0; 32];
            token[..4].copy_from_slice(&number.to_be_bytes());
            limits.check_refresh(&asker("192.0.2.1"), token).is_ok()
        });
        assert!((100..200).contains(&made_up.count()));
        assert_eq!(passed(20, || limits.check_refresh(&known("session"), [9; 32])), 20);
        assert_eq!(passed(20, || limits.check_refresh(&asker("192.0.2.1"), [7; 32])), 20);
        // Nor without an address, where all clients of the calling service are counted together.
        let nowhere = Asker { client: Client::default(), ..asker("192.0.2.1") };
        assert!(passed(1000, || limits.check_refresh(&nowhere, [8; 32])) < 200);
        assert_eq!(passed(20, || limits.check_refresh(&nowhere, [6; 32])), 20);
    }

    #[test]
    fn guessing_from_many_addresses_does_not_lock_the_owner_out() {
        let (limits, account) = (LoginLimits::default(), Account::new("ann@example.com"));
        let home = asker("203.0.113.9");
        limits.check_password(&home, account).unwrap();
        limits.signed_in(&home, account);
        // Five addresses stay below the ceiling: an unknown address is admitted too.
        for n in 1..=5 {
            assert_eq!(passed(50, || limits.check_password(&asker(&format!("192.0.2.{n}")), account)), 10);
        }
        assert_eq!(passed(3, || limits.check_password(&asker("198.51.100.1"), account)), 3);
        // Two hundred reach it; addresses that have recently signed in are still admitted.
        let guesses: usize =
            (0..200).map(|n| passed(20, || limits.check_password(&asker(&format!("198.18.{n}.1")), account))).sum();
        assert!((900..1200).contains(&guesses), "{guesses}");
        assert!(limits.check_password(&asker("198.51.100.2"), account).is_err());
        assert_eq!(passed(9, || limits.check_password(&home, account)), 9);
        assert_eq!(passed(9, || limits.check_password(&known("browser"), account)), 9);
        let other = Account::new("bob@example.com");
        assert!(limits.check_password(&asker("198.51.100.2"), other).is_ok(), "another account is not touched");
    }

    #[test]
    fn guessing_from_the_owners_address_does_not_stop_the_owners_browser() {
        let (limits, account) = (LoginLimits::default(), Account::new("ann@example.com"));
        limits.signed_in(&asker("192.0.2.1"), account);
        assert_eq!(passed(50, || limits.check_password(&asker("192.0.2.1"), account)), 10);
        assert_eq!(
            passed(50, || limits.check_password(&known("browser"), account)),
            10,
            "and further guesses are refused"
        );
    }

    #[test]
    fn last_sites_of_an_account_are_kept_and_no_more() {
        let (limits, account) = (LoginLimits::default(), Account::new("ann@example.com"));
        for n in 1..=6 {
            limits.signed_in(&asker(&format!("192.0.2.{n}")), account);
        }
        limits.signed_in(&asker("192.0.2.4"), account);
        let sites = limits.passwords.sites.get(&account).unwrap().map(|site| site.unwrap().to_string());
        assert_eq!(sites, ["192.0.2.4", "192.0.2.6", "192.0.2.5", "192.0.2.3"]);
    }

    #[test]
    fn one_account_has_one_spelling() {
        assert_eq!(Account::new(" Ann@Example.com "), Account::new("ann@example.com"));
        assert_ne!(Account::new("ann@example.com"), Account::new("bob@example.com"));
    }
}
