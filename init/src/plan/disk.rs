//! What the first bytes of a disk or partition tell: file systems, an MBR, nothing. No byte here is trusted.

/// So much of a partition is looked at.
pub const PROBE_BYTES: usize = 64 * 1024;

/// Label of the partition that holds images and containers.
pub const DATA_LABEL: &str = "punnet-data";
/// Label of the FAT partition with kernel, settings and enrolment file.
pub const BOOT_LABEL: &str = "PUNNET";

const SECTOR_BYTES: u64 = 512;
/// Where an ext4 superblock begins (Linux `Documentation/filesystems/ext4/super.rst`).
const SUPERBLOCK: usize = 1024;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
/// Of s_state.
const EXT4_ERROR_FS: u8 = 2;

/// What is on a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// ext2, 3 or 4.
    Ext4 {
        /// Volume name.
        label: String,
        /// Bytes it takes up.
        bytes: u64,
        /// Bytes of a block.
        block_bytes: u64,
        /// The kernel has found errors in it, and nobody has mended them since.
        has_errors: bool,
    },
    /// FAT16 or FAT32.
    Fat {
        /// Volume name.
        label: String,
    },
    /// Zeros only.
    Blank,
    /// Something else, which is not ours to overwrite.
    Other,
}

/// Tells what the first [`PROBE_BYTES`] of a partition are.
pub fn identify(head: &[u8]) -> Content {
    ext4(head).or_else(|| fat(head)).unwrap_or_else(|| {
        if head.len() >= PROBE_BYTES && head.iter().all(|byte| *byte == 0) {
            Content::Blank
        } else {
            Content::Other
        }
    })
}

fn ext4(head: &[u8]) -> Option<Content> {
    let superblock = head.get(SUPERBLOCK..SUPERBLOCK + 1024)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| superblock[at + byte]));
    if superblock[56..58] != EXT4_MAGIC {
        return None;
    }
    // s_log_block_size: 1 KiB to 64 KiB; s_blocks_count_hi only counts with the 64bit feature.
    let block_bytes = 1024_u64.checked_shl(word(24)).filter(|bytes| *bytes <= 65536)?;
    let is_64bit = word(96) & 0x80 != 0;
    let high = if is_64bit { u64::from(word(336)) } else { 0 };
    let blocks = high << 32 | u64::from(word(4));
    Some(Content::Ext4 {
        label: text(&superblock[120..136]),
        bytes: blocks.checked_mul(block_bytes)?,
        block_bytes,
        has_errors: superblock[58] & EXT4_ERROR_FS != 0,
    })
}

fn fat(head: &[u8]) -> Option<Content> {
    let sector = head.get(..512)?;
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let label = match (&sector[54..59], &sector[82..87]) {
        (b"FAT12" | b"FAT16", _) => &sector[43..54],
        (_, b"FAT32") => &sector[71..82],
        _ => return None,
    };
    Some(Content::Fat { label: text(label) })
}

/// A label ends at the first zero, or before spaces.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

/// An entry of an MBR's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// 1 to 4.
    pub number: usize,
    /// Type: 0x83 is Linux, 0x0c FAT32.
    pub kind: u8,
    /// First sector of 512 bytes.
    pub first: u64,
    /// Sectors.
    pub count: u64,
}

/// The primary partitions of an MBR; `None` when the sector is none.
pub fn mbr(sector: &[u8]) -> Option<Vec<Partition>> {
    if sector.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let entry = |number: usize| {
        let at = 446 + 16 * (number - 1);
        let word = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|byte| sector[at + byte])));
        let (kind, first, count) = (sector[at + 4], word(at + 8), word(at + 12));
        (kind != 0 && count != 0).then_some(Partition {
            number,
            kind,
            first,
            count,
        })
    };
    Some((1..=4).filter_map(entry).collect())
}

/// The least by which a partition is made larger: growing for a few sectors is a write for nothing.
const GROW_BYTES_MIN: u64 = 16 << 20;

