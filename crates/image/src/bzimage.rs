//! The uncompressed ELF kernel inside a bzImage.
//!
//! The setup header (Documentation/arch/x86/boot.rst, protocol 2.08 and later) says where the compressed payload
//! lies; the payload's magic says how it is packed. Its last four bytes are the unpacked size.

use crate::Error;
use std::io::Read;
use std::path::Path;

/// A kernel larger than this is no kernel; bounds what a broken payload may make us allocate.
const MAX_ELF_BYTES: u64 = 512 << 20;
/// Blocks of the legacy LZ4 frame unpack to at most this much.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
const LZ4_LEGACY_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Unpacks the ELF image of the bzImage `image`; `path` is for messages.
pub fn extract_elf(path: &Path, image: &[u8]) -> Result<Vec<u8>, Error> {
    let fail = |reason: String| Error::KernelImage { path: path.to_owned(), reason };
    let (packed, size) = payload(image).ok_or_else(|| fail("not a bzImage of boot protocol 2.08 or later".into()))?;
    let elf = match packed.get(..4) {
        Some(LZ4_LEGACY_MAGIC) => unpack_lz4_legacy(&packed[4..], size).map_err(fail)?,
        Some(ZSTD_MAGIC) => unpack_zstd(packed, size).map_err(|error| fail(error.to_string()))?,
        magic => {
            return Err(fail(format!("payload is neither LZ4 nor zstd (it starts with {magic:02x?})")));
        }
    };
    if elf.len() != size || !elf.starts_with(b"\x7fELF") {
        return Err(fail(format!("payload unpacks to {} bytes, not to an ELF file of {size}", elf.len())));
    }
    Ok(elf)
}

/// The packed bytes and the size they unpack to.
fn payload(image: &[u8]) -> Option<(&[u8], usize)> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    if image.get(0x202..0x206)? != b"HdrS" || version < 0x208 {
        return None;
    }
    let setup_sectors = match image.get(0x1f1)? {
        0 => 4,
        &count => usize::from(count),
    };
    let start = (setup_sectors + 1) * 512 + usize::try_from(u32_at(0x248)?).ok()?;
    let end = start.checked_add(usize::try_from(u32_at(0x24c)?).ok()?)?;
    let (packed, size) = image.get(start..end)?.split_last_chunk::<4>()?;
    let size = u32::from_le_bytes(*size);
    (u64::from(size) <= MAX_ELF_BYTES).then_some((packed, usize::try_from(size).ok()?))
}

/// Legacy LZ4 frame: blocks, each with its packed length in front, until the end.
fn unpack_lz4_legacy(mut blocks: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut elf = Vec::with_capacity(size);
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).ok_or("an LZ4 block is cut short")?;
        let unpacked = lz4_flex::block::decompress(block, LZ4_BLOCK_BYTES).map_err(|error| error.to_string())?;
        if elf.len() + unpacked.len() > size {
            return Err("the payload is longer than its header says".into());
        }
        elf.extend_from_slice(&unpacked);
        blocks = &rest[length..];
    }
    Ok(elf)
}

fn unpack_zstd(packed: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
    let mut elf = Vec::with_capacity(size);
    zstd::Decoder::new(packed)?.single_frame().take(MAX_ELF_BYTES).read_to_end(&mut elf)?;
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector and the payload right after it.
    fn image(packed: &[u8], size: u32) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(packed.len() + 4).unwrap().to_le_bytes());
        image.extend_from_slice(packed);
        image.extend_from_slice(&size.to_le_bytes());
        image
    }

    fn lz4(elf: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY_MAGIC.to_vec();
        for chunk in elf.chunks(LZ4_BLOCK_BYTES) {
            let block = lz4_flex::block::compress(chunk);
            packed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend_from_slice(&block);
        }
        packed
    }

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF".to_vec();
        elf.extend((0..9_000_000_u32).flat_map(|i| (i / 7).to_le_bytes().into_iter().take(1)));
        elf
    }

    #[test]
    fn unpacks_both_formats() {
        let elf = elf();
        let size = u32::try_from(elf.len()).unwrap();
        let zstd = zstd::encode_all(&elf[..], 1).unwrap();
        for packed in [lz4(&elf), zstd] {
            assert!(extract_elf(Path::new("k"), &image(&packed, size)).unwrap() == elf);
        }
    }

    #[test]
    fn refuses_broken_images_without_panicking() {
        let elf = elf();
        let whole = image(&lz4(&elf), u32::try_from(elf.len()).unwrap());
        let wrong_size = image(&lz4(&elf), 77);
        let unknown = image(b"\x1f\x8b\x08\x00rest", 10);
        for broken in [&whole[..300], &whole[..1100], &whole[..whole.len() - 9], &wrong_size, &unknown, &[]] {
            assert!(matches!(extract_elf(Path::new("k"), broken), Err(Error::KernelImage { .. })));
        }
    }
}
