//! What machine a program was built for, read from its ELF header and, for 32-bit ARM, from its build attributes: the kernel starts an ARMv7
//! program on an ARMv6 board, where it dies by SIGILL without a word. elf(5), "Addenda to, and Errata in, the ABI for the Arm Architecture"

use std::fs::File;
use std::os::unix::fs::FileExt;

/// e_machine of 32-bit ARM.
const EM_ARM: u16 = 40;
/// e_machine of this program; 0, which is nothing's, where it is not listed.
const EM_OWN: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "arm") {
    EM_ARM
} else {
    0
};
/// sh_type of the section with ARM's build attributes.
const SHT_ARM_ATTRIBUTES: u32 = 0x7000_0003;
/// Section headers looked at: programs have some thirty.
const SECTIONS_MAX: u16 = 256;
/// Bytes of attributes looked at: compilers write less than a hundred.
const ATTRIBUTES_BYTES_MAX: usize = 4096;
/// Size of a section header in a 32-bit file.
const SECTION_BYTES: usize = 40;

/// What the header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    machine: u16,
    /// Version of the ARM architecture, where that is the machine and the file tells.
    arm_version: Option<u32>,
}

impl Built {
    /// `None` for what is no ELF file.
    pub fn of(head: &[u8], file: Option<&File>) -> Option<Self> {
        let header = Header::of(head)?;
        let arm_version = file
            .filter(|_| header.machine == EM_ARM)
            .and_then(|file| header.attributes(file))
            .and_then(|bytes| cpu_arch(&bytes))
            .and_then(version_of_cpu_arch);
        Some(Self {
            machine: header.machine,
            arm_version,
        })
    }

    /// As uname(1) would say it.
    pub fn machine(self) -> String {
        match (self.machine, self.arm_version) {
            (EM_ARM, Some(version)) => format!("armv{version}"),
            (EM_ARM, None) => "arm (32-bit)".to_owned(),
            (3, _) => "x86 (32-bit)".to_owned(),
            (8, _) => "mips".to_owned(),
            (20 | 21, _) => "powerpc".to_owned(),
            (22, _) => "s390x".to_owned(),
            (62, _) => "x86_64".to_owned(),
            (183, _) => "aarch64".to_owned(),
            (243, _) => "riscv".to_owned(),
            (258, _) => "loongarch".to_owned(),
            (other, _) => format!("ELF machine {other}"),
        }
    }

    /// Whether it is for another CPU than this program.
    pub fn is_foreign(self) -> bool {
        self.machine != EM_OWN
    }

    /// Whether this board (`uname -m`) would start the program only to see it die.
    pub fn is_too_new_for(self, machine: &str) -> bool {
        let board = machine.strip_prefix("armv").and_then(|rest| rest.get(..1));
        match (
            board.and_then(|digit| digit.parse::<u32>().ok()),
            self.arm_version,
        ) {
            (Some(board), Some(needed)) => self.machine == EM_ARM && needed > board,
            _ => false,
        }
    }
}

/// The part of the file's header that is looked at.
struct Header<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    machine: u16,
}

impl<'a> Header<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        /// Bytes of the shortest header, a 32-bit file's.
        const HEADER_BYTES: usize = 52;
        if !bytes.starts_with(b"\x7fELF") || bytes.len() < HEADER_BYTES {
            return None;
        }
        let mut header = Self {
            bytes,
            big_endian: bytes[5] == 2,
            machine: 0,
        };
        header.machine = header.half(bytes, 18)?;
        Some(header)
    }

    fn half(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    }

    fn word(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// Content of the build attributes' section of a little-endian 32-bit file.
    fn attributes(&self, file: &File) -> Option<Vec<u8>> {
        if self.bytes[4] != 1 || self.big_endian || usize::from(self.half(self.bytes, 46)?) != SECTION_BYTES {
            return None;
        }
        let (table, count) = (self.word(self.bytes, 32)?, self.half(self.bytes, 48)?);
        let mut section = [0; SECTION_BYTES];
        for index in 0..count.min(SECTIONS_MAX) {
            let at = u64::from(table) + u64::from(index) * SECTION_BYTES as u64;
            file.read_exact_at(&mut section, at).ok()?;
            if self.word(&section, 4)? == SHT_ARM_ATTRIBUTES {
                let (offset, size) = (self.word(&section, 16)?, self.word(&section, 20)?);
                let mut bytes = vec![0; (size as usize).min(ATTRIBUTES_BYTES_MAX)];
                file.read_exact_at(&mut bytes, offset.into()).ok()?;
                return Some(bytes);
            }
        }
        None
    }
}

