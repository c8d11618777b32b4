//! The report of `gaia inspect`.

use std::fmt::Write as _;

use serde::Serialize;

use super::certificate::{CertificateView, Decision};
use super::items::Item;
use super::token::TokenView;
use crate::Exit;
use crate::output::{Report, printable};

/// A decoded input.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inspection {
    /// The name of the input.
    pub(super) input: String,
    /// Its parts, in their order; keys follow certificates.
    pub(super) items: Vec<Item>,
}

impl Inspection {
    /// 2 if a certificate or token is not trusted, 1 if an API key has expired.
    pub(super) fn exit(&self) -> Exit {
        let of = |item: &Item| match item {
            Item::Certificate(view) => view.trust.exit(),
            Item::Token(view) => view.trust.exit(),
            Item::ApiKey(view) if view.state == "expired" => Exit::Warnings,
            _ => Exit::Done,
        };
        self.items.iter().map(of).collect()
    }
}

impl Decision {
    fn exit(&self) -> Exit {
        if matches!(self, Self::NotTrusted { .. }) { Exit::Failing } else { Exit::Done }
    }

    fn text(&self) -> String {
        match self {
            Self::Trusted { by } => format!("trusted by {by}"),
            Self::NotTrusted { reason } => format!("not trusted: {reason}"),
            Self::NotChecked => "not checked: name a platform with --dir, or CA certificates with --ca".to_owned(),
        }
    }
}

impl Report for Inspection {
    const KIND: &'static str = "Inspection";

    fn text(&self, is_wide: bool) -> String {
        let mut text = String::new();
        for item in &self.items {
            let (title, fields) = match item {
                Item::Certificate(view) => certificate(view, is_wide),
                Item::Token(view) => token(view),
                Item::PrivateKey(view) | Item::PublicKey(view) => {
                    let is_private = matches!(item, Item::PrivateKey(_));
                    let title = if is_private { "private key (not shown)" } else { "public key" };
                    let certificates = view.certificates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let fields = vec![
                        ("key", view.key.clone()),
                        ("fingerprint", view.fingerprint.clone()),
                        ("certificates", certificates),
                    ];
                    (title.to_owned(), fields)
                }
                Item::Jwk(view) => {
                    let thumbprint = if view.is_kid_thumbprint { "" } else { " (not the thumbprint of the key)" };
                    let fields = vec![
                        ("kid", format!("{}{thumbprint}", view.kid)),
                        ("algorithm", view.algorithm.clone()),
                        ("generation", view.generation.clone().unwrap_or_default()),
                    ];
                    ("public key of tokens".to_owned(), fields)
                }
                Item::ApiKey(view) => {
                    let expires = view.expires.map_or_else(|| "never".to_owned(), |expires| expires.to_string());
                    let scopes = if view.scopes.is_empty() { "all".to_owned() } else { view.scopes.join(" ") };
                    let shared = if view.is_shared { ", used by several callers" } else { "" };
                    let fields = vec![
                        ("principal", view.principal.clone()),
                        ("scopes", scopes),
                        ("expires", expires),
                        ("state", format!("{}{shared}", view.state)),
                    ];
                    (format!("API key {}", view.id), fields)
                }
            };
            let _ = writeln!(text, "{}", printable(&title));
            for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
                let _ = writeln!(text, "  {name:<13}{}", printable(&value));
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let name = |item: &Item| match item {
            Item::Certificate(view) => view.fingerprint.clone(),
            Item::PrivateKey(view) | Item::PublicKey(view) => view.fingerprint.clone(),
            Item::Token(view) => view.claims.get("jti").and_then(|jti| jti.as_str()).unwrap_or_default().to_owned(),
            Item::Jwk(view) => view.kid.clone(),
            Item::ApiKey(view) => view.id.clone(),
        };
        self.items.iter().map(|item| printable(&name(item))).collect()
    }
}

fn certificate(view: &CertificateView, is_wide: bool) -> (String, Vec<(&'static str, String)>) {
    let names = [("DNS", &view.dns_names), ("IP", &view.ip_addresses), ("URI", &view.uris)];
    let names: Vec<String> =
        names.iter().flat_map(|(kind, all)| all.iter().map(move |name| format!("{kind}:{name}"))).collect();
    let left = match view.days_left {
        days if days < 0 => format!("expired {} days ago", -days),
        days => format!("{days} days left"),
    };
    let mut fields = vec![
        ("subject", view.subject.clone()),
        ("issuer", view.issuer.clone()),
        ("names", names.join(", ")),
        ("valid", format!("{} to {} ({left})", view.not_before, view.not_after)),
        ("serial", view.serial.clone()),
        ("fingerprint", view.fingerprint.clone()),
    ];
    if is_wide {
        fields.extend([("key", view.key.clone()), ("usages", view.usages.join(", "))]);
    }
    fields.extend([("generation", view.generation.clone().unwrap_or_default()), ("trust", view.trust.text())]);
    let kind = if view.is_ca { "CA certificate" } else { "certificate" };
    (format!("{kind} {}", view.position), fields)
}

fn token(view: &TokenView) -> (String, Vec<(&'static str, String)>) {
    let time = |time: Option<jiff::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let encode = |map| serde_json::to_string(map).unwrap_or_default();
    let fields = vec![
        ("header", encode(&view.header)),
        ("claims", encode(&view.claims)),
        ("issued", time(view.issued)),
        ("expires", time(view.expires)),
        ("trust", view.trust.text()),
    ];
    ("token (not shown)".to_owned(), fields)
}
