//! Where data and talk go: data to standard output, everything else to standard error. What comes
//! from hosts is made harmless to terminals here.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    os::fd::AsFd as _,
};

/// The program's two outputs, and what they can do.
pub struct Screen {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    traits: Traits,
    /// A progress line stands on the terminal and must go before anything else is written.
    progress: bool,
}

/// What the outputs can do, and what the operator wants of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traits {
    /// Standard output may be coloured.
    pub colour: bool,
    /// Standard output is a terminal.
    pub fitted: bool,
    /// Its width, to which tables are fitted; 0 when it does not tell.
    pub width: u16,
    /// Its height; 0 when it does not tell.
    pub height: u16,
    /// The locale has no signs but those of ASCII.
    pub plain: bool,
    /// Somebody watches standard error: progress can be shown.
    pub watched: bool,
    /// Somebody can be asked.
    pub interactive: bool,
    /// Only errors are wanted beside the data.
    pub quiet: bool,
}

impl Screen {
    /// The process's own outputs.
    pub fn of_process(no_colour: bool, quiet: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let terminal = out.is_terminal();
        let (width, height) = if terminal { size() } else { (0, 0) };
        let plain = no_colour || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let traits = Traits {
            colour: terminal && !plain && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
            fitted: terminal,
            width,
            height,
            plain: is_plain(|name| std::env::var(name).ok()),
            watched: err.is_terminal() && !quiet,
            interactive: io::stdin().is_terminal() && err.is_terminal(),
            quiet,
        };
        Self::new(BufWriter::new(out), err, traits)
    }

    /// Other outputs, for example a test's.
    pub fn new(out: impl Write + 'static, err: impl Write + 'static, traits: Traits) -> Self {
        Self { out: Box::new(out), err: Box::new(err), traits, progress: false }
    }

    /// What the outputs can do.
    pub fn traits(&self) -> Traits {
        self.traits
    }

    /// Writes data, as it is. It is on its way when this returns.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        self.clear();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Shows a page in place of the one before.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn page(&mut self, text: &str) -> io::Result<()> {
        match self.traits.fitted {
            true => self.data(&format!("\x1b[H\x1b[2J{text}")),
            false => self.data(&format!("{text}\n")),
        }
    }

    /// Looks anew how large the terminal is.
    pub fn measure(&mut self) {
        if self.traits.fitted {
            (self.traits.width, self.traits.height) = size();
        }
    }

    /// Says something to the person, unless only errors are wanted.
    pub fn say(&mut self, text: &str) {
        if !self.traits.quiet {
            self.tell(text);
        }
    }

    /// Says something to the person in any case.
    pub fn tell(&mut self, text: &str) {
        self.clear();
        // There is nobody left to tell that standard error is closed.
        let _ = writeln!(self.err, "{}", harmless_text(text));
    }

    /// Asks for a line; the answer is read elsewhere.
    pub fn ask(&mut self, question: &str) {
        self.clear();
        let _ = write!(self.err, "{} ", harmless(question)).and_then(|()| self.err.flush());
    }

    /// Shows how far it is, in place of what was shown before.
    pub fn progress(&mut self, text: &str) {
        if self.traits.watched {
            let text: String = harmless(text).chars().take(78).collect();
            self.progress = true;
            let _ = write!(self.err, "\r\x1b[K{text}").and_then(|()| self.err.flush());
        }
    }

    /// Takes the progress line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.progress) {
            let _ = write!(self.err, "\r\x1b[K").and_then(|()| self.err.flush());
        }
    }
}

/// Whether the locale is one without Unicode. Where nothing is said, as in most containers, terminals
/// show it all the same.
fn is_plain(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable);
    let locale = set.map(|v| v.to_ascii_lowercase()).find(|v| !v.is_empty());
    locale.is_some_and(|locale| !locale.contains("utf-8") && !locale.contains("utf8"))
}

/// Columns and rows of the terminal at standard output.
fn size() -> (u16, u16) {
    let size = rustix::termios::tcgetwinsize(io::stdout().as_fd());
    size.map_or((0, 0), |size| (size.ws_col, size.ws_row))
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("traits", &self.traits).finish_non_exhaustive()
    }
}

/// Text as one line that no terminal takes for anything but text: escape sequences, control
/// characters and marks that reorder text are taken out; tabs and line ends become spaces.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' | '\n' | '\r' => out.push(' '),
            '\x1b' => skip_sequence(&mut chars),
            '\u{9b}' => skip_csi(&mut chars),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// As [`harmless`], but line ends stay.
pub fn harmless_text(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_sequence(chars: &mut Chars<'_>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            skip_csi(chars);
        }
        // A string (title, clipboard, ...) goes on to BEL or ESC \; never past the line.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next_if(|c| *c != '\n') {
                if c == '\x07' || c == '\u{9c}' {
                    return;
                }
                if c == '\x1b' {
                    chars.next_if_eq(&'\\');
                    return;
                }
            }
        }
        _ => {
            while chars.next_if(|c| ('\x20'..='\x2f').contains(c)).is_some() {}
            chars.next_if(|c| ('\x30'..='\x7e').contains(c));
        }
    }
}

fn skip_csi(chars: &mut Chars<'_>) {
    while chars.next_if(|c| ('\x20'..='\x3f').contains(c)).is_some() {}
    chars.next_if(|c| ('\x40'..='\x7e').contains(c));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_go_whole_and_text_stays() {
        let cases = [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]52;c;aGk=\x1b\\text", "text"),
            ("\u{9b}2Jtext", "text"),
            ("a\rb\tc\nd", "a b c d"),
            ("\x1b(Bplain", "plain"),
            ("Zürich \u{202e}gpj.exe 東京", "Zürich gpj.exe 東京"),
            ("ends with \x1b", "ends with "),
        ];
        for (given, shown) in cases {
            assert_eq!(harmless(given), shown, "{given:?}");
        }
    }

    #[test]
    fn a_locale_without_unicode_is_known_by_the_variable_that_counts() {
        let plain = |set: &[(&str, &str)]| {
            is_plain(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(plain(&[("LC_ALL", "C"), ("LANG", "de_CH.UTF-8")]));
        assert!(plain(&[("LANG", "POSIX")]));
        assert!(!plain(&[("LC_ALL", ""), ("LANG", "de_CH.UTF-8")]));
        assert!(!plain(&[("LC_ALL", "C.utf8")]));
        assert!(!plain(&[]));
    }

    proptest! {
        #[test]
        fn nothing_that_a_host_says_can_steer_a_terminal(text in "(\\PC|[\\x00-\\x1f\\x7f-\\x{9f}]|\x1b[\\[\\]P]){0,40}") {
            prop_assert!(!harmless(&text).contains(char::is_control));
            prop_assert!(!harmless_text(&text).contains(|c: char| c.is_control() && c != '\n'));
        }

        #[test]
        fn plain_text_is_left_as_it_is(text in "[ -~äöüß€]{0,40}") {
            prop_assert_eq!(harmless(&text), text);
        }
    }
}
