//! Any text is either a plan or has a fault with a place that exists; nothing panics, and drawing it ends.
#![no_main]

use std::path::Path;

use fngate::config::{self, Style};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let loaded = config::load_text(Path::new("fngate.yaml"), text.to_owned());
    assert_eq!(loaded.plan.is_none(), loaded.report.faults() > 0);
    for finding in loaded.report.findings() {
        assert!(finding.line.is_none_or(|line| (1..=text.lines().count().max(1)).contains(&line)));
        assert!(finding.column.is_none_or(|column| column >= 1));
    }
    loaded.report.render(Style::Plain);
    loaded.report.to_json();
});