/// The same first sector with partition `number` reaching to the disk's end; `None` when it does so already, when another one lies
/// behind it, or when this is no MBR.
pub fn grown(sector: &[u8], number: usize, disk_bytes: u64) -> Option<Vec<u8>> {
    let partitions = mbr(sector)?;
    let own = partitions
        .iter()
        .find(|partition| partition.number == number && partition.kind == 0x83)?;
    let is_last = partitions.iter().all(|other| other.first <= own.first);
    // A 32-bit count of sectors ends at 2 TiB.
    let count = (disk_bytes / SECTOR_BYTES)
        .checked_sub(own.first)?
        .min(u64::from(u32::MAX));
    if !is_last || count < own.count + GROW_BYTES_MIN / SECTOR_BYTES {
        return None;
    }
    let mut new = sector.to_vec();
    let at = 446 + 16 * (number - 1) + 12;
    new[at..at + 4].copy_from_slice(&u32::try_from(count).ok()?.to_le_bytes());
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ext4_head(label: &[u8], log_block: u32, blocks: u32) -> Vec<u8> {
        let mut head = vec![0; PROBE_BYTES];
        head[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&blocks.to_le_bytes());
        head[SUPERBLOCK + 24..SUPERBLOCK + 28].copy_from_slice(&log_block.to_le_bytes());
        head[SUPERBLOCK + 56..SUPERBLOCK + 58].copy_from_slice(&EXT4_MAGIC);
        head[SUPERBLOCK + 120..SUPERBLOCK + 120 + label.len()].copy_from_slice(label);
        head
    }

    #[test]
    fn file_systems_are_told_by_their_superblocks() {
        let ext4 = Content::Ext4 {
            label: "punnet-data".into(),
            bytes: 40 << 20,
            block_bytes: 4096,
            has_errors: false,
        };
        let mut head = ext4_head(b"punnet-data", 2, 10240);
        assert_eq!(identify(&head), ext4);
        head[SUPERBLOCK + 58] = 1 | EXT4_ERROR_FS;
        assert!(matches!(identify(&head), Content::Ext4 { has_errors: true, .. }));
        assert_eq!(
            identify(&ext4_head(b"x", 31, 1)),
            Content::Other,
            "absurd block size"
        );
        let mut fat = vec![0; PROBE_BYTES];
        fat[510..512].copy_from_slice(&[0x55, 0xaa]);
        fat[71..90].copy_from_slice(b"PUNNET     FAT32   ");
        assert_eq!(
            identify(&fat),
            Content::Fat {
                label: "PUNNET".into()
            }
        );
        assert_eq!(identify(&vec![0; PROBE_BYTES]), Content::Blank);
        assert_eq!(
            identify(&[0; 512]),
            Content::Other,
            "too little was read to call it blank"
        );
        let mut other = vec![0; PROBE_BYTES];
        other[9000] = 1;
        assert_eq!(identify(&other), Content::Other);
    }

    fn table(entries: &[(usize, u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for (number, kind, first, count) in entries {
            let at = 446 + 16 * (number - 1);
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        sector
    }

    #[test]
    fn the_last_linux_partition_grows_to_the_end_of_the_disk() {
        let before = table(&[(1, 0x0c, 8192, 65536), (2, 0x83, 73728, 65536)]);
        let after = grown(&before, 2, 1 << 30).unwrap();
        let own = mbr(&after).unwrap()[1];
        assert_eq!((own.first, own.first + own.count), (73728, (1 << 30) / 512));
        assert_eq!(grown(&after, 2, 1 << 30), None, "it has grown already");
        assert_eq!(grown(&before, 1, 1 << 30), None, "not the FAT");
        assert_eq!(
            grown(&before, 2, 1 << 20),
            None,
            "a disk smaller than its table says"
        );
        let followed = table(&[(2, 0x83, 8192, 65536), (3, 0x83, 73728, 65536)]);
        assert_eq!(grown(&followed, 2, 1 << 30), None, "another one lies behind it");
        assert_eq!(grown(&[0; 512], 2, 1 << 30), None);
        assert_eq!(grown(&before, 2, u64::MAX).map(|sector| sector.len()), Some(512));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(head: Vec<u8>, number in 1_usize..=4, bytes: u64) {
            identify(&head);
            grown(&head, number, bytes);
        }
    }
}
