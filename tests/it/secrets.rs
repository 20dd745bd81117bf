//! No secret of the file is in anything that the gateway says: distinctive ones are planted wherever the file's own schema takes one,
//! every kind of mistake and failure is made around them, and all output is searched.
//!
//! What a function answers is the function's; it is looked at only where the gateway puts its own words in its place.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fngate::config::{self, Style};
use serde_json::Value;

use crate::harness::*;

#[tokio::test]
async fn no_mistake_in_a_file_shows_a_secret() {
    let secrets = Canaries::new(&[("mixed", MIXED), ("hex", HEX), ("digits", DIGITS)]);
    let (places, uris) = (secret_places().await, uri_places().await);
    let mut leaks = Vec::new();
    let mut samples = Vec::new();
    for (mistakes, places) in [(MISTAKES, places), (URI_MISTAKES, uris)] {
        for mistake in mistakes {
            let written = planted(mistake);
            let mut files: Vec<_> = places.iter().map(|place| place.block(&written)).collect();
            if !written.contains("$N") {
                files.extend(
                    places.iter().filter(|place| place.is_of_a_route).map(|place| place.flow(&written)),
                );
            }
            let faulty = files.iter().filter(|yaml| has_faults(yaml, mistake, &secrets, &mut leaks)).count();
            assert!(faulty > 0, "this is no mistake: {mistake}");
            samples.extend(files.pop());
        }
    }
    for mistake in LISTENER_MISTAKES {
        let yaml = planted(mistake);
        assert!(has_faults(&yaml, mistake, &secrets, &mut leaks), "this is no mistake: {mistake}");
        samples.push(yaml);
    }
    assert!(leaks.is_empty(), "{} leaks, among them\n{}", leaks.len(), some_of(&leaks));

    // The program shows these reports and nothing else.
    let dir = tempfile::tempdir().unwrap();
    let write = |(number, yaml): (usize, &String)| {
        let path = dir.path().join(format!("{number}.yaml"));
        std::fs::write(&path, yaml).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files: Vec<_> = samples.iter().enumerate().map(write).collect();
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    leaks.extend(secrets.leaks("check", &run(&[&["check"], &files[..]].concat()).await.said()));
    let json = run(&[&["check", "--format", "json"], &files[..]].concat()).await.said();
    leaks.extend(secrets.leaks("check --format json", &json));
    for file in files.iter().step_by(20) {
        for verb in ["routes", "run"] {
            leaks.extend(secrets.leaks(verb, &run(&[verb, "-c", file]).await.said()));
        }
    }
    assert!(leaks.is_empty(), "{} leaks, among them\n{}", leaks.len(), some_of(&leaks));
}

/// Whether something is wrong with this text. All that is ever shown of it is searched.
fn has_faults(yaml: &str, mistake: &str, secrets: &Canaries, leaks: &mut Vec<String>) -> bool {
    let loaded = config::load_text(Path::new("fngate.yaml"), yaml.to_owned());
    let logged: String = loaded.report.findings().iter().map(|finding| format!("{finding}\n")).collect();
    let json = loaded.report.to_json().to_string();
    for shown in
        [loaded.report.render(Style::Plain), logged, json, format!("{:?}{:?}", loaded.report, loaded.plan)]
    {
        leaks.extend(secrets.leaks(mistake, &shown));
    }
    loaded.report.faults() > 0
}

#[tokio::test]
async fn no_failure_shows_a_secret() {
    let leaf = Ca::new().leaf(&["localhost"]);
    let tls_key = private_part(&leaf.key);
    let secrets = Canaries::new(&[PLANTED, &[("tls key", &tls_key)]].concat());
    let origins = Origins::start(&leaf).await;
    let yaml = planted_routes(&origins);
    let used = used_places(&yaml);
    for place in secret_places().await.iter().filter(|place| place.is_of_a_route) {
        assert!(used.contains(&place.name()), "{} takes a secret: plant one here", place.name());
    }
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("planted"), secret("credential")).unwrap();
    let gateway = Gateway::builder()
        .env("FNGATE_LOG", "trace")
        .env("FN_PLANTED", secret("env"))
        .env("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap())
        .file("planted", secret("file"))
        .file("site.pem", &leaf.cert)
        .file("site.key", &leaf.key)
        .start(&yaml)
        .await;

    let mut leaks = Vec::new();
    let mut requests = 0;
    for (route, failure) in route_names() {
        for request in hostile_requests(&route) {
            requests += 1;
            let answer = gateway.send(&request).await;
            // Otherwise the answer is the function's own.
            if answer.status() == 400 || failure != "echoing" || route.starts_with("lambda_api") {
                let shown = format!("{:?}{}", answer.head, answer.text());
                leaks.extend(secrets.leaks(&format!("the client of {route}"), &shown));
            }
        }
    }
    gateway.access_log(requests).await;
    for faulty in [
        yaml.replace("service_token: '", "service_token: [ '"),
        yaml.replace("\nroutes:", "\nroutes: {"),
        yaml.replace("apikey:", "apikye:"),
        yaml.replace("{ credential: planted }", "{ credential: planted, 5: 6 }"),
        yaml.replace("$DIR/planted", "$DIR/site.key"),
        yaml.replace("key: $DIR/site.key", "key: $DIR/planted"),
    ] {
        assert!(faulty != yaml && !gateway.reload(&faulty).await);
        let ready = gateway.admin_get("/readyz?verbose").await.text();
        assert!(ready.contains("failure"), "{ready}");
        leaks.extend(secrets.leaks("/readyz?verbose", &ready));
    }
    for path in ["/metrics", "/routes", "/healthz", "/nowhere"] {
        leaks.extend(secrets.leaks(path, &gateway.admin_get(path).await.text()));
    }
    leaks.extend(secrets.leaks("the access log", &gateway.stdout()));
    leaks.extend(secrets.leaks("the service log", &gateway.stderr()));
    assert!(leaks.is_empty(), "{} leaks, among them\n{}", leaks.len(), some_of(&leaks));

    // The search finds them where they belong; the key that signs, and that of our own certificate, stay here.
    let sent = secrets.names_in(&origins.received());
    let expected = PLANTED.iter().map(|(name, _)| *name).filter(|name| *name != "secretkey").collect();
    assert_eq!(sent, expected);
}

#[test]
fn the_service_leaves_no_core() {
    let unit = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/fngate.service"));
    assert!(unit.unwrap().lines().any(|line| line == "LimitCORE=0"));
}

#[test]
fn the_search_finds_a_secret_in_every_spelling() {
    let secrets = Canaries::new(&[("it", MIXED)]);
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let percent: String = MIXED.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for text in [
        MIXED.to_owned(),
        MIXED.to_uppercase(),
        format!("a {} b", &MIXED[..8]),
        STANDARD.encode(MIXED),
        STANDARD.encode(format!("user:{MIXED}")),
        url_safe.encode(format!("u:{MIXED}:p")),
        percent,
        format!("{MIXED:?}"),
    ] {
        assert!(!secrets.leaks("here", &text).is_empty(), "{text}");
    }
    assert!(secrets.leaks("here", &MIXED[..7]).is_empty());
}

/// What is made of one secret in a file. `$K` is its key, `$S` the secret; `$N` begins a line at the key's own column.
const MISTAKES: &[&str] = &[
    // Of another kind.
    "$K: [ $S, $S ]",
    "$K: $D",
    "$K: { $S: x }",
    "$K: { $H: x }",
    "$K: { evn: $S }",
    "$K: { env: [ $S ] }",
    "$K: { env: { $S: $S } }",
    "$K: { file: a, $S: $S }",
    "$K: { $D: $S }",
    "$K: { file: '-----BEGIN PRIVATE KEY----- $S' }",
    // Twice, and beside it.
    "$K: $S$N$K: $S",
    "$K: { $S: 1, $S: 2 }",
    "$K: { $H: 1, $H: 2 }",
    "$Kk: $S",
    "$K: x, $Kk: $S",
    "more: { more: [ $S ] }",
    "$K: a$N$S: $S",
    "$K: a$N$H: $H",
    "$K: a$N5: $S",
    "? [ $S ]$N: $S$N$K: a",
    // Broken.
    "$K: \"$S",
    "$K: '$S",
    "$K: $S\"$N\"",
    "$K: \"$S\"$S",
    "$K: '$S' $S",
    "$K: \"\\$S\"",
    "$K: \"a\\q$S\"",
    "$K: $S: $S",
    "$K:$S$N$K: x",
    "$K $S",
    "$K: $S$N$S",
    "$K:$N $S: $S$N  $S",
    "$K: [ $S",
    "$K: { $S",
    "$K: { file: $S",
    "$K: $S ]",
    "$K: $S }$N}",
    "$K: - $S",
    "$K: @$S",
    "$K: `$S`",
    "$K: %$S",
    "$K: *$S",
    "$K: &$S",
    "$K: [ &$S ]",
    "$K: !$S a",
    "$K: !!binary $S",
    "$K: |$S",
    "$K: > $S",
    "$K: |$N    $S$N  $S$N\t$S",
    "$K:$N\t$S",
    "$K:$N- $S$N$S",
    "$K: a$N---$N$S: $S",
    "$K: \"$S$N$S\"$N$S",
    // What no header can carry.
    "$K: \"$S\\u0001\"",
    "$K: \"$S\\n\"",
    "$K: \"\"$Nmore: $S",
];

/// The same for a URI, whose query may be a key, and for an address.
const URI_MISTAKES: &[&str] = &[
    "$K: https://user:$S@h.example/",
    "$K: 'https://$S@h.example/'",
    "$K: 'http:/user:$S@h.example'",
    "$K: 'user:$S@h.example'",
    "$K: user:$S@h.example:80",
    "$K: '$S@h.example:80'",
    "$K: 'user:a/$S $S@h.example'",
    "$K: \"user:$S@h.example\" x",
    "$K: [ 'user:$S@h.example' ]",
    "$K: ftp://h.example/?code=$S",
    "$K: 'https://h.example/a b?code=$S'",
    "$K: 'https://h.example/?code=$S c'",
    "$K: h.example/?code=$S",
    "$K: //h.example?code=$S",
    "$K: 'https://h.example/?code={$S}#$S'",
    "$K: 'https://h.example/{a}{b}?code=$S'",
    "$K: \"https://h.example/?code=$S",
    "$K: [ 'https://h.example/?code=$S' ]",
    "$K: { 'https://h.example/?code=$S': 1 }",
    "$K: https://h.example/?code=$S$N$K: https://h.example/?code=$S",
    "$Kk: https://h.example/?code=$S",
    "$K: https://h.example/?code=$S: x",
    "$K: 'https://h.example/?x-functions-key=$S&code=$S' x",
];

/// A key in place of the path to it.
const LISTENER_MISTAKES: &[&str] = &[
    "listeners: [ { address: '127.0.0.1:1', tls: { cert: Cargo.toml, key: '-----BEGIN PRIVATE KEY----- $S' } } ]\nroutes: []\n",
    "listeners:\n  - address: 127.0.0.1:1\n    tls:\n      cert: Cargo.toml\n      key: |\n        -----BEGIN PRIVATE KEY-----\n        $S\n        -----END PRIVATE KEY-----\nroutes: []\n",
    "listeners:\n  - address: 127.0.0.1:1\n    tls:\n      cert: Cargo.toml\n      key: -----BEGIN PRIVATE KEY-----\n        $S\n      $S\nroutes: []\n",
];

fn planted(text: &str) -> String {
    text.replace("$S", MIXED).replace("$H", HEX).replace("$D", DIGITS)
}

const MIXED: &str = "Kq7ZtVw2RmX9LpBd4HsYc6GnJ";
const HEX: &str = "9f86d081e84c7d65b9a2c1f47e";
const DIGITS: &str = "73918462055182739146";

/// What is planted where requests are served: the name of the place, and the secret.
const PLANTED: &[(&str, &str)] = &[
    ("literal", "tok:Vb3NqXw8ZrTk5LmPj2HdYs7"),
    ("env", "tok:Wc4PrYx9AsUn6MqRk3JfZt8"),
    ("file", "Xd5QsZy2BtVp7NrSm4KgAu9"),
    ("credential", "tok:Ye6RtAz3CuWq8PsTn5LhBv2"),
    ("openfaas", "Zf7SuBa4DvXr9QtUp6MjCw3"),
    ("openwhisk", "tok:Ag8TvCb5EwYs2RuVq7NkDx4"),
    ("x-api-key", "Bh9UwDc6FxZt3SvWr8PmEy5"),
    ("accesskey", "AKIAJ2VXEK7GYAU4TW"),
    ("secretkey", "Dk3WyFe8HzBv5UxYt2RpGa7"),
    ("session_token", "Em4XzGf9JaCw6VyZu3SqHb8"),
    ("azure", "Fn5YaHg2KbDx7WzAv4TrJc9"),
    ("header", "Gp6ZbJh3LcEy8XaBw5UsKd2"),
    ("query", "Hq7AcKj4MdFz9YbCx6VtLe3"),
];

fn secret(name: &str) -> &'static str {
    PLANTED.iter().find(|(known, _)| *known == name).unwrap().1
}

