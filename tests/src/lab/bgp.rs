//! BIRD on the router and on the edges: the shared address is announced by BGP, and the router spreads packets over
//! those that do.
//!
//! The kernel would keep each flow on one path; the worst case sends each packet another way. So the router's BIRD
//! fills a table, and packets are sprayed over exactly the next hops that are in it: BGP decides who gets packets.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::routing::Routing;
use super::{Family, Host, Lab, Router, Spray, VIP4, VIP6};
use crate::namespace::Namespace;
use crate::poll::poll_until_true;
use crate::process::Process;

/// The router's number, and the edges' above it.
const AS: u32 = 64_512;
/// The kernel's table that the router's BIRD fills.
const TABLE: u32 = 200;
/// How often the table is read.
const STEP: Duration = Duration::from_millis(10);

/// A BIRD on the router and on each edge, until dropped.
#[derive(Debug)]
pub struct Bgp {
    birds: Vec<Process>,
    /// What makes the router follow.
    _routing: Routing,
}

/// A hook that announces the shared address while its node is up, and withdraws it in every other state.
///
/// # Errors
/// It cannot be written.
pub fn hook(lab: &Lab) -> Result<PathBuf> {
    let (path, folder) = (lab.folder().join("on-state-bgp"), lab.folder().display().to_string());
    let script = format!(
        "#!/bin/sh\nset -e\necho \"$1 $2\" >>{folder}/state-$FORWARDER_NODE.all\n\
         [ \"$2\" = up ] && word=enable || word=disable\n\
         exec birdc -s {folder}/bird-edge$FORWARDER_NODE.ctl $word vip\n"
    );
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make the hook a program")?;
    Ok(path)
}

impl Bgp {
    /// Starts BGP; nobody announces anything before a hook says so.
    ///
    /// # Errors
    /// A BIRD does not start, or a session does not come up within 20 seconds.
    pub fn start(lab: &Lab, family: Family) -> Result<Self> {
        let mut birds = vec![bird(lab, Host::Router, &router(lab, family))?];
        for number in lab.edges() {
            birds.push(bird(lab, Host::Edge(number), &edge(number, family))?);
        }
        let control = lab.folder().join("bird-router.ctl");
        poll_until_true("every edge has a BGP session with the router", Duration::from_secs(20), || {
            let text = birdc(&lab.host(Host::Router), &control, &["show", "protocols"]).unwrap_or_default();
            Ok(text.matches("Established").count() == lab.edges().count())
        })?;
        let router = lab.router().clone();
        Ok(Self { birds, _routing: Routing::start(move |stop| follow(&router, family, stop)) })
    }

    /// Fails if a BIRD has ended.
    ///
    /// # Errors
    /// One has.
    pub fn must_run(&mut self) -> Result<()> {
        self.birds.iter_mut().try_for_each(Process::must_run)
    }
}

fn bird(lab: &Lab, host: Host, text: &str) -> Result<Process> {
    let name = format!("bird-{}", host.name());
    let file = |ending: &str| lab.folder().join(format!("{name}.{ending}"));
    fs::write(file("conf"), text).with_context(|| format!("write {}", file("conf").display()))?;
    let mut command = lab.host(host).command("bird");
    command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl")).arg("-P").arg(file("pid"));
    let mut process = Process::start(&name, &mut command, &file("log"))?;
    poll_until_true(&format!("{name} listens"), Duration::from_secs(5), || {
        process.must_run()?;
        Ok(file("ctl").exists())
    })?;
    Ok(process)
}

/// The edges that the router's table has as next hops of the shared address.
///
/// # Errors
/// `ip` fails.
pub fn announcing(router: &Router, family: Family) -> Result<Vec<u8>> {
    let (option, vip) = (if family == Family::V4 { "-4" } else { "-6" }, family.vip().to_string());
    let text = router.namespace().run("ip", &[option, "-json", "route", "show", "table", &TABLE.to_string()]);
    // A table that never had a route does not exist.
    let routes: Value = serde_json::from_str(text.unwrap_or_default().trim()).unwrap_or_default();
    let routes = routes.as_array().cloned().unwrap_or_default();
    let hops = routes.iter().filter(|route| route.get("dst").and_then(Value::as_str) == Some(&vip)).flat_map(|route| {
        let many = route.get("nexthops").and_then(Value::as_array).cloned().unwrap_or_default();
        many.into_iter().chain([route.clone()])
    });
    let gateways: Vec<String> = hops.filter_map(|hop| Some(hop.get("gateway")?.as_str()?.to_owned())).collect();
    let is_hop = |edge: &u8| gateways.contains(&Host::Edge(*edge).address(family).to_string());
    Ok((1..=router.edges()).filter(is_hop).collect())
}

/// Sprays over the next hops that are in the table.
fn follow(router: &Router, family: Family, stop: &AtomicBool) {
    let mut now = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let hops = announcing(router, family).unwrap_or_default();
        if hops != now && !hops.is_empty() && router.spray(&Spray::Over(hops.clone())).is_ok() {
            now = hops;
        }
        std::thread::park_timeout(STEP);
    }
}

fn birdc(host: &Namespace, control: &Path, words: &[&str]) -> Result<String> {
    let control = control.display().to_string();
    host.run("birdc", &[&["-s", &control], words].concat())
}

/// The router's configuration: every edge's routes, all next hops of one prefix together.
fn router(lab: &Lab, family: Family) -> String {
    let channel = channel(family);
    let mut text = format!(
        "router id 10.9.0.1;\nprotocol device {{}}\nprotocol kernel {{\n kernel table {TABLE};\n merge paths yes;\n \
         {channel} {{ import none; export all; }};\n}}\n"
    );
    for number in lab.edges() {
        let host = Host::Edge(number);
        let (own, other) = (host.gateway(family), host.address(family));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "protocol bgp edge{number} {{\n local {own} as {AS};\n neighbor {other} as {};\n connect delay time 1;\n \
             {channel} {{ import all; export none; }};\n}}",
            AS + u32::from(number)
        );
    }
    text
}

/// An edge's configuration: the shared address, not announced before its protocol is enabled.
fn edge(number: u8, family: Family) -> String {
    let (host, channel) = (Host::Edge(number), channel(family));
    let (own, other) = (host.address(family), host.gateway(family));
    let (vip, length) = match family {
        Family::V4 => (VIP4.to_string(), 32),
        Family::V6 => (VIP6.to_string(), 128),
    };
    format!(
        "router id 10.9.{}.2;\nprotocol device {{}}\nprotocol static vip {{\n disabled yes;\n {channel};\n \
         route {vip}/{length} blackhole;\n}}\nprotocol bgp upstream {{\n local {own} as {};\n \
         neighbor {other} as {AS};\n connect delay time 1;\n \
         {channel} {{ import none; export all; next hop self; }};\n}}\n",
        number + 1,
        AS + u32::from(number)
    )
}

const fn channel(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
