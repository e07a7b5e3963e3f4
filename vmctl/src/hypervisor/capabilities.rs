//! What we read out of libvirt's XML: the emulator, QEMU's user, a machine type, a terminal, a card.
//!
//! Elements are followed by their path from the root, so that a like-named element elsewhere says
//! nothing (libvirt, "Driver capabilities XML format" and "Domain XML format").
#![cfg_attr(not(feature = "virt"), allow(dead_code))]

use quick_xml::Reader;
use quick_xml::events::Event;
use std::path::PathBuf;

/// Of the capabilities: the emulator for x86_64 guests, and the user and group of QEMU under the
/// security model `dac`.
pub(super) fn emulator_and_user(xml: &str) -> (Option<PathBuf>, Option<(u32, u32)>) {
    let (mut emulator, mut user, mut is_x86, mut is_dac) = (None, None, false, false);
    walk(xml, |path, item| match (path, item) {
        (["capabilities", "guest", "arch"], Item::Attribute("name", value)) => {
            is_x86 = value == "x86_64";
        }
        (["capabilities", "guest", "arch", "emulator"], Item::Text(text))
            if is_x86 && emulator.is_none() =>
        {
            emulator = Some(PathBuf::from(text));
        }
        (["capabilities", "host", "secmodel", "model"], Item::Text(text)) => is_dac = text == "dac",
        (["capabilities", "host", "secmodel", "baselabel"], Item::Text(text))
            if is_dac && user.is_none() =>
        {
            user = text.split_once(':').and_then(|(user, group)| {
                let number = |text: &str| text.trim_start_matches('+').parse().ok();
                Some((number(user)?, number(group)?))
            });
        }
        _ => {}
    });
    (emulator, user)
}

/// Of a domain: its machine type.
pub(super) fn machine(xml: &str) -> Option<String> {
    first(xml, &["domain", "os", "type"], "machine")
}

/// Of a running domain: the terminal of its first serial port.
pub(super) fn terminal(xml: &str) -> Option<PathBuf> {
    first(xml, &["domain", "devices", "serial", "source"], "path").map(PathBuf::from)
}

/// Of a running domain: its network card's hardware address, and the bridge of the host it is a port of.
pub(super) fn card(xml: &str) -> (Option<String>, Option<String>) {
    let of = |child, attribute| first(xml, &["domain", "devices", "interface", child], attribute);
    (of("mac", "address"), of("source", "bridge"))
}

fn first(xml: &str, wanted: &[&str], attribute: &str) -> Option<String> {
    let mut found = None;
    walk(xml, |path, item| {
        if let Item::Attribute(name, value) = item
            && path == wanted
            && name == attribute
            && found.is_none()
        {
            found = Some(value.to_owned());
        }
    });
    found
}

enum Item<'a> {
    Attribute(&'a str, &'a str),
    Text(&'a str),
}

/// Ends quietly at the first thing that is not XML: then what was sought is just not there.
fn walk(xml: &str, mut visit: impl FnMut(&[&str], Item<'_>)) {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    while let Ok(event) = reader.read_event() {
        match event {
            Event::Start(ref start) | Event::Empty(ref start) => {
                path.push(String::from_utf8_lossy(start.name().as_ref()).into_owned());
                let at: Vec<&str> = path.iter().map(String::as_str).collect();
                for attribute in start.attributes().flatten() {
                    let name = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
                    if let Ok(value) = attribute.unescape_value() {
                        visit(&at, Item::Attribute(&name, &value));
                    }
                }
                if matches!(event, Event::Empty(_)) {
                    path.pop();
                }
            }
            Event::Text(text) => {
                let at: Vec<&str> = path.iter().map(String::as_str).collect();
                if let Ok(text) = text.decode()
                    && !text.trim().is_empty()
                {
                    visit(&at, Item::Text(text.trim()));
                }
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Eof => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulator_and_user_are_those_of_x86_64_and_dac() {
        let xml = "<capabilities><host><cpu><model>kvm64</model></cpu>\
            <secmodel><model>apparmor</model><baselabel type='kvm'>x</baselabel></secmodel>\
            <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+993</baselabel>\
            <baselabel type='qemu'>+1:+1</baselabel></secmodel></host>\
            <guest><os_type>hvm</os_type><arch name='i686'><emulator>/usr/bin/q32</emulator></arch></guest>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/q64</emulator>\
            <domain type='qemu'/></arch></guest></capabilities>";
        assert_eq!(
            emulator_and_user(xml),
            (Some("/usr/bin/q64".into()), Some((64055, 993)))
        );
        assert_eq!(emulator_and_user("<capabilities/>"), (None, None));
        assert_eq!(emulator_and_user("no XML <<"), (None, None));
    }

    #[test]
    fn machine_and_terminal_come_from_the_domain() {
        let xml = "<domain><os><type arch='x86_64' machine='pc-i440fx-10.0'>hvm</type></os><devices>\
            <disk><source path='/no'/></disk><serial type='pty'><source path='/dev/pts/3'/></serial>\
            </devices></domain>";
        assert_eq!(machine(xml).as_deref(), Some("pc-i440fx-10.0"));
        assert_eq!(terminal(xml), Some("/dev/pts/3".into()));
        assert_eq!(terminal("<domain/>"), None);
    }

    #[test]
    fn the_card_of_a_network_has_the_bridge_that_libvirt_chose() {
        let xml = "<domain><devices><interface type='network'><mac address='52:54:00:a1:b2:c3'/>\
            <source network='default' portid='x' bridge='virbr0'/></interface></devices></domain>";
        let shown = (Some("52:54:00:a1:b2:c3".into()), Some("virbr0".into()));
        assert_eq!(card(xml), shown);
        assert_eq!(card("<domain/>"), (None, None));
    }
}
