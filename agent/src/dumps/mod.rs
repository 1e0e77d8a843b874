//! Dumps of PostgreSQL databases: known by their first bytes, whatever they are called, and as far as
//! one can tell cheaply whether they are whole.
//!
//! - [`archive`]: the formats custom and directory, that begin with `PGDMP`
//! - [`frames`]: what is compressed with zstd
//!
//! A dump that is whole can still be one that nobody can restore. Only a restore proves it.

mod archive;
mod frames;

use std::{
    cell::Cell,
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom},
};

use flate2::read::MultiGzDecoder;

pub use self::{archive::Archive, frames::zstd};

/// Bytes at the begin and at the end that are looked at.
const EDGE: usize = 4096;
/// A compressed dump below this is read to its end even when nobody asks for it.
const SMALL: u64 = 1 << 20;
/// Bytes of a small one that are decompressed; beyond that it is not small.
const SMALL_INSIDE: u64 = 64 << 20;
/// Bytes of a file that are read when nobody asks for all of it.
const MOST: u64 = 256 << 20;
/// How plain dumps begin: of one database, and of a whole server.
const DATABASE: &str = "-- PostgreSQL database dump";
const CLUSTER: &str = "-- PostgreSQL database cluster dump";
/// Bytes that are decompressed at a time.
const BLOCK: usize = 256 << 10;

/// How a dump looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// "plain", "custom" or "tar", with what it is compressed with; empty when it is no dump.
    pub kind: String,
    /// Whether it is whole.
    pub state: State,
    /// The database that it is of, where it says so.
    pub database: String,
    /// Version of the pg_dump that wrote it, where it says so.
    pub pg_dump: String,
    /// It was read to its end.
    pub read: bool,
}

/// Whether a dump is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Its end is there.
    Whole,
    /// It cannot be restored, and why.
    Broken(String),
    /// Nobody can tell, and why.
    #[default]
    Untold,
    /// As that, with a reason.
    Unknown(String),
}

/// How far a look at a dump goes.
pub struct Effort<'a> {
    /// Everything is read, however large.
    pub verify: bool,
    /// Whether to end early; then it is an error of the kind [`ErrorKind::Interrupted`].
    pub stop: &'a dyn Fn() -> bool,
    /// Is told how many bytes more were read.
    pub progress: &'a dyn Fn(u64),
}

impl Effort<'_> {
    fn go_on(&self) -> io::Result<()> {
        match (self.stop)() {
            true => Err(cancelled()),
            false => Ok(()),
        }
    }

    /// How much of a file may be read.
    fn most(&self) -> u64 {
        if self.verify { u64::MAX } else { MOST }
    }
}

fn cancelled() -> io::Error {
    io::Error::new(ErrorKind::Interrupted, "it was cancelled")
}

fn too_much() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "too much of it would have to be read")
}

/// A file of which so much is read and no more, and that asks each time whether to end early:
/// whatever is in it, a look at it ends.
struct Bounded<'a, R> {
    inner: R,
    effort: &'a Effort<'a>,
    left: u64,
    /// Why it could not be read on. Whoever reads may pass that on as something else, and would read
    /// again after [`ErrorKind::Interrupted`].
    ended: &'a Cell<Option<io::Error>>,
}

impl<R> Bounded<'_, R> {
    fn end(&self, error: io::Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::Interrupted => ErrorKind::Other,
            kind => kind,
        };
        let told = io::Error::new(kind, error.to_string());
        self.ended.set(Some(error));
        told
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.effort.stop)() {
            return Err(self.end(cancelled()));
        }
        if self.left == 0 {
            return Err(self.end(too_much()));
        }
        match self.inner.read(buffer) {
            Ok(read) => {
                self.left = self.left.saturating_sub(read as u64);
                Ok(read)
            }
            // A signal came; it is read again.
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.end(error)),
        }
    }
}

impl<R: Seek> Seek for Bounded<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Looks at a dump in one file of that size. Blocks on the disk.
///
/// # Errors
/// When it cannot be read, or the look is to end early.
pub fn look(file: &mut (impl Read + Seek), size: u64, effort: &Effort<'_>) -> io::Result<Dump> {
    let ended = Cell::new(None);
    let mut file = Bounded { inner: file, effort, left: effort.most(), ended: &ended };
    let looked = whatever(&mut file, size, effort);
    match (ended.take(), looked) {
        (None, looked) => looked,
        // What was seen of it until then counts.
        (Some(error), Ok(dump)) if error.kind() == ErrorKind::Unsupported => {
            let more = if effort.verify { "" } else { "; --verify does" };
            Ok(Dump { state: State::Unknown(format!("{error}{more}")), read: false, ..dump })
        }
        (Some(error), _) => Err(error),
    }
}

