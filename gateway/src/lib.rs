//! The HTTP door: S3 by s3s on axum, and the JSON API.

pub mod api;
mod blocking;
mod s3;

pub use s3::s3_service;
