//! What is pulled: images that are made up, the same every time, and the registry that has them.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Server, wait_for};
use crate::stand::free_address;

/// How long the registry may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Files of the many-file image: their mean is that of Debian's /usr, about 20 KiB.
const FILE_BYTES_MEAN: u64 = 20_000;

/// Parts of the many-file image, each a layer.
const PARTS: u64 = 10;

/// Bytes that compress to somewhat less than half, as programs do; the same for the same seed.
struct Filler(u64);

impl Filler {
    fn next(&mut self) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn write(&mut self, mut bytes: u64, out: &mut impl Write) -> std::io::Result<()> {
        let words: Vec<[u8; 16]> = (0..256)
            .map(|_| {
                u128::from(self.next())
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C)
                    .to_le_bytes()
            })
            .collect();
        let mut piece = Vec::with_capacity(64 << 10);
        while bytes > 0 {
            piece.clear();
            while piece.len() < (64 << 10) {
                let number = self.next();
                piece.extend(&words[(number & 255) as usize]);
                piece.extend(&number.to_le_bytes()[2..]);
            }
            let count = bytes.min(piece.len() as u64);
            out.write_all(&piece[..count as usize])?;
            bytes -= count;
        }
        Ok(())
    }
}

/// `bytes` in files of all sizes, in ten parts; of version 1 the last part is another than of version 0.
pub fn many_files(context: &Path, bytes: u64, version: u64) -> Result<String> {
    let mut lines = String::from("FROM scratch\n");
    for part in 0..PARTS {
        let mut filler = Filler(1 + part + if part == PARTS - 1 { 1000 * version } else { 0 });
        let mut left = bytes / PARTS;
        let mut number = 0;
        while left > 0 {
            let folder = context.join(format!("part-{part}/folder-{}", number / 50));
            std::fs::create_dir_all(&folder)?;
            // Many small ones and few large ones: twice the mean of a cube is half of the mean's.
            let part_of_max = (filler.next() % 1000) as f64 / 1000.0;
            let size = (4.0 * FILE_BYTES_MEAN as f64 * part_of_max.powi(3)) as u64 + 200;
            let size = size.min(left);
            let mut file = std::fs::File::create(folder.join(format!("file-{number}")))?;
            filler.write(size, &mut file)?;
            left -= size;
            number += 1;
        }
        lines += &format!("COPY part-{part} /part-{part}\n");
    }
    Ok(lines)
}

/// `bytes` in one file.
pub fn one_file(context: &Path, bytes: u64) -> Result<String> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(context.join("file"))?);
    Filler(7).write(bytes, &mut out)?;
    out.flush()?;
    Ok("FROM scratch\nCOPY file /file\n".into())
}

/// Debian's docker-registry.
pub struct Registry {
    pub address: String,
    _server: Server,
}

impl Registry {
    /// Starts it on loopback, with its data in the folder.
    pub fn start(folder: &Path) -> Result<Self> {
        let address = free_address()?;
        let config = folder.join("registry.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
                folder.join("registry").display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Server::start("docker-registry", &mut command)?;
        wait_for("docker-registry", READY_TIMEOUT, || {
            Ok(TcpStream::connect(&address).ok())
        })?;
        Ok(Self {
            address,
            _server: server,
        })
    }
}
