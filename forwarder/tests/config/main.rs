//! Configurations, good and bad: each bad one gets exactly one sentence.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bad;

use std::{fs, net::SocketAddr, path::Path, process::Command};

use bad::BAD;
use forwarder::config::{self, Affinity, Config, Deny, Probe, XdpMode};
use forwarder_common::bound::Rates;

/// Every key there is, with the values of docs/configuration.md.
const WHOLE: &str = r#"
node = 1
interfaces = ["eth0"]
underlay = "10.9.2.2"
xdp_mode = "native"
pin_dir = "/sys/fs/bpf/forwarder"
control = "run/control.sock"
metrics = "127.0.0.1:9460"
claims = 1_048_576

[[service]]
vip = "192.0.2.10"
port = 5060
affinity = "call"
sources = ["10.9.2.2:5060", "[2001:db8::2]:5070"]
probe = { interval_ms = 1000, failures = 3 }

[cluster]
name = "edge"
listen = "10.9.2.2:7470"
seeds = ["10.9.3.2:7470", "10.9.2.2:7470"]
ca = "ca.pem"
certificate = "node-1.pem"
key = "/etc/forwarder/node-1.key"
secret = "cluster.secret"
deny = [7, "AB:00000000000000000000000000000000000000000000000000000000000000"]
keep_up = 2

[timers]
t1_ms = 500
timer_c_s = 180
call_ttl_s = 7200
hold_ms = 100

[forward]
key_packets = 300
peer_packets = 0
peer_bytes = 12_500_000_000
peer_fragments = 2000

[hooks]
on_state = "/etc/forwarder/on-state"
timeout_s = 30
"#;

/// What must be there and no more; the line numbers of the table below count in it.
const LEAST: &str = r#"node = 1
interfaces = ["eth0"]
underlay = "10.9.2.2"
[[service]]
vip = "192.0.2.10"
port = 5060
[cluster]
name = "edge"
listen = "10.9.2.2:7470"
seeds = ["10.9.3.2:7470"]
ca = "ca.pem"
certificate = "node-1.pem"
key = "node-1.key"
secret = "cluster.secret"
"#;

fn parse(text: &str) -> anyhow::Result<Config> {
    config::parse(text, Path::new("/etc/forwarder"))
}

#[test]
fn every_key_is_read() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.node.number(), 1);
    assert_eq!(config.interfaces, ["eth0"]);
    assert_eq!(config.xdp_mode, XdpMode::Native);
    assert_eq!(config.claims, 1 << 20);
    assert_eq!(config.metrics, Some("127.0.0.1:9460".parse().unwrap()));
    let [service] = config.services.as_slice() else { panic!("one service") };
    assert_eq!((service.vip, service.port), ("192.0.2.10".parse().unwrap(), 5060));
    assert_eq!(service.affinity, Affinity::Call);
    let sources = ["10.9.2.2:5060", "[2001:db8::2]:5070"].map(|source| source.parse::<SocketAddr>().unwrap());
    assert_eq!(service.sources, sources);
    assert_eq!(service.probe, Some(Probe { interval_ms: 1000, failures: 3 }));
    let timers = config.timers;
    assert_eq!((timers.t1_ms, timers.timer_c_s, timers.call_ttl_s, timers.hold_ms), (500, 180, 7200, 100));
    let forward = Rates { key_packets: 300, packets: 0, bytes: 12_500_000_000, slow_packets: 2000 };
    assert_eq!(config.forward, forward);
    assert_eq!(config.hooks.on_state.as_deref(), Some(Path::new("/etc/forwarder/on-state")));
    assert_eq!(config.hooks.timeout_s, 30);
    let mut fingerprint = [0; 32];
    fingerprint[0] = 0xab;
    assert_eq!(config.cluster.deny, Deny { nodes: [7].into(), fingerprints: [fingerprint].into() });
    assert_eq!(config.cluster.keep_up, 2);
}

#[test]
fn relative_paths_count_from_the_files_folder() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.control, Path::new("/etc/forwarder/run/control.sock"));
    assert_eq!(config.cluster.ca, Path::new("/etc/forwarder/ca.pem"));
    assert_eq!(config.cluster.key, Path::new("/etc/forwarder/node-1.key"));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.toml");
    fs::write(&file, LEAST).unwrap();
    let config = config::load(&file).unwrap();
    assert_eq!((config.cluster.secret, config.file), (folder.path().join("cluster.secret"), Some(file)));
}

#[test]
fn what_is_left_out_has_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    let whole = parse(WHOLE).unwrap();
    assert_eq!(config.xdp_mode, XdpMode::Auto);
    assert_eq!(config.pin_dir, whole.pin_dir);
    assert_eq!(config.control, Path::new("/run/forwarder/control.sock"));
    assert_eq!(config.metrics, None);
    assert_eq!(config.claims, whole.claims);
    assert_eq!(config.timers, whole.timers);
    let forward = Rates { key_packets: 200, packets: 200_000, bytes: 250_000_000, slow_packets: 15_000 };
    assert_eq!(config.forward, forward);
    assert_eq!((config.hooks.on_state, config.hooks.timeout_s), (None, 10));
    assert_eq!((config.cluster.deny, config.cluster.keep_up, config.file), (Deny::default(), 1, None));
    let [service] = config.services.as_slice() else { panic!("one service") };
    assert_eq!((service.affinity, service.probe.as_ref()), (Affinity::Transaction, None));
    assert!(service.sources.is_empty());
}

#[test]
fn a_nodes_own_address_among_the_seeds_is_left_out() {
    let other: SocketAddr = "10.9.3.2:7470".parse().unwrap();
    assert_eq!(parse(WHOLE).unwrap().cluster.seeds, [other]);
    let alone = LEAST.replace("\"10.9.3.2:7470\"", "");
    assert!(parse(&alone).unwrap().cluster.seeds.is_empty());
}

