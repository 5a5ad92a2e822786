//! `explain` over captures made here: what it prints for each datagram, and how it fails.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "explain/capture.rs"]
mod capture;

use std::fs;

use capture::{Format, Layers, V4, V6, frame, head, record};
use forwarder::explain::{Kernel, Options, run, run_with};
use forwarder::foreign::Harmless;
use forwarder_common::{
    abi::{EXPLAINED_OUTCOME, Explained},
    clock::Time,
    geneve::{self, Head, Inner, Kind, Sender},
    hash, net,
    outcome::Outcome,
    question,
    sip::fast,
};
use forwarder_core::fragments::split;
use serde_json::{Value, json};
use test_support::{corpus, random::Random};

const HASH_KEY: [u64; 2] = [0x0102_0304, 0x0506_0708];
const BYE: &[u8] = b"BYE sip:b@h SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1\r\ni: a@b\r\nCSeq: 0007 BYE\r\n\r\n";
const FOLDED: &[u8] = b"SIP/2.0 200 OK\r\ni:\r\n a@b\r\nCSeq: 7 BYE\r\nVia: SIP/2.0/UDP h\r\n\r\n";

#[test]
fn every_corpus_message_is_explained_as_expected() {
    let Some(messages) = corpus::corpus("every_corpus_message_is_explained_as_expected") else { return };
    let captures = [
        (Format::Pcap, V4),
        (Format::PcapBig, Layers { tags: 1, options: 8, ..V4 }),
        (Format::Pcapng, V6),
        (Format::PcapngSimple, Layers { tags: 2, ..V6 }),
        (Format::Pcap, Layers { tags: 2, padding: 9, ..V4 }),
    ];
    for (format, layers) in captures {
        let frames: Vec<_> = messages.iter().map(|message| frame(&message.payload, layers)).collect();
        let lines = explained(&capture::capture(format, &frames));
        assert_eq!(lines.len(), messages.len(), "{format:?} {layers:?}");
        for (index, (line, message)) in lines.iter().zip(&messages).enumerate() {
            let fast_path = &line["fast_path"];
            let expected = expected(index + 1, &message.expected, fast_path);
            assert_eq!(*line, expected, "{} in {format:?} {layers:?}", message.file);
        }
        let fast = lines.iter().filter(|line| line["fast_path"] == "key").count();
        assert!(fast * 10 >= lines.len() * 9, "the fast path finds only {fast} keys");
        assert!(lines.iter().all(|line| line["fast_path"] == "key" || line["fast_path"].is_null() || punts(line)));
    }
}

/// The line for a message, from what an independent parser read there.
fn expected(frame: usize, of: &Value, fast_path: &Value) -> Value {
    if of["keyable"] == false {
        return json!({ "frame": frame, "keyable": false, "why": of["why"] });
    }
    let (call_id, branch) = (of["call_id"].as_str().unwrap(), of["branch"].as_str().unwrap());
    let cseq = u32::try_from(of["cseq"].as_u64().unwrap()).unwrap();
    let (request_key, reply_key) = hash::keys(HASH_KEY, call_id.as_bytes(), cseq, branch.as_bytes());
    let mut line = json!({
        "frame": frame,
        "keyable": true,
        "kind": of["kind"],
        "call_id": call_id,
        "cseq": cseq,
        "branch": branch,
        "request_key": format!("{request_key:016x}"),
        "reply_key": (!branch.is_empty()).then(|| format!("{reply_key:016x}")),
        "fast_path": fast_path,
    });
    let one = if of["kind"] == "request" { "method" } else { "status" };
    line[one] = of[one].clone();
    line
}

fn punts(line: &Value) -> bool {
    Outcome::ALL.iter().any(|outcome| line["fast_path"] == outcome.name())
}

