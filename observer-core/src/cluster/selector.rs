//! Calico's selectors: which labels an object must have.
//!
//! `all()`, `has(key)`, `key == 'value'`, `!=`, `in { … }`, `not in { … }`, `contains`, `starts with`,
//! `ends with`, joined by `!`, `&&`, `||` and parentheses.

use std::{collections::BTreeMap, iter::Peekable, str::CharIndices};

/// Parentheses and negations within one another at most: a selector comes from outside.
const DEPTH: u32 = 32;

/// A selector, parsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Selector {
    All,
    Nobody,
    Has(String),
    Is(String, Test),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// What is asked of a label's value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Test {
    Equal(String),
    Unequal(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
}

impl Selector {
    /// From Calico's notation; none when it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser {
            text,
            chars: text.char_indices().peekable(),
        };
        let selector = parser.either(0)?;
        parser.skip_space();
        parser.chars.peek().is_none().then_some(selector)
    }

    /// Whether an object with `labels` is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Has(key) => labels.contains_key(key),
            Self::Is(key, test) => test.holds(labels.get(key).map(String::as_str)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|one| one.matches(labels)),
            Self::Or(any) => any.iter().any(|one| one.matches(labels)),
        }
    }
}

impl Test {
    /// A label that is not there differs from every value.
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Equal(wanted) => value == Some(wanted),
            Self::Unequal(wanted) => value != Some(wanted),
            Self::In(wanted) => value.is_some_and(|value| wanted.iter().any(|one| one == value)),
            Self::NotIn(wanted) => value.is_none_or(|value| wanted.iter().all(|one| one != value)),
            Self::Contains(part) => value.is_some_and(|value| value.contains(part.as_str())),
            Self::StartsWith(part) => value.is_some_and(|value| value.starts_with(part.as_str())),
            Self::EndsWith(part) => value.is_some_and(|value| value.ends_with(part.as_str())),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    /// The text that is not read yet.
    fn rest(&mut self) -> &str {
        let at = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        self.text.get(at..).unwrap_or_default()
    }

    /// Reads `token` if it is next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let next = self.rest().starts_with(token);
        if next {
            self.chars
                .by_ref()
                .take(token.chars().count())
                .for_each(drop);
        }
        next
    }

    fn either(&mut self, depth: u32) -> Option<Selector> {
        let mut any = vec![self.both(depth)?];
        while self.take("||") {
            any.push(self.both(depth)?);
        }
        single(any, Selector::Or)
    }

    fn both(&mut self, depth: u32) -> Option<Selector> {
        let mut all = vec![self.one(depth)?];
        while self.take("&&") {
            all.push(self.one(depth)?);
        }
        single(all, Selector::And)
    }

    fn one(&mut self, depth: u32) -> Option<Selector> {
        if depth >= DEPTH {
            return None;
        }
        if self.take("!") {
            return Some(Selector::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.either(depth + 1)?;
            return self.take(")").then_some(inner);
        }
        let word = self.word()?;
        if matches!(word.as_str(), "all" | "global") && self.take("(") {
            return self.take(")").then_some(Selector::All);
        }
        if word == "has" && self.take("(") {
            let key = self.word()?;
            return self.take(")").then_some(Selector::Has(key));
        }
        Some(Selector::Is(word, self.test()?))
    }

    fn test(&mut self) -> Option<Test> {
        if self.take("==") {
            return self.quoted().map(Test::Equal);
        }
        if self.take("!=") {
            return self.quoted().map(Test::Unequal);
        }
        let word = self.word()?;
        match word.as_str() {
            "in" => self.set().map(Test::In),
            "not" if self.word()? == "in" => self.set().map(Test::NotIn),
            "contains" => self.quoted().map(Test::Contains),
            "starts" if self.word()? == "with" => self.quoted().map(Test::StartsWith),
            "ends" if self.word()? == "with" => self.quoted().map(Test::EndsWith),
            _ => None,
        }
    }

    /// A label's key, or a word of the notation.
    fn word(&mut self) -> Option<String> {
        self.skip_space();
        let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
        let mut word = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| of_key(*c)) {
            word.push(c);
        }
        (!word.is_empty()).then_some(word)
    }

    fn quoted(&mut self) -> Option<String> {
        self.skip_space();
        let (_, quote) = self.chars.next_if(|(_, c)| matches!(c, '\'' | '"'))?;
        let mut value = String::new();
        loop {
            match self.chars.next()? {
                (_, c) if c == quote => return Some(value),
                (_, c) => value.push(c),
            }
        }
    }

    fn set(&mut self) -> Option<Vec<String>> {
        let mut values = Vec::new();
        if !self.take("{") {
            return None;
        }
        while !self.take("}") {
            if !values.is_empty() && !self.take(",") {
                return None;
            }
            values.push(self.quoted()?);
        }
        Some(values)
    }
}

fn single(mut of: Vec<Selector>, join: fn(Vec<Selector>) -> Selector) -> Option<Selector> {
    if of.len() == 1 {
        of.pop()
    } else {
        Some(join(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn selectors_select() {
        let of = labels("rack=r1 route-reflector=true kubernetes.io/hostname=n-1");
        for (text, selected) in [
            ("all()", true),
            (" global( ) ", true),
            ("has(route-reflector)", true),
            ("!has(route-reflector)", false),
            ("! has(other)", true),
            ("rack == 'r1'", true),
            ("rack=='r2'", false),
            ("rack != \"r2\"", true),
            ("other != 'x'", true),
            ("other == 'x'", false),
            ("rack in { 'r0', 'r1' }", true),
            ("rack in {}", false),
            ("rack not in {'r0','r1'}", false),
            ("other not in {'r0'}", true),
            ("kubernetes.io/hostname contains '-'", true),
            ("kubernetes.io/hostname starts with 'n'", true),
            ("kubernetes.io/hostname ends with 'n'", false),
            ("rack == 'r1' && has(other)", false),
            ("rack == 'r1' && has(other) || all()", true),
            ("rack == 'r1' && (has(other) || all())", true),
            ("!(rack == 'r1' && has(route-reflector))", false),
            ("inside == 'x' || rack == 'r1'", true),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(selector.matches(&of), selected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_none() {
        for text in [
            "",
            "rack",
            "rack = 'r1'",
            "rack == r1",
            "rack == 'r1",
            "has()",
            "has(rack",
            "rack in {'a' 'b'}",
            "rack in ['a']",
            "rack starts 'a'",
            "all() all()",
            "&& all()",
            "(all()",
            "ä == 'x'",
        ] {
            assert_eq!(Selector::parse(text), None, "{text}");
        }
        let deep = "!".repeat(10_000) + "all()";
        assert_eq!(Selector::parse(&deep), None);
        let deep = "(".repeat(10_000) + "all()" + &")".repeat(10_000);
        assert_eq!(Selector::parse(&deep), None);
    }
}
