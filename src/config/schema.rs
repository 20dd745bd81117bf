//! The JSON Schema of the file, made from the raw structs.
//!
//! One schema serves editors (`fngate schema`) and the checks of `shape`, for which targets are complete. It is stricter and plainer than what is derived: objects
//! are closed, nothing is `null`, and every reference but the one to a secret is resolved.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::raw;

/// The definition that marks a value as a secret.
pub(super) const SECRET: &str = "#/definitions/Secret";
/// The word by which a struct says that its keys belong together: `defaults` are never merged into it.
pub(super) const WHOLE: &str = "x-whole";

/// The schema of a main file before the defaults are merged, for editors: what a target lacks may come from there.
pub(super) fn for_editors() -> Value {
    let mut schema = schema();
    let targets = schema.pointer_mut("/properties/routes/items/properties/target/properties");
    if let Some(Value::Object(platforms)) = targets {
        platforms.values_mut().for_each(make_optional);
    }
    schema
}

/// The schema of a main file in which the defaults are merged.
pub(super) fn schema() -> Value {
    let derived = SchemaSettings::draft07().into_generator().into_root_schema_for::<raw::File>();
    let mut derived = derived.to_value();
    let definitions = derived.get_mut("definitions").map(Value::take).unwrap_or_default();
    let mut schema = plain(derived, &definitions);
    if let Some(defaults) = schema.pointer_mut("/properties/defaults") {
        make_optional(defaults);
    }
    let Value::Object(body) = schema else { return schema };
    let mut out = Map::new();
    out.insert("$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
    out.insert("title".into(), json!("fngate configuration"));
    out.extend(
        body.into_iter().filter(|(key, _)| !matches!(key.as_str(), "$schema" | "title" | "definitions")),
    );
    out.insert("definitions".into(), json!({ "Secret": definitions["Secret"] }));
    Value::Object(out)
}

/// The schema of an included file: `routes` and nothing else.
pub(super) fn included(main: &Value) -> Value {
    json!({
        "type": "object",
        "properties": { "routes": main["properties"]["routes"] },
        "additionalProperties": false,
        "definitions": main["definitions"],
    })
}

/// Resolves references, closes objects, and drops `null`.
fn plain(schema: Value, definitions: &Value) -> Value {
    let Value::Object(mut object) = schema else { return schema };
    if let Some(Value::String(reference)) = object.get("$ref")
        && reference != SECRET
    {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let Value::Object(mut resolved) = definitions[name].clone() else { return Value::Object(object) };
        // What is said where the type is used says more than what is said of the type.
        object.remove("$ref");
        resolved.extend(object);
        object = resolved;
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        let Some(Value::Array(alternatives)) = object.remove(word) else { continue };
        let mut kept: Vec<Value> = alternatives
            .into_iter()
            .filter(|alternative| alternative["type"] != "null")
            .map(|alternative| plain(alternative, definitions))
            .collect();
        match (kept.pop(), kept.is_empty()) {
            (Some(Value::Object(only)), true) => {
                let own = std::mem::replace(&mut object, only);
                object.extend(own);
            }
            (last, _) => {
                kept.extend(last);
                object.insert(word.into(), Value::Array(kept));
            }
        }
    }
    for word in ["type", "enum"] {
        let Some(Value::Array(values)) = object.get_mut(word) else { continue };
        values.retain(|value| !value.is_null() && value != "null");
        if let (true, [only]) = (word == "type", values.as_mut_slice()) {
            let only = only.take();
            object.insert(word.into(), only);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for property in properties.values_mut() {
            *property = plain(property.take(), definitions);
        }
        object.insert("additionalProperties".into(), Value::Bool(false));
    } else if let Some(values) = object.get_mut("additionalProperties") {
        *values = plain(values.take(), definitions);
    }
    if let Some(items) = object.get_mut("items") {
        *items = plain(items.take(), definitions);
    }
    object.remove("unevaluatedProperties");
    Value::Object(object)
}

/// Lets every key be there or be absent, in the objects that are merged key by key.
fn make_optional(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for word in ["required", "minProperties", "maxProperties"] {
        object.remove(word);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(make_optional);
    }
}
