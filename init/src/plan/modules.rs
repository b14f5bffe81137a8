//! The kernel modules of the initramfs: which are loaded at boot, which when a device asks, and in what order.
//!
//! `/lib/modules/index` is written by the image builder, one module a line, words between single spaces:
//! `NAME WHEN NEEDS ALIAS...` with WHEN `boot` or `demand`, NEEDS the names it needs between commas or `-`, and aliases as
//! modules.alias has them (`usb:v0403p6001d*`). The file of a module is `/lib/modules/NAME.ko`.

use std::collections::{BTreeMap, BTreeSet};

/// A module of the initramfs.
#[derive(Debug, PartialEq, Eq)]
struct Module<'a> {
    at_boot: bool,
    needs: Vec<&'a str>,
    aliases: Vec<&'a str>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Index<'a> {
    modules: BTreeMap<&'a str, Module<'a>>,
    /// In the order of the file.
    boot: Vec<&'a str>,
    /// Lines that make no sense, counted from 1.
    pub bad_lines: Vec<usize>,
}

/// Reads the index; a line that makes no sense costs its module only.
pub fn parse(text: &str) -> Index<'_> {
    let mut index = Index::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let mut words = line.split(' ');
        let (Some(name), Some(when @ ("boot" | "demand")), Some(needs)) =
            (words.next(), words.next(), words.next())
        else {
            index.bad_lines.push(number + 1);
            continue;
        };
        let needs = needs.split(',').filter(|need| *need != "-").collect();
        let module = Module {
            at_boot: when == "boot",
            needs,
            aliases: words.collect(),
        };
        if module.at_boot {
            index.boot.push(name);
        }
        index.modules.insert(name, module);
    }
    index
}

impl<'a> Index<'a> {
    /// What is loaded at boot, what each needs before it.
    pub fn at_boot(&self) -> Vec<&'a str> {
        self.ordered(self.boot.iter().copied())
    }

    /// What a device with this modalias needs.
    pub fn for_device(&self, modalias: &str) -> Vec<&'a str> {
        let matching = |(name, module): (&&'a str, &Module)| {
            let hit = module.aliases.iter().any(|alias| matches(alias, modalias));
            hit.then_some(*name)
        };
        self.ordered(self.modules.iter().filter_map(matching))
    }

    fn ordered(&self, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        names.for_each(|name| self.add(name, &mut order, &mut seen));
        order
    }

    /// Each name is gone into once, so that modules that need each other end too.
    fn add(&self, name: &'a str, order: &mut Vec<&'a str>, seen: &mut BTreeSet<&'a str>) {
        if !seen.insert(name) {
            return;
        }
        if let Some(module) = self.modules.get(name) {
            module.needs.iter().for_each(|need| self.add(need, order, seen));
        }
        order.push(name);
    }
}

/// Whether `text` is what `pattern` says; `*` stands for anything, `?` for one byte, `[` sets of bytes.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when a guess at the length of the last `*` was wrong.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let next = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => set_has(&pattern[p..], text[t]).map(|length| p + length),
            Some(byte) => (*byte == text[t]).then_some(p + 1),
            None => None,
        };
        match (next, star) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the set that `pattern` begins with when `byte` is in it.
fn set_has(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let set = &pattern[1..end];
    let mut at = 0;
    let mut found = false;
    while at < set.len() {
        if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    found.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "b boot c -\na boot b,c\nc demand - pci:v*d0001* usb:v0403p60[0-1]?d*\nd demand a of:N*T*Cx\nnonsense\ne boot\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let index = parse(TEXT);
        assert_eq!(index.at_boot(), ["c", "b", "a"]);
        assert_eq!(index.bad_lines, [5, 6]);
        assert_eq!(index.for_device("of:NfooT(null)Cx"), ["c", "b", "a", "d"]);
        assert!(index.for_device("acpi:PNP0C0F:").is_empty());
    }

    #[test]
    fn modules_that_need_each_other_end() {
        let index = parse("a boot b\nb boot a\n");
        assert_eq!(index.at_boot(), ["b", "a"]);
    }

    #[test]
    fn aliases_match_as_modprobe_matches_them() {
        for (pattern, text, want) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            ("usb:v0403p60[0-1]?d*", "usb:v0403p6001d0600dc00", true),
            ("usb:v0403p60[0-1]?d*", "usb:v0403p6021d0600dc00", false),
            ("*a*b*", "xaxxbx", true),
            ("*a*b", "xaxxbx", false),
            ("a", "", false),
            ("*", "", true),
            ("[", "x", false),
            ("[]", "x", false),
            ("a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_index_and_any_device_end(text: String, alias: String, device: String) {
            parse(&text).at_boot();
            parse(&text).for_device(&device);
            matches(&alias, &device);
        }
    }
}
