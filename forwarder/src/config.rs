//! The configuration file: TOML, checked whole before anything is attached.
//!
//! Every refusal is one sentence that names the line, the key and a way out. Paths come out absolute, relative ones
//! counted from the file's folder. What a later part of the program uses is checked here all the same.

mod read;
mod section;
mod types;

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

pub use self::{
    read::parse,
    types::{
        Affinity, Cluster, Config, DEFAULT_CLAIMS, DEFAULT_CONTROL, DEFAULT_FAILURES, DEFAULT_HOOK_S, DEFAULT_KEEP_UP,
        DEFAULT_PIN_DIR, DEFAULT_PROBE_MS, Deny, Hooks, MAX_CLAIMS, MAX_CLUSTER_NAME, MAX_DENIED, MAX_INTERFACE_NAME,
        MAX_SEEDS, MIN_CLAIMS, Probe, Service, Timers, XdpMode, interfaces_present, is_cluster_name,
    },
};

/// Reads and checks a file.
///
/// # Errors
/// One sentence: the file, the line, the key, what is wrong and a hint.
pub fn load(file: &Path) -> anyhow::Result<Config> {
    let name = file.display();
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => bail!("read {name}: {error}; hint: name the configuration with --config FILE"),
    };
    let absolute = std::path::absolute(file).with_context(|| format!("find the folder of {name}"))?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let config = parse(&text, folder).with_context(|| format!("read {name}"))?;
    Ok(Config { file: Some(absolute), ..config })
}
