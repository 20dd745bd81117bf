//! The network between gateway and function: packets that vanish, connections that are refused on the way, links that are cut
//! or slow.

use std::net::Ipv4Addr;

use super::{Fault, Outcome};
use crate::ledger::Ran;
use crate::server::Server;
use crate::stage::{Expect, Impossible, Pace, Setting, Stage, well};
use crate::terrain::{change, own};

pub(super) fn all() -> Vec<Fault> {
    vec![
        Fault::new("packets to the function are dropped", |pace| {
            filtered("drop", Expect::of(&["504 upstream_timeout", "504 connect_timeout"]), pace)
        }),
        Fault::new("packets to the function are answered with resets", |pace| {
            let expect = Expect::of(&["502 upstream_connect", "502 upstream_reset"]);
            filtered("reject with tcp reset", expect, pace)
        }),
        Fault::new("the link to the function is cut", cut),
        Fault::new("the link to the function is slow", slow),
    ]
}

async fn filtered(verdict: &'static str, expect: Expect, pace: Pace) -> Outcome {
    own("nft")?;
    let ran = Ran::default();
    let function = well(&ran).await;
    let port = function.addr().port();
    change("nft add table inet chaos").await?;
    change("nft add chain inet chaos packets { type filter hook input priority 0 ; }").await?;
    let mut stage = Stage::set(pace, &ran, Setting::hurried(&function.url())).await;

    stage.calm().await;
    change(&format!("nft add rule inet chaos packets tcp dport {port} {verdict}")).await?;
    stage.outlasts_time_limits().await;
    change("nft delete table inet chaos").await?;
    stage.heals().await;

    Ok(stage.close(&expect).await)
}

async fn cut(pace: Pace) -> Outcome {
    let ran = Ran::default();
    let (function, _link) = behind_a_link().await?;
    let mut stage = Stage::set(pace, &ran, Setting::hurried(&function.url())).await;

    stage.calm().await;
    change("ip link set chaos0 down").await?;
    stage.outlasts_time_limits().await;
    change("ip link set chaos0 up").await?;
    stage.heals().await;

    stage.rests().await;
    function.tell(&ran);
    let expect = Expect::of(&[
        "502 upstream_connect",
        "504 upstream_timeout",
        "504 connect_timeout",
        "502 upstream_reset",
    ]);
    Ok(stage.close(&expect).await)
}

async fn slow(pace: Pace) -> Outcome {
    own("tc")?;
    let ran = Ran::default();
    let (function, _link) = behind_a_link().await?;
    let mut stage = Stage::set(pace, &ran, Setting::hurried(&function.url())).await;

    stage.calm().await;
    change("tc qdisc add dev chaos0 root tbf rate 64kbit burst 4kb latency 400ms").await?;
    stage.lasts().await;
    change("tc qdisc del dev chaos0 root").await?;
    stage.heals().await;

    stage.rests().await;
    function.tell(&ran);
    Ok(stage.close(&Expect::of(&["answered", "504 upstream_timeout", "504 connect_timeout"])).await)
}

/// A function server in a network of its own, at the other end of a link. The link ends with it.
async fn behind_a_link() -> Result<(Server, Link), Impossible> {
    own("ip")?;
    own("nsenter")?;
    let function = Server::start_elsewhere(Ipv4Addr::new(10, 213, 0, 2)).await;
    let there = function.pid();
    change(&format!("ip link add chaos0 type veth peer name chaos1 netns {there}")).await?;
    let link = Link;
    change("ip addr add 10.213.0.1/24 dev chaos0").await?;
    change("ip link set chaos0 up").await?;
    let inside = format!("nsenter --net=/proc/{there}/ns/net ip");
    change(&format!("{inside} addr add 10.213.0.2/24 dev chaos1")).await?;
    change(&format!("{inside} link set chaos1 up")).await?;
    Ok((function, link))
}

/// Taken away at once, so that the next one finds the name free: the kernel would take its time.
struct Link;

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", "chaos0"]).status();
    }
}