#[test]
fn addresses_of_both_families_are_taken_and_a_mapped_one_is_ipv4() {
    let text = LEAST.replace("\"10.9.2.2\"", "\"2001:db8::2\"").replace("192.0.2.10", "::ffff:192.0.2.10");
    let config = parse(&text.replace("10.9.2.2:7470", "[2001:db8::2]:7470")).unwrap();
    assert!(config.underlay.is_ipv6() && config.cluster.listen.is_ipv6());
    assert!(config.services.iter().all(|service| service.vip.is_ipv4()));
}

#[test]
fn each_bad_configuration_gets_its_sentence() {
    let mut wrong = Vec::new();
    for (from, to, expected) in BAD {
        assert!(LEAST.contains(from), "{from} is in the good one");
        let found =
            parse(&LEAST.replacen(from, to, 1)).map_or_else(|error| format!("{error:#}"), |_| "accepted".to_owned());
        if found != *expected {
            wrong.push(format!("{to}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_an_upper_limit_of_services_and_seeds() {
    let services = |count: u16| (0..count).map(|n| format!("[[service]]\nvip = \"192.0.2.10\"\nport = {}\n", 5060 + n));
    let with = |count| {
        let text = services(count).collect::<String>();
        parse(&LEAST.replacen("[[service]]\nvip = \"192.0.2.10\"\nport = 5060\n", &text, 1))
    };
    assert_eq!(with(255).unwrap().services.len(), 255);
    let error = format!("{:#}", with(256).unwrap_err());
    assert_eq!(error, "line 4: `service` is there 256 times; hint: at most 255 are served");

    let seeds = (0..1024).map(|n| format!("\"10.1.{}.{}:7470\"", n / 250, n % 250)).collect::<Vec<_>>().join(",");
    let error = format!("{:#}", parse(&LEAST.replace("\"10.9.3.2:7470\"", &seeds)).unwrap_err());
    assert_eq!(error, "line 10: `seeds` in [cluster] has 1024 addresses; hint: at most 1023 nodes are possible");
}

#[test]
fn the_file_is_named_where_it_is_missing_and_where_it_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.toml");
    let error = format!("{:#}", config::load(&file).unwrap_err());
    let name = file.display();
    let hint = "hint: name the configuration with --config FILE";
    assert_eq!(error, format!("read {name}: No such file or directory (os error 2); {hint}"));
    fs::write(&file, "nod = 1").unwrap();
    let error = format!("{:#}", config::load(&file).unwrap_err());
    assert_eq!(error, format!("read {name}: line 1: unknown key `nod`; hint: did you mean `node`?"));
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() {
    parse(&LEAST.replace("eth0", "lo")).unwrap().check_host().unwrap();
    let error = format!("{:#}", parse(&LEAST.replace("eth0", "nowhere7")).unwrap().check_host().unwrap_err());
    let start = "find interface nowhere7: no such interface; hint: this host has ";
    assert!(error.starts_with(start) && error.contains("lo"), "{error}");
}

#[test]
fn a_hook_that_cannot_be_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("on-state");
    let text = format!("{}[hooks]\non_state = \"{}\"\n", LEAST.replace("eth0", "lo"), hook.display());
    let config = parse(&text).unwrap();
    let sentence = || format!("{:#}", config.check_host().unwrap_err());
    let start = format!("find hook {}: ", hook.display());
    let hint = "hint: correct `on_state` in [hooks]";
    assert_eq!(sentence(), format!("{start}No such file or directory (os error 2); {hint}"));
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    assert_eq!(sentence(), format!("{start}it cannot be run; hint: make it an executable file (chmod +x)"));
}

/// Runs the command and returns its exit code, output and error output.
fn forwarder(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_forwarder")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_makes_a_cluster_and_checks_a_configuration_made_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let (code, out, error) = forwarder(&["cluster", "init", "--dir", dir, "--name", "edge"]);
    let expected = ["ca.pem", "ca.key", "cluster.secret"].map(|file| format!("wrote {dir}/{file}\n")).concat();
    assert_eq!((code, out, error), (0, expected, String::new()));
    let (code, _, error) = forwarder(&["cluster", "issue", "--dir", dir, "--node", "1", "--address", "10.9.2.2"]);
    assert_eq!((code, error), (0, String::new()));
    let file = folder.path().join("edge.toml");
    let name = file.to_str().unwrap();
    fs::write(&file, LEAST.replace("eth0", "lo")).unwrap();
    assert_eq!(forwarder(&["check", "--config", name]), (0, format!("{name}: ok\n"), String::new()));

    fs::write(&file, LEAST.replace("eth0", "lo").replacen("node = 1", "node = 2", 1)).unwrap();
    let (code, out, error) = forwarder(&["check", "--config", name]);
    let expected = format!(
        "forwarder: check certificate {dir}/node-1.pem: it is node 1's, and the configuration says node 2; \
         hint: correct `node` or name node 2's certificate\n"
    );
    assert_eq!((code, out, error), (1, String::new(), expected));
}

#[test]
fn without_a_daemon_status_and_owner_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    for arguments in [&["status", "--control", socket][..], &["owner", "a@b", "1", "--control", socket]] {
        let (code, out, error) = forwarder(arguments);
        let expected = format!(
            "forwarder: ask the daemon: no forwarder answers on {socket}; hint: start one with \
             `forwarder run --config FILE`, or name its socket with --control PATH\n"
        );
        assert_eq!((code, out, error), (1, String::new(), expected));
    }
    assert_eq!(forwarder(&["status", "--jsonn"]).0, 2);
}
