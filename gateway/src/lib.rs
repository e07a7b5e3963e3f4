//! The HTTP door: S3 by s3s on axum, and the JSON API
