//! The composition root: a loaded configuration becomes listeners, services and background tasks; their life and their end.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::admin::{Admin, Status};
use crate::downstream::{FAREWELL, Front, Observer, Terms};
use crate::gateway::{Gateway, Leaving, Sweeper};
use crate::listen::Inherited;
use crate::reload::{self, Reloader};
use crate::snapshot::{Plan, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::tls::ServerIdentities;
use crate::upgrade::{Predecessor, Succession};
use crate::upstream::Keepalive;
use crate::upstream::resolve::Resolver;

/// A gateway about to start: its configuration is good and its sockets are bound.
pub struct App {
    plan: Plan,
    path: PathBuf,
    files: Vec<PathBuf>,
    listeners: Vec<Socket>,
    admin: TcpListener,
    predecessor: Option<Predecessor>,
}

/// A listener, and whom it says it is, over TLS.
type Socket = (TcpListener, Option<Arc<ServerIdentities>>);

impl App {
    /// Binds every listener, or takes it over from systemd or the process before.
    pub fn bind(plan: Plan, path: &Path, files: Vec<PathBuf>) -> anyhow::Result<Self> {
        if let Some(warning) = check_system_roots()? {
            log::warn!("{warning}");
        }
        let mut inherited = Inherited::from_env()?;
        let mut listeners = Vec::new();
        for listener in &plan.settings.listeners {
            let identities =
                (!listener.identities.is_empty()).then(|| ServerIdentities::new(&listener.identities));
            listeners.push((inherited.take_or_bind(listener.address)?, identities.map(Arc::new)));
        }
        let admin = inherited.take_or_bind(plan.settings.admin.address).context("the admin listener")?;
        for address in inherited.unclaimed() {
            log::warn!("there is a socket handed over on {address}, but no listener has this address");
        }
        let predecessor = inherited.predecessor().map(Predecessor::new);
        Ok(App { plan, path: path.to_owned(), files, listeners, admin, predecessor })
    }

    /// Serves until a signal ends it and the last request is answered.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.plan.settings.threads)
            .thread_name("fngate")
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(self.serve());
        // What is still blocking somewhere must not hold up the end. What is still waiting gets its line.
        runtime.shutdown_timeout(Duration::from_millis(100));
        if result.as_ref().is_ok_and(|access_log| !access_log.flush(LOG_FLUSH)) {
            log::warn!("lines of the access log were lost: its sink did not take them in time");
        }
        // How it ended is said last.
        log::logger().flush();
        result.map(drop)
    }

    /// Returns where requests are still written that are dropped with the runtime.
    async fn serve(self) -> anyhow::Result<AccessLog> {
        let App { plan, path, files, listeners, admin, predecessor } = self;
        // Received from the very start: a signal that nobody receives ends the process.
        let (hangup, reopening) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let stop = Stop::listen()?;
        let sockets = listeners.iter().map(|(listener, _)| listener).chain([&admin]);
        let succession = Succession::offer(sockets).context("the listeners cannot be shared")?;
        let metrics = Metrics::new();
        let access_log = AccessLog::start(&sink(&plan.settings.access_log), metrics.access_log_dropped())
            .map_err(|error| anyhow!("the access log {error}"))?;
        let resolver = Resolver::from_system(tokio::runtime::Handle::current())?;
        // Room for them, for the surplus of a burst, and for routes to come.
        let pool_size = kept_connections(&plan) + POOL_SURPLUS;
        let conf = Arc::new(server_conf(plan.settings.threads, pool_size));
        let snapshot = Arc::new(ArcSwap::from_pointee(first_snapshot(plan, &metrics, &resolver).await));

        let connector = Arc::new(Connector::new(Some(ConnectorOptions::from_server_conf(&conf))));
        let gateway =
            Gateway::new(Arc::clone(&snapshot), metrics.clone(), access_log.clone(), Arc::clone(&connector));
        let (observer, leaving) = (gateway.observer(), gateway.leaving());
        let proxy = Arc::new(proxy(&conf, gateway, &snapshot.load()));
        let (shutdown, stopping) = watch::channel(false);
        let (retired, to_sweep) = mpsc::channel(RELOADS_TO_SWEEP);
        let sweeper = Sweeper::new(Arc::clone(&proxy), connector, Arc::clone(&snapshot), stopping.clone());
        tokio::spawn(sweeper.run(to_sweep));
        let front = Front::new(proxy, terms(&snapshot.load(), &observer), stopping);
        if let Some(predecessor) = predecessor {
            predecessor.relieve().await?;
        }
        let addresses: Vec<_> = listeners.iter().flat_map(|(listener, _)| listener.local_addr()).collect();
        let identities = listeners.iter().map(|(_, identities)| identities.clone()).collect();
        let accepting = accept(&front, listeners);

        let status = Arc::new(Status::default());
        let reloader = Reloader {
            path,
            resolver,
            metrics: metrics.clone(),
            snapshot: Arc::clone(&snapshot),
            access_log: access_log.clone(),
            identities,
            status: Arc::clone(&status),
            pool_size,
            retired,
            apply: Box::new({
                let front = Arc::clone(&front);
                move |snapshot| front.set_terms(terms(snapshot, &observer))
            }),
        };
        reloader.report_certificates(&snapshot.load());
        status.config_loaded(&snapshot.load().hash, snapshot.load().generation);
        status.bound(&addresses);
        let reached = reached(&addresses, admin.local_addr().ok());
        let admin_page = tokio::spawn(admin_page(metrics, &status, &snapshot).serve(admin));
        let looking = admin_page.abort_handle();
        watch_over("the admin listener", admin_page);
        let reloading = tokio::spawn(reload::watch(reloader, files, hangup));
        tokio::spawn(reopen(access_log.clone(), reopening));
        let watchdog = feed_watchdog();

        notify_ready(&snapshot.load(), &reached);
        let serving = Serving {
            snapshot,
            front,
            accepting,
            leaving,
            shutdown,
            stop,
            succession,
            status,
            reloading,
            looking,
            watchdog,
        };
        serving.until_the_end().await?;
        Ok(access_log)
    }
}

