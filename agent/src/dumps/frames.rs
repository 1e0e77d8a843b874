//! Dumps that are compressed with zstd. Whether its frames are whole the headers of their blocks tell,
//! without decompressing anything; what is in them, only decompressing does.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Seek},
};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::{Counted, Dump, Effort, SMALL, State, damaged, packed, through};

/// Largest window that is taken: more memory for one dump is not worth it, and the agent's is bounded.
const WINDOW: u64 = 32 << 20;
/// Blocks after which it is asked whether to end early.
const BEAT: u64 = 1024;
/// Bytes that are read at a time where only headers are looked at, which lie far from each other.
const HEADER: usize = 64;

pub(super) fn look(
    file: &mut (impl Read + Seek),
    size: u64,
    effort: &Effort<'_>,
) -> io::Result<Dump> {
    let patient = effort.verify || size <= SMALL;
    match open(file, size, effort)? {
        Ok(inside) => packed(inside, "zstd", patient, effort),
        Err(state) => Ok(Dump { kind: "zstd".into(), state, ..Dump::default() }),
    }
}

/// Reads a part of a dump to its end.
pub(super) fn part(
    file: &mut (impl Read + Seek),
    size: u64,
    effort: &Effort<'_>,
) -> io::Result<State> {
    match open(file, size, effort)? {
        Ok(inside) => match through(inside, effort) {
            Ok(()) => Ok(State::Whole),
            Err(error) => damaged(error).map(State::Broken),
        },
        Err(state) => Ok(state),
    }
}

/// What is in a file, decompressed.
type Content<'a, R> = Inside<Counted<'a, BufReader<&'a mut R>>>;

/// Opens the frames, after a way along their headers; or says why that is not possible.
fn open<'a, R: Read + Seek>(
    file: &'a mut R,
    size: u64,
    effort: &'a Effort<'_>,
) -> io::Result<Result<Content<'a, R>, State>> {
    let frames = match walk(file, size, effort) {
        Ok(frames) => frames,
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::UnexpectedEof => "it ends in the middle".to_owned(),
                ErrorKind::InvalidData => format!("its zstd frames cannot be read: {error}"),
                ErrorKind::Unsupported => return Ok(Err(State::Unknown(error.to_string()))),
                _ => return Err(error),
            };
            return Ok(Err(State::Broken(why)));
        }
    };
    file.rewind()?;
    if frames.window > WINDOW {
        let why = format!("it would take {} MiB to decompress it", frames.window >> 20);
        return Ok(Err(State::Unknown(why)));
    }
    let source = Counted { inner: BufReader::new(file), progress: effort.progress };
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    Ok(Ok(Inside { source, decoder, left: frames.count, begun: false }))
}

/// What zstd compressed, decompressed, from the beginning of a file of that size to its end.
///
/// # Errors
/// When its frames are no frames, or take too much memory.
pub fn zstd(
    mut file: File,
    size: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<impl Read + Send + use<>> {
    let effort = Effort { verify: true, stop, progress: &|_| () };
    let frames = walk(&mut file, size, &effort)?;
    file.rewind()?;
    if frames.window > WINDOW {
        let why = format!("it would take {} MiB to decompress it", frames.window >> 20);
        return Err(io::Error::new(ErrorKind::Unsupported, why));
    }
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    Ok(Inside { source: BufReader::new(file), decoder, left: frames.count, begun: false })
}

/// What the headers tell.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    /// Frames that hold something.
    count: u64,
    /// Largest window of one.
    window: u64,
}

/// Goes from header to header to the end (RFC 8878, 3.1.1).
fn walk(file: &mut (impl Read + Seek), size: u64, effort: &Effort<'_>) -> io::Result<Frames> {
    let mut file = BufReader::with_capacity(HEADER, file);
    let mut frames = Frames::default();
    let (mut at, mut blocks) = (0_u64, 0_u64);
    let odd = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    while at < size {
        let magic = number(&mut file, 4, &mut at)?;
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let length = number(&mut file, 4, &mut at)?;
            skip(&mut file, length, &mut at, size)?;
            continue;
        }
        if magic != 0xfd2f_b528 {
            return Err(odd("what follows a frame is none"));
        }
        frames.count += 1;
        let descriptor = number(&mut file, 1, &mut at)?;
        let single = descriptor & 0x20 != 0;
        if !single {
            let window = number(&mut file, 1, &mut at)?;
            let base = 1_u64 << (10 + (window >> 3));
            frames.window = frames.window.max(base + (base >> 3) * (window & 7));
        }
        skip(&mut file, [0, 1, 2, 4][(descriptor & 3) as usize], &mut at, size)?;
        let length = match descriptor >> 6 {
            0 => u64::from(single),
            flag => 1 << flag,
        };
        let content = number(&mut file, length, &mut at)?;
        if single {
            frames.window = frames.window.max(content);
        }
        loop {
            blocks += 1;
            if blocks.is_multiple_of(BEAT) {
                effort.go_on()?;
            }
            let header = number(&mut file, 3, &mut at)?;
            let length = match header >> 1 & 3 {
                1 => 1,
                3 => return Err(odd("a block is of a kind that does not exist")),
                _ => header >> 3,
            };
            skip(&mut file, length, &mut at, size)?;
            if header & 1 == 1 {
                break;
            }
        }
        skip(&mut file, if descriptor & 4 != 0 { 4 } else { 0 }, &mut at, size)?;
    }
    Ok(frames)
}

/// A number of up to eight bytes, the lowest first.
fn number(file: &mut impl Read, bytes: u64, at: &mut u64) -> io::Result<u64> {
    let mut number = [0; 8];
    let length = usize::try_from(bytes).unwrap_or(8).min(8);
    file.read_exact(&mut number[..length])?;
    *at += bytes;
    Ok(u64::from_le_bytes(number))
}

fn skip<R: Read + Seek>(
    file: &mut BufReader<R>,
    bytes: u64,
    at: &mut u64,
    size: u64,
) -> io::Result<()> {
    *at += bytes;
    if *at > size {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    file.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// What is in all frames, one after the other.
struct Inside<R> {
    source: R,
    decoder: FrameDecoder,
    /// Frames that are not begun.
    left: u64,
    begun: bool,
}

impl<R: Read> Inside<R> {
    /// Begins the next frame; false after the last.
    fn begin(&mut self) -> io::Result<bool> {
        while self.left > 0 {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.left -= 1;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: Read> Read for Inside<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.begun && !self.begin()? {
                return Ok(0);
            }
            self.begun = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            self.begun = false;
            let (told, seen) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if told.is_some() && told != seen {
                return Err(io::Error::new(ErrorKind::InvalidData, "its checksum is another"));
            }
        }
    }
}
