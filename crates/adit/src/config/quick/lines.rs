//! The lines of a wg-quick file: `[Section]`, `Key = Value`, `# comment`.

use super::{
    super::{
        document::{Document, Located},
        error::{Error, quoted},
        nearest::nearest,
    },
    shown,
};

/// Which section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Interface,
    Peer,
}

/// The keys of `[Interface]`: those of wg(8), then those of wg-quick(8).
const INTERFACE: &[&str] = &[
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "DNS",
    "MTU",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
];

/// The keys of `[Peer]`.
const PEER: &[&str] = &["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];

/// Longer than every key we know and a slip added.
const LONGEST_KEY: usize = 24;

impl Section {
    fn named(name: &str) -> Option<Self> {
        [Self::Interface, Self::Peer].into_iter().find(|section| section.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Interface => "Interface",
            Self::Peer => "Peer",
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Interface => INTERFACE,
            Self::Peer => PEER,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Interface => Self::Peer,
            Self::Peer => Self::Interface,
        }
    }
}

/// A header and the lines below it.
pub(super) struct Block<'d> {
    pub(super) section: Section,
    /// The header.
    pub(super) span: std::ops::Range<usize>,
    pub(super) entries: Vec<Entry<'d>>,
}

/// One line: a known key, in our spelling, and its value.
pub(super) struct Entry<'d> {
    pub(super) key: Located<&'static str>,
    pub(super) value: Located<&'d str>,
}

/// Whether a text is a wg-quick file rather than TOML: by its section headers; where there is none, by a key of such a file.
pub(in super::super) fn is_wg_quick(text: &str) -> bool {
    let mut first_header = None;
    let mut first_key = None;
    for line in said(text) {
        if let Some(name) = header_name(line.value) {
            if Section::named(name) == Some(Section::Interface) {
                return true;
            }
            first_header = first_header.or(Some(name));
        } else if let (Some((key, _)), None) = (line.value.split_once('='), first_key) {
            first_key = Some(key.trim());
        }
    }
    // TOML has tables of our own, written in lower case.
    first_header.map_or_else(
        || first_key.is_some_and(|key| INTERFACE.iter().chain(PEER).any(|known| *known == key)),
        |name| name == Section::Peer.name(),
    )
}

/// Reads all lines.
pub(super) fn read(document: &Document) -> Result<Vec<Block<'_>>, Error> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in said(&document.text) {
        if line.value.starts_with('[') {
            blocks.push(Block { section: header(document, &line)?, span: line.span, entries: Vec::new() });
        } else {
            let (key, value) = halves(&line);
            let Some(block) = blocks.last_mut() else {
                let sentence = "this line stands before the first section: write [Interface] above it";
                return Err(document.error(&key.span, sentence));
            };
            let entry = entry(document, block.section, &key, value)?;
            block.entries.push(entry);
        }
    }
    Ok(blocks)
}

/// The lines that say anything, without comments and the white space around.
fn said(text: &str) -> impl Iterator<Item = Located<&str>> {
    let is_space = |c: char| c.is_whitespace() || c == '\u{feff}';
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let begin = start;
        start += line.len();
        let line = line.split('#').next().unwrap_or("");
        let begin = begin + line.len() - line.trim_start_matches(is_space).len();
        let said = line.trim_matches(is_space);
        (!said.is_empty()).then(|| Located { value: said, span: begin..begin + said.len() })
    })
}

/// What stands in the brackets of a header.
fn header_name(line: &str) -> Option<&str> {
    Some(line.strip_prefix('[')?.strip_suffix(']')?.trim())
}

fn header(document: &Document, line: &Located<&str>) -> Result<Section, Error> {
    let Some(name) = header_name(line.value) else {
        let sentence = format!("{} is not a section: write [Interface] or [Peer]", shown(line.value));
        return Err(document.error(&line.span, sentence));
    };
    Section::named(name).ok_or_else(|| {
        let hint = match nearest(name, &["Interface", "Peer"]) {
            Some(word) => format!("did you mean [{word}]?"),
            None => "a wg-quick file has [Interface] and [Peer] only".into(),
        };
        document.error(&line.span, format!("unknown section {}; {hint}", shown(line.value)))
    })
}

/// Both sides of the first `=`; without one, the first word and what follows, marked as missing.
fn halves<'d>(line: &Located<&'d str>) -> (Located<&'d str>, Option<Located<&'d str>>) {
    let at = |text: &'d str, from: usize| {
        let begin = from + text.len() - text.trim_start().len();
        let text = text.trim();
        Located { value: text, span: begin..begin + text.len() }
    };
    match line.value.split_once('=') {
        // The first `=` of a line with a key and no sign before it is the end of that key: "PrivateKey abc…=".
        Some((key, value)) if !key.trim().contains(char::is_whitespace) => {
            (at(key, line.span.start), Some(at(value, line.span.start + key.len() + 1)))
        }
        _ => (at(line.value.split_whitespace().next().unwrap_or(""), line.span.start), None),
    }
}

fn entry<'d>(
    document: &Document,
    section: Section,
    key: &Located<&'d str>,
    value: Option<Located<&'d str>>,
) -> Result<Entry<'d>, Error> {
    let find = |keys: &[&'static str]| keys.iter().copied().find(|known| known.eq_ignore_ascii_case(key.value));
    let refuse = |sentence: String| Err(document.error(&key.span, sentence));
    let known = find(section.keys());
    match (known, value) {
        (Some(known), Some(value)) => Ok(Entry { key: Located { value: known, span: key.span.clone() }, value }),
        (Some(known), None) => refuse(format!("there is no '=' after {known}: write {known} = VALUE")),
        (None, _) if key.value.is_empty() => refuse("this line has no key before the '='".into()),
        // What has no place in a key may be a secret, pasted into the wrong line.
        (None, _)
            if key.value.len() > LONGEST_KEY
                || !key.value.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_') =>
        {
            refuse("this line is not of the form KEY = VALUE".into())
        }
        (None, value) => {
            let (place, typed) = (section.name(), quoted(key.value));
            if let Some(elsewhere) = find(section.other().keys()) {
                return refuse(format!(
                    "{elsewhere} has no meaning in [{place}]; it belongs in [{}]",
                    section.other().name()
                ));
            }
            let hint = match nearest(key.value, section.keys()) {
                Some(word) => format!("did you mean \"{word}\"?"),
                None if value.is_none() => "a line is of the form KEY = VALUE".into(),
                None => format!("known here: {}", section.keys().join(", ")),
            };
            refuse(format!("unknown key {typed} in [{place}]; {hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_shows_in_its_headers() {
        for text in [
            "[Interface]",
            "# a\n\n  [interface] # b\r\n",
            "[Peer]\nPublicKey = x",
            "\u{feff}[Interface]\n",
            "[peer]\n[INTERFACE]\n",
            "PrivateKey = x\n",
            "[ Interface ]",
        ] {
            assert!(is_wg_quick(text), "{text:?}");
        }
        for text in
            ["", "[device]\n", "[[peer]]\n", "[peer]\nname = 1\n", "private-key = 1", "# [Interface]", "[Interface"]
        {
            assert!(!is_wg_quick(text), "{text:?}");
        }
    }
}
