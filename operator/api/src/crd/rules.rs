//! CEL rules and schema fragments that several fields share.

use std::borrow::Cow;

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::Span;
use crate::duration::PATTERN;

/// A field that keeps its first value.
#[must_use]
pub fn immutable() -> Rule {
    Rule::new("self == oldSelf").message("must not change: the field is immutable")
}

/// An optional field of the struct that keeps its first value, including its absence.
#[must_use]
pub fn immutable_optional(field: &str) -> Rule {
    Rule::new(format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    ))
    .message(format!("{field} must not change: the field is immutable").as_str())
}

/// The Secret's name in a GaiaService's overrides keeps its first value, also when the overrides come or go as a whole.
#[must_use]
pub fn immutable_secret_name_in_overrides() -> Rule {
    let name = |whose: &str| {
        format!(
            "(has({whose}.certificate) && has({whose}.certificate.secretName) ? {whose}.certificate.secretName : '')"
        )
    };
    Rule::new(format!("{} == {}", name("self"), name("oldSelf")))
        .message("certificate.secretName must not change: the field is immutable")
}

/// A counter that is only ever raised.
#[must_use]
pub fn never_decreases() -> Rule {
    Rule::new("self >= oldSelf").message("must not decrease")
}

/// A duration between two bounds, both included. A text that is no duration is left to the rule of [`Span`].
#[must_use]
pub fn between(low: &str, high: &str) -> Rule {
    Rule::new(format!(
        "!self.matches('{PATTERN}') || (duration(self) >= duration('{low}') && duration(self) <= duration('{high}'))"
    ))
    .message(format!("must be between {low} and {high}").as_str())
}

/// No two entries identify the same caller with equal fields. An entry that differs only by its own namespace is
/// checked by the operator: a rule has no access to the object's namespace.
#[must_use]
pub fn unique_callers() -> Rule {
    // `namespace` is a reserved word of CEL, so its field is escaped.
    let namespace = |entry: &str| format!("(has({entry}.__namespace__) ? {entry}.__namespace__ : '')");
    Rule::new(format!(
        "self.all(a, self.exists_one(b, b.service == a.service && {} == {}))",
        namespace("b"),
        namespace("a")
    ))
    .message("must not name the same service and namespace twice")
}

/// One optional duration of a struct is at most another one. A text that is no duration is left to the rule of [`Span`].
#[must_use]
pub fn not_longer_than(field: &str, limit: &str) -> Rule {
    Rule::new(format!(
        "!has(self.{field}) || !has(self.{limit}) || !self.{field}.matches('{PATTERN}') || \
         !self.{limit}.matches('{PATTERN}') || duration(self.{field}) <= duration(self.{limit})"
    ))
    .message(format!("{field} must not be longer than {limit}").as_str())
}

/// Each entry is an IPv4 or IPv6 address.
#[must_use]
pub fn each_is_ip() -> Rule {
    Rule::new("self.all(a, isIP(a))").message("must hold IPv4 or IPv6 addresses only")
}

/// Each entry is a network in CIDR form.
#[must_use]
pub fn each_is_cidr() -> Rule {
    Rule::new("self.all(r, isCIDR(r))").message("must hold networks in CIDR form only, e.g. 10.0.0.0/8")
}

/// Each entry that holds a colon, which no DNS name does, is an IPv6 address.
#[must_use]
pub fn each_is_name_or_ip() -> Rule {
    Rule::new("self.all(h, !h.contains(':') || isIP(h))")
        .message("must hold DNS names and IP addresses only, IPv6 addresses without brackets")
}

/// The keys are valid label or annotation keys and none of them is Gaia's.
#[must_use]
pub fn template_keys() -> Rule {
    Rule::new(format!(
        "self.all(k, size(k) <= 317 && k.matches('{QUALIFIED_NAME}') && !k.startsWith('gaia.dev/') && k != 'app.kubernetes.io/managed-by')"
    ))
    .message("must hold valid label or annotation keys, none of them gaia.dev/* or app.kubernetes.io/managed-by")
}

/// All keys and values together stay small: they are copied onto a Secret that is watched.
#[must_use]
pub fn small_map() -> Rule {
    Rule::new("self.map(k, size(k) + size(self[k])).sum() <= 16384")
        .message("must be at most 16384 bytes in all, keys and values")
}

/// An RSA key needs an RSA size, an ECDSA key an ECDSA size.
#[must_use]
pub fn key_size() -> Rule {
    Rule::new(
        "!has(self.size) || (self.algorithm == 'RSA' ? self.size in [2048, 3072, 4096] : self.size in [256, 384])",
    )
    .message("size must be 2048, 3072 or 4096 for RSA, 256 or 384 for ECDSA")
}

/// A leaf under an hour must be confirmed by a second field.
#[must_use]
pub fn leaf_duration() -> Rule {
    Rule::new(format!(
        "!has(self.duration) || (has(self.allowShortLived) && self.allowShortLived) || !self.duration.matches('{PATTERN}') || duration(self.duration) >= duration('1h')"
    ))
    .message("duration must be at least 1h, or at least 10m with allowShortLived: true")
}

/// `metadata.name` is a DNS label of at most 63 characters.
///
/// A name with a dot would make `<name>.<namespace>` a name that belongs to another namespace.
#[must_use]
pub fn name_is_dns_label() -> Rule {
    Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message(
            "metadata.name must be a DNS label: lower-case letters, digits and '-', at most 63 characters, no dots",
        )
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{PATTERN}')"),
                "message": "must be a duration such as 2160h, 30m or 1h30m: units h, m, s and ms (no d), at most 5 digits each",
            }],
        })
    }
}

/// A DNS-1123 label.
pub const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS-1123 subdomain.
pub const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A DNS-1123 subdomain, optionally with a leading wildcard label.
pub const WILDCARD_DNS_NAME: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A DNS-1123 subdomain, optionally with a leading wildcard label; or what may be an IP address.
pub const ENDPOINT_HOST: &str =
    r"^((\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$";
/// A lower-case hex SHA-256.
pub const SHA256_HEX: &str = "^[0-9a-f]{64}$";
const QUALIFIED_NAME: &str = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
