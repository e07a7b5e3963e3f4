//! The allow-list of issuers, and the marks of tokens that were used.
//!
//! | kind | name | row |
//! |---|---|---|
//! | `iam-issuer` | name | [`Issuer`] |
//! | `iam-used-token` | when it expires, 20 digits of Unix seconds, `-`, SHA-256 of what the token's signature is over | `{}` |
//!
//! Marks lie in the order in which they may go, so that taking away the old reads no others.

use crate::Access;
use crate::identity::now_ms;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ISSUER: &str = "iam-issuer";
const USED: &str = "iam-used-token";
const ISSUERS_MAX: usize = 64;
const AUDIENCES_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 512;
const CA_BYTES_MAX: usize = 64 << 10;
/// Marks that are looked at for being over, whenever one is added.
const PRUNED_MAX: usize = 64;
/// How long a mark outlives its token: far longer than the leeway in which one is still taken.
const KEPT_S: u64 = 3600;

/// An OpenID provider that is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// What it is called here.
    pub name: String,
    /// Its `iss`, exactly: `https://aai.egi.eu/auth/realms/egi`.
    pub url: String,
    /// Which `aud` are meant for us; one must match.
    pub audiences: Vec<String>,
    /// The client that `infall login` is to it; the first audience if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Certificates it is known by, as PEM, where the system's own do not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// A token may be used again until it expires, for programs that read theirs from a file.
    #[serde(default)]
    pub reusable: bool,
    /// When it was put on the list, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// An issuer to be put on the list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerAdd {
    /// See [`Issuer`].
    pub name: String,
    /// See [`Issuer`].
    pub url: String,
    /// See [`Issuer`].
    pub audiences: Vec<String>,
    /// See [`Issuer`].
    #[serde(default)]
    pub client_id: Option<String>,
    /// See [`Issuer`].
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// See [`Issuer`].
    #[serde(default)]
    pub reusable: bool,
}

impl Issuer {
    /// As condition keys name it: without its scheme, `aai.egi.eu/auth/realms/egi`.
    pub fn short(&self) -> &str {
        let url = self.url.trim_end_matches('/');
        url.split_once("://").map_or(url, |(_, rest)| rest)
    }

    /// The client that people log in with.
    pub fn login_client(&self) -> &str {
        let first = self.audiences.first().map(String::as_str);
        self.client_id.as_deref().or(first).unwrap_or_default()
    }
}

fn invalid(text: String) -> Error {
    Error::new(Kind::Invalid, Subject::Identity, text)
}

