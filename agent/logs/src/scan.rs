//! Reads log files of any size once and counts their errors by kind, in bounded memory: as many
//! counters as there are processors, of which one at a time reads its next block.

use std::{
    io::{self, Read},
    iter::Enumerate,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aho_corasick::{
    AhoCorasick, MatchKind, Span,
    packed::{self, Searcher},
};
use memchr::memmem::Finder;

use crate::{
    counted::Counted,
    template::template,
    time::{Time, Times},
};

/// Bytes that are read at a time: what was read is still near the processor when it is counted.
const BLOCK: usize = 256 << 10;
/// A longer line is cut; the rest of it is passed over.
const LINE: usize = BLOCK / 2;
/// Frames of a traceback that are looked through for its end.
const TRACEBACK: usize = 16 << 10;
/// Lines before a traceback that are looked at for its time, and tracebacks of a block for which it is
/// looked for in vain.
const ABOVE: usize = 60;
const IN_VAIN: u32 = 8;
/// Bytes before a block that are looked at for the time of a traceback with which it begins.
const CONTEXT: usize = 16 << 10;
/// Bytes of a function's name that are told.
const FRAME: usize = 120;
/// Most counters.
const COUNTERS: usize = 8;

/// Words that tell of an error when they stand alone: neither "0 errors" nor `error_handler.py`.
const WORDS: [&str; 9] =
    ["error", "critical", "fatal", "panic", "emerg", "alert", "severe", "exception", "traceback"];

/// Looks for the words in the three ways in which people and programs write them: `error`, `Error`,
/// `ERROR`. So few texts can be looked for with vector instructions, where there are such.
enum Search {
    Vectors(Searcher),
    Automaton(AhoCorasick),
}

static SEARCH: LazyLock<Option<Search>> = LazyLock::new(|| {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    let forms = WORDS.iter().flat_map(|w| [(*w).to_owned(), capital(w), w.to_ascii_uppercase()]);
    let forms: Vec<String> = forms.collect();
    let vectors = packed::Config::new().builder().extend(&forms).build();
    let automaton =
        || AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&forms).ok();
    vectors.map(Search::Vectors).or_else(|| automaton().map(Search::Automaton))
});

/// How a traceback of Python begins.
static TRACE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("Traceback (most recent"));

/// What Python says between two tracebacks of one error.
const CHAINED: [&[u8]; 2] = [
    b"During handling of the above exception, another exception",
    b"The above exception was the direct cause of",
];

impl Search {
    /// The first word from some place on, as its beginning and its end.
    fn find(&self, block: &[u8], from: usize) -> Option<(usize, usize)> {
        let span = Span { start: from, end: block.len() };
        let found = match self {
            Self::Vectors(searcher) => searcher.find_in(block, span)?,
            Self::Automaton(automaton) => {
                automaton.find(aho_corasick::Input::new(block).span(span))?
            }
        };
        Some((found.start(), found.end()))
    }
}

