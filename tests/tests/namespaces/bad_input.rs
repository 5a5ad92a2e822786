//! What an operator gets wrong: one sentence that names it, the promised exit code, and nothing attached.

use std::os::unix::fs::chown;
use std::process::Output;

use anyhow::{Result, ensure};
use tests::attached::ensure_nothing;
use tests::forwarder::{Authority, CLUSTER_PORT, Config, binary, pin_folder, tool};
use tests::lab::{Family, Host, Lab};
use tests::traffic::Endpoint;

/// The user and the group without rights.
const NOBODY: u32 = 65_534;

/// A thing that an operator can get wrong.
struct Case {
    what: &'static str,
    /// Makes the configuration wrong.
    spoil: fn(&mut Config, &Authority),
    /// What the sentence must name.
    names: &'static [&'static str],
    power: Power,
}

/// As whom the daemon is started.
#[derive(Clone, Copy)]
enum Power {
    /// Root.
    Root,
    /// Root without any capability.
    Powerless,
    /// A user who can read all files, and no more.
    Nobody,
}

const CASES: [Case; 11] = [
    Case {
        what: "an unknown interface",
        spoil: |config, _| set(config, "interfaces", "[\"nope0\"]"),
        names: &["nope0", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a VIP that is no address",
        spoil: |config, _| config.vips = vec!["192.0.2.300".to_owned()],
        names: &["192.0.2.300", "vip", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a missing certificate",
        spoil: |config, _| set_cluster(config, "certificate", "\"absent.pem\""),
        names: &["absent.pem", "certificate", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a certificate of another authority",
        spoil: |config, foreign| {
            for (name, file) in [("certificate", "node-1.pem"), ("key", "node-1.key")] {
                set_cluster(config, name, &format!("{:?}", foreign.file(file).display().to_string()));
            }
        },
        names: &["node-1.pem", "not signed by", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a node id that is not the certificate's",
        spoil: |config, _| set(config, "node", "2"),
        names: &["node", "2", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a key of another certificate",
        spoil: |config, foreign| {
            set_cluster(config, "key", &format!("{:?}", foreign.file("node-1.key").display().to_string()));
        },
        names: &["node-1.key", "hint"],
        power: Power::Root,
    },
    Case {
        what: "an unknown key",
        spoil: |config, _| set(config, "interfacse", "[\"eth0\"]"),
        names: &["interfacse", "interfaces"],
        power: Power::Root,
    },
    Case {
        what: "no TOML",
        spoil: |config, _| config.tail = "[cluster".to_owned(),
        names: &["line", "hint"],
        power: Power::Root,
    },
    Case {
        what: "a node id out of range",
        spoil: |config, _| set(config, "node", "1024"),
        names: &["node", "1023"],
        power: Power::Root,
    },
    Case { what: "no capability", spoil: |_, _| (), names: &["root", "hint"], power: Power::Powerless },
    Case { what: "a plain user", spoil: |_, _| (), names: &["root", "hint"], power: Power::Nobody },
];

fn set(config: &mut Config, name: &'static str, value: &str) {
    config.head.insert(name, value.to_owned());
}

fn set_cluster(config: &mut Config, name: &'static str, value: &str) {
    config.cluster.insert(name, value.to_owned());
}

#[test]
fn each_mistake_is_one_sentence_with_exit_code_1_and_nothing_attached() -> Result<()> {
    Lab::run(|lab| {
        let (ours, foreign) = authorities(lab)?;
        for case in &CASES {
            let mut config = Config::new(lab, &ours, 1, Family::V4);
            (case.spoil)(&mut config, &foreign);
            let output = run(lab, &config, case.power)?;
            ensure_refused(lab, case.what, &output, case.names)?;
        }
        Ok(())
    })
}

#[test]
fn a_port_in_use_is_one_sentence_with_exit_code_1_and_nothing_attached() -> Result<()> {
    Lab::run(|lab| {
        let (ours, _) = authorities(lab)?;
        let _other = Endpoint::bind(lab, Host::Edge(1), Host::Edge(1).address(Family::V4), CLUSTER_PORT)?;
        let output = run(lab, &Config::new(lab, &ours, 1, Family::V4), Power::Root)?;
        ensure_refused(lab, "a port in use", &output, &["10.9.2.2:7470", "in use", "hint"])
    })
}

#[test]
fn wrong_usage_has_exit_code_2() -> Result<()> {
    for arguments in [&["run"][..], &["fly"], &["status", "--jsno"], &["owner", "a-call"], &[]] {
        let output = tool(arguments)?;
        ensure!(output.status.code() == Some(2), "forwarder {arguments:?} ended with {}", output.status);
        ensure!(!output.stderr.is_empty(), "forwarder {arguments:?} says nothing");
    }
    Ok(())
}

/// A cluster's authority and a foreign one, each with a certificate for node 1.
fn authorities(lab: &Lab) -> Result<(Authority, Authority)> {
    let address = Host::Edge(1).address(Family::V4).to_string();
    let ours = Authority::init(&lab.folder().join("ours"), "lab")?;
    let foreign = Authority::init(&lab.folder().join("foreign"), "lab")?;
    ours.issue(1, &address)?;
    foreign.issue(1, &address)?;
    for file in ["node-1.key", "cluster.secret"] {
        chown(ours.file(file), Some(NOBODY), Some(NOBODY))?;
    }
    Ok((ours, foreign))
}

/// Runs the daemon of edge 1 to its end, for at most five seconds.
fn run(lab: &Lab, config: &Config, power: Power) -> Result<Output> {
    let path = lab.folder().join("spoilt.toml");
    config.write(&path)?;
    let mut command = lab.host(Host::Edge(1)).command("timeout");
    command.arg("5");
    match power {
        Power::Root => (),
        Power::Powerless => {
            command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
        }
        Power::Nobody => {
            let nobody = NOBODY.to_string();
            command.args(["setpriv", "--clear-groups", "--reuid", &nobody, "--regid", &nobody]);
        }
    }
    command.arg(binary()?).args(["run", "--config"]).arg(&path).env("RUST_LOG", "off");
    Ok(command.output()?)
}

fn ensure_refused(lab: &Lab, what: &str, output: &Output, names: &[&str]) -> Result<()> {
    let errors = String::from_utf8_lossy(&output.stderr);
    eprint!("{what}: {errors}");
    ensure!(output.status.code() == Some(1), "{what}: ended with {}: {errors}", output.status);
    ensure!(errors.lines().count() == 1, "{what}: not one sentence: {errors}");
    let missing: Vec<&&str> = names.iter().filter(|name| !errors.contains(**name)).collect();
    ensure!(missing.is_empty(), "{what}: the sentence lacks {missing:?}: {errors}");
    ensure_nothing(lab, Host::Edge(1), &pin_folder(lab.prefix(), 1))
}
