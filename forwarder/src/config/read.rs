//! From the text to a checked [`Config`], section by section in the order of the file.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use forwarder_common::{
    abi::{MAX_SERVICES, MAX_SOURCES},
    bound::Rates,
    geneve,
    ids::NodeId,
};
use toml::de::DeTable;

use super::section::{Item, Layout, Section, line_of};
use super::types::{
    Affinity, Cluster, Config, DEFAULT_CLAIMS, DEFAULT_CONTROL, DEFAULT_FAILURES, DEFAULT_HOOK_S, DEFAULT_KEEP_UP,
    DEFAULT_PIN_DIR, DEFAULT_PROBE_MS, Deny, Hooks, MAX_CLAIMS, MAX_DENIED, MAX_INTERFACE_NAME, MAX_SEEDS, MIN_CLAIMS,
    Probe, Service, Timers, XdpMode, is_cluster_name,
};

const SERVICE: &str = "[[service]]";
const PROBE: &str = "`probe`";
const CLUSTER: &str = "[cluster]";
const TIMERS: &str = "[timers]";
const FORWARD: &str = "[forward]";
const HOOKS: &str = "[hooks]";

/// Every key there is, by section.
const LAYOUT: Layout = &[
    (
        "",
        &[
            "node",
            "interfaces",
            "underlay",
            "xdp_mode",
            "pin_dir",
            "control",
            "metrics",
            "claims",
            "service",
            "cluster",
            "timers",
            "forward",
            "hooks",
        ],
    ),
    (SERVICE, &["vip", "port", "affinity", "sources", "probe"]),
    (PROBE, &["interval_ms", "failures"]),
    (CLUSTER, &["name", "listen", "seeds", "ca", "certificate", "key", "secret", "deny", "keep_up"]),
    (TIMERS, &["t1_ms", "timer_c_s", "call_ttl_s", "hold_ms"]),
    (FORWARD, &["key_packets", "peer_packets", "peer_bytes", "peer_fragments"]),
    (HOOKS, &["on_state", "timeout_s"]),
];

/// Most bytes a second to one node: a link of 800 Gbit/s.
const MAX_BYTES: u64 = 100_000_000_000;

const SOCKET_HINT: &str = "give an address and a port such as \"10.9.2.2:7470\" or \"[2001:db8::2]:7470\"";
const PATH_HINT: &str = "give a path as text";

/// Checks the text of a file that lies in `folder`, from which relative paths count.
///
/// # Errors
/// One sentence: the line, the key, what is wrong and a hint.
pub fn parse(text: &str, folder: &Path) -> anyhow::Result<Config> {
    let table = DeTable::parse(text).map_err(|error| syntax(text, &error))?;
    let top = Section::top(text, LAYOUT, table.get_ref())?;
    let node = top.integer("node", 1..=u64::from(NodeId::MAX))?.and_then(|n| NodeId::new(u16::try_from(n).ok()?));
    let path = |key, default| path(&top, key, folder).map(|path| path.unwrap_or_else(|| PathBuf::from(default)));
    let config = Config {
        file: None,
        node: top.need("node", node, "node = 1")?,
        interfaces: interfaces(&top)?,
        underlay: underlay(&top)?,
        xdp_mode: top
            .choice("xdp_mode", &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)])?
            .unwrap_or(XdpMode::Auto),
        pin_dir: path("pin_dir", DEFAULT_PIN_DIR)?,
        control: path("control", DEFAULT_CONTROL)?,
        metrics: top.text("metrics", SOCKET_HINT)?.map(|text| socket(&top, "metrics", text)).transpose()?,
        claims: number(&top, "claims", MIN_CLAIMS.into()..=MAX_CLAIMS.into(), DEFAULT_CLAIMS)?,
        services: services(&top)?,
        cluster: cluster(&top, folder)?,
        timers: timers(&top)?,
        forward: forward(&top)?,
        hooks: hooks(&top, folder)?,
    };
    no_vip_of_its_own(&top, &config)?;
    if config.cluster.deny.nodes.contains(&config.node.number()) {
        let node = config.node.number();
        return Err(top.refuse("cluster", &format!("denies node {node}, which is this one; hint: correct `deny`")));
    }
    Ok(config)
}

fn syntax(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    anyhow!("line {line}: {message}; hint: the file is TOML, see docs/configuration.md")
}

