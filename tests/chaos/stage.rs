//! Where a fault is brought about: a gateway, the route at which it strikes, another route, a load on both; and the
//! judgement of what was seen before it, under it and after it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{Footprint, Gateway, Origin, Reply};
use crate::ledger::{Entry, Lane, Ledger, Ran, Seen, id_of, text};
use crate::load::{Habit, Load};

/// How long things last.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Before the fault, and again when it should be forgotten.
    pub(crate) calm: Duration,
    pub(crate) fault: Duration,
}

impl Pace {
    pub(crate) const QUICK: Self =
        Self { calm: Duration::from_millis(150), fault: Duration::from_millis(600) };
    pub(crate) const FULL: Self =
        Self { calm: Duration::from_millis(1500), fault: Duration::from_millis(5000) };
}

/// Why a fault cannot be brought about on this machine.
pub(crate) struct Impossible(pub(crate) String);

impl From<String> for Impossible {
    fn from(why: String) -> Self {
        Impossible(why)
    }
}

/// What the file of a stage's gateway says.
#[derive(Clone, Default)]
pub(crate) struct Setting {
    /// Lines before the routes.
    pub(crate) top: String,
    /// The inside of the target at which the fault strikes.
    pub(crate) target: String,
    /// A line of its route besides match and target.
    pub(crate) policy: String,
    /// More routes.
    pub(crate) routes: String,
}

impl Setting {
    pub(crate) fn to(url: &str) -> Self {
        Self::within(url, "10s")
    }

    /// The same where the fault is one of time. A pause of the function or of the gateway is still no fault.
    pub(crate) fn hurried(url: &str) -> Self {
        Self::within(url, "3s")
    }

    fn within(url: &str, timeout: &str) -> Self {
        let target = format!("http: {{ url: '{url}/', timeout: {timeout}, keepalive_pool: 16 }}");
        Setting { target, ..Self::default() }
    }

    fn yaml(&self, other: &Origin) -> String {
        let Setting { top, target, policy, routes } = self;
        let mut yaml = format!("{top}\nroutes:\n  - name: struck\n    match: {{ path: '/struck/*' }}\n");
        if !policy.is_empty() {
            writeln!(yaml, "    {policy}").unwrap();
        }
        let other = format!("http: {{ url: '{}/', keepalive_pool: 16 }}", other.url());
        write!(yaml, "    target: {{ {target} }}\n{}{routes}", route("other", &other)).unwrap();
        yaml
    }
}

/// A further route for [`Setting::routes`].
pub(crate) fn route(name: &str, target: &str) -> String {
    format!("  - name: {name}\n    match: {{ path: '/{name}/*' }}\n    target: {{ {target} }}\n")
}

/// A function that does as it should, and notes what it did.
pub(crate) async fn well(ran: &Ran) -> Origin {
    well_at(ran, ([127, 0, 0, 1], 0).into()).await
}

pub(crate) async fn well_at(ran: &Ran, addr: std::net::SocketAddr) -> Origin {
    let ran = ran.clone();
    let origin = Origin::http1().reply(move |request| {
        let id = id_of(request.target()).unwrap();
        ran.note(request.method(), id);
        Reply::text(200, &text(id))
    });
    origin.start_at(addr).await
}

/// What the clients may see while a fault lasts. The first has to be seen, or there was no fault.
pub(crate) struct Expect {
    pub(crate) struck: &'static [&'static str],
    pub(crate) others: &'static [&'static str],
}

impl Expect {
    pub(crate) const fn of(struck: &'static [&'static str]) -> Self {
        Self { struck, others: &["answered"] }
    }

    /// Where a fault of the gateway itself is seen at every route.
    pub(crate) const fn everywhere(seen: &'static [&'static str]) -> Self {
        Self { struck: seen, others: seen }
    }

    fn for_lane(&self, lane: Lane) -> Option<&'static [&'static str]> {
        match lane {
            Lane::Struck => Some(self.struck),
            Lane::Other => Some(self.others),
            // Whoever makes the fault knows what it must see.
            Lane::Guest => None,
        }
    }
}

pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) ledger: Ledger,
    pub(crate) ran: Ran,
    pub(crate) pace: Pace,
    other: Origin,
    setting: Setting,
    loads: Vec<Load>,
    before: Option<Footprint>,
    /// When the fault began to come about, when it was there, when it began to go, when it was gone.
    struck: Option<Instant>,
    in_effect: Option<Instant>,
    fading: Option<Instant>,
    healed: Option<Instant>,
    complaints: Vec<String>,
    /// The counts of a gateway that was replaced are lost with it.
    is_counted: bool,
}

