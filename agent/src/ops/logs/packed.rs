//! A log file as text, whatever it was compressed with: known by its first bytes, since what rotates
//! logs names them as it likes.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek},
    os::unix::fs::FileExt,
    path::Path,
};

use flate2::read::MultiGzDecoder;

use crate::{
    dumps,
    host::{Host, logs},
};

/// A file, decompressed where it has to be.
pub(super) enum Packed {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
    Zstd(Box<dyn Read + Send>),
    /// It cannot be read, and why; that is told once.
    Closed(Option<io::Error>),
}

impl Packed {
    /// Opens it, as far as the policy allows; what goes wrong is told to who reads.
    pub(super) fn open(host: &Host, path: &Path, stop: &dyn Fn() -> bool) -> Self {
        let opened = logs::open(host, path).map_err(|f| io::Error::other(f.message));
        opened
            .and_then(|(_, file)| Self::of(file, &path.to_string_lossy(), stop))
            .unwrap_or_else(|error| Self::Closed(Some(error)))
    }

    fn of(mut file: File, name: &str, stop: &dyn Fn() -> bool) -> io::Result<Self> {
        let mut head = [0; 6];
        let length = file.read_at(&mut head, 0)?;
        let foreign = |what: &str, with: &str| {
            let why = format!(
                "it is compressed with {what}, which is not read here; `{with} {name}` on the host \
                 shows it"
            );
            Err(io::Error::new(ErrorKind::Unsupported, why))
        };
        match &head[..length] {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(file)))),
            // Second: a frame that is to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let size = file.seek(io::SeekFrom::End(0))?;
                file.rewind()?;
                Ok(Self::Zstd(Box::new(dumps::zstd(file, size, stop)?)))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => foreign("xz", "xzcat"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => foreign("bzip2", "bzcat"),
            [0x04, 0x22, 0x4d, 0x18, ..] => foreign("lz4", "lz4cat"),
            _ => Ok(Self::Plain(file)),
        }
    }
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(inside) => inside.read(buffer),
            Self::Zstd(inside) => inside.read(buffer),
            Self::Closed(error) => error.take().map_or(Ok(0), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> Result<String, String> {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(bytes).expect("written");
        file.rewind().expect("rewound");
        let mut text = String::new();
        let mut packed = Packed::of(file, "/var/log/a", &|| false).map_err(|e| e.to_string())?;
        packed.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    #[test]
    fn what_is_compressed_is_known_by_its_bytes_and_read_to_its_end() {
        let gzip = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text.as_bytes()).expect("written");
            encoder.finish().expect("finished")
        };
        let zstd = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        assert_eq!(read(b"ERROR a\n"), Ok("ERROR a\n".into()));
        assert_eq!(read(b""), Ok(String::new()));
        assert_eq!(read(b"BZh5 is a word\n"), Ok("BZh5 is a word\n".into()));
        let twice = |one: Vec<u8>, two: Vec<u8>| [one, two].concat();
        assert_eq!(read(&twice(gzip("a\n"), gzip("b\n"))), Ok("a\nb\n".into()));
        assert_eq!(read(&twice(zstd("a\n"), zstd("b\n"))), Ok("a\nb\n".into()));
    }

    #[test]
    fn what_cannot_be_decompressed_says_with_what_it_is_read() {
        for (head, tool) in [
            (&b"\xfd7zXZ\0\0\x04"[..], "`xzcat /var/log/a`"),
            (b"BZh91AY&SY", "`bzcat /var/log/a`"),
            (b"\x04\x22\x4d\x18d@", "`lz4cat /var/log/a`"),
        ] {
            let said = read(head).expect_err(tool);
            assert!(said.contains(tool), "{said}");
        }
    }
}
