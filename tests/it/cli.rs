//! The command line: what each verb prints and how it ends.

use serde_json::Value;

use crate::harness::*;

const GOOD: &str = "http: { url: 'http://127.0.0.1:1/' }";

#[tokio::test]
async fn check_shows_the_place_the_line_and_a_way_out() {
    let yaml = "listeners: [ { address: '127.0.0.1:9080' } ]
admin: { address: '127.0.0.1:9180' }
access_log: { path: stdout }
routes:
  - name: hello
    match: { path: /hello, methds: [ GET ] }
    target: { http: { url: 'http://127.0.0.1:1/' } }
";
    let found = check(yaml).await;

    found.refuses(&["fngate.yaml:7:28", "match: { path: /hello, methds: [ GET ] }", "^^^^^^", "`methods`"]);
    assert!(!found.said().contains("no routes"), "there is one, and it has a fault:\n{}", found.said());
}

#[tokio::test]
async fn check_speaks_json_when_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "routes:\n  - nmae: x\n").unwrap();

    let found = run(&["check", "--format", "json", file.path().to_str().unwrap()]).await;

    assert_eq!(found.code, Some(78));
    let faults: Value = serde_json::from_str(&found.stdout).unwrap();
    assert!(faults.to_string().contains("nmae"), "{faults}");
    assert!(faults.to_string().contains("\"line\":2"), "{faults}");
}

#[tokio::test]
async fn check_takes_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (good, bad) = (file("good.yaml", &route("/x", GOOD)), file("bad.yaml", "routes: 5\n"));

    run(&["check", &good, &good]).await.accepts();
    run(&["check", &good, &bad]).await.refuses(&["bad.yaml"]);
    run(&["check", "/nowhere/at/all.yaml"]).await.refuses(&["/nowhere/at/all.yaml"]);
}

#[tokio::test]
async fn the_same_key_twice_is_a_fault() {
    check(&format!("{}threads: 1\nthreads: 2\n", route("/x", GOOD)))
        .await
        .refuses(&["threads", "fngate.yaml:"]);
}

#[tokio::test]
async fn an_alias_bomb_is_refused() {
    let mut yaml = "a0: &a0 [ x, x, x, x, x, x, x, x, x ]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        yaml += &format!("a{level}: &a{level} [ {below} ]\n");
    }
    let nested = format!("routes: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));

    for bomb in [yaml, nested, "x".repeat(64 * 1024 * 1024)] {
        assert_eq!(check(&bomb).await.code, Some(78), "{}", &bomb[..60]);
    }
}

