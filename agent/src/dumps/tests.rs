use std::io::{Cursor, Write as _};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

const PLAIN: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n\
                     -- Dumped from database version 17.2\n-- Dumped by pg_dump version 17.2\n\n";
const END: &str = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n";

fn with(bytes: &[u8], verify: bool) -> Dump {
    let effort = Effort { verify, stop: &|| false, progress: &|_| {} };
    look(&mut Cursor::new(bytes), bytes.len() as u64, &effort).expect("read")
}

fn quick() -> Effort<'static> {
    Effort { verify: false, stop: &|| false, progress: &|_| {} }
}

fn of(bytes: &[u8]) -> Dump {
    with(bytes, false)
}

fn plain(rows: usize) -> Vec<u8> {
    let rows: String = (0..rows).map(|n| format!("{n}\t{}\n", n * 7919)).collect();
    [PLAIN, "COPY public.a (b, c) FROM stdin;\n", &rows, "\\.\n\n", END].concat().into_bytes()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(content).expect("compressed");
    gzip.finish().expect("compressed")
}

fn zstd(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

fn broken(dump: &Dump) -> bool {
    matches!(dump.state, State::Broken(_))
}

/// Archives as pg_dump writes them, put together by hand.
#[derive(Clone, Copy)]
struct Maker {
    minor: u8,
    places: bool,
    directory: bool,
}

impl Maker {
    fn number(out: &mut Vec<u8>, number: i64) {
        out.push(u8::from(number < 0));
        out.extend(u32::try_from(number.abs()).expect("small").to_le_bytes());
    }

    fn text(out: &mut Vec<u8>, text: Option<&str>) {
        Self::number(out, text.map_or(-1, |t| i64::try_from(t.len()).expect("small")));
        out.extend(text.unwrap_or_default().bytes());
    }

    /// The table of contents; each name is that of a file, or has data at a place.
    fn contents(self, entries: &[(&str, Option<u64>)]) -> Vec<u8> {
        let mut out = b"PGDMP".to_vec();
        out.extend([1, self.minor, 0, 4, 8, 1]);
        if self.minor >= 15 {
            out.push(1);
        } else {
            Self::number(&mut out, -1);
        }
        for _ in 0..7 {
            Self::number(&mut out, 11);
        }
        Self::text(&mut out, Some("app"));
        Self::text(&mut out, Some("15.18 (Debian)"));
        Self::text(&mut out, Some("15.18 (Debian)"));
        Self::number(&mut out, i64::try_from(entries.len()).expect("small"));
        for (name, place) in entries {
            Self::number(&mut out, 7);
            Self::number(&mut out, i64::from(place.is_some()));
            for text in ["1259", "16384", name, "TABLE DATA"] {
                Self::text(&mut out, Some(text));
            }
            Self::number(&mut out, 3);
            for text in [Some(""), None, Some("COPY"), Some("public"), Some("")] {
                Self::text(&mut out, text);
            }
            if self.minor >= 14 {
                Self::text(&mut out, Some("heap"));
            }
            if self.minor >= 16 {
                Self::number(&mut out, 114);
            }
            Self::text(&mut out, Some("me"));
            Self::text(&mut out, Some("false"));
            Self::text(&mut out, Some("200"));
            Self::text(&mut out, None);
            if self.directory {
                Self::text(&mut out, Some(name));
                continue;
            }
            let place = place.map(|p| (p, if self.places { 2 } else { 1 }));
            let (place, told) = place.unwrap_or((0, 3));
            out.push(told);
            out.extend((if self.places { place } else { 0 }).to_le_bytes());
        }
        out
    }

    fn archive(self, blocks: &[Vec<&[u8]>]) -> Vec<u8> {
        let entries = |places: &[u64]| {
            let mut entries = vec![("ENCODING", None)];
            entries.extend(places.iter().map(|p| ("t", Some(*p))));
            entries
        };
        let begin = self.contents(&entries(&vec![0; blocks.len()])).len();
        let mut data = Vec::new();
        let mut places = Vec::new();
        for block in blocks {
            places.push((begin + data.len()) as u64);
            data.push(1);
            Self::number(&mut data, 7);
            for part in block {
                Self::number(&mut data, i64::try_from(part.len()).expect("small"));
                data.extend(*part);
            }
            Self::number(&mut data, 0);
        }
        [self.contents(&entries(&places)), data].concat()
    }
}

/// The table of contents of a dump in the directory format.
pub(crate) fn contents(files: &[&str]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|f| (*f, None)).collect();
    Maker { minor: 14, places: false, directory: true }.contents(&files)
}