#[test]
fn frames_are_counted_as_wireshark_counts_and_only_udp_is_printed() {
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    let mut tcp = frame(BYE, V4);
    tcp[14 + 9] = 6;
    let lines = explained(&capture::capture(Format::Pcap, &[arp, frame(BYE, V4), tcp, frame(b"\r\n\r\n", V6)]));
    assert_eq!(lines.iter().map(|line| line["frame"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4]);
    assert_eq!((&lines[0]["method"], &lines[0]["cseq"]), (&json!("BYE"), &json!(7)));
    assert_eq!(lines[1], json!({ "frame": 4, "keyable": false, "why": "keep-alive" }));
}

#[test]
fn what_is_no_whole_datagram_is_named() {
    let mut fragment = frame(BYE, V4);
    fragment[14 + 6] = 0x20;
    let mut fragment6 = frame(BYE, V6);
    fragment6[14 + 6] = 44;
    fragment6[14 + 40] = 17;
    let mut extended = frame(BYE, V6);
    extended[14 + 6] = 60;
    let mut long_udp = frame(BYE, V4);
    long_udp[14 + 20 + 4] = 0xff;
    let mut short_udp = frame(BYE, V4);
    short_udp[14 + 20 + 4..14 + 20 + 6].copy_from_slice(&[0, 7]);
    let mut cut = frame(BYE, V6);
    cut.truncate(60);
    let cases = [
        (fragment, "fragment"),
        (fragment6, "fragment"),
        (extended, "extension-header"),
        (long_udp, "malformed"),
        (short_udp, "malformed"),
        (cut, "malformed"),
    ];
    for format in [Format::Pcap, Format::Pcapng] {
        let frames: Vec<_> = cases.iter().map(|(frame, _)| frame.clone()).collect();
        let whys: Vec<_> =
            explained(&capture::capture(format, &frames)).iter().map(|line| line["why"].clone()).collect();
        assert_eq!(whys, cases.iter().map(|(_, why)| json!(why)).collect::<Vec<_>>());
    }
}

#[test]
fn a_snapped_packet_says_so() {
    for format in [Format::Pcap, Format::Pcapng] {
        let (mut file, frame) = (head(format, 1), frame(BYE, V4));
        record(format, &frame[..60], frame.len(), &mut file);
        // What was cut off here is padding, not the datagram.
        record(format, &frame, frame.len() + 4, &mut file);
        let lines = explained(&file);
        assert_eq!(lines[0], json!({ "frame": 1, "keyable": false, "why": "snapped" }));
        assert_eq!(lines[1]["call_id"], "a@b");
    }
}

#[test]
fn a_broken_file_yields_what_was_readable_and_an_error() {
    for format in [Format::Pcap, Format::PcapBig, Format::Pcapng, Format::PcapngSimple] {
        let whole = capture::capture(format, &[frame(BYE, V4), frame(BYE, V6)]);
        let (lines, error) = broken(&whole[..whole.len() - 10]);
        assert_eq!(lines.len(), 1, "{format:?}");
        assert!(error.contains("after frame 1") && error.contains("ends within a record"), "{error}");
    }
    let (lines, error) = broken(b"");
    assert!(lines.is_empty() && error.contains("the file is empty"), "{error}");
    for junk in [&b"INVITE sip:b SIP/2.0\r\n\r\n and some more text"[..], &head(Format::Pcap, 1)[..20]] {
        let (lines, error) = broken(junk);
        assert!(lines.is_empty() && error.contains("neither a pcap nor a pcapng file"), "{error}");
    }
    let mut huge = capture::capture(Format::Pcap, &[frame(BYE, V4)]);
    huge.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0]);
    let (lines, error) = broken(&huge);
    assert!(lines.len() == 1 && error.contains("after frame 1") && error.contains("damaged"), "{error}");
}

#[test]
fn a_block_that_says_it_is_shorter_than_any_is_damaged() {
    for (format, length) in [(Format::Pcapng, 5_u32.to_le_bytes()), (Format::Pcapng, [0; 4])] {
        let mut file = capture::capture(format, &[frame(BYE, V4)]);
        // A kind of block that nobody knows.
        file.extend([&[0x80, 0x1c, 0, 0], &length[..], &[0; 16]].concat());
        let (lines, error) = broken(&file);
        assert!(lines.len() == 1 && error.contains("after frame 1") && error.contains("damaged"), "{error}");
    }
}