#[tokio::test]
async fn a_literal_secret_that_others_can_read_draws_a_warning() {
    use std::os::unix::fs::PermissionsExt;

    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = route(
        "/x",
        "openfunction: { function_uri: 'http://127.0.0.1:1/', authorization: { service_token: 'do:not-show' } }",
    );
    std::fs::write(file.path(), yaml).unwrap();
    let check_with = async |mode| {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let found = run(&["check", file.path().to_str().unwrap()]).await;
        found.accepts();
        assert!(!found.said().contains("do:not-show"), "{}", found.said());
        found.said()
    };

    assert!(check_with(0o644).await.contains("service_token"));
    assert!(!check_with(0o600).await.contains("service_token"));
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_a_fault() {
    for (secret, word) in [
        ("{ env: NO_SUCH_VARIABLE }", "NO_SUCH_VARIABLE"),
        ("{ file: /nowhere/token }", "/nowhere/token"),
        ("{ evn: X }", "evn"),
    ] {
        let target = format!(
            "openfunction: {{ function_uri: 'http://127.0.0.1:1/', authorization: {{ service_token: {secret} }} }}"
        );
        check(&route("/x", &target)).await.refuses(&["service_token", word]);
    }
}

#[tokio::test]
async fn a_credential_that_cannot_be_seen_from_outside_of_the_service_is_a_warning() {
    let target = "openfunction: { function_uri: 'http://127.0.0.1:1/', authorization: { service_token: { credential: whisk.token } } }";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fngate.yaml");
    std::fs::write(&file, route("/x", target)).unwrap();
    let file = file.to_str().unwrap();

    let found = run(&["check", file]).await;
    assert_eq!(found.code, Some(0), "{found:#?}");
    assert!(found.said().contains("whisk.token"), "{found:#?}");

    // Serving needs it.
    let refused = run(&["run", "-c", file]).await;
    assert_eq!(refused.code, Some(78), "{refused:#?}");
    assert!(refused.said().contains("credentials directory"), "{refused:#?}");
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fngate.yaml");
    let log = dir.path().join("logs/access.log");
    let yaml = format!("access_log: {{ path: logs/access.log }}\n{}", route("/x", GOOD));
    std::fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    let words = [&format!("the access log `{}` cannot be opened", log.display()), "fngate.yaml:1:"];

    run(&["check", file]).await.refuses(&words);
    run(&["run", "-c", file]).await.refuses(&words);

    std::fs::create_dir(dir.path().join("logs")).unwrap();
    run(&["check", file]).await.accepts();
    assert!(!log.exists(), "to check changes nothing");
}

#[tokio::test]
async fn a_directory_that_systemd_makes_may_be_missing_before_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = |path: &str| format!("access_log: {{ path: {path} }}\n{}", route("/x", GOOD));
    std::fs::write(file.path(), yaml("/var/log/no-such-directory/access.log")).unwrap();
    let path = file.path().to_str().unwrap();

    let found = run(&["check", path]).await;
    found.accepts();
    assert!(found.said().contains("LogsDirectory"), "{found:#?}");
    run(&["run", "-c", path]).await.refuses(&["/var/log/no-such-directory"]);

    std::fs::write(file.path(), yaml("/var/log/a/b/access.log")).unwrap();
    run(&["check", path]).await.refuses(&["/var/log/a/b"]);
}

#[tokio::test]
async fn listeners_that_cannot_all_be_bound_are_a_fault() {
    let file = |listeners: &str| format!("listeners: [ {listeners} ]\n{}", route("/x", GOOD));
    for (wide, narrow) in [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")] {
        let yaml = file(&format!("{{ address: '{wide}:9081' }}, {{ address: '{narrow}:9081' }}"));
        check(&yaml).await.refuses(&[&format!("{wide}:9081 and {narrow}:9081 cannot both be listened on")]);
    }
    check(&file("{ address: '127.0.0.1:9081' }, { address: '127.0.0.2:9081' }")).await.accepts();
}

#[tokio::test]
async fn an_included_file_brings_routes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let main = dir.path().join("main.yaml");
    let main = main.to_str().unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    write("main.yaml", "include: [ 'conf.d/*.yaml' ]\nroutes: []\n");

    write("conf.d/a.yaml", &routes(&[("included", "/x", GOOD)]));
    run(&["check", main]).await.accepts();
    assert!(run(&["routes", "-c", main]).await.stdout.contains("included"));
    write("conf.d/b.yaml", "threads: 2\nroutes: []\n");
    run(&["check", main]).await.refuses(&["b.yaml", "threads"]);
    write("conf.d/b.yaml", &routes(&[("included", "/y", GOOD)]));
    run(&["check", main]).await.refuses(&["b.yaml", "`included`"]);
}

#[tokio::test]
async fn check_tells_how_many_series_there_can_be() {
    let found = check(&route("/x", GOOD)).await;
    found.accepts();
    assert!(found.stdout.contains("series"), "{found:#?}");
}

#[tokio::test]
async fn run_is_what_happens_without_a_verb() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "routes: 5\n").unwrap();

    run(&["-c", file.path().to_str().unwrap()]).await.refuses(&["routes"]);
}

