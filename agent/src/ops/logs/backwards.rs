//! A file's lines from its end to its beginning, with bounded memory.

use std::{fs::File, io, os::unix::fs::FileExt};

/// How much is read at once.
const BLOCK: usize = 64 * 1024;
/// Bytes of a line that are kept; the rest of it is cut off.
pub(super) const LINE: usize = 64 * 1024;

/// Lines, the last first. What is appended while it reads is not seen.
#[derive(Debug)]
pub(in crate::ops) struct Backwards<'f> {
    file: &'f File,
    /// Where the part that is still unread ends.
    unread: u64,
    /// Read, but not yet given out; it lies directly behind the unread part.
    held: Vec<u8>,
    /// The held part ends with the line whose end was cut off to save memory.
    done: bool,
}

impl<'f> Backwards<'f> {
    /// The lines of the first `length` bytes.
    pub(in crate::ops) fn new(file: &'f File, length: u64) -> Self {
        Self { file, unread: length, held: Vec::new(), done: length == 0 }
    }

    /// The line before, with the offset at which it begins; none at the beginning of the file.
    ///
    /// # Errors
    /// When the file cannot be read, or became shorter.
    pub(in crate::ops) fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        if self.done {
            return Ok(None);
        }
        if self.held.is_empty() {
            self.fill()?;
        }
        // The newline that ends this line is no part of it.
        if self.held.last() == Some(&b'\n') {
            self.held.pop();
        }
        let mut searched = 0;
        loop {
            let new = self.held.len() - searched;
            if let Some(at) = self.held[..new].iter().rposition(|b| *b == b'\n') {
                let line = self.held.split_off(at + 1);
                return Ok(Some((self.unread + at as u64 + 1, clipped(line))));
            }
            if self.unread == 0 {
                self.done = true;
                return Ok(Some((0, clipped(std::mem::take(&mut self.held)))));
            }
            // Only the beginning of an endless line is kept, which is what is read last.
            self.held.truncate(LINE);
            searched = self.held.len();
            self.fill()?;
        }
    }

    /// Puts the block before in front of what is held.
    fn fill(&mut self) -> io::Result<()> {
        let size = usize::try_from(self.unread).unwrap_or(BLOCK).min(BLOCK);
        let mut block = vec![0; size];
        self.unread -= size as u64;
        self.file.read_exact_at(&mut block, self.unread)?;
        block.append(&mut self.held);
        self.held = block;
        Ok(())
    }
}

fn clipped(mut line: Vec<u8>) -> Vec<u8> {
    line.truncate(LINE);
    line
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn read(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(content).expect("written");
        let mut lines = Backwards::new(&file, content.len() as u64);
        let mut all = Vec::new();
        while let Some(line) = lines.next().expect("read") {
            all.push(line);
        }
        all.reverse();
        all
    }

    #[test]
    fn the_last_line_counts_with_and_without_its_end() {
        assert_eq!(read(b"").len(), 0);
        assert_eq!(read(b"one\ntwo"), read(b"one\ntwo\n"));
        assert_eq!(read(b"a\n\nb\n"), [(0, b"a".to_vec()), (2, vec![]), (3, b"b".to_vec())]);
        assert_eq!(read(b"\n"), [(0, vec![])]);
    }

    #[test]
    fn of_a_line_longer_than_the_bound_the_beginning_is_kept() {
        let mut content = b"first\n".to_vec();
        content.extend((0..LINE * 3).map(|i| b'a' + u8::try_from(i % 26).expect("letter")));
        content.extend(b"\nlast\n");
        let lines = read(&content);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].1, content[6..6 + LINE]);
        assert_eq!(lines[2], (content.len() as u64 - 5, b"last".to_vec()));
    }

    proptest! {
        #[test]
        fn backwards_gives_what_forwards_gives(
            lines in prop::collection::vec(
                // Two long ones are more than is read at once.
                prop_oneof!["[a-z]{0,9}", "[a-z]{3}".prop_map(|part| part.repeat(20_000))],
                0..12,
            ),
        ) {
            let mut content = Vec::new();
            let mut expected = Vec::new();
            for line in &lines {
                expected.push((content.len() as u64, line.clone().into_bytes()));
                content.extend(line.as_bytes());
                content.push(b'\n');
            }
            prop_assert_eq!(read(&content), expected);
        }
    }
}