/// The targets that take a secret. `$URL` is an origin, `$QUERY` a key in a URI.
const TARGETS: &[(&str, &str)] = &[
    (
        "literal",
        "openfunction: { function_uri: '$URL/f?code=$query', authorization: { service_token: '$literal' } }",
    ),
    ("env", "openfunction: { function_uri: '$URL/', authorization: { service_token: { env: FN_PLANTED } } }"),
    ("openfaas", "openfaas: { gateway_uri: '$URL', function: f, authorization: { token: '$openfaas' } }"),
    (
        "openfaas_basic",
        "openfaas: { gateway_uri: '$URL', function: f, authorization: { service_token: { credential: planted } } }",
    ),
    ("openwhisk", "openwhisk: { api_host: '$URL', service_token: '$openwhisk', namespace: n, action: a }"),
    ("api", "aws_lambda: { function_uri: '$URL/', authorization: { apikey: '$x-api-key' } }"),
    (
        "lambda_url",
        "aws_lambda: { function_uri: '$URL/', authorization: { iam: { accesskey: $accesskey, secretkey: $secretkey, session_token: $session_token } } }",
    ),
    (
        "lambda_api",
        "aws_lambda: { function: f, region: eu-west-1, endpoint: '$URL', authorization: { iam: { accesskey: $accesskey, secretkey: $secretkey, session_token: $session_token } } }",
    ),
    ("azure", "azure_functions: { function_uri: '$URL/api', authorization: { apikey: '$azure' } }"),
    ("http", "http: { url: '$URL/', headers: { X-Key: '$header', Authorization: { file: $DIR/planted } } }"),
];

