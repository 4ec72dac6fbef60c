//! A table whose columns align whatever is in them.

use super::paint::width;

/// One cell: its text, and how it is painted once its width is known.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// How it is painted.
    pub tone: Tone,
}

/// How a cell is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Less than it should be.
    Warn,
    /// Broken.
    Bad,
    /// What matters least.
    Faint,
    /// What matters most.
    Strong,
}

impl Cell {
    /// Plain text.
    pub fn new(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            tone: Tone::Plain,
        }
    }

    /// With a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        Cell {
            text: text.into(),
            tone,
        }
    }

    /// Nothing to say.
    pub fn none() -> Cell {
        Cell::toned("–", Tone::Faint)
    }

    fn painted(&self, paint: super::Paint) -> String {
        match self.tone {
            Tone::Plain => self.text.clone(),
            Tone::Good => paint.good(&self.text),
            Tone::Warn => paint.warn(&self.text),
            Tone::Bad => paint.bad(&self.text),
            Tone::Faint => paint.faint(&self.text),
            Tone::Strong => paint.strong(&self.text),
        }
    }
}

/// The width of each column.
pub fn widths(rows: &[Vec<Cell>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(&cell.text))
                .max()
                .unwrap_or(0)
        })
        .collect()
}

/// Columns that the whole table takes.
pub fn total(rows: &[Vec<Cell>]) -> usize {
    let widths = widths(rows);
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// One line a row, columns aligned on the left, nothing after the last word.
pub fn render(rows: &[Vec<Cell>], paint: super::Paint) -> String {
    let widths = widths(rows);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let mut owed = 0;
        for (cell, column) in row.iter().zip(&widths) {
            if !cell.text.is_empty() {
                line.push_str(&" ".repeat(owed));
                line.push_str(&cell.painted(paint));
                owed = 0;
            }
            owed += column + GAP
                - if cell.text.is_empty() {
                    0
                } else {
                    width(&cell.text)
                };
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

const GAP: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::paint::Paint;

    #[test]
    fn columns_align_with_wide_letters_and_with_colour() {
        let rows = vec![
            vec![Cell::new("A"), Cell::new("B"), Cell::new("C")],
            vec![Cell::new("日本"), Cell::none(), Cell::toned("x", Tone::Bad)],
            vec![Cell::new("é"), Cell::new(""), Cell::new("y")],
        ];
        assert_eq!(
            render(&rows, Paint::off()),
            "A     B  C\n日本  –  x\né        y\n"
        );
        let coloured = render(&rows, Paint::on());
        assert!(coloured.contains("\x1b[31mx\x1b[0m"));
        assert_eq!(total(&rows), 10);
    }
}
