//! Columns of text, as wide as they must be.

/// Rows under a header. Cells come from others (names, sentences of a daemon), so control characters are replaced: they
/// could do things to a terminal.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

/// The text with every control character replaced.
pub fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Text of one or more lines with none longer than `width` where words allow it; what goes on is set in by two spaces.
pub fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut current = words.next().unwrap_or_default().to_owned();
        for word in words {
            if current.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::replace(&mut current, format!("  {word}")));
            } else {
                current.push(' ');
                current.push_str(word);
            }
        }
        lines.push(current);
    }
    lines.join("\n")
}

impl Table {
    /// A table with these column titles.
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// The table with `indent` spaces before each line and a line feed after it; no spaces at the ends of lines.
    pub fn render(&self, indent: usize) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below() {
        assert_eq!(wrap("one two three\n\n  four", 8), "one two\n  three\n\n  four");
        assert_eq!(wrap("supercalifragilistic x", 8), "supercalifragilistic\n  x");
        assert_eq!(wrap("", 8), "");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["PEER", "AT"]);
        table.row(["bérlin".to_owned(), "a".to_owned()]);
        table.row(["x\n\u{1b}[2J".to_owned(), String::new()]);
        assert_eq!(table.render(2), "  PEER    AT\n  bérlin  a\n  x\u{fffd}\u{fffd}[2J\n");
        assert_eq!(Table::new(&[]).render(0), "\n");
    }
}
