//! Tables: aligned columns; empty ones are left out; the last one wraps where the terminal ends.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{Look, Style, words};

/// Between columns.
const GAP: usize = 2;
/// A column of names is not shortened below this.
const SHORT_COLUMNS_MIN: usize = 12;
/// With less room than this the last column is not wrapped: a word a line helps nobody.
const WRAP_COLUMNS_MIN: usize = 16;

/// A column.
pub(crate) struct Column {
    title: &'static str,
    right: bool,
}

impl Column {
    /// Aligned to the left.
    pub(crate) const fn left(title: &'static str) -> Column {
        Column { title, right: false }
    }

    /// Aligned to the right.
    pub(crate) const fn right(title: &'static str) -> Column {
        Column { title, right: true }
    }
}

/// What stands in a row under a column.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text that nobody else wrote, or of somebody else: it cannot drive a terminal.
    pub(crate) fn new(text: impl AsRef<str>) -> Cell {
        Cell { text: words::line(text.as_ref()), style: Style::Plain }
    }

    /// The same so that it stands out.
    pub(crate) fn styled(self, style: Style) -> Cell {
        Cell { style, ..self }
    }
}

/// Columns and rows.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
    titled: bool,
    wraps: bool,
}

impl Table {
    /// An empty table with titles.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
            indent: 0,
            titled: true,
            wraps: true,
        }
    }

    /// An empty table of so many columns without titles.
    pub(crate) fn untitled(columns: impl IntoIterator<Item = Column>, indent: usize) -> Table {
        Table { indent, titled: false, ..Table::new(columns) }
    }

    /// The same with one line a row, however long.
    pub(crate) fn unwrapped(self) -> Table {
        Table { wraps: false, ..self }
    }

    /// One more row; cells that are not given are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().take(self.columns.len()).collect());
    }

    /// The whole table, each line ending in a newline.
    pub(crate) fn render(&self, look: &Look) -> String {
        let mut shown = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let width = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
            if width > 0 {
                let title = if self.titled { column.title.width() } else { 0 };
                shown.push((index, width.max(title)));
            }
        }
        self.shrink(&mut shown, look.width);
        let mut out = String::new();
        if self.titled {
            let titles: Vec<Cell> =
                self.columns.iter().map(|column| Cell::new(column.title).styled(Style::Dim)).collect();
            self.write_row(&titles, &shown, look, &mut out);
        }
        for row in &self.rows {
            self.write_row(row, &shown, look, &mut out);
        }
        out
    }

    /// Takes what does not fit from the widest columns of names, as far as they stay readable. The last column wraps instead.
    fn shrink(&self, shown: &mut [(usize, usize)], columns: Option<usize>) {
        let Some(columns) = columns else { return };
        let Some((last, others)) = shown.split_last_mut() else { return };
        let end = if self.wraps { last.1.min(WRAP_COLUMNS_MIN) } else { last.1 };
        loop {
            let used = self.indent + others.iter().map(|(_, width)| width + GAP).sum::<usize>() + end;
            let names = others.iter_mut().filter(|(index, _)| !self.columns[*index].right);
            let Some((_, widest)) = names.max_by_key(|(_, width)| *width) else { return };
            if used <= columns || *widest <= SHORT_COLUMNS_MIN {
                return;
            }
            *widest -= 1;
        }
    }

    fn write_row(&self, row: &[Cell], shown: &[(usize, usize)], look: &Look, out: &mut String) {
        let mut line = " ".repeat(self.indent);
        // Blanks are written only before something, so that no line ends in them.
        let mut blanks = 0;
        let mut column = self.indent;
        for (place, (index, width)) in shown.iter().enumerate() {
            let (text, style) = row.get(*index).map_or(("", Style::Plain), |cell| (&*cell.text, cell.style));
            let last = place + 1 == shown.len();
            let pieces = match (last, self.wraps) {
                (true, true) => wrap(text, look.width, column),
                (true, false) => vec![text.to_owned()],
                (false, _) => vec![shorten(text, *width)],
            };
            for (number, piece) in pieces.iter().enumerate() {
                if number > 0 {
                    out.push_str(line.trim_end());
                    out.push('\n');
                    line = String::new();
                    blanks = column;
                }
                let padding = width.saturating_sub(piece.width());
                let (before, after) = if self.columns[*index].right { (padding, 0) } else { (0, padding) };
                if piece.is_empty() {
                    blanks += padding;
                } else {
                    line.push_str(&" ".repeat(blanks + before));
                    line.push_str(&look.paint.apply(style, piece));
                    blanks = after;
                }
            }
            blanks += GAP;
            column += width + GAP;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A text that is too wide, with an ellipsis for its end.
fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if short.width() + c.width().unwrap_or(0) + 1 > width {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// Breaks a text that begins at `column` into lines that end before `width`. A word is never broken.
fn wrap(text: &str, width: Option<usize>, column: usize) -> Vec<String> {
    let room = width.and_then(|width| width.checked_sub(column)).filter(|room| *room >= WRAP_COLUMNS_MIN);
    let Some(room) = room.filter(|room| text.width() > *room) else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
