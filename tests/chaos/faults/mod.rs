//! The faults, in the order of the table.

mod clients;
mod functions;
mod gateway;
mod misdeeds;
mod network;

use futures_util::future::LocalBoxFuture;

use crate::stage::{Findings, Impossible, Pace};

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn Fn(Pace) -> LocalBoxFuture<'static, Outcome>>,
}

pub(crate) type Outcome = Result<Findings, Impossible>;

impl Fault {
    fn new<F>(name: &'static str, run: impl Fn(Pace) -> F + 'static) -> Self
    where
        F: Future<Output = Outcome> + 'static,
    {
        Fault { name, run: Box::new(move |pace| Box::pin(run(pace))) }
    }
}

pub(crate) fn all() -> Vec<Fault> {
    let kinds = [misdeeds::all(), functions::all(), network::all(), clients::all(), gateway::all()];
    kinds.into_iter().flatten().collect()
}
