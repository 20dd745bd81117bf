//! `Function`: which function of Lambda, as AWS names them: by name, by partial or by full ARN, each with an optional qualifier.
//!
//! ```text
//! hello    hello:live    123456789012:function:hello    arn:aws:lambda:eu-west-1:123456789012:function:hello:7
//! ```
//!
//! Path parameters stand for the name or the qualifier, or for a part of them: what a client fills in holds no `:`, so that it never
//! leads to another account, another region or another qualifier.

use crate::diag::{Invalid, Scope};
use crate::error::GatewayError;
use crate::platforms::template::{Name, Names, Parameters};
use crate::uri::encode_segment;

#[derive(Debug)]
pub struct Function {
    /// Account or ARN, up to the name.
    before: String,
    name: Name,
    qualifier: Option<Name>,
    /// The region an ARN names.
    pub region: Option<String>,
}

impl Function {
    /// `scope` stands at the platform, whose keys `function` and `qualifier` are.
    pub fn compile(
        text: &str,
        qualifier: Option<String>,
        names: &Names<'_>,
        scope: &Scope<'_>,
    ) -> Option<Function> {
        let function = scope.key("function");
        let parts: Vec<_> = text.split(':').collect();
        let (before, name, written) = match parts.as_slice() {
            [name] => (&[][..], name, None),
            [name, qualifier] => (&[][..], name, Some(qualifier)),
            ["arn", _, "lambda", _, _, "function", name] => (&parts[..6], name, None),
            ["arn", _, "lambda", _, _, "function", name, qualifier] => (&parts[..6], name, Some(qualifier)),
            [_, "function", name] => (&parts[..2], name, None),
            [_, "function", name, qualifier] => (&parts[..2], name, Some(qualifier)),
            _ => {
                function.accept(Err::<(), _>(not_a_function(text)))?;
                return None;
            }
        };
        let region = match before {
            ["arn", partition, _, region, account, _] => {
                let is_arn = is_word(partition) && is_word(region) && is_account(account);
                is_arn.then(|| Some((*region).to_owned()))
            }
            [account, _] => is_account(account).then_some(None),
            _ => Some(None),
        };
        let Some(region) = region else {
            function.accept(Err::<(), _>(not_a_function(text)))?;
            return None;
        };
        let name = Name::compile(name, check_name, names, &function);
        let qualifier = match (written, qualifier) {
            (Some(_), Some(_)) => {
                scope
                    .key("qualifier")
                    .reject_with("`function` has a qualifier already", "leave one of them out");
                return None;
            }
            (Some(written), None) => Some(Name::compile(written, check_qualifier, names, &function)?),
            (None, Some(text)) => {
                Some(Name::compile(&text, check_qualifier, names, &scope.key("qualifier"))?)
            }
            (None, None) => None,
        };
        let before = before.iter().map(|part| format!("{part}:")).collect();
        Some(Function { before, name: name?, qualifier, region })
    }

    pub fn is_constant(&self) -> bool {
        [Some(&self.name), self.qualifier.as_ref()]
            .into_iter()
            .flatten()
            .all(|name| name.constant().is_some())
    }

    /// Appends `{function}/{operation}`, and the qualifier in the query.
    pub fn fill(
        &self,
        parameters: Parameters<'_>,
        operation: &str,
        out: &mut String,
    ) -> Result<(), GatewayError> {
        let name = format!("{}{}", self.before, self.name.of(parameters)?);
        out.push_str(&encode_segment(&name));
        out.push('/');
        out.push_str(operation);
        if let Some(qualifier) = &self.qualifier {
            out.push_str("?Qualifier=");
            out.push_str(&encode_segment(&qualifier.of(parameters)?));
        }
        Ok(())
    }
}

/// Lambda's own rule for names.
fn check_name(name: &str) -> Result<(), Invalid> {
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_name {
        return Ok(());
    }
    Err(Invalid::new(format!("`{name}` is not the name of a function"))
        .hint("letters, digits, `-` and `_`; 64 characters at most"))
}

/// Lambda's own rule for versions and aliases.
fn check_qualifier(qualifier: &str) -> Result<(), Invalid> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$');
    let is_qualifier = qualifier == "$LATEST.PUBLISHED"
        || ((1..=128).contains(&qualifier.len()) && qualifier.bytes().all(is_plain));
    if is_qualifier {
        return Ok(());
    }
    Err(Invalid::new(format!("`{qualifier}` is neither a version nor an alias"))
        .hint("a number, `$LATEST`, or the name of an alias"))
}

