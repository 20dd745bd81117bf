//! The man pages: the program's, one for each verb, and in both where it belongs what signals do.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

const SOURCE: &str = concat!("fngate ", env!("CARGO_PKG_VERSION"));

/// What the running process does on a signal.
const SIGNALS: [(&str, &str); 4] = [
    ("SIGHUP", "reloads, and looks all names up anew"),
    ("SIGUSR1", "opens the access log's file anew"),
    (
        "SIGUSR2",
        "upgrades: starts the installed binary, which takes the listeners over, and ends as after SIGTERM",
    ),
    (
        "SIGTERM or SIGINT",
        "closes the listeners after `drain_delay`, finishes what is in flight within `shutdown_grace`, and cuts the rest; \
         a second one cuts at once",
    ),
];

/// The same as text, for `--help`.
pub(super) fn signals() -> String {
    SIGNALS.map(|(name, does)| format!("{name} {does}.")).join(" ")
}

/// Every page with the name of its file, the program's own first.
pub(super) fn pages(program: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    // Its verb `help` says nothing that the pages do not.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let verbs: Vec<Command> = program.get_subcommands().cloned().collect();
    [program].into_iter().chain(verbs).map(page).collect()
}

fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let serves = matches!(command.get_name(), "fngate" | "run");
    // It has a section of its own.
    let page = Man::new(command.after_long_help(None::<&str>)).source(SOURCE);
    let mut text = Vec::new();
    page.render(&mut text)?;
    if serves {
        writeln!(text, ".SH SIGNALS")?;
        for (name, does) in SIGNALS {
            writeln!(text, ".TP\n\\fB{name}\\fR\n{does}")?;
        }
    }
    Ok((page.get_filename(), text))
}
