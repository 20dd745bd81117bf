use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::platforms::Target;
use crate::snapshot::AccessLog;
use crate::values::ByteSize;

fn load_yaml(yaml: &str) -> Loaded {
    load_text(Path::new("fngate.yaml"), yaml.to_owned())
}

/// What an operator gets to see.
fn drawn(yaml: &str) -> String {
    load_yaml(yaml).report.render(Style::Plain)
}

/// `line: message`, without warnings.
fn faults(loaded: &Loaded) -> Vec<String> {
    let faults = loaded.report.findings().iter().filter(|finding| finding.severity == Severity::Fault);
    faults.map(|fault| format!("{}: {}: {}", fault.line.unwrap_or(0), fault.path, fault.message)).collect()
}

#[track_caller]
fn plan(loaded: Loaded) -> Plan {
    let Loaded { plan, report, .. } = loaded;
    plan.unwrap_or_else(|| panic!("{}", report.render(Style::Plain)))
}

/// Files in a directory of their own, which nobody else can read.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let files_on_disk = Files(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| files_on_disk.write(name, text));
        files_on_disk
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.permit(name, 0o600);
    }

    fn permit(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Loaded {
        load(&self.path("fngate.yaml"))
    }

    /// Without the directory's own name.
    fn drawn(&self) -> String {
        let directory = format!("{}/", self.0.path().display());
        self.load().report.render(Style::Plain).replace(&directory, "")
    }
}

/// A route to a service on loopback.
fn route(name: &str, path: &str) -> String {
    format!(
        "  - {{ name: {name}, match: {{ path: {path} }}, target: {{ http: {{ url: 'http://127.0.0.1/' }} }} }}\n"
    )
}

fn routes(routes: &[(&str, &str)]) -> String {
    let routes: String = routes.iter().map(|(name, path)| route(name, path)).collect();
    format!("routes:\n{routes}")
}

/// Every case of `faults.txt`: a file, and all that is said of it.
#[test]
fn faults_are_drawn_as_written_down() {
    let cases: Vec<&str> = include_str!("faults.txt").split("=== ").skip(1).collect();
    assert!(cases.len() > 40);
    for case in cases {
        let (title, rest) = case.split_once('\n').unwrap();
        let (yaml, expected) = rest.split_once("--->\n").unwrap();
        assert_eq!(drawn(yaml), expected, "{title}");
    }
}

#[test]
fn all_faults_come_out_sorted_by_line() {
    let loaded = load_yaml(
        "threads: many\nlimits: { body: x }\nroutes:\n  - name: a\n    match: { path: a }\n    target: { http: {} }\n  \
         - name: a b\n    match: { path: /b, host: b }\n    target: { openfunction: { function_uri: 5, tmeout: 1 } }\n  \
         - name: c d\n    match: { path: /c }\n    target: { http: { url: 'ftp://c' } }\nunknown: 1\n",
    );
    assert_eq!(
        faults(&loaded),
        [
            "1: threads: `many` is not a choice here",
            "2: limits.body: `x` is not a size",
            "5: routes[0].match.path: `a` is not a path pattern",
            "6: routes[0].target.http: give either `url` or `nodes`",
            "8: routes[1].match.host: unknown key `host`",
            "9: routes[1].target.openfunction.function_uri: expected text, found a number",
            "9: routes[1].target.openfunction.tmeout: unknown key `tmeout`",
            "10: routes[2].name: `c d` cannot be a route's name",
            "12: routes[2].target.http.url: `ftp://c` is not a usable URI: the scheme is neither `http` nor `https`",
            "13: unknown: unknown key `unknown`",
        ]
    );
}

#[test]
fn a_report_in_json_has_the_same_facts() {
    let loaded = load_yaml("limits:\n  bdy: 1\nroutes: []\n");
    assert_eq!(
        loaded.report.to_json(),
        serde_json::json!([{
            "file": "fngate.yaml", "line": 2, "column": 3, "severity": "error", "path": "limits.bdy",
            "message": "unknown key `bdy`", "hint": "did you mean `body`?",
        }])
    );
    assert_eq!(
        loaded.report.findings()[0].to_string(),
        "fngate.yaml:2:3: limits.bdy: unknown key `bdy` (did you mean `body`?)"
    );
}

#[test]
fn colours_are_only_added() {
    let loaded = load_yaml("rutes: []\n");
    let coloured = loaded.report.render(Style::Coloured);
    assert!(coloured.contains('\u{1b}'));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, escape)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    assert_eq!(plain + rest, loaded.report.render(Style::Plain));
}

#[test]
fn a_missing_file_is_a_fault_without_a_line() {
    let files = Files::new(&[]);
    assert_eq!(
        files.drawn(),
        "error: the file cannot be read: No such file or directory (os error 2)\n--> fngate.yaml\n\n1 error\n"
    );
    assert_eq!(files.load().files, [files.path("fngate.yaml")]);
}

#[test]
fn an_empty_file_is_a_fault_so_that_a_half_written_one_never_serves() {
    for text in ["", "\n", "# nothing\n", "---\n", "~\n"] {
        assert_eq!(faults(&load_yaml(text)), ["0: : the file is empty"], "{text:?}");
    }
}

#[test]
fn what_is_not_text_is_refused_with_its_line() {
    let files = Files::new(&[("fngate.yaml", "")]);
    fs::write(files.path("fngate.yaml"), b"routes: []\n# \xff\n").unwrap();
    assert_eq!(faults(&files.load()), ["0: : the file is not UTF-8: line 2 has other bytes"]);
    assert!(files.drawn().contains("save it as UTF-8"));
}

