//! Certificates and secrets as the daemon meets them: its own, a stranger's, an old one, a damaged one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "identity/pki.rs"]
mod existing_pki;
#[path = "identity/renewal.rs"]
mod renewal;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use forwarder::{
    config::{self, Config},
    identity,
};
use forwarder_common::ids::NodeId;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tempfile::TempDir;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 2, 2));

fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

/// A folder with an authority of `name` and node 1's certificate.
fn cluster(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    identity::init(folder.path(), name).unwrap();
    identity::issue(folder.path(), node(1), ADDRESS).unwrap();
    folder
}

const CONFIG: &str = r#"
        node = 1
        interfaces = ["eth0"]
        underlay = "10.9.2.2"
        [[service]]
        vip = "192.0.2.10"
        port = 5060
        [cluster]
        name = "edge"
        listen = "10.9.2.2:7470"
        seeds = []
        ca = "ca.pem"
        certificate = "node-1.pem"
        key = "node-1.key"
        secret = "cluster.secret"
    "#;

fn config(dir: &Path) -> Config {
    config::parse(CONFIG, dir).unwrap()
}

/// The sentence of a refusal, with the folder's name taken out.
fn refusal(dir: &Path) -> String {
    let error = format!("{:#}", identity::load(&config(dir)).unwrap_err());
    error.replace(&format!("{}/", dir.display()), "")
}