#[tokio::test]
async fn routes_prints_the_table_and_explains_a_choice() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = routes(&[("first", "/a/*", GOOD), ("second", "/a/b", GOOD), ("third", "/c", GOOD)]);
    std::fs::write(file.path(), yaml).unwrap();
    let path = file.path().to_str().unwrap();

    let table = run(&["routes", "-c", path]).await;
    table.accepts();
    for word in ["first", "second", "third", "/a/*", "http"] {
        assert!(table.stdout.contains(word), "{word} in\n{}", table.stdout);
    }

    let why = run(&["routes", "-c", path, "--explain", "GET http://host/a/b"]).await;
    why.accepts();
    let of = |name: &str| why.stdout.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(!of("first").is_empty() && !of("third").is_empty(), "the losers are named, too:\n{}", why.stdout);
    assert!(of("second").contains("serves it"), "{}", why.stdout);
}

#[tokio::test]
async fn a_reader_that_has_left_changes_no_exit_code() {
    let file = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file.into_temp_path()
    };
    let (good, bad) = (file(&route("/a", GOOD)), file("routes: 5\n"));
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    for (arguments, code) in [
        (&["check", good][..], 0),
        (&["check", bad], 78),
        (&["routes", "-c", good], 0),
        (&["routes", "-c", bad], 78),
        (&["routes", "-c", good, "--explain", "GET http://host/a"], 0),
        (&["routes", "-c", good, "--explain", "GET http://host/none"], 1),
        (&["routes", "-c", good, "--explain", "no request"], 1),
        (&["run", "-c", bad], 78),
    ] {
        assert_eq!(run_unread(arguments).await, Some(code), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_route_that_refuses_what_it_matches_does_not_serve_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let named = "http: { url: 'http://127.0.0.1:1/{name}', allow: [ 'img-*' ] }";
    let queue = "openfaas: { gateway_uri: 'http://127.0.0.1:1', function: hello, mode: async }";
    let yaml = routes(&[("below", "/a/*", GOOD), ("named", "/fn/{name}", named), ("queue", "/q", queue)]);
    std::fs::write(file.path(), yaml).unwrap();
    let path = file.path().to_str().unwrap();

    for (request, route, end) in [
        ("GET http://host/a/../x", "below", "400 bad_path"),
        ("GET http://host/a/%2e%2e", "below", "400 bad_path"),
        ("GET http://host/fn/other", "named", "404 no_route"),
        ("GET http://host/fn/img-%2F", "named", "400 bad_path"),
        ("GET http://host/q", "queue", "405 method_not_allowed"),
    ] {
        let why = run(&["routes", "-c", path, "--explain", request]).await;
        let of = why.stdout.lines().find(|line| line.starts_with(route)).unwrap_or_default();
        assert!(of.ends_with("matches, but refuses it"), "{request}\n{}", why.stdout);
        assert_eq!((why.code, why.stdout.lines().last()), (Some(1), Some(end)), "{request}");
    }
    for request in ["GET http://host/a/x", "GET http://host/fn/img-a", "POST http://host/q"] {
        let why = run(&["routes", "-c", path, "--explain", request]).await;
        why.accepts();
        assert!(why.stdout.contains("serves it"), "{request}\n{}", why.stdout);
    }
    for (request, word) in [
        ("GET http://host/a", "no: it begins below this path"),
        ("TRACE http://host/a/x", "no: another method"),
    ] {
        let why = run(&["routes", "-c", path, "--explain", request]).await;
        assert_eq!(why.code, Some(1));
        assert!(why.stdout.contains(word), "{}", why.stdout);
    }
}

#[tokio::test]
async fn what_cannot_be_explained_is_a_wrong_command_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), route("/x", GOOD)).unwrap();
    let path = file.path().to_str().unwrap();

    for request in ["GET", "/x", "GET host/x", "GET /x", "GET http://host/x y", "G@T http://host/x"] {
        let why = run(&["routes", "-c", path, "--explain", request]).await;
        assert_eq!(why.code, Some(2), "{request}: {why:?}");
        assert!(why.stderr.contains("--explain"), "{request}: {why:?}");
    }
}

