//! Raw settings to compiled ones: what well-formed values mean, the defaults of what is missing, and what fits together.
//!
//! Every fault is recorded at its place and the rest goes on. The defaults are the constants at the end.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::raw;
use crate::diag::{Invalid, Place, Scope};
use crate::downstream::HeadLimits;
use crate::snapshot::{AccessLog, Admin, Limits, Listener, Settings};
use crate::telemetry::Sink;
use crate::tls::Identity;
use crate::values::{ByteSize, Written, compile_duration, is_host_name, parse_size};

pub(super) fn compile(raw: raw::Settings, scope: &Scope<'_>) -> Option<Settings> {
    let raw::Settings {
        listeners,
        threads,
        admin,
        drain_delay,
        shutdown_grace,
        trusted_proxies,
        deny_addresses,
        access_log,
        limits,
    } = raw;
    let mut bound = Bound::default();
    let listeners = match listeners {
        Some(listeners) => compile_listeners(listeners, &mut bound, &scope.key("listeners")),
        None => {
            bound.add(LISTENER, &scope.key("listeners"));
            Some(vec![Listener { address: LISTENER, identities: Vec::new() }])
        }
    };
    let admin = compile_admin(admin.unwrap_or_default(), &mut bound, &scope.key("admin"));
    let drain_delay = duration(drain_delay, DRAIN_DELAY, &scope.key("drain_delay"));
    let shutdown_grace = duration(shutdown_grace, SHUTDOWN_GRACE, &scope.key("shutdown_grace"));
    let trusted_proxies =
        compile_networks(trusted_proxies.unwrap_or_default(), &scope.key("trusted_proxies"));
    if let Some(networks) = &trusted_proxies {
        warn_of_everybody(networks, &scope.key("trusted_proxies"));
    }
    let deny_addresses = match deny_addresses {
        Some(networks) => compile_networks(networks, &scope.key("deny_addresses")),
        None => Some(METADATA.to_vec()),
    };
    let access_log = compile_access_log(access_log, &scope.key("access_log"));
    let limits = compile_limits(limits.unwrap_or_default(), &scope.key("limits"));
    let threads = match threads.unwrap_or(raw::Threads::Auto) {
        raw::Threads::Auto => std::thread::available_parallelism().map_or(1, NonZero::get),
        raw::Threads::Number(number) => usize::from(number),
    };
    Some(Settings {
        listeners: listeners?,
        threads,
        admin: admin?,
        drain_delay: drain_delay?,
        shutdown_grace: shutdown_grace?,
        trusted_proxies: trusted_proxies?,
        deny_addresses: deny_addresses?.into(),
        access_log: access_log?,
        limits: limits?,
    })
}

fn compile_listeners(raw: Vec<raw::Listener>, bound: &mut Bound, scope: &Scope<'_>) -> Option<Vec<Listener>> {
    let compile = |(i, raw::Listener { address, tls }): (usize, raw::Listener)| {
        let scope = scope.index(i);
        let address = socket_address(&address, &scope.key("address"));
        if let Some(address) = address {
            bound.add(address, &scope.key("address"));
        }
        let identities = match tls {
            None => Some(Vec::new()),
            Some(raw::Tls::One(pair)) => {
                load_identity(pair, &scope.key("tls")).map(|identity| vec![identity])
            }
            Some(raw::Tls::Several(pairs)) => {
                let scope = scope.key("tls");
                let loaded: Vec<_> = pairs
                    .into_iter()
                    .enumerate()
                    .map(|(i, pair)| load_identity(pair, &scope.index(i)))
                    .collect();
                loaded.into_iter().collect()
            }
        };
        Some(Listener { address: address?, identities: identities? })
    };
    let compiled: Vec<_> = raw.into_iter().enumerate().map(compile).collect();
    compiled.into_iter().collect()
}

