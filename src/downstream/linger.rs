//! The end of a connection whose client may still be sending.
//!
//! Owns how long we stay to be heard. It reads only to throw away.

use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says the last words, ends our direction, and reads on, so that the client gets to hear them: one that sends all before it reads
/// anything has to come to its end first. Until it is silent, and not without end.
pub(super) async fn linger(mut inner: Stream, words: &[u8]) {
    let farewell = async {
        inner.write_all(words).await?;
        inner.flush().await?;
        AsyncWriteExt::shutdown(&mut inner).await?;
        let mut rest = vec![0; STEP];
        loop {
            match tokio::time::timeout(SILENCE, inner.read(&mut rest)).await {
                Ok(Ok(1..)) => {}
                Ok(ended) => return ended.map(drop),
                Err(_) => return Ok(()),
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER_TIME, farewell).await {
        log::debug!("client left before it had read the last answer: {error}");
    }
}

/// Both as long as nginx does.
const LINGER_TIME: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);
const STEP: usize = 8 * 1024;
