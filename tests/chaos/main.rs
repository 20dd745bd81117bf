//! What clients see when things break, as a program: it brings about one fault after the other around a real gateway,
//! keeps an account of every request meanwhile, and prints it as a table. It ends with 1 when a verdict is bad.
//!
//! The gateway, the functions and the clients are those of the integration tests. Nothing outside of its own processes
//! and, where it may have them, its own namespaces is touched; whatever happens, these end with it.
#![expect(
    clippy::unwrap_used,
    reason = "a fault that cannot be brought about ends with what was expected of it"
)]

/// The gateway as a child process, the origins behind it, the clients before it.
#[expect(dead_code, unused_imports, reason = "the integration tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;

/// What breaks, by where it breaks.
mod faults;
/// Every request, what its client saw, what the function did.
mod ledger;
/// Clients that never stop asking.
mod load;
/// A function server that is a process of its own.
mod server;
/// Everything at once, for long.
mod soak;
/// A gateway and its functions while a fault lasts, and the judgement.
mod stage;
/// The network in which it happens.
mod terrain;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use faults::Fault;
use stage::{Findings, Impossible, Pace};

/// Breaks things around a gateway, and shows what its clients saw.
#[derive(Parser)]
struct Arguments {
    /// Short faults, and not all of them: two minutes instead of ten.
    #[arg(long)]
    quick: bool,
    /// Only the faults with one of these words in their names.
    words: Vec<String>,
    /// A steady load with reloads and restarts instead, and what it leaves behind.
    #[arg(long)]
    soak: bool,
    #[arg(long, default_value_t = 10, requires = "soak")]
    minutes: u64,
    /// Serves as a function; the program starts itself with it.
    #[arg(long, hide = true, requires = "record")]
    serve: Option<SocketAddr>,
    #[arg(long, hide = true)]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(addr), Some(record)) = (arguments.serve, &arguments.record) {
        return runtime().block_on(server::serve(addr, record));
    }
    if let Some(ended) = terrain::enter() {
        return ended;
    }
    runtime().block_on(async {
        if arguments.soak {
            return soak::run(Duration::from_secs(arguments.minutes * 60)).await;
        }
        every_fault(&arguments).await
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

async fn every_fault(arguments: &Arguments) -> ExitCode {
    let pace = if arguments.quick { Pace::QUICK } else { Pace::FULL };
    let began = Instant::now();
    let (mut bad, mut left_out) = (0, 0);
    println!("{:<52} {:>6} {:>5} {:>6}  {:<8} clients saw", "fault", "sent", "lost", "twice", "verdict");
    for fault in faults::all() {
        let is_wanted = |word: &String| fault.name.contains(word.as_str());
        let is_in = match arguments.words.is_empty() {
            true => !(arguments.quick && fault.is_long),
            false => arguments.words.iter().any(is_wanted),
        };
        if !is_in {
            continue;
        }
        match brought_about(&fault, pace).await {
            Ok(findings) => {
                bad += u32::from(!findings.complaints.is_empty());
                show(fault.name, &findings);
            }
            Err(Impossible(why)) => {
                left_out += 1;
                println!("{:<52} {:>6} {:>5} {:>6}  not possible here: {why}", fault.name, "-", "-", "-");
            }
        }
    }
    println!("{} s, {bad} bad, {left_out} not possible here", began.elapsed().as_secs());
    ExitCode::from(u8::from(bad > 0))
}

/// A fault that cannot be brought about as it should is as bad as one that is not survived.
async fn brought_about(fault: &Fault, pace: Pace) -> Result<Findings, Impossible> {
    let running = AssertUnwindSafe((fault.run)(pace)).catch_unwind();
    match timeout(LONGEST_FAULT, running).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(_)) => Ok(Findings::complaint("it ended in a panic, see above")),
        Err(_) => Ok(Findings::complaint(&format!("it was not over within {LONGEST_FAULT:?}"))),
    }
}

fn show(name: &str, findings: &Findings) {
    let verdict = if findings.complaints.is_empty() { "good" } else { "BAD" };
    let saw: Vec<String> = findings.saw.iter().map(|(seen, times)| format!("{times} {seen}")).collect();
    let Findings { sent, lost, twice, .. } = findings;
    println!("{name:<52} {sent:>6} {lost:>5} {twice:>6}  {verdict:<8} {}", saw.join(", "));
    for complaint in &findings.complaints {
        println!("    ! {complaint}");
    }
}

const LONGEST_FAULT: Duration = Duration::from_secs(60);