mod defaults {
    use super::*;

    #[test]
    fn what_is_not_written_is_the_default() {
        let Plan { settings, .. } = plan(load_yaml(&routes(&[("a", "/a")])));
        assert_eq!(settings.listeners.len(), 1);
        assert_eq!(settings.listeners[0].address.to_string(), "0.0.0.0:9080");
        assert!(settings.listeners[0].identities.is_empty());
        assert_eq!(settings.admin.address.to_string(), "127.0.0.1:9180");
        assert_eq!((settings.drain_delay.as_secs(), settings.shutdown_grace.as_secs()), (0, 30));
        assert_eq!(settings.access_log, AccessLog::Stdout);
        assert_eq!(settings.limits.body, ByteSize(64 << 20));
        assert_eq!(settings.limits.header_timeout.as_secs(), 10);
        assert_eq!(settings.limits.idle_timeout.as_secs(), 75);
        assert_eq!((settings.limits.connections, settings.limits.in_flight), (20_000, 10_000));
        assert!(settings.threads >= 1 && settings.trusted_proxies.is_empty());
    }

    #[test]
    fn what_is_written_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let yaml = "listeners: [ { address: '[::1]:1' } ]\nthreads: 3\nadmin: { address: '127.0.0.1:2', hosts: [ gw.internal ] }\ndrain_delay: 4s\nshutdown_grace: 5s\n\
                    trusted_proxies: [ 10.1.2.3/8, 192.0.2.1 ]\naccess_log: { path: /log }\n\
                    limits: { body: 1KiB, header_timeout: 1s, idle_timeout: 2s, connections: 3, in_flight: 4 }\n";
        let yaml = yaml.replace("/log", log.to_str().unwrap()) + &routes(&[("a", "/a")]);
        let Plan { settings, .. } = plan(load_yaml(&yaml));
        assert_eq!(settings.listeners[0].address.to_string(), "[::1]:1");
        assert_eq!((settings.threads, settings.admin.address.port()), (3, 2));
        assert_eq!(settings.admin.hosts, ["gw.internal"]);
        assert_eq!(
            settings.trusted_proxies.iter().map(|n| n.to_string()).collect::<Vec<_>>(),
            ["10.0.0.0/8", "192.0.2.1/32"]
        );
        assert_eq!(settings.access_log, AccessLog::File(log));
        assert_eq!(settings.limits.body, ByteSize(1024));
        assert_eq!((settings.limits.connections, settings.limits.in_flight), (3, 4));
    }

    #[test]
    fn an_ipv4_network_in_ipv6_clothes_is_the_ipv4_network() {
        for (written, meant) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3/112", "10.1.0.0/16"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            let yaml =
                format!("trusted_proxies: [ '{written}' ]\ndeny_addresses: [ '{written}' ]\nroutes: []\n");
            let Plan { settings, .. } = plan(load_yaml(&yaml));
            assert_eq!(settings.trusted_proxies, [meant.parse().unwrap()], "{written}");
            assert_eq!(*settings.deny_addresses, [meant.parse().unwrap()], "{written}");
        }
    }

    #[test]
    fn the_access_log_is_off_in_both_spellings() {
        for log in ["off", "{ path: off }"] {
            let loaded = load_yaml(&format!("access_log: {log}\n{}", routes(&[("a", "/a")])));
            assert_eq!(plan(loaded).settings.access_log, AccessLog::Off);
        }
    }

    fn timeouts(yaml: &str) -> Vec<u128> {
        let terms = plan(load_yaml(yaml)).routes.into_iter().map(|route| route.function.terms);
        terms.map(|terms| terms.timeout.as_millis()).collect()
    }

    #[test]
    fn a_platforms_defaults_are_merged_under_its_targets_only() {
        let yaml = "defaults: { http: { timeout: 7s } }\nroutes:\n  \
                    - { name: a, match: { path: /a }, target: { http: { url: 'http://127.0.0.1/' } } }\n  \
                    - { name: b, match: { path: /b }, target: { http: { url: 'http://127.0.0.1/', timeout: 8s } } }\n  \
                    - { name: c, match: { path: /c }, target: { openfunction: { function_uri: 'http://127.0.0.1/' } } }\n";
        assert_eq!(timeouts(yaml), [7_000, 8_000, 3_000]);
    }

    #[test]
    fn a_required_key_may_be_inherited() {
        let yaml = "defaults: { openwhisk: { api_host: 'http://127.0.0.1', service_token: 'u:k', namespace: guest } }\nroutes:\n  \
                    - { name: a, match: { path: /a }, target: { openwhisk: { action: hello } } }\n";
        assert_eq!(plan(load_yaml(yaml)).routes[0].function.platform, "openwhisk");
    }

    #[test]
    fn mappings_are_merged_key_by_key_but_a_secret_is_replaced() {
        let files = Files::new(&[
            ("secret", "from-file\n"),
            (
                "fngate.yaml",
                "defaults: { http: { headers: { A: inherited, B: inherited, C: { env: FNGATE_TEST_UNSET } } } }\nroutes:\n  \
                 - name: a\n    match: { path: /a }\n    target:\n      http:\n        url: http://127.0.0.1/\n        \
                 headers: { B: own, C: { file: secret } }\n",
            ),
        ]);
        let Plan { routes, .. } = plan(files.load());
        let Target::Streamed(target) = &routes[0].function.target else { panic!() };
        let shown = format!("{target:?}");
        assert!(shown.contains("\"inherited\"") && shown.contains("\"own\""), "{shown}");
        assert!(!shown.contains("from-file"), "{shown}");
    }
}