fn load_identity(raw: raw::KeyPair, scope: &Scope<'_>) -> Option<Identity> {
    let raw::KeyPair { cert, key } = raw;
    let (cert, key) = (scope.key("cert").file(cert), scope.key("key").file(key));
    let scope = scope.key("cert");
    let identity = scope.accept(Identity::load(&cert, &key))?;
    // A warning: a gateway with an old certificate serves more clients than one that does not start.
    if let Err(Invalid { message, hint }) = identity.validity(SystemTime::now()) {
        scope.warn(message, hint.unwrap_or_default());
    }
    Some(identity)
}

fn compile_admin(raw: raw::Admin, bound: &mut Bound, scope: &Scope<'_>) -> Option<Admin> {
    let raw::Admin { address, hosts } = raw;
    let hosts: Vec<_> = hosts
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let invalid = Invalid::new(format!("`{name}` is not a host name")).hint("a name, without port");
            scope.key("hosts").index(i).accept(if is_host_name(&name) { Ok(name) } else { Err(invalid) })
        })
        .collect();
    let scope = scope.key("address");
    let address = match address {
        Some(address) => socket_address(&address, &scope),
        None => Some(ADMIN),
    }?;
    bound.add(address, &scope);
    if !address.ip().is_loopback() {
        scope.warn(
            "the administrative listener can be reached from other machines",
            "it asks for no credentials; give it a loopback address, or keep it behind a firewall",
        );
    }
    Some(Admin { address, hosts: hosts.into_iter().collect::<Option<_>>()? })
}

/// The addresses to listen on so far, and where they stand.
#[derive(Default)]
struct Bound(Vec<(SocketAddr, Place)>);

impl Bound {
    /// Says so when not all of them can be bound.
    fn add(&mut self, address: SocketAddr, scope: &Scope<'_>) {
        let clashes = self.0.iter().map(|(other, first)| (other, first, clash(*other, address)));
        if let Some((other, first, clash)) = clashes.min_by_key(|(.., clash)| *clash) {
            match clash {
                Clash::Same => {
                    scope.reject_second("another listener has the same address", None, first.clone());
                }
                Clash::Covered => {
                    let message = format!("{other} and {address} cannot both be listened on");
                    scope.reject_second(message, None, first.clone());
                }
                Clash::BothFamilies => scope.warn(
                    format!("{other} and {address} cannot both be listened on: `[::]` takes IPv4 as well"),
                    "leave one out, unless systemd binds both, with `BindIPv6Only=ipv6-only`",
                ),
                Clash::None => {}
            }
        }
        self.0.push((address, scope.place().clone()));
    }
}

/// What keeps two addresses from being listened on at once; the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clash {
    Same,
    /// One of them is every address of a family, the other one of these.
    Covered,
    /// One of them is every address of both families, as it is where nobody says otherwise.
    BothFamilies,
    None,
}

fn clash(one: SocketAddr, other: SocketAddr) -> Clash {
    if one == other {
        return Clash::Same;
    }
    // Port 0 is another port for each.
    if one.port() != other.port() || one.port() == 0 {
        return Clash::None;
    }
    match (one.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) if one == other => Clash::Same,
        (IpAddr::V4(one), IpAddr::V4(other)) if one.is_unspecified() || other.is_unspecified() => {
            Clash::Covered
        }
        (IpAddr::V6(one), IpAddr::V6(other)) if one.is_unspecified() || other.is_unspecified() => {
            Clash::Covered
        }
        (IpAddr::V6(all), IpAddr::V4(_)) | (IpAddr::V4(_), IpAddr::V6(all)) if all.is_unspecified() => {
            Clash::BothFamilies
        }
        _ => Clash::None,
    }
}

