//! Text with `{parameter}` in it: what a request's path fills in, checked before it goes anywhere.
//!
//! A value that is filled in can never be more than one segment, one label or one name: what holds a separator, a dot segment or a
//! control character is refused here, whatever it is used for.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::percent_decode_str;

use crate::diag::{Invalid, Scope, did_you_mean};
use crate::error::GatewayError;
use crate::uri::encode_segment;
use crate::values::{Wildcard, is_host_name};

/// What a target may know of its route when it is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The names of the path's parameters, in their order.
    pub parameters: &'a [&'a str],
    /// Whether the path ends in `/*`, so that calls have a suffix.
    pub has_suffix: bool,
}

/// The path parameters of one request, as the client sent them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parameters<'a> {
    path: &'a str,
    places: &'a [Range<usize>],
}

impl<'a> Parameters<'a> {
    pub fn new(path: &'a str, places: &'a [Range<usize>]) -> Self {
        Parameters { path, places }
    }

    /// Where in the path they stand, in their order.
    pub fn places(&self) -> &'a [Range<usize>] {
        self.places
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn get(&self, index: usize) -> Option<&'a str> {
        self.path.get(self.places.get(index)?.clone())
    }
}

/// What may be filled in: any of these, or anything when there are none.
#[derive(Debug, Clone, Default)]
pub struct Allow(Vec<Wildcard>);

/// The parameters a target's texts may name, and what they may be.
#[derive(Debug, Clone)]
pub struct Names<'a> {
    pub route: Route<'a>,
    pub allow: Allow,
}

impl<'a> Names<'a> {
    /// `scope` stands at the platform, whose key `allow` has the patterns.
    pub fn compile(route: Route<'a>, allow: Option<Vec<String>>, scope: &Scope<'_>) -> Option<Names<'a>> {
        let Some(patterns) = allow else { return Some(Names { route, allow: Allow::default() }) };
        if patterns.is_empty() {
            scope.key("allow").reject_with(
                "`allow` is empty: no name would be allowed",
                "leave it out to allow every name",
            );
            return None;
        }
        Some(Names { route, allow: Allow(patterns.into_iter().map(Wildcard::new).collect()) })
    }
}

impl Allow {
    /// Decodes one segment of a request's path into a name that may be filled in.
    pub fn admit<'a>(&self, segment: &'a str) -> Result<Cow<'a, str>, GatewayError> {
        let value = percent_decode_str(segment).decode_utf8().map_err(|_| GatewayError::BadPath)?;
        let is_unsafe = |c: char| matches!(c, '/' | '\\') || c.is_control();
        if value.is_empty() || value.contains(is_unsafe) || crate::uri::check_path(segment).is_err() {
            return Err(GatewayError::BadPath);
        }
        // As if there were no such function, which says least about those that there are.
        if !self.0.is_empty() && !self.0.iter().any(|pattern| pattern.matches(&value)) {
            return Err(GatewayError::NoRoute);
        }
        Ok(value)
    }
}

/// A text of the file, in which `{name}` stands for a parameter of the route's path.
#[derive(Debug, Clone)]
pub struct Template {
    pieces: Vec<Piece>,
    allow: Allow,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Parameter(usize),
}

/// How a value is written where it is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// As it is.
    Plain,
    /// Percent-encoded, so that it stays one segment.
    Segment,
    /// As it is, and only if it is one label of a host name.
    Label,
}

impl Template {
    pub fn parse(text: &str, names: &Names<'_>) -> Result<Template, Invalid> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once('{') {
            let Some((name, tail)) = tail.split_once('}') else {
                return Err(Invalid::new(format!("`{text}` has a `{{` without its `}}`")));
            };
            let Some(index) = names.route.parameters.iter().position(|known| *known == name) else {
                return Err(unknown_parameter(name, names.route));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Parameter(index));
            rest = tail;
        }
        if !rest.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template { pieces, allow: names.allow.clone() })
    }

    /// The text, when nothing has to be filled in.
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with `value` for each parameter.
    pub fn sample(&self, value: &str) -> String {
        let piece = |piece| match piece {
            &Piece::Parameter(_) => value,
            Piece::Text(text) => text,
        };
        self.pieces.iter().map(piece).collect()
    }

    /// Whether this request's values can be filled in.
    pub fn admit(&self, parameters: Parameters<'_>, filling: Filling) -> Result<(), GatewayError> {
        self.fill(parameters, filling, &mut String::new())
    }

    /// Appends the text with this request's values in it.
    pub fn fill(
        &self,
        parameters: Parameters<'_>,
        filling: Filling,
        out: &mut String,
    ) -> Result<(), GatewayError> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Parameter(index) => {
                    let segment = parameters.get(*index).ok_or(GatewayError::Internal)?;
                    let value = self.allow.admit(segment)?;
                    match filling {
                        Filling::Plain => out.push_str(&value),
                        Filling::Segment => out.push_str(&encode_segment(&value)),
                        Filling::Label if is_host_name(&value) && !value.contains('.') => {
                            out.push_str(&value)
                        }
                        Filling::Label => return Err(GatewayError::BadPath),
                    }
                }
            }
        }
        Ok(())
    }
}