mod includes {
    use super::*;

    #[test]
    fn routes_of_included_files_follow_in_the_order_of_their_names() {
        let files = Files::new(&[
            (
                "fngate.yaml",
                &format!("include: [ 'conf.d/*.yaml', extra.yaml ]\n{}", routes(&[("main", "/m")])),
            ),
            ("conf.d/b.yaml", &routes(&[("b", "/b")])),
            ("conf.d/a.yaml", &routes(&[("a", "/a")])),
            ("conf.d/.hidden.yaml", "nonsense"),
            ("conf.d/a.yaml~", "nonsense"),
            ("extra.yaml", &routes(&[("extra", "/e")])),
        ]);
        let loaded = files.load();
        let expected = ["conf.d", "conf.d/a.yaml", "conf.d/b.yaml", "extra.yaml", "fngate.yaml"];
        let expected: BTreeSet<_> = expected.iter().map(|name| files.path(name)).collect();
        assert!(expected.is_subset(&loaded.files.iter().cloned().collect()), "{:?}", loaded.files);
        let names: Vec<_> = plan(loaded).routes.into_iter().map(|route| route.name).collect();
        assert_eq!(names, ["main", "a", "b", "extra"]);
    }

    #[test]
    fn a_pattern_beside_the_main_file_does_not_include_it_again() {
        let files = Files::new(&[
            ("fngate.yaml", &format!("include: [ '*.yaml' ]\n{}", routes(&[("main", "/m")]))),
            ("more.yaml", &routes(&[("more", "/b")])),
        ]);
        assert_eq!(plan(files.load()).routes.len(), 2);
    }

    #[test]
    fn included_files_hold_routes_and_nothing_else() {
        let files = Files::new(&[
            ("fngate.yaml", &format!("include: [ a.yaml ]\n{}", routes(&[("main", "/m")]))),
            ("a.yaml", "threads: 3\ninclude: [ b.yaml ]\nroutes: []\n"),
        ]);
        assert_eq!(
            faults(&files.load()),
            ["1: threads: unknown key `threads`", "2: include: unknown key `include`"]
        );
    }

    #[test]
    fn faults_across_files_name_the_other_file() {
        let files = Files::new(&[
            ("fngate.yaml", &format!("include: [ a.yaml ]\n{}", routes(&[("same", "/same")]))),
            ("a.yaml", &routes(&[("same", "/same")])),
        ]);
        assert_eq!(
            files.drawn(),
            "error: routes[0].name: another route is named `same`\n --> a.yaml:2:13\n  |\n\
             2 |   - { name: same, match: { path: /same }, target: { http: { url: 'http://127.0.0.1/' } } }\n  \
             |             ^^^^\n  |\n  = help: the first one is in fngate.yaml, line 3\n\n\
             error: routes[0].match.path: the route `same` matches the same requests\n --> a.yaml:2:34\n  |\n\
             2 |   - { name: same, match: { path: /same }, target: { http: { url: 'http://127.0.0.1/' } } }\n  \
             |                                  ^^^^^\n  |\n  = help: the first one is in fngate.yaml, line 3; \
             give one of them a `priority`, or other hosts or methods\n\n2 errors\n"
        );
    }

    #[test]
    fn defaults_reach_included_routes_and_their_faults_point_back() {
        let files = Files::new(&[
            ("fngate.yaml", "defaults:\n  http: { deadline: soon }\ninclude: [ a.yaml ]\n"),
            ("a.yaml", &routes(&[("a", "/a")])),
        ]);
        assert_eq!(
            files.drawn(),
            "error: routes[0].target.http.deadline: `soon` is not a duration\n --> fngate.yaml:2:21\n  |\n\
             2 |   http: { deadline: soon }\n  |                     ^^^^\n  |\n  \
             = help: milliseconds as a bare number, or a whole number with `ms`, `s`, `m` or `h`\n\n1 error\n"
        );
    }

    #[test]
    fn a_pattern_without_files_is_a_warning_and_a_name_without_a_file_is_a_fault() {
        let with = |include: &str| {
            Files::new(&[("fngate.yaml", &format!("include: [ {include} ]\n{}", routes(&[("main", "/m")])))])
                .load()
        };
        let none = with("'none/*.yaml'");
        assert_eq!(none.report.summary(), "1 warning");
        assert_eq!(none.report.findings()[0].message, "`none/*.yaml` matches no file");
        let missing = faults(&with("none.yaml"));
        assert!(
            missing.len() == 1
                && missing[0].starts_with("1: include[0]: `")
                && missing[0].ends_with("none.yaml` cannot be read: No such file or directory (os error 2)"),
            "{missing:?}"
        );
        assert_eq!(faults(&with("'*/a.yaml'")), ["1: include[0]: `*/a.yaml` has a wildcard in a directory"]);
    }
}

mod secrets {
    use super::*;

    fn with_token(token: &str) -> String {
        format!(
            "routes:\n  - name: a\n    match: {{ path: /a }}\n    target:\n      openfunction:\n        \
             function_uri: http://127.0.0.1/\n        authorization: {{ service_token: {token} }}\n"
        )
    }

