//! Against a name server on loopback: real datagrams, short real times to live, deadlines instead of sleeps.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::*;

#[tokio::test]
async fn a_change_is_seen_when_the_time_to_live_is_over() {
    let world = World::new().await;
    world.serve("fn.test", &[("192.0.2.1", 1)]);
    let host = world.resolver.host("fn.test");
    is_at(&host, &["192.0.2.1"]).await;

    world.serve("fn.test", &[("192.0.2.2", 1)]);

    is_at(&host, &["192.0.2.2"]).await;
}

#[tokio::test]
async fn both_families_are_asked_for() {
    let world = World::new().await;
    world.serve("fn.test", &[("::1", 60), ("127.0.0.2", 60), ("127.0.0.1", 60)]);

    is_at(&world.resolver.host("fn.test"), &["127.0.0.1", "127.0.0.2", "::1"]).await;
}

#[tokio::test]
async fn a_failing_resolver_keeps_the_last_answer() {
    for trouble in [Zone::Fails, Zone::Silent, Zone::Absent, Zone::Holds(Vec::new())] {
        let world = World::new().await;
        world.serve("fn.test", &[("192.0.2.1", 1)]);
        let host = world.resolver.host("fn.test");
        is_at(&host, &["192.0.2.1"]).await;

        world.set("fn.test", trouble.clone());
        let before = world.asked("fn.test").len();
        // Not only one failed look-up but also the one after it.
        until("more look-ups", || world.asked("fn.test").len() >= before + 4).await;
        assert_eq!(addresses(&host), ["192.0.2.1"], "{trouble:?}");

        world.serve("fn.test", &[("192.0.2.2", 1)]);
        is_at(&host, &["192.0.2.2"]).await;
    }
}

