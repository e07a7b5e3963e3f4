//! The verbs that change how an image stands, and the one that lets it be used.

use super::signature;
use super::statement::Statement;
use super::{Deprecation, ENDORSEMENTS_MAX, Endorsement, Standing, is_over, shown};
use crate::catalog::Txn;
use crate::image::{ImageInfo, row};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};

/// Bytes of the reason of a deprecation.
const WHY_BYTES_MAX: usize = 500;

impl Store {
    /// How an image stands by the site's rules now.
    pub fn image_standing(&self, image: &ImageInfo) -> Standing {
        self.image_rules().judge().standing(image)
    }

    /// As [`Self::image_standing`] for each; the signers are read once.
    pub fn image_standings(&self, images: &[ImageInfo]) -> Vec<Standing> {
        let judge = self.image_rules().judge();
        images.iter().map(|image| judge.standing(image)).collect()
    }

    /// Says that an image should not be used any more, why, and what to use instead; said again, the
    /// new words stand and the day stays. What was made from the image stays as it is.
    pub fn image_deprecate(
        &self,
        who: &Who,
        name: &str,
        why: &str,
        replacement: Option<&str>,
    ) -> Result<ImageInfo> {
        let why = why.trim().to_owned();
        if why.is_empty() || why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
            let text = format!(
                "the reason of a deprecation is one line of 1 to {WHY_BYTES_MAX} bytes; this has {}",
                why.len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Image, text));
        }
        let replacement = replacement.map(str::to_owned);
        self.image_change(who, name, move |txn, image| {
            if let Some(other) = &replacement
                && row::find(txn, other)?.id == image.id
            {
                let text = format!("image {other:?} cannot replace itself: name another");
                return Err(Error::new(Kind::Invalid, Subject::Image, text));
            }
            let mut detail = why.clone();
            if let Some(other) = &replacement {
                detail = format!("{detail}; instead: {other}");
            }
            let before = image.deprecated.take();
            image.deprecated = Some(Deprecation {
                since_ms: before.map_or_else(clock::now_ms, |before| before.since_ms),
                why,
                replacement,
            });
            Ok(("image.deprecated", detail))
        })
    }

    /// Takes the deprecation back.
    pub fn image_undeprecate(&self, who: &Who, name: &str) -> Result<ImageInfo> {
        self.image_change(who, name, |_, image| match image.deprecated.take() {
            Some(before) => Ok(("image.undeprecated", format!("it was: {}", before.why))),
            None => {
                let text = format!("image {} is not deprecated", image.id);
                Err(Error::new(Kind::Conflict, Subject::Image, text))
            }
        })
    }

    /// Sets the time (milliseconds since the Unix epoch) from which on an image is not used any more;
    /// `None` takes it away.
    pub fn image_expire(&self, who: &Who, name: &str, at_ms: Option<u64>) -> Result<ImageInfo> {
        self.image_change(who, name, move |_, image| {
            image.expires_ms = at_ms;
            let detail = at_ms.map_or_else(|| "never".to_owned(), shown);
            Ok(("image.expires", detail))
        })
    }

    /// Keeps a signature over the image: `statement` is what was signed, `signature` what
    /// `ssh-keygen -Y sign` wrote. Invalid unless it holds, is over this image, and has not ended. Whose
    /// it is does not matter here, but where the image is used. A key has one signature on an image; a
    /// later one takes its place.
    pub fn image_endorse(
        &self,
        who: &Who,
        name: &str,
        statement: &str,
        signature: &str,
    ) -> Result<ImageInfo> {
        let said = Statement::parse(statement)?;
        let signed = signature::verify(signature, statement.as_bytes())?;
        let now_ms = clock::now_ms();
        if let Some(until_ms) = said
            .until_ms()
            .filter(|until_ms| is_over(*until_ms, now_ms))
        {
            let text = format!("the statement ended at {}", shown(until_ms));
            return Err(Error::new(Kind::Invalid, Subject::Image, text));
        }
        let endorsement = Endorsement {
            fingerprint: signed.fingerprint,
            statement: statement.to_owned(),
            signature: signature.trim_end().to_owned(),
            added_ms: now_ms,
            added_by: who.actor.clone(),
        };
        self.image_change(who, name, move |_, image| {
            if said.image() != image.id {
                let text = format!(
                    "the statement is about {}, not about {}: print the right one with infall image statement",
                    said.image(),
                    image.id
                );
                return Err(Error::new(Kind::Invalid, Subject::Image, text));
            }
            let detail = endorsement.fingerprint.clone();
            image
                .endorsements
                .retain(|other| other.fingerprint != endorsement.fingerprint);
            if image.endorsements.len() >= ENDORSEMENTS_MAX {
                let text = format!(
                    "image {} has {ENDORSEMENTS_MAX} signatures, the most there may be: remove one",
                    image.id
                );
                return Err(Error::new(Kind::Conflict, Subject::Image, text));
            }
            image.endorsements.push(endorsement);
            Ok(("image.endorsed", detail))
        })
    }

    /// Takes the signature of a key off an image.
    pub fn image_unendorse(&self, who: &Who, name: &str, fingerprint: &str) -> Result<ImageInfo> {
        let fingerprint = fingerprint.to_owned();
        self.image_change(who, name, move |_, image| {
            let before = image.endorsements.len();
            image
                .endorsements
                .retain(|endorsement| endorsement.fingerprint != fingerprint);
            if image.endorsements.len() == before {
                let text = format!("image {} has no signature by {fingerprint:?}", image.id);
                return Err(Error::new(Kind::NotFound, Subject::Identity, text));
            }
            Ok(("image.unendorsed", fingerprint))
        })
    }

    /// Changes the row of an image; what `change` returns is the event's kind and detail.
    fn image_change<F>(&self, who: &Who, name: &str, change: F) -> Result<ImageInfo>
    where
        F: FnOnce(&mut Txn<'_>, &mut ImageInfo) -> Result<(&'static str, String)> + Send + 'static,
    {
        let (who, name) = (who.clone(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            let mut image = row::find(txn, &name)?;
            let (kind, detail) = change(txn, &mut image)?;
            row::put(txn, &image)?;
            txn.journal(&who, Entry::new(kind, &image.id).detail(detail))?;
            Ok(image)
        })
    }

    /// Lets an image be used for `purpose`, with what its user should know; Denied by a rule that is
    /// named, and put on record. This is the only place that lets an image be used.
    pub(crate) fn image_admit(
        &self,
        who: &Who,
        image: &ImageInfo,
        even_deprecated: bool,
        purpose: &str,
    ) -> Result<Option<String>> {
        let judge = self.image_rules().judge();
        judge.admit(image, even_deprecated).map_err(|refusal| {
            let detail = format!("{purpose}: rule {}: {}", refusal.rule, refusal.why);
            let entry = Entry::new("image.refused", &image.id).detail(detail);
            match self.journal_append(who, entry) {
                Ok(_) => refusal.into(),
                // It is refused either way; that it is not on record has to be known.
                Err(error) => error.because(Error::from(refusal)),
            }
        })
    }
}
