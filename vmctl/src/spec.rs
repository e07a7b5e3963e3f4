//! What a user asks for: an instance, its root disk, its data volumes, its network.
//!
//! 1. A spec that passed [`InstanceSpec::validate`] can be turned into a domain, a seed and a
//!    record without any further doubt about its text: names are host names, paths are absolute,
//!    nothing that goes into XML holds a control character.
//! 2. Data volumes are read-only unless `:rw` asks for more, and only volumes can be asked so.

use blockstore::{Error, Kind, Result, Subject};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Data volumes of one instance at most: an i440fx has 32 PCI slots, and others need some too.
pub(crate) const DATA_VOLUMES_MAX: usize = 16;
/// Virtual CPUs of one instance at most.
pub(crate) const VCPUS_MAX: u32 = 255;
/// Memory of one instance at least, in MiB: a kernel and its initramfs need about that much.
pub(crate) const MEMORY_MIB_MIN: u64 = 64;
/// Memory of one instance at most, in MiB (4 TiB).
pub(crate) const MEMORY_MIB_MAX: u64 = 4 << 20;
/// User data, network configuration and ssh keys at most, in bytes each.
const SEED_TEXT_BYTES_MAX: usize = 1 << 20;
/// A kernel command line at most, in bytes (`COMMAND_LINE_SIZE` of x86 Linux).
const CMDLINE_BYTES_MAX: usize = 2048;

/// An instance as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Its name, also its host name: 1 to 50 of `a-z`, `0-9` and `-`, a letter or digit at both ends.
    pub name: String,
    /// Boot from a clone of this image (name or id); the clone is the volume `<name>-root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image may be a deprecated one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deprecated: bool,
    /// Or boot from this volume, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_volume: Option<String>,
    /// Or boot from this raw image file (an absolute path, for example under a mount).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<PathBuf>,
    /// Bytes of the cloned root disk; the image's length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_bytes: Option<u64>,
    /// Virtual CPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Memory in MiB.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u64,
    /// Further disks, `vdb` and on, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<DataVolume>,
    /// cloud-init user data, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// cloud-init network configuration, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
    /// Public keys for the image's default user, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Boot this kernel directly instead of what the disk's boot loader picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initramfs for `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Command line for `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Its network.
    #[serde(default)]
    pub network: Network,
}

fn one() -> u32 {
    1
}

fn memory_mib_default() -> u64 {
    512
}

