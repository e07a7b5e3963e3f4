//! Principals: whom a statement of a resource's policy or of a role's trust means.

/// Who asks, as policies name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// ARNs that mean exactly this asker (a session: its own and its role's). Empty: anonymous.
    pub arns: Vec<String>,
    /// Their project; empty: anonymous.
    pub project: String,
    /// The issuer that vouches for them, while they assume a role with its token.
    pub issuer: Option<String>,
}

/// The elements Principal and NotPrincipal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Principals {
    pub(super) not: bool,
    /// Principal `"*"` or `{"AWS": "*"}`.
    pub(super) everybody: bool,
    /// ARNs of users, roles and sessions.
    pub(super) arns: Vec<String>,
    /// Whole projects.
    pub(super) projects: Vec<String>,
    /// Issuers of tokens.
    pub(super) issuers: Vec<String>,
}

impl Principals {
    /// None: somebody else is meant. Else whether the asker is named, and not their project only.
    pub(super) fn mean(&self, asker: &Asker) -> Option<bool> {
        let issued = asker.issuer.as_ref().is_some_and(|issuer| {
            self.issuers
                .iter()
                .any(|named| named == issuer || named == "*")
        });
        let named = issued
            || (asker.issuer.is_none()
                && (self.everybody || self.arns.iter().any(|arn| asker.arns.contains(arn))));
        let project = asker.issuer.is_none()
            && !asker.project.is_empty()
            && self.projects.contains(&asker.project);
        if self.not {
            // Nobody is let in by not being named: NotPrincipal is read for Deny only.
            return (!named && !project).then_some(true);
        }
        if named {
            Some(true)
        } else {
            project.then_some(false)
        }
    }

    pub(super) fn means_everybody(&self) -> bool {
        self.everybody || self.not
    }
}

/// The project in `arn:aws:iam::<project>:root`, or in a project's bare name.
pub(super) fn project_of(named: &str) -> Option<&str> {
    if let Some(rest) = named.strip_prefix("arn:aws:iam::") {
        return rest
            .strip_suffix(":root")
            .filter(|project| !project.contains(':'));
    }
    let plain = !named.is_empty()
        && named
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    plain.then_some(named)
}
