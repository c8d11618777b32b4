//! API-key usage report: the evidence that keys can be disabled.
//!
//! It is kept in memory by day, for at most [`MAX_CALLERS`] callers per key; the operator reads it and keeps the latest
//! day of each caller. Refused keys are recorded too, because their callers still depend on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use gaia_api::SpiffeId;
pub use gaia_api::ledger::MAX_CALLERS;
use gaia_api::ledger::{LedgerCaller, LedgerEntry, PLAIN, TLS};
use gaia_api::sync::lock;
use http::header::{HeaderMap, USER_AGENT};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::principal::{Connection, Identity, Listener, Principal, Transport};

/// Uses of each API key by caller, and of accepted requests without a client certificate.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: Rows,
    /// By transport.
    plain: Rows,
}

/// Callers of a key or transport, with the last day of each.
#[derive(Debug, Default)]
struct Rows(Mutex<BTreeMap<String, BTreeMap<LedgerCaller, Date>>>);

/// The caller: the peer if known, otherwise the source address and user agent.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    peer: Option<&'a SpiffeId>,
    address: Option<IpAddr>,
    user_agent: Option<&'a str>,
    route: &'static str,
}

impl<'a> Caller<'a> {
    /// Identifies the sender of a request.
    #[must_use]
    pub fn of(connection: &'a Connection, headers: &'a HeaderMap, route: &'static str) -> Self {
        Self {
            peer: connection.peer.as_ref().map(|peer| &peer.spiffe_id),
            address: connection.address,
            user_agent: headers.get(USER_AGENT).and_then(|value| value.to_str().ok()),
            route,
        }
    }
}

impl From<Caller<'_>> for LedgerCaller {
    fn from(caller: Caller<'_>) -> Self {
        match caller.peer {
            Some(peer) => Self::Peer { spiffe_id: peer.clone() },
            None => Self::Unknown {
                address: caller.address,
                // Only the product name, so that versions of one program count as one caller; truncated for logs.
                user_agent: caller.user_agent.map(|text| {
                    text.split(['/', ' ']).next().unwrap_or_default().chars().take(MAX_USER_AGENT_CHARACTERS).collect()
                }),
                route: caller.route.to_owned(),
            },
        }
    }
}

impl Ledger {
    /// Records that a caller presented a key.
    pub fn note(&self, key_id: &str, caller: Caller<'_>, now: Timestamp) {
        self.keys.note(key_id, LedgerCaller::from(caller), now);
    }

    /// Records an accepted request on the mesh port without a client certificate. Services are named by their token.
    pub fn note_accepted(&self, connection: &Connection, principal: &Principal, caller: Caller<'_>, now: Timestamp) {
        let transport = match (connection.listener, connection.transport) {
            (Listener::Mesh, Transport::Plain) => PLAIN,
            (Listener::Mesh, Transport::Tls) => TLS,
            (Listener::Mesh, Transport::Mtls) | (Listener::Ingress, _) => return,
        };
        let caller = match &principal.actor {
            Identity::Service(spiffe_id) => LedgerCaller::Peer { spiffe_id: spiffe_id.clone() },
            Identity::Key(_) | Identity::User { .. } => LedgerCaller::from(caller),
        };
        self.plain.note(transport, caller, now);
    }

    /// Returns the last day of each key and caller, sorted.
    #[must_use]
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.keys.entries()
    }

    /// Returns the last day of each caller accepted without a client certificate, by transport, sorted.
    #[must_use]
    pub fn plain(&self) -> Vec<LedgerEntry> {
        self.plain.entries()
    }
}

impl Rows {
    fn note(&self, key_id: &str, caller: LedgerCaller, now: Timestamp) {
        let today = now.to_zoned(TimeZone::UTC).date();
        let mut keys = lock(&self.0);
        if !keys.contains_key(key_id) {
            keys.insert(key_id.to_owned(), BTreeMap::new());
        }
        let Some(callers) = keys.get_mut(key_id) else { return };
        // The last entry is shared by all further callers, so that the report shows that there were more.
        let is_full = callers.len() >= MAX_CALLERS - 1 && !callers.contains_key(&caller);
        let caller = if is_full { LedgerCaller::Others } else { caller };
        let day = callers.entry(caller).or_insert(today);
        *day = today.max(*day);
    }