/// What runs, and what ends it.
struct Serving {
    snapshot: Arc<ArcSwap<Snapshot>>,
    front: Arc<Front<HttpProxy<Gateway>>>,
    accepting: Accepting,
    leaving: Leaving,
    shutdown: watch::Sender<bool>,
    stop: Stop,
    succession: Succession,
    status: Arc<Status>,
    reloading: JoinHandle<()>,
    looking: AbortHandle,
    watchdog: Option<JoinHandle<()>>,
}

/// The accept loops.
type Accepting = JoinSet<std::io::Result<()>>;

impl Serving {
    /// Returns when the last request is answered, or is not waited for any more.
    async fn until_the_end(mut self) -> anyhow::Result<()> {
        let end = tokio::select! {
            ended = self.stop.wait(&mut self.accepting) => ended.map(|()| End::Stopped)?,
            () = self.succession.completed() => End::Succeeded,
        };
        // The sockets are closed with the last who holds them.
        drop(self.succession);
        self.reloading.abort();
        self.leaving.announce();
        let mut patience = self.snapshot.load().settings.shutdown_grace;
        match end {
            End::Stopped => {
                log::info!("stopping");
                self.status.draining();
                notify(&[sd_notify::NotifyState::Stopping]);
                if self.stop.signalled_within(self.snapshot.load().settings.drain_delay).await {
                    log::warn!("{IN_A_HURRY}");
                    patience = Duration::ZERO;
                }
            }
            End::Succeeded => {
                // Whoever looks, and the manager, hear from the other process only.
                self.looking.abort();
                self.watchdog.inspect(JoinHandle::abort);
            }
        }
        self.shutdown.send_replace(true);
        while self.accepting.join_next().await.is_some() {}
        let over = async {
            if self.stop.signalled_within(patience).await {
                log::warn!("{IN_A_HURRY}");
            }
        };
        match self.front.drain(async || self.leaving.quiet(FAREWELL).await, over).await {
            0 => log::info!("stopped"),
            cut => log::warn!("stopped; {cut} connections were cut"),
        }
        Ok(())
    }
}

