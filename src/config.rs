//! Settings: one TOML file, then the environment, then flags; the later one wins.
//!
//! 1. The table [`SETTINGS`] is the only list of keys. Everything else (the file's keys, the names
//!    in the environment, `infall config check`) follows from it.
//! 2. An unknown key is an error that names the nearest known one; nothing is ignored.
//! 3. Secrets are never settings: the key pair lies in the data directory, or in the environment.

use crate::exit::{Exit, Failure, Outcome};
use crate::units::parse_bytes;
use blockstore::image::trust::{DeprecatedRule, Rules, SignedRule};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One setting.
pub(crate) struct Setting {
    /// Its key in the file, dotted.
    pub(crate) key: &'static str,
    /// Its name in the environment.
    pub(crate) env: &'static str,
    /// What stands where nothing is said; empty: worked out, or off.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) help: &'static str,
}

/// All settings.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        env: "INFALL_DATA",
        default: "",
        help: "data directory; $XDG_DATA_HOME/infall or ~/.local/share/infall, for root /var/lib/infall",
    },
    Setting {
        key: "endpoint",
        env: "INFALL_ENDPOINT",
        default: "",
        help: "server that commands speak to; the one that runs on the data directory",
    },
    Setting {
        key: "ca",
        env: "INFALL_CA",
        default: "",
        help: "certificate (PEM) of the CA that commands trust; the server's own, or the system's",
    },
    Setting {
        key: "serve.listen",
        env: "INFALL_LISTEN",
        default: "127.0.0.1:9000",
        help: "S3 and the JSON API; port 0 picks a free one",
    },
    Setting {
        key: "serve.nbd_tcp",
        env: "INFALL_NBD_TCP",
        default: "",
        help: "NBD on TCP as well, e.g. 127.0.0.1:10809; the unix socket is always there",
    },
    Setting {
        key: "serve.tls",
        env: "INFALL_TLS",
        default: "auto",
        help: "on, off, or auto: as soon as there is a certificate; needed off loopback",
    },
    Setting {
        key: "serve.tls_cert",
        env: "INFALL_TLS_CERT",
        default: "",
        help: "certificate chain (PEM); what infall tls make or load put into the data directory",
    },
    Setting {
        key: "serve.tls_key",
        env: "INFALL_TLS_KEY",
        default: "",
        help: "its private key (PEM)",
    },
    Setting {
        key: "serve.trusted_proxies",
        env: "INFALL_TRUSTED_PROXIES",
        default: "",
        help: "proxies whose X-Forwarded-For counts: addresses and networks, commas between",
    },
    Setting {
        key: "serve.connections_max",
        env: "INFALL_CONNECTIONS_MAX",
        default: "4096",
        help: "HTTP connections at once; one address gets half of them at most",
    },
    Setting {
        key: "serve.region",
        env: "INFALL_REGION",
        default: "infall",
        help: "the region that S3 clients sign for",
    },
    Setting {
        key: "serve.shutdown_seconds",
        env: "INFALL_SHUTDOWN_SECONDS",
        default: "10",
        help: "how long a stopping server lets requests finish",
    },
    Setting {
        key: "s3.domain",
        env: "INFALL_S3_DOMAIN",
        default: "",
        help: "domains below which each bucket is a host, e.g. s3.example.org; path style works always",
    },
    Setting {
        key: "dav.tpc_hosts",
        env: "INFALL_DAV_TPC_HOSTS",
        default: "",
        help: "servers that third-party copies may reach: names, *.domains, networks; none without",
    },
    Setting {
        key: "dav.tpc_ca",
        env: "INFALL_DAV_TPC_CA",
        default: "",
        help: "certificates (PEM) of the CAs those servers are trusted by; the system's without",
    },
    Setting {
        key: "dav.tpc_silence_seconds",
        env: "INFALL_DAV_TPC_SILENCE_SECONDS",
        default: "60",
        help: "a third-party copy ends when the other server was silent for so long",
    },
    Setting {
        key: "dav.tpc_seconds",
        env: "INFALL_DAV_TPC_SECONDS",
        default: "43200",
        help: "a third-party copy ends after so long in any case",
    },
    Setting {
        key: "store.segment",
        env: "INFALL_STORE_SEGMENT",
        default: "",
        help: "bytes of a segment file",
    },
    Setting {
        key: "store.reserve",
        env: "INFALL_STORE_RESERVE",
        default: "",
        help: "bytes kept free so that deletes and collection work on a full disk",
    },
    Setting {
        key: "store.cache",
        env: "INFALL_STORE_CACHE",
        default: "",
        help: "bytes of memory for the index",
    },
    Setting {
        key: "store.collector",
        env: "INFALL_STORE_COLLECTOR",
        default: "true",
        help: "collect dead segments in the background",
    },
    Setting {
        key: "images.signed",
        env: "INFALL_IMAGES_SIGNED",
        default: "optional",
        help: "required: only images with a signature by one of images.signers are used; or optional",
    },
    Setting {
        key: "images.signers",
        env: "INFALL_IMAGES_SIGNERS",
        default: "",
        help: "OpenSSH allowed_signers file: whose signatures on images count; read at each use",
    },
    Setting {
        key: "images.deprecated",
        env: "INFALL_IMAGES_DEPRECATED",
        default: "refuse",
        help: "refuse: new uses of a deprecated image need --deprecated; or warn",
    },
    Setting {
        key: "provider.country",
        env: "INFALL_PROVIDER_COUNTRY",
        default: "",
        help: "where this node is, ISO 3166-1 alpha-2 (DE); unknown, it satisfies no wish of placement but anywhere",
    },
    Setting {
        key: "provider.enterprise_number",
        env: "INFALL_PROVIDER_ENTERPRISE_NUMBER",
        default: "32473",
        help: "the provider's number with IANA, which CDMI object ids carry",
    },
    Setting {
        key: "journal.keep_days",
        env: "INFALL_JOURNAL_KEEP_DAYS",
        default: "90",
        help: "days that the journal keeps an event",
    },
    Setting {
        key: "journal.keep_events",
        env: "INFALL_JOURNAL_KEEP_EVENTS",
        default: "10000000",
        help: "events that the journal keeps, the last ones",
    },
    Setting {
        key: "vm.uri",
        env: "INFALL_VM_URI",
        default: "qemu:///system",
        help: "libvirt connection",
    },
    Setting {
        key: "log.level",
        env: "INFALL_LOG",
        default: "info",
        help: "error, warn, info, debug, trace, or a filter such as info,blockstore=debug",
    },
    Setting {
        key: "log.json",
        env: "INFALL_LOG_JSON",
        default: "false",
        help: "log lines as JSON",
    },
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The table above.
    Default,
    /// The file.
    File,
    /// The environment, under this name.
    Env(&'static str),
    /// A flag.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File => out.write_str("file"),
            Self::Env(name) => write!(out, "${name}"),
            Self::Flag => out.write_str("flag"),
        }
    }
}

