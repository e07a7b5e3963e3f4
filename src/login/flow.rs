//! How a token is had: the device flow (RFC 8628), or the authorization code flow with PKCE through a
//! browser and a listener on loopback (RFC 8252, 7.3; RFC 7636).

use crate::client::{self, trust, trust_pem};
use crate::exit::{Exit, Failure, Outcome};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gateway::LoginIssuer;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long somebody may take to log in through a browser.
const PATIENCE: Duration = Duration::from_secs(600);
/// Requests to the loopback listener that are looked at: browsers ask for icons, too.
const VISITS_MAX: usize = 32;
const LINE_BYTES_MAX: u64 = 16 << 10;

/// How to show who one is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// A code, typed in on any device.
    Device,
    /// This machine's browser.
    Browser,
}

/// A session as STS issues it.
pub(super) struct Issued {
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) token: String,
    pub(super) expires_ms: u64,
}

/// Asks without a key.
pub(super) struct Http {
    http: client::Http,
}

#[derive(Deserialize)]
struct DeviceCode {
    device_code: String,
    user_code: String,
    verification_uri: String,
    #[serde(default)]
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default = "five")]
    interval: u64,
}

fn five() -> u64 {
    5
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Http {
    /// To an Infall server, or with the system's certificates.
    pub(super) fn to_server(url: &str, ca: Option<&Path>) -> Outcome<Self> {
        let ca = ca.filter(|_| url.starts_with("https://"));
        Self::with(trust(ca, true)?)
    }

    fn to_issuer(issuer: &LoginIssuer) -> Outcome<Self> {
        Self::with(match &issuer.ca_pem {
            Some(pem) => trust_pem(pem)?,
            None => trust(None, true)?,
        })
    }

    fn with(tls: rustls::ClientConfig) -> Outcome<Self> {
        Ok(Self {
            http: client::http(tls),
        })
    }

    async fn ask(
        &self,
        method: Method,
        at: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Outcome<(StatusCode, Bytes)> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Unavailable, "login", format!("{at} does not answer")).because(error)
        };
        let request = Request::builder()
            .method(method)
            .uri(at)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body.into()))
            .map_err(|error| failed(&error))?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        Ok((status, body))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, at: &str) -> Outcome<T> {
        let (status, body) = self
            .ask(Method::GET, at, "application/json", Vec::new())
            .await?;
        read(at, status, &body)
    }

    pub(super) async fn post_json<T: DeserializeOwned>(
        &self,
        at: &str,
        ask: &impl Serialize,
    ) -> Outcome<T> {
        let body = serde_json::to_vec(ask).map_err(|error| {
            Failure::new(Exit::Internal, "login", "the request is no JSON").because(error)
        })?;
        let (status, body) = self.ask(Method::POST, at, "application/json", body).await?;
        read(at, status, &body)
    }

    async fn form(&self, at: &str, fields: &[(&str, &str)]) -> Outcome<(StatusCode, Bytes)> {
        let mut body = String::new();
        for (name, value) in fields {
            if !body.is_empty() {
                body.push('&');
            }
            crate::client::encode(name, &mut body);
            body.push('=');
            crate::client::encode(value, &mut body);
        }
        let kind = "application/x-www-form-urlencoded";
        self.ask(Method::POST, at, kind, body.into_bytes()).await
    }

    /// AssumeRoleWithWebIdentity.
    pub(super) async fn assume(
        &self,
        server: &str,
        role: &str,
        name: &str,
        token: &str,
        seconds: u64,
    ) -> Outcome<Issued> {
        let seconds = seconds.to_string();
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", name),
            ("WebIdentityToken", token),
            ("DurationSeconds", &seconds),
        ];
        let (status, body) = self.form(&format!("{server}/"), &fields).await?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            let message =
                inside(&text, "Message").unwrap_or_else(|| format!("STS answers {status}"));
            return Err(Failure::new(Exit::Denied, "login", message));
        }
        let part = |name: &str| {
            inside(&text, name).ok_or_else(|| {
                Failure::new(
                    Exit::Internal,
                    "login",
                    format!("STS answers without {name}"),
                )
            })
        };
        let expires: jiff::Timestamp = part("Expiration")?.parse().map_err(|error| {
            Failure::new(
                Exit::Internal,
                "login",
                "STS answers with a time that cannot be read",
            )
            .because(error)
        })?;
        Ok(Issued {
            access_key: part("AccessKeyId")?,
            secret_key: part("SecretAccessKey")?,
            token: part("SessionToken")?,
            expires_ms: u64::try_from(expires.as_millisecond()).unwrap_or(0),
        })
    }
}

