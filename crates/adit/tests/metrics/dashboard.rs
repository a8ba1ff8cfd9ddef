//! The dashboard and the alarms of the documentation ask for what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use adit::observe::metrics::exposition::{Family, Kind};
use adit::observe::metrics::families;
use serde_json::Value;

use crate::promtool;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// All texts under one of these keys, wherever they are.
fn texts<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => found.push(text),
                    value => texts(value, keys, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&file("packaging/grafana/adit.json")).unwrap()
}

/// The names of samples that a family has.
fn samples(family: &Family) -> Vec<String> {
    let suffixes: &[&str] = match family.kind {
        Kind::Histogram => &["_bucket", "_sum", "_count"],
        _ => &[family.suffix()],
    };
    suffixes.iter().map(|suffix| format!("{}{suffix}", family.name)).collect()
}

/// Each `adit_…` in an expression, with the names of the labels that it is narrowed by.
fn asked(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("adit_") {
        let name: String = expression[at..].chars().take_while(|letter| is_part(*letter)).collect();
        let rest = &expression[at + name.len()..];
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = inside.split(", ").filter(|part| !part.is_empty());
        let labels = labels.map(|part| part.chars().take_while(|letter| is_part(*letter)).collect());
        found.push((name, labels.collect()));
    }
    found
}

fn check(expression: &str) -> BTreeSet<&'static str> {
    let mut families = BTreeSet::new();
    for (name, labels) in asked(expression) {
        let family = families::ALL.iter().find(|family| samples(family).contains(&name));
        let family = family.unwrap_or_else(|| panic!("there is no {name}, which this asks for: {expression}"));
        for label in labels {
            let known = family.labels.contains(&label.as_str()) || ["instance", "le"].contains(&label.as_str());
            assert!(known, "{name} has no label {label}: {expression}");
        }
        families.insert(family.name);
    }
    assert!(!families.is_empty(), "{expression} asks for nothing of ours");
    families
}

/// Prometheus itself takes all of these.
fn is_valid(expressions: &[String]) {
    let mut rules = String::from("groups:\n- name: of_a_test\n  rules:\n");
    for (number, expression) in expressions.iter().enumerate() {
        rules += &format!("  - record: test:number:{number}\n    expr: {}\n", Value::from(expression.as_str()));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.yml");
    fs::write(&path, rules).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_there_are() {
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    texts(&dashboard, &["expr"], &mut expressions);
    assert!(expressions.len() > 30, "{}", expressions.len());
    let shown: BTreeSet<&str> = expressions.iter().flat_map(|expression| check(expression)).collect();
    assert!(shown.len() > 20, "{shown:?}");
    let filled = |text: &&str| text.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$peer", ".*");
    let filled: Vec<String> = expressions.iter().map(filled).collect();
    assert!(filled.iter().all(|text| !text.contains('$')), "{filled:#?}");
    is_valid(&filled);
    let mut definitions = Vec::new();
    texts(&dashboard, &["definition"], &mut definitions);
    assert_eq!(definitions.len(), 2);
    definitions.iter().for_each(|definition| drop(check(definition)));
}

#[test]
fn panels_have_titles_and_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for panel in panels {
        assert!(numbers.insert(panel["id"].as_u64().unwrap()) && !panel["title"].as_str().unwrap().is_empty());
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
        let legends = panel["targets"].as_array().into_iter().flatten();
        for legend in legends.filter_map(|target| target["legendFormat"].as_str()) {
            for label in legend.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(label, _)| label) {
                let known = families::ALL.iter().any(|family| family.labels.contains(&label));
                assert!(known || label == "instance", "{label} in {legend}");
            }
        }
    }
}

#[test]
fn the_alarms_of_the_documentation_ask_for_what_there_is() {
    let page = file("docs/METRICS.md");
    let (_, rest) = page.split_once("```promql\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let expressions: Vec<String> =
        block.lines().map(|line| line.split_once('#').map_or(line, |(before, _)| before).trim().to_owned()).collect();
    assert!(expressions.len() > 5);
    expressions.iter().for_each(|expression| drop(check(expression)));
    is_valid(&expressions);
}
