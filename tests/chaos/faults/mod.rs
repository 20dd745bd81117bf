//! The faults, in the order of the table.

mod clients;
mod functions;
mod gateway;
mod http2;
mod misdeeds;
mod network;
mod tls;

use futures_util::future::LocalBoxFuture;

use crate::stage::{Findings, Impossible, Pace};

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Left out where there is little time.
    pub(crate) is_long: bool,
    pub(crate) run: Box<dyn Fn(Pace) -> LocalBoxFuture<'static, Outcome>>,
}

pub(crate) type Outcome = Result<Findings, Impossible>;

impl Fault {
    fn new<F>(name: &'static str, run: impl Fn(Pace) -> F + 'static) -> Self
    where
        F: Future<Output = Outcome> + 'static,
    {
        Fault { name, is_long: false, run: Box::new(move |pace| Box::pin(run(pace))) }
    }

    fn long<F>(name: &'static str, run: impl Fn(Pace) -> F + 'static) -> Self
    where
        F: Future<Output = Outcome> + 'static,
    {
        Fault { is_long: true, ..Self::new(name, run) }
    }
}

pub(crate) fn all() -> Vec<Fault> {
    let functions = [misdeeds::all(), functions::all(), network::all(), tls::all()];
    let clients = [http2::all(), clients::all(), gateway::all()];
    functions.into_iter().chain(clients).flatten().collect()
}