    #[test]
    fn a_literal_in_a_file_that_others_can_read_draws_a_warning() {
        let files = Files::new(&[("fngate.yaml", &with_token("'a:b'"))]);
        assert_eq!(files.load().report.summary(), "no errors");
        files.permit("fngate.yaml", 0o640);
        assert_eq!(
            files.drawn(),
            "warning: routes[0].target.openfunction.authorization.service_token: a secret stands in a file that others can read\n \
             --> fngate.yaml:7:41\n  |\n7 |         authorization: { service_token: *** }\n  \
             |                                         ^^^\n  |\n  = help: use `{ credential: … }`, `{ file: … }` or `{ env: … }`, or \
             `chmod 600` the file\n\n1 warning\n"
        );
        assert!(files.load().plan.is_some());
    }

    #[test]
    fn an_inherited_literal_is_as_exposed_as_the_file_it_stands_in() {
        let files = Files::new(&[
            (
                "fngate.yaml",
                "defaults: { openfunction: { authorization: { service_token: 'a:b' } } }\ninclude: [ a.yaml ]\n",
            ),
            (
                "a.yaml",
                "routes: [ { name: a, match: { path: /a }, target: { openfunction: { function_uri: 'http://127.0.0.1/' } } } ]\n",
            ),
        ]);
        files.permit("a.yaml", 0o644);
        assert_eq!(files.load().report.summary(), "no errors");
        files.permit("fngate.yaml", 0o644);
        assert_eq!(files.load().report.summary(), "1 warning");
    }

    #[test]
    fn a_secrets_file_is_watched_and_changes_the_hash() {
        let files = Files::new(&[("fngate.yaml", &with_token("{ file: token }")), ("token", "a:b\n")]);
        let before = files.load();
        assert!(before.files.contains(&files.path("token")));
        let before = plan(before).hash;
        assert_eq!(plan(files.load()).hash, before);
        files.write("token", "a:c\n");
        assert_ne!(plan(files.load()).hash, before);
    }