impl Access {
    /// Puts an issuer on the list. Plain HTTP is taken for this machine's own addresses only.
    pub fn issuer_add(&self, who: &Who, add: IssuerAdd) -> Result<Issuer> {
        crate::identity::check_name("issuer", &add.name, 64)?;
        check_url(&add.url)?;
        let fits = |text: &String| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
        if add.audiences.is_empty()
            || add.audiences.len() > AUDIENCES_MAX
            || !add.audiences.iter().all(fits)
        {
            return Err(invalid(format!(
                "an issuer needs 1 to {AUDIENCES_MAX} audiences: the client ids whose tokens are meant \
                 for this provider"
            )));
        }
        if !add.client_id.iter().all(fits) {
            return Err(invalid("the client id is empty or too long".into()));
        }
        if add
            .ca_pem
            .as_ref()
            .is_some_and(|pem| pem.len() > CA_BYTES_MAX)
        {
            return Err(invalid(format!(
                "a CA file has at most {CA_BYTES_MAX} bytes"
            )));
        }
        let known = self.issuers()?;
        if known.len() >= ISSUERS_MAX {
            return Err(invalid(format!("{ISSUERS_MAX} issuers are the most")));
        }
        if let Some(same) = known.iter().find(|issuer| issuer.url == add.url) {
            let text = format!("{} is on the list already, as {:?}", add.url, same.name);
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        let issuer = Issuer {
            name: add.name,
            url: add.url,
            audiences: add.audiences,
            client_id: add.client_id,
            ca_pem: add.ca_pem,
            reusable: add.reusable,
            created_ms: now_ms(),
        };
        let row = serde_json::to_value(&issuer).map_err(unwritten)?;
        let entry = Entry::new("issuer.added", &issuer.name).detail(issuer.url.clone());
        let store = &self.inner.store;
        store.record_create(who, ISSUER, &issuer.name, &row, Some(entry))?;
        Ok(issuer)
    }

    /// Takes one off; sessions that its tokens began live on until they expire.
    pub fn issuer_remove(&self, who: &Who, name: &str) -> Result<()> {
        let entry = Entry::new("issuer.removed", name);
        let removed = self
            .inner
            .store
            .record_remove(who, ISSUER, name, Some(entry));
        removed.map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(
                Kind::NotFound,
                Subject::Identity,
                format!("no issuer {name:?}: infall issuer ls"),
            ),
            _ => error,
        })
    }

    /// The list, by name.
    pub fn issuers(&self) -> Result<Vec<Issuer>> {
        let rows = self.inner.store.record_list(ISSUER)?;
        rows.into_iter()
            .map(|(name, row)| read(&name, row))
            .collect()
    }

    /// The issuer that calls itself `url`.
    pub fn issuer_by_url(&self, url: &str) -> Result<Option<Issuer>> {
        Ok(self.issuers()?.into_iter().find(|issuer| issuer.url == url))
    }

    /// Roles whose trust would let this identity in: what `infall login` may choose from.
    pub fn roles_open_to(
        &self,
        caller: &crate::Caller,
        vouched: &super::Vouched,
    ) -> Result<Vec<String>> {
        let context = vouched.context();
        let context: Vec<(&str, &str)> = context
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let mut open = Vec::new();
        for role in self.roles(None) {
            if self.would_assume_web(caller, &role, &vouched.issuer.url, &context)? {
                open.push(role.arn());
            }
        }
        Ok(open)
    }

    /// Marks a token as used. Conflict if it was before.
    pub fn token_use(&self, who: &Who, vouched: &super::Vouched) -> Result<()> {
        if vouched.issuer.reusable {
            return Ok(());
        }
        self.prune_used(who, now_ms() / 1000)?;
        let name = mark(vouched.expires_s, &vouched.digest);
        let store = &self.inner.store;
        let used = store.record_create(who, USED, &name, &json!({}), None);
        used.map_err(|error| match error.kind() {
            Kind::Conflict => Error::new(
                Kind::Conflict,
                Subject::Identity,
                "this token was used before: log in again for a new one",
            ),
            _ => error,
        })
    }

    /// Takes away the oldest marks, as far as they are over.
    fn prune_used(&self, who: &Who, now_s: u64) -> Result<()> {
        let store = &self.inner.store;
        for (name, _) in store.record_first(USED, PRUNED_MAX)? {
            if !is_over(&name, now_s) {
                break;
            }
            match store.record_remove(who, USED, &name, None) {
                // Another login took it away.
                Err(error) if error.kind() == Kind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

/// What a used token's mark is called.
fn mark(expires_s: u64, digest: &str) -> String {
    format!("{expires_s:020}-{digest}")
}

/// Whether a mark is needed no longer.
fn is_over(name: &str, now_s: u64) -> bool {
    let expires_s = name.split('-').next().and_then(|text| text.parse().ok());
    expires_s.is_none_or(|expires_s: u64| expires_s.saturating_add(KEPT_S) < now_s)
}

fn read(name: &str, row: Value) -> Result<Issuer> {
    serde_json::from_value(row).map_err(|bad| {
        let text = format!("the row of issuer {name:?} cannot be read");
        Error::new(Kind::Corrupt, Subject::Identity, text).because(bad)
    })
}

fn unwritten(bad: serde_json::Error) -> Error {
    Error::new(
        Kind::Internal,
        Subject::Identity,
        "an issuer cannot be written",
    )
    .because(bad)
}

fn check_url(url: &str) -> Result<()> {
    let rest = url.strip_prefix("https://");
    let plain = url.strip_prefix("http://");
    let host = rest
        .or(plain)
        .map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    let local = matches!(host, Some("127.0.0.1" | "localhost"))
        || plain.is_some_and(|rest| rest.starts_with("[::1]"));
    if url.len() > TEXT_BYTES_MAX
        || host.is_none_or(str::is_empty)
        || url.contains(['?', '#', ' ', '@'])
        || url.chars().any(char::is_control)
    {
        return Err(invalid(format!(
            "{url:?} is no issuer: it is written exactly as in its tokens, e.g. https://aai.example.org/realm"
        )));
    }
    if plain.is_some() && !local {
        return Err(invalid(format!(
            "{url} is plain HTTP, over which anybody could hand out keys: an issuer needs https://"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::{Options, Store};

    #[test]
    fn a_prune_reads_only_the_oldest_marks_and_takes_only_what_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let access = Access::open(store.clone(), crate::Credentials::generate()).unwrap();
        let who = Who::server();
        let marks = || store.record_list(USED).unwrap().len();
        for expires_s in 0..100_u64 {
            // Digests are in no order.
            let name = mark(
                expires_s,
                &format!("{:08x}", expires_s.wrapping_mul(2_654_435_761)),
            );
            store
                .record_create(&who, USED, &name, &json!({}), None)
                .unwrap();
        }
        access.prune_used(&who, KEPT_S + 10).unwrap();
        assert_eq!(marks(), 90);
        access.prune_used(&who, KEPT_S + 1000).unwrap();
        assert_eq!(marks(), 90 - PRUNED_MAX);
        access.prune_used(&who, KEPT_S + 1000).unwrap();
        assert_eq!(marks(), 0);
    }
}
