//! `Meant`: what an unknown key was probably meant to be, and where a known one belongs.

use super::shape::{Known, Shape, quoted};
use crate::diag::did_you_mean;

/// What an unknown key was probably meant to be.
pub(super) struct Meant<'k> {
    /// The key beside it in whose place it stands.
    pub(super) key: Option<&'k str>,
    pub(super) shape: Option<&'k Shape>,
    pub(super) hint: String,
}

impl<'k> Meant<'k> {
    pub(super) fn by(key: &str, known: &'k Known, outer: Option<&'k Known>) -> Self {
        let meant = |shape, hint| Meant { key: None, shape: Some(shape), hint };
        let words = || known.keys().map(String::as_str);
        let snake_case = snake_case(key);
        let near = words()
            .find(|word| *word == snake_case)
            .or_else(|| did_you_mean(key, words()))
            .or_else(|| the_only(words().filter(|word| is_end_of(key, word))));
        if let Some(near) = near {
            return Meant { key: Some(near), ..meant(&known[near], format!("did you mean `{near}`?")) };
        }
        for (name, here, hint) in KNOWN_ELSEWHERE {
            if name == key && here.is_none_or(|here| known.contains_key(here)) {
                return Meant { key: here, shape: None, hint: hint.to_owned() };
            }
        }
        let below = |known: &'k Known| {
            known.iter().find_map(|(holder, shape)| {
                let (_, shape) = shape.keys().find(|(name, _)| *name == key)?;
                Some((holder, shape))
            })
        };
        if let Some((holder, shape)) = below(known) {
            return meant(shape, format!("`{key}` stands under `{holder}`"));
        }
        if let Some(shape) = outer.and_then(|outer| outer.get(key)) {
            return meant(shape, format!("`{key}` stands one level further out"));
        }
        if let Some((holder, shape)) = outer.and_then(below) {
            return meant(shape, format!("`{key}` is a key of `{holder}`"));
        }
        let further_in = known.iter().find_map(|(holder, shape)| {
            let (_, shape) =
                shape.keys().flat_map(|(_, shape)| shape.keys()).find(|(name, _)| *name == key)?;
            Some((holder, shape))
        });
        if let Some((holder, shape)) = further_in {
            return meant(shape, format!("`{key}` stands two levels further in, under `{holder}`"));
        }
        Meant { key: None, shape: None, hint: format!("known here: {}", quoted(known.keys())) }
    }
}

/// Keys that other gateways, or YAML itself, know and that have another form here; and the key beside them that has their part.
const KNOWN_ELSEWHERE: [(&str, Option<&str>, &str); 4] = [
    ("<<", None, "merge keys are not supported; `defaults` holds what targets have in common"),
    ("uri", Some("match"), "a route's path is `match.path`"),
    ("upstream", Some("target"), "where a route leads is its `target`"),
    ("plugins", Some("target"), "the plugin becomes the `target`, and keeps its attributes"),
];

/// `uri` of `function_uri`.
fn is_end_of(key: &str, word: &str) -> bool {
    word.strip_suffix(key).is_some_and(|rest| rest.ends_with('_'))
}

fn the_only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// `functionUri` and `function-uri` as `function_uri`.
fn snake_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 2);
    for c in key.chars() {
        match c {
            '-' => out.push('_'),
            c if c.is_ascii_uppercase() => {
                out.push_str(if out.is_empty() || out.ends_with('_') { "" } else { "_" });
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}
