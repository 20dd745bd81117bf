//! The end of a connection whose client may still be sending.
//!
//! Owns how long we stay to be heard. It reads only to throw away.

use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says the last words, ends our direction, and reads for a while so that the client gets to hear them.
pub(super) async fn linger(mut inner: Stream, words: &[u8]) {
    let farewell = async {
        inner.write_all(words).await?;
        inner.flush().await?;
        AsyncWriteExt::shutdown(&mut inner).await?;
        tokio::io::copy(&mut inner.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER_TIME, farewell).await {
        log::debug!("client left before it had read the last answer: {error}");
    }
}

const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 1024 * 1024;
