//! A guest without an operating system: the smallest program whose memory tells whether a byte of it was lost.

use std::fs;
use std::io;
use std::path::Path;

/// Where the program is loaded and begins.
const ENTRY: u64 = 0x10_0000;
/// Rounds done, 8 bytes.
const COUNTER: usize = 0x40_0000;
/// Pages written in turn, each with the number of the round that wrote it last.
const PAGES: usize = 0x40_1000;
/// Their number; a page's own bytes are those at its beginning.
const PAGE_COUNT: u64 = 64;
const PAGE_BYTES: usize = 4096;

/// In 64-bit mode with the first gigabyte mapped to itself, as a VMM leaves it (x86 boot protocol, section 1.15).
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xbb, 0x00, 0x00, 0x40, 0x00,                   //        mov ebx, COUNTER
    0x48, 0x8b, 0x0b,                               // round: mov rcx, [rbx]
    0x89, 0xc8,                                     //        mov eax, ecx
    0x83, 0xe0, 0x3f,                               //        and eax, 63
    0xc1, 0xe0, 0x0c,                               //        shl eax, 12
    0x48, 0x8d, 0xbc, 0x03, 0x00, 0x10, 0x00, 0x00, //        lea rdi, [rbx + rax + 0x1000]
    0x48, 0x89, 0xca,                               //        mov rdx, rcx
    0x48, 0x83, 0xea, 0x3f,                         //        sub rdx, 63
    0x7f, 0x02,                                     //        jg  check
    0x31, 0xd2,                                     //        xor edx, edx
    0x48, 0x39, 0x17,                               // check: cmp [rdi], rdx     what the last visit wrote
    0x75, 0x2f,                                     //        jne bad
    0x48, 0xff, 0xc1,                               //        inc rcx
    0x48, 0x89, 0x0f,                               //        mov [rdi], rcx
    0x48, 0x89, 0x0b,                               //        mov [rbx], rcx
    0x66, 0xba, 0xf8, 0x03,                         //        mov dx, 0x3f8      the first serial port
    0xbe, 0x08, 0x00, 0x00, 0x00,                   //        mov esi, 8
    0xc1, 0xc1, 0x04,                               // digit: rol ecx, 4
    0x89, 0xc8,                                     //        mov eax, ecx
    0x83, 0xe0, 0x0f,                               //        and eax, 15
    0x04, 0x30,                                     //        add al, '0'        so ten is ':'
    0xee,                                           //        out dx, al
    0xff, 0xce,                                     //        dec esi
    0x75, 0xf1,                                     //        jnz digit
    0xb0, 0x0a,                                     //        mov al, '\n'
    0xee,                                           //        out dx, al
    0xb9, 0x20, 0x4e, 0x00, 0x00,                   //        mov ecx, 20000     some milliseconds
    0xff, 0xc9,                                     // wait:  dec ecx
    0x75, 0xfc,                                     //        jnz wait
    0xeb, 0xae,                                     //        jmp round
    0x66, 0xba, 0xf8, 0x03,                         // bad:   mov dx, 0x3f8
    0xb0, 0x58,                                     //        mov al, 'X'
    0xee,                                           //        out dx, al
    0xf4,                                           //        hlt
    0xeb, 0xf6,                                     //        jmp bad
];

/// Writes it as an ELF file with one segment (elf(5)).
pub fn write(path: &Path) -> io::Result<()> {
    const HEADERS: u64 = 64 + 56;
    let length = PROGRAM.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, EV_CURRENT
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [ENTRY, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    // No flags; sizes of this header and of the one program header there is; no sections.
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable, writable and executable
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [HEADERS, ENTRY, ENTRY, length, length, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(PROGRAM);
    fs::write(path, elf)
}

/// The round of the last whole line on its console; an error when it found a byte it had not written.
pub fn rounds_said(console: &str) -> Result<u64, String> {
    if console.contains('X') {
        return Err(format!("the guest lost memory; it said {console:?}"));
    }
    let whole = console.rfind('\n').map_or("", |end| &console[..end]);
    let line = whole.lines().rev().find(|line| line.len() == 8).unwrap_or("00000000");
    Ok(line.bytes().fold(0, |number, digit| number << 4 | u64::from(digit.wrapping_sub(b'0') & 15)))
}

/// The rounds a memory image has seen; an error unless every page is what it was after them.
pub fn rounds_in(memory: &[u8]) -> Result<u64, String> {
    let word = |at: usize| {
        let bytes = memory.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or("the image is too short")
    };
    let rounds = word(COUNTER)?;
    for index in 0..PAGE_COUNT {
        // The largest number up to `rounds` whose page this is; rounds count from one.
        let last = (1..=rounds).rev().take(64).find(|round| (round - 1) % PAGE_COUNT == index).unwrap_or(0);
        let found = word(PAGES + usize::try_from(index).unwrap_or_default() * PAGE_BYTES)?;
        // It may have been stopped between its two writes.
        let is_next = index == rounds % PAGE_COUNT && found == rounds + 1;
        if found != last && !is_next {
            return Err(format!("page {index} holds {found} instead of {last} after {rounds} rounds"));
        }
    }
    Ok(rounds)
}