/// Replaces node 1's certificate by one of the same authority that `change` has changed.
fn reissue(dir: &Path, change: impl FnOnce(&mut CertificateParams)) {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(dir.join("ca.key")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(dir.join("ca.pem")).unwrap(), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("forwarder://edge/node/1".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("node-1.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join("node-1.key"), key.serialize_pem()).unwrap();
}

#[test]
fn an_issued_certificate_is_this_nodes_and_lasts_two_years() {
    let folder = cluster("edge");
    let own = identity::load(&config(folder.path())).unwrap();
    assert_eq!((own.node, own.cluster.as_str(), own.chain.len()), (node(1), "edge", 1));
    assert_eq!(identity::peer_id(own.chain.first().unwrap(), "edge"), Ok(node(1)));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    // A day may begin between the two looks at the clock.
    assert!((729..=730).contains(&own.days_left(now)), "{}", own.days_left(now));
    assert_eq!(own.days_left(own.expires_s + 1), -1);
    assert_eq!(own.expires(), identity::rfc3339(own.expires_s));
}

#[test]
fn private_files_are_for_their_owner_alone() {
    let folder = cluster("edge");
    let mode = |file: &str| fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["ca.key", "cluster.secret", "node-1.key"].map(mode), [0o600; 3]);
}

#[test]
fn a_certificate_of_an_existing_pki_with_the_san_uri_is_taken() {
    let folder = cluster("edge");
    reissue(folder.path(), |params| {
        params.subject_alt_names.push(SanType::DnsName("edge-1.example.org".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://example.org/edge".try_into().unwrap()));
    });
    assert_eq!(identity::load(&config(folder.path())).unwrap().node, node(1));
    reissue(folder.path(), |params| params.extended_key_usages.clear());
    assert_eq!(identity::load(&config(folder.path())).unwrap().node, node(1));
}

#[test]
fn a_certificate_with_an_authority_in_between_is_taken_if_that_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    };
    let key = || KeyPair::generate().unwrap();
    let root = rcgen::CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
    let between = rcgen::CertifiedIssuer::signed_by(authority("between"), key(), &root).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("forwarder://edge/node/1".try_into().unwrap())];
    let own_key = key();
    let own = params.signed_by(&own_key, &between).unwrap();
    let write = |file: &str, text: String| fs::write(folder.path().join(file), text).unwrap();
    write("ca.pem", root.pem());
    write("node-1.key", own_key.serialize_pem());
    write("node-1.pem", own.pem() + &between.pem());
    assert_eq!(identity::load(&config(folder.path())).unwrap().chain.len(), 2);
    write("node-1.pem", own.pem());
    assert!(refusal(folder.path()).contains("it is not signed by ca.pem; "));
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let (folder, stranger) = (cluster("edge"), cluster("edge"));
    for file in ["node-1.pem", "node-1.key"] {
        fs::copy(stranger.path().join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(
        refusal(folder.path()),
        "check certificate node-1.pem: it is not signed by ca.pem; \
         hint: issue it with that authority's key, or correct `ca`"
    );
}

#[test]
fn a_certificate_outside_its_time_is_refused() {
    let folder = cluster("edge");
    reissue(folder.path(), |params| params.not_after = rcgen::date_time_ymd(2020, 1, 2));
    assert_eq!(
        refusal(folder.path()),
        "check certificate node-1.pem: it, or one it depends on, has expired (its own end: 2020-01-02T00:00:00Z); \
         hint: issue a new one"
    );
    reissue(folder.path(), |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1));
    assert_eq!(
        refusal(folder.path()),
        "check certificate node-1.pem: it is not valid yet; hint: set this host's clock"
    );
}

#[test]
fn a_certificate_that_names_another_node_or_cluster_or_none_is_refused() {
    let folder = cluster("edge");
    let name = |uri: &str| {
        let uri = SanType::URI(uri.try_into().unwrap());
        reissue(folder.path(), |params| params.subject_alt_names = vec![uri]);
        refusal(folder.path())
    };
    assert_eq!(
        name("forwarder://edge/node/2"),
        "check certificate node-1.pem: it is node 2's, and the configuration says node 1; \
         hint: correct `node` or name node 1's certificate"
    );
    assert_eq!(
        name("forwarder://core/node/1"),
        "check certificate node-1.pem: it belongs to cluster \"core\"; \
         hint: correct `name` in [cluster], or issue it with this cluster's authority"
    );
    assert_eq!(
        name("https://example.org/edge-1"),
        "check certificate node-1.pem: it names no node (no SAN URI forwarder://…); \
         hint: issue it with the SAN URI forwarder://edge/node/1"
    );
}

#[test]
fn a_certificate_for_servers_only_is_refused() {
    let folder = cluster("edge");
    for usage in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        reissue(folder.path(), |params| params.extended_key_usages = vec![usage]);
        assert_eq!(
            refusal(folder.path()),
            "check certificate node-1.pem: it must be allowed for both TLS server and client; \
             hint: issue it with both extended key usages"
        );
    }
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let folder = cluster("edge");
    identity::issue(folder.path(), node(2), ADDRESS).unwrap();
    fs::copy(folder.path().join("node-2.key"), folder.path().join("node-1.key")).unwrap();
    assert_eq!(
        refusal(folder.path()),
        "check key node-1.key: it is not the key of node-1.pem; hint: name the two files of one node"
    );
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    for (file, key) in [("ca.pem", "ca"), ("node-1.pem", "certificate"), ("node-1.key", "key")] {
        let folder = cluster("edge");
        fs::remove_file(folder.path().join(file)).unwrap();
        let expected = format!(
            "read {key} {file}: No such file or directory (os error 2); hint: make it with `forwarder cluster init` \
             and `forwarder cluster issue`, or correct `{key}` in [cluster]"
        );
        assert_eq!(refusal(folder.path()), expected);
        fs::write(folder.path().join(file), "no PEM at all").unwrap();
        let found = refusal(folder.path());
        assert!(found.starts_with(&format!("read {key} {file}: ")) && found.contains("; hint: "), "{found}");
        // A folder in its place, for a failure that even root meets.
        fs::remove_file(folder.path().join(file)).unwrap();
        fs::create_dir(folder.path().join(file)).unwrap();
        let found = refusal(folder.path());
        assert!(found.starts_with(&format!("read {key} {file}: Is a directory")), "{found}");
    }
}

#[test]
fn nothing_is_overwritten_and_a_failure_leaves_nothing_new() {
    let folder = cluster("edge");
    let files = || {
        let all = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut all = all.map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>();
        all.sort();
        all
    };
    let before = files();
    let error = identity::init(folder.path(), "edge").unwrap_err().to_string();
    assert!(error.contains("ca.pem: File exists") && error.contains("hint: nothing is overwritten"), "{error}");
    let error = identity::issue(folder.path(), node(1), ADDRESS).unwrap_err().to_string();
    assert!(error.contains("node-1.pem: File exists"), "{error}");
    assert_eq!(files(), before);

    // The second of the two files is in the way: the first does not stay.
    fs::write(folder.path().join("node-2.key"), "mine").unwrap();
    identity::issue(folder.path(), node(2), ADDRESS).unwrap_err();
    assert!(!folder.path().join("node-2.pem").exists());
    assert_eq!(fs::read_to_string(folder.path().join("node-2.key")).unwrap(), "mine");
}

#[test]
fn an_authority_that_is_not_there_or_a_name_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = identity::issue(folder.path(), node(1), ADDRESS).unwrap_err().to_string();
    let hint = "hint: `forwarder cluster init --dir DIR --name NAME` makes an authority";
    assert!(error.contains("ca.pem: No such file or directory") && error.ends_with(hint), "{error}");
    for name in ["", "two words", "a/b", &"x".repeat(65)] {
        let error = identity::init(folder.path(), name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("\"{name}\" names no cluster; hint: ")), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A secret whose key epoch is `epoch`, by trial; `from` makes it another one.
fn secret(dir: &Path, epoch: u8, from: u32) -> String {
    (from..from + 64)
        .map(|number| format!("{number:064x}"))
        .find(|line| {
            fs::write(dir.join("trial"), line).unwrap();
            identity::secrets(&dir.join("trial")).unwrap().tag_epoch == epoch
        })
        .unwrap_or_else(|| panic!("half of all secrets are of epoch {epoch}"))
}

/// The keys of a file of these lines.
fn keys(lines: &[String]) -> anyhow::Result<identity::Secrets> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), lines.join("\n")).unwrap();
    identity::secrets(&folder.path().join("secret"))
}