impl Stage {
    pub(crate) async fn set(pace: Pace, ran: &Ran, setting: Setting) -> Self {
        Self::set_with(pace, ran, setting, async |yaml| Gateway::start(&yaml).await).await
    }

    /// The same with a gateway that is started in a way of its own.
    pub(crate) async fn set_with(
        pace: Pace,
        ran: &Ran,
        setting: Setting,
        start: impl AsyncFnOnce(String) -> Gateway,
    ) -> Self {
        let other = well(ran).await;
        let gateway = start(setting.yaml(&other)).await;
        Stage {
            gateway,
            ledger: Ledger::default(),
            ran: ran.clone(),
            pace,
            other,
            setting,
            loads: Vec::new(),
            before: None,
            struck: None,
            in_effect: None,
            fading: None,
            healed: None,
            complaints: Vec::new(),
            is_counted: true,
        }
    }

    /// The gateway's file with another setting.
    pub(crate) fn yaml(&self, change: impl FnOnce(&mut Setting)) -> String {
        let mut setting = self.setting.clone();
        change(&mut setting);
        setting.yaml(&self.other)
    }

    pub(crate) fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }

    pub(crate) fn demand(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.complain(what);
        }
    }

    pub(crate) fn not_counted(&mut self) {
        self.is_counted = false;
    }

    /// The load begins, and for a while nothing else happens.
    pub(crate) async fn calm(&mut self) {
        self.calm_at("/struck", PAUSE).await;
    }

    /// The same with another path, and another pause between requests, for the clients of the route that will be struck.
    pub(crate) async fn calm_at(&mut self, path: &str, pause: Duration) {
        self.begin(Lane::Struck, path, pause, STRUCK_CLIENTS);
        self.begin_others();
        let began = Instant::now();
        sleep(self.pace.calm).await;
        self.is_asked(began).await;
        self.before = Some(Footprint::of(&self.gateway));
        self.struck = Some(Instant::now());
    }

    /// The load of the other route begins, under a fault that was there before.
    pub(crate) fn begin_others(&mut self) {
        self.struck = Some(Instant::now());
        self.begin(Lane::Other, "/other", PAUSE, OTHER_CLIENTS);
    }

    fn begin(&mut self, lane: Lane, path: &str, pause: Duration, clients: usize) {
        let habit = Habit { addr: self.gateway.addr(), path: path.to_owned(), lane, pause };
        self.loads.push(Load::start(&self.ledger, &habit, clients));
    }

    /// The fault is there, and lasts.
    pub(crate) async fn lasts(&mut self) {
        self.lasts_for(self.pace.fault).await;
    }

    /// The same, and until it has struck so often that every client may have felt it. It strikes before clients see that.
    pub(crate) async fn lasts_and_strikes(&mut self, struck: &AtomicUsize) {
        self.in_effect.get_or_insert_with(Instant::now);
        sleep(self.pace.fault).await;
        until(async || struck.load(Ordering::Relaxed) >= STRUCK_CLIENTS).await;
        self.fading = Some(Instant::now());
    }

    /// The same where less than the gateway's time limits would be mended by the network without anybody noticing.
    pub(crate) async fn outlasts_time_limits(&mut self) {
        self.lasts_for(self.pace.fault.max(BEYOND_TIME_LIMITS)).await;
    }

    async fn lasts_for(&mut self, time: Duration) {
        let since = *self.in_effect.get_or_insert_with(Instant::now);
        sleep(time).await;
        self.is_asked(since).await;
        self.fading = Some(Instant::now());
    }

    /// As many requests at the struck route as it has clients began after this moment, and ended. Mostly that is so long before
    /// the time is over; if not, somebody stood still meanwhile.
    pub(crate) async fn is_asked(&self, since: Instant) {
        let is_of_it = |entry: &&Entry| entry.lane == Lane::Struck && entry.began > since;
        until(async || self.ledger.count(is_of_it) >= STRUCK_CLIENTS).await;
    }

    /// Whether a figure of the gateway becomes this.
    pub(crate) async fn comes_to(&self, figure: &str, right: f64) -> bool {
        until(async || self.gateway.metrics().await.counter(figure, &[]) == right).await
    }

    /// The fault is over: from now on there is a second in which to forget it.
    pub(crate) async fn heals(&mut self) {
        let healed = Instant::now();
        self.healed = Some(healed);
        sleep(TIME_TO_FORGET + self.pace.calm).await;
        self.is_asked(healed + TIME_TO_FORGET).await;
    }

    /// The load ends; what was asked is answered.
    pub(crate) async fn rests(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            if let Err(what) = load.stop().await {
                self.complain(what);
            }
        }
    }

    /// The load ends, and the account is made.
    pub(crate) async fn close(mut self, expect: &Expect) -> Findings {
        self.rests().await;
        self.look_for_remains().await;
        if self.is_counted {
            self.compare_counts().await;
        }
        self.judge(expect)
    }

    /// The same where the gateway has ended.
    pub(crate) async fn close_without_gateway(mut self, expect: &Expect) -> Findings {
        self.rests().await;
        self.judge(expect)
    }

    /// Requests, descriptors, memory.
    async fn look_for_remains(&mut self) {
        let Some(before) = self.before else { return };
        let end = Instant::now() + LONG_ENOUGH;
        loop {
            let now = Footprint::of(&self.gateway);
            let in_flight = self.gateway.metrics().await.counter("fngate_requests_in_flight", &[]);
            let descriptors = before.descriptors + before.descriptors / 20 + MORE_DESCRIPTORS;
            let kibibytes = before.kibibytes + before.kibibytes / 20 + MORE_KIBIBYTES;
            if now.descriptors <= descriptors && now.kibibytes <= kibibytes && in_flight == 0.0 {
                return;
            }
            if Instant::now() > end {
                return self
                    .complain(format!("{before:?} became {now:?} with {in_flight} requests in flight"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the gateway counted must be what its clients saw.
    async fn compare_counts(&mut self) {
        let mut seen = BTreeMap::<String, usize>::new();
        let mut requests = 0;
        for entry in self.ledger.entries() {
            requests += usize::from(!matches!(entry.seen, Seen::NotConnected | Seen::Closed));
            if let Seen::Told(_, code) = entry.seen {
                *seen.entry(code).or_default() += 1;
            }
        }
        let end = Instant::now() + LONG_ENOUGH;
        loop {
            let metrics = self.gateway.metrics().await;
            let counted = metrics.counter("fngate_http_requests_total", &[]);
            let differs = seen.iter().find_map(|(code, times)| {
                let counted = metrics.counter("fngate_failures_total", &[("code", code)]);
                (counted != *times as f64)
                    .then(|| format!("{times} clients were told {code}, it counts {counted}"))
            });
            if counted == requests as f64 && differs.is_none() {
                return;
            }
            if Instant::now() > end {
                let total = format!("{requests} requests were made, it counts {counted}");
                return self.complain(differs.unwrap_or(total));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn judge(mut self, expect: &Expect) -> Findings {
        let entries = self.ledger.take();
        let mut complaints = std::mem::take(&mut self.complaints);
        let mut saw = BTreeMap::<String, usize>::new();
        let mut wrong = BTreeMap::<String, usize>::new();
        let (mut lost, mut struck) = (0, BTreeMap::<&str, usize>::new());
        for entry in &entries {
            let seen = self.told(entry);
            let when = self.when(entry);
            lost += usize::from(matches!(entry.seen, Seen::Lost(_)));
            if let Some(allowed) = expect.for_lane(entry.lane) {
                let is_right = match when {
                    When::Calm => seen == "answered",
                    When::Fault => allowed.contains(&seen.as_str()),
                    When::Edge => seen == "answered" || allowed.contains(&seen.as_str()),
                };
                if !is_right {
                    *wrong.entry(format!("{seen} at {:?}, {when:?}", entry.lane)).or_default() += 1;
                } else if let Some(kind) = allowed.iter().find(|kind| **kind == seen) {
                    *struck.entry(kind).or_default() += usize::from(when != When::Calm);
                }
                // No answer at all is honest only where it was to be expected.
                lost += usize::from(!is_right && matches!(entry.seen, Seen::Closed | Seen::NotConnected));
            }
            *saw.entry(seen).or_default() += 1;
        }
        complaints.extend(wrong.into_iter().map(|(what, times)| format!("{times} x {what}")));
        let twice = self.ran.twice();
        if twice > 0 {
            complaints.push(format!("{twice} requests that must not be repeated ran more than once"));
        }
        if struck.get(expect.struck[0]).copied().unwrap_or_default() == 0 {
            complaints.push(format!("nobody saw `{}`", expect.struck[0]));
        }
        if expect.others == ["answered"] {
            complaints.extend(self.slower(&entries));
        }
        Findings { sent: entries.len(), saw, lost, twice, complaints }
    }

    /// What a client saw, and whether that is the truth.
    fn told(&self, entry: &Entry) -> String {
        let times = self.ran.times(entry.id);
        match &entry.seen {
            Seen::Answered if times == 0 => "answered without having run".to_owned(),
            Seen::Closed | Seen::NotConnected if times > 0 => format!("{} though it ran", entry.seen),
            Seen::Told(_, code) if NEVER_SENT.contains(&code.as_str()) && times > 0 => {
                format!("{} though it ran", entry.seen)
            }
            seen => seen.to_string(),
        }
    }

    fn when(&self, entry: &Entry) -> When {
        let is_before = self.struck.is_none_or(|struck| entry.ended < struck);
        let is_after = self.healed.is_some_and(|healed| entry.began > healed + TIME_TO_FORGET);
        if is_before || is_after {
            return When::Calm;
        }
        let is_under = self.in_effect.is_some_and(|start| entry.began > start)
            && self.fading.is_some_and(|end| entry.ended < end);
        if is_under { When::Fault } else { When::Edge }
    }

    /// Whether the clients of the other route had to wait longer: again and again, or once for so long that no pause explains it.
    fn slower(&self, entries: &[Entry]) -> Option<String> {
        let waits = |is_calm: bool| {
            let mut took: Vec<Duration> = entries
                .iter()
                .filter(|entry| {
                    entry.lane == Lane::Other
                        && entry.seen == Seen::Answered
                        && (self.when(entry) == When::Calm) == is_calm
                })
                .map(|entry| entry.ended - entry.began)
                .collect();
            took.sort();
            took
        };
        let (calm, fault) = (waits(true), waits(false));
        let longest = *fault.last()?;
        if longest > LONGEST_PAUSE {
            return Some(format!("a client of the other route waited for {longest:?}"));
        }
        // A pause costs each client one of its requests.
        let spared = (fault.len() / 10).max(2 * OTHER_CLIENTS);
        let before = *calm.get(calm.len() * 9 / 10)?;
        let under = *fault.iter().rev().nth(spared)?;
        (under > before.mul_f64(1.5) + SLOWER_BY).then(|| {
            format!(
                "every tenth client of the other route waited for {before:?} or longer before, for {under:?} under the fault"
            )
        })
    }
}

/// Whether this becomes true.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + LONG_ENOUGH;
    while !is_so().await {
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before the fault, or long enough after it.
    Calm,
    Fault,
    /// While it comes and goes, and in the second after it.
    Edge,
}

/// A line of the table.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) sent: usize,
    pub(crate) saw: BTreeMap<String, usize>,
    /// Requests without exactly one of: the right answer, an honest error, a visible cut.
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    /// Why the verdict is bad.
    pub(crate) complaints: Vec<String>,
}

impl Findings {
    pub(crate) fn complaint(what: &str) -> Self {
        Findings { complaints: vec![what.to_owned()], ..Self::default() }
    }
}

const STRUCK_CLIENTS: usize = 8;
const OTHER_CLIENTS: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);
/// In which all must be well again.
const TIME_TO_FORGET: Duration = Duration::from_secs(1);
/// For what ought to happen at once. It is only ever used up by a fault that is not survived: on a machine that others use, too,
/// a process may stand still for a second or two.
pub(crate) const LONG_ENOUGH: Duration = Duration::from_secs(10);
/// Idle connections come and go.
const MORE_DESCRIPTORS: usize = 20;
/// A process that has just started still fills its caches.
const MORE_KIBIBYTES: usize = 8 * 1024;
/// What another process on the machine may cost.
const SLOWER_BY: Duration = Duration::from_millis(500);
/// And what it may cost once in a while. Less than a hurried route's time limits: who waits for its clients waits longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);
/// A hurried route's `timeout` is three seconds, and so is its `connect_timeout`.
const BEYOND_TIME_LIMITS: Duration = Duration::from_millis(4000);
/// Codes that say that the function was never asked.
const NEVER_SENT: [&str; 4] = ["upstream_connect", "connect_timeout", "upstream_resolve", "overloaded"];