fn unknown_parameter(name: &str, route: Route<'_>) -> Invalid {
    let invalid = Invalid::new(format!("the route's path has no parameter `{{{name}}}`"));
    match did_you_mean(name, route.parameters.iter().copied()) {
        Some(known) => invalid.hint(format!("did you mean `{{{known}}}`?")),
        None => invalid.hint(format!("a path like `/fn/{{{name}}}/*` has it")),
    }
}

/// A name by which a platform knows a function: the file's, or filled in by each request. Checked by the platform's own rule.
#[derive(Debug, Clone)]
pub struct Name {
    template: Template,
    check: fn(&str) -> Result<(), Invalid>,
}

impl Name {
    /// A name without parameters is checked at once.
    pub fn compile(
        text: &str,
        check: fn(&str) -> Result<(), Invalid>,
        names: &Names<'_>,
        scope: &Scope<'_>,
    ) -> Option<Name> {
        let template = scope.accept(Template::parse(text, names))?;
        if let Some(text) = template.constant() {
            scope.accept(check(text))?;
        }
        Some(Name { template, check })
    }

    pub fn constant(&self) -> Option<&str> {
        self.template.constant()
    }

    /// The name this request asks for, as the platform writes it.
    pub fn of(&self, parameters: Parameters<'_>) -> Result<Cow<'_, str>, GatewayError> {
        if let Some(text) = self.constant() {
            return Ok(Cow::Borrowed(text));
        }
        let mut name = String::new();
        self.template.fill(parameters, Filling::Plain, &mut name)?;
        (self.check)(&name).map_err(|_| GatewayError::BadPath)?;
        Ok(Cow::Owned(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route<'static> = Route { parameters: &["space", "name"], has_suffix: false };

    fn names(allow: &[&str]) -> Names<'static> {
        let allow = Allow(allow.iter().map(|pattern| Wildcard::new((*pattern).to_owned())).collect());
        Names { route: ROUTE, allow }
    }

    fn filled(text: &str, path: &str, places: &[Range<usize>]) -> Result<String, GatewayError> {
        let template = Template::parse(text, &names(&["img-*", "ns"])).unwrap();
        let mut out = String::new();
        template.fill(Parameters::new(path, places), Filling::Segment, &mut out).map(|()| out)
    }

    fn label(value: &str) -> Result<String, GatewayError> {
        let template = Template::parse("{name}.default.example.com", &names(&[])).unwrap();
        let mut out = String::new();
        let places = [0..0, 0..value.len()];
        template.fill(Parameters::new(value, &places), Filling::Label, &mut out).map(|()| out)
    }

    #[test]
    fn in_a_host_a_value_is_one_label() {
        assert_eq!(label("hello").unwrap(), "hello.default.example.com");
        for value in ["hello.other", "a%2Eb", "a b", "a:80", "-a", "a@b", "%0d"] {
            assert_eq!(label(value), Err(GatewayError::BadPath), "{value}");
        }
    }

    #[test]
    fn parameters_are_filled_in() {
        let path = "/ns/img-a%20b";
        assert_eq!(filled("/x/{space}/{name}.v1", path, &[1..3, 4..13]).unwrap(), "/x/ns/img-a%20b.v1");
        assert_eq!(filled("plain", path, &[]).unwrap(), "plain");
    }

    #[test]
    fn what_could_climb_is_refused() {
        for value in ["..", "%2e%2e", "a%2Fb", "a%5Cb", "a%00", "%252e%252e", "%FF", "a%0Ab", "."] {
            assert_eq!(Allow::default().admit(value), Err(GatewayError::BadPath), "{value}");
        }
        for value in ["a", "a.b", "caf%C3%A9", "a%20b", "a@b", "100%25"] {
            assert!(Allow::default().admit(value).is_ok(), "{value}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_not_there() {
        assert_eq!(filled("{name}", "/x/evil", &[0..0, 3..7]), Err(GatewayError::NoRoute));
    }

    #[test]
    fn unknown_parameters_are_faults() {
        let error = Template::parse("{nmae}", &names(&[])).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean `{name}`?"));
        assert!(Template::parse("{name", &names(&[])).is_err());
    }
}
