//! Web identities: issuers that this provider believes, the tokens they sign, and the roles that open to
//! them.
//!
//! ```text
//! token ─▶ whose? ─▶ on the allow-list? ─▶ signature, audience, time ─▶ Vouched ─▶ the role's trust
//! ```
//! 1. Only issuers on the list are believed, and only by the keys that they publish over TLS.
//! 2. A token opens what a role's trust policy says of its claims, nothing else. The trust sees
//!    `<issuer>:sub`, `:aud`, `:groups` and `:entitlements`, the issuer without its scheme.
//! 3. A token is used once, unless its issuer is marked `reusable`: its digest is durable before a
//!    session of it is told to anybody.

mod entitlement;
mod issuers;
mod token;

pub use entitlement::Entitlement;
pub use issuers::{Issuer, IssuerAdd};
pub use token::{TokenError, Vouched, issuer_of, verify};

pub use jsonwebtoken::jwk::JwkSet;