#[test]
fn every_link_type_of_an_edge_is_read() {
    let ip = &frame(BYE, V4)[14..];
    let cooked = [&[0; 14][..], &[8, 0]].concat();
    let cooked2 = [&[8, 0][..], &[0; 18]].concat();
    let links: [(u16, &[u8], &str); 7] = [
        (113, &cooked, "Linux cooked"),
        (276, &cooked2, "Linux cooked"),
        (101, &[], "raw IP"),
        (228, &[], "raw IP"),
        (12, &[], "raw IP"),
        (0, &[2, 0, 0, 0], "BSD loopback"),
        (108, &[0, 0, 0, 2], "BSD loopback"),
    ];
    for (link, before, name) in links {
        for format in [Format::Pcap, Format::Pcapng] {
            let mut file = head(format, link);
            let bytes = [before, ip].concat();
            record(format, &bytes, bytes.len(), &mut file);
            let [line] = explained(&file).try_into().unwrap();
            assert_eq!((&line["call_id"], &line["fast_path"]), (&json!("a@b"), &json!("key")), "{link}");
            assert_eq!((&line["around"], &line["passes_unread"]), (&json!([name]), &Value::Null), "{link}");
        }
    }
}

/// An Ethernet frame whose type and packet stand behind `between`.
fn layered(between: &[u8], layers: Layers) -> Vec<u8> {
    let plain = frame(BYE, layers);
    [&plain[..12], between, &plain[14..]].concat()
}

#[test]
fn what_the_programs_pass_unread_is_keyed_and_said_so() {
    let frames = [
        layered(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0], V4),
        layered(&[0x91, 0, 0, 5, 8, 0], V4),
        layered(&[0x88, 0x47, 0, 1, 1, 64], V6),
        layered(&[0x88, 0x64, 0x11, 0, 0, 1, 1, 0, 0, 0x57], V6),
        frame(BYE, Layers { tags: 2, ..V4 }),
    ];
    let lines = explained(&capture::capture(Format::Pcap, &frames));
    let around = [json!(["VLAN", "VLAN", "VLAN"]), json!(["VLAN"]), json!(["MPLS"]), json!(["PPPoE"])];
    for (line, around) in lines.iter().zip(around) {
        assert_eq!((&line["call_id"], &line["fast_path"]), (&json!("a@b"), &json!("not_service")), "{line}");
        assert_eq!((&line["around"], &line["passes_unread"]), (&around, &json!(true)), "{line}");
    }
    assert_eq!((&lines[4]["fast_path"], &lines[4]["around"]), (&json!("key"), &Value::Null));
}

#[test]
fn a_datagram_behind_ipv6_extension_headers_or_in_an_authentication_header_is_keyed() {
    let udp = &frame(BYE, V6)[14 + 40..];
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next: u8| [next, 0, 0, 0, 0, 0, 0, 0];
    let atomic = |next: u8| [next, 0, 0, 0, 0, 0, 0, 9];
    let authentication = |next: u8| [&[next, 4][..], &[0; 22]].concat();
    let chains: [(u8, Vec<u8>); 6] = [
        (0, options(17).to_vec()),
        (43, routing(17).to_vec()),
        (60, options(17).to_vec()),
        (44, atomic(17).to_vec()),
        (60, [options(44), atomic(17)].concat()),
        (51, authentication(17)),
    ];
    for (next, chain) in chains {
        let mut packet = frame(BYE, V6)[..14 + 40].to_vec();
        packet[14 + 6] = next;
        packet[14 + 4..14 + 6].copy_from_slice(&u16::try_from(chain.len() + udp.len()).unwrap().to_be_bytes());
        packet.extend(chain.iter().chain(udp));
        let [line] = explained(&capture::capture(Format::Pcap, &[packet])).try_into().unwrap();
        assert_eq!((&line["call_id"], &line["around"]), (&json!("a@b"), &json!(["extension headers"])), "{next}");
        assert_ne!(line["fast_path"], "key", "{next}");
    }
}

#[test]
fn fragments_are_joined_in_any_order_and_between_others() {
    let padding = "p".repeat(3000);
    let long = format!("BYE sip:b@h SIP/2.0\r\nX: {padding}\r\ni: long@b\r\nCSeq: 7 BYE\r\n\r\n");
    for layers in [V4, V6] {
        let whole = frame(long.as_bytes(), layers);
        let mut parts: Vec<_> = split(&whole[14..], 1400).unwrap();
        assert_eq!(parts.len(), 3);
        parts.reverse();
        let ethernet = |part: &Vec<u8>| [&whole[..14], part].concat();
        let frames = [ethernet(&parts[0]), frame(BYE, layers), ethernet(&parts[1]), ethernet(&parts[2])];
        let lines = explained(&capture::capture(Format::Pcapng, &frames));
        assert_eq!(
            (&lines[0]["why"], &lines[1]["call_id"], &lines[2]["why"]),
            (&json!("fragment"), &json!("a@b"), &json!("fragment"))
        );
        assert_eq!((&lines[3]["call_id"], &lines[3]["around"]), (&json!("long@b"), &json!(["fragments"])));
        assert_eq!(lines[3]["fast_path"], "fragment");
    }
}