    #[test]
    fn the_hash_is_of_what_was_read_and_not_of_what_is_there_now() {
        let files = Files::new(&[("token", "a:b")]);
        let book = Diagnostics::new(files.0.path().to_owned());
        assert!(Scope::root(&book, MAIN).file("token").read(10).is_ok());
        let before = digest(&[], &book.files());
        files.write("token", "a:c");
        assert_eq!(digest(&[], &book.files()), before);
        let later = Diagnostics::new(files.0.path().to_owned());
        assert!(Scope::root(&later, MAIN).file("token").read(10).is_ok());
        assert_ne!(digest(&[], &later.files()), before);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_secret() {
        let token = |text: &str| {
            let files = Files::new(&[("fngate.yaml", &with_token("{ file: token }")), ("token", text)]);
            plan(files.load()).routes[0].function.terms.credential
        };
        assert_eq!(token("\u{feff}a:b\r\n"), token("a:b"));
        assert_ne!(token("a:\u{feff}b"), token("a:b"));
    }

    #[test]
    fn references_of_apisix_are_no_secrets() {
        let with_header = |value: &str| {
            format!(
                "routes: [ {{ name: a, match: {{ path: /a }}, target: {{ http: {{ url: 'https://h/', headers: {{ X-Key: {value} }} }} }} }} ]\n"
            )
        };
        for reference in ["'$env://TOKEN'", "$ENV://TOKEN/a", "'$secret://vault/1/a/b'", "'u:${{KEY:=x}}'"] {
            for yaml in [with_token(reference), with_header(reference)] {
                let found = faults(&load_yaml(&yaml));
                assert!(
                    found.len() == 1
                        && found[0].ends_with("a reference as APISIX writes it, which is not followed here"),
                    "{yaml}{found:?}"
                );
            }
        }
        for literal in ["env:HOME", "'u:$env://x'", "'u:${x}'"] {
            assert_eq!(faults(&load_yaml(&with_token(literal))), [""; 0], "{literal}");
        }
    }

    #[test]
    fn a_missing_secrets_file_is_a_fault_and_still_watched() {
        let files = Files::new(&[("fngate.yaml", &with_token("{ file: token }"))]);
        let loaded = files.load();
        let path = files.path("token");
        assert_eq!(
            faults(&loaded),
            [format!(
                "7: routes[0].target.openfunction.authorization.service_token.file: `{}` cannot be read: \
                 No such file or directory (os error 2)",
                path.display()
            )]
        );
        assert!(loaded.files.contains(&path));
    }

    #[test]
    fn a_secret_where_a_key_belongs_is_hidden() {
        for secrets in [
            "{ 'hunter:2': x }",
            "{ service_token: { 'hunter:2': x } }",
            "{ service_token: { file: x, 'Hunter2': y } }",
        ] {
            let yaml = with_token("x").replace("{ service_token: x }", secrets);
            let loaded = load_yaml(&yaml);
            let shown = loaded.report.render(Style::Plain) + &loaded.report.to_json().to_string();
            assert!(shown.contains("authorization") && shown.contains("an unknown key"), "{shown}");
            assert!(!shown.to_lowercase().contains("hunter"), "{shown}");
        }
    }

    #[test]
    fn the_query_of_a_uri_is_hidden_and_the_rest_is_shown() {
        for (uri, shown) in [
            ("https://h/a?code=hunter2#f", "https://h/a?***"),
            ("ftp://h/a?hunter2", "ftp://h/a?***"),
            ("'ftp://h/a?code=hunter2'", "'ftp://h/a?***'"),
            ("h/a?code=hunter2", "h/a?***"),
        ] {
            let drawn = drawn(&format!(
                "routes:\n  - name: a\n    match: {{ path: /a }}\n    target:\n      openfunction:\n        function_uri: {uri}\n"
            ));
            assert!(drawn.contains(&format!("function_uri: {shown}\n")), "{drawn}");
            assert!(!drawn.contains("hunter"), "{drawn}");
        }
        let nodes = drawn(
            "routes: [ { name: a, match: { path: /a }, target: { http: { nodes: { 'h:1/?code=hunter2': 1 } } } } ]\n",
        );
        assert!(nodes.contains("h:1/?***") && !nodes.contains("hunter"), "{nodes}");
        let flow = drawn(
            "routes: [ { name: a, match: { path: /a }, target: { http: { url: http://h/?hunter2, tmeout: 1 } } } ]\n",
        );
        assert!(flow.contains("http://h/?***, tmeout: 1") && !flow.contains("hunter"), "{flow}");
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let yaml = "routes:\n  - name: a\n    match: { path: /a, x: 1 }\n    target: { openfunction: { function_uri: 'http://a.example', \
                    authorization: { service_token: 'hunter:2', more: 'hunter2', 5: 'hunter2' } } }\n  \
                    - { name: b, match: { path: /b }, target: { http: { url: 5, headers: { A: hunter2, B: [hunter2] } } } }\n  \
                    - { name: c, match: { path: /c }, target: { openwhisk: { service_token: hunter2, apihost: x } } }\n";
        let loaded = load_yaml(yaml);
        assert!(loaded.report.faults() > 5);
        let json = loaded.report.to_json().to_string();
        for shown in [
            loaded.report.render(Style::Plain),
            loaded.report.render(Style::Coloured),
            json,
            format!("{loaded:?}"),
        ] {
            assert!(!shown.contains("hunter"), "{shown}");
        }
        let plan = plan(load_yaml(&with_token("hunter2")));
        assert!(!format!("{plan:?}").contains("hunter"));
    }

    #[test]
    fn only_regular_files_are_read() {
        let pair = |cert: &str, key: &str| {
            let listener =
                format!("listeners: [ {{ address: '127.0.0.1:1', tls: {{ cert: {cert}, key: {key} }} }} ]\n");
            listener + &routes(&[("a", "/a")])
        };
        let with_ca = "routes: [ { name: a, match: { path: /a }, target: { http: { url: 'https://h/', ca: odd } } } ]\n";
        let cases = [
            format!("include: [ odd ]\n{}", routes(&[("a", "/a")])),
            with_token("{ file: odd }"),
            pair("odd", "k.pem"),
            pair("c.pem", "odd"),
            with_ca.to_owned(),
        ];
        let leaf = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        for yaml in &cases {
            let files = Files::new(&[("fngate.yaml", yaml), ("c.pem", &leaf.cert.pem())]);
            let odd = files.path("odd");
            nix::unistd::mkfifo(&odd, nix::sys::stat::Mode::S_IRWXU).unwrap();
            refuses(&files, "a FIFO");
            fs::remove_file(&odd).unwrap();
            std::os::unix::fs::symlink("/dev/zero", &odd).unwrap();
            refuses(&files, "a device");
            fs::remove_file(&odd).unwrap();
            let _socket = std::os::unix::net::UnixListener::bind(&odd).unwrap();
            refuses(&files, "a socket");
            fs::remove_file(&odd).unwrap();
            fs::create_dir(&odd).unwrap();
            refuses(&files, "a directory");
        }
    }

    #[test]
    fn a_bundle_of_authorities_is_bounded() {
        let yaml = "routes: [ { name: a, match: { path: /a }, target: { http: { url: 'https://h/', ca: large } } } ]\n";
        let files = Files::new(&[("fngate.yaml", yaml), ("large", "")]);
        fs::OpenOptions::new().write(true).open(files.path("large")).unwrap().set_len((4 << 20) + 1).unwrap();
        let said = files.drawn();
        assert!(said.contains("`large` is larger than 4194304 bytes"), "{said}");
    }

    /// Says so, and soon.
    #[track_caller]
    fn refuses(files: &Files, kind: &str) {
        let (done, outcome) = std::sync::mpsc::channel();
        let path = files.path("fngate.yaml");
        std::thread::spawn(move || done.send(load(&path).report.to_json().to_string()));
        let said = outcome.recv_timeout(std::time::Duration::from_secs(10)).expect("the load hangs");
        assert!(
            said.contains(&format!("cannot be read: it is {kind}, and no regular file")),
            "{kind}: {said}"
        );
    }

    #[test]
    fn a_key_pair_that_cannot_be_read_is_a_fault_and_is_watched() {
        let yaml = format!(
            "listeners:\n  - address: 127.0.0.1:1\n    tls: {{ cert: c.pem, key: k.pem }}\n{}",
            routes(&[("a", "/a")])
        );
        let files = Files::new(&[("fngate.yaml", &yaml)]);
        let loaded = files.load();
        assert_eq!(loaded.report.faults(), 1);
        assert_eq!(loaded.report.findings()[0].line, Some(3));
        assert!(loaded.files.contains(&files.path("c.pem")) && loaded.files.contains(&files.path("k.pem")));
    }
}

/// The cases that the APISIX plugins' own tests have for their attributes, and the better outcome where there is one.
mod attributes {
    use super::*;

