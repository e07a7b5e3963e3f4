//! The other side: an S3, by the SDK, and its errors in our terms.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// An upload under way: bucket, key, id.
type Upload = (String, String, String);

/// One S3 and the uploads we have open there.
pub(crate) struct Remote {
    /// The SDK's client.
    pub(crate) s3: aws_sdk_s3::Client,
    /// For messages.
    pub(crate) endpoint: String,
    open: Mutex<BTreeSet<Upload>>,
}

impl Remote {
    /// This server, or another S3 with the key from the environment.
    pub(crate) fn new(
        context: &Context,
        other: Option<&str>,
        region: Option<&str>,
    ) -> Outcome<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (endpoint, credentials, region) = match other {
            None => {
                let endpoint = context.server_url()?;
                let pair = context.credentials(&endpoint)?;
                let pair = Credentials::new(pair.access_key, pair.secret_key, None, None, "infall");
                let region = crate::server_file::ServerFile::read(&context.data()?).map_or_else(
                    |_| context.config.region().to_owned(),
                    |server| server.region,
                );
                (endpoint, pair, region)
            }
            Some(endpoint) => {
                let (access, secret) = variable("AWS_ACCESS_KEY_ID")
                    .zip(variable("AWS_SECRET_ACCESS_KEY"))
                    .ok_or_else(|| {
                        Failure::new(
                            Exit::Denied,
                            "credentials",
                            format!("no key for {endpoint}"),
                        )
                        .hint("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
                    })?;
                let token = variable("AWS_SESSION_TOKEN");
                let pair = Credentials::new(access, secret, token, None, "environment");
                let region = region
                    .map(str::to_owned)
                    .or_else(|| variable("AWS_REGION"))
                    .or_else(|| variable("AWS_DEFAULT_REGION"))
                    .unwrap_or_else(|| "us-east-1".into());
                (endpoint.trim_end_matches('/').to_owned(), pair, region)
            }
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let message = format!("endpoint {endpoint:?} is not http://host:port or https://host");
            return Err(Failure::new(Exit::Usage, "endpoint", message));
        }
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&endpoint)
            .region(Region::new(region))
            .credentials_provider(credentials)
            .force_path_style(true)
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(4))
            // We send and compare our own, over the bytes as they lie in the files.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Ok(Self {
            s3: aws_sdk_s3::Client::from_conf(config),
            endpoint,
            open: Mutex::new(BTreeSet::new()),
        })
    }

    /// Remembers an upload until it is done.
    pub(crate) fn opened(&self, upload: Upload) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload);
    }

    /// It is done.
    pub(crate) fn closed(&self, upload: &Upload) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(upload);
    }

    /// Takes back what was begun and not completed, so that its parts do not lie there for ever.
    pub(crate) async fn abort_open_uploads(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for (bucket, key, id) in open {
            let abort = self
                .s3
                .abort_multipart_upload()
                .bucket(&bucket)
                .key(&key)
                .upload_id(&id)
                .send()
                .await;
            if abort.is_err() {
                eprintln!(
                    "warning: upload {id} of s3://{bucket}/{key} could not be aborted; its parts may remain"
                );
            }
        }
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
            (Some(401 | 403), _) => Exit::Denied,
            (Some(404), _) => Exit::NotFound,
            (Some(409 | 412), _) => Exit::Conflict,
            (Some(507), _) => Exit::NoSpace,
            (Some(501), _) => Exit::Invalid,
            (Some(500..), _) => Exit::Unavailable,
            (Some(_), _) => Exit::Invalid,
        };
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

/// The cause at the bottom: `Connection refused`, not `dispatch failure`.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
