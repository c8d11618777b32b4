//! From bytes to decoded items.

use gaia_api::mount::{self, ApiKeys};
use gaia_api::names::key;
use gaia_pki::{Certificate, Jwk, JwkSet, PrivateKey, PublicKey};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::certificate::CertificateView;
use super::input::Content;
use super::keys::{ApiKeyView, JwkView, KeyView};
use super::pem;
use super::token::{self, TokenView};
use super::trust::Trust;
use crate::Failure;

/// A decoded part of the input.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub(crate) enum Item {
    Certificate(Box<CertificateView>),
    PrivateKey(KeyView),
    PublicKey(KeyView),
    Token(Box<TokenView>),
    Jwk(JwkView),
    ApiKey(ApiKeyView),
}

/// Decodes an input.
pub(super) fn decode(input: &str, content: &Content, trust: &Trust, now: Timestamp) -> Result<Vec<Item>, Failure> {
    match content {
        Content::Bytes(bytes) => of_bytes(input, bytes, trust, now),
        Content::Chain(chain) => {
            let wrong =
                |error| Failure::failing(format!("{input} presented a certificate that cannot be read: {error}"));
            let chain: Result<Vec<_>, _> = chain.iter().map(|der| Certificate::from_der(der)).collect();
            Ok(of_certificates(&chain.map_err(wrong)?, trust, now))
        }
        Content::Keys(keys) => {
            let items = keys.iter().map(|(name, bytes)| of_bytes(&format!("{input}, key {name}"), bytes, trust, now));
            Ok(items.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
    }
}

fn of_bytes(input: &str, bytes: &[u8], trust: &Trust, now: Timestamp) -> Result<Vec<Item>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("{input}: {why}"))
            .next("inspect reads certificates, keys, JWTs, JWKs, JWK sets and api-keys.json")
    };
    // DER: a SEQUENCE.
    if bytes.first() == Some(&0x30) && std::str::from_utf8(bytes).is_err() {
        let certificate = Certificate::from_der(bytes).map_err(|error| wrong(&error))?;
        return Ok(of_certificates(&[certificate], trust, now));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(&"neither text nor a certificate in DER"))?;
    let blocks = pem::blocks(text);
    if !blocks.is_empty() {
        return of_pem(&blocks, trust, now).map_err(|why| wrong(&why));
    }
    let text = text.trim();
    if text.starts_with('{') {
        return of_json(text, trust, now).map_err(|why| wrong(&why));
    }
    match token::decode(text, trust, now) {
        Some(token) => Ok(vec![Item::Token(Box::new(token))]),
        None if text.is_empty() => Err(wrong(&"it is empty")),
        None => Err(wrong(&"not a format that is known")),
    }
}

fn of_pem(blocks: &[(&str, &str)], trust: &Trust, now: Timestamp) -> Result<Vec<Item>, String> {
    let mut certificates = vec![];
    for (index, (_, block)) in blocks.iter().enumerate().filter(|(_, (label, _))| *label == "CERTIFICATE") {
        let read = Certificate::chain_from_pem(block.as_bytes());
        certificates.extend(read.map_err(|error| format!("PEM block {}: {error}", index + 1))?);
    }
    let mut items = of_certificates(&certificates, trust, now);
    for (index, (label, block)) in blocks.iter().enumerate() {
        let at = |error: &dyn std::fmt::Display| format!("PEM block {}: {error}", index + 1);
        match *label {
            "CERTIFICATE" | "EC PARAMETERS" => {}
            "PUBLIC KEY" => {
                let key = PublicKey::from_pem(block).map_err(|error| at(&error))?;
                items.push(Item::PublicKey(KeyView::of_public(&key, &certificates)));
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
                let key = PrivateKey::from_pem(block).map_err(|error| at(&error))?;
                items.push(Item::PrivateKey(KeyView::of_private(&key, &certificates)));
            }
            other => {
                return Err(at(&format!(
                    "{:?} is not a label that is known",
                    other.chars().take(40).collect::<String>()
                )));
            }
        }
    }
    Ok(items)
}

fn of_certificates(all: &[Certificate], trust: &Trust, now: Timestamp) -> Vec<Item> {
    let views = (0..all.len()).filter_map(|index| CertificateView::of(all, index, trust, now));
    views.map(|view| Item::Certificate(Box::new(view))).collect()
}

/// An error of the parser can quote what it found, and the input can hold a key: only its position is reported.
fn of_json(text: &str, trust: &Trust, now: Timestamp) -> Result<Vec<Item>, String> {
    let at = |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON ({})", at(&error)))?;
    if value.get("kty").is_some() {
        let jwk: Jwk = serde_json::from_value(value)
            .map_err(|error| format!("not a public JWK of a kind that is known: {error}"))?;
        return Ok(vec![Item::Jwk(JwkView::of(&jwk, trust))]);
    }
    let first = value.get("keys").and_then(|keys| keys.get(0));
    if first.is_some_and(|first| first.get("kty").is_some()) {
        let set: JwkSet = serde_json::from_value(value).map_err(|error| format!("not a JWK set: {error}"))?;
        return Ok(set.keys().iter().map(|jwk| Item::Jwk(JwkView::of(jwk, trust))).collect());
    }
    if value.get("schemaVersion").is_some() && value.get("keys").is_some() {
        let keys = mount::read::<ApiKeys>(key::API_KEYS, text.as_bytes());
        let keys = keys.map_err(|error| match error {
            mount::MountError::Invalid { source, .. } => format!("not an api-keys.json ({})", at(&source)),
            other @ mount::MountError::TooNew { .. } => other.to_string(),
        })?;
        return Ok(keys.keys.into_iter().map(|record| Item::ApiKey(ApiKeyView::of(record, now))).collect());
    }
    Err("JSON that is neither a JWK, a JWK set nor api-keys.json".to_owned())
}
