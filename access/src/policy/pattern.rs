//! Patterns: `*`, `?` and policy variables, over actions, ARNs and condition values.
//!
//! A pattern is pieces between stars. Each piece is looked for behind the one before it, leftmost
//! first; with stars only that is never wrong and never comes back, so the steps are at most
//! pattern times text, and text plus pattern where no piece has a `?`.

use super::{Context, Malformed};

/// Text with wildcards and variables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Everything is compared in lower case.
    folded: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    /// `?`: any one character.
    One,
    /// `*`: any number of characters.
    Any,
    /// `${key}` or `${key, 'default'}`; the key in lower case.
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// A variable has no value, and no default.
pub(super) struct NoValue;

impl Pattern {
    /// Reads a pattern. `wild`: stars and question marks mean something; `variables`: so does `${…}`.
    pub(super) fn read(text: &str, wild: bool, variables: bool) -> Result<Self, Malformed> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if variables && rest.starts_with("${") {
                let (inside, behind) = rest[2..]
                    .split_once('}')
                    .ok_or_else(|| Malformed(format!("{text:?} has a ${{ without its }}")))?;
                push_variable(&mut parts, text, inside)?;
                rest = behind;
                continue;
            }
            match next {
                '*' if wild => {
                    // Two stars say what one says.
                    if parts.last() != Some(&Part::Any) {
                        parts.push(Part::Any);
                    }
                }
                '?' if wild => parts.push(Part::One),
                plain => push_text(&mut parts, plain.encode_utf8(&mut [0; 4])),
            }
            rest = &rest[next.len_utf8()..];
        }
        Ok(Self {
            parts,
            folded: false,
        })
    }

    /// The same, all in lower case.
    pub(super) fn lowered(mut self) -> Self {
        self.folded = true;
        for part in &mut self.parts {
            if let Part::Text(text) = part {
                *text = text.to_lowercase();
            }
        }
        self
    }

    /// Whether it matches; a variable without a value matches nothing.
    pub(super) fn matches(&self, text: &str, context: &Context) -> bool {
        self.try_matches(text, context).unwrap_or(false)
    }

    /// Whether it matches.
    pub(super) fn try_matches(&self, text: &str, context: &Context) -> Result<bool, NoValue> {
        let mut pieces: Vec<Vec<Bit>> = vec![Vec::new()];
        for part in &self.parts {
            let bit = match part {
                Part::Any => {
                    pieces.push(Vec::new());
                    continue;
                }
                Part::One => Bit::One,
                Part::Text(text) => Bit::Text(text.clone()),
                // A value is text: a star in it is a star, so that no name widens a policy.
                Part::Variable { key, default } => {
                    let value = value(key, default, context)?;
                    Bit::Text(if self.folded {
                        value.to_lowercase()
                    } else {
                        value
                    })
                }
            };
            if let Some(last) = pieces.last_mut() {
                match (last.last_mut(), bit) {
                    (Some(Bit::Text(before)), Bit::Text(more)) => before.push_str(&more),
                    (_, bit) => last.push(bit),
                }
            }
        }
        Ok(pieces_match(&pieces, text))
    }
}

fn value(key: &str, default: &Option<String>, context: &Context) -> Result<String, NoValue> {
    match context.values(key) {
        // A key of several values is no text (IAM, "Policy variables": single-valued keys only).
        [value] => Ok(value.clone()),
        _ => default.clone().ok_or(NoValue),
    }
}

fn push_text(parts: &mut Vec<Part>, more: &str) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push_str(more),
        _ => parts.push(Part::Text(more.to_owned())),
    }
}

fn push_variable(parts: &mut Vec<Part>, text: &str, inside: &str) -> Result<(), Malformed> {
    // "${*}", "${?}" and "${$}" are the characters themselves.
    if matches!(inside, "*" | "?" | "$") {
        push_text(parts, inside);
        return Ok(());
    }
    let (key, default) = match inside.split_once(',') {
        None => (inside.trim(), None),
        Some((key, quoted)) => {
            let quoted = quoted.trim();
            let default = quoted
                .strip_prefix('\'')
                .and_then(|rest| rest.strip_suffix('\''));
            let default = default.ok_or_else(|| {
                Malformed(format!(
                    "the default of a variable in {text:?} is not in 'single quotes'"
                ))
            })?;
            (key.trim(), Some(default.to_owned()))
        }
    };
    if key.is_empty() || key.contains(['$', '{', '*', '?']) {
        return Err(Malformed(format!("{text:?} has a variable without a name")));
    }
    parts.push(Part::Variable {
        key: key.to_ascii_lowercase(),
        default,
    });
    Ok(())
}

#[derive(Clone, Debug, PartialEq)]
enum Bit {
    Text(String),
    One,
}

fn pieces_match(pieces: &[Vec<Bit>], text: &str) -> bool {
    let Some((first, others)) = pieces.split_first() else {
        return text.is_empty();
    };
    let Some(mut rest) = begins(text, first) else {
        return false;
    };
    let Some((last, middle)) = others.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        match found_in(rest, piece) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    ends(rest, last)
}

/// What stands behind the piece at the beginning of `text`.
fn begins<'a>(text: &'a str, piece: &[Bit]) -> Option<&'a str> {
    piece.iter().try_fold(text, |rest, bit| match bit {
        Bit::Text(bit) => rest.strip_prefix(bit.as_str()),
        Bit::One => rest.chars().next().map(|one| &rest[one.len_utf8()..]),
    })
}

