use std::collections::HashSet;
use std::net::SocketAddr;

use pingora::upstreams::peer::Peer;

use super::names::System;
use super::*;

#[track_caller]
fn rounds(weights: &[u32], expected: &[u16]) {
    let endpoints: Vec<_> = weights
        .iter()
        .map(|weight| Endpoint { address: HostPort::parse("a:1", None).unwrap(), weight: *weight })
        .collect();
    assert_eq!(schedule(&endpoints), expected);
}

#[test]
fn weights_are_spread_over_the_round() {
    rounds(&[1], &[0]);
    rounds(&[7], &[0]);
    rounds(&[1, 1], &[0, 1]);
    rounds(&[2, 1], &[0, 1, 0]);
    rounds(&[4, 2], &[0, 1, 0]);
    rounds(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
}

#[tokio::test]
async fn the_addresses_of_a_name_are_used_in_turn() {
    let (_dir, resolver) = knows("127.0.0.1 fn.test\n127.0.0.2 fn.test\n").await;
    let upstream = upstream("hello", terms(&["fn.test:80"]), &resolver).await;

    assert_eq!(turns(&upstream, 4), ["127.0.0.1:80", "127.0.0.2:80", "127.0.0.1:80", "127.0.0.2:80"]);
}

#[tokio::test]
async fn endpoints_take_turns_and_so_do_their_addresses() {
    let (_dir, resolver) = knows("127.0.0.1 fn.test\n127.0.0.2 fn.test\n").await;
    let upstream = upstream("hello", terms(&["fn.test:80", "127.0.0.9:81"]), &resolver).await;

    assert_eq!(turns(&upstream, 4), ["127.0.0.1:80", "127.0.0.9:81", "127.0.0.2:80", "127.0.0.9:81"]);
}

#[tokio::test]
async fn a_name_without_an_address_is_passed_over() {
    let (_dir, resolver) = knows("").await;
    let half = upstream("hello", terms(&["absent.invalid:80", "127.0.0.9:81"]), &resolver).await;
    assert_eq!(half.unresolved().collect::<Vec<_>>(), ["absent.invalid"]);
    assert_eq!(turns(&half, 2), ["127.0.0.9:81", "127.0.0.9:81"]);

    let none = upstream("hello", terms(&["absent.invalid:80"]), &resolver).await;
    assert_eq!(none.lease(Instant::now()).unwrap_err(), GatewayError::UpstreamResolve);
}

#[tokio::test]
async fn a_second_attempt_goes_elsewhere_if_there_is_an_elsewhere() {
    let (_dir, resolver) = knows("127.0.0.1 fn.test\n127.0.0.2 fn.test\n").await;
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let elsewhere = |upstream: &Upstream, failed: &str| {
        let failed = address(failed);
        let lease = std::iter::repeat_with(|| upstream.lease(Instant::now()).unwrap());
        let lease = lease.take(20).find(|lease| lease.address() == failed).unwrap();
        upstream.lease_after(lease, Instant::now()).unwrap().address()
    };

    let uneven = Terms {
        endpoints: [("127.0.0.9:81", 9), ("127.0.0.8:81", 1)]
            .map(|(text, weight)| Endpoint { address: HostPort::parse(text, None).unwrap(), weight })
            .into(),
        ..terms(&[])
    };
    let uneven = upstream("hello", uneven, &resolver).await;
    let one_name = upstream("hello", terms(&["fn.test:80"]), &resolver).await;
    let alone = upstream("hello", terms(&["127.0.0.9:81"]), &resolver).await;
    for _ in 0..10 {
        assert_eq!(elsewhere(&uneven, "127.0.0.9:81"), address("127.0.0.8:81"));
        assert_eq!(elsewhere(&one_name, "127.0.0.1:80"), address("127.0.0.2:80"));
        assert_eq!(elsewhere(&alone, "127.0.0.9:81"), address("127.0.0.9:81"));
    }
    let (other, failed) = (alone.lease(Instant::now()).unwrap(), alone.lease(Instant::now()).unwrap());
    let slot = key(&alone, &failed);
    drop(other);
    assert_eq!(
        key(&alone, &alone.lease_after(failed, Instant::now()).unwrap()),
        slot,
        "the other may have a connection"
    );
}

#[tokio::test]
async fn an_address_keeps_its_slots_when_the_name_gets_another_one() {
    let (dir, resolver) = knows("127.0.0.1 fn.test\n").await;
    let upstream = upstream("hello", terms(&["fn.test:80"]), &resolver).await;
    let held = upstream.lease(Instant::now()).unwrap();

    std::fs::write(dir.path().join("hosts"), "127.0.0.1 fn.test\n127.0.0.2 fn.test\n").unwrap();
    resolver.refresh();
    while upstream.address_count() < 2 {
        tokio::task::yield_now().await;
    }

    let later: Vec<_> = (0..2).map(|_| upstream.lease(Instant::now()).unwrap()).collect();
    let same = later.iter().find(|lease| lease.address() == held.address()).unwrap();
    assert_eq!((held.slot.index(), same.slot.index()), (Some(0), Some(1)));
}

#[test]
fn requests_that_notice_an_answer_together_agree_on_its_slots() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (dir, resolver) = runtime.block_on(knows("127.0.0.1 fn.test\n"));
    let upstream = runtime.block_on(upstream("hello", terms(&["fn.test:80"]), &resolver));
    for round in 2..40 {
        std::fs::write(dir.path().join("hosts"), format!("127.0.0.{round} fn.test\n")).unwrap();
        resolver.refresh();
        let wanted = SocketAddr::from(([127, 0, 0, round], 80));
        let slots = std::thread::scope(|scope| {
            let ask = || {
                loop {
                    let lease = upstream.lease(Instant::now()).unwrap();
                    if lease.address() == wanted {
                        return lease;
                    }
                }
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let taken: HashSet<_> = slots.iter().map(|lease| lease.slot.index().unwrap()).collect();
        assert_eq!(taken.len(), 4, "{taken:?}");
    }
}

#[tokio::test]
async fn no_two_terms_share_connections() {
    let (_dir, resolver) = knows("").await;
    let base = terms(&["127.0.0.1:80"]);
    let https = Terms { scheme: Scheme::Https, sni: "a.test".to_owned(), ..base.clone() };
    let variants = [
        ("hello", base.clone()),
        ("other", base.clone()),
        ("hello", Terms { keepalive: Keepalive::Off, ..base.clone() }),
        ("hello", Terms { protocol: Protocol::Http2, ..base }),
        ("hello", https.clone()),
        ("hello", Terms { sni: "b.test".to_owned(), ..https.clone() }),
        ("hello", Terms { verify: Verify::Nothing, ..https.clone() }),
        ("hello", Terms { protocol: Protocol::Http2, ..https }),
    ];
    let mut keys = HashSet::new();
    for (name, terms) in variants {
        for generation in 1..3 {
            let upstream = Upstream::new(name, terms.clone(), generation, &resolver, Arc::new(Deaf));
            let key = key(&upstream, &upstream.lease(Instant::now()).unwrap());
            assert!(keys.insert(key), "{name} {generation} {terms:?}");
        }
    }
}

#[tokio::test]
async fn a_slot_is_a_connection_of_its_own_and_the_surplus_shares() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    let leases: Vec<_> = (0..12).map(|_| upstream.lease(Instant::now()).unwrap()).collect();

    let keys: Vec<_> = leases.iter().map(|lease| key(&upstream, lease)).collect();

    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), POOL as usize + 1);
    assert_eq!(keys[10], keys[11]);
    let idle = |lease| upstream.peer(lease, Use::Exchange, None).options.idle_timeout;
    assert_eq!((idle(&leases[0]), idle(&leases[11])), (None, None), "they are swept");
}

