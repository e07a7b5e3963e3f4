//! The keys of issuers: found by discovery (OpenID Connect Discovery 1.0, 4), cached, rotated.
//!
//! 1. Keys are asked for anew when they are [`FRESH`] old, or when a token names one that is not known;
//!    the latter at most every [`AGAIN`], so that forged tokens cannot make us a nuisance.
//! 2. An issuer that is down is served from what was known, for [`STALE`].
//! 3. Answers are bounded in time and size, redirects are not followed, and a key set comes from the
//!    issuer's own host or over TLS.

use access::Access;
use access::federation::{Issuer, JwkSet, TokenError, Vouched, issuer_of, verify};
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use blockstore::{Error, Result as Stored};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FRESH: Duration = Duration::from_secs(3600);
const STALE: Duration = Duration::from_secs(24 * 3600);
const AGAIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
const KEYS_MAX: usize = 100;

/// Why nobody vouches.
pub(crate) enum Fetch {
    Token(TokenError),
    /// The issuer does not answer as one should.
    Down(String),
    Store(Error),
}

impl From<Error> for Fetch {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// What an issuer publishes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Discovery {
    issuer: String,
    jwks_uri: String,
    pub(crate) authorization_endpoint: Option<String>,
    pub(crate) token_endpoint: Option<String>,
    pub(crate) device_authorization_endpoint: Option<String>,
}

#[derive(Clone)]
struct Known {
    keys: Arc<JwkSet>,
    at: Instant,
}

#[derive(Default)]
struct Cache {
    known: HashMap<String, Known>,
    /// When each issuer was asked last, whether it answered or not.
    asked: HashMap<String, Instant>,
}

/// The issuers' keys; a cheap handle.
#[derive(Clone)]
pub(crate) struct Issuers {
    access: Access,
    cache: Arc<Mutex<Cache>>,
    /// One asks, the others wait for what it hears.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Issuers {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            access,
            cache: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// Whom a token shows.
    pub(crate) async fn vouch(&self, token: &str) -> Result<Vouched, Fetch> {
        let url = issuer_of(token).map_err(Fetch::Token)?;
        let (access, wanted) = (self.access.clone(), url.clone());
        let found: Stored<_> = crate::blocking::run(move || access.issuer_by_url(&wanted)).await;
        let issuer = found?.ok_or(Fetch::Token(TokenError::Issuer(url)))?;
        let keys = self.keys(&issuer, false).await?;
        match verify(token, &issuer, &keys, now_s()) {
            // Perhaps the issuer has rotated its keys.
            Err(TokenError::Key(_)) => {
                let keys = self.keys(&issuer, true).await?;
                verify(token, &issuer, &keys, now_s()).map_err(Fetch::Token)
            }
            other => other.map_err(Fetch::Token),
        }
    }

    async fn keys(&self, issuer: &Issuer, unknown_key: bool) -> Result<Arc<JwkSet>, Fetch> {
        if let Some(keys) = self.cached(issuer, unknown_key) {
            return Ok(keys);
        }
        let _one = self.asking.lock().await;
        // Another may have asked while this one waited.
        if let Some(keys) = self.cached(issuer, unknown_key) {
            return Ok(keys);
        }
        self.locked()
            .asked
            .insert(issuer.url.clone(), Instant::now());
        match fetch_keys(issuer).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let known = Known {
                    keys: Arc::clone(&keys),
                    at: Instant::now(),
                };
                self.locked().known.insert(issuer.url.clone(), known);
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(
                    issuer = issuer.url,
                    why,
                    "an issuer's keys could not be had"
                );
                let known = self.locked().known.get(&issuer.url).cloned();
                known
                    .filter(|known| known.at.elapsed() < STALE)
                    .map(|known| known.keys)
                    .ok_or(Fetch::Down(why))
            }
        }
    }

    /// Keys that will do without asking.
    fn cached(&self, issuer: &Issuer, unknown_key: bool) -> Option<Arc<JwkSet>> {
        let cache = self.locked();
        let known = cache.known.get(&issuer.url)?;
        let asked = cache.asked.get(&issuer.url)?;
        let fresh = known.at.elapsed() < FRESH && !unknown_key;
        (fresh || asked.elapsed() < AGAIN && known.at.elapsed() < STALE)
            .then(|| Arc::clone(&known.keys))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an issuer publishes about itself.
pub(crate) async fn discover(issuer: &Issuer) -> Result<Discovery, String> {
    let http = client(issuer)?;
    let at = format!(
        "{}/.well-known/openid-configuration",
        issuer.url.trim_end_matches('/')
    );
    let found: Discovery = document(&http, &at).await?;
    if found.issuer != issuer.url {
        return Err(format!("{at} says that it is {:?}", found.issuer));
    }
    Ok(found)
}

async fn fetch_keys(issuer: &Issuer) -> Result<JwkSet, String> {
    let found = discover(issuer).await?;
    let safe = found.jwks_uri.starts_with("https://") || same_host(&found.jwks_uri, &issuer.url);
    if !safe {
        return Err(format!(
            "its keys lie at {}, which is not safe",
            found.jwks_uri
        ));
    }
    let http = client(issuer)?;
    // Keys of a kind that is not known here must not hide the others.
    let raw: RawKeys = document(&http, &found.jwks_uri).await?;
    let keys: Vec<_> = raw
        .keys
        .into_iter()
        .take(KEYS_MAX)
        .filter_map(|key| serde_json::from_value(key).ok())
        .collect();
    if keys.is_empty() {
        return Err("it publishes no key that can be used".to_owned());
    }
    Ok(JwkSet { keys })
}

#[derive(Deserialize)]
struct RawKeys {
    keys: Vec<serde_json::Value>,
}

fn same_host(one: &str, other: &str) -> bool {
    let host = |url: &str| {
        url.parse::<Uri>()
            .ok()
            .and_then(|uri| uri.authority().cloned())
    };
    let found = host(one);
    found.is_some() && found == host(other)
}

type Http = Client<HttpsConnector<HttpConnector>, Body>;

fn client(issuer: &Issuer) -> Result<Http, String> {
    let mut roots = rustls::RootCertStore::empty();
    match &issuer.ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("its CA file: {error}"))?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("its CA file: {error}"))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

async fn document<T: serde::de::DeserializeOwned>(http: &Http, at: &str) -> Result<T, String> {
    let request = Request::get(at)
        .header(header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| format!("{at}: {error}"))?;
    let fetched = tokio::time::timeout(PATIENCE, async {
        let response = http.request(request).await.map_err(|error| chain(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok::<Bytes, String>(body.to_bytes())
    });
    let body = match fetched.await {
        Ok(body) => body.map_err(|why| format!("{at}: {why}"))?,
        Err(_) => return Err(format!("{at}: no answer within {} s", PATIENCE.as_secs())),
    };
    serde_json::from_slice(&body).map_err(|bad| {
        format!(
            "{at} holds no such document (line {}, column {})",
            bad.line(),
            bad.column()
        )
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