/// A dump of whatever kind.
fn whatever(file: &mut (impl Read + Seek), size: u64, effort: &Effort<'_>) -> io::Result<Dump> {
    let head = first(file, EDGE)?;
    file.rewind()?;
    match &head[..] {
        [] => Ok(Dump { state: State::Broken("it is empty".into()), ..Dump::default() }),
        [0x1f, 0x8b, ..] => gzip(file, size, effort),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => frames::look(file, size, effort),
        _ => {
            let mut dump = bare(file, &head, size, effort)?;
            if effort.verify && !dump.kind.is_empty() {
                // A disk that lost a part of it says so only when that is read.
                file.rewind()?;
                through(Counted { inner: file, progress: effort.progress }, effort)?;
                dump.read = true;
            }
            Ok(dump)
        }
    }
}

/// Reads to the end.
fn through(mut source: impl Read, effort: &Effort<'_>) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        effort.go_on()?;
        if source.read(&mut block)? == 0 {
            return Ok(());
        }
    }
}

/// A dump that is not compressed as a whole.
fn bare(
    file: &mut (impl Read + Seek),
    head: &[u8],
    size: u64,
    effort: &Effort<'_>,
) -> io::Result<Dump> {
    let mut dump = known(head);
    match dump.kind.as_str() {
        "custom" => Archive::look(file, size, effort),
        "plain" => {
            file.seek(SeekFrom::Start(size.saturating_sub(EDGE as u64)))?;
            let end = first(file, EDGE)?;
            dump.state = ended(head, &end);
            Ok(dump)
        }
        "tar" => {
            file.seek(SeekFrom::Start(size.saturating_sub(1024)))?;
            let end = first(file, 1024)?;
            let whole =
                size.is_multiple_of(512) && end.len() == 1024 && end.iter().all(|b| *b == 0);
            dump.state = match whole {
                true => State::Whole,
                false => State::Broken("the end of the tar archive is missing".into()),
            };
            Ok(dump)
        }
        _ => Ok(dump),
    }
}