fn not_a_function(text: &str) -> Invalid {
    Invalid::new(format!("`{text}` does not name a function"))
        .hint("`name`, `name:alias`, `account:function:name`, or the function's ARN")
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diag::Diagnostics;
    use crate::platforms::template::Route;

    const ROUTE: Route<'static> = Route { parameters: &["name", "alias"], has_suffix: false };

    fn function(text: &str, qualifier: Option<&str>) -> Option<Function> {
        let book = Diagnostics::default();
        let scope = Scope::root(&book, 0);
        let names = Names::compile(ROUTE, None, &scope).unwrap();
        let compiled = Function::compile(text, qualifier.map(str::to_owned), &names, &scope);
        assert_eq!(compiled.is_none(), book.has_faults(), "{text}");
        compiled
    }

    #[track_caller]
    fn check(text: &str, qualifier: Option<&str>, region: Option<&str>, target: &str) {
        let function = function(text, qualifier).unwrap();
        assert_eq!(function.region.as_deref(), region);
        let mut out = String::new();
        function.fill(Parameters::default(), "invocations", &mut out).unwrap();
        assert_eq!(out, target);
    }

    /// What a client's `name` and `alias` make of `text`.
    fn filled(text: &str, name: &str, alias: &str) -> Result<String, GatewayError> {
        let path = format!("/{name}/{alias}");
        let places = [1..1 + name.len(), 2 + name.len()..path.len()];
        let mut out = String::new();
        function(text, None).unwrap().fill(Parameters::new(&path, &places), "i", &mut out).map(|()| out)
    }

    #[test]
    fn every_way_to_name_a_function() {
        check("hello", None, None, "hello/invocations");
        check("hello:live", None, None, "hello/invocations?Qualifier=live");
        check("hello", Some("7"), None, "hello/invocations?Qualifier=7");
        check("hello:$LATEST", None, None, "hello/invocations?Qualifier=%24LATEST");
        check("123456789012:function:hello", None, None, "123456789012%3Afunction%3Ahello/invocations");
        check(
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:hello:7",
            None,
            Some("cn-north-1"),
            "arn%3Aaws-cn%3Alambda%3Acn-north-1%3A123456789012%3Afunction%3Ahello/invocations?Qualifier=7",
        );
    }

    #[test]
    fn what_names_no_function_is_a_fault() {
        for text in [
            "",
            "a b",
            "a/b",
            "a.b",
            "a:",
            ":a",
            "a:b:c",
            "12:function:a",
            "123456789012:layer:a",
            "arn:aws:lambda:eu-west-1:123456789012:layer:a",
            "arn:aws:s3:eu-west-1:123456789012:function:a",
            "arn:aws:lambda:{name}:123456789012:function:a",
            "{unknown}",
            &"x".repeat(65),
        ] {
            assert!(function(text, None).is_none(), "{text}");
        }
        assert!(function("a:live", Some("7")).is_none(), "two qualifiers");
        assert!(function("a", Some("b c")).is_none());
    }

    #[test]
    fn parameters_stand_for_names_and_qualifiers() {
        assert_eq!(filled("prod-{name}:{alias}", "img", "live").unwrap(), "prod-img/i?Qualifier=live");
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:{name}";
        assert!(filled(arn, "img", "x").unwrap().ends_with("%3Afunction%3Aimg/i"));
    }

    #[test]
    fn a_client_cannot_choose_account_region_or_qualifier() {
        for name in [
            "other:live",
            "other%3Alive",
            "123456789012:function:other",
            "arn:aws:lambda:us-east-1:999999999999:function:evil",
            "a%2Fb",
            "..",
            "%24LATEST",
            "a?Qualifier=b",
            "a b",
        ] {
            assert_eq!(filled("{name}", name, "x"), Err(GatewayError::BadPath), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_filled_in_the_request_stays_below_the_function(name in "[ -~]{1,40}") {
            if let Ok(target) = filled("123456789012:function:{name}", &name, "x") {
                let middle = target.strip_prefix("123456789012%3Afunction%3A").and_then(|t| t.strip_suffix("/i"));
                let middle = middle.unwrap();
                prop_assert!(middle.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{target}");
            }
        }
    }
}
