//! Secrets at rest: XChaCha20-Poly1305 with a key that lies beside the data, not in it.

use crate::error::{StoreError, unreadable};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// First byte of everything sealed, should another cipher follow.
const VERSION: u8 = 1;
/// RFC draft-irtf-cfrg-xchacha: 192 bits, so that random nonces never meet.
const NONCE_BYTES: usize = 24;
/// Of the key file, in hex.
const KEY_DIGITS: usize = 64;

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("secret key {path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("secret key {0}: expected 64 hexadecimal digits")]
    Malformed(PathBuf),
    /// Others may read it.
    #[error("secret key {0}: readable by others; run `chmod 600` on it and replace what it protected")]
    Exposed(PathBuf),
}

/// Seals and opens secrets.
pub(crate) struct Seal(XChaCha20Poly1305);

impl Seal {
    /// With the key in this file, which is made with a random one when missing.
    pub(crate) fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let text = match File::open(path) {
            Ok(file) => read_key(file, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim_end(), &mut key).map_err(|_| KeyError::Malformed(path.to_owned()))?;
        Ok(Self(XChaCha20Poly1305::new(&Key::from(key))))
    }

    /// Seals a secret of a row. It opens only as the same field of the same row, so that sealed values cannot be
    /// swapped by whoever can write the database.
    pub(crate) fn seal(&self, field: &str, row: Uuid, secret: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let place = place(field, row);
        let payload = Payload { msg: secret, aad: &place };
        // It fails for messages over 256 GiB only.
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
        [&[VERSION][..], &nonce, &sealed].concat()
    }

    /// Opens what [`Seal::seal`] made.
    pub(crate) fn open(&self, field: &str, row: Uuid, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let place = place(field, row);
        let opened = sealed.split_first().and_then(|(&version, rest)| {
            let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>()?;
            let payload = Payload { msg: text, aad: &place };
            (version == VERSION).then(|| self.0.decrypt(&XNonce::from(*nonce), payload).ok())?
        });
        opened.ok_or_else(|| unreadable(field, "the secret key does not fit this database"))
    }
}

fn place(field: &str, row: Uuid) -> Vec<u8> {
    [field.as_bytes(), row.as_bytes()].concat()
}

fn read_key(file: File, path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    let mut text = String::with_capacity(KEY_DIGITS + 1);
    file.take(KEY_DIGITS as u64 + 2).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn make_key(path: &Path) -> io::Result<String> {
    let text = hex::encode(rand::random::<[u8; 32]>());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    // The name must last as long as what it will protect.
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn opens_only_unchanged_and_in_its_place(secret: Vec<u8>, at: prop::sample::Index) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("secret.key");
            let (row, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
            let sealed = Seal::load(&path).unwrap().seal("a", row, &secret);
            let seal = Seal::load(&path).unwrap();
            prop_assert_eq!(seal.open("a", row, &sealed).unwrap(), secret);
            prop_assert!(seal.open("a", other, &sealed).is_err());
            prop_assert!(seal.open("b", row, &sealed).is_err());
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1;
            prop_assert!(seal.open("a", row, &changed).is_err());
            prop_assert!(seal.open("a", row, &sealed[..at.index(sealed.len())]).is_err());
        }
    }

    #[test]
    fn bad_key_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let good = "0".repeat(64);
        write(&good, 0o644);
        assert!(matches!(Seal::load(&path), Err(KeyError::Exposed(_))));
        for text in ["", "xyz", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            write(text, 0o600);
            assert!(matches!(Seal::load(&path), Err(KeyError::Malformed(_))), "{text}");
        }
        write(&good, 0o600);
        assert!(Seal::load(&path).is_ok());
    }
}