/// Where an instance boots from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root<'a> {
    /// A clone of an image, made when the instance is.
    Image(&'a str),
    /// A volume that was there before.
    Volume(&'a str),
    /// A raw file.
    File(&'a Path),
}

/// A disk beside the root disk. Written `s3://bucket/key`, or a volume's or snapshot's name; `:ro`
/// (the default) or `:rw` behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataVolume {
    /// The bytes of an object, read-only.
    Object {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
    /// A volume, or a snapshot if there is no volume of that name.
    Named {
        /// Its name.
        name: String,
        /// Whether the guest may write (volumes only).
        writable: bool,
    },
}

/// How an instance reaches others. Written `user`, `none`, `bridge=<name>` or `network=<name>`, as
/// virt-install has it; `bridge:<name>`, which 0.1.0 wrote at first, is read too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Network {
    /// QEMU's own address translation with DHCP: outwards only, needs no privilege.
    #[default]
    User,
    /// No network card.
    None,
    /// A port of this bridge of the host.
    Bridge(String),
    /// This network of libvirt (libvirt, "Network XML format"); `default` has addresses by DHCP.
    Named(String),
}

impl InstanceSpec {
    /// Checks everything that can be told without the store and without libvirt.
    pub fn validate(&self) -> Result<()> {
        check_name(&self.name)?;
        let root = self.root()?;
        if let Root::File(path) = root {
            check_path("boot_file", path)?;
        }
        if self.deprecated && self.image.is_none() {
            return Err(invalid(
                "deprecated lets an image be a deprecated one; without image it has no meaning",
            ));
        }
        if self.root_bytes.is_some() && self.image.is_none() {
            return Err(invalid(
                "root_bytes sizes the clone of an image; without image it has no meaning",
            ));
        }
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(invalid(format!(
                "vcpus {} is not between 1 and {VCPUS_MAX}",
                self.vcpus
            )));
        }
        if self.memory_mib < MEMORY_MIB_MIN || self.memory_mib > MEMORY_MIB_MAX {
            return Err(invalid(format!(
                "memory_mib {} is not between {MEMORY_MIB_MIN} and {MEMORY_MIB_MAX}",
                self.memory_mib
            )));
        }
        if self.volumes.len() > DATA_VOLUMES_MAX {
            return Err(invalid(format!(
                "{} data volumes; an instance takes {DATA_VOLUMES_MAX} at most",
                self.volumes.len()
            )));
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..index].contains(volume) {
                return Err(invalid(format!("data volume {volume} is named twice")));
            }
        }
        for text in [&self.user_data, &self.network_config]
            .into_iter()
            .flatten()
        {
            if text.len() > SEED_TEXT_BYTES_MAX {
                return Err(invalid(format!(
                    "user data or network configuration of {} bytes; {SEED_TEXT_BYTES_MAX} is the most",
                    text.len()
                )));
            }
        }
        self.ssh_keys
            .iter()
            .try_for_each(|key| check_ssh_key(key))?;
        for (name, path) in [("kernel", &self.kernel), ("initrd", &self.initrd)] {
            if let Some(path) = path {
                check_path(name, path)?;
            }
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.cmdline.is_some()) {
            return Err(invalid("initrd and cmdline need kernel beside them"));
        }
        if let Some(cmdline) = &self.cmdline {
            check_text("cmdline", cmdline)?;
            if cmdline.len() > CMDLINE_BYTES_MAX {
                return Err(invalid(format!(
                    "cmdline of {} bytes; {CMDLINE_BYTES_MAX} is the most",
                    cmdline.len()
                )));
            }
        }
        Ok(())
    }

    /// Where it boots from: exactly one of `image`, `root_volume` and `boot_file`.
    pub fn root(&self) -> Result<Root<'_>> {
        match (&self.image, &self.root_volume, &self.boot_file) {
            (Some(image), None, None) => Ok(Root::Image(image)),
            (None, Some(volume), None) => Ok(Root::Volume(volume)),
            (None, None, Some(file)) => Ok(Root::File(file)),
            _ => Err(invalid(
                "name exactly one of image, root_volume and boot_file to boot from",
            )),
        }
    }

    /// The volume it boots from, if it boots from one.
    pub fn root_volume(&self) -> Option<String> {
        match self.root().ok()? {
            Root::Image(_) => Some(format!("{}-root", self.name)),
            Root::Volume(name) => Some(name.into()),
            Root::File(_) => None,
        }
    }
}

impl FromStr for DataVolume {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check_text("data volume", text)?;
        let (source, writable) = match text.rsplit_once(':') {
            Some((source, "ro")) => (source, false),
            Some((source, "rw")) => (source, true),
            _ => (text, false),
        };
        let Some(object) = source.strip_prefix("s3://") else {
            if source.is_empty() || source.contains([':', '/']) {
                return Err(invalid(format!(
                    "data volume {text:?} is neither s3://bucket/key nor a name; write e.g. \
                     s3://data/set.img, data1:ro or data1:rw"
                )));
            }
            return Ok(Self::Named {
                name: source.into(),
                writable,
            });
        };
        match object.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() && !writable => {
                Ok(Self::Object {
                    bucket: bucket.into(),
                    key: key.into(),
                })
            }
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Err(invalid(format!(
                "{text:?}: an object can be attached read-only only; for a disk to write, register it \
                 as an image and clone a volume"
            ))),
            _ => Err(invalid(format!(
                "{text:?} names a bucket; a disk shows one object: s3://bucket/key"
            ))),
        }
    }
}

