//! An opened volume and the right to write it.

use super::Extent;
use crate::engine::{Engine, Head};
use crate::object::ReadAt;
use crate::{Error, Kind, Result, Subject};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who holds which volume's writer token: by volume name, the holder and how many writers of it.
#[derive(Default)]
pub(crate) struct Tokens {
    held: Mutex<HashMap<String, (String, usize)>>,
}

impl Tokens {
    fn held(&self) -> MutexGuard<'_, HashMap<String, (String, usize)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who writes a volume now.
    pub(crate) fn holder(&self, volume: &str) -> Option<String> {
        self.held().get(volume).map(|(holder, _)| holder.clone())
    }

    fn take(&self, volume: &str, holder: &str) -> Result<()> {
        let mut held = self.held();
        match held.get_mut(volume) {
            Some((known, count)) if known == holder => *count += 1,
            Some((known, _)) => {
                let text =
                    format!("volume {volume:?} is being written by {known}; detach it there first");
                return Err(Error::new(Kind::Conflict, Subject::Volume, text));
            }
            None => {
                held.insert(volume.into(), (holder.into(), 1));
            }
        }
        Ok(())
    }

    fn release(&self, volume: &str) {
        let mut held = self.held();
        if let Some((_, count)) = held.get_mut(volume) {
            *count -= 1;
            if *count == 0 {
                held.remove(volume);
            }
        }
    }
}

/// A volume opened; clones share it.
#[derive(Clone)]
pub struct Volume {
    pub(super) name: Arc<str>,
    pub(super) engine: Engine,
    pub(super) head: Head,
    pub(super) tokens: Arc<Tokens>,
}

impl Volume {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present length in bytes; it can change under a resize.
    pub fn length_bytes(&self) -> u64 {
        self.head.length_bytes()
    }

    /// Fills `buffer` from `offset`; [`Kind::Invalid`] past the end, never short.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.engine.read(&self.head, offset, buffer)
    }

    /// Allocation of `offset..offset+length`: adjoining runs in order, at most `max`. It covers less
    /// where `max` or the work for one call ran out, never nothing.
    pub fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        self.engine.extents(&self.head, offset, length, max)
    }

    /// The writer token: [`Kind::Conflict`] while another `holder` has it; the same holder shares it.
    /// Released when the last [`Writer`] of the holder is dropped.
    pub fn writer(&self, holder: &str) -> Result<Writer> {
        self.tokens.take(&self.name, holder)?;
        Ok(Writer {
            token: Arc::new(Token {
                volume: self.clone(),
            }),
        })
    }

    /// Everything answered before this call, to whomever, is on the device when it returns.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    /// Who holds the writer token now.
    pub fn holder(&self) -> Option<String> {
        self.tokens.holder(&self.name)
    }
}

impl ReadAt for Volume {
    fn length_bytes(&self) -> u64 {
        Self::length_bytes(self)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        Self::read_at(self, offset, buffer)
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        Self::extents(self, offset, length, max)
    }
}

struct Token {
    volume: Volume,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.volume.tokens.release(&self.volume.name);
    }
}

/// The right to write a volume.
#[derive(Clone)]
pub struct Writer {
    token: Arc<Token>,
}

impl Writer {
    /// Any offset and length; blocks that the edges cut are read, merged and written whole.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Volume { engine, head, .. } = &self.token.volume;
        engine.write_bytes(head, offset, bytes)
    }

    /// Makes the range read as zeroes and frees what lay under whole blocks (also serves TRIM).
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        let Volume { engine, head, .. } = &self.token.volume;
        engine.zero_bytes(head, offset, length)
    }

    /// Everything answered before this call is on the device when it returns.
    pub fn flush(&self) -> Result<()> {
        self.token.volume.flush()
    }
}
