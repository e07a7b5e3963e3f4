//! Where `scripts/packages` puts the programs from PyPI and npm. The tests of other crates take this
//! file by its path.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::path::PathBuf;

/// The folder that `scripts/packages` fills.
pub(crate) fn tools() -> PathBuf {
    let set = |name| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    set("INFALL_TOOLS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME");
        let cache = cache.or_else(|| Some(set("HOME")?.join(".cache")));
        cache.unwrap_or_default().join("infall/tools")
    })
}

/// One of them, which must be there: `bin/aws`, `bin/python`, `node_modules/oidc-provider`.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = tools().join(name);
    assert!(path.exists(), "no {}: run scripts/packages", path.display());
    path
}
