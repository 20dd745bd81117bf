//! What one request costs in the gateway's own code, step by step, and what a start costs.
//!
//! `match/same` asks tables of 10, 1 000 and 10 000 routes for one and the same route: the time must not grow with the table.
//! `match/spread` asks for all of them in turn, so that a large table also pays for what the processor's caches do not hold.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up measures nothing")]

use std::fmt::Write;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fngate::aws::{Credentials, SigningScope, sign};
use fngate::config;
use fngate::downstream::RequestId;
use fngate::platforms::template::Parameters;
use fngate::platforms::{Buffered, BufferedTarget, Call, Origin, Seal, Streamed, StreamedTarget, Target};
use fngate::routing::{Matcher, Outcome, RouteTable};
use fngate::snapshot::Plan;
use fngate::telemetry::{AccessLog, Entry, Sink};
use fngate::uri::check_path;
use fngate::values::{Scheme, Secret};
use http::request::Parts;
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};

fn route_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    for routes in [10, 1_000, 10_000] {
        let table = RouteTable::build((0..routes).map(|i| (matcher(i), i)));
        let asked: Vec<_> = (0..routes).map(|i| (host(i), format!("/functions/{i}/some/suffix"))).collect();
        let find = |(host, path): &(String, String)| match table.find(host, &Method::GET, path) {
            Outcome::Found { value, suffix, .. } => (*value, suffix.map(str::len)),
            other => panic!("{host}{path}: {other:?}"),
        };

        group.bench_function(BenchmarkId::new("same", routes), |b| b.iter(|| find(black_box(&asked[7]))));
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("spread", routes), |b| {
            b.iter(|| {
                // A stride that is prime to the sizes: neighbours in time are no neighbours in memory.
                turn = (turn + 7919) % asked.len();
                find(black_box(&asked[turn]))
            });
        });
        let nobody = ("nobody.example.net".to_owned(), "/functions/none/at/all".to_owned());
        group.bench_function(BenchmarkId::new("none", routes), |b| {
            b.iter(|| matches!(table.find(&nobody.0, &Method::GET, black_box(&nobody.1)), Outcome::NotFound));
        });
    }
    group.finish();
}

/// A third of the routes each for an exact host, for a wildcard and for any host.
fn matcher(i: usize) -> Matcher {
    let host = match i % 3 {
        0 => Some(format!("host-{}.example.com", i % 50)),
        1 => Some(format!("*.zone-{}.example.org", i % 50)),
        _ => None,
    };
    Matcher {
        hosts: host.iter().map(|host| host.parse().unwrap()).collect(),
        path: format!("/functions/{i}/*").parse().unwrap(),
        methods: i.is_multiple_of(2).then(|| vec![Method::GET, Method::POST]),
        priority: 0,
    }
}

fn host(i: usize) -> String {
    match i % 3 {
        0 => format!("host-{}.example.com:8080", i % 50),
        1 => format!("a.b.zone-{}.example.org", i % 50),
        _ => "anything.example.net".to_owned(),
    }
}

fn path_check(c: &mut Criterion) {
    let mut group = c.benchmark_group("check_path");
    for (name, path) in [
        ("plain", "users/1234/orders/5678/items"),
        ("escaped", "users/J%C3%BCrgen%20M/orders%2F5678/100%25"),
        ("refused", "users/1234/%252e%252e/admin"),
    ] {
        group.bench_function(name, |b| b.iter(|| check_path(black_box(path))));
    }
    group.finish();
}

fn openfunction(c: &mut Criterion) {
    let Target::Streamed(target) = target(
        "openfunction:
        function_uri: http://127.0.0.1:30583/default/function-sample
        authorization: { service_token: 'test:test' }",
    ) else {
        panic!("openfunction is streamed")
    };
    let head = Parts::from(request("GET", "/hello/some/suffix?a=1&b=2"));
    c.bench_function("openfunction/rewrite", |b| {
        b.iter_batched_ref(|| head.clone(), |head| rewrite(&target, head), BatchSize::SmallInput);
    });
}

fn rewrite(target: &StreamedTarget, head: &mut Parts) {
    target.rewrite_request(&call(), head).unwrap();
}

