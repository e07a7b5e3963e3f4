//! Entitlements as EGI Check-in writes them (AARC-G069):
//! `urn:mace:egi.eu:group:<vo>[:<sub>…][:role=<role>]#<authority>`.

/// Longest that is read.
const BYTES_MAX: usize = 1024;

/// A membership: which group, in which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entitlement {
    /// The group and its parents, colons between: `vo.example.org:analysis`.
    pub group: String,
    /// `member`, `vm_operator`, …; empty where none is named.
    pub role: String,
}

impl Entitlement {
    /// None where the text is no group entitlement. Any URN namespace will do; the issuer vouches for it.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX || text.chars().any(char::is_control) {
            return None;
        }
        let urn = text.strip_prefix("urn:")?;
        let urn = urn.split_once('#').map_or(urn, |(urn, _)| urn);
        let (_, members) = urn.split_once(":group:")?;
        let mut role = "";
        let mut group = Vec::new();
        for part in members.split(':') {
            match part.strip_prefix("role=") {
                Some(named) if role.is_empty() && !named.is_empty() => role = named,
                // A role is the last part, and there is one.
                None if role.is_empty() && !part.is_empty() => group.push(decoded(part)?),
                _ => return None,
            }
        }
        (!group.is_empty()).then(|| Self {
            group: group.join(":"),
            role: role.to_owned(),
        })
    }

    /// As a trust policy names it: `vo.example.org:analysis#member`, or without a role the group alone.
    pub fn named(&self) -> String {
        if self.role.is_empty() {
            self.group.clone()
        } else {
            format!("{}#{}", self.group, self.role)
        }
    }
}

/// Percent-decoding (RFC 3986, 2.1); a part that then holds a separator would claim another group.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains([':', '#', '*', '?']) && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(text: &str) -> Option<String> {
        Entitlement::parse(text).map(|found| found.named())
    }

    #[test]
    fn groups_sub_groups_and_roles_are_read() {
        for (text, expected) in [
            (
                "urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu",
                "vo.example.org#member",
            ),
            (
                "urn:mace:egi.eu:group:vo.example.org:analysis:role=vm_operator#aai.egi.eu",
                "vo.example.org:analysis#vm_operator",
            ),
            (
                "urn:mace:egi.eu:group:vo.example.org#aai.egi.eu",
                "vo.example.org",
            ),
            (
                "urn:geant:example.org:group:lab%20one:role=member",
                "lab one#member",
            ),
        ] {
            assert_eq!(named(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_group_or_pretends_to_be_another_is_not_read() {
        for text in [
            "",
            "member",
            "urn:mace:egi.eu:res:vm",
            "urn:mace:egi.eu:group:",
            "urn:mace:egi.eu:group::role=member",
            "urn:mace:egi.eu:group:vo:role=",
            "urn:mace:egi.eu:group:vo:role=a:role=b",
            "urn:mace:egi.eu:group:vo:role=a:sub",
            "urn:mace:egi.eu:group:vo%3Aadmins",
            "urn:mace:egi.eu:group:vo%23admin",
            "urn:mace:egi.eu:group:*",
            "urn:mace:egi.eu:group:vo%2",
        ] {
            assert_eq!(named(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _ = Entitlement::parse(&text);
            let _ = Entitlement::parse(&format!("urn:mace:egi.eu:group:{text}"));
        }
    }
}
