//! Lists for people: aligned columns, cut to the terminal's width; whole and plain where a program reads.

use std::io::IsTerminal as _;

use anstyle::Style;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, presets};

use super::{Stop, paint, print};
use crate::template::one_line;

/// The width of the widest label of [`fields`], and two spaces.
const LABEL: usize = 13;

/// What is left of the last column at least.
const LAST_MIN: u16 = 20;

/// Rows under a header. The last column is the one that may be cut.
pub(super) struct Table {
    table: comfy_table::Table,
    styles: Vec<Style>,
}

impl Table {
    /// No rows yet.
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        let last = header.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if at == last { 0 } else { 2 }));
        }
        Self {
            table,
            styles: vec![paint::DIM],
        }
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
            Some(width) => self.cut_last_column(width),
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

    /// Anywhere in a word: there is no other delimiter than one that no cell contains. Where next to nothing
    /// would be left of the last column, the terminal may break the lines instead.
    fn cut_last_column(&mut self, width: u16) {
        let widths = self.table.column_max_content_widths();
        let last = widths.len().saturating_sub(1);
        let others: u16 = widths
            .iter()
            .take(last)
            .map(|width| width.saturating_add(2))
            .sum();
        self.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_delimiter('\0')
            .set_width(width.max(others.saturating_add(LAST_MIN)));
        for column in self.table.column_iter_mut().take(last) {
            column.set_constraint(ColumnConstraint::ContentWidth);
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
    fn only_the_last_column_is_cut_and_each_row_stays_a_line() {
        for (width, end) in [(36, "A long text that goes …"), (10, "A long text that go…")] {
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
    fn fields_without_a_value_are_left_out() {
        let shown = fields(&[("from", Some("\u{1b}c".to_owned())), ("route", None)]);
        assert_eq!(shown, "from         [U+001B]c\n");
    }
}
