//! The archives of pg_dump that begin with `PGDMP`: a table of contents, and in the custom format the
//! data behind it, in blocks whose lengths are told. So the end can be found without reading it all.

use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::{Dump, Effort, State};

/// Versions of the format that are known: PostgreSQL 8.4 to 18.
const KNOWN: std::ops::RangeInclusive<u8> = 11..=16;
/// Longest text that is kept.
const TEXT: u64 = 4096;
/// Parts of data that are passed over to find the end, when nobody asks for more.
const PARTS: u64 = 20_000;
/// Entries and parts after which it is asked whether to end early.
const BEAT: u64 = 256;
/// The largest number of entries that is believed.
const ENTRIES: u64 = 50_000_000;
/// Files that a table of contents may name, and bytes of a name.
const FILES: usize = 200_000;
const NAME: usize = 255;
/// Longest text that is passed over; PostgreSQL has none above this.
const PASSED: u64 = 1 << 30;

/// What the begin of an archive tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// The database that was dumped.
    pub database: String,
    /// The version of pg_dump.
    pub pg_dump: String,
    /// Files beside the table of contents, in the directory format.
    pub files: Vec<String>,
    /// Where the last data begin that have their place told.
    last: Option<u64>,
    /// Entries that have data.
    with_data: u64,
    /// Where the table of contents ends.
    end: u64,
    /// Bytes of a number.
    integer: u8,
}

/// Data of a table; the other kind is that of large objects.
const BLOCK_DATA: u64 = 1;
const BLOCK_OBJECTS: u64 = 3;
/// How the place of data is told: not at all, or there are none.
const PLACE_TOLD: u64 = 2;
const NO_DATA: u64 = 3;

impl Archive {
    /// Looks at an archive of the custom format. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be read, or the look is to end early.
    pub(super) fn look(
        file: &mut (impl Read + Seek),
        size: u64,
        effort: &Effort<'_>,
    ) -> io::Result<Dump> {
        let mut dump = Dump { kind: "custom".into(), ..Dump::default() };
        file.rewind()?;
        let mut reader = BufReader::new(file);
        let archive = match Self::contents(&mut reader, false, effort) {
            Ok(archive) => archive,
            Err(error) => {
                dump.state = odd(error, "its table of contents")?;
                return Ok(dump);
            }
        };
        dump.database.clone_from(&archive.database);
        dump.pg_dump.clone_from(&archive.pg_dump);
        // From the last known place the end is near; without one the whole way has to be gone.
        let from = if effort.verify { None } else { archive.last };
        let begin = from.unwrap_or(archive.end);
        if begin > size {
            dump.state = State::Broken("it ends in the middle".into());
            return Ok(dump);
        }
        reader.seek(SeekFrom::Start(begin))?;
        let input = Input { reader, at: begin, integer: archive.integer };
        let mut walk = Walk { input, size, parts: 0, effort };
        dump.state = match walk.blocks() {
            Ok(None) => State::Unknown("it was not followed to its end; --verify does".into()),
            Ok(Some(blocks)) if blocks < if from.is_some() { 1 } else { archive.with_data } => {
                State::Broken("it ends before the last of its data".into())
            }
            Ok(Some(_)) => State::Whole,
            Err(error) => odd(error, "its data")?,
        };
        Ok(dump)
    }

    /// Reads the table of contents of an archive; in the directory format it tells of files.
    ///
    /// # Errors
    /// When it ends too early, cannot be understood, or the reading is to end early.
    pub(super) fn contents(
        reader: &mut impl Read,
        directory: bool,
        effort: &Effort<'_>,
    ) -> io::Result<Self> {
        let mut begin = [0; 11];
        reader.read_exact(&mut begin)?;
        let [b'P', b'G', b'D', b'M', b'P', major, minor, _, integer, offset, _] = begin else {
            return Err(invalid("it does not begin with PGDMP"));
        };
        if major != 1 || !KNOWN.contains(&minor) {
            let what = format!("version {major}.{minor} of the format is not known");
            return Err(io::Error::new(ErrorKind::Unsupported, what));
        }
        if !(1..=8).contains(&integer) || !(1..=8).contains(&offset) {
            return Err(invalid("its numbers have no possible size"));
        }
        let mut input = Input { reader, at: 11, integer };
        match minor {
            15.. => drop(input.byte()?),
            _ => drop(input.number()?),
        }
        for _ in 0..7 {
            // When it was begun, in the local time of the host that dumped.
            input.number()?;
        }
        let mut archive = Self { integer, database: input.text()?, ..Self::default() };
        input.pass()?;
        archive.pg_dump = input.text()?;
        let version = archive.pg_dump.split(' ').next().unwrap_or_default().to_owned();
        archive.pg_dump = version;
        let entries = input.number()?;
        // pg_dump writes the encoding, at least.
        if entries == 0 {
            return Err(invalid("its table of contents is empty"));
        }
        if entries > ENTRIES {
            return Err(invalid("it has an impossible number of entries"));
        }
        for entry in 0..entries {
            if entry.is_multiple_of(BEAT) {
                effort.go_on()?;
            }
            archive.entry(&mut input, minor, offset, directory)?;
        }
        archive.end = input.at;
        Ok(archive)
    }

