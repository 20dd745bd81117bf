//! `Meant`: what an unknown key was probably meant to be, and where a known one belongs.

use super::shape::{Known, Shape, quoted};
use crate::diag::did_you_mean;

/// What an unknown key was probably meant to be.
pub(super) struct Meant<'k> {
    pub(super) shape: Option<&'k Shape>,
    pub(super) hint: String,
}

impl<'k> Meant<'k> {
    pub(super) fn by(key: &str, known: &'k Known, outer: Option<&'k Known>) -> Self {
        let meant = |shape, hint| Meant { shape: Some(shape), hint };
        let words = || known.keys().map(String::as_str);
        let snake_case = snake_case(key);
        let near = words().find(|word| *word == snake_case).or_else(|| did_you_mean(key, words()));
        if let Some(near) = near {
            return meant(&known[near], format!("did you mean `{near}`?"));
        }
        if let Some((_, hint)) = KNOWN_ELSEWHERE.iter().find(|(name, _)| *name == key) {
            return Meant { shape: None, hint: (*hint).to_owned() };
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
        Meant { shape: None, hint: format!("known here: {}", quoted(known.keys())) }
    }
}

/// Keys that other gateways, or YAML itself, know and that have another form here.
const KNOWN_ELSEWHERE: [(&str, &str); 3] = [
    ("<<", "merge keys are not supported; `defaults` holds what targets have in common"),
    ("uri", "a route's path is `match.path`"),
    ("upstream", "where a route leads is its `target`"),
];

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
