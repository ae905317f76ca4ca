//! Tables without borders: columns two blanks apart, numbers to the right.

use std::fmt;

use comfy_table::{CellAlignment, Color, ContentArrangement, presets};

use super::paint::clean;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// To the left.
    Text(&'static str),
    /// To the right.
    Number(&'static str),
}

/// How a cell feels. Colour only repeats what its text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Something to look at.
    Notable,
    /// Something is wrong.
    Bad,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A table without borders. Displays with colour and without a last newline; see [`super::plain`].
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. Missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).enforce_styling();
        table.style_text_only();
        let names = self.columns.iter().map(|column| match column {
            Column::Text(name) | Column::Number(name) => *name,
        });
        table.set_header(names);
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let shown = comfy_table::Cell::new(clean(&cell.text));
                match cell.tone {
                    Tone::Plain => shown,
                    Tone::Good => shown.fg(Color::DarkGreen),
                    Tone::Notable => shown.fg(Color::DarkYellow),
                    Tone::Bad => shown.fg(Color::DarkRed),
                }
            }));
        }
        for (index, column) in self.columns.iter().enumerate() {
            if let Some(shown) = table.column_mut(index) {
                shown.set_padding((0, 2));
                if matches!(column, Column::Number(_)) {
                    shown.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        f.write_str(&table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::paint::plain, *};

    #[test]
    fn columns_line_up_without_borders() {
        let mut table = Table::new([Column::Text("host"), Column::Number("changed"), Column::Text("health")]);
        table.row(["etcd".into(), "3".into(), Cell::new("healthy", Tone::Good)]);
        table.row(["controller".into(), "12".into(), Cell::new("failed", Tone::Bad)]);
        let text = table.to_string();
        assert!(text.contains('\u{1b}'), "the tones are coloured");
        assert_eq!(
            plain(&text),
            "host        changed  health\netcd              3  healthy\ncontroller       12  failed"
        );
    }
}
