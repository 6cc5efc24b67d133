//! Aligned columns.

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings. The last column is not padded.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Columns of words by their heading; a heading that begins with `>` is a column of numbers.
pub(crate) fn columns(headings: &[&'static str]) -> Table {
    let column = |heading: &&'static str| match heading.strip_prefix('>') {
        Some(heading) => (heading, Align::Right),
        None => (*heading, Align::Left),
    };
    Table { columns: headings.iter().map(column).collect(), rows: Vec::new() }
}

impl Table {
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (heading, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index));
                cells.map(|cell| cell.chars().count()).chain([heading.len()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let pad = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line += &format!("{cell}{pad}  "),
                    Align::Right => line += &format!("{pad}{cell}  "),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let mut table = columns(&["TOPIC", ">BYTES", "STATE"]);
        table.row(["a".into(), "1".into(), "ok".into()]);
        table.row(["observation".into(), "12,345,678".into(), String::new()]);
        assert_eq!(
            table.render(),
            "TOPIC             BYTES  STATE\n\
             a                     1  ok\n\
             observation  12,345,678\n"
        );
    }
}
