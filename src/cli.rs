//! The verbs: `run`, `check`, `routes`, `demo`, `completions`, `man`, `schema`.

mod man;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use http::Method;

use crate::admin::inquiry;
use crate::app::{self, App};
use crate::config::{self, Loaded, Style};
use crate::demo;
use crate::error::GatewayError;
use crate::platforms::template::Parameters;
use crate::platforms::{Sought, Target};
use crate::routing::{self, RouteTable, Standing};
use crate::snapshot::{Plan, Route};
use crate::telemetry::{self, service_log};
use crate::upgrade;
use crate::values::Written;

/// The function gateway: a reverse proxy in front of serverless functions.
///
/// Ends with 0 when it stopped as asked or the answer is yes, with 1 when something failed or the answer is no, with 2 when the
/// command line is wrong, and with 78 when the configuration is faulty.
#[derive(Parser)]
#[command(name = "fngate", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the routes of a configuration file (the default verb)
    ///
    /// A changed file is loaded by itself; a faulty one changes nothing.
    #[command(after_long_help = man::signals())]
    Run(RunArgs),
    /// Do everything a start does except listen, and say what is wrong
    ///
    /// Names are not resolved. The credentials that systemd gives to the service cannot be seen from outside of it; a warning
    /// says so.
    Check(CheckArgs),
    /// Show the compiled routes, or which one a request takes and why
    Routes(RoutesArgs),
    /// Run the gateway with sample functions behind it, and print what to type
    Demo(DemoArgs),
    /// Print the completion script of a shell
    Completions {
        /// The shell that reads the script
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write all of them
    Man {
        /// Write the pages of the program and of its verbs into this directory
        #[arg(long, value_name = "DIRECTORY")]
        into: Option<PathBuf>,
    },
    /// Print the JSON Schema (draft-07) of the configuration file, for editors
    Schema,
}

#[derive(Args)]
struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// How much goes into the service log, on stderr; the environment variable FNGATE_LOG says it, too [default: info]
    #[arg(long, value_enum, ignore_case = true)]
    log_level: Option<LogLevel>,
}

#[derive(Args)]
struct CheckArgs {
    /// The configuration files; what a file includes is checked with it
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How faults are written: as text to stderr, or as JSON to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Ask the running gateway, at the file's admin address, whether it serves this file, and wait until it does
    #[arg(long)]
    running: bool,
    /// With --running: how long to wait
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "running", value_parser = duration)]
    within: Duration,
}

#[derive(Args)]
struct RoutesArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Tell which route serves this request, and why the others do not
    #[arg(long, value_name = "'GET http://host/path'", value_parser = asked)]
    explain: Option<Asked>,
}

#[derive(Args)]
struct DemoArgs {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9080")]
    listen: std::net::SocketAddr,
    /// Where its admin endpoints listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    admin: std::net::SocketAddr,
}

/// A request to explain; its URI has a host.
#[derive(Clone)]
struct Asked {
    method: Method,
    uri: http::Uri,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// What FNGATE_LOG says; like the option, in capitals or not. Nothing is said by an empty one.
    fn of_environment() -> Self {
        let said = std::env::var_os(LOG_VARIABLE).unwrap_or_default();
        match said.to_str() {
            Some("") => LogLevel::Info,
            said => said.and_then(|said| LogLevel::from_str(said, true).ok()).unwrap_or_else(|| {
                let known = LogLevel::value_variants().iter().filter_map(LogLevel::to_possible_value);
                let known: Vec<_> = known.map(|known| known.get_name().to_owned()).collect();
                let message = format!("{LOG_VARIABLE} is not one of: {}", known.join(", "));
                Cli::command().error(ErrorKind::InvalidValue, message).exit()
            }),
        }
    }
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}

/// How a verb ended; `main` knows the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The answer to a question was no.
    No,
    ConfigurationFault,
    /// Another process was waited for, and ended with this.
    OfAnother(u8),
}

pub fn main() -> anyhow::Result<Outcome> {
    if let Some(status) = upgrade::stand_between()? {
        return Ok(Outcome::OfAnother(status));
    }
    let cli = Cli::parse();
    match cli.verb.unwrap_or(Verb::Run(cli.run)) {
        Verb::Run(args) => run(&args),
        Verb::Check(args) => check(&args),
        Verb::Routes(args) => routes(&args),
        Verb::Demo(args) => run_demo(&args),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fngate", &mut script);
            print(&script)
        }
        Verb::Man { into } => write_pages(into.as_deref()),
        Verb::Schema => print(format!("{:#}\n", config::schema()).as_bytes()),
    }
}

fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    service_log::install(args.log_level.unwrap_or_else(LogLevel::of_environment).into())?;
    let Loaded { plan, report, files } = config::load(&args.config);
    tell(&report.render(style()));
    let Some(plan) = plan else { return Ok(Outcome::ConfigurationFault) };
    App::bind(plan, &args.config, files)?.run()?;
    Ok(Outcome::Done)
}

fn check(args: &CheckArgs) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Done;
    let mut findings = Vec::new();
    match app::check_system_roots() {
        Ok(warning) => warning.into_iter().for_each(|warning| tell(&format!("warning: {warning}\n"))),
        Err(error) => {
            tell(&format!("error: {error:#}\n"));
            outcome = Outcome::No;
        }
    }
    for file in &args.files {
        let Loaded { plan, report, .. } = config::check(file);
        match args.format {
            Format::Text => tell(&report.render(style())),
            Format::Json => findings.extend(report.to_json().as_array().cloned().unwrap_or_default()),
        }
        match plan {
            None => outcome = Outcome::ConfigurationFault,
            Some(plan) if args.running => {
                if let Err(reason) =
                    inquiry::await_configuration(plan.settings.admin.address, &plan.hash, args.within)
                {
                    tell(&format!("fngate: {}: {reason:#}\n", file.display()));
                    outcome = Outcome::No;
                }
            }
            Some(plan) if args.format == Format::Text => print(summary(file, &plan).as_bytes()).map(drop)?,
            Some(_) => {}
        }
    }
    if args.format == Format::Json {
        print(format!("{:#}\n", serde_json::Value::Array(findings)).as_bytes())?;
    }
    Ok(outcome)
}

fn summary(file: &Path, plan: &Plan) -> String {
    let certificates = plan.settings.listeners.iter().map(|listener| listener.identities.len()).sum();
    let series = telemetry::series_bound(plan.routes.len(), certificates);
    let routes = app::counted_routes(plan.routes.len());
    format!("{}: ok, {routes}, at most {series} metric series\n", file.display())
}

fn routes(args: &RoutesArgs) -> anyhow::Result<Outcome> {
    let Loaded { plan, report, .. } = config::check(&args.config);
    let Some(plan) = plan else {
        tell(&report.render(style()));
        return Ok(Outcome::ConfigurationFault);
    };
    match &args.explain {
        None => print(table(&plan.routes).as_bytes()),
        Some(asked) => explain(plan, asked),
    }
}

fn table(routes: &[Route]) -> String {
    let rows = routes.iter().map(|route| {
        let matcher = &route.matcher;
        let list = |items: Vec<String>| if items.is_empty() { "*".to_owned() } else { items.join(",") };
        let methods = matcher.methods.iter().flatten().map(ToString::to_string).collect();
        let endpoints =
            route.function.terms.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        [
            route.name.clone(),
            list(matcher.hosts.iter().map(ToString::to_string).collect()),
            matcher.path.to_string(),
            list(methods),
            matcher.priority.to_string(),
            route.function.platform.to_owned(),
            list(endpoints),
        ]
    });
    let header = ["NAME", "HOSTS", "PATH", "METHODS", "PRIORITY", "PLATFORM", "ENDPOINTS"].map(str::to_owned);
    columns(std::iter::once(header).chain(rows).collect())
}