fn openwhisk(c: &mut Criterion) {
    let mut group = c.benchmark_group("openwhisk");
    let input =
        Bytes::from_static(br#"{"name":"World","place":{"lat":52.5,"lon":13.4},"tags":["a","b","c"]}"#);
    for (name, input_key) in [("seal/body", "body"), ("seal/web", "web")] {
        let target = action(input_key);
        let mut head = request("POST", "/hello/some/suffix?a=1&b=2");
        head.insert_header("Content-Type", "application/json").unwrap();
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || head.clone(),
                |head| {
                    target
                        .seal(
                            &call(),
                            head,
                            input.clone(),
                            &Seal { at: SystemTime::now(), credentials: None },
                        )
                        .unwrap()
                },
                BatchSize::SmallInput,
            );
        });
    }

    let target = action("body");
    let mut head = ResponseHeader::build(200, None).unwrap();
    head.insert_header("Content-Type", "application/json").unwrap();
    head.insert_header("X-OpenWhisk-Activation-Id", "44794bd6aab74415b4e42a308d880e5b").unwrap();
    for (name, body) in [
        ("open/json", &br#"{"greeting":"Hello World!","tags":["a","b","c"]}"#[..]),
        (
            "open/response",
            br#"{"statusCode":201,"headers":{"content-type":"text/html","x-a":["1","2"]},"body":"<p>hello</p>"}"#,
        ),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || head.clone(),
                |head| target.open(&call(), head, Bytes::from_static(body)).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn action(input: &str) -> BufferedTarget {
    let yaml = format!(
        "openwhisk:
        api_host: http://127.0.0.1:3233
        service_token: 'user:password'
        namespace: guest
        package: samples
        action: hello
        input: {input}"
    );
    match target(&yaml) {
        Target::Buffered(target) => target,
        Target::Streamed(_) => panic!("openwhisk is buffered"),
    }
}

/// The body's digest is in it: that is what grows.
fn aws_sign(c: &mut Criterion) {
    let secret = |text: &str| Secret::new(text.to_owned());
    let credentials = Credentials::new(&secret("AKIDEXAMPLE"), &secret("secret"), Some(&secret("token")));
    let scope = SigningScope { region: "eu-west-1".to_owned(), service: "lambda".to_owned() };
    let mut group = c.benchmark_group("aws_sign");
    for size in [1 << 10, 1 << 20] {
        let body = vec![b'x'; size];
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched_ref(
                || request("POST", "/default/hello?b=2&a=1"),
                |head| sign(head, &body, &scope, &credentials, SystemTime::UNIX_EPOCH).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn access_log(c: &mut Criterion) {
    let dropped = prometheus::IntCounter::new("dropped", "Lines that found no room.").unwrap();
    let log = AccessLog::start(&Sink::File("/dev/null".into()), dropped).unwrap();
    let id = RequestId::random();
    let entry = Entry {
        ts: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
        request_id: id.as_str(),
        route: Some("hello"),
        platform: Some("openfunction"),
        method: "GET",
        host: Some(b"api.example.com"),
        path: b"/hello/some/suffix?a=1&b=2",
        status: 200,
        reason: None,
        duration: Duration::from_micros(1234),
        connect: None,
        first_byte: Some(Duration::from_micros(1100)),
        bytes_in: 0,
        bytes_out: 100,
        attempts: 1,
        reused: Some(true),
        upstream: Some(SocketAddr::from(([127, 0, 0, 1], 30583))),
        client: Some(LOCALHOST),
        protocol: Version::HTTP_11,
        cold: None,
        queued: None,
        activation_id: None,
    };
    c.bench_function("access_log/line", |b| b.iter(|| log.record(black_box(&entry))));
    c.bench_function("request_id", |b| b.iter(RequestId::random));
}

fn configuration(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(20);
    for routes in [10, 1_000] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fngate.yaml");
        let mut yaml = String::from("listeners: [ { address: 127.0.0.1:9080 } ]\nroutes:\n");
        for i in 0..routes {
            write!(
                yaml,
                "  - name: route-{i}
    match: {{ path: /functions/{i}/*, hosts: [ host-{}.example.com ] }}
    target:
      openfunction:
        function_uri: http://127.0.0.1:30583/default/function-{i}
        authorization: {{ service_token: 'test:test' }}
",
                i % 50
            )
            .unwrap();
        }
        std::fs::write(&file, yaml).unwrap();
        group.bench_function(BenchmarkId::new("routes", routes), |b| b.iter(|| load(&file)));
    }
    group.finish();
}

fn load(file: &Path) -> Plan {
    let loaded = config::load(file);
    match loaded.plan {
        Some(plan) => plan,
        None => panic!("{:?}", loaded.report),
    }
}

/// A target as a file gives it.
fn target(yaml: &str) -> Target {
    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = format!(
        "listeners: [ {{ address: 127.0.0.1:9080 }} ]\nroutes:\n  - name: hello\n    match: {{ path: /hello/* }}\n    target:\n      {yaml}\n"
    );
    std::fs::write(file.path(), yaml).unwrap();
    let mut plan = load(file.path());
    plan.routes.remove(0).function.target
}

fn request(method: &str, target: &str) -> RequestHeader {
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    for (name, value) in [
        ("Host", "api.example.com"),
        ("User-Agent", "bench/1.0"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip, br"),
        ("Authorization", "Bearer the-clients-own"),
    ] {
        head.insert_header(name, value).unwrap();
    }
    head
}

fn call() -> Call<'static> {
    Call {
        method: &Method::GET,
        suffix: Some("some/suffix"),
        parameters: Parameters::default(),
        query: Some("a=1&b=2"),
        path: "/hello/some/suffix",
        origin: Origin { scheme: Scheme::Http, authority: "api.example.com" },
        request_id: "0123456789abcdef0123456789abcdef",
        client: LOCALHOST,
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

criterion_group!(
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = route_match, path_check, openfunction, openwhisk, aws_sign, access_log, configuration
);
criterion_main!(benches);
