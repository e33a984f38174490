//! Lists for people: aligned columns, cut to the terminal's width; whole and plain where a program reads.

use std::io::IsTerminal as _;

use anstyle::Style;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};

use super::{Stop, paint, print};
use crate::template::one_line;

/// The width of the widest label of [`fields`], and two spaces.
const LABEL: usize = 13;

/// The space between columns.
const GAP: u16 = 2;

/// What is left at least of the last column, and of another one that is cut.
const LAST_MIN: u16 = 12;
const CUT_MIN: u16 = 8;

/// Rows under a header. Where the terminal is too narrow, columns are cut.
pub(super) struct Table {
    table: comfy_table::Table,
    styles: Vec<Style>,
    /// The widths of the header's words.
    headers: Vec<u16>,
    /// The columns that are never cut: ids and names, which are typed again.
    whole: Vec<usize>,
}

impl Table {
    /// No rows yet.
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
            styles: vec![paint::DIM],
            headers: header.iter().map(width).collect(),
            whole: Vec::new(),
        }
    }

    /// Columns that are never cut.
    pub(super) fn whole(mut self, columns: &[usize]) -> Self {
        self.whole.extend(columns);
        self
    }

    /// Numbers, which align at their ends.
    pub(super) fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(column) = self.table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row. No cell can act on the terminal, wherever it comes from.
    pub(super) fn row<const N: usize>(&mut self, style: Style, cells: [String; N]) {
        let mut row = Row::from(cells.map(|cell| one_line(&cell)));
        row.max_height(1);
        self.table.add_row(row);
        self.styles.push(style);
    }

    /// Prints it; nothing but a remark on standard error when it has no rows.
    pub(super) fn print(mut self, nothing: &str) -> Result<(), Stop> {
        if self.table.is_empty() {
            print::remark(nothing);
            return Ok(());
        }
        print::text(&self.render(terminal_width()))
    }

    /// The lines, no wider than `width` if there is one.
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
            .map(|(line, style)| paint::on_stdout(*style, line.trim_end()) + "\n")
            .collect()
    }

    /// Makes columns narrower until the table fits: first the last one, then the widest of the others that may be cut.
    /// A cell is cut anywhere in a word: there is no other delimiter than one that no cell contains.
    fn fit(&mut self, width: u16) {
        let mut widths = self.table.column_max_content_widths();
        let gaps = GAP.saturating_mul(u16::try_from(widths.len()).unwrap_or(u16::MAX).saturating_sub(1));
        let mut excess = widths
            .iter()
            .fold(gaps, |sum, width| sum.saturating_add(*width))
            .saturating_sub(width);
        let last = widths.len().saturating_sub(1);
        let least = |column: usize| {
            let header = self.headers.get(column).copied().unwrap_or_default();
            header.max(if column == last { LAST_MIN } else { CUT_MIN })
        };
        if let Some(width) = widths.last_mut() {
            let cut = excess.min(width.saturating_sub(least(last)));
            *width -= cut;
            excess -= cut;
        }
        while excess > 0 {
            let cuttable = (0..last).filter(|column| !self.whole.contains(column));
            let wide =
                cuttable.filter(|&column| widths.get(column).is_some_and(|&width| width > least(column)));
            let widest = wide.max_by_key(|&column| widths.get(column));
            let Some(width) = widest.and_then(|column| widths.get_mut(column)) else {
                break;
            };
            *width -= 1;
            excess -= 1;
        }
        self.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_delimiter('\0')
            .set_width(u16::MAX);
        for (at, (column, width)) in self.table.column_iter_mut().zip(widths).enumerate() {
            let padding = if at == last { 0 } else { GAP };
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width + padding)));
        }
    }
}

/// The terminal's width, if standard output is one.
pub(super) fn terminal_width() -> Option<u16> {
    let out = std::io::stdout();
    out.is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&out).ok())
        .flatten()
        .map(|size| size.ws_col)
        .filter(|&columns| columns > 0)
}

/// Labels and values, one below the other; fields without a value are left out.
pub(super) fn fields(fields: &[(&str, Option<String>)]) -> String {
    fields
        .iter()
        .filter_map(|(label, value)| {
            let value = one_line(value.as_ref()?);
            let label = paint::on_stdout(paint::DIM, &format!("{label:LABEL$}"));
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
    fn columns_align_and_no_cell_acts() {
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
}