/// What begins like that, without whether it is whole.
fn known(head: &[u8]) -> Dump {
    let has = |text: &str| memchr::memmem::find(head, text.as_bytes()).is_some();
    let kind = match () {
        () if head.starts_with(b"PGDMP") => "custom",
        () if head.starts_with(b"toc.dat\0") && head.get(257..262) == Some(b"ustar") => "tar",
        () if has(DATABASE) || has(CLUSTER) => "plain",
        () => "",
    };
    let text = String::from_utf8_lossy(head);
    let word = |after: &str| {
        let rest = text.split_once(after).map_or("", |(_, rest)| rest);
        rest.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (pg_dump, database) = match kind {
        "plain" if !has(CLUSTER) => (word("-- Dumped by pg_dump version "), connected(&text)),
        _ => (String::new(), String::new()),
    };
    Dump { kind: kind.to_owned(), pg_dump, database, ..Dump::default() }
}

/// The database to which a dump with `--create` connects.
fn connected(text: &str) -> String {
    let lines = text.lines().filter_map(|l| l.strip_prefix("\\connect "));
    let name = lines.map(|l| l.trim().trim_matches('"')).find(|n| !n.starts_with('-'));
    name.unwrap_or_default().to_owned()
}

/// Whether the last bytes of a plain dump are its end.
fn ended(head: &[u8], end: &[u8]) -> State {
    let has = |bytes: &[u8], text: &str| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    let mark = match has(head, CLUSTER) {
        true => "-- PostgreSQL database cluster dump complete",
        false => "-- PostgreSQL database dump complete",
    };
    match has(end, mark) {
        true => State::Whole,
        false => State::Broken("its last line, that says that it is complete, is missing".into()),
    }
}

fn gzip(file: &mut impl Read, size: u64, effort: &Effort<'_>) -> io::Result<Dump> {
    let counted = Counted { inner: file, progress: effort.progress };
    let patient = effort.verify || size <= SMALL;
    packed(MultiGzDecoder::new(counted), "gzip", patient, effort)
}

/// Reads a file that is a part of a dump to its end, compressed as the ending of its name says.
///
/// # Errors
/// As [`look`].
pub fn part(
    file: &mut (impl Read + Seek),
    size: u64,
    name: &str,
    effort: &Effort<'_>,
) -> io::Result<State> {
    let ended = Cell::new(None);
    let mut file = Bounded { inner: file, effort, left: effort.most(), ended: &ended };
    let whole = |read: io::Result<()>| match read {
        Ok(()) => Ok(State::Whole),
        Err(error) => damaged(error).map(State::Broken),
    };
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let state = match ending {
        "lz4" => Ok(State::Unknown("what is compressed with lz4 cannot be read here".into())),
        "zst" => frames::part(&mut file, size, effort),
        "gz" => {
            let counted = Counted { inner: &mut file, progress: effort.progress };
            whole(through(MultiGzDecoder::new(counted), effort))
        }
        _ => whole(through(Counted { inner: &mut file, progress: effort.progress }, effort)),
    };
    ended.take().map_or(state, Err)
}

/// Reads the table of contents of a dump in the directory format.
///
/// # Errors
/// As [`look`], and when it cannot be understood: of the kind [`ErrorKind::Unsupported`], when that
/// does not mean that something is wrong with it.
pub fn contents(file: &mut impl Read, effort: &Effort<'_>) -> io::Result<Archive> {
    let ended = Cell::new(None);
    // All of it is kept in mind, whoever asks.
    let file = Bounded { inner: file, effort, left: MOST, ended: &ended };
    let contents = Archive::contents(&mut BufReader::new(file), true, effort);
    ended.take().map_or(contents, Err)
}

/// A dump behind a decompressor: its begin, and when `patient` all of it in bounded memory.
fn packed(
    mut inside: impl Read,
    with: &str,
    patient: bool,
    effort: &Effort<'_>,
) -> io::Result<Dump> {
    let broken = |kind: &str, state: String| Dump {
        kind: format!("{kind} {with}").trim_start().to_owned(),
        state: State::Broken(state),
        ..Dump::default()
    };
    let mut head = Vec::new();
    match (&mut inside).take(EDGE as u64).read_to_end(&mut head) {
        Ok(0) => {
            let state = "what is compressed in it is empty: the dump failed, and nobody noticed";
            return Ok(broken("", state.into()));
        }
        Ok(_) => {}
        Err(error) => return damaged(error).map(|why| broken(&known(&head).kind, why)),
    }
    let mut dump = known(&head);
    let kind = std::mem::take(&mut dump.kind);
    if kind.is_empty() && !patient {
        return Ok(dump);
    }
    dump.kind = format!("{kind} {with}").trim_start().to_owned();
    if !patient {
        dump.state = State::Unknown("it was not read to its end; --verify does".into());
        return Ok(dump);
    }
    let mut end = head.clone();
    let mut block = vec![0; BLOCK];
    let mut inner = head.len() as u64;
    loop {
        effort.go_on()?;
        match inside.read(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                inner += n as u64;
                end.extend_from_slice(&block[..n]);
                end.drain(..end.len().saturating_sub(EDGE));
            }
            Err(error) => {
                dump.state = State::Broken(damaged(error)?);
                return Ok(dump);
            }
        }
        if !effort.verify && inner > SMALL_INSIDE {
            dump.state = State::Unknown("it was not read to its end; --verify does".into());
            return Ok(dump);
        }
    }
    dump.read = true;
    dump.state = match kind.as_str() {
        "plain" => ended(&head, &end),
        "" => {
            dump.kind.clear();
            State::Untold
        }
        _ => State::Unknown(format!(
            "the {with} around it is whole; whether the dump in it is, only a restore tells"
        )),
    };
    Ok(dump)
}

/// What is wrong with compressed bytes; an error of the disk, or that it was cancelled, goes on.
fn damaged(error: io::Error) -> io::Result<String> {
    match error.kind() {
        ErrorKind::UnexpectedEof => Ok("it ends in the middle".into()),
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::Other => {
            Ok(format!("it cannot be decompressed: {error}"))
        }
        _ => Err(error),
    }
}

/// The first bytes of what is left of a file.
fn first(file: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A reader that tells how much of it was read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        (self.progress)(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
pub(crate) mod tests;