impl fmt::Display for DataVolume {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { bucket, key } => write!(out, "s3://{bucket}/{key}:ro"),
            Self::Named {
                name,
                writable: false,
            } => write!(out, "{name}:ro"),
            Self::Named {
                name,
                writable: true,
            } => write!(out, "{name}:rw"),
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(['=', ':']) {
            None if text == "user" => Ok(Self::User),
            None if text == "none" => Ok(Self::None),
            Some(("bridge", name)) if is_interface(name) => Ok(Self::Bridge(name.into())),
            Some(("network", name)) if is_network(name) => Ok(Self::Named(name.into())),
            _ => Err(invalid(format!(
                "network {text:?} is none of user, none, bridge=<bridge of the host>, \
                 network=<network of libvirt>"
            ))),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => out.write_str("user"),
            Self::None => out.write_str("none"),
            Self::Bridge(name) => write!(out, "bridge={name}"),
            Self::Named(name) => write!(out, "network={name}"),
        }
    }
}

impl TryFrom<String> for DataVolume {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DataVolume> for String {
    fn from(volume: DataVolume) -> Self {
        volume.to_string()
    }
}

impl TryFrom<String> for Network {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

fn check_name(name: &str) -> Result<()> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let sound = (1..=50).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| inner(*byte))
        && bytes.last().is_some_and(|byte| inner(*byte));
    if sound {
        return Ok(());
    }
    Err(invalid(format!(
        "instance name {name:?} cannot be a host name: 1 to 50 of a-z, 0-9 and -, a letter or digit \
         at both ends"
    )))
}

fn check_path(what: &str, path: &Path) -> Result<()> {
    let Some(text) = path.to_str() else {
        return Err(invalid(format!(
            "{what} {} is not UTF-8; libvirt cannot be told it",
            path.display()
        )));
    };
    check_text(what, text)?;
    if path.is_absolute() {
        return Ok(());
    }
    Err(invalid(format!("{what} {text:?} is not an absolute path")))
}

/// XML 1.0 has no way to write most control characters, and line breaks do not survive attributes.
fn check_text(what: &str, text: &str) -> Result<()> {
    let foreign = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    match text.chars().find(|c| foreign(*c)) {
        None => Ok(()),
        Some(c) => Err(invalid(format!(
            "{what} {text:?} holds the control character {c:?}"
        ))),
    }
}

/// As OpenSSH writes them (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"), without options in front.
fn check_ssh_key(key: &str) -> Result<()> {
    let kind = key.split(' ').next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
        .iter()
        .any(|start| kind.starts_with(start));
    let shown: String = key.chars().take(40).collect();
    if !known || !key.contains(' ') || key.len() > 16 * 1024 {
        return Err(invalid(format!(
            "{shown:?} is not a public ssh key; give the line of a .pub file, e.g. \"ssh-ed25519 AAAA… me\""
        )));
    }
    check_text("ssh key", key)
}

