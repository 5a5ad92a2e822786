//! The command line: what there is to say, and who does it. The only part that prints.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. A failure is one line on the error output.

mod answer;
mod drain;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use forwarder_common::ids::NodeId;

use crate::{
    config::{self, DEFAULT_CONTROL, DEFAULT_PIN_DIR},
    control::{self, Request},
    daemon, dataplane, explain,
    foreign::{self, Harmless},
    identity,
};

/// Sends packets of in-flight SIP transactions to the anycast node that owns them.
#[derive(Debug, Parser)]
#[command(name = "forwarder", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach to the interfaces and forward until SIGTERM (as root)
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration with all that it names; changes nothing
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show what the running daemon does
    Status {
        /// One JSON object on one line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show which node owns a transaction
    Owner {
        /// The Call-ID, as in the message
        call_id: String,
        /// The CSeq number
        cseq: u32,
        /// The branch of the top Via, to ask as for a reply
        branch: Option<String>,
        /// One JSON object on one line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Take the node out of service: its peers take new transactions, it finishes what it owns
    Drain {
        /// Wait until all that it owned has ended, and show how far that is; the node stays drained in any case
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Take the node back into service
    Undrain {
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show what the forwarder reads in a capture of Ethernet frames
    Explain {
        /// A pcap or pcapng file
        file: PathBuf,
        /// One JSON object for each datagram
        #[arg(long)]
        json: bool,
        /// Ask the kernel's program as well (as root)
        #[arg(long)]
        kernel: bool,
        /// Show the keys of this configuration's cluster; without it they are nobody's
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Take the programs off the interfaces and remove their maps (as root)
    Detach {
        /// The configuration, for its `pin_dir`
        #[arg(long, value_name = "FILE", conflicts_with = "pin_dir")]
        config: Option<PathBuf>,
        /// The folder of pinned maps and links
        #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
        pin_dir: PathBuf,
    },
    /// Make certificates for a cluster that has no PKI
    #[command(subcommand)]
    Cluster(Cluster),
}

#[derive(Debug, Subcommand)]
enum Cluster {
    /// Make an authority: ca.pem, ca.key, cluster.secret
    Init {
        /// Folder for the files
        #[arg(long)]
        dir: PathBuf,
        /// Name of the cluster
        #[arg(long)]
        name: String,
    },
    /// Draw a new secret: the files to give to every node, one after the other
    Rotate {
        /// Folder with cluster.secret, and for the files
        #[arg(long)]
        dir: PathBuf,
    },
    /// Sign a node's certificate: node-ID.pem, node-ID.key
    Issue {
        /// Folder of the authority, and for the files
        #[arg(long)]
        dir: PathBuf,
        /// The node's id, 1 to 1023
        #[arg(long, value_name = "ID", value_parser = node_id)]
        node: NodeId,
        /// The node's underlay address
        #[arg(long)]
        address: IpAddr,
    },
}

#[derive(Debug, clap::Args)]
struct Daemon {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    control: PathBuf,
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse().ok().and_then(NodeId::new).ok_or_else(|| format!("a node id is a number from 1 to {}", NodeId::MAX))
}

/// Runs the command in the program's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_harmlessly();
    let mut out = Harmless(io::stdout().lock());
    let done = run(cli.command, &mut out).and_then(|()| out.flush().context("write the answer"));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads through `head` has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With the error output gone too, the exit code is all that is left.
            let _ = writeln!(io::stderr(), "forwarder: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The chain of causes as one line.
fn sentence(error: &anyhow::Error) -> String {
    foreign::line(&format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Logs to the error output, one line a message, whatever is in it.
fn log_harmlessly() {
    let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    log.format(|out, record| {
        let (time, level, target) = (out.timestamp(), record.level(), record.target());
        let style = out.default_level_style(level);
        writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {}", foreign::line(&record.args().to_string()))
    });
    log.init();
}

fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Command::Run { config } => daemon::run(config::load(&config)?),
        Command::Check { config } => check(&config, out),
        Command::Status { json, daemon } => answer::print(ask(&daemon.control, &Request::Status)?, json, out),
        Command::Owner { call_id, cseq, branch, json, daemon } => {
            answer::print(ask(&daemon.control, &Request::Owner { call_id, cseq, branch })?, json, out)
        }
        Command::Drain { wait, daemon } => drain::drain(|request| ask(&daemon.control, &request), wait, out),
        Command::Undrain { daemon } => drain::undrain(|request| ask(&daemon.control, &request), out),
        Command::Explain { file, json, kernel, config } => {
            let hash_key = config.map_or(Ok([0; 2]), |config| hash_key(&config))?;
            let options = explain::Options { file, json, kernel, hash_key };
            explain::run(&options, out)
        }
        Command::Detach { config, pin_dir } => {
            let pin_dir = config.map_or(Ok(pin_dir), |config| config::load(&config).map(|config| config.pin_dir))?;
            let dataplane::Detached { programs, maps } = dataplane::detach(&pin_dir)?;
            let pins = pin_dir.display();
            writeln!(out, "detached {programs} programs, removed {maps} maps from {pins}").context("write the answer")
        }
        Command::Cluster(Cluster::Init { dir, name }) => list(&identity::init(&dir, &name)?, out),
        Command::Cluster(Cluster::Rotate { dir }) => list(&identity::rotate(&dir)?, out),
        Command::Cluster(Cluster::Issue { dir, node, address }) => list(&identity::issue(&dir, node, address)?, out),
    }
}

/// All that `run` looks at before it attaches anything.
fn check(file: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = config::load(file)?;
    identity::load(&config)?;
    identity::secrets(&config.cluster.secret)?;
    config.check_host()?;
    writeln!(out, "{}: ok", file.display()).context("write the answer")
}

fn ask(control: &Path, request: &Request) -> anyhow::Result<control::Response> {
    control::ask(control, request).context("ask the daemon")
}

fn hash_key(config: &Path) -> anyhow::Result<[u64; 2]> {
    Ok(identity::secrets(&config::load(config)?.cluster.secret)?.hash_key)
}

fn list(files: &[PathBuf], out: &mut dyn Write) -> anyhow::Result<()> {
    files.iter().try_for_each(|file| writeln!(out, "wrote {}", file.display())).context("write the answer")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_exit_code_2_and_help_is_0() {
        let table = [
            (&["forwarder"][..], 2),
            (&["forwarder", "run"], 2),
            (&["forwarder", "reboot"], 2),
            (&["forwarder", "owner", "x", "-1"], 2),
            (&["forwarder", "drain", "now"], 2),
            (&["forwarder", "undrain", "--wait"], 2),
            (&["forwarder", "cluster", "rotate"], 2),
            (&["forwarder", "owner", "x", "4294967296"], 2),
            (&["forwarder", "cluster", "issue", "--dir", "d", "--address", "10.0.0.1", "--node", "0"], 2),
            (&["forwarder", "cluster", "issue", "--dir", "d", "--address", "10.0.0.1", "--node", "1024"], 2),
            (&["forwarder", "cluster", "issue", "--dir", "d", "--address", "here", "--node", "1"], 2),
            (&["forwarder", "detach", "--config", "f", "--pin-dir", "d"], 2),
            (&["forwarder", "--help"], 0),
            (&["forwarder", "--version"], 0),
        ];
        for (arguments, code) in table {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(error.exit_code(), code, "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_call_id_may_look_like_an_option() {
        let arguments = ["forwarder", "owner", "--json", "--", "--x@y", "1", "z9hG4bK-1"];
        let Command::Owner { call_id, json, .. } = Cli::try_parse_from(arguments).unwrap().command else {
            panic!("not owner")
        };
        assert_eq!((call_id.as_str(), json), ("--x@y", true));
    }

    #[test]
    fn an_error_is_one_line() {
        let error = anyhow::anyhow!("first\nsecond").context("read x");
        assert_eq!(sentence(&error), "read x: first second");
        let error = anyhow::anyhow!("it says \x1b[2J\u{9b}");
        assert_eq!(sentence(&error), "it says \\u001b[2J\\u009b");
    }
}