    fn with_target(target: &str) -> Loaded {
        load_yaml(&format!("routes:\n  - name: a\n    match: {{ path: /a }}\n    target: {{ {target} }}\n"))
    }

    #[track_caller]
    fn accepted(target: &str, summary: &str) {
        let loaded = with_target(target);
        assert_eq!(loaded.report.summary(), summary, "{}", loaded.report.render(Style::Plain));
        assert!(loaded.plan.is_some());
    }

    #[track_caller]
    fn refused(target: &str, expected: &[&str]) {
        let found = faults(&with_target(target));
        let expected: Vec<_> = expected.iter().map(|fault| format!("4: routes[0].target.{fault}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn openfunction_1_needs_only_its_uri() {
        accepted("openfunction: { function_uri: 'http://127.0.0.1:30583/x' }", "no errors");
    }

    #[test]
    fn openfunction_2_needs_its_uri() {
        refused("openfunction: { timeout: 60000 }", &["openfunction: the key `function_uri` is missing"]);
    }

    #[test]
    fn openfunction_3_needs_a_uri_that_is_text() {
        refused(
            "openfunction: { function_uri: 5 }",
            &["openfunction.function_uri: expected text, found a number"],
        );
    }

    const ACTION: &str = "service_token: 'u:k', namespace: guest, action: test-params";

    #[test]
    fn openwhisk_16_takes_its_four_attributes() {
        accepted(&format!("openwhisk: {{ api_host: 'http://127.0.0.1:3233', {ACTION} }}"), "no errors");
    }

    #[test]
    fn openwhisk_17_needs_its_host() {
        refused(&format!("openwhisk: {{ {ACTION} }}"), &["openwhisk: the key `api_host` is missing"]);
    }

    #[test]
    fn openwhisk_18_needs_a_host_that_is_text() {
        refused(
            &format!("openwhisk: {{ api_host: 5, {ACTION} }}"),
            &["openwhisk.api_host: expected text, found a number"],
        );
    }

    #[test]
    fn openwhisk_37_a_host_without_tls_draws_a_warning() {
        accepted(&format!("openwhisk: {{ api_host: 'http://whisk.example.com', {ACTION} }}"), "1 warning");
    }

    #[test]
    fn openwhisk_38_a_host_with_tls_draws_none() {
        accepted(&format!("openwhisk: {{ api_host: 'https://whisk.example.com', {ACTION} }}"), "no errors");
    }

    #[test]
    fn derived_14_what_the_plugins_let_through_is_refused_with_its_path() {
        refused(
            "openfunction: { function_uri: 'http://127.0.0.1/', authorization: 5 }",
            &["openfunction.authorization: expected a mapping, found a number"],
        );
        refused(
            "openfunction: { function_uri: 'http://127.0.0.1/', keepalive_pol: 5 }",
            &["openfunction.keepalive_pol: unknown key `keepalive_pol`"],
        );
        refused(
            "openfunction: { function_uri: 'htp://127.0.0.1/' }",
            &[
                "openfunction.function_uri: `htp://127.0.0.1/` is not a usable URI: the scheme is neither `http` nor `https`",
            ],
        );
        let found = faults(&load_yaml(&routes(&[("'a name'", "/a")])));
        assert_eq!(found, ["2: routes[0].name: `a name` cannot be a route's name"]);
    }

    #[test]
    fn the_limits_of_the_attributes_are_kept() {
        refused(
            "openfunction: { function_uri: 'http://127.0.0.1/', timeout: 99, keepalive_timeout: 999, keepalive_pool: 0 }",
            &[
                "openfunction.timeout: `timeout` is 99 ms",
                "openfunction.keepalive_timeout: `keepalive_timeout` is 999 ms",
                "openfunction.keepalive_pool: 0 is out of range",
            ],
        );
        refused(
            "openfunction: { function_uri: 'http://127.0.0.1/', keepalive_pool: 4097, deadline: 0, sni: '-' }",
            &[
                "openfunction.keepalive_pool: 4097 is out of range",
                "openfunction.deadline: `deadline` is 0 ms",
                "openfunction.sni: `-` is not a name for SNI",
            ],
        );
        accepted(
            "openfunction: { function_uri: 'http://127.0.0.1/', timeout: 100, keepalive_timeout: 1000, keepalive_pool: 1 }",
            "no errors",
        );
    }
}

mod bounds {
    use super::*;

    #[test]
    fn an_alias_bomb_is_refused_before_it_is_expanded() {
        let mut yaml = String::from("a0: &a0 [ lol, lol, lol, lol, lol, lol, lol, lol, lol ]\n");
        for level in 1..30 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            yaml.push_str(&format!("a{level}: &a{level} [ {aliases} ]\n"));
        }
        assert_eq!(faults(&load_yaml(&yaml)), ["7: a6[0]: the file stands for more than 1000000 values"]);
    }

    #[test]
    fn nesting_is_bounded_in_every_style() {
        let deep = |yaml: &str| faults(&load_yaml(yaml)).concat();
        for yaml in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)]
        {
            let found = deep(&yaml);
            assert!(found.ends_with("values are nested more than 64 levels deep"), "{} {found}", &yaml[..8]);
        }
        let mut aliases = String::from("a0: &a0 [ 1 ]\n");
        for level in 1..80 {
            aliases.push_str(&format!("a{level}: &a{level} [ *a{} ]\n", level - 1));
        }
        assert!(deep(&aliases).ends_with("values are nested more than 64 levels deep"));
    }

