//! An HTTP/2 connection from its handshake to its end: each stream that the client opens is a request.
//!
//! Owns how many requests a connection may bring, how long it may be idle, and what its requests share.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use log::debug;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::v2::server::{H2Accept, HttpSession, handshake};
use pingora_core::protocols::{Digest, Stream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::accept::{Count, FAREWELL, LAST_WORDS, changed, in_time};
use super::pace::Uploads;
use super::strand::Strand;
use super::{Refused, RequestId, Terms};

/// Serves a connection until the client closes it, is idle for too long, or, after the shutdown, has no request any more. Once it is
/// `cut`, the requests that are left end with an answer of their own.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    app: &Arc<A>,
    stream: Stream,
    terms: &Arc<Terms>,
    shutdown: &watch::Receiver<bool>,
    cut: watch::Receiver<()>,
) {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let mut connection = match in_time(shutdown, handshake(stream, app.h2_options())).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => return debug!("HTTP/2 did not begin: {error}"),
        None => return,
    };
    let requests = Arc::<Count>::default();
    let uploads = Arc::<Uploads>::default();
    // Of its own, so that requests take no lock that connections share.
    let cut_requests = watch::Sender::new(());
    let (mut begun, mut malformed) = (0_u32, 0_u32);
    let (mut is_leaving, mut is_cut) = (false, false);
    let mut leaving = pin!(changed(shutdown.clone()));
    let mut cutting = pin!(changed(cut));
    loop {
        let patience = if is_leaving { FAREWELL } else { terms.idle_timeout };
        let idle = async {
            requests.none().await;
            sleep(patience).await;
        };
        let accepted = tokio::select! {
            biased;
            () = &mut leaving, if !is_leaving => {
                is_leaving = true;
                connection.graceful_shutdown();
                continue;
            }
            () = &mut cutting, if !is_cut => {
                is_cut = true;
                cut_requests.send_replace(());
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
            () = idle => {
                if is_leaving {
                    return;
                }
                // Told before it closes, a client knows that what it may just be sending was not looked at (RFC 9113 section 6.8).
                is_leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let session = match accepted {
            Ok(Some(H2Accept::Session(session))) => session,
            Ok(Some(H2Accept::Rejected)) => {
                tell_of_malformed(&digest, terms);
                malformed += 1;
                if malformed > MALFORMED_LIMIT {
                    return;
                }
                continue;
            }
            Ok(None) => return,
            // Clients leave in many ways.
            Err(error) => return debug!("an HTTP/2 connection ended: {error}"),
        };
        begun += 1;
        if begun >= terms.requests_per_connection && !is_leaving {
            is_leaving = true;
            connection.graceful_shutdown();
        }
        let Some(permit) = Count::enter(&requests, usize::MAX) else { return };
        let cut = cut_requests.subscribe();
        let strand = Strand::new(session, Arc::clone(terms), &uploads, cut.clone());
        let (app, shutdown) = (Arc::clone(app), shutdown.clone());
        tokio::spawn(async move {
            let mut request = pin!(strand.serve(|session| app.process_new_http(session, &shutdown)));
            tokio::select! {
                biased;
                _ = &mut request => {}
                // Polled once more, the strand fails what waits, and the proxy ends the request as it ends others.
                () = changed(cut) => drop(timeout(LAST_WORDS, request).await),
            }
            drop(permit);
        });
    }
}

/// Pingora answers a request that names no authority, or more than one, and keeps to itself what else it was.
fn tell_of_malformed(digest: &Digest, terms: &Terms) {
    let client = digest.socket_digest.as_ref().and_then(|socket| socket.peer_addr()?.as_inet().copied());
    terms.observer.refused(&Refused {
        request_id: RequestId::random(),
        client,
        protocol: http::Version::HTTP_2,
        method: None,
        path: None,
        status: 400,
        code: "bad_request",
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
    });
}

/// Requests that are refused before the proxy sees them; a client that sends more of them is not listened to any longer.
const MALFORMED_LIMIT: u32 = 32;
