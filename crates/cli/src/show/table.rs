//! Tables with aligned columns. Empty columns are left out, and the last one wraps at the terminal's edge. What does
//! not fit beside the rest goes below it, indented: a name, a moment or a path is never cut, because the user may have
//! to type it.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{Look, Style, words};

/// Between columns.
const GAP: usize = 2;
/// What stands below a row stands so far to the right of its beginning.
const INDENT: usize = 4;
/// A column is not shortened below this.
const SHORT_COLUMNS_MIN: usize = 12;
/// With less width than this the last column goes below the row: one word a line is unreadable.
const WRAP_COLUMNS_MIN: usize = 16;

/// A column.
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    shortened: bool,
}

impl Column {
    /// Aligned to the left.
    pub(crate) const fn left(title: &'static str) -> Column {
        Column { title, right: false, shortened: false }
    }

    /// Aligned to the right.
    pub(crate) const fn right(title: &'static str) -> Column {
        Column { title, right: true, shortened: false }
    }

    /// The same, with an ellipsis in texts that do not fit: they are shown in full elsewhere.
    pub(crate) const fn shortened(self) -> Column {
        Column { shortened: true, ..self }
    }
}

/// What stands in a row under a column.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with any text, which is filtered so that it cannot control the terminal.
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
}

/// A column as it is laid out: which one, and how wide.
type Place = (usize, usize);

impl Table {
    /// An empty table with titles.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new(), indent: 0, titled: true }
    }

    /// An empty table of so many columns without titles.
    pub(crate) fn untitled(columns: impl IntoIterator<Item = Column>, indent: usize) -> Table {
        Table { indent, titled: false, ..Table::new(columns) }
    }

    /// One more row; cells that are not given are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().take(self.columns.len()).collect());
    }

    /// The whole table, each line ending in a newline.
    pub(crate) fn render(&self, look: &Look) -> String {
        let titles: Vec<Cell> =
            self.columns.iter().map(|column| Cell::new(column.title).styled(Style::Dim)).collect();
        let lines = self.lines(look.width);
        let titles = self.titled.then(|| write_row(&self.columns, &titles, &lines, self.indent, look));
        titles.into_iter().chain(self.rows(look)).collect()
    }

    /// Its rows, each line of each ending in a newline.
    pub(crate) fn rows(&self, look: &Look) -> Vec<String> {
        let lines = self.lines(look.width);
        self.rows.iter().map(|row| write_row(&self.columns, row, &lines, self.indent, look)).collect()
    }

    /// Which columns stand on which line of a row: all on one, if they fit there.
    fn lines(&self, width: Option<usize>) -> Vec<Vec<Place>> {
        let mut shown: Vec<Place> = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let width = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
            if width > 0 {
                let title = if self.titled { column.title.width() } else { 0 };
                shown.push((index, width.max(title)));
            }
        }
        let Some(room) = width.map(|width| width.saturating_sub(self.indent)) else { return vec![shown] };
        self.shrink(&mut shown, room);
        if needed(&shown, true) <= room {
            return vec![shown];
        }
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        let last = shown.last().copied();
        for place in shown {
            line.push(place);
            let room = if lines.is_empty() { room } else { room.saturating_sub(INDENT) };
            if line.len() > 1 && needed(&line, Some(place) == last) > room {
                line.pop();
                lines.push(std::mem::replace(&mut line, vec![place]));
            }
        }
        lines.push(line);
        lines
    }

    /// Takes what does not fit from columns that can be shortened, as far as they stay readable.
    fn shrink(&self, shown: &mut [Place], room: usize) {
        while needed(shown, true) > room {
            let last = shown.len().saturating_sub(1);
            let short = shown[..last].iter_mut().filter(|(index, _)| self.columns[*index].shortened);
            match short.max_by_key(|(_, width)| *width) {
                Some((_, widest)) if *widest > SHORT_COLUMNS_MIN => *widest -= 1,
                _ => return,
            }
        }
    }
}

/// The room that columns beside each other need; the last one of a table wraps.
fn needed(shown: &[Place], wraps: bool) -> usize {
    let Some(((_, last), others)) = shown.split_last() else { return 0 };
    let last = if wraps { *last.min(&WRAP_COLUMNS_MIN) } else { *last };
    others.iter().map(|(_, width)| width + GAP).sum::<usize>() + last
}

fn write_row(columns: &[Column], row: &[Cell], lines: &[Vec<Place>], indent: usize, look: &Look) -> String {
    let mut out = String::new();
    for (number, shown) in lines.iter().enumerate() {
        if number == 0 {
            write_line(columns, row, shown, indent, look, &mut out);
        } else if shown.iter().any(|(index, _)| row.get(*index).is_some_and(|cell| !cell.text.is_empty())) {
            write_line(columns, row, shown, indent + INDENT, look, &mut out);
        }
    }
    out
}

fn write_line(
    columns: &[Column],
    row: &[Cell],
    shown: &[Place],
    indent: usize,
    look: &Look,
    out: &mut String,
) {
    let mut line = " ".repeat(indent);
    // Blanks are written only before something, so that no line ends in them.
    let mut blanks = 0;
    let mut column = indent;
    for (place, (index, width)) in shown.iter().enumerate() {
        let (text, style) = row.get(*index).map_or(("", Style::Plain), |cell| (&*cell.text, cell.style));
        let last = place + 1 == shown.len();
        let longest = text.split_whitespace().map(|word| word.width()).max().unwrap_or(0);
        if last && place > 0 && look.width.is_some_and(|width| column + longest > width) {
            out.push_str(line.trim_end());
            out.push('\n');
            (line, blanks, column) = (String::new(), indent + INDENT, indent + INDENT);
        }
        let pieces = if last { wrap(text, look.width, column) } else { vec![shorten(text, *width)] };
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 {
                out.push_str(line.trim_end());
                out.push('\n');
                line = String::new();
                blanks = column;
            }
            let padding =
                if last && !columns[*index].right { 0 } else { width.saturating_sub(piece.width()) };
            let (before, after) = if columns[*index].right { (padding, 0) } else { (0, padding) };
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

/// A text of several lines that begins in this column; each line after its first is indented a little.
pub(crate) fn prose(text: &str, column: usize, width: Option<usize>) -> String {
    let text = words::lines(text);
    let mut lines = Vec::new();
    for line in text.split('\n') {
        // What follows the first line of it is indented, so it has a little less room.
        let column = column.max(2);
        lines.extend(wrap(line, width, column));
    }
    lines.join("\n  ")
}

/// Breaks sentences that are too long for a terminal. Tables are as they are to be, and so is what has colours.
pub(crate) fn fit(text: &str, width: Option<usize>) -> String {
    let is_sentence = |line: &str| !line.contains("  ") && !line.contains('\u{1b}');
    let lines =
        text.split('\n').map(|line| if is_sentence(line) { prose(line, 0, width) } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
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
