//! From an instance's spec to libvirt's domain XML: a pure function.
//!
//! 1. Text from users becomes attributes and text nodes of a tree; `Element::write` alone turns
//!    the tree into XML, escaping everything. Nothing is formatted into markup.
//! 2. Disks have `cache='none'` (a file: `writeback`), so a guest's flush is a flush of the server,
//!    and stop the guest on an I/O error instead of handing it to a file system.
//! 3. Over NBD QEMU waits [`RECONNECT_S`] seconds for a server that went away before that error.
//!
//! libvirt, "Domain XML format" (formatdomain.html) has the elements; the recipe for NBD over a
//! unix socket is in its section "Hard drives, floppy disks, CDROMs".

mod element;

use crate::spec::{InstanceSpec, Network};
use blockstore::{Error, Kind, Result, Subject};
use element::{Element, node};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Seconds that QEMU holds requests back while the server is away.
pub const RECONNECT_S: u32 = 15;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, by KVM.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What the domain needs to know beyond the spec.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its identity with libvirt.
    pub uuid: Uuid,
    /// How to execute it.
    pub accelerator: Accelerator,
    /// The machine type it was first defined with; libvirt's alias `pc` if none yet.
    pub machine: Option<&'a str>,
    /// The emulator libvirt names for x86_64; its own choice if absent.
    pub emulator: Option<&'a Path>,
    /// The disks in order, the root disk first.
    pub disks: &'a [Disk],
    /// The unix socket that serves the NBD exports.
    pub socket: &'a Path,
    /// Whether libvirt gives files to QEMU's user (it runs as root and has the security model `dac`).
    pub gives_files_away: bool,
    /// The NoCloud seed.
    pub seed: &'a Path,
    /// Where everything on the serial console is appended.
    pub console_log: &'a Path,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where its bytes are.
    pub source: DiskSource,
    /// Whether the guest may write.
    pub writable: bool,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskSource {
    /// An export of the instance's NBD socket.
    Export(String),
    /// A raw file.
    File(PathBuf),
}

/// The domain XML for an instance.
///
/// [`Kind::Invalid`] if a text cannot be said in XML or a disk has no letter left.
pub fn domain_xml(spec: &InstanceSpec, facts: &Facts<'_>) -> Result<String> {
    let (kind, cpu) = match facts.accelerator {
        Accelerator::Kvm => ("kvm", node("cpu").with("mode", "host-model")),
        Accelerator::Tcg => (
            "qemu",
            node("cpu")
                .with("mode", "custom")
                .with("match", "exact")
                .child(node("model").with("fallback", "allow").text("qemu64")),
        ),
    };
    let domain = node("domain")
        .with("type", kind)
        .child(node("name").text(&spec.name))
        .child(node("uuid").text(facts.uuid.to_string()))
        .child(
            node("memory")
                .with("unit", "MiB")
                .text(spec.memory_mib.to_string()),
        )
        .child(node("vcpu").text(spec.vcpus.to_string()))
        .child(cpu)
        .child(boot(spec, facts)?)
        .child(node("features").child(node("acpi")).child(node("apic")))
        .child(node("clock").with("offset", "utc"))
        .child(node("on_poweroff").text("destroy"))
        .child(node("on_reboot").text("restart"))
        .child(node("on_crash").text("destroy"))
        .child(devices(spec, facts)?);
    domain.document()
}

fn boot(spec: &InstanceSpec, facts: &Facts<'_>) -> Result<Element> {
    let machine = facts.machine.unwrap_or("pc");
    let hvm = node("type")
        .with("arch", "x86_64")
        .with("machine", machine)
        .text("hvm");
    let mut os = node("os").child(hvm);
    match &spec.kernel {
        None => os = os.child(node("boot").with("dev", "hd")),
        Some(kernel) => {
            os = os.child(node("kernel").text(utf8(kernel)?));
            if let Some(initrd) = &spec.initrd {
                os = os.child(node("initrd").text(utf8(initrd)?));
            }
            if let Some(cmdline) = &spec.cmdline {
                os = os.child(node("cmdline").text(cmdline));
            }
        }
    }
    Ok(os)
}