fn socket_address(text: &str, scope: &Scope<'_>) -> Option<SocketAddr> {
    let parsed = text.parse::<SocketAddr>().map_err(|_| {
        let hint = match text.rsplit_once(':') {
            Some(("", port)) => format!("`ip:port`, like `0.0.0.0:{port}` for every IPv4 address"),
            Some(("localhost", port)) => format!("names are not resolved here; `127.0.0.1:{port}`"),
            _ => "`ip:port`, like `0.0.0.0:9080` or `[::]:9080`".to_owned(),
        };
        Invalid::new(format!("`{text}` is not an address to listen on")).hint(hint)
    });
    let address = scope.accept(parsed)?;
    if address.port() == 0 {
        scope.warn("port 0 is another port at every start", "name the port that clients use");
    }
    Some(address)
}

fn compile_networks(raw: Vec<String>, scope: &Scope<'_>) -> Option<Vec<IpNet>> {
    let parse = |(i, text): (usize, String)| {
        let scope = scope.index(i);
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let canonical = network.ok().and_then(canonical);
        scope.accept(canonical.ok_or_else(|| {
            Invalid::new(format!("`{text}` is not a network")).hint("like `10.0.0.0/8` or `2001:db8::/32`")
        }))
    };
    let parsed: Vec<_> = raw.into_iter().enumerate().map(parse).collect();
    parsed.into_iter().collect()
}

/// An IPv4 network in IPv6 clothes is the IPv4 network, as an address in them is the IPv4 address. `None` for one that is
/// larger than all of IPv4, whose prefix was most likely meant without them.
fn canonical(network: IpNet) -> Option<IpNet> {
    let canonical = match network.addr().to_canonical() {
        IpAddr::V4(address) if matches!(network, IpNet::V6(_)) => {
            Ipv4Net::new(address, network.prefix_len().checked_sub(MAPPED)?).ok()?.into()
        }
        _ => network,
    };
    Some(canonical.trunc())
}

/// The prefix of all IPv4 addresses in IPv6 clothes, `::ffff:0:0/96`.
const MAPPED: u8 = 96;

fn warn_of_everybody(networks: &[IpNet], scope: &Scope<'_>) {
    for (i, _) in networks.iter().enumerate().filter(|(_, network)| network.prefix_len() == 0) {
        scope.index(i).warn("every client is believed", "name the networks of your own proxies");
    }
}

fn compile_access_log(raw: Option<raw::AccessLog>, scope: &Scope<'_>) -> Option<AccessLog> {
    let path = match raw {
        None | Some(raw::AccessLog::Word(raw::AccessLogWord::Stdout)) => return Some(AccessLog::Stdout),
        Some(raw::AccessLog::Word(raw::AccessLogWord::Off)) => return Some(AccessLog::Off),
        Some(raw::AccessLog::To(raw::AccessLogTarget { path })) => path,
    };
    match path.as_str() {
        "stdout" => Some(AccessLog::Stdout),
        "off" => Some(AccessLog::Off),
        "" => {
            scope.key("path").reject_with("the path is empty", "`stdout`, `off`, or a file");
            None
        }
        word if !word.contains(['/', '.']) => {
            let hint = format!("`stdout`, `off`, or a file, like `./{word}`");
            scope.key("path").reject_with(format!("`{word}` is no place that is known here"), hint);
            None
        }
        path => {
            let path = scope.path(path);
            try_out(&path, &scope.key("path"))?;
            Some(AccessLog::File(path))
        }
    }
}

/// Whether lines could be written there, as far as this process can know.
fn try_out(path: &Path, scope: &Scope<'_>) -> Option<()> {
    let Err(error) = Sink::File(path.to_owned()).try_out() else { return Some(()) };
    let message = format!("the access log {error}");
    let directory = path.parent().unwrap_or(path);
    let hint = match error.kind() {
        ErrorKind::NotFound if scope.is_outside() && directory.parent() == Some(Path::new(LOGS)) => {
            scope.warn(message, "with `LogsDirectory=`, systemd makes the directory when the service starts");
            return Some(());
        }
        ErrorKind::PermissionDenied if scope.is_outside() => {
            scope.warn(message, "the service's user may be another one, who can");
            return Some(());
        }
        ErrorKind::NotFound => format!("there is no directory `{}`", directory.display()),
        _ => "`stdout`, `off`, or a file that the service's user can write".to_owned(),
    };
    scope.reject_with(message, hint);
    None
}

