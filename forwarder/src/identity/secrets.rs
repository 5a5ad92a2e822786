//! The keys of claim hash and tunnel tag, derived from the cluster's secrets.
//!
//! The file names its parts: one line `hash` that stays, and a line `tag` for the current secret and one for the other
//! while it is being replaced. A file of one bare line, as earlier versions wrote it, is both the `hash` and the `tag`.
//! Which of the two tag keys is the even one and which the odd is a property of each secret, not of its place in the
//! file, so that nodes agree on it while some have the new file and some the old.

use std::{fmt, path::Path};

use anyhow::{anyhow, bail};
use ring::{
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};

use super::files::read;

/// Draws of a new secret, half of which have the wrong key epoch: that all do is as likely as a guessed key.
const DRAWS: usize = 128;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Secrets of the tag in one file: the current one and the one before or after it.
const MAX_TAGS: usize = 2;
const SALT: &[u8] = b"forwarder";
/// What a line of the file must be.
const FORM: &str = "`hash` or `tag` and 64 hex digits";
/// The way out of most mistakes: a secret that one node alone has is of no use.
const COPY: &str = "copy the file from another node rather than invent a secret";

/// Keys for SipHash, derived with HKDF-SHA256 (RFC 5869).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    /// Key of the claim hash.
    pub hash_key: [u64; 2],
    /// Keys of the tunnel tag by key epoch, 0 and 1; the one that no secret in the file has is known to nobody.
    pub tag_key: [[u64; 2]; 2],
    /// The key epoch of the current secret of the tag, 0 or 1: the one to send with.
    pub tag_epoch: u8,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secrets {{ tag_epoch: {}, .. }}", self.tag_epoch)
    }
}

/// The file of a new cluster: a `hash` and a `tag`.
///
/// # Errors
/// The system has no random bytes.
pub(super) fn new_file() -> anyhow::Result<String> {
    Ok(text(&new_secret()?, &[&new_secret()?]))
}

/// Draws a new secret of the tag beside the one in the file at `path`: the texts of the files that every node gets one
/// after another in its place, with old and new, new and old, and new. Their `hash` is the old file's.
///
/// # Errors
/// The file is of no use or has two secrets of the tag already, or the system has no random bytes.
pub(super) fn successors(path: &Path) -> anyhow::Result<[String; 3]> {
    let File { hash, tags } = File::read(path)?;
    let [old] = tags.as_slice() else {
        let (name, many) = (path.display(), tags.len());
        bail!("read secret {name}: it has {many} `tag` lines; hint: finish the replacement that is under way first");
    };
    for _ in 0..DRAWS {
        let drawn = new_secret()?;
        if decode(&drawn).is_some_and(|secret| Root::new(&secret).epoch() != old.root.epoch()) {
            let (old, new) = (old.digits.as_str(), drawn.as_str());
            return Ok([&[old, new][..], &[new, old], &[new]].map(|tags| text(&hash.digits, tags)));
        }
    }
    bail!("draw a new secret: every draw had the key epoch of the old one; hint: try again")
}

/// Reads the file of the cluster's secrets and derives the keys.
///
/// # Errors
/// The file is missing or unreadable, a line is of another form, or a part is missing or there too often; one sentence
/// with a hint.
pub fn secrets(path: &Path) -> anyhow::Result<Secrets> {
    let File { hash, tags } = File::read(path)?;
    let name = path.display();
    match tags.as_slice() {
        [current] => Ok(keys(&hash.root, &current.root, None)),
        [current, other] if current.root.epoch() == other.root.epoch() => bail!(
            "read secret {name}: its two `tag` lines have the same key epoch ({}); hint: draw another new one \
             (half of all are of the other epoch), or let `forwarder cluster rotate` do it",
            current.root.epoch()
        ),
        [current, other] => Ok(keys(&hash.root, &current.root, Some(&other.root))),
        other => bail!(
            "read secret {name}: it has {} `tag` lines; hint: keep the current one and the one before or after it \
             ({MAX_TAGS} lines)",
            other.len()
        ),
    }
}

