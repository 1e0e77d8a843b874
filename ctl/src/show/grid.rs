//! Columns of text without lines around them.

use comfy_table::{
    Attribute, Cell as TableCell, CellAlignment, Color, ContentArrangement, Table, TableComponent,
    presets,
};

use crate::screen::{Traits, harmless};

/// What a word means for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// All well.
    Good,
    /// Deserves attention.
    Odd,
    /// Needs somebody now.
    Bad,
}

impl Tone {
    /// The tone of a state, an outcome or a status, by its word.
    pub fn of(word: &str) -> Self {
        match word {
            "ok" | "up" | "done" => Self::Good,
            "warning" | "unknown" | "outcome-unknown" | "timeout" | "cancelled" | "never"
            | "stopped" | "unreachable" => Self::Odd,
            "critical" | "failed" | "down" | "revoked" | "denied" => Self::Bad,
            _ => Self::Plain,
        }
    }

    fn colour(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::Green),
            Self::Odd => Some(Color::Yellow),
            Self::Bad => Some(Color::Red),
        }
    }
}

/// One cell; its text is made harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// A number, aligned to the right.
    pub number: bool,
    /// How it is coloured.
    pub tone: Tone,
}

impl Cell {
    /// Text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self { text: harmless(text.as_ref()), number: false, tone: Tone::Plain }
    }

    /// A number.
    pub fn number(text: impl AsRef<str>) -> Self {
        Self { number: true, ..Self::text(text) }
    }

    /// A word with a tone of its own, in capitals when it is bad news.
    pub fn word(word: &str) -> Self {
        let tone = Tone::of(word);
        let text = if tone == Tone::Bad { word.to_uppercase() } else { word.to_owned() };
        Self { tone, ..Self::text(text) }
    }
}

/// Stands between rows that are to be told apart; no text has it.
const BETWEEN: char = '\u{1}';

/// Lays rows out below their headers. A column without a single text is left out.
pub fn grid(headers: &[&str], rows: &[Vec<Cell>], traits: Traits) -> String {
    lines(&laid_out(headers, rows, traits))
}

/// The same in parts, so that something can stand between them: the headers, and each row.
pub fn parts(headers: &[&str], rows: &[Vec<Cell>], traits: Traits) -> Vec<String> {
    let mut table = laid_out(headers, rows, traits);
    table.set_style(TableComponent::HorizontalLines, BETWEEN);
    let mut parts = vec![String::new()];
    for (number, line) in table.lines().enumerate() {
        match line.starts_with(BETWEEN) {
            true => parts.push(String::new()),
            false => {
                if let Some(part) = parts.last_mut() {
                    part.push_str(line.trim_end());
                    part.push('\n');
                }
                // The headers are one line, and nothing stands below them.
                if number == 0 {
                    parts.push(String::new());
                }
            }
        }
    }
    parts
}

fn laid_out(headers: &[&str], rows: &[Vec<Cell>], traits: Traits) -> Table {
    let used: Vec<usize> = (0..headers.len())
        .filter(|i| rows.iter().any(|r| r.get(*i).is_some_and(|c| !c.text.is_empty())))
        .collect();
    let head = used.iter().map(|i| {
        let cell = TableCell::new(headers[*i]);
        if traits.colour { cell.add_attribute(Attribute::Dim) } else { cell }
    });
    let mut table = plain(traits);
    table.set_header(head.collect::<Vec<_>>());
    for row in rows {
        let cells = used.iter().map(|i| row.get(*i).map_or_else(|| TableCell::new(""), table_cell));
        table.add_row(cells.collect::<Vec<_>>());
    }
    for (column, i) in used.iter().enumerate() {
        let numbers = rows.iter().any(|r| r.get(*i).is_some_and(|c| c.number));
        if let Some(column) = table.column_mut(column) {
            column.set_padding((0, 2));
            if numbers {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// Lays out names and their values.
pub fn pairs(pairs: &[(String, Cell)], traits: Traits) -> String {
    let mut table = plain(traits);
    for (name, cell) in pairs {
        table.add_row(vec![TableCell::new(harmless(name)), table_cell(cell)]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    lines(&table)
}

fn plain(traits: Traits) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match traits.fitted && traits.width > 0 {
        true => {
            table.set_width(traits.width);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        false => drop(table.set_content_arrangement(ContentArrangement::Disabled)),
    }
    // What the terminal is like was looked at before.
    table.force_no_tty();
    if traits.colour {
        table.enforce_styling();
    }
    table
}

fn table_cell(cell: &Cell) -> TableCell {
    let shown = TableCell::new(&cell.text);
    match cell.tone.colour() {
        Some(colour) => shown.fg(colour),
        None => shown,
    }
}

fn lines(table: &Table) -> String {
    table.lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_numbers_to_the_right_and_empty_ones_left_out() {
        let row = |a: &str, b: &str| vec![Cell::text(a), Cell::text(""), Cell::number(b)];
        let rows = [row("/", "9"), row("/srv/data", "1234")];
        insta::assert_snapshot!(grid(&["MOUNT", "NOTE", "SIZE"], &rows, Traits::default()), @"
        MOUNT      SIZE
        /             9
        /srv/data  1234
        ");
    }

    #[test]
    fn a_row_that_needs_several_lines_is_one_part() {
        let row =
            |a: &str| vec![Cell::text(a), Cell::text("a text that is longer than the screen")];
        let rows = [row("one"), row("two")];
        let narrow = Traits { fitted: true, width: 24, ..Traits::default() };
        let parts = parts(&["NAME", "TEXT"], &rows, narrow);
        assert_eq!(parts.len(), 3, "{parts:?}");
        assert!(parts[0].starts_with("NAME") && parts[1].starts_with("one"), "{parts:?}");
        assert!(parts[1].lines().count() > 1 && parts[2].starts_with("two"), "{parts:?}");
        assert_eq!(parts.concat(), grid(&["NAME", "TEXT"], &rows, narrow));
        let unknown = Traits { fitted: true, ..Traits::default() };
        assert_eq!(
            grid(&["NAME", "TEXT"], &rows, unknown).lines().count(),
            3,
            "no width, no folds"
        );
    }

    #[test]
    fn colour_is_added_only_where_it_is_wanted() {
        let rows = [vec![Cell::word("critical")]];
        assert!(!grid(&["S"], &rows, Traits::default()).contains('\x1b'));
        let coloured = Traits { colour: true, ..Traits::default() };
        assert!(grid(&["S"], &rows, coloured).contains("\x1b[38;5;9mCRITICAL"));
    }
}