/// Where systemd makes directories for logs.
const LOGS: &str = "/var/log";

fn compile_limits(raw: raw::Limits, scope: &Scope<'_>) -> Option<Limits> {
    let raw::Limits {
        body,
        header_timeout,
        idle_timeout,
        connections,
        in_flight,
        header_count,
        header_size,
        requests_per_connection,
        min_rate,
        http2_streams,
        http2_control_frames,
    } = raw;
    let body = match body {
        Some(written) => scope.key("body").accept(parse_size(&written)),
        None => Some(BODY),
    };
    let header_timeout = positive(header_timeout, HEADER_TIMEOUT, &scope.key("header_timeout"));
    let idle_timeout = positive(idle_timeout, IDLE_TIMEOUT, &scope.key("idle_timeout"));
    let head = compile_head(header_count, header_size, &scope.key("header_size"));
    let min_rate = match min_rate {
        Some(written) => scope.key("min_rate").accept(parse_size(&written)),
        None => Some(MIN_RATE),
    };
    let count = |number: Option<u32>, default| {
        number.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
    };
    Some(Limits {
        body: body?,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        connections: count(connections, CONNECTIONS),
        in_flight: count(in_flight, IN_FLIGHT),
        head: head?,
        requests_per_connection: requests_per_connection.unwrap_or(REQUESTS_PER_CONNECTION),
        min_rate: min_rate?.0,
        http2_streams: http2_streams.unwrap_or(HTTP2_STREAMS),
        http2_control_frames: http2_control_frames.unwrap_or(HTTP2_CONTROL_FRAMES),
    })
}

fn compile_head(count: Option<u16>, size: Option<Written>, scope: &Scope<'_>) -> Option<HeadLimits> {
    let size = match size {
        Some(written) => scope.accept(parse_size(&written))?,
        None => HEADER_SIZE,
    };
    if !HEADER_SIZES.contains(&size) {
        scope.reject_with(format!("`header_size` is {} bytes", size.0), "4KiB to 256KiB");
        return None;
    }
    let size = usize::try_from(size.0).unwrap_or(usize::MAX);
    Some(HeadLimits::new(count.map_or(HEADER_COUNT, usize::from), size))
}

fn duration(written: Option<Written>, default: Duration, scope: &Scope<'_>) -> Option<Duration> {
    match written {
        Some(written) => compile_duration(&written, scope),
        None => Some(default),
    }
}

fn positive(written: Option<Written>, default: Duration, scope: &Scope<'_>) -> Option<Duration> {
    let duration = duration(written, default, scope)?;
    if duration.is_zero() {
        scope.reject_with("the time is 0", "leave the key out for the default");
        return None;
    }
    Some(duration)
}

const LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);
const DRAIN_DELAY: Duration = Duration::ZERO;
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
const BODY: ByteSize = ByteSize(64 << 20);
/// Where clouds tell a machine its credentials.
const METADATA: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32)),
];
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const CONNECTIONS: usize = 20_000;
const IN_FLIGHT: usize = 10_000;
const HEADER_COUNT: usize = 200;
const HEADER_SIZE: ByteSize = ByteSize(64 << 10);
const HEADER_SIZES: std::ops::RangeInclusive<ByteSize> = ByteSize(4 << 10)..=ByteSize(256 << 10);
const REQUESTS_PER_CONNECTION: u32 = 10_000;
const MIN_RATE: ByteSize = ByteSize(500);
const HTTP2_STREAMS: u32 = 100;
const HTTP2_CONTROL_FRAMES: u32 = 1_000;