/// Reads every source to its end. `times` says which lines are too old to count; `read` counts the bytes
/// meanwhile; it ends early once `stop` says so. Blocks.
///
/// # Errors
/// The first of each source that reading met, with its number; what was read before still counts.
pub fn scan<R: Read + Send>(
    sources: impl Iterator<Item = R> + Send,
    times: &Times,
    read: &AtomicU64,
    stop: &(dyn Fn() -> bool + Sync),
) -> (Counted, Vec<(usize, io::Error)>) {
    let counters = thread::available_parallelism().map_or(1, usize::from).min(COUNTERS);
    let feed = Mutex::new(Feed {
        sources: sources.enumerate(),
        current: None,
        above: Vec::with_capacity(CONTEXT),
        rest: Vec::new(),
        cut_line: false,
        errors: Vec::new(),
        read,
    });
    let counted = thread::scope(|scope| {
        let counting: Vec<_> =
            (0..counters).map(|_| scope.spawn(|| count_all(&feed, times, stop))).collect();
        let mut all = Counted::default();
        for counter in counting {
            match counter.join() {
                Ok(counted) => all.take(counted),
                // Counts with a part missing would look whole.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    (counted, feed.into_inner().unwrap_or_else(PoisonError::into_inner).errors)
}

fn count_all<I: Iterator<Item = R>, R: Read>(
    feed: &Mutex<Feed<'_, I, R>>,
    times: &Times,
    stop: &(dyn Fn() -> bool + Sync),
) -> Counted {
    let mut counted = Counted::default();
    let mut scratch = Vec::new();
    let mut block = vec![0; CONTEXT + BLOCK];
    let mut times = times.clone();
    while !stop() {
        let next = feed.lock().unwrap_or_else(PoisonError::into_inner).next(&mut block);
        let Some((file, begin, end)) = next else { break };
        count(&block[..end], begin, file, &mut times, &mut counted, &mut scratch);
    }
    counted
}

/// Where the counters get their blocks.
struct Feed<'a, I, R> {
    sources: Enumerate<I>,
    current: Option<(usize, R)>,
    /// The last lines of the block before, of the same source.
    above: Vec<u8>,
    /// The beginning of a line, or of a traceback, whose end is still to be read.
    rest: Vec<u8>,
    /// What comes is the rest of a line that was cut.
    cut_line: bool,
    errors: Vec<(usize, io::Error)>,
    read: &'a AtomicU64,
}

impl<I: Iterator<Item = R>, R: Read> Feed<'_, I, R> {
    /// Fills a block with whole lines of one source, after lines that were counted before; gives the number
    /// of the source, and where what is to be counted begins and ends.
    fn next(&mut self, block: &mut [u8]) -> Option<(usize, usize, usize)> {
        loop {
            if self.current.is_none() {
                self.current = self.sources.next();
                self.cut_line = false;
                self.above.clear();
            }
            let (file, source) = self.current.as_mut()?;
            let (file, begin, had) = (*file, self.above.len(), self.rest.len());
            block[..begin].copy_from_slice(&self.above);
            let fresh = &mut block[begin..begin + BLOCK];
            fresh[..had].copy_from_slice(&self.rest);
            self.rest.clear();
            let (mut got, error) = fill(source, &mut fresh[had..]);
            let last = got == 0 || error.is_some();
            // What was read before counts.
            self.errors.extend(error.map(|error| (file, error)));
            self.read.fetch_add(got as u64, Ordering::Relaxed);
            if self.cut_line {
                // Nothing was kept of it.
                let end = memchr::memchr(b'\n', &fresh[..got]);
                self.cut_line = end.is_none();
                let skip = end.map_or(got, |at| at + 1);
                fresh.copy_within(skip..got, 0);
                got -= skip;
            }
            let all = &fresh[..had + got];
            let end = if last { all.len() } else { cut(all) };
            if last {
                self.current = None;
            } else {
                self.rest.extend_from_slice(&all[end..]);
                self.cut_line |= end > 0 && end == all.len() && all.last() != Some(&b'\n');
            }
            if end > 0 {
                let end = begin + end;
                if !last {
                    self.above.clear();
                    self.above.extend_from_slice(context(&block[..end]));
                }
                return Some((file, begin, end));
            }
        }
    }
}

/// The last lines of a block, as many as are worth a look from the next one; whole ones, since a part of
/// one could seem to be a time.
fn context(block: &[u8]) -> &[u8] {
    let tail = &block[block.len().saturating_sub(CONTEXT)..];
    match memchr::memchr(b'\n', tail) {
        Some(at) if tail.len() < block.len() => &tail[at + 1..],
        Some(_) => tail,
        None => &[],
    }
}

/// Reads until the block is full or the source ends; gives how much it was, and what kept it from
/// reading more.
fn fill(source: &mut impl Read, block: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut got = 0;
    while got < block.len() {
        match source.read(&mut block[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (got, Some(e)),
        }
    }
    (got, None)
}

/// Where a block can be cut: after a line, and before a traceback whose end it does not have.
fn cut(block: &[u8]) -> usize {
    let Some(end) = memchr::memrchr(b'\n', block).map(|at| at + 1) else {
        // One line without an end: what there is of it counts, when it is too long to wait for.
        return if block.len() >= LINE { block.len() } else { 0 };
    };
    let tail = end.saturating_sub(TRACEBACK);
    // Forwards: only that way it looks with vector instructions.
    let begun = TRACE.find_iter(&block[tail..end]).last();
    let Some(begun) = begun else { return end };
    let begun = memchr::memrchr(b'\n', &block[..tail + begun]).map_or(0, |at| at + 1);
    match begun > 0 && last_line(&block[begun..end]).is_none() {
        true => begun,
        false => end,
    }
}

/// Counts what a block holds from `begin` on.
fn count(
    block: &[u8],
    begin: usize,
    file: usize,
    times: &mut Times,
    counted: &mut Counted,
    scratch: &mut Vec<u8>,
) {
    let mut in_vain = 0;
    counted.lines += memchr::memchr_iter(b'\n', &block[begin..]).count() as u64;
    let Some(search) = SEARCH.as_ref() else { return };
    let mut at = begin;
    while let Some((start, end)) = search.find(block, at) {
        let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let before = start.checked_sub(1).and_then(|i| block.get(i));
        // "ValueError" is one: the name of an exception ends with it.
        let named =
            before.is_some_and(u8::is_ascii_alphabetic) && block[start].is_ascii_uppercase();
        if (word(before) && !named) || word(block.get(end)) {
            at = end;
            continue;
        }
        let from = memchr::memrchr(b'\n', &block[..start]).map_or(0, |i| i + 1);
        let to = memchr::memchr(b'\n', &block[end..]).map_or(block.len(), |i| end + i);
        let line = &block[from..to];
        at = to;
        let traceback = line.trim_ascii_end().ends_with(b"(most recent call last):");
        let (mut own, message) = times.split(line);
        if own.is_none() && traceback && in_vain < IN_VAIN {
            own = above(&block[..from], times);
            in_vain += u32::from(own.is_none());
        }
        let early = own.is_some_and(|own| own.early);
        let own = own.map(|own| own.at);
        if traceback {
            let after = &block[to.min(block.len())..];
            if let Some((frame, exception, length)) = last_line(after) {
                at = to + length;
                if !early {
                    template(times.split(exception).1, scratch);
                    scratch.extend_from_slice(b" in ");
                    scratch.extend_from_slice(&frame[..frame.len().min(FRAME)]);
                    counted.add(scratch, own, file);
                }
                continue;
            }
        }
        if early || CHAINED.iter().any(|words| line.starts_with(words)) {
            continue;
        }
        template(message, scratch);
        counted.add(scratch, own, file);
    }
}

/// The time of a traceback: that of the last line above it that has one.
fn above(block: &[u8], times: &mut Times) -> Option<Time> {
    let lines = block.strip_suffix(b"\n").unwrap_or(block).rsplit(|b| *b == b'\n');
    lines.take(ABOVE).find_map(|line| times.split(line).0)
}

/// The end of a traceback that follows: the function of its last frame, the exception's line, and how
/// long all of it is. None when it is not complete.
fn last_line(after: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut frame: &[u8] = b"?";
    let mut at = 0;
    for line in after.split_inclusive(|b| *b == b'\n').take(200) {
        at += line.len();
        let text = line.strip_suffix(b"\n")?;
        let indented = text.first().is_none_or(|b| b.is_ascii_whitespace());
        if !indented && TRACE.find(text).is_none() {
            return Some((frame, text, at));
        }
        if let Some(place) = memchr::memmem::find(text, b", in ") {
            frame = text.get(place + 5..)?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counted::KINDS;

    fn times(since: &str) -> Times {
        let since = (!since.is_empty()).then(|| since.parse().expect("a time"));
        let now = "2026-11-26T12:00:00Z".parse().expect("a time");
        Times::new(jiff::tz::TimeZone::UTC, now, since)
    }

    fn counted(text: &str, since: &str) -> Vec<(String, u64)> {
        let (counted, errors) =
            scan(std::iter::once(text.as_bytes()), &times(since), &AtomicU64::new(0), &|| false);
        assert!(errors.is_empty());
        let mut kinds: Vec<_> = counted
            .kinds
            .iter()
            .map(|(t, k)| (String::from_utf8_lossy(t).into_owned(), k.count))
            .collect();
        kinds.sort();
        kinds
    }

    #[test]
    fn a_word_that_stands_alone_tells_of_an_error_and_a_part_of_another_does_not() {
        let text = "all fine, 0 errors\nin error_handler.py\nERROR a 1\nlevel=error b\n[error] c\n\
                    ValueError: bad\nterror\n";
        let kinds = counted(text, "");
        let seen: Vec<_> = kinds.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(seen, ["ERROR a *", "ValueError: bad", "[error] c", "level=error b"]);
    }

    #[test]
    fn a_traceback_is_one_error_of_its_last_frame_and_exception() {
        let one = |n: u32| {
            format!(
                "2026-11-26 06:12:0{n} ERROR oops\nTraceback (most recent call last):\n  \
                 File \"/a.py\", line {n}, in run\n    go()\n  File \"/b.py\", line 7, in go\n    \
                 raise X\nKeyError: '{n}'\n"
            )
        };
        let kinds = counted(&(one(1) + &one(2)), "");
        assert_eq!(kinds, [("ERROR oops".to_owned(), 2), ("KeyError: '*' in go".to_owned(), 2)]);
    }

    #[test]
    fn lines_that_are_older_do_not_count_whatever_marks_their_times_have() {
        let text =
            "2026-11-26 06:00:00 ERROR old\n2026/11/26 07:00:00 [error] new\nERROR timeless\n";
        let seen = counted(text, "2026-11-26T06:30:00Z");
        let seen: Vec<_> = seen.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(seen, ["ERROR timeless", "[error] new"]);
    }

    #[test]
    fn a_traceback_is_as_old_as_the_line_above_it() {
        let trace =
            "Traceback (most recent call last):\n  File \"/a.py\", line 1, in run\nKeyError: 'x'\n";
        let text = format!(
            "2026-11-26 05:00:00 ERROR old\n{trace}\nDuring handling of the above exception, another exception occurred:\n\n{trace}\
             2026-11-26 07:00:00 ERROR new\n{trace}"
        );
        let seen = counted(&text, "2026-11-26T06:30:00Z");
        assert_eq!(seen, [("ERROR new".to_owned(), 1), ("KeyError: 'x' in run".to_owned(), 1)]);
    }

    #[test]
    fn a_traceback_at_the_beginning_of_a_block_is_as_old_as_the_line_above_it() {
        let frame =
            "  File \"/a.py\", line 1, in run\n    go(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa)\n";
        let trace =
            format!("Traceback (most recent call last):\n{}KeyError: 'x'\n", frame.repeat(20));
        let of = |day: u32| format!("2026-11-{day} 05:00:00 ERROR oops\n{trace}");
        let seen = |text: &str| {
            let (read, source) = (AtomicU64::new(0), std::iter::once(text.as_bytes()));
            scan(source, &times("2026-11-26T06:30:00Z"), &read, &|| false).0
        };
        let old = of(23).repeat(3 * BLOCK / of(23).len());
        let counted = seen(&old);
        assert_eq!((counted.errors, counted.timeless), (0, 0));
        let new = seen(&old.replace("2026-11-23", "2026-11-27"));
        assert_eq!((new.errors, new.timeless), (2 * old.matches("oops").count() as u64, 0));
        assert_eq!((counted.lines, new.lines), (old.lines().count() as u64, counted.lines));
    }

    #[test]
    fn a_file_that_begins_with_a_traceback_has_no_time_of_the_file_before() {
        let trace =
            "Traceback (most recent call last):\n  File \"/a.py\", line 1, in run\nKeyError: 'x'\n";
        let sources = ["2026-11-23 05:00:00 fine\n", trace].map(str::as_bytes);
        let (counted, _) =
            scan(sources.into_iter(), &times("2026-11-26T06:30:00Z"), &AtomicU64::new(0), &|| {
                false
            });
        assert_eq!((counted.errors, counted.timeless), (1, 1));
    }

    #[test]
    fn errors_without_a_time_are_counted_apart() {
        let text = "2026-11-26 07:00:00 ERROR a\nERROR b\nERROR c\n";
        let (counted, _) = scan(
            std::iter::once(text.as_bytes()),
            &times("2026-11-26T06:30:00Z"),
            &AtomicU64::new(0),
            &|| false,
        );
        assert_eq!((counted.errors, counted.timeless), (3, 2));
    }

    #[test]
    fn kinds_beyond_what_can_be_told_apart_are_counted_together() {
        let letters = |mut n: usize| {
            let mut word = String::new();
            for _ in 0..4 {
                word.push(char::from(b'g' + u8::try_from(n % 20).expect("small")));
                n /= 20;
            }
            word
        };
        let text: String = (0..KINDS + 50).map(|n| format!("error {}\n", letters(n))).collect();
        let (counted, _) =
            scan(std::iter::once(text.as_bytes()), &times(""), &AtomicU64::new(0), &|| false);
        assert!(counted.kinds.len() <= KINDS);
        assert_eq!(counted.errors, KINDS as u64 + 50);
        assert_eq!(
            counted.kinds.values().map(|k| k.count).sum::<u64>() + counted.others,
            counted.errors
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_one_error_and_what_follows_it_counts() {
        let long = format!("ERROR {}{}\n", "x ".repeat(BLOCK), " error y".repeat(1000));
        let kinds = counted(&format!("ERROR first\n{long}ERROR last\n"), "");
        assert_eq!(kinds.iter().map(|(_, n)| n).sum::<u64>(), 3, "{}", kinds.len());
        assert!(kinds.iter().all(|(kind, _)| kind.len() <= 240));
    }

    /// Gives a text, and then an error.
    struct Torn<'a>(&'a [u8]);

    impl Read for Torn<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("torn")),
                n => Ok(n),
            }
        }
    }

    #[test]
    fn what_was_read_before_an_error_counts() {
        let torn = ["ERROR a\n", "ERROR b\nERROR c"].map(|text| Torn(text.as_bytes()));
        let (counted, errors) = scan(torn.into_iter(), &times(""), &AtomicU64::new(0), &|| false);
        assert_eq!((counted.errors, counted.lines, errors.len()), (3, 2, 2));
    }

    /// A reader that gives as little at a time as it likes.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.clamp(1, self.0.len().max(1)).min(buffer.len()).min(self.0.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn however_it_is_read_the_count_is_the_same(
            lines in prop::collection::vec("(ERROR [a-f ]{0,20}|fine|x{0,9000})", 0..400), step in 1..70_000_usize,
        ) {
            let text = lines.join("\n") + "\n";
            let expected = lines.iter().filter(|l| l.starts_with("ERROR")).count() as u64;
            let source = Slow(text.as_bytes(), step);
            let (counted, _) = scan(std::iter::once(source), &times(""), &AtomicU64::new(0), &|| false);
            prop_assert_eq!(counted.errors, expected);
            prop_assert_eq!(counted.lines, lines.len().max(1) as u64);
        }
    }
}