fn devices(spec: &InstanceSpec, facts: &Facts<'_>) -> Result<Element> {
    let mut devices = node("devices");
    if let Some(emulator) = facts.emulator {
        devices = devices.child(node("emulator").text(utf8(emulator)?));
    }
    for (index, disk) in facts.disks.iter().enumerate() {
        devices = devices.child(hard_disk(index, disk, facts)?);
    }
    devices = devices
        .child(seed(facts.seed)?)
        .child(node("controller").with("type", "usb").with("model", "none"))
        .child(
            node("serial")
                .with("type", "pty")
                .child(
                    node("log")
                        .with("file", utf8(facts.console_log)?)
                        .with("append", "on"),
                )
                .child(node("target").with("port", "0")),
        )
        .child(
            node("console")
                .with("type", "pty")
                .child(node("target").with("type", "serial").with("port", "0")),
        )
        .child(
            node("channel").with("type", "unix").child(
                node("target")
                    .with("type", "virtio")
                    .with("name", "org.qemu.guest_agent.0"),
            ),
        )
        .child(
            node("rng")
                .with("model", "virtio")
                .child(node("backend").with("model", "random").text("/dev/urandom")),
        )
        .child(node("memballoon").with("model", "none"));
    let card = |kind: &str| {
        node("interface")
            .with("type", kind)
            .child(node("mac").with("address", hardware_address(facts.uuid)))
            .child(node("model").with("type", "virtio"))
    };
    Ok(match &spec.network {
        Network::None => devices,
        Network::User => devices.child(card("user")),
        Network::Bridge(name) => {
            devices.child(card("bridge").child(node("source").with("bridge", name)))
        }
        Network::Named(name) => {
            devices.child(card("network").child(node("source").with("network", name)))
        }
    })
}

/// The same at each start: what cloud-init writes at the first boot knows the card by it. libvirt would
/// choose another each time the domain is defined. `52:54:00` is QEMU's, of those that nobody owns.
fn hardware_address(uuid: Uuid) -> String {
    let [.., a, b, c] = uuid.into_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn hard_disk(index: usize, disk: &Disk, facts: &Facts<'_>) -> Result<Element> {
    let letter = u8::try_from(index)
        .ok()
        .and_then(|index| (index < 26).then_some(b'a' + index))
        .ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                Subject::Record,
                format!("disk {} has no letter left", index + 1),
            )
        })?;
    let (kind, cache, source) = match &disk.source {
        DiskSource::Export(name) => (
            "network",
            "none",
            node("source")
                .with("protocol", "nbd")
                .with("name", name)
                .child(
                    node("host")
                        .with("transport", "unix")
                        .with("socket", utf8(facts.socket)?),
                )
                .child(node("reconnect").with("delay", RECONNECT_S.to_string())),
        ),
        DiskSource::File(path) => {
            let source = node("source").with("file", utf8(path)?);
            // The file keeps its owner: it is not ours, and under a mount it cannot get another.
            let keep = node("seclabel").with("model", "dac").with("relabel", "no");
            (
                "file",
                "writeback",
                if facts.gives_files_away {
                    source.child(keep)
                } else {
                    source
                },
            )
        }
    };
    let driver = node("driver")
        .with("name", "qemu")
        .with("type", "raw")
        .with("cache", cache)
        .with("error_policy", "stop")
        .with("rerror_policy", "stop")
        .with("discard", "unmap");
    let target = node("target")
        .with("dev", format!("vd{}", char::from(letter)))
        .with("bus", "virtio");
    let element = node("disk")
        .with("type", kind)
        .with("device", "disk")
        .child(driver)
        .child(source)
        .child(target);
    Ok(if disk.writable {
        element
    } else {
        element.child(node("readonly"))
    })
}