    #[test]
    fn aliases_are_counted() {
        let aliases = "*a, ".repeat(10_001);
        let found = faults(&load_yaml(&format!("a: &a 1\nb: [ {aliases} ]\n")));
        assert_eq!(found, ["2: b[10000]: the file has more than 10000 aliases"]);
    }

    #[test]
    fn a_large_file_is_not_read() {
        let files = Files::new(&[("fngate.yaml", &"#".repeat(10 << 20))]);
        assert_eq!(faults(&files.load()), ["0: : the file is larger than 8 MiB"]);
    }

    #[test]
    fn faults_beyond_a_thousand_are_counted() {
        let yaml: String = (0..5_000).map(|i| format!("key{i}: 1\n")).collect();
        let report = load_yaml(&yaml).report;
        assert_eq!(report.findings().len(), 1_000);
        assert_eq!(report.summary(), "1000 errors, 4000 more not shown");
    }

    #[test]
    fn ten_thousand_routes_load() {
        let mut yaml = String::from("routes:\n");
        (0..10_000).for_each(|i| yaml.push_str(&route(&format!("r{i}"), &format!("/r{i}/*"))));
        assert_eq!(plan(load_yaml(&yaml)).routes.len(), 10_000);
    }

    #[test]
    fn an_alias_stands_for_what_its_anchor_holds() {
        let yaml = "routes:\n  - { name: a, match: { path: /a }, target: &t { http: { url: 'http://127.0.0.1/' } } }\n  \
                    - { name: b, match: { path: /b }, target: *t }\n";
        assert_eq!(plan(load_yaml(yaml)).routes.len(), 2);
    }
}

/// The files that are shipped, and what they promise.
mod shipped {
    use super::*;

    const REFERENCE: &str = include_str!("../../../conf/reference.yaml");
    const SMALLEST: &str = include_str!("../../../conf/fngate.yaml");

    #[test]
    fn both_load_without_a_word() {
        for yaml in [REFERENCE, SMALLEST] {
            assert_eq!(drawn(yaml), "");
            assert!(load_yaml(yaml).plan.is_some());
        }
    }

