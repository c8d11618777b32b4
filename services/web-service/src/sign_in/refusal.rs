//! Refusals of sign-in that persist until the account or the project is changed.

/// A refusal that a retry does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The address of the account is not confirmed.
    NotConfirmed,
    /// The project requires a captcha.
    CaptchaRequired,
    /// The project does not offer this sign-in method.
    MethodOff,
    /// The account must sign in with a second factor.
    SecondFactorRequired,
    /// The role of the account is not permitted.
    RoleNotAdmitted,
    /// The account's token or session is too large.
    SessionTooLarge,
    /// No login server is configured at auth-service.
    Off,
}

impl Refusal {
    /// Returns the refusal for auth-service's `code`.
    pub(crate) fn of(code: &str) -> Option<Self> {
        ALL.into_iter().find(|refusal| refusal.as_str() == code)
    }

    /// Returns the code, also used as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotConfirmed => "address_not_confirmed",
            Self::CaptchaRequired => "captcha_required",
            Self::MethodOff => "method_off",
            Self::SecondFactorRequired => "second_factor_required",
            Self::RoleNotAdmitted => "role_not_admitted",
            Self::SessionTooLarge => "session_too_large",
            Self::Off => "login_off",
        }
    }

    /// Returns the cause and the next step, for the user.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NotConfirmed => {
                "Your email address is not confirmed yet. Follow the link in the email that you received when you signed up, then sign in again."
            }
            Self::CaptchaRequired => {
                "The sign-in service requires a captcha, which this page cannot show. Ask an administrator to disable captcha protection."
            }
            Self::MethodOff => {
                "This sign-in method is disabled. Choose another one, or ask an administrator to enable it."
            }
            Self::SecondFactorRequired => {
                "Your account requires a second factor, which this page does not support. Ask an administrator."
            }
            Self::RoleNotAdmitted => {
                "Your account may not use this site: its role is not permitted. Ask an administrator."
            }
            Self::SessionTooLarge => {
                "Too much data is stored with your account to sign you in. Ask an administrator to shorten its metadata."
            }
            Self::Off => "Sign-in is disabled: the authentication service has no login server. Ask an administrator.",
        }
    }
}

const ALL: [Refusal; 7] = [
    Refusal::NotConfirmed,
    Refusal::CaptchaRequired,
    Refusal::MethodOff,
    Refusal::SecondFactorRequired,
    Refusal::RoleNotAdmitted,
    Refusal::SessionTooLarge,
    Refusal::Off,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_refusal_and_a_next_step() {
        for refusal in ALL {
            assert_eq!(Refusal::of(refusal.as_str()), Some(refusal));
            assert!(["Ask", "ask", "Follow"].iter().any(|step| refusal.text().contains(step)), "{refusal:?}");
        }
        assert_eq!(Refusal::of("login_unavailable"), None);
    }
}
