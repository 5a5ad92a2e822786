//! The files that `[cluster]` names, with a sentence for what is wrong with them.

use std::{fs, path::Path};

use anyhow::{anyhow, bail};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// The certificates of the PEM file that `key` in `[cluster]` names, at least one.
pub(super) fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let (name, text) = (path.display(), read(path, key)?);
    let list = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let list =
        list.map_err(|error| anyhow!("read {key} {name}: it is no PEM file ({error}); hint: convert it to PEM"))?;
    if list.is_empty() {
        bail!("read {key} {name}: there is no certificate in it; hint: `{key}` in [cluster] names a PEM file with one");
    }
    Ok(list)
}

/// The bytes of the file that `key` in `[cluster]` names.
pub(super) fn read(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all other errors have one hint, and there are new ones with each Rust"
        )]
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "make it with `forwarder cluster init` and `forwarder cluster issue`",
            std::io::ErrorKind::PermissionDenied => "run as its owner or as root",
            _ => "see what the path leads to",
        };
        anyhow!("read {key} {}: {error}; hint: {hint}, or correct `{key}` in [cluster]", path.display())
    })
}