#[tokio::test]
async fn the_variable_for_the_log_level_is_read_by_who_logs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "routes: 5\n").unwrap();
    let path = file.path().to_str().unwrap();

    for level in ["", "off", "WARN"] {
        let schema = run_with(&["schema"], &[("FNGATE_LOG", level)]).await;
        assert_eq!(schema.code, Some(0), "{level}: {schema:?}");
    }
    for level in ["", "warn", "WARN"] {
        let served = run_with(&["run", "-c", path], &[("FNGATE_LOG", level)]).await;
        assert_eq!(served.code, Some(78), "{level}: {served:?}");
    }
    let wrong = run_with(&["-c", path], &[("FNGATE_LOG", "off")]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("FNGATE_LOG is not one of: error, warn"), "{wrong:?}");
    assert_eq!(run(&["-c", path, "--log-level", "Warn"]).await.code, Some(78));
}

#[tokio::test]
async fn the_files_for_editors_and_shells_are_printed() {
    let schema = run(&["schema"]).await;
    schema.accepts();
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("draft-07"));
    assert!(schema["properties"]["routes"].is_object());

    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await;
        script.accepts();
        assert!(script.stdout.contains("fngate"), "{shell}");
    }
}

#[tokio::test]
async fn the_man_pages_refer_to_pages_that_are_there() {
    let page = run(&["man"]).await;
    page.accepts();
    assert!(page.stdout.contains(".TH fngate 1") && page.stdout.contains("SIGUSR2"), "{}", page.stdout);

    let directory = tempfile::tempdir().unwrap();
    run(&["man", "--into", directory.path().to_str().unwrap()]).await.accepts();
    let read = |name: &str| {
        std::fs::read_to_string(directory.path().join(format!("{name}.1")))
            .unwrap_or_else(|e| panic!("{name}(1): {e}"))
            .replace("\\-", "-")
    };
    assert_eq!(read("fngate"), page.stdout.replace("\\-", "-"));
    let all = read("fngate");
    let named: Vec<_> = all.lines().filter_map(|line| line.strip_suffix("(1)")).collect();
    assert!(named.len() > 5, "{named:?}");
    named.iter().for_each(|name| assert!(read(name).contains(".SH SYNOPSIS"), "{name}"));
    assert!(read("fngate-run").contains("SIGNALS"));
    assert!(read("fngate-run").contains("FNGATE_LOG") && all.contains("FNGATE_LOG"));
    for (page, option) in [("check", "--running"), ("check", "--within"), ("routes", "--explain")] {
        assert!(read(&format!("fngate-{page}")).contains(option), "{page}: {option}");
    }
}

#[tokio::test]
async fn an_unknown_verb_is_no_fault_of_the_configuration() {
    let found = run(&["frobnicate"]).await;
    assert!(found.code.is_some_and(|code| code != 0 && code != 78), "{found:#?}");
}

#[tokio::test]
async fn the_files_that_come_along_are_good() {
    for name in ["fngate.yaml", "reference.yaml"] {
        let path = format!("{}/conf/{name}", env!("CARGO_MANIFEST_DIR"));
        let found = run(&["check", &path]).await;
        found.accepts();
    }
}

#[tokio::test]
async fn check_looks_at_the_systems_authorities() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), route("/x", GOOD)).unwrap();
    let bundle = tempfile::NamedTempFile::new().unwrap();
    let checked = |text: &'static str| {
        std::fs::write(bundle.path(), text).unwrap();
        let bundle = bundle.path().to_str().unwrap().to_owned();
        let file = file.path().to_str().unwrap().to_owned();
        async move { run_with(&["check", &file], &[("SSL_CERT_FILE", &bundle)]).await }
    };

    let none = checked("").await;
    none.accepts();
    assert!(none.stderr.contains("no certificate authorities"), "{none:?}");
    let broken = checked("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.stderr.contains("the system's certificate authorities cannot be loaded"), "{broken:?}");
}