fn read<T: DeserializeOwned>(at: &str, status: StatusCode, body: &[u8]) -> Outcome<T> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| {
            let message = format!("{at} answers something else than is expected");
            Failure::new(Exit::Internal, "login", message).because(error)
        });
    }
    if let Ok(reply) = serde_json::from_slice::<gateway::api::ErrorReply>(body) {
        return Err(Failure::from(reply.error));
    }
    Err(oauth_failure(at, status, body))
}

fn oauth_failure(at: &str, status: StatusCode, body: &[u8]) -> Failure {
    let message = match serde_json::from_slice::<OAuthError>(body) {
        Ok(error) => format!("{at} refuses: {} {}", error.error, error.error_description),
        Err(_) => format!("{at} answers {status}"),
    };
    Failure::new(Exit::Denied, "login", message.trim_end().to_owned())
}

/// The text of the first element of that name; STS has no attributes and no nesting in these.
fn inside(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (found, _) = rest.split_once(&format!("</{name}>"))?;
    quick_xml::escape::unescape(found)
        .ok()
        .map(|text| text.into_owned())
}

/// An ID token of the issuer.
pub(super) async fn token(issuer: &LoginIssuer, way: Way) -> Outcome<String> {
    let http = Http::to_issuer(issuer)?;
    match way {
        Way::Device => device(&http, issuer).await,
        Way::Browser => browser(&http, issuer).await,
    }
}

fn endpoint<'a>(issuer: &LoginIssuer, known: Option<&'a String>, hint: &str) -> Outcome<&'a str> {
    known.map(String::as_str).ok_or_else(|| {
        let message = format!(
            "the issuer {} does not offer this way to log in",
            issuer.name
        );
        Failure::new(Exit::Usage, "login", message).hint(hint.to_owned())
    })
}

async fn device(http: &Http, issuer: &LoginIssuer) -> Outcome<String> {
    let hint = "Use --browser, or --token FILE";
    let ask_at = endpoint(issuer, issuer.device_authorization_endpoint.as_ref(), hint)?;
    let token_at = endpoint(issuer, issuer.token_endpoint.as_ref(), hint)?;
    let scope = "openid profile email eduperson_entitlement entitlements";
    let fields = [("client_id", issuer.client_id.as_str()), ("scope", scope)];
    let (mut status, mut body) = http.form(ask_at, &fields).await?;
    if status == StatusCode::BAD_REQUEST {
        // Scopes that an issuer does not know must not keep anybody out.
        let fields = [
            ("client_id", issuer.client_id.as_str()),
            ("scope", "openid"),
        ];
        (status, body) = http.form(ask_at, &fields).await?;
    }
    let code: DeviceCode = read(ask_at, status, &body)?;
    let open = code
        .verification_uri_complete
        .as_ref()
        .unwrap_or(&code.verification_uri);
    eprintln!("Open {open}\nand confirm the code {}", code.user_code);
    let until = Instant::now() + Duration::from_secs(code.expires_in.min(3600));
    let mut pause = code.interval.clamp(1, 60);
    loop {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", code.device_code.as_str()),
            ("client_id", issuer.client_id.as_str()),
        ];
        let (status, body) = http.form(token_at, &fields).await?;
        if status.is_success() {
            return id_token(token_at, status, &body);
        }
        let waiting = serde_json::from_slice::<OAuthError>(&body).map(|error| error.error);
        match waiting.as_deref() {
            Ok("authorization_pending") => {}
            // RFC 8628, 3.5.
            Ok("slow_down") => pause += 5,
            _ => return Err(oauth_failure(token_at, status, &body)),
        }
        if Instant::now() > until {
            return Err(
                Failure::new(Exit::Denied, "login", "the code was not confirmed in time")
                    .hint("Run infall login again"),
            );
        }
    }
}

