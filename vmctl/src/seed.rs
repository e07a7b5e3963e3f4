//! The NoCloud seed: a small ISO 9660 volume labelled `cidata` that cloud-init reads at first boot.
//!
//! 1. User data goes in byte for byte as the user gave it. ssh keys go in as `public-keys` of the
//!    meta-data, so that they work beside any user data (cloud-init, "NoCloud", "Datasource fields").
//! 2. A new instance id makes cloud-init run again; ours is the instance's UUID.
//! 3. What we have the guest do beside goes in as vendor data, which cloud-init runs apart from user data
//!    (cloud-init, "Vendor data"); who makes an image without cloud-init may run it from there, too.
//! 4. The file is 0600: user data holds secrets. libvirt hands it to QEMU's user when it starts the
//!    guest.

use blockstore::{Error, Kind, Result, Subject};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the seed says.
#[derive(Clone, Copy, Debug)]
pub struct Seed<'a> {
    /// New for each new instance.
    pub instance_id: &'a str,
    /// Becomes the host name.
    pub hostname: &'a str,
    /// As the user gave it; an empty `#cloud-config` if absent.
    pub user_data: Option<&'a str>,
    /// Ours: a script that runs whatever the user data says; left out if absent.
    pub vendor_data: Option<&'a str>,
    /// As the user gave it; left out if absent, cloud-init then asks for DHCP.
    pub network_config: Option<&'a str>,
    /// For the image's default user.
    pub ssh_keys: &'a [String],
}

impl Seed<'_> {
    /// Its files, by name.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = vec![
            (
                "user-data",
                self.user_data.unwrap_or("#cloud-config\n{}\n").to_owned(),
            ),
            ("meta-data", self.meta_data()),
        ];
        if let Some(vendor) = self.vendor_data {
            files.push(("vendor-data", vendor.to_owned()));
        }
        if let Some(network) = self.network_config {
            files.push(("network-config", network.to_owned()));
        }
        files
    }

    /// YAML by lines, each value a JSON string, which YAML 1.2 takes as it is (1.2, "Relation to JSON").
    fn meta_data(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut lines = vec![
            format!("instance-id: {}", quoted(self.instance_id)),
            format!("local-hostname: {}", quoted(self.hostname)),
        ];
        if !self.ssh_keys.is_empty() {
            lines.push("public-keys:".into());
            lines.extend(
                self.ssh_keys
                    .iter()
                    .map(|key| format!("  - {}", quoted(key))),
            );
        }
        lines.join("\n") + "\n"
    }

    /// Makes the image at `target`, over anything there.
    ///
    /// [`Kind::Unavailable`] if `genisoimage` is not installed.
    pub fn write(&self, target: &Path) -> Result<()> {
        let parent = target.parent().unwrap_or(Path::new("."));
        let staging = Staging::new(parent)?;
        let mut command = Command::new("genisoimage");
        command.args([
            "-quiet",
            "-volid",
            "cidata",
            "-joliet",
            "-rock",
            "-input-charset",
            "utf-8",
            "-output",
        ]);
        command.arg(staging.0.join("seed.iso"));
        for (name, text) in self.files() {
            let path = staging.0.join(name);
            std::fs::write(&path, text).map_err(|error| Error::io("write", &path, error))?;
            command.arg(path);
        }
        let output = command.output().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                Kind::Unavailable,
                Subject::Record,
                "genisoimage is not installed, and the seed is made with it: apt-get install genisoimage",
            ),
            _ => Error::new(Kind::Internal, Subject::Record, "cannot run genisoimage").because(error),
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(
                Kind::Internal,
                Subject::Record,
                format!(
                    "genisoimage could not make {} ({})",
                    target.display(),
                    output.status
                ),
            )
            .because(said));
        }
        let made = staging.0.join("seed.iso");
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| Error::io("set the mode of", &made, error))?;
        std::fs::rename(&made, target)
            .map_err(|error| Error::io("rename the seed to", target, error))
    }
}

/// A private directory that goes when this does.
struct Staging(std::path::PathBuf);

impl Staging {
    fn new(parent: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = parent.join(format!(".seed-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io("make the directory", &path, error))?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a staging directory stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isoinfo(image: &Path, arguments: &[&str]) -> String {
        let output = Command::new("isoinfo")
            .args(arguments)
            .arg("-i")
            .arg(image)
            .output()
            .expect("isoinfo: apt-get install genisoimage");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn an_iso_reader_finds_label_and_files_as_they_were_given() {
        let directory = tempfile::tempdir().expect("tempdir");
        let image = directory.path().join("seed.iso");
        let user_data = "#cloud-config\npassword: \"p'ä&<\"\n";
        let keys = vec!["ssh-ed25519 AAAA \"me\" # not a comment".to_owned()];
        let seed = Seed {
            instance_id: "i-1",
            hostname: "web1",
            user_data: Some(user_data),
            vendor_data: Some("#!/bin/sh\ntrue\n"),
            network_config: Some("version: 2\n"),
            ssh_keys: &keys,
        };
        seed.write(&image).expect("seed");
        seed.write(&image).expect("and again over it");
        assert!(isoinfo(&image, &["-d"]).contains("Volume id: cidata"));
        assert_eq!(isoinfo(&image, &["-R", "-x", "/user-data"]), user_data);
        assert_eq!(
            isoinfo(&image, &["-R", "-x", "/vendor-data"]),
            "#!/bin/sh\ntrue\n"
        );
        assert_eq!(
            isoinfo(&image, &["-R", "-x", "/network-config"]),
            "version: 2\n"
        );
        assert_eq!(
            isoinfo(&image, &["-J", "-x", "/meta-data"]),
            "instance-id: \"i-1\"\nlocal-hostname: \"web1\"\npublic-keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\" # not a comment\"\n"
        );
        let mode = std::fs::metadata(&image)
            .expect("image")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("list").count(),
            1
        );
    }

    #[test]
    fn without_user_data_there_is_an_empty_cloud_config() {
        let seed = Seed {
            instance_id: "i",
            hostname: "h",
            user_data: None,
            vendor_data: None,
            network_config: None,
            ssh_keys: &[],
        };
        assert_eq!(
            seed.files(),
            vec![
                ("user-data", "#cloud-config\n{}\n".to_owned()),
                (
                    "meta-data",
                    "instance-id: \"i\"\nlocal-hostname: \"h\"\n".to_owned()
                ),
            ]
        );
    }
}
