//! The SDK for S3, set up for one server, and its errors in our terms.

use crate::exit::{Exit, Failure, Outcome};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls;
use std::path::Path;
use std::time::Duration;

/// One S3.
pub(crate) struct Sdk {
    /// The SDK's client.
    pub(crate) s3: aws_sdk_s3::Client,
    /// For messages.
    pub(crate) endpoint: String,
}

impl Sdk {
    /// A client of this endpoint, `http://host:port` or `https://host`.
    pub(crate) fn new(
        endpoint: &str,
        credentials: Credentials,
        region: String,
        ca: Option<&Path>,
    ) -> Outcome<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let message = format!("endpoint {endpoint:?} is not http://host:port or https://host");
            return Err(Failure::new(Exit::Usage, "endpoint", message));
        }
        let mut trust = tls::TrustStore::default();
        if let Some(ca) = ca {
            // It says what is wrong with the file; the SDK would panic.
            crate::client::trust(Some(ca), true)?;
            let pem = std::fs::read(ca)
                .map_err(|error| Failure::io(format_args!("read --ca {}", ca.display()), &error))?;
            trust = tls::TrustStore::empty().with_pem_certificate(pem);
        }
        let context = tls::TlsContext::builder().with_trust_store(trust).build();
        let context = context.map_err(|error| {
            Failure::new(Exit::Internal, "tls", "cannot set up TLS").because(error)
        })?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .tls_context(context)
            .build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&endpoint)
            .region(Region::new(region))
            .credentials_provider(credentials)
            .force_path_style(true)
            .http_client(http)
            // A bandwidth limit may let one of many bodies wait.
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .grace_period(Duration::from_secs(60))
                    .build(),
            )
            // What is tried again, and when, is decided in one place for all protocols.
            .retry_config(RetryConfig::disabled())
            // We send and compare our own, over the bytes as they lie in the files.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self {
            s3: aws_sdk_s3::Client::from_conf(config),
            endpoint,
        })
    }

    /// An SDK error in our terms. `what` is what was tried: `put s3://b/k`.
    pub(crate) fn failure<E>(&self, what: &str, error: &SdkError<E>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let status = error
            .raw_response()
            .map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let text = error.message().map(str::to_owned);
        let exit = match (status, code.as_deref()) {
            (None, _) => Exit::Unavailable,
            (_, Some("BadDigest" | "XAmzContentSHA256Mismatch" | "InvalidDigest")) => Exit::Corrupt,
            (_, Some("SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable")) => {
                Exit::Unavailable
            }
            (_, Some("QuotaExceeded" | "InsufficientStorage")) => Exit::NoSpace,
            (Some(401 | 403), _) => Exit::Denied,
            (Some(404), _) => Exit::NotFound,
            (Some(409 | 412), _) => Exit::Conflict,
            (Some(507), _) => Exit::NoSpace,
            (Some(501), _) => Exit::Invalid,
            (Some(408 | 429 | 500..), _) => Exit::Unavailable,
            // A success whose body broke off.
            (Some(200..=299), _) => Exit::Unavailable,
            (Some(_), _) => Exit::Invalid,
        };
        if let (None, Some(failure)) = (status, untrusted(&self.endpoint, &deepest(error))) {
            return failure;
        }
        let failure = Failure::new(
            exit,
            "object",
            format!("cannot {what} at {}", self.endpoint),
        );
        let said: Vec<String> = match (code, text, status) {
            (None, None, Some(status)) => vec![format!("HTTP status {status}")],
            (None, None, None) => vec![deepest(error)],
            (code, text, _) => [code, text].into_iter().flatten().collect(),
        };
        failure.because(said.join(": "))
    }
}

/// Nothing, where what was asked for is not there.
pub(super) fn absent<T>(failure: Failure) -> Outcome<Option<T>> {
    match failure.exit() {
        Exit::NotFound => Ok(None),
        _ => Err(failure),
    }
}

/// The cause at the bottom: `Connection refused`, not `dispatch failure`.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A server whose certificate nobody vouches for: trying again does not help.
pub(super) fn untrusted(server: &str, why: &str) -> Option<Failure> {
    why.contains("invalid peer certificate").then(|| {
        let message = format!("the certificate of {server} is not trusted");
        Failure::new(Exit::Denied, "server", message)
            .because(why)
            .hint("Name the CA that signed it: --ca FILE, or INFALL_CA")
    })
}
