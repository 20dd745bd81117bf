use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::downstream::{HeadLimits, Observer};

#[derive(Default)]
struct Reports(Mutex<Vec<&'static str>>);

impl Observer for Reports {
    fn refused(&self, at: &Refused<'_>) {
        self.0.lock().unwrap().push(at.code);
    }
}

struct Rig {
    frames: Frames,
    client: DuplexStream,
    reports: Arc<Reports>,
}

fn rig(capacity: usize) -> Rig {
    let (client, server) = tokio::io::duplex(capacity);
    let reports = Arc::new(Reports::default());
    let terms = Terms {
        head: HeadLimits::default(),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        connections: 1,
        requests_per_connection: 1000,
        min_rate: 0,
        control_frames: 10,
        observer: Arc::clone(&reports) as Arc<dyn Observer>,
    };
    let frames = Frames::alone(Box::new(server), Arc::new(terms));
    Rig { frames, client, reports }
}

fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
    let [_, size @ ..] = length.to_be_bytes();
    [&size[..], &[kind, flags], &stream.to_be_bytes(), &vec![b'x'; length as usize]].concat()
}

fn preface() -> Vec<u8> {
    vec![b'P'; PREFACE]
}

impl Rig {
    /// Has the bytes pass, in pieces of this size. False when the connection was ended.
    async fn pass(&mut self, bytes: &[u8], size: usize) -> bool {
        for piece in bytes.chunks(size) {
            self.client.write_all(piece).await.unwrap();
            let mut seen = vec![0; piece.len()];
            match self.frames.read_exact(&mut seen).await {
                Ok(_) => assert_eq!(seen, piece, "no byte is changed"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                    return false;
                }
            }
        }
        true
    }
}

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

#[tokio::test(start_paused = true)]
async fn frames_are_found_however_they_are_cut() {
    for size in [1, 2, 7, 9, 10, 4096] {
        let mut rig = rig(1 << 20);
        let useful =
            [frame(HEADERS, 4, 1, 30), frame(DATA, 0, 1, 100), frame(DATA, END_STREAM, 1, 0)].concat();
        let useful = useful.repeat(20);
        assert!(rig.pass(&[preface(), useful].concat(), size).await, "{size}");
        assert!(rig.pass(&frame(PING, 0, 0, 8).repeat(10), size).await, "{size}");
        assert!(!rig.pass(&frame(PING, 0, 0, 8), size).await, "{size}");
        assert_eq!(*rig.reports.0.lock().unwrap(), ["client_flood"], "once");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_carries_nothing_counts() {
    for (kind, length) in
        [(PING, 8), (4, 6), (2, 5), (3, 4), (WINDOW_UPDATE, 4), (DATA, 0), (0x42, 0), (9, 10)]
    {
        let mut rig = rig(1 << 20);
        assert!(rig.pass(&preface(), 64).await);
        assert!(!rig.pass(&frame(kind, 0, 1, length).repeat(11), 4096).await, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_comes_back_with_time() {
    let mut rig = rig(1 << 20);
    assert!(rig.pass(&preface(), 64).await);
    for _ in 0..100 {
        assert!(rig.pass(&frame(PING, 0, 0, 8).repeat(10), 64).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_something_may_make_room_for_it() {
    let mut rig = rig(1 << 20);
    assert!(rig.pass(&preface(), 64).await);
    rig.frames.write_all(&frame(DATA, 0, 1, 100).repeat(100)).await.unwrap();
    assert!(rig.pass(&frame(WINDOW_UPDATE, 0, 0, 4).repeat(210), 64).await);
    assert!(!rig.pass(&frame(WINDOW_UPDATE, 0, 0, 4), 64).await);
    // What answers a control frame is nothing that was asked for.
    rig.frames.write_all(&frame(PING, 1, 0, 8).repeat(10)).await.unwrap();
    assert_eq!(rig.frames.budget.earned, 0);
}

#[tokio::test]
async fn a_client_that_floods_is_told_to_calm_down() {
    let mut rig = rig(1 << 20);
    assert!(rig.pass(&[preface(), frame(HEADERS, 5, 7, 10)].concat(), 64).await);
    rig.frames.write_all(&frame(4, 1, 0, 0)).await.unwrap();
    assert!(!rig.pass(&frame(PING, 0, 0, 8).repeat(11), 4096).await);

    let Rig { frames, mut client, .. } = rig;
    drop(frames);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard[FRAME_HEAD..], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11]);
}

#[tokio::test]
async fn nothing_is_said_in_the_middle_of_a_frame() {
    let mut rig = rig(1 << 20);
    assert!(rig.pass(&preface(), 64).await);
    let half = &frame(DATA, 0, 1, 100)[..50];
    rig.frames.write_all(half).await.unwrap();
    rig.frames.budget.earned = 0;
    assert!(!rig.pass(&frame(PING, 0, 0, 8).repeat(11), 4096).await);

    let Rig { frames, mut client, .. } = rig;
    drop(frames);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, half);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_begin_is_not_waited_for() {
    let mut rig = rig(64);
    rig.client.write_all(&preface()).await.unwrap();
    let begun = Instant::now();
    let error = rig.frames.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 10));
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_given_up() {
    let mut rig = rig(64);
    let begun = Instant::now();
    let error = rig.frames.write_all(&[b'x'; 65]).await.unwrap_err();
    assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 75));
}
