//! Runs of the binary that end by themselves.

use std::process::Stdio;

use tokio::process::Command;

use super::gateway::BINARY;
use super::home::{Home, Layout};
use super::within;

/// What a run of the binary that ends by itself left behind.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Check {
    /// That the file was found faulty, and that every one of these words is in what was said about it.
    #[track_caller]
    pub(crate) fn refuses(&self, words: &[&str]) {
        assert_eq!(self.code, Some(78), "{self:#?}");
        let said = self.said();
        for word in words {
            assert!(said.contains(word), "nothing about {word:?} in:\n{said}");
        }
    }

    /// That the file was found good.
    #[track_caller]
    pub(crate) fn accepts(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    /// Both outputs.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// `fngate check` on this text; listener and admin address are added as for a start.
pub(crate) async fn check(yaml: &str) -> Check {
    let home = Home::new(Layout::Plain);
    home.write_config(yaml);
    run(&["check", home.config().to_str().unwrap()]).await
}

/// The binary with these arguments, to its end.
pub(crate) async fn run(arguments: &[&str]) -> Check {
    run_with(arguments, &[]).await
}

/// Its exit code, where nobody reads what it says.
pub(crate) async fn run_unread(arguments: &[&str]) -> Option<i32> {
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    let mut command = Command::new(BINARY.as_str());
    command.args(arguments).stdin(Stdio::null()).stdout(closed()).stderr(closed()).kill_on_drop(true);
    within("the command to end", command.status()).await.unwrap().code()
}

/// The same with these variables in its environment, which is empty otherwise.
pub(crate) async fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Check {
    let mut command = Command::new(BINARY.as_str());
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").envs(environment.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the command to end", command.output()).await.unwrap();
    Check {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
