//! What the pinned maps of one version look like stays as it is: numbers and texts of outcomes, sizes, offsets, bits.
//!
//! `tests/abi/vN.txt` is the record of version N. A line of it is never changed or removed; a change raises
//! `abi::VERSION` and begins another record. An outcome that comes new is added to the record of the version that is
//! current.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

use std::{
    fmt::Write as _,
    mem::{offset_of, size_of},
    path::Path,
};

use forwarder_common::{
    abi::{
        self, Address, ClaimEvent, Config, Explained, LeaseWord, Lifetimes, Node, Peer, Punt, Service, ServiceKey,
        ServiceSlot,
    },
    bound::Costs,
    ids::{Epochs, Tick},
    lifetime::Sign,
    outcome::{Outcome, SLOTS},
    rest::{Class, KeyKind, Rest},
    table::{self, Entry},
};

/// Writes a struct's size and the offsets of its fields, all of which must be named.
macro_rules! layout {
    ($text:expr, $type:ident { $($field:ident),+ $(,)? }) => {
        // The pattern has no rest: a field that is not named here does not compile.
        let $type { $($field: _),+ } = $type::default();
        writeln!($text, "{} {} bytes", stringify!($type), size_of::<$type>()).unwrap();
        $(writeln!($text, "{}.{} at {}", stringify!($type), stringify!($field), offset_of!($type, $field)).unwrap();)+
    };
}

fn now() -> String {
    let mut text = String::new();
    layout!(text, ServiceKey { vip, port, pad });
    layout!(text, Service { flags, call_ticks, epoch, index });
    layout!(text, ServiceSlot { key, service });
    layout!(
        text,
        Config {
            hash_key,
            tag_key,
            underlay,
            bucket_mask,
            vni,
            node,
            epochs,
            peers_up,
            lifetimes,
            tag_epoch,
            pad,
            costs,
        }
    );
    layout!(text, Costs { key_ns, packet_ns, byte, slow_ns });
    layout!(text, Lifetimes { proceeding, failed, ended, call });
    layout!(text, Peer { address, source, ifindex, mtu, destination_mac, source_mac, clock, served });
    layout!(text, ClaimEvent { key, other, at_ns, ticks, epoch, flags, service, kind, class, sign });
    layout!(text, Punt { ifindex, length, reason, segment });
    layout!(text, Explained { request_key, reply_key, result, cseq, call_id, branch, kind, status, pad });
    words(&mut text);
    for outcome in Outcome::ALL {
        writeln!(text, "outcome {} {} {:?}", outcome.number(), outcome.name(), outcome.hook()).unwrap();
    }
    text
}

/// What is packed into words, and where keys have their places.
fn words(text: &mut String) {
    let vip = Address::v4([192, 0, 2, 10]);
    for (name, value) in [
        ("service set", abi::SERVICE_SET.into()),
        ("service of affinity call", abi::AFFINITY_CALL.into()),
        ("source of a service", abi::SERVICE_SOURCE.into()),
        ("event of a new claim", abi::EVENT_NEW.into()),
        ("event of a claim as it was", abi::EVENT_KEPT.into()),
        (
            "signs",
            Sign::Nothing.code()
                | Sign::Invite.code() << 4
                | Sign::Provisional.code() << 8
                | Sign::Final.code() << 12
                | Sign::Ack.code() << 16,
        ),
        ("explained key", abi::EXPLAINED_KEY.into()),
        ("explained outcome", abi::EXPLAINED_OUTCOME.into()),
        ("lease that diverts", LeaseWord::new(true, false, 0).0),
        ("lease that drains", LeaseWord::new(false, true, 0).0),
        ("lease with an end", LeaseWord::new(false, false, 0x0123_4567_89ab_cdef).0),
        ("node that is up", Node::new(true, Epochs::EMPTY, None).0),
        ("node with epochs", Node::new(false, Epochs::from_bits(0x8421), None).0),
        ("node with its first half", Node::new(false, Epochs::EMPTY, Some(0)).0),
        ("node with its second half", Node::new(false, Epochs::EMPTY, Some(1)).0),
        ("claim", Entry::new(0xfedc_ba98_7654_3210, 0x2a5, 9, Tick::new(0x1234)).0),
        ("rest of its key", Rest::of(0xfedc_ba98_7654_3210, 7, KeyKind::Reply, Class::Call).0),
        ("rest of a key alone", Rest::new(0xfedc_ba98_7654_3210).0),
        ("no service", abi::NO_SERVICE.into()),
        ("key kinds", KeyKind::Request.code() | KeyKind::Reply.code() << 4 | KeyKind::Answered.code() << 8),
        ("classes", Class::Short.code() | Class::Proceeding.code() << 4 | Class::Call.code() << 8),
        ("slots of the statistics", SLOTS.into()),
        ("slots of the services", abi::SERVICE_SLOTS.into()),
        ("slots of the peers", abi::PEER_SLOTS.into()),
        ("slots of a bucket", table::SLOTS as u64),
        ("slot of a service", ServiceKey { vip, port: 5060_u16.to_be(), pad: 0 }.slot().into()),
        ("first bucket", table::buckets(0xfedc_ba98_7654_3210, 0xffff)[0].into()),
        ("second bucket", table::buckets(0xfedc_ba98_7654_3210, 0xffff)[1].into()),
    ] {
        writeln!(text, "{name} {value:#x}").unwrap();
    }
}

#[test]
fn numbers_and_layouts_are_those_of_their_version() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/abi/v{}.txt", abi::VERSION));
    let now = now();
    let recorded = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; a new version's record is this:\n{now}", file.display()));
    let (recorded, now): (Vec<_>, Vec<_>) = (recorded.lines().collect(), now.lines().collect());
    let gone: Vec<_> = recorded.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<_> = now.iter().filter(|line| !recorded.contains(line)).collect();
    assert!(gone.is_empty(), "these are no longer so, which takes another abi::VERSION: {gone:#?}; now: {new:#?}");
    assert!(
        new.iter().all(|line| line.starts_with("outcome ")),
        "these are new, which takes another abi::VERSION: {new:#?}"
    );
    assert!(new.is_empty(), "these are new and come into {}: {new:#?}", file.display());
}