/// What becomes of a call.
const FAILURES: [&str; 7] = ["echoing", "garbled", "closing", "cut", "hanging", "untrusted", "refused"];

fn route_names() -> impl Iterator<Item = (String, &'static str)> {
    TARGETS.iter().flat_map(|(name, _)| FAILURES.map(|failure| (format!("{name}-{failure}"), failure)))
}

/// A route for each target and failure, `/{target}-{failure}/*`.
fn planted_routes(origins: &Origins) -> String {
    let mut yaml = format!("limits: {{ body: 1KiB }}\n{TLS_LISTENERS}routes:\n");
    for (name, target) in TARGETS {
        for failure in FAILURES {
            let mut target = target.replace("$URL", &origins.url(failure));
            for (planted, secret) in PLANTED {
                target = target.replace(&format!("${planted}"), secret);
            }
            // The first closing brace of a target's own keys is the last of all.
            let target =
                format!("{}, timeout: 200, connect_timeout: 5s }}", target.strip_suffix('}').unwrap());
            let path = format!("/{name}-{failure}/*");
            writeln!(
                yaml,
                "  - {{ name: {name}-{failure}, match: {{ path: '{path}' }}, target: {{ {target} }} }}"
            )
            .unwrap();
        }
    }
    yaml
}

/// Of a key in PEM, what is neither its form nor public: 32 bytes from the 37th on.
fn private_part(pem: &str) -> String {
    let lines: Vec<_> = pem.lines().collect();
    format!("{}{}", &lines[1][48..], &lines[2][..24])
}