    fn entries(&self) -> Vec<LedgerEntry> {
        let keys = lock(&self.0);
        let entries = keys.iter().flat_map(|(key, callers)| {
            callers.iter().map(|(caller, date)| LedgerEntry { key: key.clone(), caller: caller.clone(), date: *date })
        });
        entries.collect()
    }
}

const MAX_USER_AGENT_CHARACTERS: usize = 64;

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use jiff::civil::date;

    use super::*;
    use crate::fixtures::{caller, now, peer};

    fn note(ledger: &Ledger, connection: &Connection, user_agent: &str, now: Timestamp) {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, user_agent.parse().unwrap());
        ledger.note("k", Caller::of(connection, &headers, "/assets"), now);
    }

    #[test]
    fn a_peer_is_known_by_its_certificate_and_others_by_where_they_come_from() {
        let ledger = Ledger::default();
        let known = Connection {
            transport: Transport::Mtls,
            peer: Some(peer(caller())),
            address: None,
            listener: Listener::Mesh,
        };
        note(&ledger, &known, "gateway/1.0", now());
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let unknown = Connection { address, ..Connection::default() };
        note(&ledger, &unknown, "curl/8.5.0", now());
        note(&ledger, &unknown, "curl/8.6.0", now() + SignedDuration::from_hours(24));
        note(&ledger, &unknown, "curl/8.6.0", now() - SignedDuration::from_hours(24));
        let unknown = LedgerCaller::Unknown { address, user_agent: Some("curl".into()), route: "/assets".into() };
        let entry = |caller, date| LedgerEntry { key: "k".into(), caller, date };
        let known = LedgerCaller::Peer { spiffe_id: caller() };
        assert_eq!(ledger.entries(), [entry(known, date(2027, 1, 15)), entry(unknown, date(2027, 1, 16))]);
    }

    #[test]
    fn accepted_requests_without_a_client_certificate_are_noted_by_name_and_transport() {
        let ledger = Ledger::default();
        let of = |actor: Identity| Principal {
            subject: actor.clone(),
            actor,
            scopes: crate::Scopes::All,
            credential: crate::Credential::ServiceToken,
            expires: None,
            is_anonymous: false,
        };
        let accept = |transport, listener, actor| {
            let connection = Connection { transport, listener, ..Connection::default() };
            let headers = HeaderMap::new();
            let from = Caller::of(&connection, &headers, "/assets");
            ledger.note_accepted(&connection, &of(actor), from, now());
        };
        let service = || Identity::Service(caller());
        accept(Transport::Plain, Listener::Mesh, service());
        accept(Transport::Tls, Listener::Mesh, Identity::Key("old".to_owned()));
        accept(Transport::Mtls, Listener::Mesh, service());
        accept(Transport::Plain, Listener::Ingress, service());
        let row = |key: &str, caller| LedgerEntry { key: key.to_owned(), caller, date: date(2027, 1, 15) };
        let unknown = LedgerCaller::Unknown { address: None, user_agent: None, route: "/assets".to_owned() };
        let expected = [row("plain", LedgerCaller::Peer { spiffe_id: caller() }), row("tls", unknown)];
        assert_eq!(ledger.plain(), expected);
        assert_eq!(ledger.entries(), [], "no key was presented");
        for number in 0..1000 {
            let connection = Connection::default();
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, format!("bot{number}").parse().unwrap());
            let from = Caller::of(&connection, &headers, "/assets");
            ledger.note_accepted(&connection, &of(Identity::Key("old".to_owned())), from, now());
        }
        assert_eq!(ledger.plain().len(), MAX_CALLERS + 1, "a flood is bounded");
    }

    #[test]
    fn a_flood_of_callers_takes_no_more_room_and_is_seen_as_one() {
        let ledger = Ledger::default();
        for number in 0..1000 {
            note(&ledger, &Connection::default(), &format!("bot{number}"), now());
        }
        assert_eq!(ledger.entries().len(), MAX_CALLERS);
        assert!(ledger.entries().iter().any(|entry| entry.caller == LedgerCaller::Others));
        note(&ledger, &Connection::default(), "bot0", now() + SignedDuration::from_hours(24));
        let known = ledger.entries().into_iter().filter(|entry| entry.date == date(2027, 1, 16)).count();
        assert_eq!(known, 1, "an existing entry is kept");
    }
}