    fn entry(
        &mut self,
        input: &mut Input<impl Read>,
        minor: u8,
        offset: u8,
        directory: bool,
    ) -> io::Result<()> {
        // Its number, and whether it has data.
        input.number()?;
        input.number()?;
        // The catalogue's oid and its own, its name, its kind.
        for _ in 0..4 {
            input.pass()?;
        }
        // Its section.
        input.number()?;
        // Three statements, its schema, its tablespace.
        for _ in 0..5 {
            input.pass()?;
        }
        if minor >= 14 {
            input.pass()?;
        }
        if minor >= 16 {
            input.number()?;
        }
        // Its owner, and whether it had oids.
        input.pass()?;
        input.pass()?;
        // What it depends on.
        while input.pass()? {}
        if directory {
            let file = input.text()?;
            if file.len() > NAME {
                return Err(invalid("it names a file that cannot be there"));
            }
            if self.files.len() >= FILES {
                let what = format!("it names more than {FILES} files");
                return Err(io::Error::new(ErrorKind::Unsupported, what));
            }
            if !file.is_empty() {
                self.files.push(file);
            }
            return Ok(());
        }
        let told = input.byte()?;
        let place = input.bytes(offset)?;
        if told != NO_DATA {
            self.with_data += 1;
        }
        if told == PLACE_TOLD {
            self.last = self.last.max(Some(place));
        }
        Ok(())
    }
}

/// What is wrong with an archive; an error of the disk, or that it was cancelled, goes on.
fn odd(error: io::Error, what: &str) -> io::Result<State> {
    match error.kind() {
        ErrorKind::UnexpectedEof => Ok(State::Broken("it ends in the middle".into())),
        ErrorKind::InvalidData => Ok(State::Broken(format!("{what} cannot be read: {error}"))),
        ErrorKind::Unsupported => Ok(State::Unknown(error.to_string())),
        _ => Err(error),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// The begin of an archive, read piece by piece.
struct Input<R> {
    reader: R,
    at: u64,
    integer: u8,
}

impl<R: Read> Input<R> {
    fn byte(&mut self) -> io::Result<u64> {
        self.bytes(1)
    }

    /// The lowest byte first, at most eight.
    fn bytes(&mut self, count: u8) -> io::Result<u64> {
        let mut number = [0; 8];
        let length = usize::from(count).min(8);
        self.reader.read_exact(&mut number[..length])?;
        self.at += u64::from(count);
        Ok(u64::from_le_bytes(number))
    }

    /// A number after its sign; one below zero is none here.
    fn signed(&mut self) -> io::Result<Option<u64>> {
        let negative = self.byte()? != 0;
        let number = self.bytes(self.integer)?;
        Ok((!negative).then_some(number))
    }

    fn number(&mut self) -> io::Result<u64> {
        Ok(self.signed()?.unwrap_or(0))
    }

    /// Passes over a text; false when there is none.
    fn pass(&mut self) -> io::Result<bool> {
        let Some(length) = self.signed()? else { return Ok(false) };
        if length > PASSED {
            return Err(invalid("it has a text that is too long"));
        }
        let passed = io::copy(&mut (&mut self.reader).take(length), &mut io::sink())?;
        self.at += passed;
        match passed == length {
            true => Ok(true),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// A short text; empty when there is none.
    fn text(&mut self) -> io::Result<String> {
        let Some(length) = self.signed()? else { return Ok(String::new()) };
        if length > TEXT {
            return Err(invalid("it has a name that is too long"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A way from block to block.
struct Walk<'a, 'e, R: Read + Seek> {
    input: Input<BufReader<&'a mut R>>,
    size: u64,
    parts: u64,
    effort: &'a Effort<'e>,
}

impl<R: Read + Seek> Walk<'_, '_, R> {
    /// How many blocks there are up to the end; none when the way is too long.
    fn blocks(&mut self) -> io::Result<Option<u64>> {
        let mut blocks = 0;
        while self.input.at < self.size {
            let kind = self.input.byte()?;
            self.input.number()?;
            let all = match kind {
                BLOCK_DATA => self.data()?,
                BLOCK_OBJECTS => loop {
                    // Each large object after its number; a zero ends them.
                    if self.input.number()? == 0 {
                        break true;
                    }
                    if !self.data()? {
                        break false;
                    }
                },
                _ => return Err(invalid("a block is of a kind that does not exist")),
            };
            if !all {
                return Ok(None);
            }
            blocks += 1;
        }
        Ok(Some(blocks))
    }

    /// Passes over the parts of one block; false when they are too many.
    fn data(&mut self) -> io::Result<bool> {
        loop {
            self.parts += 1;
            if self.parts.is_multiple_of(BEAT) {
                self.effort.go_on()?;
            }
            if self.parts > PARTS && !self.effort.verify {
                return Ok(false);
            }
            let length = self.input.number()?;
            if length == 0 {
                return Ok(true);
            }
            let end = self.input.at.checked_add(length).filter(|end| *end <= self.size);
            self.input.at = end.ok_or(ErrorKind::UnexpectedEof)?;
            self.input.reader.seek_relative(i64::try_from(length).unwrap_or(i64::MAX))?;
        }
    }
}