    /// Every key of the schema, wherever it stands.
    fn keys<'s>(schema: &'s serde_json::Value, found: &mut BTreeSet<&'s str>) {
        match schema {
            serde_json::Value::Object(object) => {
                if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().map(String::as_str));
                }
                object.values().for_each(|value| keys(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_reference_has_every_key() {
        let schema = schema();
        let mut expected = BTreeSet::new();
        keys(&schema, &mut expected);
        assert!(expected.len() > 50, "{expected:?}");
        let words: HashSet<&str> =
            REFERENCE.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').collect();
        let missing: Vec<_> =
            expected.iter().filter(|key| !words.contains(format!("{key}:").as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_reference_writes_down_the_defaults() {
        let reference = plan(load_yaml(REFERENCE));
        let smallest = plan(load_yaml(SMALLEST));
        assert_eq!(format!("{:?}", reference.settings), format!("{:?}", smallest.settings));
        let (written, default) = (&reference.routes[0].function, &smallest.routes[0].function);
        assert_eq!(format!("{:?}", written.terms), format!("{:?}", default.terms));

        let bare = plan(load_yaml(
            "routes:\n  - { name: action, match: { path: /a }, target: { openwhisk: { api_host: 'http://127.0.0.1:3233', \
             service_token: 'uuid:key', namespace: guest, action: hello } } }\n  \
             - { name: revision, match: { path: /b }, target: { knative: { service: hello, domain: example.com, \
             address: '127.0.0.1:8080' } } }\n  \
             - { name: lambda-url, match: { path: /l }, target: { aws_lambda: { function_uri: \
             'https://abcdef.lambda-url.eu-west-1.on.aws', authorization: { iam: {} } } } }\n  \
             - { name: lambda, match: { path: /m }, target: { aws_lambda: { function: hello, region: eu-west-1 } } }\n  \
             - { name: trigger, match: { path: /t/* }, target: { azure_functions: { function_uri: 'http://127.0.0.1:7071/api' } } }\n  \
             - { name: faas, match: { path: /c }, target: { openfaas: { gateway_uri: 'http://127.0.0.1:8080', \
             function: hello } } }\n  \
             - { name: service, match: { path: /d }, target: { http: { url: 'http://127.0.0.1:8080/' } } }\n",
        ));
        for default in &bare.routes {
            let written = reference.routes.iter().find(|route| route.name == default.name).unwrap();
            let (written, default) = (&written.function, &default.function);
            assert_eq!(format!("{:?}", written.target), format!("{:?}", default.target));
            assert_eq!(format!("{:?}", written.terms), format!("{:?}", default.terms));
        }
    }
}

mod schemas {
    use super::*;

    fn objects<'s>(
        schema: &'s serde_json::Value,
        found: &mut Vec<&'s serde_json::Map<String, serde_json::Value>>,
    ) {
        match schema {
            serde_json::Value::Object(object) => {
                found.push(object);
                object.values().for_each(|value| objects(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| objects(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_object_is_closed_and_every_reference_leads_to_the_secret() {
        let schema = schema();
        let mut found = Vec::new();
        objects(&schema, &mut found);
        for object in found {
            if object
                .get("properties")
                .is_some_and(|properties| properties.get("type").is_none_or(|t| t.is_object()))
            {
                assert_eq!(object["additionalProperties"], false, "{object:?}");
            }
            if let Some(reference) = object.get("$ref") {
                assert_eq!(reference, schema::SECRET);
            }
            assert_ne!(object.get("type"), Some(&serde_json::json!("null")));
        }
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
        assert_eq!(schema["definitions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["Secret"]);
    }

    #[test]
    fn every_key_is_described() {
        fn check(schema: &serde_json::Value, path: &str) {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{key}");
                assert!(property["description"].is_string() || path.ends_with(".authorization"), "{path}");
                check(property, &path);
                check(&property["items"], &path);
            }
        }
        check(&schema(), "");
    }

    #[test]
    fn what_defaults_can_bring_is_required_nowhere() {
        let schema = schema();
        assert!(schema.pointer("/properties/defaults/properties/openwhisk/required").is_none());
        let target = "/properties/routes/items/properties/target";
        assert!(schema.pointer(&format!("{target}/properties/openwhisk/required")).is_none());
        assert_eq!(
            schema.pointer("/properties/routes/items/required").unwrap(),
            &serde_json::json!(["name", "match", "target"])
        );
        assert_eq!(
            faults(&load_yaml(WITHOUT_ACTION)),
            ["4: routes[0].target.openwhisk: the key `action` is missing"]
        );
    }

    const WITHOUT_ACTION: &str = "defaults: { openwhisk: { api_host: 'http://127.0.0.1', service_token: 'u:k', namespace: guest } }\nroutes:\n  \
                                  - name: a\n    target: { openwhisk: {} }\n    match: { path: /a }\n";

    /// What an editor says of a file, before anything is merged.
    fn said_by_an_editor(yaml: &str) -> Vec<String> {
        let book = Diagnostics::default();
        let root = parse::parse(yaml, MAIN).root.unwrap();
        Shape::of(&schema()).check(&root, &Scope::root(&book, MAIN), &mut Seen::default());
        book.into_inner().into_iter().map(|found| format!("{}: {}", found.place, found.message)).collect()
    }

    #[test]
    fn an_editor_accepts_what_is_shown_in_the_documentation() {
        let readme = include_str!("../../../README.md");
        let blocks = readme.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        let files: Vec<_> = blocks.filter(|block| block.contains("routes:\n")).collect();
        assert!(files.len() > 8, "README.md shows files in another way now");
        let shipped =
            [include_str!("../../../conf/reference.yaml"), include_str!("../../../conf/fngate.yaml")];
        for yaml in files.into_iter().chain(shipped) {
            assert_eq!(said_by_an_editor(yaml), [""; 0], "{yaml}");
        }
        assert_eq!(said_by_an_editor(WITHOUT_ACTION), [""; 0]);
    }

    #[test]
    fn a_target_has_one_platform_and_defaults_have_any() {
        let schema = schema();
        let count = |pointer: &str, word: &str| schema.pointer(pointer).unwrap().get(word).cloned();
        let target = "/properties/routes/items/properties/target";
        for word in ["minProperties", "maxProperties"] {
            assert_eq!(count(target, word), Some(1.into()));
            assert_eq!(count("/properties/defaults", word), None);
        }
    }
}

/// A change of one place of a text.
fn mutate(text: &str, at: usize, cut: usize, insert: &str) -> String {
    let boundary =
        |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (start, end) = (boundary(at), boundary(at.saturating_add(cut)));
    format!("{}{insert}{}", &text[..start], &text[end.max(start)..])
}

proptest! {
    #[test]
    fn no_text_makes_a_load_panic(text in any::<String>()) {
        load_yaml(&text).report.render(Style::Plain);
    }

    #[test]
    fn no_text_of_yamls_own_characters_makes_a_load_panic(text in "[a:\\-\\[\\]{},&*!|>'\"#%@ \\n\\tä?~0.<]{0,200}") {
        load_yaml(&text).report.render(Style::Coloured);
    }

    #[test]
    fn no_change_of_a_good_file_makes_a_load_panic(
        at in 0_usize..6_000,
        cut in 0_usize..60,
        insert in "[a:\\-\\[\\]{},&*'\"# \\näö\u{1f980}5]{0,20}",
    ) {
        let text = mutate(include_str!("../../../conf/reference.yaml"), at, cut, &insert);
        let loaded = load_yaml(&text);
        prop_assert_eq!(loaded.plan.is_none(), loaded.report.faults() > 0);
        loaded.report.render(Style::Plain);
    }

    /// Every plain word is found again at the bytes its span names.
    #[test]
    fn spans_name_the_bytes_of_their_values(
        words in proptest::collection::vec("[a-zäöü\u{1f980}]{1,8}", 1..20),
        comment in "[a-zä ]{0,10}",
    ) {
        let text: String = words.iter().map(|word| format!("- {word} # {comment}\n- '{word}'\n- [ \"{word}\" ]\n")).collect();
        let Parsed { root, refusals, .. } = parse::parse(&text, 0);
        prop_assert!(refusals.is_empty());
        let root = root.unwrap();
        for (i, item) in root.as_list().unwrap().iter().enumerate() {
            let word = &words[i / 3];
            let found = &text[item.span.start..item.span.end];
            let expected = [word.clone(), format!("'{word}'"), format!("[ \"{word}\" ]")];
            prop_assert_eq!(found, expected[i % 3].as_str());
        }
    }
}
