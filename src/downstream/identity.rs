//! What a guard is besides its bytes: all of it is what the stream below says.

/// For a guard with `inner()` and `inner_mut()`. Pingora's traits can be implemented for named types only.
macro_rules! identify {
    ($guard:ty) => {
        const _: () = {
            use std::io;
            use std::sync::Arc;
            use std::time::Duration;

            use async_trait::async_trait;
            use pingora_core::protocols::raw_connect::ProxyDigest;
            use pingora_core::protocols::tls::{SslDigest, TlsRef};
            use pingora_core::protocols::{
                ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
                TimingDigest, UniqueID, UniqueIDType,
            };

            #[async_trait]
            impl Shutdown for $guard {
                async fn shutdown(&mut self) {
                    if let Err(error) = tokio::io::AsyncWriteExt::shutdown(self).await {
                        log::debug!("client left before the connection was shut down: {error}");
                    }
                }
            }

            #[async_trait]
            impl Peek for $guard {
                async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
                    self.inner_mut().try_peek(buf).await
                }
            }

            impl UniqueID for $guard {
                fn id(&self) -> UniqueIDType {
                    self.inner().id()
                }
            }

            impl Ssl for $guard {
                fn get_ssl(&self) -> Option<&TlsRef> {
                    self.inner().get_ssl()
                }

                fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
                    self.inner().get_ssl_digest()
                }

                fn selected_alpn_proto(&self) -> Option<ALPN> {
                    self.inner().selected_alpn_proto()
                }
            }

            impl GetTimingDigest for $guard {
                /// None, since each session would gather it anew, and nobody asks.
                fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
                    Vec::new()
                }

                fn get_read_pending_time(&self) -> Duration {
                    self.inner().get_read_pending_time()
                }

                fn get_write_pending_time(&self) -> Duration {
                    self.inner().get_write_pending_time()
                }
            }

            impl GetProxyDigest for $guard {
                fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
                    self.inner().get_proxy_digest()
                }

                fn set_proxy_digest(&mut self, digest: ProxyDigest) {
                    self.inner_mut().set_proxy_digest(digest);
                }
            }

            impl GetSocketDigest for $guard {
                fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
                    self.inner().get_socket_digest()
                }

                fn set_socket_digest(&mut self, digest: SocketDigest) {
                    self.inner_mut().set_socket_digest(digest);
                }
            }
        };
    };
}
pub(super) use identify;
