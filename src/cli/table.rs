//! Lists: for a terminal with aligned columns cut to its width, for a program complete and plain.

use std::io::IsTerminal as _;

use anstyle::Style;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};

use super::{CommandError, print, style};
use crate::template::one_line;

/// The width of the widest label of [`fields`], and two spaces.
const LABEL: usize = 13;

/// The space between columns.
const GAP: u16 = 2;

/// On a terminal narrower than this, lines are too long.
const SQUEEZED_MIN: u16 = 40;

/// The minimum width of the last column, and of another column that is cut.
const LAST_MIN: u16 = 12;
const CUT_MIN: u16 = 8;

/// Rows under a header. On a narrow terminal, columns are cut.
pub(super) struct Table {
    table: comfy_table::Table,
    styles: Vec<Style>,
    /// The widths of the header's cells.
    headers: Vec<u16>,
    /// The columns that are never cut: ids, names and states.
    whole: Vec<usize>,
    /// The columns that are omitted on a narrow terminal, in this order.
    optional: Vec<usize>,
}

impl Table {
    /// Creates a table without rows.
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        let last = header.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if at == last { 0 } else { GAP }));
        }
        let width = |word: &&str| u16::try_from(word.len()).unwrap_or(u16::MAX);
        Self {
            table,
            styles: vec![style::DIM],
            headers: header.iter().map(width).collect(),
            whole: Vec::new(),
            optional: Vec::new(),
        }
    }

    /// Marks columns that are never cut.
    pub(super) fn whole(mut self, columns: &[usize]) -> Self {
        self.whole.extend(columns);
        self
    }

    /// Marks columns that are omitted, in this order, if the terminal is too narrow for all.
    pub(super) fn optional(mut self, columns: &[usize]) -> Self {
        self.optional.extend(columns);
        self
    }

    /// Marks columns of numbers, which are aligned to the right.
    pub(super) fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(column) = self.table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row. Cells are escaped for the terminal.
    pub(super) fn row<const N: usize>(&mut self, style: Style, cells: [String; N]) {
        let mut row = Row::from(cells.map(|cell| one_line(&cell)));
        row.max_height(1);
        self.table.add_row(row);
        self.styles.push(style);
    }

    /// Prints the table; without rows, prints `nothing` on standard error.
    pub(super) fn print(mut self, nothing: &str) -> Result<(), CommandError> {
        if self.table.is_empty() {
            print::remark(nothing);
            return Ok(());
        }
        print::text(&self.render(terminal_width()))
    }

    /// The lines, limited to `width` if given.
    pub(super) fn render(&mut self, width: Option<u16>) -> String {
        match width {
            Some(width) => self.fit(width),
            None => {
                self.table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        self.table
            .lines()
            .zip(&self.styles)
            .map(|(line, style)| style::on_stdout(*style, line.trim_end()) + "\n")
            .collect()
    }

    /// Narrows columns until the table fits: first the last one, then the widest of the others that may be cut. If
    /// that is not enough, optional columns are omitted. A cell may be cut inside a word: the delimiter is set to one
    /// that no cell contains.
    fn fit(&mut self, width: u16) {
        let full = self.table.column_max_content_widths();
        let mut shown: Vec<usize> = (0..full.len()).collect();
        let mut optional = self.optional.iter();
        let mut widths = self.cut(&full, &shown, width);
        while total(&widths) > width
            && let Some(left_out) = optional.next()
        {
            shown.retain(|column| column != left_out);
            widths = self.cut(&full, &shown, width);
        }
        if width >= SQUEEZED_MIN {
            squeeze(&mut widths, width);
        }
        self.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_delimiter('\0')
            .set_width(u16::MAX);
        let last = shown.last().copied();
        let mut widths = widths.into_iter();
        for (at, column) in self.table.column_iter_mut().enumerate() {
            if !shown.contains(&at) {
                column.set_constraint(ColumnConstraint::Hidden);
                continue;
            }
            let padding = if Some(at) == last { 0 } else { GAP };
            column.set_padding((0, padding));
            let width = widths.next().unwrap_or_default().saturating_add(padding);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
        }
    }

    /// The widths of these columns, cut as far as allowed until they fit.
    fn cut(&self, full: &[u16], shown: &[usize], width: u16) -> Vec<u16> {
        let mut widths: Vec<u16> = shown
            .iter()
            .filter_map(|&column| full.get(column).copied())
            .collect();
        let last = widths.len().saturating_sub(1);
        let least = |at: usize| {
            let column = shown.get(at).copied().unwrap_or_default();
            let header = self.headers.get(column).copied().unwrap_or_default();
            let is_whole = self.whole.contains(&column);
            match (is_whole, at == last) {
                (true, _) => u16::MAX,
                (false, true) => header.max(LAST_MIN),
                (false, false) => header.max(CUT_MIN),
            }
        };
        let excess = total(&widths).saturating_sub(width);
        if let Some(width) = widths.last_mut() {
            *width -= excess.min(width.saturating_sub(least(last)));
        }
        while total(&widths) > width {
            let wide = (0..last).filter(|&at| widths.get(at).is_some_and(|&width| width > least(at)));
            let widest = wide.max_by_key(|&at| widths.get(at));
            let Some(width) = widest.and_then(|at| widths.get_mut(at)) else {
                break;
            };
            *width -= 1;
        }
        widths
    }
}

/// The width of a table with columns of these widths.
fn total(widths: &[u16]) -> u16 {
    let gaps = GAP.saturating_mul(u16::try_from(widths.len()).unwrap_or(u16::MAX).saturating_sub(1));
    widths.iter().fold(gaps, |sum, width| sum.saturating_add(*width))
}

/// Narrows the widest columns for a terminal that is too narrow even for the columns that are normally never cut.
fn squeeze(widths: &mut [u16], width: u16) {
    while total(widths) > width {
        let widest = widths.iter_mut().max_by_key(|width| **width);
        match widest {
            Some(widest) if *widest > 1 => *widest -= 1,
            _ => return,
        }
    }
}

/// Breaks a line between words so that it is not wider than `width` if given; only a word wider than a line is
/// broken. `before` is the width of the text before it, and the indentation of the following lines.
pub(super) fn wrapped(line: &str, before: usize, width: Option<u16>) -> String {
    let room = match width.map(usize::from) {
        Some(width) if width > before + 1 => width - before,
        _ => return line.to_owned(),
    };
    let mut lines: Vec<String> = Vec::new();
    let mut current = String::new();
    let mut length = 0;
    for word in line.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if !current.is_empty() && length + 1 + rest.len() > room {
            lines.push(std::mem::take(&mut current));
            length = 0;
        } else if !current.is_empty() {
            current.push(' ');
            length += 1;
        }
        while rest.len() > room {
            lines.push(rest.drain(..room).collect());
        }
        length += rest.len();
        current.extend(rest);
    }
    lines.push(current);
    lines.join(&format!("\n{}", " ".repeat(before)))
}

