//! `fngate demo`: every command line that it prints works, and gives what is printed below it.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::*;

#[tokio::test]
async fn every_line_it_prints_answers_as_it_says() {
    let (_demo, printed) = demo().await;
    let mut tried = 0;
    for line in &printed {
        let Some((arguments, expected)) = command(line) else { continue };

        let answer = curl(arguments).await;

        let mut rest = answer.as_str();
        for piece in expected.split(" … ") {
            let is_status = piece.len() == 3 && piece.bytes().all(|byte| byte.is_ascii_digit());
            let after = match is_status {
                true => rest.strip_prefix(&format!("HTTP/1.1 {piece} ")),
                false => rest.split_once(piece).map(|(_, after)| after),
            };
            rest = after.unwrap_or_else(|| panic!("{line}\n{answer}"));
        }
        tried += 1;
    }
    assert!(tried >= 20, "{printed:#?}");
    assert!(printed.len() <= 36, "nobody reads {} lines", printed.len());
    let longest = printed.iter().map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= 120, "a line has {longest} characters");
}

#[tokio::test]
async fn an_orchestration_is_watched_through_the_gateway() {
    let (_demo, printed) = demo().await;
    let line = printed.iter().find(|line| line.contains("/azure/orchestrators/")).unwrap();
    let (arguments, _) = command(line).unwrap();

    let (addr, mut request) = request_of(arguments);
    let done = eventually("the orchestration's end", PATIENCE, async || {
        let answer = Client::connect(addr).await.call(&request).await;
        if answer.status() != 202 {
            return Some(answer);
        }
        let location = answer.header("location").unwrap();
        assert!(location.starts_with(&format!("http://{addr}/azure/")), "{location}");
        assert!(!location.contains("demo-system-key"), "{location}");
        (_, request) = request_of(&format!("'{location}'"));
        None
    })
    .await;

    assert_eq!((request.method.as_str(), done.status()), ("GET", 200));
    assert!(done.text().contains(r#""runtimeStatus":"Completed""#), "{}", done.text());
}

#[tokio::test]
async fn its_configuration_has_neither_faults_nor_warnings() {
    let functions = fngate::demo::start().await.unwrap();
    let (listen, admin) = ("127.0.0.1:9080".parse().unwrap(), "127.0.0.1:9180".parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fngate.yaml");
    std::fs::write(&file, fngate::demo::config(&functions, listen, admin)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();

    let checked = run(&["check", file.to_str().unwrap()]).await;

    checked.accepts();
    assert!(!checked.said().contains("warning"), "{}", checked.said());
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), format!("127.0.0.1:{}", free_port()));

    for arguments in
        [["demo", "--listen", &taken, "--admin", &free], ["demo", "--listen", &free, "--admin", &taken]]
    {
        let ended = run(&arguments).await;
        assert!(ended.code.is_some_and(|code| code != 0), "{ended:#?}");
        assert!(ended.said().contains(&taken) && !ended.said().contains("panicked"), "{ended:#?}");
    }
}

/// A demo that has printed everything; it ends with the first of the two.
async fn demo() -> (Child, Vec<String>) {
    // Somebody else may take a port between choosing it here and binding it there.
    for _ in 0..5 {
        let address = || format!("127.0.0.1:{}", free_port());
        let mut child = Command::new(BINARY.as_str())
            .args(["demo", "--listen", &address(), "--admin", &address()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = Vec::new();
        while let Some(line) = within("a line of the demo", output.next_line()).await.unwrap() {
            if line.starts_with("Ctrl-C") {
                return (child, printed);
            }
            printed.push(line);
        }
    }
    panic!("the demo did not start");
}

/// What a line gives to curl, and what it says about the answer.
fn command(line: &str) -> Option<(&str, &str)> {
    let (command, answer) = line.split_once("  # ")?;
    Some((command.trim().strip_prefix("curl ")?, answer))
}

/// What curl would print, for the few options that the demo uses.
async fn curl(arguments: &str) -> String {
    let (addr, request) = request_of(arguments);
    let answer = Client::connect(addr).await.call(&request).await;
    let mut printed = String::new();
    if arguments.starts_with("-i ") {
        printed += &format!("{}\n", answer.head.first_line);
        for (name, value) in &answer.head.headers {
            printed += &format!("{name}: {value}\n");
        }
    }
    printed + &answer.text()
}

/// What curl would send, for the few options that the demo uses.
fn request_of(arguments: &str) -> (std::net::SocketAddr, Request) {
    let mut words = words(arguments).into_iter();
    let (mut method, mut url, mut headers, mut body) = (None, String::new(), Vec::new(), None);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word.as_str() {
            "-N" | "-s" | "-i" => (),
            "-X" => method = Some(value()),
            "-d" => body = Some(value()),
            "-H" => headers.push(value()),
            "--json" => {
                headers.push("Content-Type: application/json".to_owned());
                body = Some(value());
            }
            option if option.starts_with('-') => panic!("curl {option} is not known here"),
            _ => url = word,
        }
    }
    let (addr, path) = url.strip_prefix("http://").unwrap_or(&url).split_once('/').unwrap();
    let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
    let mut request = Request::new(&method, &format!("/{path}"));
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    if let Some(body) = body {
        request = request.body(body);
    }
    (addr.parse().unwrap(), request)
}

/// Splits as a shell does where nothing is quoted but by `'`.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    words
}