/// A frame with a packet of this cluster's tunnel from node 7.
fn tunnelled(kind: Kind, packet: &[u8]) -> Vec<u8> {
    let ip = net::packet(&packet).unwrap();
    let inner = Inner::read(&packet, &ip).unwrap();
    let sender = Sender { head: Head::new(7, kind, 0, Time(0)), vni: 5, key: [1, 2] };
    let header: Vec<u8> = geneve::header(&sender, &inner).iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut outer = frame(&[header.as_slice(), packet].concat(), V6);
    outer[14 + 40 + 2..14 + 40 + 4].copy_from_slice(&geneve::PORT.to_be_bytes());
    outer
}

#[test]
fn what_is_inside_the_tunnel_is_explained_with_who_sent_it() {
    let long = [b"BYE sip:b@h SIP/2.0\r\ni: long@b\r\nCSeq: 7 BYE\r\nX: ".as_slice(), &[b'x'; 2000]].concat();
    let long = frame(&long, V4);
    let parts: Vec<_> = split(&long[14..], 1400).unwrap();
    let question = question::packet(1, 2, 3);
    let frames = [
        tunnelled(Kind::Data, &frame(BYE, V4)[14..]),
        tunnelled(Kind::Relay, &frame(BYE, V6)[14..]),
        tunnelled(Kind::Reassemble, &parts[0]),
        tunnelled(Kind::Reassemble, &parts[1]),
        tunnelled(Kind::Ask, &question),
        tunnelled(Kind::Answer, &question),
    ];
    let lines = explained(&capture::capture(Format::Pcap, &frames));
    let read: Vec<_> = lines.iter().map(|line| (&line["call_id"], &line["why"], &line["around"])).collect();
    let (node, null) = (|what: &str| json!([format!("Geneve of node 7, {what}")]), Value::Null);
    assert_eq!(
        read,
        [
            (&json!("a@b"), &null, &node("to the owner")),
            (&json!("a@b"), &null, &node("relayed")),
            (&null, &json!("fragment"), &node("to reassemble")),
            (&json!("long@b"), &null, &json!(["Geneve of node 7, to reassemble", "fragments"])),
            (&null, &json!("question"), &node("asks for a claim")),
            (&null, &json!("answer"), &node("answers")),
        ]
    );
}

#[test]
fn another_networks_geneve_is_looked_into_as_well_but_not_for_ever() {
    let geneve = |inside: &[u8]| {
        let mut outer = frame(&[&[0, 0, 0x65, 0x58, 0, 0, 9, 0][..], inside].concat(), V4);
        outer[14 + 20 + 2..14 + 20 + 4].copy_from_slice(&geneve::PORT.to_be_bytes());
        outer
    };
    let once = geneve(&frame(BYE, Layers { tags: 1, ..V6 }));
    let often = geneve(&geneve(&geneve(&geneve(&frame(BYE, V4)))));
    let lines = explained(&capture::capture(Format::Pcap, &[once, often]));
    assert_eq!((&lines[0]["call_id"], &lines[0]["around"]), (&json!("a@b"), &json!(["Geneve", "VLAN"])));
    assert_eq!((&lines[1]["keyable"], &lines[1]["around"]), (&json!(false), &json!(["Geneve", "Geneve", "Geneve"])));
}

#[test]
fn a_frame_that_is_not_read_is_said_and_alone_it_is_an_error() {
    let unknown = layered(&[0x89, 0x4f], V4);
    let lines = explained(&capture::capture(Format::Pcap, &[frame(BYE, V4), unknown.clone()]));
    assert_eq!(
        lines[1],
        json!({
            "frame": 2, "keyable": false, "why": "not read: Ethernet type 0x894f", "passes_unread": true
        })
    );
    for (file, why) in [
        (capture::capture(Format::Pcap, &[unknown]), "not read: Ethernet type 0x894f"),
        (
            [head(Format::Pcapng, 147), {
                let mut packet = Vec::new();
                record(Format::Pcapng, &frame(BYE, V4), 200, &mut packet);
                packet
            }]
            .concat(),
            "not read: link type 147",
        ),
    ] {
        let (lines, error) = broken(&file);
        assert_eq!(lines[0]["why"], why);
        assert!(error.contains("1 frames are not read, and no UDP datagram was found"), "{error}");
    }
}

