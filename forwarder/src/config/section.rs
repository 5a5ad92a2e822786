//! A table of the configuration that is read key by key, so that each refusal names the key, its line and a way out.
//!
//! Serde would name a wrong type in Rust's words and a missing key without its line; an operator needs neither.
//! Opening a section refuses the keys it does not know before any other complaint: a misspelt key is not "missing".

use std::{ops::RangeInclusive, str::FromStr};

use anyhow::{anyhow, bail};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One table with the text it comes from.
pub(super) struct Section<'a> {
    text: &'a str,
    title: &'static str,
    start: usize,
    table: &'a DeTable<'a>,
}

/// An entry of a list that holds numbers and texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Number(i128),
    Text(&'a str),
}

/// Keys of all sections by title, to say where a key belongs that stands in the wrong one.
pub(super) type Layout = &'static [(&'static str, &'static [&'static str])];

impl<'a> Section<'a> {
    /// The whole of `text`, parsed as `table`.
    pub(super) fn top(text: &'a str, layout: Layout, table: &'a DeTable<'a>) -> anyhow::Result<Self> {
        Self { text, title: "", start: 0, table }.known_keys(layout)
    }

    /// A refusal of the value of `key`: `line N: `key` …`, where `what` ends with the hint.
    pub(super) fn refuse(&self, key: &str, what: &str) -> anyhow::Error {
        let start = self.table.get(key).map_or(self.start, |value| value.span().start);
        anyhow!("line {}: `{key}`{} {what}", line_of(self.text, start), self.place())
    }

    /// What must be there; `example` is the line to add.
    pub(super) fn need<T>(&self, key: &str, value: Option<T>, example: &str) -> anyhow::Result<T> {
        value.ok_or_else(|| match self.title {
            "" => anyhow!("`{key}` is missing; hint: add a line like `{example}`"),
            _ => self.refuse(key, &format!("is missing; hint: add a line like `{example}`")),
        })
    }

    /// A whole number.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> anyhow::Result<Option<u64>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let number = value.get_ref().as_integer().and_then(|n| i128::from_str_radix(n.as_str(), n.radix()).ok());
        let found = number.and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        let (low, high) = (range.start(), range.end());
        found.map(Some).ok_or_else(|| {
            let is = describe(value.get_ref());
            self.refuse(key, &format!("is {is}; hint: give a whole number from {low} to {high}"))
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str, hint: &str) -> anyhow::Result<Option<&'a str>> {
        self.table.get(key).map(|value| self.text_of(key, value.get_ref(), hint)).transpose()
    }

    /// A text of some form; `hint` says which.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, hint: &str) -> anyhow::Result<Option<T>> {
        self.text(key, hint)?.map(|text| self.parse(key, text, hint)).transpose()
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str, hint: &str) -> anyhow::Result<Option<Vec<&'a str>>> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let Some(list) = value.get_ref().as_array() else {
            return Err(self.refuse(key, &format!("is {}; hint: {hint}", describe(value.get_ref()))));
        };
        list.iter().map(|item| self.text_of(key, item.get_ref(), hint)).collect::<anyhow::Result<_>>().map(Some)
    }

    /// A list of numbers and texts; empty where the key is not there.
    pub(super) fn items(&self, key: &str, hint: &str) -> anyhow::Result<Vec<Item<'a>>> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let refuse = |value: &DeValue<'_>| self.refuse(key, &format!("is {}; hint: {hint}", describe(value)));
        let list = value.get_ref().as_array().ok_or_else(|| refuse(value.get_ref()))?;
        let item = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::String(text) => Ok(Item::Text(text)),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map(Item::Number)
                .map_err(|_| self.refuse(key, &format!("has {number}; hint: {hint}"))),
            other @ (DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_)) => Err(self.refuse(key, &format!("has {}; hint: {hint}", describe(other)))),
        };
        list.iter().map(item).collect()
    }

    /// `text`, a value of `key`, as a `T`.
    pub(super) fn parse<T: FromStr>(&self, key: &str, text: &str, hint: &str) -> anyhow::Result<T> {
        text.parse().map_err(|_| self.refuse(key, &format!("is \"{text}\"; hint: {hint}")))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> anyhow::Result<Option<T>> {
        let list = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let hint = format!("give one of {list}");
        let Some(text) = self.text(key, &hint)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| self.refuse(key, &format!("is \"{text}\"; hint: {hint}")))
    }

    /// A table below this one.
    pub(super) fn section(&self, key: &str, title: &'static str, layout: Layout) -> anyhow::Result<Option<Self>> {
        self.table.get(key).map(|value| self.below(key, title, layout, value)).transpose()
    }

    /// A list of tables below this one.
    pub(super) fn sections(&self, key: &str, title: &'static str, layout: Layout) -> anyhow::Result<Vec<Self>> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let Some(list) = value.get_ref().as_array() else {
            return Err(self.refuse(key, &format!("is {}; hint: write `[[{key}]]`", describe(value.get_ref()))));
        };
        list.iter().map(|item| self.below(key, title, layout, item)).collect()
    }

    fn below(
        &self,
        key: &str,
        title: &'static str,
        layout: Layout,
        value: &'a Spanned<DeValue<'a>>,
    ) -> anyhow::Result<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.refuse(key, &format!("is {}; hint: it is a table", describe(value.get_ref()))));
        };
        Self { text: self.text, title, start: value.span().start, table }.known_keys(layout)
    }

    fn known_keys(self, layout: Layout) -> anyhow::Result<Self> {
        let known = layout.iter().find(|(title, _)| *title == self.title).map_or(&[][..], |(_, keys)| keys);
        // In the order of the file: the first mistake is the one to name.
        let unknown = self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(self) };
        let (line, name) = (line_of(self.text, key.span().start), key.get_ref());
        bail!("line {line}: unknown key `{name}`{}; hint: {}", self.place(), way_out(name, known, layout));
    }

    fn text_of(&self, key: &str, value: &'a DeValue<'a>, hint: &str) -> anyhow::Result<&'a str> {
        value.as_str().ok_or_else(|| self.refuse(key, &format!("is {}; hint: {hint}", describe(value))))
    }

    fn place(&self) -> String {
        if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) }
    }
}

/// The line of the byte at `offset`, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// What to do about the unknown key `name`: the nearest known one, or the section where it belongs, or the list.
fn way_out(name: &str, known: &[&str], layout: Layout) -> String {
    if let Some((title, _)) = layout.iter().find(|(_, keys)| keys.contains(&name)) {
        return match *title {
            "" => format!("`{name}` belongs above the first section"),
            _ => format!("`{name}` belongs in {title}"),
        };
    }
    let distance = |key: &&&str| strsim::damerau_levenshtein(&name.to_lowercase(), key);
    match known.iter().min_by_key(distance) {
        // Half of the name must be right, or the proposal is noise.
        Some(key) if distance(&key) * 2 <= name.chars().count().max(3) => format!("did you mean `{key}`?"),
        nearest => {
            let nearest = nearest.map_or(String::new(), |key| format!("the nearest is `{key}`; "));
            format!("{nearest}the keys here are {}", known.join(", "))
        }
    }
}

/// A value in the words of TOML.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