fn ends(text: &str, piece: &[Bit]) -> bool {
    let rest = piece.iter().rev().try_fold(text, |rest, bit| match bit {
        Bit::Text(bit) => rest.strip_suffix(bit.as_str()),
        Bit::One => rest
            .chars()
            .next_back()
            .map(|one| &rest[..rest.len() - one.len_utf8()]),
    });
    rest.is_some()
}

/// What stands behind the leftmost place of the piece.
fn found_in<'a>(text: &'a str, piece: &[Bit]) -> Option<&'a str> {
    match piece {
        [] => Some(text),
        [Bit::Text(only)] => text.find(only.as_str()).map(|at| &text[at + only.len()..]),
        _ => {
            let ends = std::iter::once(text.len());
            let starts = text.char_indices().map(|(at, _)| at).chain(ends);
            starts.into_iter().find_map(|at| begins(&text[at..], piece))
        }
    }
}

/// A pattern over ARNs: each of the six parts is matched on its own, so that a star in a name never
/// reaches into the project or the service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ArnPattern {
    text: String,
    /// None: `*`, every resource.
    parts: Option<Vec<Pattern>>,
}

impl ArnPattern {
    /// Reads `*` or an ARN.
    pub(super) fn read(text: &str, variables: bool) -> Result<Self, Malformed> {
        let parts = match text {
            "*" => None,
            _ => Some(arn_parts(text, variables)?),
        };
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches.
    pub(super) fn try_matches(&self, arn: &str, context: &Context) -> Result<bool, NoValue> {
        let Some(parts) = &self.parts else {
            return Ok(true);
        };
        let shown: Vec<&str> = arn.splitn(6, ':').collect();
        if shown.len() != parts.len() {
            return Ok(false);
        }
        for (pattern, part) in parts.iter().zip(shown) {
            if !pattern.try_matches(part, context)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The six parts of `arn:partition:service:region:account:resource`. A colon within a variable
/// (`${aws:username}`) parts nothing.
fn arn_parts(text: &str, variables: bool) -> Result<Vec<Pattern>, Malformed> {
    let mut parts: Vec<String> = vec![String::new()];
    let mut inside = false;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if variables && rest.starts_with("${") {
            inside = true;
        }
        if next == '}' {
            inside = false;
        }
        if next == ':' && !inside && parts.len() < 6 {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(next);
        }
        rest = &rest[next.len_utf8()..];
    }
    let is_arn = parts.len() == 6 && parts[0] == "arn" && !parts[5].is_empty();
    if !is_arn {
        return Err(Malformed(format!(
            "resource {text:?} is neither \"*\" nor an ARN such as arn:aws:s3:::bucket/*"
        )));
    }
    parts
        .iter()
        .map(|part| Pattern::read(part, true, variables))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    fn matches(pattern: &str, text: &str) -> bool {
        let pattern = Pattern::read(pattern, true, true).unwrap();
        pattern.matches(text, &Context::default())
    }

    /// As the manual defines it, without regard to time.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| model(rest, &text[at..])),
            Some(('?', rest)) => !text.is_empty() && model(rest, &text[1..]),
            Some((letter, rest)) => text.first() == Some(letter) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(
            pattern in "[ab?*é]{0,9}", text in "[abé]{0,9}"
        ) {
            let letters: Vec<char> = pattern.chars().collect();
            let shown: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&pattern, &text), model(&letters, &shown), "{} {}", pattern, text);
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_its_length_allows() {
        let text = "a".repeat(1024);
        let began = Instant::now();
        for hostile in [
            "*a".repeat(3000) + "b",
            "a?*".repeat(2000) + "b",
            "?*a".repeat(2000) + "b",
        ] {
            assert!(!matches(&hostile, &text));
        }
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    }

    #[test]
    fn a_variables_value_is_text_and_never_a_wildcard() {
        let mut context = Context::default();
        context.add("aws:username", "*");
        let home = Pattern::read("home/${aws:username}/?*", true, true).unwrap();
        assert!(home.matches("home/*/x", &context));
        assert!(!home.matches("home/alice/x", &context));
        assert!(home.try_matches("home//x", &Context::default()).is_err());
        let default = Pattern::read("${aws:username, 'nobody'}", true, true).unwrap();
        assert!(default.matches("nobody", &Context::default()));
        assert!(matches("a${*}b${?}${$}", "a*b?$"));
        assert!(!matches("a${*}b", "axb"));
        for broken in ["${aws:username", "${}", "${a,b}", "${*x}"] {
            assert!(Pattern::read(broken, true, true).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_star_stays_within_its_part_of_an_arn() {
        let context = Context::default();
        let matches = |pattern: &str, arn: &str| {
            let pattern = ArnPattern::read(pattern, true).unwrap();
            pattern.try_matches(arn, &context).unwrap_or(false)
        };
        assert!(matches("arn:aws:s3:::b/*", "arn:aws:s3:::b/k:l/m"));
        assert!(matches("*", "arn:aws:s3:::b"));
        assert!(!matches("arn:aws:*:::b", "arn:aws:s3:x::b"));
        assert!(matches("arn:aws:iam::*:user/a", "arn:aws:iam::p:user/a"));
        assert!(!matches("arn:aws:iam::*:user/a", "arn:aws:iam::p:user/ab"));
        for broken in ["b/*", "arn:aws:s3", "arn:aws:s3:::", "s3://b/k", ""] {
            assert!(ArnPattern::read(broken, true).is_err(), "{broken}");
        }
    }
}
