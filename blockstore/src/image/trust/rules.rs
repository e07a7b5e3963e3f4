//! The site's rules on images, and the judgement by them: pure but for the signers' file, which is read
//! anew for each judgement.
//!
//! | rule | refuses a new use of an image that |
//! |---|---|
//! | `images.expires` | has passed the time its owner set |
//! | `images.deprecated` | is deprecated, unless the site only warns or the asker says so |
//! | `images.signed` | has no signature that counts, where the site requires one |

use super::signers::Signers;
use super::standing::{Refusal, SignatureStanding, Standing};
use super::statement::Statement;
use super::{Endorsement, is_over, shown, signature};
use crate::image::ImageInfo;
use crate::{Error, Kind, Subject, clock};
use std::path::PathBuf;

/// Whether images must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignedRule {
    /// Only images with a signature that counts are used.
    Required,
    /// Signatures are kept and shown.
    #[default]
    Optional,
}

/// What becomes of new uses of a deprecated image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeprecatedRule {
    /// They are refused, unless the asker says that the image may be a deprecated one.
    #[default]
    Refuse,
    /// They are allowed and remarked on.
    Warn,
}

/// The site's rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whether images must be signed.
    pub signed: SignedRule,
    /// The file that says whose signatures count; without one, nobody's do.
    pub signers: Option<PathBuf>,
    /// What becomes of new uses of a deprecated image.
    pub deprecated: DeprecatedRule,
}

/// Rules with the signers as they are now.
pub(crate) struct Judge<'a> {
    rules: &'a Rules,
    signers: Result<Signers, String>,
    now_ms: u64,
}

impl Rules {
    /// What is wrong with the signers' file, line by line; an error if it cannot be read at all.
    pub fn problems(&self) -> crate::Result<Vec<String>> {
        match &self.signers {
            Some(path) => Ok(Signers::read(path)?.problems),
            None => Ok(Vec::new()),
        }
    }

    /// Reads the signers.
    pub(crate) fn judge(&self) -> Judge<'_> {
        let signers = match &self.signers {
            Some(path) => Signers::read(path).map_err(|error| error.chain()),
            None => Err("the site names no signers (images.signers)".into()),
        };
        Judge {
            rules: self,
            signers,
            now_ms: clock::now_ms(),
        }
    }
}

impl Judge<'_> {
    /// How an image stands.
    pub(crate) fn standing(&self, image: &ImageInfo) -> Standing {
        let signatures: Vec<_> = image
            .endorsements
            .iter()
            .map(|endorsement| self.signature(image, endorsement))
            .collect();
        Standing {
            refused: self.refusal(image, &signatures, false),
            signed: signatures
                .iter()
                .any(|signature| signature.signer.is_some()),
            signature_required: self.rules.signed == SignedRule::Required,
            signatures,
        }
    }

    /// Lets an image be used, with what its user should know, or refuses it by a rule.
    /// `even_deprecated`: the asker said that it may be a deprecated one.
    pub(crate) fn admit(
        &self,
        image: &ImageInfo,
        even_deprecated: bool,
    ) -> Result<Option<String>, Refusal> {
        let signatures: Vec<_> = match self.rules.signed {
            SignedRule::Required => image
                .endorsements
                .iter()
                .map(|endorsement| self.signature(image, endorsement))
                .collect(),
            SignedRule::Optional => Vec::new(),
        };
        match self.refusal(image, &signatures, even_deprecated) {
            Some(refusal) => Err(refusal),
            None => Ok(deprecation(image)),
        }
    }

    fn refusal(
        &self,
        image: &ImageInfo,
        signatures: &[SignatureStanding],
        even_deprecated: bool,
    ) -> Option<Refusal> {
        if let Some(at_ms) = image
            .expires_ms
            .filter(|at_ms| is_over(*at_ms, self.now_ms))
        {
            let why = format!(
                "image {} expired at {}: use another, or have its owner run infall image expire {} --at TIME",
                called(image),
                shown(at_ms),
                name(image)
            );
            return Some(Refusal::new("images.expires", why));
        }
        if let Some(why) = deprecation(image)
            && self.rules.deprecated == DeprecatedRule::Refuse
            && !even_deprecated
        {
            let why = format!("{why}, or say --deprecated");
            return Some(Refusal::new("images.deprecated", why));
        }
        let required = self.rules.signed == SignedRule::Required;
        if required
            && signatures
                .iter()
                .all(|signature| signature.signer.is_none())
        {
            let found: Vec<String> = match (&self.signers, signatures) {
                (Err(why), _) => vec![why.clone()],
                (Ok(_), []) => vec!["it is not signed at all".into()],
                (Ok(_), signatures) => signatures
                    .iter()
                    .map(|signature| format!("{}: {}", signature.fingerprint, signature.why))
                    .collect(),
            };
            let why = format!(
                "image {} has no signature that counts here ({}): use another, or have a signer run infall image sign {}",
                called(image),
                found.join("; "),
                name(image)
            );
            return Some(Refusal::new("images.signed", why));
        }
        None
    }

    fn signature(&self, image: &ImageInfo, endorsement: &Endorsement) -> SignatureStanding {
        let mut standing = SignatureStanding {
            fingerprint: endorsement.fingerprint.clone(),
            signer: None,
            until_ms: None,
            why: String::new(),
        };
        match self.signer(image, endorsement, &mut standing.until_ms) {
            Ok(signer) => standing.signer = Some(signer),
            Err(why) => standing.why = why,
        }
        standing
    }

    /// All of it anew, from the bytes that were signed; the row is nobody's word.
    fn signer(
        &self,
        image: &ImageInfo,
        endorsement: &Endorsement,
        until_ms: &mut Option<u64>,
    ) -> Result<String, String> {
        let statement = Statement::parse(&endorsement.statement).map_err(|error| error.chain())?;
        *until_ms = statement.until_ms();
        if statement.image() != image.id {
            return Err(format!("it is over another image, {}", statement.image()));
        }
        let message = endorsement.statement.as_bytes();
        let signed =
            signature::verify(&endorsement.signature, message).map_err(|error| error.chain())?;
        if let Some(until_ms) = statement.until_ms().filter(|at| is_over(*at, self.now_ms)) {
            return Err(format!("it was valid until {}", shown(until_ms)));
        }
        let signers = self.signers.as_ref().map_err(Clone::clone)?;
        signers.find(&signed.key, self.now_ms).map(str::to_owned)
    }
}

/// What to say of a deprecated image.
fn deprecation(image: &ImageInfo) -> Option<String> {
    let deprecation = image.deprecated.as_ref()?;
    let instead = deprecation.replacement.as_deref().unwrap_or("another");
    Some(format!(
        "image {} is deprecated since {} ({}): use {instead}",
        called(image),
        shown(deprecation.since_ms),
        deprecation.why
    ))
}

fn name(image: &ImageInfo) -> &str {
    image.names.first().unwrap_or(&image.id)
}

fn called(image: &ImageInfo) -> String {
    let start = image.id.get(..12).unwrap_or(&image.id);
    format!("{} ({start}…)", name(image))
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let text = format!("rule {}: {}", refusal.rule, refusal.why);
        Self::new(Kind::Denied, Subject::Image, text)
    }
}
