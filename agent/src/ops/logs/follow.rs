//! One log file that is followed across rotation and truncation.
//!
//! It is looked at in intervals: that sees what inotify misses on network file systems, and costs
//! one `stat` for as long as somebody reads.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

use hostler_proto::wire::Failure;

use super::backwards::LINE;
use crate::host::{Host, logs};

/// Most that is read of one file before the others have their turn.
const TURN: usize = 256 * 1024;

/// A file that is followed by its path.
#[derive(Debug)]
pub(super) struct Followed {
    /// The path as it was asked for.
    pub path: PathBuf,
    file: File,
    id: Id,
    /// Everything before was given out.
    offset: u64,
    /// A line whose end is not yet written.
    part: Vec<u8>,
    /// How often the file was replaced or cut.
    pub rotations: u32,
}

/// Device and inode: what a file stays when it is renamed, for as long as somebody has it open.
pub(super) type Id = (u64, u64);

/// What a file is, by whatever name.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn id(file: &File) -> io::Result<Id> {
    let seen = file.metadata()?;
    Ok((seen.dev(), seen.ino()))
}

/// A file that was followed, by whatever name it has now, and how far.
#[derive(Debug)]
pub(super) struct Left {
    pub id: Id,
    /// It stays open, so that no other file becomes the same.
    file: File,
    offset: u64,
}

/// What a look at the file brought.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whole lines, each with where the next one begins.
    pub lines: Vec<(u64, Vec<u8>)>,
    /// There may be more at once.
    pub more: bool,
    /// The file that has its path now, when that is another one and all of this one was given out.
    pub next: Option<(File, Id)>,
}

impl Followed {
    /// Follows an open file from an offset on.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub(super) fn new(path: PathBuf, file: File, offset: u64) -> io::Result<Self> {
        let id = id(&file)?;
        Ok(Self { path, file, id, offset, part: Vec::new(), rotations: 0 })
    }

    /// Goes on with a file that was followed before, under the path that it has now.
    pub(super) fn again(path: PathBuf, left: Left) -> Self {
        let Left { id, file, offset } = left;
        Self { path, file, id, offset, part: Vec::new(), rotations: 0 }
    }

    /// Which file it is.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    /// The length that was last seen.
    pub(super) fn length(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    /// Where a cursor of this file points to.
    pub(super) fn cursor(&self, offset: u64) -> String {
        format!("{}:{offset}", self.id.1)
    }

    /// What is new. Blocks on the disk.
    ///
    /// # Errors
    /// When it can no longer be read.
    pub(super) fn look(&mut self, host: &Host) -> Result<News, Failure> {
        let mut news = News::default();
        self.cut().and_then(|()| self.read(&mut news)).map_err(|e| {
            let message = format!("{} cannot be read: {e}", self.path.display());
            Failure::new(hostler_proto::wire::ErrorCode::HostFault, message)
        })?;
        // The old file is read to its end before the new one begins.
        if !news.more && news.lines.is_empty() {
            // Between the two steps of a rotation there is no file.
            if let Ok((_, file)) = logs::open(host, &self.path)
                && let Ok(now) = id(&file)
                && now != self.id
            {
                news.next = Some((file, now));
            }
        }
        Ok(news)
    }

    /// Takes the file that has its path now, from its beginning or from where it was left; gives the one
    /// that it leaves, and a line of that whose end was never written.
    pub(super) fn turn(
        &mut self,
        (file, id): (File, Id),
        known: Option<Left>,
    ) -> (Left, Option<(u64, Vec<u8>)>) {
        let part = (!self.part.is_empty()).then(|| (self.offset, std::mem::take(&mut self.part)));
        let offset = known.map_or(0, |left| left.offset);
        let left = Left {
            id: std::mem::replace(&mut self.id, id),
            file: std::mem::replace(&mut self.file, file),
            offset: std::mem::replace(&mut self.offset, offset),
        };
        self.rotations += 1;
        (left, part)
    }

    /// A file that became shorter begins anew.
    fn cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.offset {
            self.rotations += 1;
            self.offset = 0;
            self.part.clear();
        }
        Ok(())
    }

    fn read(&mut self, news: &mut News) -> io::Result<()> {
        let mut block = vec![0; TURN];
        let size = self.file.read_at(&mut block, self.offset)?;
        news.more = size == TURN;
        for piece in block[..size].split_inclusive(|b| *b == b'\n') {
            self.offset += piece.len() as u64;
            let room = LINE.saturating_sub(self.part.len());
            match piece.split_last() {
                Some((b'\n', text)) => {
                    self.part.extend_from_slice(&text[..text.len().min(room)]);
                    news.lines.push((self.offset, std::mem::take(&mut self.part)));
                }
                _ => self.part.extend_from_slice(&piece[..piece.len().min(room)]),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path};

    use super::*;

    struct Log {
        _dir: tempfile::TempDir,
        path: PathBuf,
        host: Host,
        followed: Followed,
    }

    impl Log {
        fn new(content: &str) -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().canonicalize().expect("real").join("a.log");
            fs::write(&path, content).expect("written");
            let host = Host::showing(dir.path());
            let file = File::open(&path).expect("open");
            let followed =
                Followed::new(path.clone(), file, content.len() as u64).expect("followed");
            Self { _dir: dir, path, host, followed }
        }

        fn lines(&mut self) -> Vec<String> {
            let mut all = Vec::new();
            loop {
                let mut news = self.followed.look(&self.host).expect("look");
                if let Some(next) = news.next.take() {
                    news.lines.extend(self.followed.turn(next, None).1);
                    news.more = true;
                }
                let text = |l: (u64, Vec<u8>)| String::from_utf8(l.1).expect("text");
                let nothing = news.lines.is_empty();
                all.extend(news.lines.into_iter().map(text));
                if nothing && !news.more {
                    return all;
                }
            }
        }
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn a_line_is_given_out_when_its_end_is_written() {
        let mut log = Log::new("old\n");
        assert!(log.lines().is_empty());
        append(&log.path, "ne");
        assert!(log.lines().is_empty());
        append(&log.path, "w\nnext\n");
        assert_eq!(log.lines(), ["new", "next"]);
    }

    #[test]
    fn no_line_is_lost_or_given_twice_across_a_rotation() {
        let mut log = Log::new("");
        append(&log.path, "1\n2\n");
        let old = log.path.with_extension("1");
        fs::rename(&log.path, &old).expect("rotated");
        append(&old, "3\n4 without end");
        assert_eq!(log.lines(), ["1", "2", "3"]);
        append(&log.path, "5\n");
        assert_eq!(log.lines(), ["4 without end", "5"]);
        assert_eq!(log.followed.rotations, 1);
    }

    #[test]
    fn a_file_that_is_cut_begins_anew() {
        let mut log = Log::new("a long first line\n");
        fs::write(&log.path, "").expect("cut");
        append(&log.path, "new\n");
        assert_eq!(log.lines(), ["new"]);
        assert_eq!(log.followed.rotations, 1);
    }
}
