//! What a line of the log looks like.

use std::fmt::{self, Write};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// What is said of an event.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) level: Level,
    /// The module that says it.
    pub(super) target: String,
    pub(super) message: String,
    pub(super) fields: Map<String, Value>,
}

/// What the crate `log` says comes under this name, with its own in a field.
const OTHERS: &str = "log";

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        let mut line = Self { level, target, message: String::new(), fields: Map::new() };
        event.record(&mut line);
        if line.target == OTHERS {
            if let Some(Value::String(target)) = line.fields.remove("log.target") {
                line.target = target;
            }
            line.fields.retain(|name, _| !name.starts_with("log."));
        }
        line
    }

    /// Time, level, module, sentence, fields. Control characters are spelled out: they would begin another line, or do things to a terminal.
    pub(super) fn text(&self, now: SystemTime, colours: bool) -> String {
        // ECMA-48, SGR: faint, red, yellow, green, blue, magenta, and none.
        let paint = |code: &str| if colours { format!("\u{1b}[{code}m") } else { String::new() };
        let (faint, plain) = (paint("2"), paint("0"));
        let colour = paint(match self.level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG => "34",
            Level::TRACE => "35",
        });
        let (time, level) = (humantime::format_rfc3339_micros(now), self.level.as_str());
        let mut text = format!("{faint}{time}{plain} {colour}{level:>5}{plain} {faint}{}:{plain} ", self.target);
        spell(&self.message, &mut text);
        for (name, value) in &self.fields {
            let _ = write!(text, " {name}=");
            spell(&value.to_string(), &mut text);
        }
        text.push('\n');
        text
    }

    /// One object with the fields `time`, `level`, `target`, `thread`, `message`, and what else is said in `fields`.
    pub(super) fn json(&self, now: SystemTime, thread: Option<&str>) -> String {
        let mut object = Map::new();
        object.insert("time".into(), humantime::format_rfc3339_micros(now).to_string().into());
        object.insert("level".into(), self.level.as_str().to_ascii_lowercase().into());
        object.insert("target".into(), self.target.clone().into());
        object.insert("thread".into(), thread.into());
        object.insert("message".into(), self.message.clone().into());
        if !self.fields.is_empty() {
            object.insert("fields".into(), self.fields.clone().into());
        }
        Value::Object(object).to_string() + "\n"
    }

    fn note(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.note(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message = value.into() } else { self.note(field, value.into()) }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, value.into());
    }
}

/// The text with control characters spelled out.
fn spell(text: &str, to: &mut String) {
    for letter in text.chars() {
        if letter.is_control() {
            to.extend(letter.escape_default());
        } else {
            to.push(letter);
        }
    }
}
