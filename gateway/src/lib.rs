//! The HTTP door: S3 by s3s on axum, and the JSON API.

pub mod api;
mod auth;
mod blocking;
mod s3;

pub use auth::{Credentials, CredentialsError};
pub use s3::s3_service;