/// Which route wins, in the words of the table; the losers with their reasons.
fn explain(plan: Plan, Asked { method, uri }: &Asked) -> anyhow::Result<Outcome> {
    let host = uri.authority().map_or("", |host| host.as_str());
    let route = |route: Route| (route.matcher, (route.name, route.function.target));
    let table = RouteTable::build(plan.routes.into_iter().map(route));
    let refusal = refusal(&table, host, method, uri);
    let standings = table.explain(host, method, uri.path());
    let words = |standing: &Standing| match standing {
        Standing::Wins if refusal.is_some() => "matches, but refuses it",
        Standing::Wins => "serves it",
        Standing::OtherHost => "no: another host",
        Standing::BeginsBelow => "no: it begins below this path",
        Standing::OtherPath => "no: another path",
        Standing::OtherMethod => "no: another method",
        Standing::Outranked => "no: a more specific route, or one with a higher priority, goes first",
    };
    let mut rows: Vec<_> = standings.iter().enumerate().collect();
    rows.sort_by_key(|(_, standing)| **standing);
    let routes: Vec<_> = table.matchers().map(|(matcher, (name, _))| (name, &matcher.path)).collect();
    let rows = rows.into_iter().map(|(i, standing)| {
        let (name, path) = routes[i];
        [name.clone(), path.to_string(), words(standing).to_owned()]
    });
    print(columns(rows.collect()).as_bytes())?;
    let Some(refusal) = refusal else { return Ok(Outcome::Done) };
    print(format!("{} {}\n", refusal.status().as_u16(), refusal.code()).as_bytes())?;
    Ok(Outcome::No)
}

/// Why no function is called for a request with this head, if none is.
fn refusal(
    table: &RouteTable<(String, Target)>,
    host: &str,
    method: &Method,
    uri: &http::Uri,
) -> Option<GatewayError> {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = method.clone();
    head.uri = uri.clone();
    let path = uri.path();
    match table.find(host, method, path) {
        routing::Outcome::Found { value: (_, target), suffix, captures, .. } => {
            let sought = Sought { head: &head, suffix, parameters: Parameters::new(path, &captures) };
            target.admit(&sought).err()
        }
        routing::Outcome::MethodNotAllowed { .. } => Some(GatewayError::MethodNotAllowed("".into())),
        routing::Outcome::NotFound => Some(GatewayError::NoRoute),
    }
}

fn write_pages(into: Option<&Path>) -> anyhow::Result<Outcome> {
    let pages = man::pages(Cli::command())?;
    let Some(directory) = into else { return print(&pages[0].1) };
    for (name, page) in pages {
        let path = directory.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Outcome::Done)
}

fn run_demo(args: &DemoArgs) -> anyhow::Result<Outcome> {
    service_log::install(log::LevelFilter::Warn)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let functions = runtime.block_on(demo::start())?;
    let directory = std::env::temp_dir().join(format!("fngate-demo-{}", std::process::id()));
    std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join("fngate.yaml");
    let served = serve_demo(args, &functions, &file);
    let removed = std::fs::remove_dir_all(&directory);
    served?;
    removed.with_context(|| format!("cannot remove {}", directory.display()))?;
    Ok(Outcome::Done)
}

fn serve_demo(args: &DemoArgs, functions: &demo::Functions, file: &Path) -> anyhow::Result<()> {
    write_private(file, &demo::config(functions, args.listen, args.admin))?;
    let Loaded { plan, report, files } = config::load(file);
    let plan = plan.with_context(|| {
        format!("the demo's own configuration is faulty\n{}", report.render(Style::Plain))
    })?;
    let app = App::bind(plan, file, files)?;
    print(demo::banner(args.listen, args.admin).as_bytes())?;
    app.run()
}

/// The demo's file holds a credential, if only a sample's.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Left-aligned columns, two blanks apart.
fn columns<const N: usize>(rows: Vec<[String; N]>) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A reader that has seen enough (`fngate schema | head`) is no failure.
fn print(text: &[u8]) -> anyhow::Result<Outcome> {
    match std::io::stdout().write_all(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(Outcome::Done),
    }
}

/// To stderr. Where nobody reads it, the exit code still tells how it ended.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn style() -> Style {
    let wants_colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wants_colour { Style::Coloured } else { Style::Plain }
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::values::parse_duration(&Written::Text(text.to_owned())).map_err(|invalid| invalid.message)
}

fn asked(text: &str) -> Result<Asked, &'static str> {
    let (method, uri) =
        text.split_once(' ').ok_or("give a method and a URL, as in 'GET http://host/path'")?;
    let method = method.parse().map_err(|_| "the method is not a token")?;
    let uri: http::Uri = uri.parse().map_err(|_| "the URL cannot be parsed")?;
    match uri.authority() {
        Some(_) => Ok(Asked { method, uri }),
        None => Err("the URL has no host; a request names one, as in 'GET http://host/path'"),
    }
}

const LOG_VARIABLE: &str = "FNGATE_LOG";
const DEFAULT_FILE: &str = "/etc/fngate/fngate.yaml";