fn hash(digits: &str) -> String {
    format!("hash {digits}")
}

fn tag(digits: &str) -> String {
    format!("tag {digits}")
}

#[test]
fn nodes_agree_on_tag_keys_while_the_secret_of_the_tag_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (secret(folder.path(), 0, 1), secret(folder.path(), 1, 1000));
    let stays = hash(&secret(folder.path(), 0, 5000));
    let (old_tag, new_tag) = (tag(&old), tag(&new));
    let only_old = keys(&[stays.clone(), old_tag.clone()]).unwrap();
    let waiting = keys(&[stays.clone(), old_tag.clone(), new_tag.clone()]).unwrap();
    // The order of the two kinds does not matter, nor do empty lines.
    let both = keys(&[new_tag.clone(), String::new(), stays.clone(), old_tag.clone()]).unwrap();
    let only_new = keys(&[stays.clone(), new_tag]).unwrap();
    assert_eq!((only_old.tag_epoch, waiting.tag_epoch, both.tag_epoch, only_new.tag_epoch), (0, 0, 1, 1));
    assert_eq!([waiting.tag_key, both.tag_key], [both.tag_key; 2]);
    assert_eq!(only_old.tag_key[0], both.tag_key[0]);
    assert_eq!(only_new.tag_key[1], both.tag_key[1]);
    // The key that no secret has is neither zero nor anybody's.
    assert!(![[0; 2], both.tag_key[1]].contains(&only_old.tag_key[1]));
    assert_eq!([only_old, waiting, both, only_new].map(|keys| keys.hash_key), [both.hash_key; 4]);

    let same = tag(&secret(folder.path(), 0, 2000));
    let error = keys(&[stays, same, old_tag]).unwrap_err().to_string();
    assert!(error.contains("have the same key epoch (0); hint: draw another new one"), "{error}");
}

#[test]
fn an_earlier_versions_file_gives_the_keys_that_it_always_gave_and_its_hash_key_survives_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.secret");
    let bare = secret(folder.path(), 0, 1);
    fs::write(&file, format!("{bare}\n")).unwrap();
    let old = identity::secrets(&file).unwrap();
    assert_eq!(old, keys(&[hash(&bare), tag(&bare)]).unwrap());
    let steps = identity::rotate(folder.path()).unwrap();
    for step in &steps {
        assert_eq!(identity::secrets(step).unwrap().hash_key, old.hash_key);
        let text = fs::read_to_string(step).unwrap();
        assert_eq!(text.lines().next(), Some(hash(&bare).as_str()));
    }
    let last = fs::read_to_string(steps.last().unwrap()).unwrap();
    assert!(last.lines().count() == 2 && !last.contains(&tag(&bare)), "the old secret is no tag's any more");
}