#[tokio::test]
async fn a_second_attempt_never_meets_what_the_surplus_shares() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    let mut leases: Vec<_> = (0..=POOL).map(|_| upstream.lease(Instant::now()).unwrap()).collect();
    let shared = leases.pop().unwrap();
    let shared_key = key(&upstream, &shared);

    let again = upstream.lease_after(shared, Instant::now()).unwrap();

    assert_ne!(key(&upstream, &again), shared_key);
    assert_eq!(upstream.peer(&again, Use::Exchange, None).options.idle_timeout, Some(Duration::ZERO));
    assert_eq!(key(&upstream, &upstream.lease(Instant::now()).unwrap()), shared_key);

    let with_slot = leases.pop().unwrap();
    let slot_key = key(&upstream, &with_slot);
    assert_eq!(key(&upstream, &upstream.lease_after(with_slot, Instant::now()).unwrap()), slot_key);
}

#[tokio::test]
async fn tunnels_take_no_slots_from_those_whose_connections_are_kept() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    let tunnels: Vec<_> =
        (0..POOL + 1).map(|_| upstream.lease(Instant::now()).unwrap().for_tunnel()).collect();

    assert!(tunnels.iter().all(|tunnel| tunnel.slot.index().is_none()));
    assert_eq!(upstream.lease(Instant::now()).unwrap().slot.index(), Some(0));
}