#[test]
fn what_is_no_udp_is_counted_by_its_name() {
    let mut tcp = frame(BYE, V4);
    tcp[14 + 9] = 6;
    let mut esp = frame(BYE, V6);
    esp[14 + 6] = 50;
    let mut esp_fragment = frame(BYE, V4);
    (esp_fragment[14 + 6], esp_fragment[14 + 9]) = (0x20, 50);
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    let file = saved(&capture::capture(
        Format::Pcap,
        &[tcp.clone(), tcp, esp, esp_fragment, arp, layered(&[0x89, 0x4f], V4), frame(BYE, V4)],
    ));
    let mut out = Vec::new();
    run(&options(&file, false), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let last =
        "1 UDP datagrams, 1 with a key, 1 of them by the fast path; 1 frames not read; not UDP: 1 ARP, 2 ESP, 2 TCP";
    assert_eq!(text.lines().last(), Some(last), "{text}");
}

#[test]
fn no_damage_to_a_file_makes_it_panic_or_run_on() {
    let mut random = Random::new(0xda_ba6e);
    for format in [Format::Pcap, Format::PcapBig, Format::Pcapng, Format::PcapngSimple] {
        let whole = capture::capture(format, &[frame(BYE, V4), frame(FOLDED, V6), frame(b"x", V4)]);
        for _ in 0..500 {
            let mut file = whole.clone();
            for _ in 0..=random.below(3) {
                // Mostly where lengths are.
                let reach = if random.once_in(2) { 140 } else { file.len() };
                let at = random.below(reach);
                file[at] = [0, 1, 4, 0x7f, 0x80, 0xff][random.below(6)];
            }
            let cut = random.below(3) * random.below(40);
            file.truncate(file.len() - cut);
            let (mut out, file) = (Vec::new(), saved(&file));
            drop(run(&options(&file, true), &mut out));
            assert!(out.iter().filter(|byte| **byte == b'\n').count() <= 8);
        }
    }
}

#[test]
fn the_text_form_has_a_line_for_each_datagram_and_moves_no_cursor() {
    let evil = b"\x41\x1b[2J sip:b SIP/2.0\r\ni: a\x1b\x9b@\xc2\x9b\r\nCSeq: 1 A\r\n\r\n";
    let file =
        saved(&capture::capture(Format::Pcap, &[frame(BYE, V4), frame(FOLDED, V4), frame(evil, V4), frame(b"x", V4)]));
    let mut out = Vec::new();
    run(&options(&file, false), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[1].starts_with("       1  BYE ") && lines[1].ends_with("  a@b  z9hG4bK1"), "{text}");
    assert!(
        lines[2].contains("  200 ") && lines[2].contains("unread_form") && lines[2].ends_with("  a@b  -"),
        "{text}"
    );
    assert!(lines[4].ends_with("no key: not-sip"), "{text}");
    assert_eq!(lines[5], "4 UDP datagrams, 3 with a key, 1 of them by the fast path");
    let column = |line: &str| line.find("a@b");
    assert_eq!(column(lines[1]), column(lines[2]), "{text}");
    assert_eq!(lines[0].find("CALL-ID"), column(lines[1]), "{text}");
}

#[test]
fn what_a_capture_holds_forges_no_line_in_text_or_json() {
    // Ends the line, moves the cursor, turns the direction of letters.
    let evil = "A sip:b SIP/2.0\r\ni: a\x1b[2J\u{9b}\u{202e}\u{2028}@b\r\nCSeq: 1 A\r\n\r\n".as_bytes();
    let file = saved(&capture::capture(Format::Pcap, &[frame(evil, V4)]));
    for json in [false, true] {
        let mut out = Harmless(Vec::new());
        run(&options(&file, json), &mut out).unwrap();
        let text = String::from_utf8(out.0).unwrap();
        let acts = |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{2028}'].contains(&c);
        assert!(!text.contains(acts), "{text:?}");
        assert_eq!(text.lines().count(), if json { 1 } else { 3 }, "{text:?}");
    }
}

/// The program's way through a frame, on the host; `broken` makes its reply key wrong.
struct Program {
    broken: bool,
}

impl Kernel for Program {
    fn longest(&self) -> usize {
        1514
    }

    fn explain(&mut self, frame: &[u8]) -> anyhow::Result<Explained> {
        let (ip, udp) = net::frame(&frame).and_then(|ip| Some((ip, ip.udp(&frame)?))).unwrap();
        let start = ip.payload + net::UDP;
        Ok(match fast::read(&frame[start..ip.payload + udp.length], HASH_KEY, false) {
            Ok(marks) => {
                let mut found = marks.explained();
                let offset = u16::try_from(start).unwrap();
                found.call_id[0] += offset;
                found.branch[0] += offset;
                found.reply_key ^= u64::from(self.broken);
                found
            }
            Err(why) => Explained { result: EXPLAINED_OUTCOME | why.outcome().number(), ..Explained::default() },
        })
    }
}

#[test]
fn the_kernel_may_punt_but_not_differ() {
    let mut file = capture::capture(Format::Pcap, &[frame(BYE, V4), frame(FOLDED, V6), frame(&[b'x'; 2000], V4)]);
    record(Format::Pcap, &frame(BYE, V4)[..60], 400, &mut file);
    let file = saved(&file);
    let ask = |broken| {
        let mut out = Vec::new();
        let result = run_with(&options(&file, true), Some(&mut Program { broken }), &mut out);
        (lines(&out), result)
    };
    let (said, result) = ask(false);
    assert_eq!((&said[0]["kernel"], &said[1]["kernel"]), (&json!("agrees"), &json!("punts: unread_form")));
    assert_eq!(said[2]["kernel"], "not asked: longer than 1514 bytes");
    assert_eq!(said[3]["kernel"], "not asked: snapped");
    result.unwrap();
    let (said, result) = ask(true);
    assert!(said[0]["kernel"].as_str().unwrap().starts_with("disagrees: "), "{said:?}");
    assert_eq!(said[1]["kernel"], "punts: unread_form");
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("1 answers of the fast path are wrong, first at frame 1"), "{error}");
}