#[tokio::test]
async fn a_name_that_appears_is_found_however_long_its_absence_may_be_cached() {
    let world = World::new().await;
    let host = world.resolver.host("fn.test");
    host.asked().await;
    assert!(addresses(&host).is_empty());

    world.serve("fn.test", &[("192.0.2.1", 60)]);

    is_at(&host, &["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_alias_is_followed_and_its_time_to_live_counts() {
    let world = World::new().await;
    let alias = |target: &str| {
        vec![
            Record::from_rdata(name("fn.test"), 1, RData::CNAME(CNAME(name(target)))),
            Record::from_rdata(name(target), 3600, RData::A(A(Ipv4Addr::new(192, 0, 2, target.len() as u8)))),
        ]
    };
    world.set("fn.test", Zone::Holds(alias("a.test")));
    let host = world.resolver.host("fn.test");
    is_at(&host, &["192.0.2.6"]).await;

    world.set("fn.test", Zone::Holds(alias("ab.test")));

    is_at(&host, &["192.0.2.7"]).await;
}

#[tokio::test]
async fn times_to_live_have_bounds() {
    let world = World::new().await;
    world.serve("none.test", &[("192.0.2.1", 0)]);
    let none = world.resolver.host("none.test");
    until("several look-ups", || world.asked("none.test").len() >= 6).await;
    let asked: Vec<_> =
        world.asked("none.test").into_iter().filter(|(kind, _)| *kind == RecordType::A).collect();
    for pair in asked.windows(2) {
        assert!(pair[1].1 - pair[0].1 >= SHORTEST_LIFE);
    }
    drop(none);

    // A time beyond what a clock can add up to must not bring the task down.
    world.serve("ages.test", &[("192.0.2.1", i32::MAX as u32)]);
    let ages = world.resolver.host("ages.test");
    is_at(&ages, &["192.0.2.1"]).await;
    world.serve("ages.test", &[("192.0.2.2", 60)]);
    world.resolver.refresh();
    is_at(&ages, &["192.0.2.2"]).await;
}

#[tokio::test]
async fn routes_share_a_look_up_and_the_last_one_ends_it() {
    let world = World::new().await;
    world.serve("fn.test", &[("192.0.2.1", 60)]);
    let hosts: Vec<_> = (0..100).map(|_| world.resolver.host("fn.test")).collect();
    is_at(&hosts[0], &["192.0.2.1"]).await;
    assert_eq!(world.asked("fn.test").len(), 2, "one look-up for each family");
    assert_eq!(world.resolver.names.receiver_count(), 1);

    drop(hosts);

    until("the end of the task", || world.resolver.names.receiver_count() == 0).await;
    is_at(&world.resolver.host("fn.test"), &["192.0.2.1"]).await;
    assert_eq!(world.resolver.hosts.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_that_waits_for_an_answer_ends_as_well() {
    let world = World::new().await;
    world.set("fn.test", Zone::Silent);
    let host = world.resolver.host("fn.test");
    until("the question", || !world.asked("fn.test").is_empty()).await;

    drop(host);

    until("the end of the task", || world.resolver.names.receiver_count() == 0).await;
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_enough() {
    let world = World::new().await;
    world.serve("fn.test", &[("192.0.2.1", 60), ("::1", 60)]);
    world.write_hosts("127.0.0.9 short Fn.Test # comment\n");
    world.resolver.refresh();

    is_at(&world.resolver.host("fn.test"), &["127.0.0.9"]).await;
    is_at(&world.resolver.host("short"), &["127.0.0.9"]).await;
    assert!(world.all_asked().is_empty());
}

#[tokio::test]
async fn a_change_of_the_systems_files_is_noticed() {
    let world = World::new().await;
    world.set("fn.test", Zone::Silent);
    let host = world.resolver.host("fn.test");
    until("the question", || !world.asked("fn.test").is_empty()).await;
    assert!(!world.resolver.is_outdated());

    world.write_hosts("192.0.2.7 fn.test\n");
    assert!(world.resolver.is_outdated());
    world.resolver.refresh();

    assert!(!world.resolver.is_outdated());
    is_at(&host, &["192.0.2.7"]).await;
}

#[tokio::test]
async fn localhost_needs_nobody() {
    let world = World::new().await;
    is_at(&world.resolver.host("localhost"), &["127.0.0.1", "::1"]).await;
    assert!(world.all_asked().is_empty());
}

#[tokio::test]
async fn short_names_are_searched_for_as_the_system_does() {
    let world = World::new().await;
    world.write_resolv_conf("search ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n");
    world.resolver.refresh();
    world.serve("svc.ns.svc.cluster.local", &[("192.0.2.1", 60)]);
    world.serve("fn.default.svc.cluster.local", &[("192.0.2.2", 60)]);
    world.serve("my_fn.other.svc.cluster.local", &[("192.0.2.3", 60)]);

    is_at(&world.resolver.host("svc"), &["192.0.2.1"]).await;
    assert_eq!(world.names_asked(), ["svc.ns.svc.cluster.local"]);
    is_at(&world.resolver.host("my_fn.other"), &["192.0.2.3"]).await;
    is_at(&world.resolver.host("fn.default.svc.cluster.local"), &["192.0.2.2"]).await;
}

#[tokio::test]
async fn a_name_with_enough_dots_is_asked_for_as_it_is() {
    let world = World::new().await;
    world.write_resolv_conf("search corp.test\n");
    world.resolver.refresh();
    world.serve("fn.test", &[("192.0.2.1", 60)]);

    is_at(&world.resolver.host("fn.test"), &["192.0.2.1"]).await;

    assert_eq!(world.names_asked(), ["fn.test"]);
}

#[tokio::test]
async fn nobody_is_asked_that_the_system_does_not_name() {
    let world = World::new().await;
    std::fs::remove_file(&world.resolver.system.resolv_conf).unwrap();
    world.serve("fn.test", &[("192.0.2.1", 60)]);
    world.resolver.refresh();

    // The name server of this machine, which is where the test's server happens to be.
    is_at(&world.resolver.host("fn.test"), &["192.0.2.1"]).await;
}

/// A resolver whose system files are in a directory of its own, and the name server these point to.
struct World {
    resolver: Resolver,
    zones: Zones,
    asked: Asked,
    _dir: TempDir,
    server: AbortHandle,
}

type Zones = Arc<Mutex<HashMap<String, Zone>>>;
type Asked = Arc<Mutex<Vec<(String, RecordType, Instant)>>>;

/// What the server says of a name; `Absent` when nothing was set.
#[derive(Debug, Clone)]
enum Zone {
    Holds(Vec<Record>),
    Absent,
    Fails,
    Silent,
}

impl World {
    async fn new() -> Self {
        let (zones, asked) = (Zones::default(), Asked::default());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = tokio::spawn(serve(socket, Arc::clone(&zones), Arc::clone(&asked))).abort_handle();
        let dir = tempfile::tempdir().unwrap();
        let system =
            System { resolv_conf: dir.path().join("resolv.conf"), hosts: dir.path().join("hosts"), port };
        std::fs::write(&system.resolv_conf, SERVER).unwrap();
        let resolver = Resolver::new(system, tokio::runtime::Handle::current()).unwrap();
        World { resolver, zones, asked, _dir: dir, server }
    }

    fn set(&self, name: &str, zone: Zone) {
        self.zones.lock().unwrap().insert(name.to_owned(), zone);
    }

    /// Answers with these addresses and times to live.
    fn serve(&self, owner: &str, addresses: &[(&str, u32)]) {
        let records = addresses.iter().map(|(address, ttl)| {
            let data = match address.parse().unwrap() {
                IpAddr::V4(ip) => RData::A(A(ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
            };
            Record::from_rdata(name(owner), *ttl, data)
        });
        self.set(owner, Zone::Holds(records.collect()));
    }

    fn write_hosts(&self, text: &str) {
        std::fs::write(&self.resolver.system.hosts, text).unwrap();
    }

    fn write_resolv_conf(&self, text: &str) {
        std::fs::write(&self.resolver.system.resolv_conf, format!("{SERVER}{text}")).unwrap();
    }

    fn asked(&self, name: &str) -> Vec<(RecordType, Instant)> {
        self.all_asked()
            .into_iter()
            .filter(|(asked, ..)| asked == name)
            .map(|(_, kind, at)| (kind, at))
            .collect()
    }

    fn all_asked(&self) -> Vec<(String, RecordType, Instant)> {
        self.asked.lock().unwrap().clone()
    }

    /// Each name once, in the order of the first question.
    fn names_asked(&self) -> Vec<String> {
        let mut names: Vec<_> = self.all_asked().into_iter().map(|(name, ..)| name).collect();
        names.dedup();
        names
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(socket: UdpSocket, zones: Zones, asked: Asked) {
    let mut buffer = [0; 4096];
    loop {
        let (size, client) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..size]).unwrap();
        let query = question.queries[0].clone();
        let owner = query.name().to_string().trim_end_matches('.').to_lowercase();
        asked.lock().unwrap().push((owner.clone(), query.query_type(), Instant::now()));
        let zone = zones.lock().unwrap().get(&owner).cloned().unwrap_or(Zone::Absent);

        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        answer.metadata.recursion_available = true;
        match zone {
            Zone::Silent => continue,
            Zone::Fails => answer.metadata.response_code = ResponseCode::ServFail,
            Zone::Absent => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(start_of_authority());
            }
            Zone::Holds(records) => {
                let kinds = [query.query_type(), RecordType::CNAME];
                answer
                    .add_answers(records.into_iter().filter(|record| kinds.contains(&record.record_type())));
                if answer.answers.is_empty() {
                    answer.add_authority(start_of_authority());
                }
            }
        }
        socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    }
}

/// Allows to remember for an hour that something is not there.
fn start_of_authority() -> Record {
    let data = SOA::new(name("ns.test"), name("admin.test"), 1, 3600, 3600, 3600, 3600);
    Record::from_rdata(name("test"), 3600, RData::SOA(data))
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

fn addresses(host: &Host) -> Vec<String> {
    host.addresses().iter().map(ToString::to_string).collect()
}

async fn is_at(host: &Host, expected: &[&str]) {
    until(&format!("{} to be at {expected:?}", host.name()), || addresses(host) == expected).await;
}

/// Waits for a condition with a deadline.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const SERVER: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
