//! Refuses an init that would panic the guest's kernel: not ELF x86-64, or dynamically linked.

use std::path::Path;

use crate::{Error, files};

/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;
/// Program header type "path of the dynamic loader"; a static (also static-pie) binary has none.
const PT_INTERP: u32 = 3;

/// Checks that the binary at `path` runs without a dynamic loader.
pub fn check(path: &Path) -> Result<(), Error> {
    let bytes = files::read(path)?;
    let reason = match has_interpreter(&bytes) {
        Some(false) => return Ok(()),
        Some(true) => "it is dynamically linked",
        None => "it is not an x86-64 ELF program",
    };
    Err(Error::Envd { path: path.to_owned(), reason })
}

/// `None` when this is no ELF64 file of our machine. Offsets: ELF-64 object file format, figures 2 and 6.
fn has_interpreter(bytes: &[u8]) -> Option<bool> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if bytes.get(..5)? != b"\x7fELF\x02" || u16_at(18)? != EM_X86_64 {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        let kind = bytes.get(at..at.checked_add(4)?)?;
        if kind == PT_INTERP.to_le_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_dynamic_from_foreign() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(has_interpreter(&shell), Some(true));
        assert_eq!(has_interpreter(&shell[..60]), None);
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
    }
}
