//! The network in which everything happens: where the machine allows it, one of this program's own, in which it may cut links
//! and drop packets. It is made of namespaces, so the kernel takes all of it down when the program ends, however it ends.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use crate::stage::Impossible;

/// Goes on in namespaces of its own: returns, in the process that was first, what the other one ended with. Nothing is
/// returned where this goes on by itself: it is inside already, or the machine does not allow it.
pub(crate) fn enter() -> Option<ExitCode> {
    if std::env::var_os(INSIDE).is_some() || std::env::var_os(WHY_NOT).is_some() {
        return None;
    }
    // Where the tools are, also for those who are not root.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    match possible(&path) {
        Ok(()) => {
            let mut inside = Command::new("unshare");
            inside.args(NAMESPACES).args(["/bin/sh", "-c", SETTLE]).env("PATH", path);
            Some(go_on(&mut inside, INSIDE, "1"))
        }
        Err(why) => Some(go_on(Command::new("/bin/sh").args(["-c", r#"exec "$0" "$@""#]), WHY_NOT, &why)),
    }
}

/// Whether there is a network of its own, with this tool to change it.
pub(crate) fn own(tool: &str) -> Result<(), Impossible> {
    if let Ok(why) = std::env::var(WHY_NOT) {
        return Err(Impossible(format!("no network of its own ({why})")));
    }
    match Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) => Err(Impossible(format!("{tool}: {error}"))),
    }
}

/// The only name server that processes in this network know.
pub(crate) fn name_server() -> Result<Ipv4Addr, Impossible> {
    own("ip")?;
    let told = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let is_ours = told.contains(&NAME_SERVER.to_string());
    is_ours
        .then_some(NAME_SERVER)
        .ok_or_else(|| Impossible("its own /etc/resolv.conf could not be mounted".to_owned()))
}

/// Runs a command that changes the network. What it says when it fails is why the fault cannot be brought about.
pub(crate) async fn change(command: &str) -> Result<(), Impossible> {
    let mut words = command.split_whitespace();
    let mut run = tokio::process::Command::new(words.next().unwrap_or_default());
    let output = run.args(words).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| Impossible(format!("{command}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Impossible(format!("{command}: {}", said.lines().next().unwrap_or("failed"))))
        }
    }
}

/// Whether namespaces can be made here, found out by making some.
fn possible(path: &str) -> Result<(), String> {
    let mut attempt = Command::new("unshare");
    attempt.args(NAMESPACES).args(["ip", "link", "set", "lo", "up"]).env("PATH", path);
    let output = attempt.output().map_err(|error| format!("unshare: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("unshare failed").to_owned())
        }
    }
}

/// This program again, behind a command that becomes it.
fn go_on(command: &mut Command, key: &str, value: &str) -> ExitCode {
    let status = std::env::current_exe().and_then(|program| {
        command
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(key, value)
            .env("RESOLV_CONF", resolv_conf())
            .status()
    });
    match status {
        Ok(status) => {
            let signalled = status.signal().map(|signal| 128 + signal);
            ExitCode::from(status.code().or(signalled).and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("chaos: cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

fn resolv_conf() -> String {
    format!("nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
}

/// An ordinary user may make all of these where user namespaces are allowed.
const NAMESPACES: &[&str] = &["--user", "--map-root-user", "--net", "--mount", "--kill-child", "--"];
/// Without the name server, the faults of names are left out; without loopback, nothing would work.
const SETTLE: &str = r#"
ip link set lo up || exit 1
file=$(mktemp) && printf %s "$RESOLV_CONF" >"$file" && mount --bind "$file" /etc/resolv.conf
rm -f "$file"
exec "$0" "$@"
"#;
const INSIDE: &str = "FNGATE_CHAOS_INSIDE";
const WHY_NOT: &str = "FNGATE_CHAOS_WHY_NOT";
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