#[tokio::test]
async fn without_keepalive_no_two_requests_have_the_same_connection() {
    let (_dir, resolver) = knows("").await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let terms = Terms { keepalive: Keepalive::Off, protocol, ..terms(&["127.0.0.1:80"]) };
        let upstream = upstream("hello", terms, &resolver).await;
        let keys: HashSet<_> =
            (0..100).map(|_| key(&upstream, &upstream.lease(Instant::now()).unwrap())).collect();
        assert_eq!(keys.len(), 100, "{protocol:?}");
    }
}

/// The keys of what can be closed now.
fn closing(retired: &mut [Retired]) -> HashSet<u64> {
    retired.iter_mut().flat_map(Retired::peers).map(|peer| peer.reuse_hash()).collect()
}

#[tokio::test]
async fn what_is_retired_is_closed_as_it_is_given_back() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    // The last slot was never used.
    let leases: Vec<_> = (1..POOL).map(|_| upstream.lease(Instant::now()).unwrap()).collect();
    let keys: Vec<_> = leases.iter().map(|lease| key(&upstream, lease)).collect();
    let mut leases = leases.into_iter();
    let (in_use, cached) = (leases.next().unwrap(), leases.next().unwrap());
    drop(leases);

    let mut retired = upstream.retire();
    assert_eq!(closing(&mut retired), keys[2..].iter().copied().collect());
    assert!(!retired[0].is_over() && closing(&mut retired).is_empty());

    drop(cached);
    assert_eq!(closing(&mut retired), [keys[1]].into());
    assert!(!retired[0].is_over());
    // Before it was known when the function closes, and since.
    in_use.hear_keep_alive(b"timeout=5");
    let limited = key(&upstream, &in_use);
    drop((upstream, in_use));
    assert_eq!(closing(&mut retired), [keys[0], limited].into());
    assert!(retired[0].is_over());
}

#[tokio::test]
async fn what_is_retired_is_looked_at_for_as_long_as_somebody_may_come() {
    let (_dir, resolver) = knows("").await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let terms = Terms { protocol, ..terms(&["127.0.0.1:80"]) };
        let upstream = upstream("hello", terms, &resolver).await;
        let mut retired = upstream.retire();
        for _ in 0..3 {
            assert!(closing(&mut retired).is_empty() && !retired[0].is_over(), "{protocol:?}");
        }

        let late = upstream.lease(Instant::now()).unwrap();
        let key = key(&upstream, &late);
        closing(&mut retired);
        drop((upstream, late));
        let mut rounds = Vec::new();
        while !retired[0].is_over() {
            rounds.push(closing(&mut retired));
        }
        assert!(
            (1..4).contains(&rounds.len()) && rounds.iter().any(|keys| keys.contains(&key)),
            "{protocol:?}: {rounds:?}"
        );
        assert!(closing(&mut retired).is_empty(), "{protocol:?}");
    }
}

#[tokio::test]
async fn what_is_retired_of_http2_is_looked_for_until_the_last_lease() {
    let (_dir, resolver) = knows("").await;
    let terms = Terms { protocol: Protocol::Http2, ..terms(&["127.0.0.1:80"]) };
    let upstream = upstream("hello", terms, &resolver).await;
    let lease = upstream.lease(Instant::now()).unwrap();
    let mut retired = upstream.retire();
    let keys = HashSet::from([key(&upstream, &lease)]);
    drop(upstream);
    for _ in 0..3 {
        assert_eq!((&closing(&mut retired), retired[0].is_over()), (&keys, false));
    }
    drop(lease);
    assert_eq!((&closing(&mut retired), retired[0].is_over()), (&keys, false));
    assert_eq!((&closing(&mut retired), retired[0].is_over()), (&keys, true));
}