/// Whether listeners speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    /// They must.
    On,
    /// They do not, which only loopback may.
    Off,
    /// They do if there is a certificate.
    Auto,
}

/// All settings with their values.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    values: BTreeMap<&'static str, (String, Origin)>,
}

/// Reads a variable of the environment.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads `file` (an error if it is not there), or else the default file if there is one, then
    /// the environment, then `flags` (key and value).
    pub(crate) fn load(
        file: Option<&Path>,
        env: Env<'_>,
        flags: &[(&'static str, String)],
    ) -> Outcome<Self> {
        let asked = file
            .map(Path::to_owned)
            .or_else(|| env("INFALL_CONFIG").map(PathBuf::from));
        let path = match asked {
            Some(path) => Some(path),
            None => default_file(env).filter(|path| path.is_file()),
        };
        let text = match &path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))?,
        };
        let mut config = Self::parse(&text, env, flags).map_err(|failure| match &path {
            Some(path) => failure.hint(format!("The file is {}", path.display())),
            None => failure,
        })?;
        config.file = path;
        config.validate()?;
        Ok(config)
    }

    fn parse(text: &str, env: Env<'_>, flags: &[(&'static str, String)]) -> Outcome<Self> {
        let mut values: BTreeMap<_, _> = SETTINGS
            .iter()
            .map(|setting| (setting.key, (setting.default.to_owned(), Origin::Default)))
            .collect();
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            Failure::new(Exit::Usage, "config", "the configuration is not TOML")
                .because(error.to_string().trim())
        })?;
        let mut found = Vec::new();
        flatten("", &table, &mut found)?;
        for (key, value) in found {
            values.insert(known(&key)?, (value, Origin::File));
        }
        for setting in SETTINGS {
            if let Some(value) = env(setting.env).filter(|value| !value.is_empty()) {
                values.insert(setting.key, (value, Origin::Env(setting.env)));
            }
        }
        for (key, value) in flags {
            values.insert(known(key)?, (value.clone(), Origin::Flag));
        }
        Ok(Self { file: None, values })
    }

    /// Every value must make sense, used or not.
    fn validate(&self) -> Outcome {
        self.listen()?;
        self.nbd_tcp()?;
        self.tls()?;
        self.trusted_proxies()?;
        self.s3_domains()?;
        self.dav_hosts()?;
        self.dav_times()?;
        self.connections_max()?;
        self.cdmi()?;
        self.shutdown_deadline()?;
        self.bytes("store.segment")?;
        self.bytes("store.reserve")?;
        self.bytes("store.cache")?;
        self.flag("store.collector")?;
        self.image_rules()?;
        self.flag("log.json")?;
        Ok(())
    }

    /// Key, value, origin, help, in the table's order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Setting, &str, &Origin)> {
        SETTINGS.iter().filter_map(|setting| {
            let (value, origin) = self.values.get(setting.key)?;
            Some((setting, value.as_str(), origin))
        })
    }

    fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", |(value, _)| value.as_str())
    }

    fn wrong(&self, key: &str, expected: &str) -> Failure {
        let (value, origin) = self
            .values
            .get(key)
            .map_or(("", &Origin::Default), |(v, o)| (v, o));
        let message = format!("{key} = {value:?} (from {origin}) is not {expected}");
        Failure::new(Exit::Usage, "config", message).hint("See all: infall config check")
    }

    fn flag(&self, key: &str) -> Outcome<bool> {
        match self.text(key) {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(self.wrong(key, "true or false")),
        }
    }

    fn bytes(&self, key: &str) -> Outcome<Option<u64>> {
        match self.text(key) {
            "" => Ok(None),
            text => parse_bytes(text)
                .map(Some)
                .map_err(|_| self.wrong(key, "a size such as 64MiB")),
        }
    }

    /// The data directory; `root` is whether the superuser asks.
    pub(crate) fn data(&self, env: Env<'_>, root: bool) -> Outcome<PathBuf> {
        let named = self.text("data");
        if !named.is_empty() {
            return Ok(PathBuf::from(named));
        }
        // QEMU's user may not pass root's home directory, so root's data lies where it may.
        if root && env("XDG_DATA_HOME").is_none() {
            return Ok(PathBuf::from("/var/lib/infall"));
        }
        base(env, "XDG_DATA_HOME", ".local/share")
            .map(|base| base.join("infall"))
            .ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    "config",
                    "no data directory: $HOME and $XDG_DATA_HOME are unset",
                )
                .hint("Name one: --data DIR")
            })
    }

    /// The server that commands speak to, if one was named.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        Some(self.text("endpoint")).filter(|text| !text.is_empty())
    }

    /// Where S3 and the JSON API listen.
    pub(crate) fn listen(&self) -> Outcome<SocketAddr> {
        self.text("serve.listen")
            .parse()
            .map_err(|_| self.wrong("serve.listen", "an address and port such as 127.0.0.1:9000"))
    }

    /// Where NBD listens on TCP, if it does.
    pub(crate) fn nbd_tcp(&self) -> Outcome<Option<SocketAddr>> {
        match self.text("serve.nbd_tcp") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                self.wrong(
                    "serve.nbd_tcp",
                    "an address and port such as 127.0.0.1:10809",
                )
            }),
        }
    }

    /// Whether listeners speak TLS.
    pub(crate) fn tls(&self) -> Outcome<TlsMode> {
        if self.text("serve.tls") == "auto" {
            return Ok(TlsMode::Auto);
        }
        match self.flag("serve.tls") {
            Ok(true) => Ok(TlsMode::On),
            Ok(false) => Ok(TlsMode::Off),
            Err(_) => Err(self.wrong("serve.tls", "on, off or auto")),
        }
    }

    /// Certificate and key, as far as they are named.
    pub(crate) fn tls_files(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        let file = |key| Some(PathBuf::from(self.text(key))).filter(|path| *path != Path::new(""));
        (file("serve.tls_cert"), file("serve.tls_key"))
    }

    /// The CA that commands trust, if one was named.
    pub(crate) fn ca(&self) -> Option<PathBuf> {
        Some(PathBuf::from(self.text("ca"))).filter(|path| *path != Path::new(""))
    }

    /// What CDMI says of this node.
    pub(crate) fn cdmi(&self) -> Outcome<gateway::cdmi::Settings> {
        let country = match self.text("provider.country") {
            "" => None,
            code if gateway::cdmi::Settings::is_country(code) => Some(code.to_owned()),
            _ => return Err(self.wrong("provider.country", "a code of ISO 3166-1 such as DE")),
        };
        let number = self.text("provider.enterprise_number").parse::<u32>();
        let enterprise = number
            .ok()
            .filter(|number| *number < 1 << 24)
            .ok_or_else(|| self.wrong("provider.enterprise_number", "a number below 16777216"))?;
        Ok(gateway::cdmi::Settings {
            country,
            enterprise,
        })
    }

    /// Whose word on the client's address counts.
    pub(crate) fn trusted_proxies(&self) -> Outcome<crate::serve::Proxies> {
        self.text("serve.trusted_proxies").parse().map_err(|_| {
            let expected = "a list of addresses and networks such as 10.0.0.7, 192.168.0.0/16";
            self.wrong("serve.trusted_proxies", expected)
        })
    }

    /// Below which each host is a bucket.
    pub(crate) fn s3_domains(&self) -> Outcome<gateway::Domains> {
        self.text("s3.domain")
            .parse()
            .map_err(|bad: gateway::BadDomain| {
                self.wrong("s3.domain", "a list of domains such as s3.example.org")
                    .because(bad)
            })
    }

    /// Whom third-party copies may reach.
    pub(crate) fn dav_hosts(&self) -> Outcome<gateway::dav::Hosts> {
        self.text("dav.tpc_hosts").parse().map_err(|_| {
            let expected =
                "a list of NAME, *.DOMAIN, ADDRESS or NETWORK/BITS, each with :PORT or not";
            self.wrong("dav.tpc_hosts", expected)
        })
    }

    /// The CAs by which these are trusted, if they were named.
    pub(crate) fn dav_ca(&self) -> Option<PathBuf> {
        Some(PathBuf::from(self.text("dav.tpc_ca"))).filter(|path| *path != Path::new(""))
    }

    /// When third-party copies end by themselves.
    pub(crate) fn dav_times(&self) -> Outcome<gateway::dav::TransferTimes> {
        let seconds = |key: &'static str| match self.text(key).parse() {
            Ok(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
            _ => Err(self.wrong(key, "a number of seconds from 1 to a year")),
        };
        Ok(gateway::dav::TransferTimes {
            silence_max: seconds("dav.tpc_silence_seconds")?,
            lasts_max: seconds("dav.tpc_seconds")?,
        })
    }

    /// HTTP connections at once.
    pub(crate) fn connections_max(&self) -> Outcome<usize> {
        let count = self.text("serve.connections_max").parse();
        match count {
            Ok(count @ 2..=1_000_000) => Ok(count),
            _ => Err(self.wrong("serve.connections_max", "a number from 2 to 1000000")),
        }
    }

    /// The region that S3 clients sign for.
    pub(crate) fn region(&self) -> &str {
        self.text("serve.region")
    }

    /// How long a stopping server lets requests finish.
    pub(crate) fn shutdown_deadline(&self) -> Outcome<Duration> {
        let seconds = self
            .text("serve.shutdown_seconds")
            .parse()
            .map_err(|_| self.wrong("serve.shutdown_seconds", "a number of seconds"))?;
        Ok(Duration::from_secs(seconds))
    }

    /// How much of the journal is kept.
    pub(crate) fn journal(&self) -> Outcome<blockstore::Keep> {
        let count = |key: &'static str, what: &str| -> Outcome<u64> {
            self.text(key).parse().map_err(|_| self.wrong(key, what))
        };
        let days = count("journal.keep_days", "a number of days")?;
        Ok(blockstore::Keep {
            age: Duration::from_secs(days.saturating_mul(24 * 60 * 60)),
            events: count("journal.keep_events", "a number of events")?,
        })
    }

    /// Which images may be used.
    pub(crate) fn image_rules(&self) -> Outcome<Rules> {
        let signers = Some(PathBuf::from(self.text("images.signers")));
        let signers = signers.filter(|path| *path != Path::new(""));
        let signed = match self.text("images.signed") {
            "required" if signers.is_none() => {
                let message = "images.signed = \"required\" lets no image be used while images.signers names no file";
                return Err(Failure::new(Exit::Usage, "config", message)
                    .hint("Name an allowed_signers file, see ssh-keygen(1): images.signers = \"/etc/infall/signers\""));
            }
            "required" => SignedRule::Required,
            "optional" => SignedRule::Optional,
            _ => return Err(self.wrong("images.signed", "required or optional")),
        };
        let deprecated = match self.text("images.deprecated") {
            "refuse" => DeprecatedRule::Refuse,
            "warn" => DeprecatedRule::Warn,
            _ => return Err(self.wrong("images.deprecated", "refuse or warn")),
        };
        Ok(Rules {
            signed,
            signers,
            deprecated,
        })
    }

    /// How the store is opened.
    pub(crate) fn store(&self) -> Outcome<blockstore::Options> {
        let mut options = blockstore::Options::default();
        if let Some(bytes) = self.bytes("store.segment")? {
            options.segment_bytes = bytes;
        }
        if let Some(bytes) = self.bytes("store.reserve")? {
            options.reserve_bytes = bytes;
        }
        if let Some(bytes) = self.bytes("store.cache")? {
            options.cache_bytes = usize::try_from(bytes)
                .map_err(|_| self.wrong("store.cache", "a size that fits memory"))?;
        }
        options.collector = self.flag("store.collector")?;
        options.images = self.image_rules()?;
        Ok(options)
    }

    /// The libvirt connection.
    pub(crate) fn vm_uri(&self) -> &str {
        self.text("vm.uri")
    }

    /// The log's filter.
    pub(crate) fn log_level(&self) -> &str {
        self.text("log.level")
    }

    /// Whether log lines are JSON.
    pub(crate) fn log_json(&self) -> bool {
        self.flag("log.json").unwrap_or(false)
    }
}

