//! What the machine hands to the gateway: sockets that its service manager has bound, names that its resolver knows.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::harness::*;

#[tokio::test]
async fn sockets_are_found_by_their_addresses_in_whatever_order() {
    let origin = Origin::echo().await;
    let [plain, other, admin] = [free_port(), free_port(), free_port()];
    let yaml = format!(
        "listeners: [ {{ address: '127.0.0.1:{plain}' }}, {{ address: '127.0.0.1:{other}' }} ]\n{}",
        to(&origin)
    );
    let passed = [local(admin), local(other), local(plain)].map(|address| address.to_string());
    let gateway = Running::activated(&passed, admin, &yaml);
    gateway.is_ready().await;

    for port in [plain, other] {
        assert_eq!(get(port, "/fn").await.status(), 200);
    }
    assert!(!gateway.stderr().contains("no listener has this address"), "{}", gateway.stderr());
}

#[tokio::test]
async fn a_socket_for_both_families_serves_the_address_of_any() {
    if TcpListener::bind("[::]:0").is_err() {
        return eprintln!("skipped: this machine has no IPv6");
    }
    let origin = Origin::echo().await;
    let [plain, admin] = [free_port(), free_port()];
    let yaml = format!("listeners: [ {{ address: '0.0.0.0:{plain}' }} ]\n{}", to(&origin));
    let gateway = Running::activated(&[format!("[::]:{plain}")], admin, &yaml);
    gateway.is_ready().await;

    assert_eq!(get(plain, "/fn").await.status(), 200);
}

#[tokio::test]
async fn a_socket_that_nobody_wants_is_a_warning() {
    let origin = Origin::echo().await;
    let [plain, stray, admin] = [free_port(), free_port(), free_port()];
    let yaml = format!("listeners: [ {{ address: '127.0.0.1:{plain}' }} ]\n{}", to(&origin));
    let gateway = Running::activated(&[local(stray).to_string(), local(plain).to_string()], admin, &yaml);
    gateway.is_ready().await;

    gateway.says(&format!("127.0.0.1:{stray}, but no listener has this address")).await;
    assert_eq!(get(plain, "/fn").await.status(), 200);
}

#[tokio::test]
async fn a_socket_of_another_kind_is_refused_with_its_number() {
    let origin = Origin::echo().await;
    let [plain, admin] = [free_port(), free_port()];
    let yaml = format!("listeners: [ {{ address: '127.0.0.1:{plain}' }} ]\n{}", to(&origin));
    let mut gateway = Running::activated(&[local(plain).to_string(), "unix".to_owned()], admin, &yaml);

    assert_eq!(gateway.code().await, Some(1));
    let said = gateway.stderr();
    assert!(said.contains("descriptor 4") && !said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn names_are_followed_while_it_runs() {
    let mount = ["-m", "mount", "--bind", "/etc/hosts", "/etc/hosts"];
    if !Command::new("unshare").args(mount).status().await.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: only root may give the gateway a resolver configuration of its own");
    }
    let Some(dns) = NameServer::start().await else {
        return eprintln!("skipped: no address of this machine has a free port 53");
    };
    let (first, second) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let origin_port = tells_its_address(&[first, second]).await;
    let [plain, admin] = [free_port(), free_port()];
    let yaml = format!(
        "listeners: [ {{ address: '127.0.0.1:{plain}' }} ]\n{}",
        route("/fn", &format!("http: {{ url: 'http://fn.test:{origin_port}/' }}"))
    );
    let gateway = Running::with_names(dns.ip(), admin, &yaml);
    gateway.is_ready().await;

    // At first nobody knows the name: a warning, and no request waits.
    gateway.says("`fn.test` does not resolve").await;
    gateway.says("; no address is known").await;
    let answer = get(plain, "/fn").await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_resolve"));

    dns.set(Zone::At(vec![first]));
    reaches(plain, &[first]).await;
    dns.set(Zone::At(vec![second]));
    reaches(plain, &[second]).await;
    dns.set(Zone::At(vec![first, second]));
    reaches(plain, &[first, second]).await;

    // A name server that fails changes nothing.
    dns.set(Zone::Fails);
    dns.is_asked_again().await;
    gateway.says("; its 2 known addresses stay in use").await;
    reaches(plain, &[first, second]).await;

    // The hosts file comes first, also when it changes later.
    std::fs::write(gateway.path("hosts"), format!("{second} fn.test\n")).unwrap();
    reaches(plain, &[second]).await;
}

/// Waits until two requests in a row have come to these addresses, in whatever order.
async fn reaches(port: u16, addresses: &[Ipv4Addr]) {
    eventually(&format!("requests to reach {addresses:?}"), PATIENCE, async || {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let answer = get(port, "/fn").await;
            (answer.status() == 200).then(|| seen.push(answer.text().parse::<Ipv4Addr>().unwrap()));
        }
        seen.sort();
        seen.dedup();
        (seen == addresses).then_some(())
    })
    .await;
}

