//! ADD of a local archive: what is in it goes into the image, as Docker has it. Plain and gzip-compressed tar; others are refused by name.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use super::copy::{self, Change, ITEMS_MAX, Items, join};
use super::layer::{Content, Item, ItemKind};
use crate::decompress::gunzip;
use crate::store::tree;
use crate::tar_stream::{EntryKind, Sequential, TarStream};
use crate::{Error, Result};

/// Bytes of all files of an archive: an end for what never ends, far beyond what an image for a board adds.
const UNPACKED_BYTES_MAX: u64 = 16 << 30;

/// Compressions that are not read here, by what they begin with.
const FOREIGN: [(&str, &[u8]); 3] = [
    ("bzip2", b"BZh"),
    ("xz", b"\xfd7zXZ\0"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
];

/// What a file turns out to be.
enum Form {
    /// To be copied as it is.
    File,
    Tar,
    TarGzip,
}

/// Takes an archive apart into items below `target`; false when the file is none. Contents go to `spool`.
pub fn unpack(
    mut file: File,
    name: &str,
    target: &str,
    change: Change,
    spool: &dyn Fn() -> Result<std::path::PathBuf>,
    items: &mut Items,
) -> Result<bool> {
    let form = form_of(&mut file, name)?;
    let mut unpacked: Box<dyn Read> = match form {
        Form::File => return Ok(false),
        Form::Tar => Box::new(file),
        Form::TarGzip => Box::new(gunzip(Box::new(file))),
    };
    let spool = spool()?;
    let mut archive = TarStream::new(Sequential(&mut *unpacked));
    let mut bytes = 0u64;
    while let Some(mut entry) = archive.next_entry()? {
        bytes = bytes.saturating_add(entry.size);
        if items.len() > ITEMS_MAX || bytes > UNPACKED_BYTES_MAX {
            return Err(Error::Limit {
                what: format!("the archive {name:?}"),
                limit: format!("{ITEMS_MAX} entries, {UNPACKED_BYTES_MAX} bytes"),
            }
            .into());
        }
        // tar(1) leaves the leading slash away as well.
        let slashes = entry.path.iter().take_while(|&&byte| byte == b'/').count();
        entry.path.drain(..slashes);
        let Some(path) = path_of(&entry.path)? else {
            continue;
        };
        let kind = match entry.kind {
            EntryKind::Directory => ItemKind::Folder,
            EntryKind::Symlink => ItemKind::Symlink(text_of(&entry.link)?),
            EntryKind::File => ItemKind::File(spooled(&mut archive, &spool.join(items.len().to_string()))?),
            EntryKind::HardLink => {
                let other = path_of(&entry.link)?.map(|path| join(target, &path));
                let other = other.and_then(|path| items.get(&path));
                let missing = || {
                    Box::new(Error::Entry {
                        entry: path.clone(),
                        why: "it is a hard link to what is not in the archive before it".into(),
                    })
                };
                other.ok_or_else(missing)?.kind.clone()
            }
            EntryKind::Fifo | EntryKind::Device => continue,
        };
        let item = Item {
            kind,
            mode: change.mode.unwrap_or(entry.mode & 0o7777),
            owner: change.owner.unwrap_or((entry.uid, entry.gid)),
        };
        copy::place(items, &path, join(target, &path), item)?;
    }
    Ok(true)
}

fn spooled(archive: &mut impl Read, path: &Path) -> Result<Content> {
    let mut file = File::create(path).map_err(Error::at("create", path))?;
    io::copy(archive, &mut file).map_err(Error::at("write", path))?;
    Ok(Content::Spooled(path.to_owned()))
}

fn path_of(name: &[u8]) -> Result<Option<String>> {
    let Some((parents, last)) = tree::split(name)? else {
        return Ok(None);
    };
    let parts = parents.iter().chain([&last]);
    let parts: Option<Vec<&str>> = parts.map(|part| part.to_str()).collect();
    parts
        .map(|parts| Some(parts.join("/")))
        .ok_or_else(|| not_utf8(name))
}

fn text_of(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| not_utf8(bytes))
}

fn not_utf8(name: &[u8]) -> Box<Error> {
    Error::Entry {
        entry: tree::shown(name),
        why: "its name is not UTF-8".into(),
    }
    .into()
}

fn form_of(file: &mut File, name: &str) -> Result<Form> {
    let failed = |error| Error::io("read", name, error);
    let head = head_of(&mut *file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    if let Some((kind, _)) = FOREIGN.iter().find(|(_, magic)| head.starts_with(magic)) {
        return Err(Error::Unsupported {
            what: format!("ADD of {name:?}, which is compressed with {kind},"),
            why: "unpack it first, or COPY it as it is".into(),
        }
        .into());
    }
    if is_tar(&head) {
        return Ok(Form::Tar);
    }
    if !head.starts_with(b"\x1f\x8b") {
        return Ok(Form::File);
    }
    // A file that is compressed and no archive is copied, and one that is broken too.
    let inside = head_of(&mut gunzip(Box::new(&mut *file))).unwrap_or_default();
    file.rewind().map_err(failed)?;
    Ok(if is_tar(&inside) {
        Form::TarGzip
    } else {
        Form::File
    })
}

fn head_of(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}