/// The terminal's width; `None` if standard output is not a terminal.
pub(super) fn terminal_width() -> Option<u16> {
    let out = std::io::stdout();
    out.is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&out).ok())
        .flatten()
        .map(|size| size.ws_col)
        .filter(|&columns| columns > 0)
}

/// Labels and values, one pair per line; fields without a value are omitted.
pub(super) fn fields(fields: &[(&str, Option<String>)]) -> String {
    fields_within(fields, terminal_width())
}

/// Like [`fields`], limited to `width` if given.
pub(super) fn fields_within(fields: &[(&str, Option<String>)], width: Option<u16>) -> String {
    fields
        .iter()
        .filter_map(|(label, value)| {
            let value = wrapped(&one_line(value.as_ref()?), LABEL, width);
            let label = style::on_stdout(style::DIM, &format!("{label:LABEL$}"));
            Some(format!("{label}{value}\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ID", "N", "TEXT"]).right(&[1]);
        let row = |id: &str, n: u32, text: &str| [id.to_owned(), n.to_string(), text.to_owned()];
        table.row(Style::new(), row("a", 7, "A long text\nthat goes on and on"));
        table.row(Style::new(), row("bbbb", 12345, "\u{1b}[31mred\u{202e}"));
        table
    }

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        assert_eq!(
            table().render(None),
            "ID        N  TEXT\n\
             a         7  A long text that goes on and on\n\
             bbbb  12345  [U+001B][31mred[U+202E]\n"
        );
    }

    #[test]
    fn the_last_column_is_cut_first_and_each_row_stays_a_line() {
        for (width, end) in [(36, "A long text that goes …"), (10, "A long text…")] {
            let shown = table().render(Some(width));
            let lines: Vec<&str> = shown.lines().collect();
            assert_eq!(lines.len(), 3, "{shown}");
            assert!(
                lines[1].starts_with("a         7  A long text") && lines[1].ends_with(end),
                "{shown}"
            );
        }
    }

    #[test]
    fn wide_columns_are_cut_but_ids_are_not() {
        let mut table = Table::new(&["ID", "NAME", "TEXT"]).whole(&[0]);
        let cells = [
            "0123456789abcdef",
            "A contact with a long name",
            "A text that is long, too",
        ];
        table.row(Style::new(), cells.map(str::to_owned));
        assert_eq!(
            table.render(Some(46)),
            "ID                NAME            TEXT\n\
             0123456789abcdef  A contact wit…  A text that…\n"
        );
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let shown = fields(&[("from", Some("\u{1b}c".to_owned())), ("route", None)]);
        assert_eq!(shown, "from         [U+001B]c\n");
    }

    #[test]
    fn lines_break_between_words_and_only_overlong_words_are_broken() {
        let line = "destination crm has been down for 10m: `smsbridge delivery list --destination crm`";
        for width in [60, 80] {
            let shown = wrapped(line, 4, Some(width));
            assert!(shown.lines().count() > 1, "{shown}");
            for line in shown.lines().skip(1) {
                assert!(
                    line.starts_with("    ") && line.chars().count() <= usize::from(width),
                    "{shown}"
                );
            }
            assert_eq!(shown.split_whitespace().collect::<Vec<_>>().join(" "), line);
        }
        assert_eq!(
            wrapped("ab abcdefghij c", 2, Some(6)),
            "ab\n  abcd\n  efgh\n  ij c"
        );
        assert_eq!(wrapped(line, 4, None), line);
        let shown = fields_within(&[("state", Some(line.to_owned()))], Some(60));
        assert!(shown.lines().all(|line| line.chars().count() <= 60), "{shown}");
    }

    #[test]
    fn optional_columns_are_left_out_before_a_table_is_too_wide() {
        let mut table = Table::new(&["ID", "STATE", "NAME", "TEXT"])
            .whole(&[0, 1])
            .optional(&[2, 3]);
        let cells = [
            "0123456789abcdef",
            "dead, acknowledged",
            "A contact",
            "A text that is long",
        ];
        table.row(Style::new(), cells.map(str::to_owned));
        for width in [60, 50, 40] {
            let shown = table.render(Some(width));
            assert!(
                shown
                    .lines()
                    .all(|line| line.chars().count() <= usize::from(width)),
                "{width}: {shown}"
            );
            assert!(shown.contains("dead, acknowledged"), "{width}: {shown}");
        }
    }
}
