//! Certificates of an authority that is not the forwarder's, made by the lines of docs/configuration.md.

use std::{fs, path::Path, process::Command};

use forwarder::identity;

use super::{config, node, refusal};

/// The lines in the document that begin with `openssl`, and those between them.
fn documented() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")).unwrap();
    let block = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(block.contains("openssl x509 -req"), "the first shell lines are the authority's:\n{block}");
    block.to_owned()
}

/// Runs lines of a shell in `dir`; whether there is an `openssl`.
#[track_caller]
fn shell(dir: &Path, lines: &str) -> bool {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no openssl here to make an authority with; install it to run this test");
        return false;
    }
    let output = Command::new("sh").args(["-e", "-c", lines]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

const ROOT: &str = "openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.crt -days 3650 \
                    -subj '/O=Example/CN=Example root' -addext 'basicConstraints = critical, CA:true'\n";

#[test]
fn the_documented_lines_make_a_certificate_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    if !shell(folder.path(), &(ROOT.to_owned() + &documented())) {
        return;
    }
    let own = identity::load(&config(folder.path())).unwrap();
    assert_eq!((own.node, own.chain.len()), (node(1), 2));
    let peer = own.admit_again(&own.chain).unwrap();
    assert_eq!((peer.node, peer.expires_s), (node(1), own.expires_s));
    // The authority of the cluster alone is enough, and stricter.
    fs::copy(folder.path().join("edge-ca.crt"), folder.path().join("ca.pem")).unwrap();
    assert_eq!(identity::load(&config(folder.path())).unwrap().node, node(1));
    // Without the certificate between the two, nobody can tell who signed it.
    fs::copy(folder.path().join("root.crt"), folder.path().join("ca.pem")).unwrap();
    fs::copy(folder.path().join("node-1.crt"), folder.path().join("node-1.pem")).unwrap();
    assert!(refusal(folder.path()).contains("it is not signed by ca.pem; "));
}

#[test]
fn keys_of_other_kinds_are_taken_and_names_beside_the_uri_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ["rsa:3072", "ec -pkeyopt ec_paramgen_curve:P-384", "ed25519"];
    for (round, kind) in kinds.into_iter().enumerate() {
        let sign = format!(
            "openssl req -new -newkey {kind} -nodes -keyout node-1.key -out node.csr -subj '/CN=edge'\n\
             printf 'subjectAltName = email:noc@example.org, URI:https://example.org, \
             URI:forwarder://edge/node/1\\n' > ext\n\
             openssl x509 -req -in node.csr -CA root.crt -CAkey root.key -CAcreateserial -extfile ext -out node-1.pem\n\
             cp root.crt ca.pem\n"
        );
        let lines = if round == 0 { ROOT.to_owned() + &sign } else { sign };
        if !shell(folder.path(), &lines) {
            return;
        }
        let own = identity::load(&config(folder.path())).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        assert_eq!(own.node, node(1));
    }
}