#[test]
fn a_plain_dump_is_whole_with_its_last_line() {
    let whole = of(&plain(10_000));
    assert_eq!((whole.kind.as_str(), whole.pg_dump.as_str()), ("plain", "17.2"));
    assert_eq!(whole.state, State::Whole);
    let bytes = plain(10_000);
    assert!(broken(&of(&bytes[..bytes.len() / 2])));
    assert!(broken(&of(b"")));
    let text = of(b"how to restore these");
    assert_eq!((text.kind.as_str(), text.state), ("", State::Untold));
    // A dump of a whole server holds the last lines of its databases' dumps.
    let cluster = ["--\n-- PostgreSQL database cluster dump\n--\n", PLAIN, END].concat();
    assert!(broken(&of(cluster.as_bytes())));
    let done = cluster + "--\n-- PostgreSQL database cluster dump complete\n--\n";
    assert_eq!(of(done.as_bytes()).state, State::Whole);
}

#[test]
fn small_compressed_dumps_are_read_and_large_ones_when_asked() {
    for (kind, pack) in
        [("plain gzip", gzip as fn(&[u8]) -> Vec<u8>), ("plain zstd", zstd as fn(&[u8]) -> Vec<u8>)]
    {
        let bytes = pack(&plain(1000));
        let whole = of(&bytes);
        assert_eq!((whole.kind.as_str(), whole.read), (kind, true));
        assert_eq!(whole.state, State::Whole);
        for cut in [bytes.len() / 2, bytes.len() - 1, 30] {
            assert!(broken(&of(&bytes[..cut])), "{kind} up to {cut}");
        }
        // The pipe was closed in the middle: what is compressed is not whole.
        assert!(broken(&of(&pack(&plain(1000)[..5000]))), "{kind}");
        assert!(broken(&of(&pack(b""))), "{kind} of nothing");
        let other = of(&pack(b"-- dump"));
        assert_eq!((other.kind.as_str(), other.state), ("", State::Untold));
    }
    let large = gzip(&plain(2_000_000));
    assert!(large.len() as u64 > SMALL);
    let seen = of(&large);
    assert_eq!((seen.kind.as_str(), seen.read), ("plain gzip", false));
    assert!(matches!(seen.state, State::Unknown(_)));
    assert_eq!(with(&large, true).state, State::Whole);
    assert!(broken(&with(&large[..large.len() - 100], true)));
    let mut flipped = large;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    assert!(broken(&with(&flipped, true)));
}

#[test]
fn the_frames_of_zstd_tell_where_it_was_cut_without_reading_it() {
    let mut rows = plain(400_000);
    let (one, two) = (zstd(&rows), zstd(END.as_bytes()));
    rows.extend_from_slice(END.as_bytes());
    // Several frames, and one to be skipped between them.
    let bytes = [&one[..], &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &two[..]].concat();
    assert_eq!(with(&bytes, true).state, State::Whole);
    assert!(broken(&of(&bytes[..one.len() - 5])));
    let seen = of(&bytes[..bytes.len() - 1]);
    assert!(broken(&seen), "{seen:?}");
    let mut flipped = bytes;
    flipped[one.len() / 2] ^= 1;
    assert!(!matches!(with(&flipped, true).state, State::Whole));
}

#[test]
fn an_archive_is_whole_when_its_last_block_ends_where_the_file_ends() {
    for minor in 11..=16 {
        for places in [true, false] {
            let maker = Maker { minor, places, directory: false };
            let bytes = maker.archive(&[vec![b"abc", b"defgh"], vec![], vec![&[7; 3000]]]);
            let dump = of(&bytes);
            assert_eq!(dump.state, State::Whole, "1.{minor} {places}");
            assert_eq!((dump.database.as_str(), dump.pg_dump.as_str()), ("app", "15.18"));
            for cut in 11..bytes.len() {
                assert!(broken(&of(&bytes[..cut])), "1.{minor} {places} up to {cut}");
                assert!(broken(&with(&bytes[..cut], true)));
            }
        }
    }
    let maker = Maker { minor: 14, places: true, directory: false };
    assert_eq!(of(&maker.archive(&[])).state, State::Whole, "no tables");
    let newer = Maker { minor: 17, ..maker }.archive(&[]);
    assert!(matches!(of(&newer).state, State::Unknown(_)));
    let packed = of(&gzip(&maker.archive(&[vec![b"abc"]])));
    assert_eq!(packed.kind, "custom gzip");
    assert!(matches!(packed.state, State::Unknown(_)));
}

