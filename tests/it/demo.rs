//! `fngate demo`: every command line that it prints works, and gives what is printed below it.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::*;

#[tokio::test]
async fn every_line_it_prints_answers_as_it_says() {
    let (_demo, printed) = demo().await;
    let mut lines = printed.iter();
    let mut tried = 0;
    while let Some(line) = lines.next() {
        let Some(arguments) = line.strip_prefix("curl ") else { continue };
        let expected = lines.next().unwrap().trim();

        let (addr, request) = request_of(arguments);
        let answer = Client::connect(addr).await.call(&request).await;

        // One of the lines asks curl itself for status and type.
        let told = format!("{} {}", answer.status(), answer.header("content-type").unwrap_or_default());
        assert!(
            answer.text().contains(expected) || told == expected,
            "{line}\n{expected}\n{told}\n{}",
            answer.text()
        );
        tried += 1;
    }
    assert!(tried >= 10, "{printed:#?}");
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

/// What curl would send, for the few options that the demo uses.
fn request_of(arguments: &str) -> (std::net::SocketAddr, Request) {
    let mut words = words(arguments).into_iter();
    let (mut method, mut url, mut headers, mut body) = (None, String::new(), Vec::new(), None);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word.as_str() {
            "-N" | "-s" => (),
            "-o" | "-w" => drop(value()),
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
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
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
