//! Tells the program which commit it was built from; `unknown` outside of a repository.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rerun-if-env-changed=FNGATE_COMMIT");
    // Only what is shipped: to whoever works on it, every commit would otherwise cost a whole build.
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return;
    }
    if let Some(commit) = std::env::var("FNGATE_COMMIT").ok().or_else(head) {
        println!("cargo::rustc-env=FNGATE_COMMIT={commit}");
    }
}

fn head() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
