//! gRPC, from a client of HTTP/2 over TLS to a service of HTTP/2 in clear text: what its calls stand on is trailers, and messages
//! that pass one by one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::*;

#[tokio::test]
async fn a_call_passes_with_its_trailers() {
    let mut setting = Setting::start().await;

    let answer = setting.call("/echo.Echo/Chat", messages(&["one", "two"])).await;

    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body = within("the answer", answer.into_body().collect()).await.unwrap();
    assert_eq!(status_of(body.trailers()), Some("0"));
    assert_eq!(body.to_bytes(), "onetwo");
    let seen = setting.seen().await;
    assert_eq!(seen.version, hyper::Version::HTTP_2);
    assert_eq!(seen.uri.authority().unwrap(), "hello.default.example.com");
    assert_eq!(seen.uri.path(), "/echo.Echo/Chat");
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["grpc-timeout"], "5S");
    assert_eq!(seen.headers["content-type"], "application/grpc");
    let line = setting.gateway.log_line(&id).await;
    assert_eq!(
        (&line["status"], &line["reason"], &line["protocol"]),
        (&200.into(), &().into(), &"HTTP/2".into())
    );
}

#[tokio::test]
async fn a_failure_that_is_nothing_but_trailers_passes_as_one_head() {
    let mut setting = Setting::start().await;

    let answer = setting.call("/echo.Echo/Missing", messages(&["one"])).await;

    assert_eq!(answer.headers()["grpc-status"], "5");
    assert_eq!(answer.headers()["grpc-message"], "no%20such%20thing");
    assert!(answer.body().is_end_stream(), "the head ends the stream");
}

#[tokio::test]
async fn messages_pass_one_by_one_in_both_directions() {
    let mut setting = Setting::start().await;
    let (messages, body) = frames();
    let answer = setting.call("/echo.Echo/Chat", body).await;
    let mut body = answer.into_body();

    for message in ["one", "two", "three"] {
        // The next one is only sent when this one has come back.
        messages.send(Frame::data(message.into())).await.unwrap();
        let frame = within("a message", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(messages);

    let end = within("the trailers", body.frame()).await.unwrap().unwrap();
    assert_eq!(status_of(end.trailers_ref()), Some("0"));
}

#[tokio::test]
async fn a_call_that_the_client_cancels_ends_at_the_service() {
    let mut setting = Setting::start().await;
    let (messages, body) = frames();
    let answer = setting.call("/echo.Echo/Chat", body).await;
    messages.send(Frame::data("one".into())).await.unwrap();
    let mut body = answer.into_body();
    within("a message", body.frame()).await.unwrap().unwrap();

    drop((messages, body));

    within("the end of the call at the service", setting.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn trailers_of_a_request_end_it_and_go_no_further() {
    let mut setting = Setting::start().await;
    let (messages, body) = frames();
    messages.send(Frame::data("one".into())).await.unwrap();
    messages
        .send(Frame::trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())])))
        .await
        .unwrap();
    drop(messages);

    let answer = setting.call("/echo.Echo/Chat", body).await;

    let body = within("the answer", answer.into_body().collect()).await.unwrap();
    assert_eq!((status_of(body.trailers()), body.trailers().unwrap().get("x-sum")), (Some("0"), None));
    assert_eq!(body.to_bytes(), "one");
}

