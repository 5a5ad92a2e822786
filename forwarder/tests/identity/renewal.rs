//! Files that change while the daemon runs.

use std::{fs, path::Path};

use forwarder::{
    config,
    identity::{self, Change, Identity, Watch},
};
use rcgen::SanType;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use super::{CONFIG, cluster, node, reissue};

struct Running {
    folder: TempDir,
    watch: Watch,
}

impl Running {
    /// A node whose daemon has just read its files.
    fn start() -> Self {
        let folder = cluster("edge");
        fs::write(folder.path().join("edge.toml"), CONFIG).unwrap();
        let config = config::load(&folder.path().join("edge.toml")).unwrap();
        identity::load(&config).unwrap();
        let watch = Watch::new(&config, identity::secrets(&config.cluster.secret).unwrap());
        Self { folder, watch }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What the second look after a change finds; the first one leaves it time to rest.
    fn changes(&mut self) -> Vec<Result<Change, String>> {
        assert!(self.watch.look().is_empty(), "files that have just changed are left to rest");
        let changes = self.watch.look().into_iter().map(|change| change.map_err(|error| format!("{error:#}")));
        let changes = changes.collect();
        assert!(self.watch.look().is_empty(), "a change is told once");
        changes
    }

    fn identity(&mut self) -> Identity {
        match self.changes().pop() {
            Some(Ok(Change::Identity(identity))) => *identity,
            other => panic!("no new identity: {other:?}"),
        }
    }

    fn complaints(&self) -> Vec<&str> {
        self.watch.complaints().collect()
    }
}

#[test]
fn nothing_is_told_while_nothing_changes() {
    let mut running = Running::start();
    assert!(running.changes().is_empty());
}

#[test]
fn a_new_certificate_is_taken_up_and_one_without_its_key_is_not() {
    let mut running = Running::start();
    let key = running.path().join("node-1.key");
    let old_key = fs::read_to_string(&key).unwrap();
    reissue(running.path(), |params| params.not_after = rcgen::date_time_ymd(2090, 1, 2));
    let new_key = fs::read_to_string(&key).unwrap();
    fs::write(&key, old_key).unwrap();
    let changes = running.changes();
    let [Err(error)] = changes.as_slice() else { panic!("{changes:?}") };
    assert!(error.starts_with("take up changed files; those before them stay in use: check key "), "{error}");
    assert!(error.contains("it is not the key of "), "{error}");
    assert_eq!(running.complaints(), [error.as_str()]);
    fs::write(&key, new_key).unwrap();
    assert_eq!(running.identity().expires(), "2090-01-02T00:00:00Z");
    assert!(running.complaints().is_empty());
}

#[test]
fn a_file_that_is_gone_for_a_moment_is_a_complaint_and_no_end() {
    let mut running = Running::start();
    let (ca, aside) = (running.path().join("ca.pem"), running.path().join("aside"));
    fs::rename(&ca, &aside).unwrap();
    let changes = running.changes();
    assert!(matches!(changes.as_slice(), [Err(error)] if error.contains("No such file")), "{changes:?}");
    fs::rename(&aside, &ca).unwrap();
    running.identity();
    assert!(running.complaints().is_empty());
}

#[test]
fn two_authorities_are_trusted_while_one_takes_the_others_place() {
    let (mut running, next) = (Running::start(), cluster("edge"));
    let pem = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let (old, new) = (pem(running.path(), "ca.pem"), pem(next.path(), "ca.pem"));
    let old_peer = identity::load(&super::config(running.path())).unwrap().chain;
    let new_peer = identity::load(&super::config(next.path())).unwrap().chain;
    let ca = running.path().join("ca.pem");
    fs::write(&ca, old.clone() + &new).unwrap();
    let both = running.identity();
    assert_eq!(both.admit_again(&old_peer).map(|peer| peer.node), Ok(node(1)));
    assert_eq!(both.admit_again(&new_peer).map(|peer| peer.node), Ok(node(1)));
    // The own certificate is the old one's still: `ca` with the new one alone is refused.
    fs::write(&ca, &new).unwrap();
    assert!(matches!(running.changes().as_slice(), [Err(error)] if error.contains("it is not signed by")));
    for file in ["node-1.pem", "node-1.key"] {
        fs::copy(next.path().join(file), running.path().join(file)).unwrap();
    }
    let last = running.identity();
    assert!(last.admit_again(&old_peer).is_err());
    assert!(last.admit_again(&new_peer).is_ok());
}

#[test]
fn the_list_of_the_denied_is_read_anew_and_nothing_else_of_the_configuration() {
    let mut running = Running::start();
    let file = running.path().join("edge.toml");
    let peer = |running: &Running, id: u16| {
        let name = format!("node-{id}.pem");
        identity::issue(running.path(), node(id), super::ADDRESS).unwrap();
        let own = fs::read(running.path().join(name)).unwrap();
        CertificateDer::pem_slice_iter(&own).map(Result::unwrap).collect::<Vec<_>>()
    };
    let (two, three) = (peer(&running, 2), peer(&running, 3));
    let hash = ring::digest::digest(&ring::digest::SHA256, three.first().unwrap());
    let fingerprint: Vec<_> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let deny = format!("deny = [2, \"{}\"]\n", fingerprint.join(":"));
    fs::write(&file, CONFIG.replace("[cluster]\n", &format!("[cluster]\n{deny}")).replace("node = 1", "node = 9"))
        .unwrap();
    let identity = running.identity();
    assert_eq!(identity.node, node(1), "it is as it was started");
    let denied = |chain: &[CertificateDer<'_>]| identity.admit(chain).unwrap_err();
    assert_eq!(denied(&two), "node 2 is denied by this node's configuration");
    assert_eq!(denied(&three), "a certificate of node 3 is denied by this node's configuration");
    assert!(identity.admit(&identity.chain).is_ok());

    fs::write(&file, CONFIG.replace("[cluster]\n", "[cluster]\ndeny = [0]\n")).unwrap();
    assert!(matches!(running.changes().as_slice(), [Err(error)] if error.contains("`deny` in [cluster] has 0")));
    fs::write(&file, CONFIG).unwrap();
    assert!(running.identity().admit(&two).is_ok());
}

#[test]
fn a_node_whose_own_certificate_is_denied_says_so() {
    let folder = cluster("edge");
    let own = identity::load(&super::config(folder.path())).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, own.chain.first().unwrap());
    let mut config = super::config(folder.path());
    config.cluster.deny.fingerprints.insert(hash.as_ref().try_into().unwrap());
    let error = format!("{:#}", identity::load(&config).unwrap_err());
    let expected = "a certificate of node 1 is denied by this node's configuration; hint: correct `deny`";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_secret_is_taken_up_step_by_step_and_a_bad_one_is_not() {
    let mut running = Running::start();
    let file = running.path().join("cluster.secret");
    let steps = identity::rotate(running.path()).unwrap();
    for step in &steps {
        fs::copy(step, &file).unwrap();
        let expected = identity::secrets(step).unwrap();
        let changes = running.changes();
        assert!(matches!(changes.as_slice(), [Ok(Change::Secrets(found))] if *found == expected), "{changes:?}");
    }
    fs::write(&file, "half a li").unwrap();
    assert!(matches!(
        running.changes().as_slice(),
        [Err(error)] if error.contains("line 1 is not `hash` or `tag` and 64 hex digits")
    ));
    assert_eq!(running.complaints().len(), 1);
    fs::copy(steps.last().unwrap(), &file).unwrap();
    assert!(running.changes().is_empty(), "the same keys again are no change");
    assert!(running.complaints().is_empty());
}

#[test]
fn certificates_are_warned_of_from_thirty_days_before_their_end() {
    let folder = cluster("edge");
    let own = identity::load(&super::config(folder.path())).unwrap();
    let days = |days: i64| own.warnings(own.expires_s - days * 86_400);
    assert!(days(30).is_empty());
    let start = |sentences: &[String]| sentences.first().map(|all| all.split(" (").next().unwrap().to_owned());
    assert_eq!(start(&days(29)).as_deref(), Some("this node's certificate ends in 29 days"));
    assert_eq!(start(&days(1)).as_deref(), Some("this node's certificate ends in a day"));
    assert_eq!(start(&days(0)).as_deref(), Some("this node's certificate ends within a day"));
    assert_eq!(start(&days(-1)).as_deref(), Some("this node's certificate has ended"));
    assert_eq!(days(29).len(), 1);
    let both = own.warnings(own.roots_expire_s - 86_400);
    assert!(both.len() == 2 && both[1].starts_with("a certificate in `ca` ends in a day ("), "{both:?}");
}

#[test]
fn the_end_of_a_certificate_in_between_counts_as_the_nodes_own() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str, year: i32| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params
    };
    let key = || rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertifiedIssuer::self_signed(authority("root", 2095), key()).unwrap();
    let between = rcgen::CertifiedIssuer::signed_by(authority("between", 2091), key(), &root).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("forwarder://edge/node/1".try_into().unwrap())];
    params.not_after = rcgen::date_time_ymd(2093, 1, 1);
    let own_key = key();
    let own = params.signed_by(&own_key, &between).unwrap();
    let write = |file: &str, text: String| fs::write(folder.path().join(file), text).unwrap();
    write("ca.pem", root.pem());
    write("node-1.key", own_key.serialize_pem());
    write("node-1.pem", own.pem() + &between.pem());
    let identity = identity::load(&super::config(folder.path())).unwrap();
    assert_eq!(identity.expires(), "2091-01-01T00:00:00Z");
    assert_eq!(identity::rfc3339(identity.roots_expire_s), "2095-01-01T00:00:00Z");
    assert_eq!(identity.admit(&identity.chain).map(|peer| peer.expires_s), Ok(identity.expires_s));
}