#[test]
fn a_tar_archive_ends_with_two_empty_blocks() {
    let mut bytes = vec![0; 2048];
    bytes[..7].copy_from_slice(b"toc.dat");
    bytes[257..262].copy_from_slice(b"ustar");
    assert_eq!((of(&bytes).kind.as_str(), of(&bytes).state), ("tar", State::Whole));
    bytes[2000] = 1;
    assert!(broken(&of(&bytes)));
}

#[test]
fn a_look_that_is_cancelled_ends_and_is_not_taken_for_a_broken_dump() {
    let bytes = gzip(&plain(100_000));
    let effort = Effort { verify: true, stop: &|| true, progress: &|_| {} };
    let ended = look(&mut Cursor::new(&bytes), bytes.len() as u64, &effort).expect_err("ended");
    assert_eq!(ended.kind(), ErrorKind::Interrupted);
}

#[test]
fn a_file_of_nothing_but_empty_members_or_frames_can_be_cancelled() {
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(1 << 17);
    for bytes in [gzip(b"").repeat(1 << 16), [zstd(b"x"), skipped].concat()] {
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 20
        };
        let effort = Effort { verify: true, stop: &stop, progress: &|_| {} };
        let ended = look(&mut Cursor::new(&bytes), bytes.len() as u64, &effort);
        assert_eq!(ended.expect_err("ended").kind(), ErrorKind::Interrupted);
        assert!(asked.get() < 30, "{}", asked.get());
    }
}

#[test]
fn what_would_be_read_without_end_is_not() {
    let (effort, ended) = (quick(), Cell::new(None));
    let mut file = Bounded { inner: io::repeat(0), effort: &effort, left: 100, ended: &ended };
    let bounded = file.read_to_end(&mut Vec::new()).expect_err("bounded");
    assert_eq!(bounded.kind(), ErrorKind::Unsupported);
    assert_eq!(ended.take().map(|e| e.kind()), Some(ErrorKind::Unsupported));
    let mut long = Maker { minor: 14, places: true, directory: false }.contents(&[]);
    // The length of the second text.
    long[60..64].fill(0xff);
    let State::Broken(why) = of(&long).state else { panic!("not broken") };
    assert!(why.contains("too long"), "{why}");
}

#[test]
fn a_part_is_read_as_the_ending_of_its_name_says() {
    let read = |name: &str, bytes: &[u8]| {
        part(&mut Cursor::new(bytes), bytes.len() as u64, name, &quick()).expect("read")
    };
    assert_eq!(read("1.dat", b"1"), State::Whole);
    for (name, bytes) in [("1.dat.gz", gzip(b"1\n")), ("1.dat.zst", zstd(b"1\n"))] {
        assert_eq!(read(name, &bytes), State::Whole, "{name}");
        assert!(matches!(read(name, &bytes[..bytes.len() - 1]), State::Broken(_)), "{name}");
    }
    assert!(matches!(read("1.dat.lz4", b"1"), State::Unknown(_)));
}

proptest! {
    #[test]
    fn whatever_a_file_holds_it_is_looked_at(
        begin in prop::sample::select(vec![
            &b"PGDMP\x01\x0e\x00\x04\x08\x01"[..], b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"toc.dat\0", b"",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let bytes = [begin, &rest].concat();
        prop_assert!(of(&bytes).state != State::Whole);
        prop_assert!(with(&bytes, true).state != State::Whole);
    }

    #[test]
    fn an_archive_of_zeros_is_no_archive(zeros in 0..200_usize) {
        let bytes = [&b"PGDMP\x01\x0e\x00\x04\x08\x01"[..], &vec![0; zeros]].concat();
        prop_assert!(of(&bytes).state != State::Whole);
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_never_whole(
        blocks in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..4), 1..5),
        cut in any::<prop::sample::Index>(), places: bool,
    ) {
        let blocks: Vec<Vec<&[u8]>> =
            blocks.iter().map(|b| b.iter().map(Vec::as_slice).collect()).collect();
        let bytes = Maker { minor: 14, places, directory: false }.archive(&blocks);
        let whole = matches!(of(&bytes).state, State::Whole);
        prop_assert!(whole);
        prop_assert!(of(&bytes[..cut.index(bytes.len())]).state != State::Whole);
    }
}
