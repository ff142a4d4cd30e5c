//! Columns without lines around them.

use comfy_table::{ContentArrangement, presets};

use super::printable::printable;
use crate::output::Output;

/// Columns of a terminal that tables are still narrowed to.
const NARROWEST: u16 = 40;

/// Rows under headings.
pub(crate) struct Table {
    table: comfy_table::Table,
}

impl Table {
    /// A table with these headings; narrowed to the terminal, whole elsewhere.
    pub(crate) fn new(out: &Output, headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        // Some terminals do not know how wide they are and say 0.
        let is_narrowed = out.stdout_is_terminal && table.width().is_some_and(|columns| columns >= NARROWEST);
        table.set_content_arrangement(if is_narrowed { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
        table.set_header(headings.iter().copied());
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table }
    }

    /// Adds a row; what other people wrote in it cannot steer the terminal.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(|cell| printable(&cell.into())));
    }

    /// The text, without white space at the ends of lines.
    pub(crate) fn text(&self) -> String {
        self.table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Color, Format};

    #[test]
    fn columns_align_and_text_cannot_steer_the_terminal() {
        let out = Output::new(Format::Table, Color::Never, false);
        let mut table = Table::new(&out, &["ID", "ERROR"]);
        table.row(["j-abc123", "red \x1b[31m\nsecond line"]);
        table.row(["j", ""]);
        assert_eq!(table.text(), "ID        ERROR\nj-abc123  red \u{fffd}[31m\nj");
    }
}