#[tokio::test]
async fn an_address_that_is_found_late_is_retired_too() {
    let (dir, resolver) = knows("127.0.0.1 fn.test\n").await;
    let upstream = upstream("hello", terms(&["fn.test:80"]), &resolver).await;
    assert_eq!((upstream.retire().len(), upstream.retire().len()), (1, 0));

    std::fs::write(dir.path().join("hosts"), "127.0.0.1 fn.test\n127.0.0.2 fn.test\n").unwrap();
    resolver.refresh();
    let found = SocketAddr::from(([127, 0, 0, 2], 80));
    let late = loop {
        match upstream.lease(Instant::now()).unwrap() {
            late if late.address() == found => break late,
            _ => tokio::task::yield_now().await,
        }
    };
    let late_key = key(&upstream, &late);
    drop(late);

    let mut retired = upstream.retire();
    assert_eq!(closing(&mut retired), [late_key].into());
    assert!(upstream.retire().is_empty() && upstream.departed().is_empty());
}

#[tokio::test]
async fn an_address_that_a_name_has_lost_is_retired_once() {
    let (dir, resolver) = knows("127.0.0.1 fn.test\n").await;
    let upstream = upstream("hello", terms(&["fn.test:80"]), &resolver).await;
    let old = key(&upstream, &upstream.lease(Instant::now()).unwrap());
    assert!(upstream.departed().is_empty());

    std::fs::write(dir.path().join("hosts"), "127.0.0.2 fn.test\n").unwrap();
    resolver.refresh();
    while upstream.lease(Instant::now()).unwrap().address() != SocketAddr::from(([127, 0, 0, 2], 80)) {
        tokio::task::yield_now().await;
    }

    assert!(closing(&mut upstream.departed()).contains(&old));
    assert!(upstream.departed().is_empty());
}

#[tokio::test]
async fn requests_of_http2_share_a_connection() {
    let (_dir, resolver) = knows("").await;
    let upstream =
        upstream("hello", Terms { protocol: Protocol::Http2, ..terms(&["127.0.0.1:80"]) }, &resolver).await;
    let leases: Vec<_> = (0..3).map(|_| upstream.lease(Instant::now()).unwrap()).collect();
    let keys: HashSet<_> = leases.iter().map(|lease| key(&upstream, lease)).collect();
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn a_connection_is_given_up_before_the_function_closes_it() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80", "127.0.0.2:80"]), &resolver).await;
    let (first, other) = (upstream.lease(Instant::now()).unwrap(), upstream.lease(Instant::now()).unwrap());
    let idle = |lease| upstream.peer(lease, Use::Exchange, None).options.idle_timeout;
    let before = key(&upstream, &first);
    let others = key(&upstream, &other);

    first.hear_keep_alive(b"timeout=75");
    assert_eq!(key(&upstream, &first), before, "that is longer than ours");
    first.hear_keep_alive(b"timeout=5, max=100");

    let limited = key(&upstream, &first);
    assert_ne!(limited, before, "it was kept for longer, and may be about to close");
    assert_eq!(key(&upstream, &other), others);
    first.hear_keep_alive(b"timeout=1");
    assert!(![before, limited].contains(&key(&upstream, &first)));
    assert_eq!(
        (idle(&first), idle(&other)),
        (Some(Duration::from_millis(500)), None),
        "no sweep is that soon"
    );
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_not_used_even_where_nobody_sweeps() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    let slot = |idle| upstream.lease(Instant::now() + idle).unwrap().slot.index();
    let silent = upstream.lease(Instant::now()).unwrap();
    let now = Instant::now();
    drop(silent);
    let second = Duration::from_secs(1);
    assert_eq!((slot(IDLE - second), slot(IDLE + second)), (Some(0), Some(1)));

    upstream.lease(now).unwrap().hear_keep_alive(b"timeout=5");
    assert_eq!((slot(3 * second), slot(5 * second)), (Some(0), Some(2)));
}

#[tokio::test]
async fn what_is_idle_for_too_long_is_found_under_each_key_it_may_have() {
    let (_dir, resolver) = knows("").await;
    let terms =
        Terms { keepalive: Keepalive::On { idle: Duration::ZERO, pool: 2 }, ..terms(&["127.0.0.1:80"]) };
    let upstream = upstream("hello", terms.clone(), &resolver).await;
    assert!(upstream.stale().is_empty());
    let leases: Vec<_> = (0..3).map(|_| upstream.lease(Instant::now()).unwrap()).collect();
    let keys: Vec<_> = leases.iter().map(|lease| key(&upstream, lease)).collect();
    assert!(upstream.stale().is_empty());
    drop(leases);

    let found = upstream.stale();
    let peers = found.iter().flat_map(|stale| &stale.peers).map(Peer::reuse_hash);
    assert_eq!(peers.collect::<Vec<_>>(), keys[..2]);
    // The surplus was needed since the look before this, but not any more.
    assert!(upstream.unneeded().is_empty());
    let surplus = upstream.unneeded();
    assert_eq!(surplus.iter().map(Peer::reuse_hash).collect::<Vec<_>>(), keys[2..]);
    assert!(upstream.stale().is_empty() && upstream.unneeded().is_empty());
    let held = upstream.lease(Instant::now()).unwrap();
    assert_eq!(key(&upstream, &held), keys[2], "the slots are taken by the sweep");
}