/// Value of Tag_CPU_arch in the "aeabi" vendor's attributes of the whole file.
fn cpu_arch(section: &[u8]) -> Option<u32> {
    const TAG_FILE: u8 = 1;
    const TAG_CPU_ARCH: u32 = 6;
    // Version 'A', the vendor's length (4 bytes), its name, then a block: tag, length (4 bytes), attributes.
    let rest = section.strip_prefix(b"A")?.get(4..)?.strip_prefix(b"aeabi\0")?;
    let (tag, block) = rest.split_first()?;
    let length = u32::from_le_bytes(block.get(..4)?.try_into().ok()?) as usize;
    let mut rest = block.get(4..length.checked_sub(1)?.min(block.len()))?;
    if *tag != TAG_FILE {
        return None;
    }
    while !rest.is_empty() {
        let tag = uleb(&mut rest)?;
        match tag {
            TAG_CPU_ARCH => return uleb(&mut rest),
            // Tag_CPU_raw_name, Tag_CPU_name, and every odd tag above 32 are strings; Tag_compatibility is a number and a string.
            4 | 5 => skip_string(&mut rest)?,
            32 => {
                uleb(&mut rest)?;
                skip_string(&mut rest)?;
            }
            tag if tag > 32 && tag % 2 == 1 => skip_string(&mut rest)?,
            _ => {
                uleb(&mut rest)?;
            }
        }
    }
    None
}

fn version_of_cpu_arch(value: u32) -> Option<u32> {
    match value {
        1 | 2 => Some(4),
        3..=5 => Some(5),
        6..=9 | 11 | 12 => Some(6),
        10 | 13 => Some(7),
        14.. => Some(8),
        _ => None,
    }
}

/// A number in groups of seven bits, the lowest first (ULEB128).
fn uleb(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn skip_string(bytes: &mut &[u8]) -> Option<()> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    *bytes = &bytes[end + 1..];
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A 32-bit little-endian file whose only section has these attributes.
    fn arm(attributes: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x01\x01\x01".to_vec();
        file.resize(52, 0);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(18, &40_u16.to_le_bytes());
        put(32, &52_u32.to_le_bytes());
        put(46, &40_u16.to_le_bytes());
        put(48, &1_u16.to_le_bytes());
        let mut section = [0; 40];
        section[4..8].copy_from_slice(&SHT_ARM_ATTRIBUTES.to_le_bytes());
        section[16..20].copy_from_slice(&92_u32.to_le_bytes());
        section[20..24].copy_from_slice(&(attributes.len() as u32).to_le_bytes());
        file.extend(section);
        file.extend(attributes);
        file
    }

    fn attributes(pairs: &[u8]) -> Vec<u8> {
        let mut block = vec![1];
        block.extend((pairs.len() as u32 + 5).to_le_bytes());
        block.extend(pairs);
        let mut section = b"A".to_vec();
        section.extend((block.len() as u32 + 10).to_le_bytes());
        section.extend(b"aeabi\0");
        section.extend(block);
        section
    }

    fn built(bytes: &[u8]) -> Option<Built> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Built::of(&bytes[..bytes.len().min(256)], Some(&file))
    }

    #[test]
    fn arm_versions_come_from_the_build_attributes() {
        for (pairs, name, boards) in [
            (
                &b"\x05cortex-a7\0\x06\x0a\x08\x01"[..],
                "armv7",
                [true, false, false],
            ),
            (b"\x05arm1176\0\x06\x07", "armv6", [false, false, false]),
            (b"\x06\x0e", "armv8", [true, true, false]),
            (b"\x43name\0\x06\x04", "armv5", [false, false, false]),
            (b"\x20\x01gnu\0\x06\x09", "armv6", [false, false, false]),
            (b"", "arm (32-bit)", [false, false, false]),
            (b"\x06\xff\xff\xff\xff\xff", "arm (32-bit)", [false, false, false]),
        ] {
            let built = built(&arm(&attributes(pairs))).unwrap();
            assert_eq!(built.machine(), name);
            assert_eq!(
                ["armv6l", "armv7l", "aarch64"].map(|board| built.is_too_new_for(board)),
                boards,
                "{name}"
            );
        }
    }

    #[test]
    fn a_damaged_file_is_no_more_than_its_header() {
        let whole = arm(&attributes(b"\x06\x0a"));
        for cut in 0..whole.len() {
            let built = built(&whole[..cut]);
            assert_eq!(built.is_some(), cut >= 52, "{cut}");
            assert!(built.is_none_or(|built| built.arm_version.is_none()), "{cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            built(&bytes);
        }
    }

    #[test]
    fn machines_have_the_names_that_uname_prints() {
        let mut bytes = arm(&[]);
        for (number, name) in [
            (62, "x86_64"),
            (183, "aarch64"),
            (243, "riscv"),
            (7777, "ELF machine 7777"),
        ] {
            bytes[18..20].copy_from_slice(&u16::to_le_bytes(number));
            assert_eq!(built(&bytes).unwrap().machine(), name);
        }
        assert_eq!(built(b"#!/bin/sh"), None);
    }

    #[test]
    fn this_program_is_for_this_cpu_and_others_are_foreign() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(!built(&own).unwrap().is_foreign());
        let mut bytes = arm(&[]);
        bytes[18..20].copy_from_slice(&7777_u16.to_le_bytes());
        assert!(built(&bytes).unwrap().is_foreign());
    }
}
