//! `cluster init` and `cluster issue`: an authority in a folder, for those who have no PKI.
//!
//! Keys are ECDSA P-256. Nothing is ever overwritten; private files are readable by their owner alone.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use forwarder_common::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::parse_x509_certificate;

use super::{peer::uri, secrets};
use crate::config::is_cluster_name;

/// Days that an authority's certificate lasts: ten years.
pub const CA_DAYS: i64 = 3650;
/// Days that a node's certificate lasts: two years.
pub const NODE_DAYS: i64 = 730;
/// The file of the cluster's secrets.
const SECRET: &str = "cluster.secret";
/// The files of a rotation, in the order in which every node gets them.
const STEPS: [&str; 3] = ["cluster.secret.1-both", "cluster.secret.2-new-first", "cluster.secret.3-new"];
/// A certificate starts a little before it is made: clocks differ.
const BEFORE: Duration = Duration::hours(1);
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Makes the authority of cluster `name` in folder `dir`: `ca.pem`, `ca.key`, `cluster.secret`. Returns their paths.
///
/// # Errors
/// A name that cannot stand in a URI, a file that is there already, or one that cannot be written.
pub fn init(dir: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    if !is_cluster_name(name) {
        bail!("\"{name}\" names no cluster; hint: use 1 to 64 letters, digits, dots, underscores and dashes");
    }
    let key = KeyPair::generate().context("make a key")?;
    let mut params = lasting(CA_DAYS);
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "forwarder cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).context("sign the authority's certificate")?;
    write_new(
        dir,
        &[
            ("ca.pem", PUBLIC, certificate.pem()),
            ("ca.key", PRIVATE, key.serialize_pem()),
            (SECRET, PRIVATE, secrets::new_file()?),
        ],
    )
}

/// Signs a certificate for `node` with the authority in `dir`: `node-ID.pem`, `node-ID.key`. Returns their paths.
///
/// # Errors
/// No authority in `dir`, a file that is there already, or one that cannot be written.
pub fn issue(dir: &Path, node: NodeId, address: IpAddr) -> anyhow::Result<Vec<PathBuf>> {
    let (cluster, issuer) = authority(dir)?;
    let id = node.number();
    let key = KeyPair::generate().context("make a key")?;
    let mut params = lasting(NODE_DAYS);
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} node {id}"));
    let name = uri(&cluster, id);
    let name = name.as_str().try_into().with_context(|| format!("put {name} into a certificate"))?;
    params.subject_alt_names = vec![SanType::URI(name), SanType::IpAddress(address)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).context("sign the node's certificate")?;
    let (public, private) = (format!("node-{id}.pem"), format!("node-{id}.key"));
    write_new(dir, &[(&public, PUBLIC, certificate.pem()), (&private, PRIVATE, key.serialize_pem())])
}

/// Draws a new secret for the tunnel's tag and writes the three files that replace `cluster.secret` in folder `dir` on
/// every node, one after another. Returns their paths in that order.
///
/// # Errors
/// No `cluster.secret` in `dir`, one that is of no use or being replaced already, or a file that is there already or
/// cannot be written.
pub fn rotate(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let [first, second, third] = secrets::successors(&dir.join(SECRET))?;
    let [one, two, three] = STEPS;
    write_new(dir, &[(one, PRIVATE, first), (two, PRIVATE, second), (three, PRIVATE, third)])
}

fn lasting(days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - BEFORE;
    params.not_after = now + Duration::days(days);
    params
}

/// The cluster's name and the signing half of the authority in `dir`.
fn authority(dir: &Path) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).map_err(|error| {
            let hint = "`forwarder cluster init --dir DIR --name NAME` makes an authority";
            anyhow!("read {}: {error}; hint: {hint}", path.display())
        })
    };
    let (certificate, key) = (read("ca.pem")?, read("ca.key")?);
    let damaged = |file: &str, why: &dyn std::fmt::Display| {
        anyhow!("read {}: {why}; hint: it must be as `cluster init` wrote it", dir.join(file).display())
    };
    let key = KeyPair::from_pem(&key).map_err(|error| damaged("ca.key", &error))?;
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| damaged("ca.pem", &error))?;
    let (_, parsed) = parse_x509_certificate(&der).map_err(|error| damaged("ca.pem", &error))?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let Some(name) = name.filter(|name| is_cluster_name(name)) else {
        return Err(damaged("ca.pem", &"its common name is not a cluster's"));
    };
    let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| damaged("ca.pem", &error))?;
    Ok((name.to_owned(), issuer))
}

/// Writes files that must not be there yet: all of them or none.
fn write_new(dir: &Path, files: &[(&str, u32, String)]) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
    let mut written = Vec::new();
    for (name, mode, text) in files {
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path);
        let made = file.is_ok();
        let done = file.and_then(|mut file| file.write_all(text.as_bytes()));
        if made {
            written.push(path.clone());
        }
        if let Err(error) = done {
            for path in &written {
                // What cannot be removed is named by the next attempt, which refuses to overwrite it.
                let _ = fs::remove_file(path);
            }
            let hint = if error.kind() == std::io::ErrorKind::AlreadyExists {
                "nothing is overwritten; remove it first, or name another --dir"
            } else {
                "name a folder that can be written with --dir"
            };
            bail!("write {}: {error}; hint: {hint}", path.display());
        }
    }
    Ok(written)
}
