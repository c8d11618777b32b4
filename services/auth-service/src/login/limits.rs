//! How often somebody may try.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::failure::LoginFailure;
use gaia_runtime::rate::Limit;

/// Who tries, as far as it is known.
pub(super) enum Asker {
    /// A user's address, named by a service that may.
    Client(IpAddr),
    /// A service, and where it is: all its users together.
    Service(String, Option<IpAddr>),
}

/// All limits of the login.
#[derive(Debug)]
pub(super) struct LoginLimits {
    services: Limit,
    clients: Limit,
    /// Whatever the address: guessing one password from many places.
    accounts: Limit,
    /// Of refreshing and signing out, which many do behind one address.
    others: Limit,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            services: Limit::new(SERVICE.0, SERVICE.1),
            clients: Limit::every(CLIENT.0, CLIENT.1),
            accounts: Limit::every(ACCOUNT.0, ACCOUNT.1),
            others: Limit::new(OTHERS.0, OTHERS.1),
        }
    }
}

impl LoginLimits {
    pub(super) fn check_sign_in(&self, asker: &Asker, account: Option<&str>) -> Result<(), LoginFailure> {
        self.check(asker, &self.clients)?;
        match account {
            Some(account) => self.accounts.check(&account.to_lowercase()).map_err(LoginFailure::RateLimited),
            None => Ok(()),
        }
    }

    pub(super) fn check_other(&self, asker: &Asker) -> Result<(), LoginFailure> {
        self.check(asker, &self.others)
    }

    fn check(&self, asker: &Asker, clients: &Limit) -> Result<(), LoginFailure> {
        let checked = match asker {
            Asker::Client(address) => clients.check(address),
            Asker::Service(name, address) => self.services.check(&(name, address)),
        };
        checked.map_err(LoginFailure::RateLimited)
    }
}

const fn number(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

const SERVICE: (NonZeroU32, NonZeroU32) = (number(20), number(100));
const CLIENT: (Duration, NonZeroU32) = (Duration::from_secs(2), number(20));
const ACCOUNT: (Duration, NonZeroU32) = (Duration::from_secs(6), number(10));
const OTHERS: (NonZeroU32, NonZeroU32) = (number(10), number(100));