#[test]
fn the_loaded_program_agrees_with_the_host_or_punts() {
    let test = "the_loaded_program_agrees_with_the_host_or_punts";
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return corpus::skip(test, "loading a program needs root");
    }
    let messages = corpus::corpus(&format!("{test} (on the corpus)")).unwrap_or_default();
    let payloads = messages.into_iter().map(|message| message.payload).chain([BYE.to_vec(), FOLDED.to_vec()]);
    let payloads: Vec<_> = payloads.filter(|payload| payload.len() < 3_400).collect();
    for layers in [V4, Layers { tags: 2, ..V6 }, Layers { options: 8, padding: 9, ..V4 }] {
        let frames: Vec<_> = payloads.iter().map(|payload| frame(payload, layers)).collect();
        let file = saved(&capture::capture(Format::Pcap, &frames));
        let mut out = Vec::new();
        run(&Options { kernel: true, ..options(&file, true) }, &mut out).unwrap();
        for line in lines(&out) {
            let host = line["fast_path"]
                .as_str()
                .map(|said| if said == "key" { "agrees".to_owned() } else { format!("punts: {said}") });
            let kernel = line["kernel"].as_str().unwrap();
            // The same reader, so the same reason.
            assert!(host.as_deref().is_none_or(|host| host == kernel), "{line}");
            assert!(kernel == "agrees" || kernel.starts_with("punts: "), "{line}");
        }
    }
}

fn options(file: &tempfile::NamedTempFile, json: bool) -> Options {
    Options { file: file.path().to_owned(), json, kernel: false, hash_key: HASH_KEY }
}

fn saved(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn lines(out: &[u8]) -> Vec<Value> {
    str::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The JSON lines for a capture that is whole.
fn explained(bytes: &[u8]) -> Vec<Value> {
    let (mut out, file) = (Vec::new(), saved(bytes));
    run(&options(&file, true), &mut out).unwrap();
    lines(&out)
}

/// The JSON lines for a capture that is not, and the error.
fn broken(bytes: &[u8]) -> (Vec<Value>, String) {
    let (mut out, file) = (Vec::new(), saved(bytes));
    let error = run(&options(&file, true), &mut out).unwrap_err();
    (lines(&out), format!("{error:#}"))
}