fn server_conf(threads: usize, pool_size: usize) -> ServerConf {
    ServerConf {
        threads,
        upstream_keepalive_pool_size: pool_size.div_ceil(threads),
        // How often is for the gateway to say, request by request.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}

async fn first_snapshot(plan: Plan, metrics: &Metrics, resolver: &Resolver) -> Snapshot {
    let snapshot = Snapshot::build(plan, None, metrics, resolver);
    snapshot.settle(NAMES_AT_START).await;
    metrics.config_loaded(&snapshot.hash);
    snapshot
}

fn accept(front: &Arc<Front<HttpProxy<Gateway>>>, listeners: Vec<Socket>) -> Accepting {
    let mut accepting = Accepting::new();
    for (listener, tls) in listeners {
        let acceptor = tls.map(|identities| Arc::new(acceptor(identities)));
        accepting.spawn(Arc::clone(front).serve(listener, acceptor));
    }
    accepting
}

fn admin_page(metrics: Metrics, status: &Arc<Status>, snapshot: &Arc<ArcSwap<Snapshot>>) -> Admin {
    let hosts = snapshot.load().settings.admin.hosts.clone();
    let snapshot = Arc::clone(snapshot);
    Admin { metrics, status: Arc::clone(status), routes: Box::new(move || snapshot.load().document()), hosts }
}

fn proxy(conf: &Arc<ServerConf>, gateway: Gateway, snapshot: &Snapshot) -> HttpProxy<Gateway> {
    let mut proxy = http_proxy(conf, gateway);
    let limits = &snapshot.settings.limits;
    let mut http2 = default_h2_options();
    http2.max_concurrent_streams(limits.http2_streams);
    let list = limits.head.whole + LIST_OVERHEAD;
    http2.max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX));
    http2.data_frame_budget(SMALL_FRAMES);
    proxy.h2_options = Some(http2);
    // Otherwise Pingora refuses the method by itself, and nobody hears of it.
    let mut options = HttpServerOptions::default();
    options.allow_connect_method_proxying = true;
    proxy.server_options = Some(options);
    proxy
}

fn terms(snapshot: &Snapshot, observer: &Arc<dyn Observer>) -> Terms {
    let limits = &snapshot.settings.limits;
    Terms {
        head: limits.head.clone(),
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        connections: limits.connections,
        requests_per_connection: limits.requests_per_connection,
        min_rate: limits.min_rate,
        control_frames: limits.http2_control_frames,
        observer: Arc::clone(observer),
    }
}

fn acceptor(identities: Arc<ServerIdentities>) -> Acceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring knows TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(identities);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Acceptor::from_server_config(Arc::new(config))
}

/// How many reloads may wait for the one before to be swept.
const RELOADS_TO_SWEEP: usize = 16;

/// How many idle connections the routes want kept, when each name is at one address.
pub fn kept_connections(plan: &Plan) -> usize {
    let kept = plan.routes.iter().map(|route| match route.function.terms.keepalive {
        Keepalive::Off => 0,
        Keepalive::On { pool, .. } => pool as usize * route.function.terms.endpoints.len(),
    });
    kept.sum()
}

pub fn sink(access_log: &crate::snapshot::AccessLog) -> crate::telemetry::Sink {
    use crate::snapshot::AccessLog;
    use crate::telemetry::Sink;
    match access_log {
        AccessLog::Off => Sink::Off,
        AccessLog::Stdout => Sink::Stdout,
        AccessLog::File(path) => Sink::File(path.clone()),
    }
}