/// IFNAMSIZ of Linux is 16 with the closing zero.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// libvirt takes almost any name; these can be typed.
fn is_network(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn invalid(context: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, Subject::Record, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> InstanceSpec {
        InstanceSpec {
            name: name.into(),
            image: Some("debian-12".into()),
            vcpus: 1,
            memory_mib: 512,
            ..InstanceSpec::default()
        }
    }

    fn refused(spec: &InstanceSpec) -> String {
        let error = spec.validate().expect_err("must be refused");
        assert_eq!(error.kind(), Kind::Invalid);
        error.to_string()
    }

    #[test]
    fn only_a_host_name_is_an_instance_name() {
        for name in ["a", "web1", "web-1", &"a".repeat(50)] {
            spec(name).validate().expect(name);
        }
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "../a",
            "a b",
            "ä",
            &"a".repeat(51),
        ] {
            assert!(refused(&spec(name)).contains("host name"), "{name}");
        }
    }

    #[test]
    fn an_instance_boots_from_exactly_one_thing() {
        let mut both = spec("web1");
        both.root_volume = Some("v".into());
        assert!(refused(&both).contains("exactly one"));
        let mut none = spec("web1");
        none.image = None;
        assert!(refused(&none).contains("exactly one"));
        let mut sized = spec("web1");
        sized.image = None;
        sized.root_volume = Some("v".into());
        sized.root_bytes = Some(1 << 30);
        assert!(refused(&sized).contains("root_bytes"));
    }

    #[test]
    fn control_characters_and_relative_paths_are_refused() {
        let mut kernel = spec("web1");
        kernel.kernel = Some("boot/vmlinuz".into());
        assert!(refused(&kernel).contains("absolute"));
        let mut cmdline = spec("web1");
        cmdline.kernel = Some("/boot/vmlinuz".into());
        cmdline.cmdline = Some("console=ttyS0\u{1}".into());
        assert!(refused(&cmdline).contains("control character"));
        let mut alone = spec("web1");
        alone.cmdline = Some("quiet".into());
        assert!(refused(&alone).contains("kernel"));
    }

    #[test]
    fn a_key_that_is_not_a_public_key_is_refused() {
        let mut good = spec("web1");
        good.ssh_keys = vec!["ssh-ed25519 AAAAC3 me@here".into()];
        good.validate().expect("a key");
        for key in [
            "",
            "hello",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "ssh-ed25519 AAAA\nruncmd: [x]",
        ] {
            let mut bad = spec("web1");
            bad.ssh_keys = vec![key.into()];
            refused(&bad);
        }
    }

    #[test]
    fn data_volumes_are_read_only_unless_asked_otherwise() {
        let parse = |text: &str| text.parse::<DataVolume>();
        let named = |name: &str, writable| DataVolume::Named {
            name: name.into(),
            writable,
        };
        assert_eq!(parse("data1").expect("name"), named("data1", false));
        assert_eq!(parse("data1:ro").expect("name"), named("data1", false));
        assert_eq!(parse("data1:rw").expect("name"), named("data1", true));
        let object = DataVolume::Object {
            bucket: "b".into(),
            key: "dir/x y.img".into(),
        };
        assert_eq!(parse("s3://b/dir/x y.img").expect("object"), object);
        assert_eq!(parse(&object.to_string()).expect("object"), object);
        for text in [
            "s3://b/k:rw",
            "s3://b",
            "s3://b/",
            "s3:///k",
            "",
            ":rw",
            "a/b",
            "x:y:ro",
        ] {
            assert_eq!(parse(text).expect_err(text).kind(), Kind::Invalid);
        }
    }

    #[test]
    fn a_network_is_user_none_a_bridge_or_one_of_libvirts() {
        for text in ["user", "none", "bridge=br0", "network=default"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
        let early: Network = "bridge:br0".parse().expect("as it was written at first");
        assert_eq!(early, Network::Bridge("br0".into()));
        for text in [
            "",
            "tap",
            "bridge:",
            "bridge:a/b",
            "bridge=0123456789abcdef",
            "network=",
            "network=a/b",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_spec_in_json_has_defaults_and_refuses_unknown_fields() {
        let spec: InstanceSpec =
            serde_json::from_str(r#"{"name":"web1","image":"debian-12","volumes":["s3://b/k"]}"#)
                .expect("spec");
        assert_eq!(
            (spec.vcpus, spec.memory_mib, &spec.network),
            (1, 512, &Network::User)
        );
        assert!(serde_json::from_str::<InstanceSpec>(r#"{"name":"web1","imgae":"x"}"#).is_err());
        assert!(
            serde_json::from_str::<InstanceSpec>(r#"{"name":"web1","volumes":["s3://b"]}"#)
                .is_err()
        );
    }
}