/// The file read when none is named.
pub(crate) fn default_file(env: Env<'_>) -> Option<PathBuf> {
    Some(base(env, "XDG_CONFIG_HOME", ".config")?.join("infall/config.toml"))
}

/// XDG Base Directory Specification: the variable, or else its default below the home directory.
fn base(env: Env<'_>, variable: &str, below_home: &str) -> Option<PathBuf> {
    env(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| {
            env("HOME")
                .filter(|home| !home.is_empty())
                .map(|home| Path::new(&home).join(below_home))
        })
}

fn known(key: &str) -> Outcome<&'static str> {
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    keys().find(|known| *known == key).ok_or_else(|| {
        let message = match gateway::api::nearest(key, keys()) {
            Some(nearest) => format!("unknown setting {key:?} (nearest: {nearest})"),
            None => format!("unknown setting {key:?}"),
        };
        Failure::new(Exit::Usage, "config", message).hint("See all: infall config check")
    })
}

/// Dotted keys and plain values of a table; a list of texts is one text with commas between.
fn flatten(prefix: &str, table: &toml::Table, found: &mut Vec<(String, String)>) -> Outcome {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, found)?,
            toml::Value::String(text) => found.push((key, text.clone())),
            toml::Value::Integer(number) => found.push((key, number.to_string())),
            toml::Value::Boolean(flag) => found.push((key, flag.to_string())),
            toml::Value::Array(list) if list.iter().all(toml::Value::is_str) => {
                let texts: Vec<_> = list.iter().filter_map(toml::Value::as_str).collect();
                found.push((key, texts.join(", ")));
            }
            toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) => {
                let key = known(&key)?;
                let message =
                    format!("{key} = {value} is neither text, a whole number, nor true or false");
                return Err(Failure::new(Exit::Usage, "config", message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let text = "[serve]\nlisten = \"127.0.0.1:1\"\nregion = \"eu-1\"\nshutdown_seconds = 3\n";
        let env = |name: &str| match name {
            "INFALL_LISTEN" => Some("127.0.0.1:2".to_owned()),
            "INFALL_REGION" => Some("eu-2".to_owned()),
            _ => None,
        };
        let flags = [("serve.listen", "127.0.0.1:3".to_owned())];
        let config = Config::parse(text, &env, &flags).unwrap();
        assert_eq!(config.listen().unwrap().port(), 3);
        assert_eq!(config.region(), "eu-2");
        assert_eq!(config.shutdown_deadline().unwrap(), Duration::from_secs(3));
        let origins: Vec<String> = config
            .rows()
            .map(|(_, _, origin)| origin.to_string())
            .collect();
        for origin in ["default", "file", "$INFALL_REGION", "flag"] {
            assert!(origins.iter().any(|found| found == origin), "{origin}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let failure = Config::parse("[serve]\nlistn = \"x\"\n", &nothing, &[]).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.to_string();
        assert!(
            text.contains("\"serve.listn\" (nearest: serve.listen)"),
            "{text}"
        );
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named_with_its_origin() {
        let env = |name: &str| (name == "INFALL_STORE_CACHE").then(|| "much".to_owned());
        let config = Config::parse("", &env, &[]).unwrap();
        let text = config.validate().unwrap_err().to_string();
        assert!(
            text.contains("store.cache = \"much\" (from $INFALL_STORE_CACHE)"),
            "{text}"
        );
        let config = Config::parse("[log]\njson = 7\n", &nothing, &[]).unwrap();
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("true or false")
        );
    }

    #[test]
    fn required_signatures_want_signers() {
        let rules = |text: &str| Config::parse(text, &nothing, &[]).unwrap().image_rules();
        let text = rules("[images]\nsigned = \"required\"\n").unwrap_err();
        assert!(text.to_string().contains("images.signers"), "{text}");
        let text = "[images]\nsigned = \"required\"\nsigners = \"s\"\ndeprecated = \"warn\"\n";
        let read = rules(text).unwrap();
        assert_eq!(read.signed, SignedRule::Required);
        assert_eq!(read.deprecated, DeprecatedRule::Warn);
        for text in ["signed = \"yes\"", "deprecated = \"no\"", "signed = true"] {
            assert!(rules(&format!("[images]\n{text}\n")).is_err(), "{text}");
        }
    }

    #[test]
    fn an_array_where_text_belongs_is_refused() {
        assert!(Config::parse("data = [1]\n", &nothing, &[]).is_err());
        assert!(Config::parse("data = ", &nothing, &[]).is_err());
    }

    #[test]
    fn the_data_directory_follows_xdg_then_root_then_home() {
        let config = Config::parse("", &nothing, &[]).unwrap();
        let xdg = |name: &str| (name == "XDG_DATA_HOME").then(|| "/x".to_owned());
        assert_eq!(config.data(&xdg, true).unwrap(), Path::new("/x/infall"));
        let home = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        assert_eq!(
            config.data(&home, false).unwrap(),
            Path::new("/h/.local/share/infall")
        );
        assert_eq!(
            config.data(&home, true).unwrap(),
            Path::new("/var/lib/infall")
        );
        assert!(
            config
                .data(&nothing, false)
                .unwrap_err()
                .to_string()
                .contains("--data")
        );
    }

    #[test]
    fn every_default_makes_sense() {
        Config::parse("", &nothing, &[])
            .unwrap()
            .validate()
            .unwrap();
    }
}
