//! The HTTP door: S3 by s3s on axum, and the JSON API.

pub mod api;
mod blocking;
pub mod cdmi;
pub mod dav;
mod iam;
mod query;
mod s3;
mod sts;

pub use query::{is_query, query_service};
pub use s3::{BadDomain, Domains, s3_service};
pub use sts::Sts;
pub use sts::login::{LoginIssuer, LoginIssuers, LoginRoles, RolesAsk, login_service};