#[test]
fn every_step_of_a_rotation_understands_the_one_before_it() {
    let folder = cluster("edge");
    let old = identity::secrets(&folder.path().join("cluster.secret")).unwrap();
    let files = identity::rotate(folder.path()).unwrap();
    let steps: Vec<_> = files.iter().map(|file| identity::secrets(file).unwrap()).collect();
    let [both, new_first, new] = steps.as_slice() else { panic!("three steps: {files:?}") };
    let mut before = &old;
    for after in [both, new_first, new] {
        // Of two nodes, one a step ahead: each accepts the tag that the other sends.
        for (one, other) in [(before, after), (after, before)] {
            let epoch = usize::from(one.tag_epoch);
            assert_eq!(one.tag_key[epoch], other.tag_key[epoch]);
        }
        assert_eq!(after.hash_key, old.hash_key);
        before = after;
    }
    assert_eq!((both.tag_epoch, new_first.tag_epoch), (old.tag_epoch, new.tag_epoch));
    assert_ne!(new.tag_epoch, old.tag_epoch);
    assert!(!old.tag_key.contains(&new.tag_key[usize::from(new.tag_epoch)]));
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    let error = identity::rotate(folder.path()).unwrap_err().to_string();
    assert!(error.contains("cluster.secret.1-both: File exists"), "{error}");
    fs::copy(files.first().unwrap(), folder.path().join("cluster.secret")).unwrap();
    let error = identity::rotate(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it has 2 `tag` lines; hint: finish the replacement that is under way first"), "{error}");
}

#[test]
fn a_bad_secret_is_refused_and_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.secret");
    let sentence = |text: &str| {
        fs::write(&file, text).unwrap();
        let error = identity::secrets(&file).unwrap_err().to_string();
        error.replace(&file.display().to_string(), "FILE")
    };
    let good = "0123456789abcdef".repeat(4);
    let odd = format!("{}g", "f".repeat(63));
    let hint = "hint: copy the file from another node rather than invent a secret";
    let form = |line: u32| format!("line {line} is not `hash` or `tag` and 64 hex digits; {hint}");
    let unnamed = format!("some of its lines do not begin with `hash` or `tag`; {hint}");
    let table = [
        (
            String::new(),
            "it is empty; hint: copy the file from another node, or make a new cluster's with `forwarder cluster init`"
                .to_owned(),
        ),
        (format!("hash {good}\n\ntag {odd}\n"), form(3)),
        ("ff".to_owned(), form(1)),
        (format!("hash {good}\ntag {good} {good}\n"), form(2)),
        (format!("hash\ntag {good}\n"), form(1)),
        (format!("Hash {good}\n"), form(1)),
        (format!("hash {good}\n"), format!("it has no `tag` line; {hint}")),
        (format!("tag {good}\n"), format!("it has no `hash` line; {hint}")),
        (
            format!("hash {good}\ntag {good}\nhash {good}\n"),
            format!("line 3 is a second `hash` line; {hint}, and give every node another `hash` at once"),
        ),
        (
            format!("hash {good}\n{}", format!("tag {good}\n").repeat(3)),
            "it has 3 `tag` lines; hint: keep the current one and the one before or after it (2 lines)".to_owned(),
        ),
        (
            format!("{good}\n{good}\n"),
            "it has two lines without `hash` or `tag`, as an earlier version wrote them while the secret was replaced; \
             hint: finish that replacement with the earlier version first, on every node"
                .to_owned(),
        ),
        (format!("{good}\ntag {good}\n"), unnamed.clone()),
        (format!("hash {good}\n{good}\n"), unnamed.clone()),
        (format!("{good}\n{good}\n{good}\n"), unnamed),
    ];
    for (text, expected) in table {
        let said = sentence(&text);
        assert_eq!(said, format!("read secret FILE: {expected}"), "of {text:?}");
        assert!(!said.contains(&good) && !said.contains(&odd), "{said}");
    }
    fs::remove_file(&file).unwrap();
    let error = identity::secrets(&file).unwrap_err().to_string();
    assert!(error.contains("No such file or directory") && error.contains("correct `secret` in [cluster]"), "{error}");
    fs::write(&file, &good).unwrap();
    let shown = format!("{:?}", identity::secrets(&file).unwrap());
    assert!(shown.starts_with("Secrets { tag_epoch: ") && shown.ends_with(", .. }"), "{shown}");
}

#[test]
fn the_derived_keys_never_change_between_versions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "0123456789abcdef".repeat(4)).unwrap();
    let keys = identity::secrets(&file).unwrap();
    // HKDF-SHA256 with the salt "forwarder" and the info "claim hash", as Python's hmac gives it.
    assert_eq!(keys.hash_key, [0x0c91_cb89_3a76_69a3, 0x2520_230d_807f_a6ec]);
    assert_eq!(keys.tag_key[usize::from(keys.tag_epoch)], [0xff1c_4c05_5b5a_339d, 0xd337_507a_9b41_1fbe]);
}

#[test]
fn the_vni_is_the_head_of_the_names_hash() {
    // `printf edge | sha256sum`, first six digits.
    assert_eq!(identity::vni("edge"), 0xa1cb10);
    assert_ne!(identity::vni("edge"), identity::vni("core"));
}

#[test]
fn times_are_written_as_rfc_3339_has_them() {
    let table = [(0, "1970-01-01T00:00:00Z"), (1_709_210_096, "2024-02-29T12:34:56Z"), (-1, "1969-12-31T23:59:59Z")];
    for (seconds, expected) in table {
        assert_eq!(identity::rfc3339(seconds), expected);
    }
    assert_eq!(identity::rfc3339(i64::MAX), format!("@{}", i64::MAX));
}
