//! `Document`: one file's tree as it counts, with the defaults merged under each target.
//!
//! Merged values keep their own places, so that a fault of an inherited value points into `defaults`.

use std::rc::Rc;

use super::shape::Shape;
use super::tree::{Entry, Mapping, Node, Span, Value};
use crate::diag::{Part, Place, Step};

pub(super) struct Document {
    pub(super) root: Rc<Node>,
}

impl Document {
    /// `routes` are the shapes of a route's `target`, by which is decided what is merged; `defaults` the node of that name.
    pub(super) fn new(root: Rc<Node>, target: Option<&Shape>, defaults: Option<&Node>) -> Self {
        let merged =
            defaults.zip(target).and_then(|(defaults, target)| merge_routes(&root, target, defaults));
        Document { root: merged.unwrap_or(root) }
    }

    pub(super) fn top(&self, key: &str) -> Option<&Rc<Node>> {
        Some(&self.root.as_mapping()?.get(key)?.value)
    }

    pub(super) fn routes(&self) -> &[Rc<Node>] {
        self.top("routes").and_then(|routes| routes.as_list()).unwrap_or_default()
    }

    /// What to mark for a place: the value itself, or the key of what fills several lines, or the nearest thing around what is
    /// missing. Nothing when the file as a whole is meant.
    pub(super) fn locate(&self, place: &Place, part: Part) -> Option<Span> {
        let mut node = &self.root;
        let mut key = None;
        for step in &place.steps {
            match step {
                Step::Key(name) => {
                    let Some(entry) = node.as_mapping().and_then(|mapping| mapping.get(name)) else {
                        return (!Rc::ptr_eq(node, &self.root)).then(|| mark(node, key, Part::Value));
                    };
                    key = Some(entry.key_span);
                    node = &entry.value;
                }
                Step::Index(index) => {
                    let Some(item) = node.as_list().and_then(|items| items.get(*index)) else {
                        return Some(mark(node, key, Part::Value));
                    };
                    key = None;
                    node = item;
                }
            }
        }
        Some(mark(node, key, part))
    }
}

fn mark(node: &Node, key: Option<Span>, part: Part) -> Span {
    match (key, part) {
        (Some(key), Part::Key | Part::UnnamedKey) => key,
        (Some(key), Part::Value) if node.is_container() || node.span.start == node.span.end => key,
        _ => first_of(node),
    }
}

/// The first thing in a list or mapping that is not one itself.
fn first_of(node: &Node) -> Span {
    match &node.value {
        Value::Mapping(mapping) => mapping.entries.first().map_or(node.span, |entry| entry.key_span),
        Value::List(items) => items.first().map_or(node.span, |item| first_of(item)),
        _ => node.span,
    }
}

/// The root with the defaults under each target of its routes; nothing when there is nothing to merge.
fn merge_routes(root: &Rc<Node>, target: &Shape, defaults: &Node) -> Option<Rc<Node>> {
    let routes = root.as_mapping()?.get("routes")?.value.as_list()?;
    let routes_span = root.as_mapping()?.get("routes")?.value.span;
    let routes =
        routes.iter().map(|route| merge_route(route, target, defaults).unwrap_or_else(|| Rc::clone(route)));
    let routes = Node::new(Value::List(routes.collect()), routes_span);
    replace(root, "routes", routes)
}

fn merge_route(route: &Rc<Node>, shape: &Shape, defaults: &Node) -> Option<Rc<Node>> {
    let target = &route.as_mapping()?.get("target")?.value;
    let mut merged = Rc::clone(target);
    for entry in &target.as_mapping()?.entries {
        let shape = shape.key(&entry.key);
        let default = defaults.as_mapping().and_then(|defaults| defaults.get(&entry.key));
        if let (Some(shape), Some(default)) = (shape, default) {
            merged = replace(&merged, &entry.key, merge(&entry.value, &default.value, shape))?;
        }
    }
    replace(route, "target", merged)
}

/// What is written, and below it what is inherited.
fn merge(own: &Rc<Node>, inherited: &Rc<Node>, shape: &Shape) -> Rc<Node> {
    let (Some(own_keys), Some(inherited_keys), true) =
        (own.as_mapping(), inherited.as_mapping(), shape.is_merged())
    else {
        return Rc::clone(own);
    };
    let mut entries = own_keys.entries.clone();
    for entry in &mut entries {
        if let (Some(below), Some(shape)) = (inherited_keys.get(&entry.key), shape.key(&entry.key)) {
            entry.value = merge(&entry.value, &below.value, shape);
        }
    }
    let missing = inherited_keys.entries.iter().filter(|entry| own_keys.get(&entry.key).is_none());
    entries.extend(missing.cloned());
    Node::new(Value::Mapping(Mapping::new(entries)), own.span)
}

fn replace(node: &Rc<Node>, key: &str, value: Rc<Node>) -> Option<Rc<Node>> {
    let mut entries: Vec<Entry> = node.as_mapping()?.entries.clone();
    entries.iter_mut().find(|entry| *entry.key == *key)?.value = value;
    Some(Node::new(Value::Mapping(Mapping::new(entries)), node.span))
}