#[tokio::test]
async fn no_time_limit_is_longer_than_what_is_left() {
    let (_dir, resolver) = knows("").await;
    let upstream = upstream("hello", terms(&["127.0.0.1:80"]), &resolver).await;
    let lease = upstream.lease(Instant::now()).unwrap();
    let left = Duration::from_millis(70);

    for purpose in [Use::Exchange, Use::Tunnel] {
        let options = upstream.peer(&lease, purpose, Some(left)).options;
        let limits = [
            options.connection_timeout,
            options.total_connection_timeout,
            options.read_timeout,
            options.write_timeout,
        ];
        assert_eq!(limits, [Some(left); 4], "{purpose:?}");
    }
    let free = upstream.peer(&lease, Use::Exchange, None).options;
    assert_eq!(free.read_timeout, Some(upstream.terms().timeout));
    assert_eq!(free.total_connection_timeout, Some(upstream.terms().connect_timeout));
}

#[tokio::test]
async fn a_name_cannot_lead_where_no_function_may_be() {
    let (_dir, resolver) =
        knows("169.254.169.254 rebound\n10.0.0.1 mixed\n169.254.1.1 mixed\n::ffff:169.254.0.1 mapped\n")
            .await;
    let denied: Arc<[IpNet]> = ["169.254.0.0/16".parse().unwrap()].into();
    for (name, expected) in [("rebound:80", &[][..]), ("mapped:80", &[]), ("mixed:80", &["10.0.0.1:80"])] {
        let terms = Terms { denied: Arc::clone(&denied), ..terms(&[name]) };
        let upstream = upstream(name, terms, &resolver).await;
        assert_eq!(upstream.address_count(), expected.len(), "{name}");
        match expected {
            [] => assert_eq!(
                upstream.lease(Instant::now()).unwrap_err(),
                GatewayError::UpstreamResolve,
                "{name}"
            ),
            _ => assert_eq!(turns(&upstream, expected.len()), expected, "{name}"),
        }
    }
}

/// A resolver that knows what is in this hosts file, and asks nobody.
async fn knows(hosts: &str) -> (tempfile::TempDir, Resolver) {
    let dir = tempfile::tempdir().unwrap();
    let system = System { resolv_conf: dir.path().join("none"), hosts: dir.path().join("hosts"), port: 0 };
    std::fs::write(&system.hosts, hosts).unwrap();
    (dir, Resolver::new(system, tokio::runtime::Handle::current()).unwrap())
}

async fn upstream(name: &str, terms: Terms, resolver: &Resolver) -> Upstream {
    let upstream = Upstream::new(name, terms, 1, resolver, Arc::new(Deaf));
    upstream.resolved().await;
    upstream
}

fn terms(endpoints: &[&str]) -> Terms {
    let endpoint = |address: &&str| Endpoint { address: HostPort::parse(address, None).unwrap(), weight: 1 };
    Terms {
        endpoints: endpoints.iter().map(endpoint).collect(),
        scheme: Scheme::Http,
        sni: String::new(),
        verify: Verify::Certificate,
        roots: None,
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(60),
        deadline: None,
        keepalive: Keepalive::On { idle: IDLE, pool: POOL },
        protocol: Protocol::Http1,
        denied: Arc::default(),
        credential: None,
    }
}

fn turns(upstream: &Upstream, count: usize) -> Vec<String> {
    (0..count).map(|_| upstream.lease(Instant::now()).unwrap().address().to_string()).collect()
}

/// What Pingora pools by.
fn key(upstream: &Upstream, lease: &Lease) -> u64 {
    upstream.peer(lease, Use::Exchange, None).reuse_hash()
}

#[derive(Debug)]
struct Deaf;

impl Tally for Deaf {
    fn opened(&self) {}
    fn closed(&self) {}
}

const IDLE: Duration = Duration::from_secs(60);
const POOL: u32 = 5;
