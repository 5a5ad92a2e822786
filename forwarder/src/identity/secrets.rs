//! The keys of claim hash and tunnel tag, derived from the cluster's secret.
//!
//! The file holds lines of 64 hex digits: the current secret, then the other one while it is being replaced.
//! Which of the two tag keys is the even one and which the odd is a property of each secret, not of its place in the
//! file, so that nodes agree on it while some have the new file and some the old.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::bail;
use ring::hkdf;

use super::{
    issue::{PRIVATE, new_secret, write_new},
    read,
};

/// Draws of a new secret, half of which have the wrong key epoch: that all do is as likely as a guessed key.
const DRAWS: usize = 128;
/// The files of a rotation, in the order in which every node gets them.
const STEPS: [&str; 3] = ["cluster.secret.1-both", "cluster.secret.2-new-first", "cluster.secret.3-new"];
/// Bytes of a secret.
pub(super) const SECRET_BYTES: usize = 32;
/// Secrets in one file: the current and the previous.
const MAX_SECRETS: usize = 2;
const SALT: &[u8] = b"forwarder";

/// Keys for SipHash, derived with HKDF-SHA256 (RFC 5869).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    /// Key of the claim hash, from the current secret.
    pub hash_key: [u64; 2],
    /// Key of the claim hash from the other secret, while there are two: claims are made and looked up under both.
    pub previous_hash_key: Option<[u64; 2]>,
    /// Keys of the tunnel tag by key epoch, 0 and 1; the one that no secret in the file has is known to nobody.
    pub tag_key: [[u64; 2]; 2],
    /// The key epoch of the current secret, 0 or 1: the one to send with.
    pub tag_epoch: u8,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secrets {{ tag_epoch: {}, .. }}", self.tag_epoch)
    }
}

/// Draws a new secret beside the one in `cluster.secret` in folder `dir`, and writes the files that every node gets one after
/// another in place of its own: old and new, new and old, new. Returns their paths in that order.
///
/// # Errors
/// No `cluster.secret` in `dir` or not one secret in it, or a file that is there already or cannot be written.
pub fn rotate(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let file = dir.join("cluster.secret");
    let lines = read_lines(&file)?;
    let [(old, root)] = lines.as_slice() else {
        let (name, many) = (file.display(), lines.len());
        bail!("read secret {name}: it has {many} secrets; hint: finish the replacement that is under way first");
    };
    for _ in 0..DRAWS {
        let line = new_secret()?;
        let new = line.trim();
        if decode(new).is_some_and(|secret| Root::new(&secret).epoch() != root.epoch()) {
            let texts = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")];
            let [first, second, third] = texts;
            let [one, two, three] = STEPS;
            return write_new(dir, &[(one, PRIVATE, first), (two, PRIVATE, second), (three, PRIVATE, third)]);
        }
    }
    bail!("draw a new secret: every draw had the key epoch of the old one; hint: try again")
}

/// Reads the file of the cluster's secret and derives the keys.
///
/// # Errors
/// The file is missing or unreadable, or a line is not 64 hex digits; one sentence with a hint.
pub fn secrets(path: &Path) -> anyhow::Result<Secrets> {
    let (name, lines) = (path.display(), read_lines(path)?);
    let found: Vec<_> = lines.into_iter().map(|(_, root)| root).collect();
    match found.as_slice() {
        [] => bail!("read secret {name}: it is empty; hint: put in one line of 64 hex digits"),
        [current] => Ok(keys(current, None)),
        [current, previous] if current.epoch() == previous.epoch() => bail!(
            "read secret {name}: its two secrets have the same key epoch ({}); hint: draw another new one \
             (half of all are of the other epoch), or let `forwarder cluster rotate` do it",
            current.epoch()
        ),
        [current, previous] => Ok(keys(current, Some(previous))),
        more => bail!(
            "read secret {name}: it has {} secrets; hint: keep the current and the previous ({MAX_SECRETS} lines)",
            more.len()
        ),
    }
}

/// The secrets of a file, as written and extracted.
fn read_lines(path: &Path) -> anyhow::Result<Vec<(String, Root)>> {
    let (name, bytes) = (path.display(), read(path, "secret")?);
    let text = String::from_utf8_lossy(&bytes);
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // The line itself stays out of the sentence: logs are read by others.
        let Some(secret) = decode(line.trim()) else {
            let number = index + 1;
            bail!(
                "read secret {name}: line {number} is not 64 hex digits; hint: `openssl rand -hex 32` makes such a line"
            );
        };
        found.push((line.trim().to_owned(), Root::new(&secret)));
    }
    Ok(found)
}

fn keys(current: &Root, previous: Option<&Root>) -> Secrets {
    let own = current.derive(b"tunnel tag");
    // Nobody sends with it, and nobody can guess it: a tag of that epoch is always wrong.
    let other = previous.map_or_else(|| current.derive(b"no tunnel tag"), |root| root.derive(b"tunnel tag"));
    let tag_epoch = current.epoch();
    let tag_key = if tag_epoch == 0 { [own, other] } else { [other, own] };
    let previous_hash_key = previous.map(|root| root.derive(b"claim hash"));
    Secrets { hash_key: current.derive(b"claim hash"), previous_hash_key, tag_key, tag_epoch }
}

/// A secret after HKDF's extraction.
struct Root(hkdf::Prk);

impl Root {
    fn new(secret: &[u8; SECRET_BYTES]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret))
    }

    fn epoch(&self) -> u8 {
        let [word, _] = self.derive(b"key epoch");
        u8::from(word & 1 == 1)
    }

    fn derive(&self, purpose: &[u8]) -> [u64; 2] {
        let mut bytes = [0; 16];
        let parts = [purpose];
        // Sixteen bytes are far below HKDF's limit, so neither step can fail; a failure would leave the zero key.
        let done = self.0.expand(&parts, Sixteen).and_then(|output| output.fill(&mut bytes));
        debug_assert!(done.is_ok(), "HKDF gives sixteen bytes");
        let whole = u128::from_le_bytes(bytes);
        [whole as u64, (whole >> 64) as u64]
    }
}

struct Sixteen;

impl hkdf::KeyType for Sixteen {
    fn len(&self) -> usize {
        16
    }
}

fn decode(line: &str) -> Option<[u8; SECRET_BYTES]> {
    if line.len() != 2 * SECRET_BYTES {
        return None;
    }
    let mut secret = [0; SECRET_BYTES];
    for (to, pair) in secret.iter_mut().zip(line.as_bytes().chunks(2)) {
        let digits = pair.iter().map(|digit| char::from(*digit).to_digit(16)).collect::<Option<Vec<_>>>()?;
        *to = digits.iter().fold(0, |byte, digit| (byte << 4) | u8::try_from(*digit).unwrap_or(0));
    }
    Some(secret)
}