/// Pingora's connector panics on roots it cannot load; here the same look ends in a sentence. `Some` is a warning.
pub fn check_system_roots() -> anyhow::Result<Option<&'static str>> {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        return Err(anyhow!("the system's certificate authorities cannot be loaded: {error}"));
    }
    let mut store = rustls::RootCertStore::empty();
    for certificate in found.certs {
        store.add(certificate).context("the system's certificate authorities cannot be loaded")?;
    }
    let warning =
        "the system has no certificate authorities: only functions with a `ca` can be reached by https";
    Ok(store.is_empty().then_some(warning))
}

/// Why the process ends.
enum End {
    Stopped,
    /// Another one serves.
    Succeeded,
}

/// The signals that end the process.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them, or for the end of an accept loop, which is a fault.
    async fn wait(&mut self, accepting: &mut Accepting) -> anyhow::Result<()> {
        tokio::select! {
            () = self.signalled() => Ok(()),
            Some(ended) = accepting.join_next() => {
                ended.context("an accept loop panicked")?.context("an accept loop failed")?;
                Err(anyhow!("an accept loop ended by itself"))
            }
        }
    }

    async fn signalled(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits this long at most; false when there was no signal.
    async fn signalled_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.signalled()).await.is_ok()
    }
}

/// Reports the end of what should not end before the process does.
fn watch_over(what: &'static str, task: JoinHandle<std::io::Result<()>>) {
    tokio::spawn(async move {
        match task.await {
            Ok(Ok(())) => log::error!("{what} ended by itself"),
            Ok(Err(error)) => log::error!("{what} failed: {error}"),
            Err(error) if error.is_panic() => log::error!("{what} panicked"),
            // The process ends.
            Err(_) => {}
        }
    });
}

/// After the file was moved away, as logrotate does it.
async fn reopen(access_log: AccessLog, mut signal: Signal) {
    while signal.recv().await.is_some() {
        access_log.reopen();
    }
}

/// Fed from the runtime that serves requests: when that hangs, systemd notices.
fn feed_watchdog() -> Option<JoinHandle<()>> {
    let limit = sd_notify::watchdog_enabled()?;
    Some(tokio::spawn(async move {
        let mut interval = tokio::time::interval(limit / 3);
        loop {
            interval.tick().await;
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }))
}

fn notify_ready(snapshot: &Snapshot, reached: &str) {
    let status = format!("serving {} {reached}", counted_routes(snapshot.routes.values().count()));
    log::info!("{status}");
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
}

/// `on 127.0.0.1:9080, admin on 127.0.0.1:9180`
fn reached(listeners: &[std::net::SocketAddr], admin: Option<std::net::SocketAddr>) -> String {
    let mut listeners: Vec<_> = listeners.iter().map(ToString::to_string).collect();
    listeners.extend(admin.map(|admin| format!("admin on {admin}")));
    format!("on {}", listeners.join(", "))
}

/// `1 route`, `2 routes`
pub fn counted_routes(count: usize) -> String {
    format!("{count} route{}", if count == 1 { "" } else { "s" })
}

pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::debug!("the service manager could not be notified: {e}");
    }
}

/// How long the start waits for names. What does not resolve by then is a warning, and its route answers 502.
const NAMES_AT_START: Duration = Duration::from_secs(1);
const IN_A_HURRY: &str = "signalled again: what is left is not waited for";
/// A list of fields counts 32 bytes more for each (RFC 9113 section 6.5.2); what is over our own limits gets our own answer.
const LIST_OVERHEAD: usize = 32 * 1024;
/// What the frames of bodies that are not taken yet may cost an HTTP/2 connection besides their bytes, counted as what each has less
/// than 256. A burst of messages in calls of gRPC comes in frames of 50 bytes; as many of these as the window takes fit.
const SMALL_FRAMES: usize = 256 * 1024;
const POOL_SURPLUS: usize = 4096;
const LOG_FLUSH: Duration = Duration::from_secs(2);
