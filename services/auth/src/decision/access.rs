//! Access requirements of routes.

/// Access requirement of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No requirement; credentials are ignored.
    Public,
    /// An mTLS peer, in every mode.
    Peer,
    /// A principal with all of these scopes; empty: any principal.
    Scopes(&'static [&'static str]),
    /// Like `Scopes`, and also accepts anonymous users, created by their issuer without sign-in.
    AnonymousToo(&'static [&'static str]),
}

impl Access {
    /// Returns the required scopes.
    #[must_use]
    pub fn scopes(self) -> &'static [&'static str] {
        match self {
            Self::Public | Self::Peer => &[],
            Self::Scopes(scopes) | Self::AnonymousToo(scopes) => scopes,
        }
    }
}
