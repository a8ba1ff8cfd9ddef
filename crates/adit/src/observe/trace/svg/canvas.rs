//! The elements that the figure is made of. All text goes through [`escaped`].

use std::fmt::Write as _;

/// Where something is, and how large.
pub(super) type Point = (i32, i32);

/// A picture that grows.
pub(super) struct Canvas {
    width: i32,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: i32) -> Self {
        Self { width, body: String::new() }
    }

    pub(super) fn width(&self) -> i32 {
        self.width
    }

    pub(super) fn body(self) -> String {
        self.body
    }

    pub(super) fn text(&mut self, class: &str, x: i32, y: i32, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.body, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
    }

    pub(super) fn rect(&mut self, class: &str, (x, y): Point, (width, height): Point, round: i32) {
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\"/>"
        );
    }

    pub(super) fn circle(&mut self, class: &str, (x, y): Point, radius: i32) {
        let _ = writeln!(self.body, "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>");
    }

    pub(super) fn line(&mut self, class: &str, (x, y): Point, (to_x, to_y): Point) {
        let _ = writeln!(self.body, "<path class=\"{class}\" d=\"M{x} {y}L{to_x} {to_y}\"/>");
    }

    /// A line with a tip at its end.
    pub(super) fn arrow(&mut self, points: &[Point]) {
        let mut way = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let _ = write!(way, "{}{x} {y}", if number == 0 { 'M' } else { 'L' });
        }
        let _ = writeln!(self.body, "<path class=\"way\" d=\"{way}\" marker-end=\"url(#adit-trace-tip)\"/>");
    }

    /// Opens a group that shows `title` where the pointer rests.
    pub(super) fn begin(&mut self, title: &str) {
        let _ = writeln!(self.body, "<g><title>{}</title>", escaped(title));
    }

    /// Closes it.
    pub(super) fn end(&mut self) {
        self.body.push_str("</g>\n");
    }
}

/// `text` as XML: what has a meaning there is written out, and what may not stand there at all (XML 1.0, section 2.2) is replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\0'..'\u{20}' | '\u{7f}'..'\u{a0}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        assert_eq!(escaped("<script>&\"'\u{1b}]"), "&lt;script&gt;&amp;&quot;&#39;\u{fffd}]");
    }
}