#[tokio::test]
async fn a_client_may_be_silent_for_as_long_as_the_function_bears_it() {
    let mut setting = Setting::with("limits: { idle_timeout: 3s }\n").await;
    // Before the head of the answer, which comes after the last message, and after it.
    for path in ["/echo.Echo/Gather", "/echo.Echo/Chat"] {
        let (messages, body) = frames();
        let client = async {
            for message in ["one", "two"] {
                messages.send(Frame::data(message.into())).await.unwrap();
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            drop(messages);
        };

        let answer = async {
            let answer = setting.call(path, body).await;
            within("the answer", answer.into_body().collect()).await.unwrap()
        };
        let (answer, ()) = tokio::join!(answer, client);

        assert_eq!(status_of(answer.trailers()), Some("0"), "{path}");
        assert_eq!(answer.to_bytes(), "onetwo", "{path}");
    }
}

/// A gateway with one route, to a Knative service that speaks gRPC, and a client.
struct Setting {
    gateway: Gateway,
    client: SendRequest<Frames>,
    seen: mpsc::Receiver<Parts>,
    ended: mpsc::Receiver<()>,
}

impl Setting {
    async fn start() -> Self {
        Self::with("").await
    }

    /// The same with these settings before the route.
    async fn with(settings: &str) -> Self {
        let (service, seen, ended) = service().await;
        let ca = Ca::new();
        let target = format!(
            "knative: {{ service: hello, domain: example.com, address: '{service}', http2: on, timeout: 20s }}"
        );
        let yaml = format!("{settings}{}", route("/*", &target));
        let gateway = Gateway::start_tls(&ca.leaf(&["localhost"]), &yaml).await;
        let stream = tls(gateway.tls_addr(), ca.client(&["h2"]), "localhost").await.unwrap();
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { gateway, client, seen, ended }
    }

    async fn call(&mut self, path: &str, body: Frames) -> hyper::Response<Incoming> {
        let request = hyper::Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "5S")
            .body(body)
            .unwrap();
        within("the head of an answer", self.client.send_request(request)).await.unwrap()
    }

    /// The head that the service got.
    async fn seen(&mut self) -> Parts {
        within("a request at the service", self.seen.recv()).await.unwrap()
    }
}

/// A service of HTTP/2 by prior knowledge. `Chat` sends back each message as it comes, `Gather` all at the end, `Missing` fails at once. Its address, the heads
/// it gets, and a word for each `Chat` that the client did not let end.
async fn service() -> (SocketAddr, mpsc::Receiver<Parts>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind(local(free_port())).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let ((heads, seen), (cancelled, ended)) = (mpsc::channel(8), mpsc::channel(8));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (heads, cancelled) = (heads.clone(), cancelled.clone());
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let (heads, cancelled) = (heads.clone(), cancelled.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let head = hyper::Response::builder().header("content-type", "application/grpc");
                    let answer = match parts.uri.path() {
                        "/echo.Echo/Chat" => head.body(Either::Left(chat(body, cancelled))),
                        "/echo.Echo/Gather" => {
                            let gathered = body.collect().await.unwrap().to_bytes();
                            let (messages, answer) = frames();
                            messages.send(Frame::data(gathered)).await.unwrap();
                            messages.send(good_end()).await.unwrap();
                            head.body(Either::Left(answer))
                        }
                        _ => head
                            .header("grpc-status", "5")
                            .header("grpc-message", "no%20such%20thing")
                            .body(Either::Right(Empty::new())),
                    };
                    heads.send(parts).await.unwrap();
                    answer
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), answer);
            tokio::spawn(connection);
        }
    });
    (addr, seen, ended)
}

/// Each message of `body`, and a good end.
fn chat(mut body: Incoming, cancelled: mpsc::Sender<()>) -> Frames {
    let (messages, answer) = frames();
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(message)) => messages.send(Frame::data(message)).await.unwrap(),
                // The request's own trailers.
                Ok(Err(_)) => (),
                Err(_) => return cancelled.send(()).await.unwrap(),
            }
        }
        messages.send(good_end()).await.unwrap();
    });
    answer
}

fn good_end() -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))
}

/// A body whose frames a test sends when it likes.
struct Frames(mpsc::Receiver<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn frames() -> (mpsc::Sender<Frame<Bytes>>, Frames) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, Frames(receiver))
}

/// A body of these messages.
fn messages(texts: &[&'static str]) -> Frames {
    let (sender, body) = frames();
    for text in texts {
        sender.try_send(Frame::data(Bytes::from_static(text.as_bytes()))).unwrap();
    }
    body
}

fn status_of(trailers: Option<&HeaderMap>) -> Option<&str> {
    trailers?.get("grpc-status")?.to_str().ok()
}
