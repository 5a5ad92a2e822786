//! Every message of the corpus against what an independent exact parser read there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use forwarder_common::sip::{Kind, full};
use test_support::corpus::{Expected, corpus};

#[test]
fn the_full_reader_reads_every_corpus_message_as_expected() {
    let Some(messages) = corpus("the_full_reader_reads_every_corpus_message_as_expected") else { return };
    let mut wrong = Vec::new();
    for Expected { file, payload, expected } in &messages {
        let got = match full::read(payload) {
            Ok(message) => describe(&message),
            Err(reason) => serde_json::json!({ "keyable": false, "why": reason.reason() }),
        };
        for (field, value) in got.as_object().unwrap() {
            if expected[field] != *value {
                wrong.push(format!("{file}: {field} is {value}, expected {}", expected[field]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(messages.len() >= 254, "only {} messages", messages.len());
}

fn describe(message: &full::Message<'_>) -> serde_json::Value {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let request = message.status.is_none();
    let kind = match (message.kind, message.method) {
        (Kind::Response, _) => "response",
        (Kind::Ack, b"ACK") | (Kind::Cancel, b"CANCEL") | (Kind::Request, _) => "request",
        (kind, method) => panic!("{kind:?} has method {}", text(method)),
    };
    serde_json::json!({
        "keyable": true,
        "kind": kind,
        "method": request.then(|| text(message.method)),
        "status": message.status,
        "call_id": text(message.call_id),
        "cseq": message.cseq,
        "cseq_method": text(message.cseq_method),
        "branch": text(message.branch.unwrap_or_default()),
    })
}
