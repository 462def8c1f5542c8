//! What a generation says about itself.
//!
//! `manifest.json` has two lines of JSON: the manifest and `{"sha256": …}` over the first line's bytes. The digest is
//! over bytes, not over a value, so that a reader of a later version, with other fields, still verifies it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::dirty::PAGE_BYTES;
use crate::limits::{COPY_BYTES, MEMORY_BYTES};

/// Version of the manifest and of the directory's layout.
pub const FORMAT: u32 = 1;

/// Contents of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version, [`FORMAT`].
    pub format: u32,
    /// This generation.
    pub id: Uuid,
    /// The one its memory began as a copy of; for people only, since memory files are complete.
    pub parent: Option<Uuid>,
    /// When it was committed, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Length of the memory file; 0 = there is none.
    pub memory_bytes: u64,
    /// What may load the device state; equal or unusable. Opaque here.
    pub compatibility: String,
    /// Facts of the owner's. Opaque here.
    pub labels: BTreeMap<String, String>,
    /// The device state; it comes with the memory.
    pub state: Option<StateFile>,
    /// Length of the disk file, when the generation has one.
    pub disk_bytes: Option<u64>,
    /// Extents written into this memory file and its ancestors since one was a full copy.
    pub fragments: u64,
    /// What was written over the parent's memory, ascending, each at most [`COPY_BYTES`] long.
    pub extents: Vec<Extent>,
}

/// The device state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Pages written when the generation was made: `[first page, pages, CRC-32 of their bytes]` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32)", into = "(u64, u64, u32)")]
pub struct Extent {
    /// First page.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// CRC-32 (IEEE) of their bytes.
    pub crc32: u32,
}

impl From<(u64, u64, u32)> for Extent {
    fn from((first, pages, crc32): (u64, u64, u32)) -> Self {
        Self { first, pages, crc32 }
    }
}

impl From<Extent> for (u64, u64, u32) {
    fn from(extent: Extent) -> Self {
        (extent.first, extent.pages, extent.crc32)
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Cut off or overwritten.
    #[error("the manifest is damaged: its checksum does not match")]
    Checksum,
    /// Written by a version that knows another layout.
    #[error("the manifest has format {0}, this program knows {FORMAT}")]
    Format(u32),
    /// Right checksum, wrong content: not written by this program.
    #[error("the manifest is not understood: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Right checksum, impossible content.
    #[error("the manifest contradicts itself: {0}")]
    Contradiction(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    sha256: String,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Manifest {
    /// The bytes of `manifest.json`.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = serde_json::to_vec(self)?;
        let trailer = Trailer { sha256: hex::encode(Sha256::digest(&bytes)) };
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &trailer)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads and checks the bytes of `manifest.json`.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
        let (Some(body), Some(trailer)) = (lines.next(), lines.next()) else {
            return Err(ManifestError::Checksum);
        };
        let trailer: Trailer = serde_json::from_slice(trailer).map_err(|_| ManifestError::Checksum)?;
        if trailer.sha256 != hex::encode(Sha256::digest(body)) {
            return Err(ManifestError::Checksum);
        }
        let Version { format } = serde_json::from_slice(body)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Self = serde_json::from_slice(body)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.memory_bytes > MEMORY_BYTES || !self.memory_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(ManifestError::Contradiction("impossible memory size"));
        }
        if self.state.is_some() != (self.memory_bytes > 0) {
            return Err(ManifestError::Contradiction("memory and device state go together"));
        }
        if self.state.is_none() && self.disk_bytes.is_none() {
            return Err(ManifestError::Contradiction("nothing in it"));
        }
        let mut end = 0;
        for extent in &self.extents {
            let next = extent.first.checked_add(extent.pages);
            let longest = COPY_BYTES as u64 / PAGE_BYTES;
            match next {
                Some(next) if extent.first >= end && (1..=longest).contains(&extent.pages) => end = next,
                _ => return Err(ManifestError::Contradiction("extents out of order")),
            }
        }
        if end > self.memory_bytes / PAGE_BYTES {
            return Err(ManifestError::Contradiction("extents beyond the memory"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        Manifest {
            format: FORMAT,
            id: Uuid::from_u128(1),
            parent: Some(Uuid::from_u128(2)),
            created_unix_ms: 1_700_000_000_000,
            memory_bytes: 1 << 20,
            compatibility: "x86_64/…".to_owned(),
            labels: BTreeMap::from([("template".to_owned(), "minimal".to_owned())]),
            state: Some(StateFile { bytes: 3, sha256: "00".repeat(32) }),
            disk_bytes: None,
            fragments: 2,
            extents: vec![Extent { first: 0, pages: 2, crc32: 1 }, Extent { first: 5, pages: 251, crc32: 2 }],
        }
    }

    #[test]
    fn round_trip() -> Result<(), ManifestError> {
        assert_eq!(Manifest::decode(&sample().encode()?)?, sample());
        Ok(())
    }

    #[test]
    fn impossible_contents_are_refused() -> Result<(), ManifestError> {
        let mut other_format = sample();
        other_format.format = 2;
        assert!(matches!(Manifest::decode(&other_format.encode()?), Err(ManifestError::Format(2))));
        let extent = |first, pages| Extent { first, pages, crc32: 0 };
        for extents in [
            vec![extent(0, 0)],
            vec![extent(5, 2), extent(6, 1)],
            vec![extent(255, 2)],
            vec![extent(u64::MAX, 2)],
            vec![extent(0, 600)],
        ] {
            let manifest = Manifest { extents, ..sample() };
            assert!(matches!(Manifest::decode(&manifest.encode()?), Err(ManifestError::Contradiction(_))));
        }
        for memory_bytes in [0, 4097, 1 << 41] {
            let manifest = Manifest { memory_bytes, ..sample() };
            assert!(Manifest::decode(&manifest.encode()?).is_err());
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(position in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = sample().encode().unwrap_or_default();
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
            // White space around the trailer carries no meaning.
            prop_assume!(position + 1 < bytes.len());
            prop_assert!(Manifest::decode(&bytes).is_err());
        }

        #[test]
        fn no_cut_goes_unnoticed(length in any::<prop::sample::Index>()) {
            let bytes = sample().encode().unwrap_or_default();
            prop_assert!(Manifest::decode(&bytes[..length.index(bytes.len() - 1)]).is_err());
        }
    }
}
