use std::pin::pin;
use std::sync::Mutex;
use std::task::Waker;

use pingora_core::protocols::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::downstream::Observer;

/// Keeps what is reported.
#[derive(Default)]
struct Reports(Mutex<Vec<Report>>);

/// Status, code, method and path.
type Report = (u16, &'static str, Option<String>, Option<String>);

impl Observer for Reports {
    fn refused(&self, at: &Refused<'_>) {
        let entry = (at.status, at.code, at.method.map(str::to_owned), at.path.map(str::to_owned));
        self.0.lock().unwrap().push(entry);
    }
}

struct Rig {
    wire: Wire,
    client: DuplexStream,
    reports: Arc<Reports>,
}

fn rig() -> Rig {
    let (client, server) = tokio::io::duplex(1024 * 1024);
    let reports = Arc::new(Reports::default());
    let terms = Terms {
        head: HeadLimits::default(),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        connections: 1,
        requests_per_connection: 1000,
        min_rate: 0,
        control_frames: 1000,
        observer: Arc::clone(&reports) as Arc<dyn Observer>,
    };
    let wire = Wire::alone(Box::new(server), Arc::new(terms));
    Rig { wire, client, reports }
}

/// The outcome of what does not have to wait.
fn now<F: Future>(future: F) -> Option<F::Output> {
    // Unconstrained: a test that polls in a loop must not be made to wait by the runtime.
    let mut future = pin!(tokio::task::unconstrained(future));
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl Rig {
    async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// One read, if it does not have to wait.
    fn read(&mut self, size: usize) -> Option<io::Result<Vec<u8>>> {
        let mut buf = vec![0; size];
        let read = now(self.wire.read(&mut buf))?;
        Some(read.map(|length| buf[..length].to_vec()))
    }

    /// All that comes without waiting.
    fn read_all(&mut self, size: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(read) = self.read(size) {
            let read = read.unwrap();
            assert!(!read.is_empty(), "the wire is closed");
            all.extend(read);
        }
        all
    }

    /// What Pingora does at the end of a request that it has read in full.
    fn answer(&mut self, bytes: &[u8]) {
        now(self.wire.write_all(bytes)).unwrap().unwrap();
        now(self.wire.flush()).unwrap().unwrap();
        self.wire.request_done(Instant::now().into_std());
    }

    /// All the client gets until the connection ends.
    async fn farewell(self) -> String {
        let Self { wire, mut client, .. } = self;
        drop(wire);
        let mut words = String::new();
        client.read_to_string(&mut words).await.unwrap();
        words
    }
}

const GET: &[u8] = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n";
const SIZED: &[u8] = b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/";
const CHUNKED: &[u8] =
    b"POST /three HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n\n\r\n0\r\nX-Sum: 1\r\n\r\n";
const LAST: &[u8] = b"GET /four HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
const MESSAGES: [&[u8]; 4] = [GET, SIZED, CHUNKED, LAST];

/// Sends `pieces` and reads as Pingora would; returns the messages as the reader could tell them apart.
async fn messages(pieces: &[&[u8]], buffer: usize) -> Vec<Vec<u8>> {
    let mut rig = rig();
    let mut messages = Vec::new();
    let mut current = Vec::new();
    for piece in pieces {
        rig.send(piece).await;
        loop {
            current.extend(rig.read_all(buffer));
            if current.is_empty() || rig.wire.stage != Stage::Body || !matches!(rig.wire.body, Body::Ended) {
                break;
            }
            // Pingora's way to notice a client that leaves. A later request must not show.
            assert!(rig.read(1).is_none());
            messages.push(mem::take(&mut current));
            rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
        }
    }
    assert!(current.is_empty(), "left over: {}", current.escape_ascii());
    messages
}

#[tokio::test]
async fn every_split_gives_the_same_messages() {
    let all = MESSAGES.concat();
    for cut in 0..=all.len() {
        for buffer in [4096, 5] {
            let got = messages(&[&all[..cut], &all[cut..]], buffer).await;
            assert_eq!(got, MESSAGES, "cut at {cut}, read by {buffer}");
        }
    }
}

#[tokio::test]
async fn single_bytes_give_the_same_messages() {
    let all = MESSAGES.concat();
    let bytes: Vec<_> = all.chunks(1).collect();
    assert_eq!(messages(&bytes, 4096).await, MESSAGES);
}

proptest::proptest! {
    #[test]
    fn any_pieces_give_the_same_messages(
        cuts in proptest::collection::vec(0usize..260, 0..8),
        order in proptest::collection::vec(0usize..4, 1..8),
        buffer in 1usize..100,
    ) {
        let sent: Vec<_> = order.iter().map(|&index| MESSAGES[index]).collect();
        let all = sent.concat();
        let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(all.len())).chain([all.len()]).collect();
        ends.sort_unstable();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let pieces: Vec<_> = starts.zip(&ends).map(|(start, &end)| &all[start..end]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        proptest::prop_assert_eq!(runtime.block_on(messages(&pieces, buffer)), sent);
    }
}

#[tokio::test]
async fn nothing_of_a_head_shows_before_its_end() {
    let mut rig = rig();
    rig.send(&GET[..GET.len() - 1]).await;
    assert!(rig.read(4096).is_none());
    rig.send(&GET[GET.len() - 1..]).await;
    assert_eq!(rig.read_all(4096), GET);
}

#[tokio::test]
async fn large_head_passes_in_pieces() {
    let head =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(8000)).repeat(7));
    let mut rig = rig();
    rig.send(head.as_bytes()).await;
    assert_eq!(rig.read_all(4096), head.as_bytes());
    assert!(rig.wire.held.is_empty());
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_dropped() {
    let all = [b"\r\n", GET].concat();
    for cut in 0..all.len() {
        assert_eq!(messages(&[&all[..cut], &all[cut..]], 4096).await, [GET], "cut at {cut}");
    }
    let mut rig = rig();
    rig.send(&[b"\r\n\r\n", GET].concat()).await;
    assert_eq!(rig.read(4096).unwrap().unwrap(), b"");
    assert_eq!(rig.wire.refusal().unwrap().status, 400);
}

#[tokio::test]
async fn bad_head_is_answered_and_reported_and_never_shown() {
    for bad in [
        b"GET /x?token=1 HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n".as_slice(),
        b"GET /x?token=1 HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    ] {
        for cut in [1, 20, bad.len()] {
            let mut rig = rig();
            rig.send(&bad[..cut]).await;
            let early = rig.read(4096);
            rig.send(&bad[cut..]).await;
            let read = early.or_else(|| rig.read(4096)).unwrap().unwrap();
            assert_eq!(read, b"", "a reader saw {}", read.escape_ascii());
            assert_eq!(rig.read(4096).unwrap().unwrap(), b"");
            let reports = Arc::clone(&rig.reports);
            let answer = rig.farewell().await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
            assert!(answer.contains(r#"{"error":{"code":"bad_request","message":""#), "{answer}");
            assert!(!answer.contains("token"), "{answer}");
            let expected = (400, "bad_request", Some("GET".to_owned()), Some("/x".to_owned()));
            assert_eq!(*reports.0.lock().unwrap(), [expected]);
        }
    }
}

#[tokio::test]
async fn bad_pipelined_head_is_refused_after_the_good_answer() {
    let mut rig = rig();
    rig.send(&[GET, b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
    assert_eq!(rig.read_all(4096), GET);
    rig.answer(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(rig.read(4096).unwrap().unwrap(), b"");
    let words = rig.farewell().await;
    assert!(words.starts_with("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 "), "{words}");
}

#[tokio::test]
async fn bad_chunk_fails_the_read_with_its_reason() {
    let head = &CHUNKED[..CHUNKED.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4];
    for cut in [0, head.len()] {
        let mut rig = rig();
        let bad = [head, b"5\nhello\r\n"].concat();
        rig.send(&bad[..cut]).await;
        let mut got = rig.read_all(4096);
        rig.send(&bad[cut..]).await;
        let error = loop {
            match rig.read(4096).unwrap() {
                Ok(bytes) => got.extend(bytes),
                Err(error) => break error,
            }
        };
        assert_eq!(got, head);
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Refusal>()).copied();
        assert_eq!(cause.map(|refusal| refusal.status), Some(400));
        assert_eq!(rig.wire.refusal(), cause);
        assert_eq!(rig.read(4096).unwrap().unwrap(), b"");
        assert_eq!(*rig.reports.0.lock().unwrap(), [], "the proxy's own phases report it");
        rig.answer(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert_eq!(rig.farewell().await, "HTTP/1.1 400 Bad Request\r\n\r\n");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_head_is_408() {
    let mut rig = rig();
    rig.send(b"GET /slow HTTP/1.1\r\nHost").await;
    let start = Instant::now();
    let mut buf = [0; 64];
    assert_eq!(rig.wire.read(&mut buf).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 10);
    let expected = (408, "request_timeout", Some("GET".to_owned()), Some("/slow".to_owned()));
    assert_eq!(*rig.reports.0.lock().unwrap(), [expected]);
    assert!(rig.farewell().await.starts_with("HTTP/1.1 408 Request Timeout\r\n"));
}

#[tokio::test(start_paused = true)]
async fn dripping_does_not_extend_the_deadline() {
    let Rig { mut wire, mut client, .. } = rig();
    let start = Instant::now();
    let drip = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nX: and so on, byte by byte" {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        client
    });
    let mut buf = [0; 64];
    assert_eq!(wire.read(&mut buf).await.unwrap(), 0);
    // One second to the first byte, ten from there.
    assert_eq!(start.elapsed().as_secs(), 11);
    assert_eq!(wire.refusal(), Some(TOO_SLOW));
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_without_a_word() {
    let mut rig = rig();
    let start = Instant::now();
    let mut buf = [0; 64];
    assert_eq!(rig.wire.read(&mut buf).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 75);
    assert_eq!(*rig.reports.0.lock().unwrap(), []);
    assert_eq!(rig.farewell().await, "");
}

#[tokio::test(start_paused = true)]
async fn deadlines_hold_under_reuse() {
    let mut rig = rig();
    let mut buf = [0; 64];
    for _ in 0..5 {
        // Longer in sum than any of the timers, each wait shorter.
        assert!(tokio::time::timeout(Duration::from_secs(60), rig.wire.read(&mut buf)).await.is_err());
        rig.send(&GET[..9]).await;
        assert!(tokio::time::timeout(Duration::from_secs(9), rig.wire.read(&mut buf)).await.is_err());
        rig.send(&GET[9..]).await;
        assert_eq!(rig.wire.read(&mut buf).await.unwrap(), GET.len());
        assert!(
            tokio::time::timeout(Duration::from_secs(900), rig.wire.read(&mut buf[..1])).await.is_err(),
            "the function may take its time"
        );
        rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
    }
    let start = Instant::now();
    assert_eq!(rig.wire.read(&mut buf).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 75);
}

#[tokio::test]
async fn idle_connection_holds_no_buffer() {
    let mut rig = rig();
    rig.send(&[SIZED, b"GE"].concat()).await;
    assert_eq!(rig.read_all(20), SIZED);
    rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(rig.read(4096).is_none());
    rig.send(b"T / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    rig.read_all(4096);
    rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(rig.read(4096).is_none());
    assert_eq!((rig.wire.held.capacity(), rig.wire.out.capacity()), (0, 0));
}

/// A rig whose client has asked, and then closed its side.
async fn half_closed() -> Rig {
    let mut rig = rig();
    rig.send(GET).await;
    assert_eq!(rig.read_all(4096), GET);
    assert!(rig.read(1).is_none());
    AsyncWriteExt::shutdown(&mut rig.client).await.unwrap();
    assert!(rig.read(1).is_none());
    rig
}

#[tokio::test(start_paused = true)]
async fn client_that_closes_its_side_has_a_moment_before_it_counts_as_gone() {
    let mut rig = half_closed().await;
    tokio::time::sleep(HALF_CLOSE / 2).await;
    assert!(rig.read(1).is_none());
    tokio::time::sleep(HALF_CLOSE / 2).await;
    assert_eq!(rig.read(1).unwrap().unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn pause_of_the_process_is_no_time_that_a_client_had() {
    let mut rig = half_closed().await;
    tokio::time::sleep(3 * HALF_CLOSE).await;
    assert!(rig.read(1).is_none(), "what came meanwhile comes first");
    tokio::time::sleep(LATE).await;
    assert_eq!(rig.read(1).unwrap().unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn function_that_takes_too_long_ends_the_wait() {
    let mut rig = rig();
    rig.send(GET).await;
    assert_eq!(rig.read_all(4096), GET);
    rig.wire.patience().set(Some(Instant::now() + Duration::from_millis(300)), None);
    assert!(rig.read(1).is_none());
    tokio::time::sleep(Duration::from_millis(301)).await;
    assert_eq!(rig.read(1).unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(rig.wire.patience().has_expired());
}

#[tokio::test(start_paused = true)]
async fn expiry_that_was_called_off_is_forgotten() {
    let mut rig = rig();
    rig.send(GET).await;
    assert_eq!(rig.read_all(4096), GET);
    rig.wire.patience().set(Some(Instant::now() + Duration::from_millis(300)), None);
    assert!(rig.read(1).is_none());
    rig.wire.patience().set(None, None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.read(1).is_none());
    assert!(!rig.wire.patience().has_expired());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_wait_and_begins_anew_with_what_is_heard() {
    let mut rig = rig();
    rig.send(GET).await;
    assert_eq!(rig.read_all(4096), GET);
    rig.wire.patience().set(None, Some(Duration::from_millis(300)));
    // Nobody waits, so nothing is measured: the client may take its time with what the function has said.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for _ in 0..3 {
        assert!(rig.read(1).is_none());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(rig.read(1).is_none());
        rig.wire.patience().heard();
    }
    assert!(rig.read(1).is_none());
    tokio::time::sleep(Duration::from_millis(301)).await;
    assert_eq!(rig.read(1).unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(rig.wire.patience().has_expired());
}

#[tokio::test(start_paused = true)]
async fn deadline_holds_whatever_is_heard() {
    let mut rig = rig();
    rig.send(GET).await;
    assert_eq!(rig.read_all(4096), GET);
    rig.wire
        .patience()
        .set(Some(Instant::now() + Duration::from_millis(500)), Some(Duration::from_millis(300)));
    assert!(rig.read(1).is_none());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.wire.patience().heard();
        assert!(rig.read(1).is_none());
    }
    tokio::time::sleep(Duration::from_millis(101)).await;
    assert_eq!(rig.read(1).unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn pipeline_beyond_one_read_is_left_in_the_socket() {
    let mut rig = rig();
    rig.send(&GET.repeat(1000)).await;
    for _ in 0..1000 {
        assert_eq!(rig.read_all(4096), GET);
        assert!(rig.wire.held.len() <= 2 * HOLD_STEP, "held {}", rig.wire.held.len());
        rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
    }
    assert!(rig.read(4096).is_none());
}

#[tokio::test]
async fn body_that_is_drained_late_keeps_its_frame() {
    let mut rig = rig();
    rig.send(&SIZED[..SIZED.len() - 3]).await;
    let mut got = rig.read_all(4096);
    // An early answer: the hook comes before the rest of the body.
    rig.answer(b"HTTP/1.1 200 OK\r\n\r\n");
    rig.send(&[&SIZED[SIZED.len() - 3..], GET].concat()).await;
    got.extend(rig.read(4096).unwrap().unwrap());
    assert_eq!(got, SIZED);
    assert_eq!(rig.read_all(4096), GET);
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn tunnel_opens_with_101_only() {
    let mut rig = rig();
    rig.send(&[UPGRADE, b"\x81\x00early"].concat()).await;
    assert_eq!(rig.read_all(4096), UPGRADE);
    assert!(rig.read(1).is_none());
    rig.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n");
    rig.wire.done = AtomicU64::new(0);
    assert!(rig.read(1).is_none());
    rig.wire.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
    rig.send(b"\n\0late").await;
    assert_eq!(rig.read_all(4096), b"\x81\x00early\n\0late");
}

#[tokio::test]
async fn refused_upgrade_stays_http() {
    for (request, answer) in [
        (UPGRADE, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\n\r\n".as_slice()),
        (GET, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ] {
        let mut rig = rig();
        rig.send(request).await;
        assert_eq!(rig.read_all(4096), request);
        rig.wire.write_all(answer).await.unwrap();
        rig.answer(b"HTTP/1.1 101 ");
        rig.send(b"\x81\x00frame").await;
        assert_eq!(rig.read(4096).unwrap().unwrap(), b"");
        assert_eq!(rig.wire.refusal().map(|refusal| refusal.status), Some(400));
    }
}

const EXPECTING: &[u8] =
    b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_to_be_asked_for_has_time_until_then() {
    let mut rig = rig();
    rig.send(EXPECTING).await;
    assert_eq!(rig.read_all(4096), EXPECTING);
    let mut buf = [0; 64];
    assert!(tokio::time::timeout(Duration::from_secs(300), rig.wire.read(&mut buf)).await.is_err());
    now(rig.wire.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")).unwrap().unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(300), rig.wire.read(&mut buf)).await.is_err());
    now(rig.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")).unwrap().unwrap();

    let asked = Instant::now();
    assert!(rig.wire.read(&mut buf).await.is_err());
    assert_eq!(
        (asked.elapsed().as_secs(), rig.wire.refusal().map(|refusal| refusal.status)),
        (75, Some(408))
    );
}

#[tokio::test]
async fn a_body_that_was_denied_is_not_waited_for_beyond_the_answer() {
    let mut rig = rig();
    rig.send(EXPECTING).await;
    assert_eq!(rig.read_all(4096), EXPECTING);
    now(rig.wire.write_all(b"HTTP/1.1 417 No\r\n\r\n")).unwrap().unwrap();
    assert!(rig.read(64).is_none(), "the answer goes on");

    rig.wire.answered();

    assert!(rig.read(64).unwrap().is_err());
    assert_eq!(rig.wire.refusal(), None);
}

#[tokio::test]
async fn a_body_that_was_sent_unasked_is_read() {
    for pieces in [vec![[EXPECTING, b"ab"].concat()], vec![EXPECTING.to_vec(), b"a".to_vec(), b"b".to_vec()]]
    {
        let mut rig = rig();
        let mut read = Vec::new();
        for piece in pieces {
            rig.send(&piece).await;
            read.extend(rig.read_all(4096));
        }
        now(rig.wire.write_all(b"HTTP/1.1 417 No\r\n\r\n")).unwrap().unwrap();
        rig.wire.answered();
        assert_eq!(read, [EXPECTING, b"ab"].concat());
        assert!(rig.read(64).is_none(), "nothing is left to fail");
    }
}

#[tokio::test]
async fn small_writes_leave_together_and_large_ones_in_order() {
    let mut rig = rig();
    let mut buf = vec![0; 100_000];
    rig.wire.write_all(b"head ").await.unwrap();
    rig.wire.write_all(b"body").await.unwrap();
    assert!(now(rig.client.read(&mut buf)).is_none(), "written before the flush");
    rig.wire.flush().await.unwrap();
    assert_eq!(rig.client.read(&mut buf).await.unwrap(), 9);

    let large: Vec<u8> = (0..20_000u32).map(|index| index as u8).collect();
    rig.wire.write_all(b"size\r\n").await.unwrap();
    rig.wire.write_all(&large).await.unwrap();
    rig.wire.write_all(b"\r\n").await.unwrap();
    rig.wire.flush().await.unwrap();
    let expected = [b"size\r\n".as_slice(), &large, b"\r\n"].concat();
    rig.client.read_exact(&mut buf[..expected.len()]).await.unwrap();
    assert_eq!(buf[..expected.len()], expected);
    assert!(rig.wire.out.is_empty());
}

#[tokio::test]
async fn large_writes_survive_a_full_socket() {
    let (mut client, server) = tokio::io::duplex(7);
    let Rig { mut wire, .. } = rig();
    wire.inner = Some(Box::new(server));
    let large: Vec<u8> = (0..20_000u32).map(|index| (index % 251) as u8).collect();
    let writer = async {
        wire.write_all(b"head").await.unwrap();
        for piece in large.chunks(5000) {
            wire.write_all(piece).await.unwrap();
            wire.write_all(b"|").await.unwrap();
        }
        Shutdown::shutdown(&mut wire).await;
    };
    let mut got = Vec::new();
    let (_, read) = tokio::join!(writer, client.read_to_end(&mut got));
    read.unwrap();
    let expected: Vec<u8> = [b"head".to_vec()]
        .into_iter()
        .chain(large.chunks(5000).map(|piece| [piece, b"|"].concat()))
        .flatten()
        .collect();
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
}

#[tokio::test]
async fn debug_shows_no_content() {
    let mut rig = rig();
    rig.send(b"GET /secret").await;
    assert!(rig.read(4096).is_none());
    assert_eq!(format!("{:?}", rig.wire), "Wire { stage: Head, .. }");
}