fn number<T>(section: &Section<'_>, key: &str, range: std::ops::RangeInclusive<u64>, default: T) -> anyhow::Result<T>
where
    T: TryFrom<u64>,
{
    // The ranges fit their types, so the conversion never takes the default by accident.
    Ok(section.integer(key, range)?.and_then(|number| T::try_from(number).ok()).unwrap_or(default))
}

fn path(section: &Section<'_>, key: &str, folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    match section.text(key, PATH_HINT)? {
        Some("") => Err(section.refuse(key, &format!("is empty; hint: {PATH_HINT}, or leave it out"))),
        text => Ok(text.map(|text| folder.join(text))),
    }
}

fn interfaces(top: &Section<'_>) -> anyhow::Result<Vec<String>> {
    let hint = "list interfaces such as [\"eth0\"]";
    let names = top.texts("interfaces", hint)?;
    let names = top.need("interfaces", names, "interfaces = [\"eth0\"]")?;
    if names.is_empty() {
        return Err(top.refuse("interfaces", &format!("is empty; hint: {hint}")));
    }
    for (index, name) in names.iter().enumerate() {
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > MAX_INTERFACE_NAME || name.contains(odd) {
            let hint = "`ip link` shows this host's interfaces";
            return Err(top.refuse("interfaces", &format!("has \"{name}\", which names no interface; hint: {hint}")));
        }
        if names.iter().take(index).any(|other| other == name) {
            return Err(top.refuse("interfaces", &format!("has \"{name}\" twice; hint: remove one")));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn underlay(top: &Section<'_>) -> anyhow::Result<IpAddr> {
    let hint = "give this node's own unicast address, such as \"10.9.2.2\"";
    let address = top.parsed::<IpAddr>("underlay", hint)?;
    let address = top.need("underlay", address, "underlay = \"10.9.2.2\"")?;
    unicast(top, "underlay", address, hint)
}

/// `address` in its short form (a mapped IPv4 address is IPv4), if one host can have it.
fn unicast(section: &Section<'_>, key: &str, address: IpAddr, hint: &str) -> anyhow::Result<IpAddr> {
    let address = address.to_canonical();
    let kind = match address {
        _ if address.is_unspecified() => "an unspecified address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(address),
    };
    Err(section.refuse(key, &format!("has {address}, {kind}; hint: {hint}")))
}

fn socket(section: &Section<'_>, key: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let address: SocketAddr = section.parse(key, text, SOCKET_HINT)?;
    if address.port() == 0 {
        return Err(section.refuse(key, &format!("is \"{text}\" with port 0; hint: give a port from 1 to 65535")));
    }
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn services(top: &Section<'_>) -> anyhow::Result<Vec<Service>> {
    let sections = top.sections("service", SERVICE, LAYOUT)?;
    if sections.is_empty() {
        bail!("no service is there; hint: add a section [[service]] with `vip` and `port`");
    }
    if sections.len() > MAX_SERVICES as usize {
        let many = sections.len();
        return Err(top.refuse("service", &format!("is there {many} times; hint: at most {MAX_SERVICES} are served")));
    }
    let mut services = Vec::<Service>::with_capacity(sections.len());
    for section in &sections {
        let service = service(section)?;
        if services.iter().any(|other| (other.vip, other.port) == (service.vip, service.port)) {
            let (vip, port) = (service.vip, service.port);
            return Err(section.refuse("vip", &format!("{vip} with port {port} is there twice; hint: remove one")));
        }
        services.push(service);
    }
    sections.iter().zip(0..).try_for_each(|(section, place)| check_sources(section, &services, place))?;
    Ok(services)
}

/// What leaves from one address and port is one proxy's.
fn check_sources(section: &Section<'_>, services: &[Service], place: usize) -> anyhow::Result<()> {
    let many: usize = services.iter().map(|service| service.sources.len()).sum();
    if many > MAX_SOURCES as usize {
        let hint = format!("at most {MAX_SOURCES} are possible in all services");
        return Err(section.refuse("sources", &format!("and those of other services are {many}; hint: {hint}")));
    }
    let own = services.get(place).map(|service| service.sources.as_slice()).unwrap_or_default();
    for (number, source) in own.iter().enumerate() {
        let is_service = |other: &Service| SocketAddr::new(other.vip, other.port) == *source;
        if services.iter().any(is_service) {
            let hint = "a service's own address and port claim in any case: remove it";
            return Err(section.refuse("sources", &format!("has {source}, a service; hint: {hint}")));
        }
        let before = services.iter().take(place).any(|other| other.sources.contains(source));
        if before || own.iter().take(number).any(|other| other == source) {
            return Err(section.refuse("sources", &format!("has {source}, which is there twice; hint: remove one")));
        }
    }
    Ok(())
}

fn service(section: &Section<'_>) -> anyhow::Result<Service> {
    let hint = "give the anycast address, such as \"192.0.2.10\"";
    let vip = section.parsed::<IpAddr>("vip", hint)?;
    let vip = unicast(section, "vip", section.need("vip", vip, "vip = \"192.0.2.10\"")?, hint)?;
    let port = section.integer("port", 1..=u64::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok());
    let port = section.need("port", port, "port = 5060")?;
    let words = [Affinity::Transaction, Affinity::Call].map(|affinity| (affinity.name(), affinity));
    let affinity = section.choice("affinity", &words)?.unwrap_or(Affinity::Transaction);
    let probe = section.section("probe", PROBE, LAYOUT)?.map(|probe| self::probe(&probe)).transpose()?;
    Ok(Service { vip, port, affinity, sources: sources(section)?, probe })
}

fn sources(section: &Section<'_>) -> anyhow::Result<Vec<SocketAddr>> {
    let hint = "give the proxy's other sockets, such as [\"10.9.2.2:5060\"]";
    let mut sources = Vec::new();
    for text in section.texts("sources", hint)?.unwrap_or_default() {
        let source = socket(section, "sources", text)?;
        unicast(section, "sources", source.ip(), hint)?;
        sources.push(source);
    }
    Ok(sources)
}

fn probe(section: &Section<'_>) -> anyhow::Result<Probe> {
    Ok(Probe {
        interval_ms: number(section, "interval_ms", 100..=3_600_000, DEFAULT_PROBE_MS)?,
        failures: number(section, "failures", 1..=100, DEFAULT_FAILURES)?,
    })
}

fn cluster(top: &Section<'_>, folder: &Path) -> anyhow::Result<Cluster> {
    let Some(section) = top.section("cluster", CLUSTER, LAYOUT)? else {
        bail!("the section [cluster] is missing; hint: add it, docs/configuration.md has an example");
    };
    let name = section.text("name", "give the name that `cluster init` was given")?;
    let name = section.need("name", name, "name = \"edge\"")?;
    if !is_cluster_name(name) {
        let hint = "use 1 to 64 letters, digits, dots, underscores and dashes";
        return Err(section.refuse("name", &format!("is \"{name}\"; hint: {hint}")));
    }
    let listen = listen(&section)?;
    let file = |key, example| section.need(key, path(&section, key, folder)?, example);
    Ok(Cluster {
        name: name.to_owned(),
        listen,
        seeds: seeds(&section, listen)?,
        ca: file("ca", "ca = \"ca.pem\"")?,
        certificate: file("certificate", "certificate = \"node-1.pem\"")?,
        key: file("key", "key = \"node-1.key\"")?,
        secret: file("secret", "secret = \"cluster.secret\"")?,
        deny: deny(&section)?,
        keep_up: keep_up(&section)?,
    })
}

fn keep_up(section: &Section<'_>) -> anyhow::Result<u16> {
    number(section, "keep_up", 0..=u64::from(NodeId::MAX), DEFAULT_KEEP_UP)
}

fn listen(section: &Section<'_>) -> anyhow::Result<SocketAddr> {
    let text = section.need("listen", section.text("listen", SOCKET_HINT)?, "listen = \"10.9.2.2:7470\"")?;
    let address = socket(section, "listen", text)?;
    if address.port() == geneve::PORT {
        let hint = "take another port, such as 7470";
        return Err(section.refuse("listen", &format!("has port {}, the tunnel's; hint: {hint}", geneve::PORT)));
    }
    // Any address of the host would do to listen, but the peers see the one from which this node dials.
    unicast(section, "listen", address.ip(), "give the address that the peers reach, such as the underlay's")?;
    Ok(address)
}

fn seeds(section: &Section<'_>, own: SocketAddr) -> anyhow::Result<Vec<SocketAddr>> {
    let hint = "list the other nodes' `listen` addresses, such as [\"10.9.3.2:7470\"]; [] for a node that stands alone";
    let Some(texts) = section.texts("seeds", hint)? else {
        return Err(section.refuse("seeds", &format!("is missing; hint: {hint}")));
    };
    if texts.len() > MAX_SEEDS {
        let many = texts.len();
        return Err(
            section.refuse("seeds", &format!("has {many} addresses; hint: at most {MAX_SEEDS} nodes are possible"))
        );
    }
    let mut seeds = Vec::with_capacity(texts.len());
    for text in texts {
        let seed = socket(section, "seeds", text)?;
        unicast(section, "seeds", seed.ip(), hint)?;
        if seeds.contains(&seed) {
            return Err(section.refuse("seeds", &format!("has {seed} twice; hint: remove one")));
        }
        seeds.push(seed);
    }
    // One list for all nodes is handy: a node's own address in it means nothing to itself.
    seeds.retain(|seed| *seed != own);
    Ok(seeds)
}

/// Numbers are node ids, texts are fingerprints as `openssl x509 -fingerprint -sha256` prints them.
fn deny(section: &Section<'_>) -> anyhow::Result<Deny> {
    let hint = format!(
        "list node ids from 1 to {} and SHA-256 fingerprints of certificates, such as [7, \"AB:CD:…\"]",
        NodeId::MAX
    );
    let mut deny = Deny::default();
    let items = section.items("deny", &hint)?;
    if items.len() > MAX_DENIED {
        let many = items.len();
        return Err(section.refuse("deny", &format!("has {many} entries; hint: at most {MAX_DENIED} are possible")));
    }
    for item in items {
        match item {
            Item::Number(number) => {
                let node = u16::try_from(number).ok().and_then(NodeId::new);
                let wrong = || section.refuse("deny", &format!("has {number}; hint: {hint}"));
                deny.nodes.insert(node.ok_or_else(wrong)?.number());
            }
            Item::Text(text) => {
                let wrong = || section.refuse("deny", &format!("has \"{text}\"; hint: {hint}"));
                deny.fingerprints.insert(fingerprint(text).ok_or_else(wrong)?);
            }
        }
    }
    Ok(deny)
}

/// 32 bytes in hex, with or without colons, in any case.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let digits = digits.collect::<Option<Vec<_>>>()?;
    let bytes: Vec<_> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    // An odd digit is left over by the pairs, and the whole is too long by then.
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

fn timers(top: &Section<'_>) -> anyhow::Result<Timers> {
    let section = top.section("timers", TIMERS, LAYOUT)?;
    let timer =
        |key, range, default| section.as_ref().map_or(Ok(default), |section| number(section, key, range, default));
    Ok(Timers {
        t1_ms: timer("t1_ms", 10..=10_000, 500)?,
        timer_c_s: timer("timer_c_s", 1..=86_400, 180)?,
        call_ttl_s: timer("call_ttl_s", 1..=129_600, 7200)?,
        hold_ms: timer("hold_ms", 0..=5000, 100)?,
    })
}

fn forward(top: &Section<'_>) -> anyhow::Result<Rates> {
    let (section, usual) = (top.section("forward", FORWARD, LAYOUT)?, Rates::USUAL);
    let rate = |key, most, default| {
        section.as_ref().map_or(Ok(default), |section| number::<u32>(section, key, 0..=most, default))
    };
    let bytes = section.as_ref().map(|section| section.integer("peer_bytes", 0..=MAX_BYTES)).transpose()?.flatten();
    Ok(Rates {
        key_packets: rate("key_packets", 1_000_000, usual.key_packets)?,
        packets: rate("peer_packets", 100_000_000, usual.packets)?,
        bytes: bytes.unwrap_or(usual.bytes),
        slow_packets: rate("peer_fragments", 10_000_000, usual.slow_packets)?,
    })
}

fn hooks(top: &Section<'_>, folder: &Path) -> anyhow::Result<Hooks> {
    let section = top.section("hooks", HOOKS, LAYOUT)?;
    let on_state = section.as_ref().map(|section| path(section, "on_state", folder)).transpose()?.flatten();
    let timeout_s = section.map(|section| number(&section, "timeout_s", 1..=600, DEFAULT_HOOK_S)).transpose()?;
    Ok(Hooks { on_state, timeout_s: timeout_s.unwrap_or(DEFAULT_HOOK_S) })
}

/// Tunnel packets and links to a VIP would land on any node.
fn no_vip_of_its_own(top: &Section<'_>, config: &Config) -> anyhow::Result<()> {
    let is_vip = |address: IpAddr| config.services.iter().any(|service| service.vip == address);
    let hint = "give an address that only this node has";
    if is_vip(config.underlay) {
        return Err(top.refuse("underlay", &format!("is {}, a service's vip; hint: {hint}", config.underlay)));
    }
    let listen = config.cluster.listen.ip();
    if is_vip(listen) {
        return Err(top.refuse("cluster", &format!("listens on {listen}, a service's vip; hint: {hint}")));
    }
    Ok(())
}
