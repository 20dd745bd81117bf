//! `Names`: what this machine says about names, as of one reading of its hosts file and its resolver configuration.
//!
//! A name in the hosts file is at the addresses given there and is never asked for elsewhere, as resolv.conf(5) and nsswitch's
//! `files dns` have it. Answers are not cached here: whoever asks keeps them for as long as they live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// Where the system keeps what it knows of names.
#[derive(Debug)]
pub(super) struct System {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
    /// The port of the name servers, which resolv.conf(5) cannot say.
    pub(super) port: u16,
}

pub(super) struct Names {
    hosts: Hosts,
    dns: TokioResolver,
    /// What was read, to notice a change.
    sources: Sources,
}

/// Where a name is, and for how long this can be relied on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Sorted, each once, never none.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) life: Duration,
}

/// The bytes of the files; a missing file is an empty one.
#[derive(PartialEq, Eq)]
struct Sources {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl Default for System {
    fn default() -> Self {
        System { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

impl System {
    fn sources(&self) -> Sources {
        let read = |path: &Path| std::fs::read(path).unwrap_or_default();
        Sources { resolv_conf: read(&self.resolv_conf), hosts: read(&self.hosts) }
    }
}

impl Names {
    pub(super) fn read(system: &System) -> anyhow::Result<Self> {
        let sources = system.sources();
        let mut hosts = Hosts::default();
        hosts
            .read_hosts_conf(sources.hosts.as_slice())
            .with_context(|| format!("{} cannot be read", system.hosts.display()))?;
        let (config, options) = configuration(&sources.resolv_conf, system)?;
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .context("the resolver cannot be set up")?;
        Ok(Names { hosts, dns, sources })
    }

    pub(super) fn is_outdated(&self, system: &System) -> bool {
        self.sources != system.sources()
    }

    pub(super) async fn look_up(&self, name: &str) -> anyhow::Result<Answer> {
        // Underscores are no letters of a host name, but Compose and others give such names.
        let parsed = Name::from_str_relaxed(name)?;
        let listed = self.listed(&parsed);
        if !listed.is_empty() {
            return Ok(Answer { addresses: preferred(listed, has_route), life: Duration::MAX });
        }
        let answer = self.dns.lookup_ip(parsed).await?;
        let addresses = preferred(answer.iter().collect(), has_route);
        if addresses.is_empty() {
            bail!("the name has no address");
        }
        Ok(Answer { addresses, life: answer.valid_until().saturating_duration_since(Instant::now()) })
    }

    /// What the hosts file says.
    fn listed(&self, name: &Name) -> Vec<IpAddr> {
        let lookups = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|family| self.hosts.lookup_static_host(&Query::query(name.clone(), family)));
        lookups
            .flat_map(|lookup| {
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn configuration(resolv_conf: &[u8], system: &System) -> anyhow::Result<(ResolverConfig, ResolverOpts)> {
    let (mut config, mut options) = parse_resolv_conf(resolv_conf).or_else(|e| {
        log::warn!("{}: {e}; the name server of this machine is asked", system.resolv_conf.display());
        parse_resolv_conf(LOCAL_SERVER)
    })?;
    // The host's own domain is searched only where the file says nothing else.
    if !config.search.is_empty() {
        config.domain = None;
    }
    for connection in config.name_servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = system.port;
    }
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // A cache would keep "no such name" for as long as the zone allows, and hide that it has appeared.
    options.cache_size = 0;
    Ok((config, options))
}

/// Leaves out addresses of a family that this machine cannot send to, unless there are only such.
fn preferred(mut addresses: Vec<IpAddr>, has_route: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    addresses.sort();
    addresses.dedup();
    let (routed, unrouted): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|ip| has_route(*ip));
    if routed.is_empty() { unrouted } else { routed }
}

/// Connecting a datagram socket looks the route up and sends nothing.
fn has_route(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(SocketAddr::new(ip, 9))).is_ok()
}

/// What resolv.conf(5) says of a file that names no server.
const LOCAL_SERVER: &[u8] = b"nameserver 127.0.0.1\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn prefers(addresses: &[&str], routed: fn(IpAddr) -> bool, expected: &[&str]) {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(preferred(parse(addresses), routed), parse(expected));
    }

    #[test]
    fn addresses_without_a_route_are_the_last_resort() {
        let both = ["2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2"];
        prefers(&both, |_| true, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        prefers(&both, |ip| ip.is_ipv4(), &["192.0.2.1", "192.0.2.2"]);
        prefers(&both, |ip| ip.is_ipv6(), &["2001:db8::1"]);
        prefers(&both, |_| false, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        prefers(&[], |_| true, &[]);
    }

    #[test]
    fn loopback_has_a_route() {
        assert!(has_route(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    fn parsed(resolv_conf: &str) -> (ResolverConfig, ResolverOpts) {
        configuration(resolv_conf.as_bytes(), &System::default()).unwrap()
    }

    #[test]
    fn no_server_is_asked_that_the_system_does_not_name() {
        let servers = |text| parsed(text).0.name_servers.iter().map(|server| server.ip).collect::<Vec<_>>();
        assert_eq!(servers("nameserver 192.0.2.53\n"), [IpAddr::from([192, 0, 2, 53])]);
        for text in ["", "search example.org\n", "\0\u{fffd}nonsense"] {
            assert_eq!(servers(text), [IpAddr::from([127, 0, 0, 1])], "{text:?}");
        }
    }

    #[test]
    fn the_searched_domains_are_those_of_the_file() {
        let (config, options) =
            parsed("nameserver 127.0.0.1\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n");
        assert_eq!(config.domain, None);
        assert_eq!(
            config.search.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["ns.svc.cluster.local", "svc.cluster.local"]
        );
        assert_eq!(options.ndots, 5);
    }

    #[test]
    fn a_missing_file_is_an_empty_one() {
        let nowhere = System { resolv_conf: "/nowhere/1".into(), hosts: "/nowhere/2".into(), port: 53 };
        let names = Names::read(&nowhere).unwrap();
        assert!(!names.is_outdated(&nowhere));
        assert!(names.listed(&Name::from_ascii("localhost").unwrap()).is_empty());
    }
}