/// What a file of the cluster's secrets holds.
struct File {
    hash: Secret,
    /// One at least, the current one first.
    tags: Vec<Secret>,
}

/// A secret as written and as extracted.
#[derive(Clone)]
struct Secret {
    digits: String,
    root: Root,
}

/// The part of the secrets that a line holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Hash,
    Tag,
    /// An earlier version's line: digits alone.
    Bare,
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let (name, bytes) = (path.display(), read(path, "secret")?);
        let text = String::from_utf8_lossy(&bytes);
        let (mut hash, mut tags, mut bare) = (None, Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = index + 1;
            // The line itself stays out of the sentence: logs are read by others.
            let Some((part, secret)) = Secret::of_line(line) else {
                bail!("read secret {name}: line {number} is not {FORM}; hint: {COPY}");
            };
            match part {
                Part::Hash if hash.is_some() => bail!(
                    "read secret {name}: line {number} is a second `hash` line; hint: {COPY}, and give every node \
                     another `hash` at once"
                ),
                Part::Hash => hash = Some(secret),
                Part::Tag => tags.push(secret),
                Part::Bare => bare.push(secret),
            }
        }
        match (hash, bare.as_slice()) {
            (Some(hash), []) if !tags.is_empty() => Ok(Self { hash, tags }),
            (Some(_), []) => bail!("read secret {name}: it has no `tag` line; hint: {COPY}"),
            (None, []) if !tags.is_empty() => bail!("read secret {name}: it has no `hash` line; hint: {COPY}"),
            (None, []) => bail!(
                "read secret {name}: it is empty; hint: copy the file from another node, or make a new cluster's with \
                 `forwarder cluster init`"
            ),
            (None, [both]) if tags.is_empty() => Ok(Self { hash: both.clone(), tags: vec![both.clone()] }),
            (None, [_, _]) if tags.is_empty() => bail!(
                "read secret {name}: it has two lines without `hash` or `tag`, as an earlier version wrote them while \
                 the secret was replaced; hint: finish that replacement with the earlier version first, on every node"
            ),
            _ => bail!("read secret {name}: some of its lines do not begin with `hash` or `tag`; hint: {COPY}"),
        }
    }
}

impl Secret {
    /// The secret on a line of the file, and which part it is; `None` if the line is of another form.
    fn of_line(line: &str) -> Option<(Part, Self)> {
        let mut words = line.split_whitespace();
        let (part, digits) = match (words.next()?, words.next(), words.next()) {
            ("hash", Some(digits), None) => (Part::Hash, digits),
            ("tag", Some(digits), None) => (Part::Tag, digits),
            (digits, None, None) => (Part::Bare, digits),
            _ => return None,
        };
        Some((part, Self { digits: digits.to_owned(), root: Root::new(&decode(digits)?) }))
    }
}

/// A new secret in 64 hex digits.
fn new_secret() -> anyhow::Result<String> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| anyhow!("draw a secret: the system gives no random bytes"))?;
    Ok(secret.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file's text.
fn text(hash: &str, tags: &[&str]) -> String {
    let tags = tags.iter().map(|tag| format!("tag {tag}\n"));
    [format!("hash {hash}\n")].into_iter().chain(tags).collect()
}

fn keys(hash: &Root, current: &Root, other: Option<&Root>) -> Secrets {
    let own = current.derive(b"tunnel tag");
    // Nobody sends with it, and nobody can guess it: a tag of that epoch is always wrong.
    let other = other.map_or_else(|| current.derive(b"no tunnel tag"), |root| root.derive(b"tunnel tag"));
    let tag_epoch = current.epoch();
    let tag_key = if tag_epoch == 0 { [own, other] } else { [other, own] };
    Secrets { hash_key: hash.derive(b"claim hash"), tag_key, tag_epoch }
}

/// A secret after HKDF's extraction.
#[derive(Clone)]
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
