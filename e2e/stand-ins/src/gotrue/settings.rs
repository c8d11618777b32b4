//! The settings of a project.

use serde_json::{Map, Value, json};

/// The settings of a project that change what users can do.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of a project's settings page")]
pub struct ProjectSettings {
    /// The form of new refresh tokens.
    pub refresh_tokens: RefreshTokens,
    /// Sign-in with an address and a password.
    pub email: bool,
    /// Anonymous sign-in.
    pub anonymous: bool,
    /// Sign-up of new users.
    pub signups: bool,
    /// Addresses of new users count as confirmed.
    pub autoconfirm: bool,
    /// Passwords and sign-ups need a captcha. No captcha token is accepted.
    pub captcha: bool,
    /// The external providers that are switched on.
    pub providers: Vec<String>,
    /// The redirect target for browsers whose `redirect_to` is not allowed.
    pub site_url: String,
    /// The allowed `redirect_to`: `*` stands for characters other than `.` and `/`, `**` for any.
    pub redirect_urls: Vec<String>,
    /// Requests for tokens of one address in five minutes, after a burst of 30; none: no limit.
    pub token_limit: Option<u32>,
    /// `Sb-Forwarded-For` names the address that is limited.
    pub forwarded_for: bool,
}

/// The form of refresh tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokens {
    /// Twelve letters and digits, each kept with its parent.
    V1,
    /// A signed message of the session and a counter.
    V2,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self {
            refresh_tokens: RefreshTokens::V1,
            email: true,
            anonymous: true,
            signups: true,
            autoconfirm: true,
            captcha: false,
            providers: vec!["github".to_owned()],
            site_url: "http://localhost:3000".to_owned(),
            redirect_urls: ["http://localhost:*/**", "http://127.0.0.1:*/**"].map(str::to_owned).into(),
            token_limit: None,
            forwarded_for: false,
        }
    }
}

impl ProjectSettings {
    /// The answer of `GET /settings`.
    pub(super) fn to_json(&self) -> Value {
        let mut external: Map<String, Value> =
            PROVIDERS.iter().map(|name| ((*name).to_owned(), self.has_provider(name).into())).collect();
        external.insert("email".to_owned(), self.email.into());
        external.insert("phone".to_owned(), false.into());
        external.insert("anonymous_users".to_owned(), self.anonymous.into());
        json!({
            "external": external,
            "disable_signup": !self.signups,
            "mailer_autoconfirm": self.autoconfirm,
            "phone_autoconfirm": false,
            "sms_provider": "",
            "saml_enabled": false,
        })
    }

    pub(super) fn has_provider(&self, name: &str) -> bool {
        self.providers.iter().any(|provider| provider == name)
    }

    /// The redirect target for a requested one.
    pub(super) fn redirect<'a>(&'a self, wanted: &'a str) -> &'a str {
        let is_own = |url: &str| url == self.site_url || url.starts_with(&format!("{}/", self.site_url));
        let is_allowed = is_own(wanted) || self.redirect_urls.iter().any(|pattern| matches(pattern, wanted));
        if is_allowed { wanted } else { &self.site_url }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**") {
        return ends_of(text).any(|end| matches(rest, end));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let length = text.find(['.', '/']).unwrap_or(text.len());
        return ends_of(text).take_while(|end| text.len() - end.len() <= length).any(|end| matches(rest, end));
    }
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some(wanted), Some(found)) if wanted == found => {
            matches(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }
        _ => false,
    }
}

fn ends_of(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).map(|at| &text[at..])
}

const PROVIDERS: [&str; 22] = [
    "apple",
    "azure",
    "bitbucket",
    "discord",
    "facebook",
    "figma",
    "fly",
    "github",
    "gitlab",
    "google",
    "kakao",
    "keycloak",
    "linkedin",
    "linkedin_oidc",
    "notion",
    "slack",
    "slack_oidc",
    "spotify",
    "twitch",
    "twitter",
    "workos",
    "zoom",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browser_is_sent_to_allowed_places_only() {
        let settings = ProjectSettings {
            redirect_urls: ["https://*.example.com/auth/*", "http://localhost:*/**"].map(str::to_owned).into(),
            site_url: "https://site.example".to_owned(),
            ..ProjectSettings::default()
        };
        for allowed in [
            "https://app.example.com/auth/callback",
            "http://localhost:8080/auth/callback",
            "https://site.example/anything",
            "https://site.example",
        ] {
            assert_eq!(settings.redirect(allowed), allowed);
        }
        for refused in [
            "",
            "https://app.example.com/other",
            "https://a.b.example.com/auth/callback",
            "https://site.example.evil/",
            "https://evil.example/auth/callback",
        ] {
            assert_eq!(settings.redirect(refused), "https://site.example", "{refused}");
        }
    }
}