fn hostile_requests(route: &str) -> Vec<Request> {
    vec![
        Request::post_json(&format!("/{route}/"), "{}"),
        Request::get(&format!("/{route}/%2e%2e/x")),
        Request::post_json(&format!("/{route}/"), &" ".repeat(2048)),
        Request::post_json(&format!("/{route}/"), "nonsense").header("Authorization", "Basic dTpw"),
    ]
}

/// One origin for each failure, and a port where nobody is.
struct Origins {
    listening: HashMap<&'static str, Origin>,
    refusing: Refusing,
}

impl Origins {
    async fn start(leaf: &Leaf) -> Self {
        let echo = |exchange: &Exchange| {
            exchange.head.headers.iter().fold(exchange.head.first_line.clone(), |text, (name, value)| {
                text + &format!(" {name}={value}")
            })
        };
        let echoing = Origin::http1().script(move |mut exchange| async move {
            let said = echo(&exchange);
            let body = serde_json::json!({ "message": said, "error": said }).to_string();
            exchange.body().await;
            exchange.answer(Reply::new(403, body).header("Content-Type", "application/json")).await;
        });
        let raw = |template: &'static str| {
            Origin::http1().script(move |mut exchange| async move {
                let bytes = template.replace("$ECHO", &echo(&exchange));
                exchange.body().await;
                exchange.send(bytes).await;
                exchange.close();
            })
        };
        let hanging = Origin::http1().script(|mut exchange| async move { exchange.peer_closed().await });
        let untrusted = Origin::http1().echo().tls(leaf.server(&[]));
        let listening = HashMap::from([
            ("echoing", echoing.start().await),
            ("garbled", raw("HTTP/1.1 200 OK\r\n$ECHO\0\r\n$ECHO : $ECHO\r\n\r\n$ECHO").start().await),
            ("closing", raw("").start().await),
            ("cut", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n$ECHO").start().await),
            ("hanging", hanging.start().await),
            ("untrusted", untrusted.start().await),
        ]);
        Self { listening, refusing: Refusing::new() }
    }

