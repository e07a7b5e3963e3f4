//! The allow-list of issuers, and the digests of tokens that were used.
//!
//! | kind | name | row |
//! |---|---|---|
//! | `iam-issuer` | name | [`Issuer`] |
//! | `iam-used-token` | SHA-256 of the token | `{"expires_s": …}` |

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
/// Used tokens looked at for being over, whenever one is added.
const PRUNED_MAX: usize = 64;

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
        self.prune_used(who)?;
        let row = json!({ "expires_s": vouched.expires_s });
        let store = &self.inner.store;
        let used = store.record_create(who, USED, &vouched.digest, &row, None);
        used.map_err(|error| match error.kind() {
            Kind::Conflict => Error::new(
                Kind::Conflict,
                Subject::Identity,
                "this token was used before: log in again for a new one",
            ),
            _ => error,
        })
    }

    fn prune_used(&self, who: &Who) -> Result<()> {
        // The leeway in which an expired token is still taken is long over.
        let now_s = now_ms() / 1000;
        let over = |row: &Value| {
            let expires = row.get("expires_s").and_then(Value::as_u64);
            expires.is_none_or(|expires| expires + 3600 < now_s)
        };
        let store = &self.inner.store;
        let used = store.record_list(USED)?;
        for (digest, _) in used.iter().filter(|(_, row)| over(row)).take(PRUNED_MAX) {
            store.record_remove(who, USED, digest, None)?;
        }
        Ok(())
    }
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