/// A gateway that was started by something else than the harness.
struct Running {
    child: Child,
    dir: TempDir,
    admin: u16,
}

impl Running {
    /// The sockets are bound and passed as systemd does. `unix` is one in the file system.
    fn activated(sockets: &[String], admin: u16, yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HAND_OVER]).arg(dir.path().join("socket")).arg(sockets.join(" "));
        Self::spawn(command, dir, admin, yaml)
    }

    /// In a mount namespace with a hosts file and a resolver configuration of its own.
    fn with_names(name_server: Ipv4Addr, admin: u16, yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts"), "").unwrap();
        let resolv_conf = format!("nameserver {name_server}\noptions timeout:1 attempts:1\n");
        std::fs::write(dir.path().join("resolv.conf"), resolv_conf).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "/bin/sh", "-c", MOUNT]).arg(dir.path());
        Self::spawn(command, dir, admin, yaml)
    }

    /// `command` ends by becoming what its last arguments say.
    fn spawn(mut command: Command, dir: TempDir, admin: u16, yaml: &str) -> Self {
        let config = dir.path().join("fngate.yaml");
        let text = format!("admin: {{ address: '{}' }}\naccess_log: off\n{yaml}", local(admin));
        std::fs::write(&config, text).unwrap();
        let log = File::create(dir.path().join("stderr")).unwrap();
        command.args([env!("CARGO_BIN_EXE_fngate"), "run", "-c"]).arg(config);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Running { child: command.spawn().unwrap(), dir, admin }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    async fn is_ready(&self) {
        eventually("the gateway to be ready", PATIENCE, async || {
            let answer =
                Client::try_connect(local(self.admin)).await?.try_call(&Request::get("/readyz")).await?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    async fn says(&self, text: &str) {
        eventually(&format!("{text:?} in the service log"), PATIENCE, async || {
            self.stderr().contains(text).then_some(())
        })
        .await;
    }

    async fn code(&mut self) -> Option<i32> {
        within("the gateway to end", self.child.wait()).await.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- service log of the gateway ---\n{}", self.stderr());
        }
    }
}

/// Origins on one port of several addresses; each answers with its address.
async fn tells_its_address(addresses: &[Ipv4Addr]) -> u16 {
    let port = free_port();
    for address in addresses {
        let listener = tokio::net::TcpListener::bind((*address, port)).await.unwrap();
        let text = address.to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                // A request without a body comes in one piece, on loopback.
                let _ = stream.read(&mut head).await;
                let length = text.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }
    port
}

async fn get(port: u16, target: &str) -> Response {
    Client::connect(local(port)).await.call(&Request::get(target)).await
}

fn to(origin: &Origin) -> String {
    route("/fn", &format!("http: {{ url: '{}/' }}", origin.url()))
}

/// Binds what is asked for, moves it to where sd_listen_fds(3) looks, and becomes the gateway.
const HAND_OVER: &str = r#"
import os, socket, sys
path, names, command = sys.argv[1], sys.argv[2].split(), sys.argv[3:]
sockets = []
for name in names:
    if name == "unix":
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
    else:
        host, port = name.rsplit(":", 1)
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        s = socket.socket(family)
        s.bind((host.strip("[]"), int(port)))
    s.listen()
    sockets.append(os.dup2(s.fileno(), 100 + len(sockets)))
for i, fd in enumerate(sockets):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(sockets)), LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"#;

/// Lays the files of a directory over the system's, and becomes the gateway.
const MOUNT: &str = r#"
mount --bind "$0/resolv.conf" /etc/resolv.conf && mount --bind "$0/hosts" /etc/hosts && exec "$@"
"#;
