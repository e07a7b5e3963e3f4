//! `--include` and `--exclude`: which paths take part. As `aws s3` reads them: all take part at
//! first, and the last pattern that matches a path decides.
//!
//! `*` stands for any characters, `/` among them, `?` for one, `[abc]`, `[a-z]` and `[!abc]` for
//! one of a set. Matching takes time in the product of both lengths at most.

use std::ops::RangeInclusive;

/// Bytes of a pattern at most.
const PATTERN_BYTES_MAX: usize = 1024;

/// A pattern and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Whether what matches takes part.
    pub(crate) include: bool,
    /// What must match the whole path.
    pub(crate) pattern: Pattern,
}

/// Rules, first to last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(pub(crate) Vec<Rule>);

impl Filter {
    /// Whether this path takes part.
    pub(crate) fn takes(&self, path: &str) -> bool {
        let decides = |rule: &&Rule| rule.pattern.matches(path);
        self.0
            .iter()
            .rev()
            .find(decides)
            .is_none_or(|rule| rule.include)
    }
}

/// A glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Char(char),
    Set(bool, Vec<RangeInclusive<char>>),
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
        }
        let mut pieces = Vec::new();
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            pieces.push(match next {
                '*' => Piece::Any,
                '?' => Piece::One,
                '[' => set(&mut rest).ok_or_else(|| {
                    format!("{text:?} has a '[' without its ']'; write [[] for a bracket")
                })?,
                other => Piece::Char(other),
            });
        }
        pieces.dedup_by(|one, other| *one == Piece::Any && *other == Piece::Any);
        Ok(Self(pieces))
    }
}

fn set(rest: &mut std::str::Chars<'_>) -> Option<Piece> {
    let mut ahead = rest.clone();
    let inverted = ahead.next() == Some('!');
    if inverted {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let first = rest.next()?;
        // A bracket that comes first stands for itself.
        if first == ']' && !ranges.is_empty() {
            return Some(Piece::Set(inverted, ranges));
        }
        let mut ahead = rest.clone();
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) if last != ']' => {
                *rest = ahead;
                last
            }
            _ => first,
        };
        ranges.push(first..=last);
    }
}

impl Pattern {
    /// Whether it matches the whole text.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut piece, mut at) = (0, 0);
        // Where to go on when it does not fit: behind the last star, one character later.
        let mut star = None;
        while at < text.len() {
            match self.0.get(piece) {
                Some(Piece::Any) => {
                    piece += 1;
                    star = Some((piece, at));
                    continue;
                }
                Some(one) if one.fits(text[at]) => {
                    piece += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let Some((behind, from)) = star else {
                return false;
            };
            star = Some((behind, from + 1));
            (piece, at) = (behind, from + 1);
        }
        self.0[piece..].iter().all(|piece| *piece == Piece::Any)
    }
}

impl Piece {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(wanted) => *wanted == c,
            Self::Set(inverted, ranges) => {
                ranges.iter().any(|range| range.contains(&c)) != *inverted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(text)
    }

    #[test]
    fn patterns_mean_what_aws_says() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a/b/c"),
            ("*.txt", "a/b.txt"),
            ("a/*", "a/b/c"),
            ("?.log", "1.log"),
            ("[ab]x", "bx"),
            ("[!ab]x", "cx"),
            ("[a-c]*", "beta"),
            ("[]]", "]"),
            ("*a*b*", "xxaxxbxx"),
            ("ä?", "äö"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*.txt", "a.txt.gz"),
            ("?", ""),
            ("?", "ab"),
            ("[!ab]x", "ax"),
            ("a", "b"),
            ("*a", "b"),
            ("a*b", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!("[".parse::<Pattern>().is_err());
        assert!("[a".parse::<Pattern>().is_err());
        assert!("".parse::<Pattern>().is_err());
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rule = |include, pattern: &str| Rule {
            include,
            pattern: pattern.parse().unwrap(),
        };
        let only_text = Filter(vec![rule(false, "*"), rule(true, "*.txt")]);
        assert!(only_text.takes("a.txt") && !only_text.takes("a.bin"));
        let nothing = Filter(vec![rule(true, "*.txt"), rule(false, "*")]);
        assert!(!nothing.takes("a.txt"));
        assert!(Filter::default().takes("anything"));
    }

    #[test]
    fn many_stars_take_no_long_time() {
        assert!(!matches(&"*a".repeat(500), &"a".repeat(499)));
    }

    proptest::proptest! {
        #[test]
        fn a_text_matches_itself_and_itself_with_stars(text in "[a-z/]{1,20}", cut in 0usize..20) {
            let cut = cut.min(text.len());
            proptest::prop_assert!(matches(&text, &text));
            let starred = format!("{}*{}", &text[..cut], &text[cut..]);
            proptest::prop_assert!(matches(&starred, &text));
        }
    }
}
