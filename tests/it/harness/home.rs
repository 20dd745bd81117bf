//! Where one gateway lives: a directory with its configuration, and ports that nobody else has.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

/// The directory and the ports of one gateway.
pub(super) struct Home {
    pub(super) dir: TempDir,
    layout: Layout,
    pub(super) ports: Ports,
}

impl Home {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            layout,
            ports: Ports { plain: free_port(), tls: free_port(), admin: free_port() },
        }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.path().join("fngate.yaml")
    }

    /// Completes what a test does not care about. One thread, so that connections can be counted: among several, Pingora now and then
    /// takes an idle connection out of its pool before the watcher has let go of it, drops it, and dials.
    pub(super) fn write_config(&self, yaml: &str) {
        let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
        let mut text = String::new();
        for (key, default) in [
            ("listeners:", "listeners: [ { address: \"127.0.0.1:$PORT\" } ]\n"),
            ("admin:", "admin: { address: \"127.0.0.1:$ADMIN_PORT\" }\n"),
            ("access_log:", "access_log: { path: stdout }\n"),
            ("threads:", "threads: 1\n"),
        ] {
            if !has(key) {
                text += default;
            }
        }
        text += yaml;
        let text = text
            .replace("$PORT", &self.ports.plain.to_string())
            .replace("$TLS_PORT", &self.ports.tls.to_string())
            .replace("$ADMIN_PORT", &self.ports.admin.to_string())
            .replace("$DIR", self.dir.path().to_str().unwrap());
        match self.layout {
            Layout::Plain => self.write("fngate.yaml", &text, 0o600),
            Layout::ConfigMap => self.swap_link(&text),
        }
    }

    fn swap_link(&self, text: &str) {
        let dir = self.dir.path();
        let version = format!("..{}", std::fs::read_dir(dir).unwrap().count());
        self.write(&format!("{version}/fngate.yaml"), text, 0o600);
        symlink(version, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if !self.config().is_symlink() {
            symlink("..data/fngate.yaml", self.config()).unwrap();
        }
    }

    /// A watcher of the file sees the old text or the new one, never half of either.
    pub(super) fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let draft = self.dir.path().join(".draft");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&draft).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(draft, path).unwrap();
    }
}

pub(super) struct Ports {
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) admin: u16,
}

/// How the configuration file lies in its directory.
#[derive(Clone, Copy, Default)]
pub(super) enum Layout {
    #[default]
    Plain,
    /// As Kubernetes mounts a ConfigMap: a link to a file below `..data`, itself a link that is swapped.
    ConfigMap,
}

/// A port that nobody else has, nor gets for as long as this process lives: neither another test, which finds
/// its number taken by a datagram socket, nor a connection, for which the system picks from a range above. Nor is
/// there anything left of an earlier owner's connections.
pub(crate) fn free_port() -> u16 {
    static KEPT: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    loop {
        let port = fastrand::u16(10_000..first_ephemeral_port().max(20_000));
        let Ok(mark) = UdpSocket::bind(local(port)) else { continue };
        if is_clean(port) {
            KEPT.lock().unwrap().push(mark);
            return port;
        }
    }
}

/// Whether it can be bound, on all addresses, by who does not ask to have it beside connections that wait for their end.
fn is_clean(port: u16) -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok()
}

fn first_ephemeral_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    range.split_whitespace().next().unwrap().parse().unwrap()
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