    fn url(&self, failure: &str) -> String {
        match self.listening.get(failure) {
            None => format!("http://{}", self.refusing.addr()),
            Some(origin) if failure == "untrusted" => format!("https://localhost:{}", origin.addr().port()),
            Some(origin) => origin.url(),
        }
    }

    /// Everything that came to any of them.
    fn received(&self) -> String {
        let requests = self.listening.values().flat_map(Origin::requests);
        requests.map(|request| format!("{:?}\n", request.head)).collect()
    }
}

/// A key of the file, by the keys around it.
struct Place {
    /// Otherwise of the defaults.
    is_of_a_route: bool,
    keys: Vec<String>,
}

impl Place {
    fn name(&self) -> String {
        self.keys.join(".")
    }

    /// A file with this mistake at the place, one key per line.
    fn block(&self, mistake: &str) -> String {
        let (key, around) = self.keys.split_last().unwrap();
        let (mut yaml, mut indent) = if self.is_of_a_route {
            ("routes:\n  - name: a\n    match: { path: /a }\n    target:\n".to_owned(), 6)
        } else {
            ("routes: []\ndefaults:\n".to_owned(), 2)
        };
        for outer in around {
            writeln!(yaml, "{:indent$}{outer}:", "").unwrap();
            indent += 2;
        }
        let column = format!("\n{:indent$}", "");
        format!("{yaml}{:indent$}{}\n", "", mistake.replace("$K", key).replace("$N", &column))
    }

    /// The same, all of it in one line.
    fn flow(&self, mistake: &str) -> String {
        let (key, around) = self.keys.split_last().unwrap();
        let opened: String = around.iter().map(|outer| format!("{outer}: {{ ")).collect();
        let target =
            format!("{{ {opened}{}, more: 5{} }}", mistake.replace("$K", key), " }".repeat(around.len()));
        if self.is_of_a_route {
            format!("routes: [ {{ name: a, match: {{ path: /a }}, target: {target} }} ]\n")
        } else {
            format!("routes: []\ndefaults: {target}\n")
        }
    }
}

/// Where the schema says that a value is a secret.
async fn secret_places() -> Vec<Place> {
    let places = places(&|_, schema| schema["$ref"] == SECRET).await;
    let everywhere = run(&["schema"]).await.stdout.matches(SECRET).count();
    assert_eq!(places.len(), everywhere, "one is neither in a target nor in the defaults");
    places
}

/// How the schema marks one.
const SECRET: &str = "#/definitions/Secret";

