//! What config.txt says of the boot slots: the folder that `os_prefix` names is the one that the firmware starts from.
//!
//! tryboot.txt is the same file with the other slot in it. To keep a slot, one byte of config.txt changes, in its first sector: a power
//! cut leaves the old one or the new one.

use punnet_boards::slots::Slot;

/// What a card writes at once.
const SECTOR_BYTES: usize = 512;
const KEY: &[u8] = b"os_prefix=";

/// Where the slot's letter is in config.txt, and which it is; `None` when the file names no slot in its first sector.
pub fn named(config: &[u8]) -> Option<(usize, Slot)> {
    let head = &config[..config.len().min(SECTOR_BYTES)];
    let starts_line = |at: usize| at == 0 || head[at - 1] == b'\n';
    let key = (0..head.len()).find(|&at| starts_line(at) && head[at..].starts_with(KEY))?;
    let at = key + KEY.len();
    let end = head[at..].iter().position(u8::is_ascii_whitespace)? + at;
    let folder = std::str::from_utf8(&head[at..end]).ok()?.strip_suffix('/')?;
    Some((at, Slot::named(folder)?))
}

/// The same file for another slot.
pub fn with(config: &[u8], slot: Slot) -> Option<Vec<u8>> {
    let (at, _) = named(config)?;
    let mut new = config.to_vec();
    new[at] = slot.name().as_bytes()[0];
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_names_the_slot() {
        let config = b"# os_prefix=x/\nos_prefix=a/\nkernel=kernel\n";
        assert_eq!(named(config), Some((25, Slot::A)));
        let other = with(config, Slot::B).unwrap();
        assert_eq!(named(&other), Some((25, Slot::B)));
        assert_eq!(config.iter().zip(&other).filter(|(a, b)| a != b).count(), 1);
    }

    #[test]
    fn a_file_without_a_slot_in_its_first_sector_is_not_taken() {
        let far = [vec![b'#'; 600], b"\nos_prefix=a/\n".to_vec()].concat();
        for config in [
            &b""[..],
            b"os_prefix=",
            b"os_prefix=a/",
            b"os_prefix=c/\n",
            b"os_prefix=ab\n",
            &far,
        ] {
            assert_eq!(named(config), None, "{config:?}");
        }
    }
}