async fn browser(http: &Http, issuer: &LoginIssuer) -> Outcome<String> {
    let hint = "Use the device flow (without --browser), or --token FILE";
    let ask_at = endpoint(issuer, issuer.authorization_endpoint.as_ref(), hint)?;
    let token_at = endpoint(issuer, issuer.token_endpoint.as_ref(), hint)?;
    let io = |error: std::io::Error| Failure::io("listen on loopback for the browser", &error);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(io)?;
    let port = listener.local_addr().map_err(io)?.port();
    let back = format!("http://127.0.0.1:{port}/callback");
    let [state, nonce, verifier] = [random(), random(), random()];
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let mut open = format!("{ask_at}?response_type=code&scope=openid");
    for (name, value) in [
        ("client_id", issuer.client_id.as_str()),
        ("redirect_uri", &back),
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ] {
        open.push('&');
        open.push_str(name);
        open.push('=');
        crate::client::encode(value, &mut open);
    }
    eprintln!("Open this in a browser on this machine:\n{open}");
    let opener = std::process::Command::new("xdg-open")
        .arg(&open)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    // Where there is no such program, the line above is what there is.
    drop(opener);
    let code = tokio::time::timeout(PATIENCE, visit(&listener, &state))
        .await
        .map_err(|_| {
            Failure::new(
                Exit::Denied,
                "login",
                "nobody came back from the browser in time",
            )
            .hint("Run infall login again")
        })??;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", back.as_str()),
        ("client_id", issuer.client_id.as_str()),
        ("code_verifier", verifier.as_str()),
    ];
    let (status, body) = http.form(token_at, &fields).await?;
    let token = id_token(token_at, status, &body)?;
    if claim(&token, "nonce").as_deref() != Some(nonce.as_str()) {
        let message = "the token was made for another login";
        return Err(Failure::new(Exit::Denied, "login", message).hint("Run infall login again"));
    }
    Ok(token)
}

fn id_token(at: &str, status: StatusCode, body: &[u8]) -> Outcome<String> {
    let tokens: Tokens = read(at, status, body)?;
    tokens.id_token.ok_or_else(|| {
        Failure::new(Exit::Denied, "login", format!("{at} gives no ID token"))
            .hint("The client needs the scope openid at the issuer")
    })
}

/// Waits for the browser to come back with a code for this very login.
async fn visit(listener: &tokio::net::TcpListener, state: &str) -> Outcome<String> {
    let io = |error: std::io::Error| Failure::io("answer the browser", &error);
    for _ in 0..VISITS_MAX {
        let (stream, _) = listener.accept().await.map_err(io)?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let read = tokio::io::AsyncReadExt::take(&mut stream, LINE_BYTES_MAX);
        if BufReader::new(read).read_line(&mut line).await.is_err() {
            continue;
        }
        let asked = line.split(' ').nth(1).unwrap_or_default();
        let answer = answer_of(asked, state);
        let (status, text) = match &answer {
            None => ("404 Not Found", "not here"),
            Some(Ok(_)) => ("200 OK", "You are logged in. This window can be closed."),
            Some(Err(_)) => ("400 Bad Request", "This did not work. See the terminal."),
        };
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        // The answer counts, not whether the browser reads it.
        let _ = stream.get_mut().write_all(reply.as_bytes()).await;
        let _ = stream.get_mut().shutdown().await;
        match answer {
            None => {}
            Some(answer) => return answer,
        }
    }
    Err(Failure::new(
        Exit::Denied,
        "login",
        "somebody else keeps asking on the loopback port",
    ))
}

/// What a request to the listener brings: nothing of ours, a code, or a refusal.
fn answer_of(asked: &str, state: &str) -> Option<Outcome<String>> {
    let query = asked.strip_prefix("/callback?")?;
    let field = |name: &str| {
        let mut fields = query.split('&').filter_map(|field| field.split_once('='));
        let (_, value) = fields.find(|(known, _)| *known == name)?;
        crate::stage::decode(value)
    };
    // A stranger's request must not end the wait: only the issuer knows the state.
    if field("state").as_deref() != Some(state) {
        return None;
    }
    if let Some(code) = field("code") {
        return Some(Ok(code));
    }
    let why = field("error").unwrap_or_else(|| "no code came back".to_owned());
    Some(Err(Failure::new(
        Exit::Denied,
        "login",
        format!("the issuer refuses: {why}"),
    )))
}

/// A claim of a token that came over TLS from its issuer (OpenID Connect Core 1.0, 3.1.3.7, 6).
fn claim(token: &str, name: &str) -> Option<String> {
    let body = token.split('.').nth(1)?;
    let body = URL_SAFE_NO_PAD.decode(body).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&body).ok()?;
    claims.get(name)?.as_str().map(str::to_owned)
}

fn random() -> String {
    let bytes: [u8; 32] = rand::random();
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_issuers_answer_to_this_login_is_taken() {
        assert!(answer_of("/favicon.ico", "s").is_none());
        assert!(answer_of("/callback?code=x&state=other", "s").is_none());
        assert_eq!(
            answer_of("/callback?code=x%20y&state=s", "s")
                .unwrap()
                .unwrap(),
            "x y"
        );
        assert!(
            answer_of("/callback?error=access_denied&state=s", "s")
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn what_sts_says_is_read_with_its_escapes() {
        assert_eq!(
            inside("<a><B>x &amp; y</B></a>", "B").as_deref(),
            Some("x & y")
        );
        assert_eq!(inside("<B>x", "B"), None);
    }
}