/// Where it takes a URI, or an address.
async fn uri_places() -> Vec<Place> {
    let names = ["url", "endpoint", "api_host", "address"];
    let places = places(&|key, _| key.ends_with("_uri") || names.contains(&key)).await;
    assert!(places.len() >= 25, "URIs have other names now");
    places
}

async fn places(is_one: &dyn Fn(&str, &Value) -> bool) -> Vec<Place> {
    let schema: Value = serde_json::from_str(&run(&["schema"]).await.stdout).unwrap();
    let mut found = Vec::new();
    for (is_of_a_route, root) in [
        (true, schema.pointer("/properties/routes/items/properties/target").unwrap()),
        (false, schema.pointer("/properties/defaults").unwrap()),
    ] {
        let mut keys = Vec::new();
        collect(root, &mut keys, &mut |keys, schema| {
            if is_one(keys.last().unwrap(), schema) {
                found.push(Place { is_of_a_route, keys: keys.to_vec() });
            }
        });
    }
    found
}

/// Visits every key below a schema; what may have any name is called `X-Key`.
fn collect(schema: &Value, keys: &mut Vec<String>, visit: &mut impl FnMut(&[String], &Value)) {
    let known =
        schema["properties"].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
    let any = Some(("X-Key", &schema["additionalProperties"])).filter(|(_, value)| value.is_object());
    for (key, value) in known.chain(any) {
        keys.push(key.to_owned());
        visit(keys, value);
        collect(value, keys, visit);
        keys.pop();
    }
}

/// The keys of every target in this file.
fn used_places(yaml: &str) -> BTreeSet<String> {
    fn walk(value: &serde_yaml::Value, path: &str, used: &mut BTreeSet<String>) {
        for (key, value) in value.as_mapping().into_iter().flatten() {
            let path = format!("{path}.{}", key.as_str().unwrap());
            used.insert(path[1..].to_owned());
            walk(value, &path, used);
        }
    }
    let file: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
    let mut used = BTreeSet::new();
    for route in file["routes"].as_sequence().unwrap() {
        walk(&route["target"], "", &mut used);
    }
    used
}

/// Secrets to search for: any eight characters of one, as they are, in base64 wherever they stand in it, or percent-encoded.
struct Canaries {
    pieces: HashMap<Vec<u8>, &'static str>,
}

impl Canaries {
    fn new(secrets: &[(&'static str, &str)]) -> Self {
        let mut pieces = HashMap::new();
        for (name, secret) in secrets {
            // A user's name is none.
            let secret = secret.strip_prefix("tok:").unwrap_or(secret);
            let mut spellings = vec![secret.to_owned()];
            for before in 0..3 {
                let encoded = STANDARD.encode([&b"xx"[..before], secret.as_bytes()].concat());
                // At both ends, characters share bits with what is around.
                spellings.push(encoded[4..encoded.len() - 4].to_owned());
            }
            for spelling in spellings {
                pieces
                    .extend(spelling.to_ascii_lowercase().as_bytes().windows(8).map(|w| (w.to_vec(), *name)));
            }
        }
        Self { pieces }
    }

    fn names_in(&self, text: &str) -> BTreeSet<&'static str> {
        self.hits(text).into_iter().map(|(_, name)| name).collect()
    }

    /// The lines in which there is a secret.
    fn leaks(&self, place: &str, text: &str) -> Vec<String> {
        let mut leaks = Vec::new();
        for line in text.lines() {
            for spelling in
                [line.to_owned(), percent_encoding::percent_decode_str(line).decode_utf8_lossy().into()]
            {
                if let Some((at, name)) = self.hits(&spelling).first().copied() {
                    let start = spelling.floor_char_boundary(at.saturating_sub(100));
                    let end = spelling.floor_char_boundary(at + 100);
                    leaks.push(format!("{place} shows `{name}`: …{}", &spelling[start..end]));
                    break;
                }
            }
        }
        leaks
    }

    fn hits(&self, text: &str) -> Vec<(usize, &'static str)> {
        let text = text.to_ascii_lowercase();
        let windows = text.as_bytes().windows(8).enumerate();
        windows.filter_map(|(at, window)| Some((at, *self.pieces.get(window)?))).collect()
    }
}

fn some_of(leaks: &[String]) -> String {
    leaks
        .iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .take(60)
        .fold(String::new(), |text, leak| text + leak + "\n")
}
