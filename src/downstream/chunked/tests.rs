use super::*;

/// Feeds `body` in two pieces cut at each byte, and all at once: the outcome must be the same.
fn scan(body: &[u8]) -> Result<Progress, Refusal> {
    let whole = Scanner::default().feed(body);
    for cut in 0..=body.len() {
        let mut scanner = Scanner::default();
        let pieces = scanner.feed(&body[..cut]).and_then(|first| {
            let second = scanner.feed(&body[first.used..])?;
            Ok(Progress { used: first.used + second.used, ended: second.ended })
        });
        assert_eq!(pieces, whole, "{} cut at {cut}", body.escape_ascii());
    }
    whole
}

#[track_caller]
fn check_ends(name: &str, body: &[u8]) {
    let followed = [body, b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(scan(&followed), Ok(Progress { used: body.len(), ended: true }), "{name}");
}

#[track_caller]
fn check_refused(name: &str, body: &[u8], status: u16) {
    match scan(body) {
        Err(refusal) => assert_eq!(refusal.status, status, "{name}: {}", refusal.reason),
        Ok(progress) => panic!("{name} passed: {progress:?}"),
    }
}

#[test]
fn ends_where_the_body_ends() {
    for (name, body) in [
        ("empty", b"0\r\n\r\n".as_slice()),
        ("one chunk", b"5\r\nhello\r\n0\r\n\r\n"),
        ("binary data", b"4\r\n\0\r\n\xff\r\n0\r\n\r\n"),
        ("hex of both cases", b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n"),
        ("leading zeros", b"0000000000000002\r\nhi\r\n000\r\n\r\n"),
        ("extension", b"2;a\r\nhi\r\n0;b=c\r\n\r\n"),
        ("extensions with blanks and quotes", b"2; a = \"x;\\\"\t y\" ;b=c\r\nhi\r\n0\r\n\r\n"),
        ("trailer", b"0\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n"),
        (
            "trailers that pretend to frame",
            b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n",
        ),
        ("chunk that looks like an end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ] {
        check_ends(name, body);
    }
}

#[test]
fn unfinished_body_is_all_used() {
    let body = b"5\r\nhello\r\n0\r\n\r";
    assert_eq!(scan(body), Ok(Progress { used: body.len(), ended: false }));
}

#[test]
fn odd_sizes_are_refused() {
    for (name, body) in [
        ("0x", b"0x5\r\nhello\r\n".as_slice()),
        ("plus", b"+5\r\nhello\r\n"),
        ("minus", b"-5\r\nhello\r\n"),
        ("underscore", b"1_0\r\n"),
        ("blank before", b" 5\r\nhello\r\n"),
        ("blank after", b"5 \r\nhello\r\n"),
        ("tab after", b"5\t\r\nhello\r\n"),
        ("blank before the extension", b"5 ;a\r\nhello\r\n"),
        ("empty", b"\r\nhello\r\n"),
        ("empty with an extension", b";a\r\n"),
        ("not hex", b"g\r\n"),
        ("seventeen digits", b"00000000000000005\r\nhello\r\n"),
        ("over 2^63", b"8000000000000000\r\n"),
        ("largest of sixteen digits", b"ffffffffffffffff\r\n"),
        ("NUL", b"5\0\r\n"),
    ] {
        check_refused(name, body, 400);
    }
}

#[test]
fn odd_line_ends_are_refused() {
    for (name, body) in [
        ("bare LF after the size", b"5\nhello\r\n".as_slice()),
        ("bare CR after the size", b"5\rhello\r\n"),
        ("bare LF after the data", b"5\r\nhello\n0\r\n\r\n"),
        ("bare CR after the data", b"5\r\nhello\r0\r\n\r\n"),
        ("no line end after the data", b"5\r\nhello0\r\n\r\n"),
        ("data longer than its size (spill)", b"5\r\nhello!\r\n0\r\n\r\n"),
        ("bare LF at the last chunk", b"0\n\n"),
        ("bare LF at the very end", b"0\r\n\n"),
        ("bare CR at the very end", b"0\r\n\rX"),
    ] {
        check_refused(name, body, 400);
    }
}

#[test]
fn odd_extensions_are_refused() {
    for (name, body) in [
        ("bare semicolon", b"5;\r\nhello\r\n".as_slice()),
        ("bare semicolon and blank", b"5; \r\nhello\r\n"),
        ("two semicolons", b"5;;a\r\nhello\r\n"),
        ("bare LF inside", b"5;a\nb\r\nhello\r\n"),
        ("bare CR inside", b"5;a\rb\r\nhello\r\n"),
        ("NUL inside", b"5;a\0\r\nhello\r\n"),
        ("LF in quotes", b"5;a=\"\n\"\r\nhello\r\n"),
        ("CR in quotes", b"5;a=\"\r\n\"\r\nhello\r\n"),
        ("escaped LF in quotes", b"5;a=\"\\\n\"\r\nhello\r\n"),
        ("open quotes", b"5;a=\"b\r\nhello\r\n"),
        ("no value", b"5;a=\r\nhello\r\n"),
        ("no name", b"5;=b\r\nhello\r\n"),
        ("two values", b"5;a=b=c\r\nhello\r\n"),
        ("name of two words", b"5;a b\r\nhello\r\n"),
        ("opaque byte", b"5;\xff\r\nhello\r\n"),
        ("DEL", b"5;a=\x7f\r\nhello\r\n"),
    ] {
        check_refused(name, body, 400);
    }
}

#[test]
fn odd_trailers_are_refused() {
    for (name, body) in [
        ("bare LF", b"0\r\nX: 1\n\r\n".as_slice()),
        ("bare CR", b"0\r\nX: 1\rY: 2\r\n\r\n"),
        ("no colon", b"0\r\nnonsense\r\n\r\n"),
        ("empty name", b"0\r\n: 1\r\n\r\n"),
        ("blank before colon", b"0\r\nX : 1\r\n\r\n"),
        ("folded", b"0\r\nX: 1\r\n 2\r\n\r\n"),
        ("NUL", b"0\r\nX: \0\r\n\r\n"),
        ("a pipelined request in place of the end", b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        check_refused(name, body, 400);
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let long = "a".repeat(5000);
    let feed = |body: String| Scanner::default().feed(body.as_bytes()).map(|progress| progress.ended);
    assert_eq!(feed(format!("0;{long}\r\n\r\n")).unwrap_err().status, 400);
    assert_eq!(feed("1;aaaaaaaaa\r\nx\r\n".repeat(410) + "0\r\n\r\n").unwrap_err().status, 400);
    assert_eq!(feed(format!("0\r\nX: {long}{long}\r\n\r\n")).unwrap_err().status, 431);
    assert_eq!(feed(format!("0\r\nX: {long}\r\n\r\n")), Ok(true));
    assert_eq!(feed("1;aaaaaaaaa\r\nx\r\n".repeat(400) + "0\r\n\r\n"), Ok(true));
}

#[test]
fn a_chunk_may_be_taken_alone() {
    let body = b"3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nX: 1\r\n\r\nGET /";
    let (mut scanner, mut at, mut ends) = (Scanner::default(), 0, Vec::new());
    loop {
        let Progress { used, ended } = scanner.feed_chunk(&body[at..]).unwrap();
        at += used;
        ends.push(at);
        if ended {
            break;
        }
    }
    assert_eq!(ends, [8, 20, 31]);
}

proptest::proptest! {
    #[test]
    fn any_pieces_give_the_same(
        body in proptest::collection::vec(proptest::sample::select(b"05aF;=\" \\x:\r\n\t\x01".to_vec()), 0..40),
        cuts in proptest::collection::vec(0usize..40, 0..5),
    ) {
        let whole = Scanner::default().feed(&body);
        let mut scanner = Scanner::default();
        let mut used = 0;
        let mut outcome = Ok(Progress { used, ended: false });
        let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).chain([body.len()]).collect();
        ends.sort_unstable();
        for end in ends {
            outcome = scanner.feed(&body[used.min(end)..end]).map(|progress| {
                used += progress.used;
                Progress { used, ended: progress.ended }
            });
            if !matches!(outcome, Ok(Progress { ended: false, .. })) {
                break;
            }
        }
        proptest::prop_assert_eq!(outcome, whole);
    }
}
