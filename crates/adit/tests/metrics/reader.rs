//! A strict reader of metrics, of both formats: what it finds wrong is a panic.

use std::collections::{BTreeMap, BTreeSet};

use super::Format;

/// All that a reader of OpenMetrics 1.0 (or of the text format) makes of a text; the fault is a panic.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Name, labels and value.
    pub(crate) samples: Vec<(String, Labels, f64)>,
    /// Family, and what it was said to be.
    pub(crate) kinds: BTreeMap<String, String>,
}

pub(crate) type Labels = Vec<(String, String)>;

impl Read {
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is =
            |of: &Labels| of.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(labels.iter().copied());
        self.samples.iter().find(|(other, of, _)| other == name && is(of)).map(|(_, _, value)| *value)
    }

    /// Holds a text to the rules of the specification: the ABNF, one block per family, suffixes by type, units in names, no sample twice,
    /// histograms that add up, an end.
    pub(crate) fn strictly(text: &str, format: Format) -> Self {
        let mut read = Self::default();
        let mut lines: Vec<&str> = text.strip_suffix('\n').expect("the last line ends").split('\n').collect();
        if format == Format::OpenMetrics {
            assert_eq!(lines.pop(), Some("# EOF"));
        }
        let (mut family, mut about, mut seen) = (String::new(), BTreeSet::new(), BTreeSet::new());
        let mut count = 0;
        for line in lines {
            if let Some(comment) = line.strip_prefix("# ") {
                let (word, rest) = comment.split_once(' ').unwrap();
                let (name, rest) = rest.split_once(' ').unwrap();
                if name != family {
                    assert!(family.is_empty() || count > 0, "{family} has no samples");
                    assert!(!read.kinds.contains_key(name), "{name} comes twice");
                    (family, about, count) = (name.to_owned(), BTreeSet::new(), 0);
                }
                assert!(about.insert(word.to_owned()) && count == 0, "{line}");
                match word {
                    "TYPE" => drop(read.kinds.insert(name.to_owned(), rest.to_owned())),
                    "UNIT" => assert!(format == Format::OpenMetrics && name.ends_with(&format!("_{rest}")), "{line}"),
                    "HELP" => assert!(!rest.is_empty() && !rest.ends_with('.'), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (name, labels, value) = sample_line(line);
            let kind = read.kinds[&family].as_str();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} within {family}"));
            let allowed: &[&str] = match (kind, format) {
                ("counter", Format::OpenMetrics) => &["_total"],
                ("info", Format::OpenMetrics) => &["_info"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                ("counter" | "gauge", _) => &[""],
                _ => panic!("{kind}"),
            };
            assert!(allowed.contains(&suffix), "{name} is a {kind}");
            assert!(!(kind == "gauge" && name.ends_with("_total")), "{name}");
            assert!(kind != "info" || value == 1.0);
            assert!(value.is_finite() && (kind == "gauge" || value >= 0.0), "{line}");
            assert!(seen.insert((name.clone(), labels.clone())), "{line} comes twice");
            count += 1;
            read.samples.push((name, labels, value));
        }
        assert!(count > 0, "{family} has no samples");
        read.check_histograms();
        read
    }

    fn check_histograms(&self) {
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let mut groups: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for (_, labels, value) in self.samples.iter().filter(|(other, ..)| *other == format!("{name}_bucket")) {
                let (rest, le) = labels.split_at(labels.len() - 1);
                assert_eq!(le[0].0, "le");
                groups
                    .entry(rest.to_vec())
                    .or_default()
                    .push((le[0].1.replace("+Inf", "inf").parse().unwrap(), *value));
            }
            assert!(!groups.is_empty());
            for (labels, steps) in groups {
                assert!(steps.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {steps:?}");
                let last = steps.last().unwrap();
                assert!(last.0.is_infinite());
                let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                assert_eq!(self.value(&format!("{name}_count"), &labels), Some(last.1));
                assert!(self.value(&format!("{name}_sum"), &labels).is_some());
            }
        }
    }
}

/// `name{label="value",…} number`, and nothing else: no exemplar, no time.
fn sample_line(line: &str) -> (String, Labels, f64) {
    let is_name = |name: &str| {
        let mut letters = name.chars();
        let first = letters.next().is_some_and(|letter| letter.is_ascii_lowercase());
        first && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    };
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label) && labels.iter().all(|(other, _)| other != label), "{line}");
            let (mut value, mut letters) = (String::new(), after.char_indices());
            let end = loop {
                match letters.next().expect("a value ends") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match letters.next().unwrap().1 {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        other => panic!("\\{other}"),
                    }),
                    (_, letter) => value.push(letter),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let number = rest.strip_prefix(' ').unwrap();
    assert!(number.bytes().all(|byte| byte.is_ascii_digit() || b"-.e".contains(&byte)), "{line}");
    (name.to_owned(), labels, number.parse().unwrap())
}