/// On IDE: Debian's cloud kernel, made for i440fx, has no AHCI.
fn seed(path: &Path) -> Result<Element> {
    Ok(node("disk")
        .with("type", "file")
        .with("device", "cdrom")
        .child(node("driver").with("name", "qemu").with("type", "raw"))
        .child(node("source").with("file", utf8(path)?))
        .child(node("target").with("dev", "hda").with("bus", "ide"))
        .child(node("readonly")))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let context = format!("{} is not UTF-8; libvirt cannot be told it", path.display());
        Error::new(Kind::Invalid, Subject::Record, context)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quick_xml::Reader;
    use quick_xml::events::Event;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            name: "web1".into(),
            image: Some("debian-12".into()),
            vcpus: 2,
            memory_mib: 768,
            ..InstanceSpec::default()
        }
    }

    fn export(name: &str, writable: bool) -> Disk {
        Disk {
            source: DiskSource::Export(name.into()),
            writable,
        }
    }

    fn facts(disks: &[Disk]) -> Facts<'_> {
        Facts {
            uuid: Uuid::from_u128(0x1234),
            accelerator: Accelerator::Tcg,
            machine: None,
            emulator: Some(Path::new("/usr/bin/qemu-system-x86_64")),
            disks,
            socket: Path::new("/run/infall/web1.sock"),
            gives_files_away: true,
            seed: Path::new("/var/lib/infall/vm/web1/seed.iso"),
            console_log: Path::new("/var/lib/infall/vm/web1/console.log"),
        }
    }

    #[test]
    fn an_instance_on_nbd_disks_becomes_this_domain() {
        let disks = [
            export("web1-root", true),
            export("object:data/set.img", false),
        ];
        let xml = domain_xml(&spec(), &facts(&disks)).expect("xml");
        assert_eq!(xml, GOLDEN);
    }

    #[test]
    fn a_file_keeps_its_owner_and_a_kernel_replaces_the_boot_loader() {
        let disks = [Disk {
            source: DiskSource::File("/mnt/volumes/a.raw".into()),
            writable: true,
        }];
        let mut spec = spec();
        spec.kernel = Some("/boot/vmlinuz".into());
        spec.initrd = Some("/boot/initrd".into());
        spec.cmdline = Some("console=ttyS0 root=/dev/vda".into());
        spec.network = Network::Bridge("br0".into());
        let kvm = Facts {
            accelerator: Accelerator::Kvm,
            machine: Some("pc-i440fx-10.0"),
            ..facts(&disks)
        };
        let xml = domain_xml(&spec, &kvm).expect("xml");
        for part in [
            "<domain type=\"kvm\">",
            "<cpu mode=\"host-model\"/>",
            "machine=\"pc-i440fx-10.0\"",
            "<kernel>/boot/vmlinuz</kernel>",
            "<initrd>/boot/initrd</initrd>",
            "<cmdline>console=ttyS0 root=/dev/vda</cmdline>",
            "<seclabel model=\"dac\" relabel=\"no\"/>",
            "<source bridge=\"br0\"/>",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        assert!(!xml.contains("<boot "), "{xml}");
        let xml = domain_xml(
            &spec,
            &Facts {
                gives_files_away: false,
                ..kvm
            },
        )
        .expect("xml");
        assert!(
            !xml.contains("seclabel"),
            "an unprivileged libvirt has no such model: {xml}"
        );
        spec.network = Network::Named("default".into());
        let xml = domain_xml(&spec, &facts(&disks)).expect("xml");
        let card = "<interface type=\"network\">\n      <mac address=\"52:54:00:00:12:34\"/>\n      <model type=\"virtio\"/>\n      <source network=\"default\"/>";
        assert!(xml.contains(card), "{xml}");
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "x'/></disk><disk type=\"file\"><source file='/etc/shadow'/>&lt;]]><!--";
        let disks = [
            export(hostile, false),
            Disk {
                source: DiskSource::File(format!("/tmp/{hostile}").into()),
                writable: false,
            },
        ];
        let mut spec = spec();
        spec.name = hostile.into();
        spec.kernel = Some(format!("/{hostile}").into());
        spec.cmdline = Some(hostile.into());
        let socket = PathBuf::from(format!("/run/{hostile}.sock"));
        let xml = domain_xml(
            &spec,
            &Facts {
                socket: &socket,
                ..facts(&disks)
            },
        )
        .expect("xml");
        let (elements, values) = parse(&xml);
        // Two hard disks and the seed, whatever the names say.
        assert_eq!(elements.iter().filter(|name| *name == "disk").count(), 3);
        assert_eq!(
            elements.iter().filter(|name| *name == "readonly").count(),
            3
        );
        assert_eq!(
            values
                .iter()
                .filter(|value| value.contains(hostile))
                .count(),
            6,
            "{values:?}"
        );
        assert!(values.iter().any(|value| value == hostile));
    }

    #[test]
    fn what_xml_cannot_say_is_refused() {
        for text in ["a\nb", "a\u{0}b", "a\u{1b}b", "a\u{ffff}b"] {
            let error = domain_xml(&spec(), &facts(&[export(text, true)])).expect_err("refused");
            assert_eq!(error.kind(), Kind::Invalid);
        }
        let many = vec![export("a", true); 27];
        assert!(domain_xml(&spec(), &facts(&many)).is_err());
    }

    /// Names of all elements, and all attribute values and texts, unescaped.
    fn parse(xml: &str) -> (Vec<String>, Vec<String>) {
        let (mut elements, mut values) = (Vec::new(), Vec::new());
        let mut reader = Reader::from_str(xml);
        let mut text = String::new();
        loop {
            match reader.read_event().expect("well-formed") {
                Event::Start(start) | Event::Empty(start) => {
                    values.extend((!text.trim().is_empty()).then(|| text.trim().to_owned()));
                    text.clear();
                    elements.push(String::from_utf8(start.name().as_ref().to_vec()).expect("name"));
                    for attribute in start.attributes() {
                        let attribute = attribute.expect("attribute");
                        values.push(attribute.unescape_value().expect("value").into_owned());
                    }
                }
                Event::Text(part) => text.push_str(&part.decode().expect("UTF-8")),
                Event::GeneralRef(entity) => match entity.decode().expect("UTF-8").as_ref() {
                    "lt" => text.push('<'),
                    "gt" => text.push('>'),
                    "amp" => text.push('&'),
                    "apos" => text.push('\''),
                    "quot" => text.push('"'),
                    other => panic!("unknown entity {other}"),
                },
                Event::End(_) => {
                    values.extend((!text.trim().is_empty()).then(|| text.trim().to_owned()));
                    text.clear();
                }
                Event::Eof => return (elements, values),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    const GOLDEN: &str = r#"<domain type="qemu">
  <name>web1</name>
  <uuid>00000000-0000-0000-0000-000000001234</uuid>
  <memory unit="MiB">768</memory>
  <vcpu>2</vcpu>
  <cpu mode="custom" match="exact">
    <model fallback="allow">qemu64</model>
  </cpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
    <boot dev="hd"/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="network" device="disk">
      <driver name="qemu" type="raw" cache="none" error_policy="stop" rerror_policy="stop" discard="unmap"/>
      <source protocol="nbd" name="web1-root">
        <host transport="unix" socket="/run/infall/web1.sock"/>
        <reconnect delay="15"/>
      </source>
      <target dev="vda" bus="virtio"/>
    </disk>
    <disk type="network" device="disk">
      <driver name="qemu" type="raw" cache="none" error_policy="stop" rerror_policy="stop" discard="unmap"/>
      <source protocol="nbd" name="object:data/set.img">
        <host transport="unix" socket="/run/infall/web1.sock"/>
        <reconnect delay="15"/>
      </source>
      <target dev="vdb" bus="virtio"/>
      <readonly/>
    </disk>
    <disk type="file" device="cdrom">
      <driver name="qemu" type="raw"/>
      <source file="/var/lib/infall/vm/web1/seed.iso"/>
      <target dev="hda" bus="ide"/>
      <readonly/>
    </disk>
    <controller type="usb" model="none"/>
    <serial type="pty">
      <log file="/var/lib/infall/vm/web1/console.log" append="on"/>
      <target port="0"/>
    </serial>
    <console type="pty">
      <target type="serial" port="0"/>
    </console>
    <channel type="unix">
      <target type="virtio" name="org.qemu.guest_agent.0"/>
    </channel>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
    <memballoon model="none"/>
    <interface type="user">
      <mac address="52:54:00:00:12:34"/>
      <model type="virtio"/>
    </interface>
  </devices>
</domain>
"#;
}
