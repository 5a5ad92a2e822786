//! The wire format: properties, and the bytes as documented.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::{Epoch, Epochs, NodeId};
use forwarder_common::rest::{Class, KeyKind, Purpose};
use proptest::prelude::*;

use super::*;
use crate::state::State;

fn claim() -> impl Strategy<Value = Claim> {
    (any::<u64>(), any::<u64>(), 0..=LIFETIME_MS as u32, 0..16_u64, 0..16_u8, any::<u64>()).prop_map(
        |(key, claimed_at_unix_us, remaining_ms, epoch, purpose, number)| Claim {
            key,
            claimed_at_unix_us,
            remaining_ms,
            epoch: Epoch::new(epoch),
            purpose: Purpose::decode(purpose),
            number,
        },
    )
}

fn claims(most: usize) -> impl Strategy<Value = Vec<Claim>> {
    proptest::collection::vec(claim(), 0..=most)
}

fn stretch(most: usize) -> impl Strategy<Value = Claims> {
    (any::<u32>(), 1..=u32::MAX, any::<u32>(), claims(most)).prop_map(|(first, span, sequence, claims)| {
        let first = u64::from(first);
        let number = |number: u64| first + number % u64::from(span).min(STRETCH_NUMBERS);
        let claims = claims.into_iter().map(|claim| Claim { number: number(claim.number), ..claim }).collect();
        Claims { first, span, sequence, claims }
    })
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn hello() -> impl Strategy<Value = Hello> {
    let service = (socket(), any::<u8>(), any::<u8>()).prop_map(|(address, transport, affinity)| Service {
        address,
        transport,
        affinity,
    });
    let equal = any::<(u8, u64)>().prop_map(|(what, hash)| MustEqual { what, hash });
    let lists =
        (proptest::collection::vec(service, 0..=HELLO_SERVICES), proptest::collection::vec(equal, 0..=HELLO_EQUALS));
    let numbers = any::<(u64, u32, u64, u64, u64, u16, u16, bool)>();
    (numbers, 0..4_u8, any::<IpAddr>(), socket(), lists).prop_map(|(numbers, number, underlay, listen, lists)| {
        let (incarnation, sequence, next, your_incarnation, have, epochs, seen, is_silent) = numbers;
        Hello {
            incarnation,
            sequence,
            epochs: Epochs::from_bits(epochs),
            state: hello::state(number).unwrap(),
            next,
            your_incarnation,
            your_epochs: Epochs::from_bits(seen),
            have,
            underlay,
            listen,
            services: lists.0,
            must_equal: lists.1,
            is_silent,
        }
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let ask = any::<(u64, u64, u64)>().prop_map(|(number, l, x)| Ask { number, request_key: l, reply_key: x });
    let answer = (any::<u64>(), claims(ANSWER_CLAIMS)).prop_map(|(number, claims)| Answer { number, claims });
    let range =
        (any::<u32>(), 1..=u32::MAX).prop_map(|(from, more)| (u64::from(from), u64::from(from) + u64::from(more)));
    let ranges = proptest::collection::vec(range, 0..=REPAIR_RANGES);
    prop_oneof![
        hello().prop_map(Message::Hello),
        stretch(BATCH_CLAIMS).prop_map(Message::Batch),
        stretch(SNAPSHOT_CLAIMS).prop_map(Message::Snapshot),
        proptest::collection::vec(ask, 0..=MESSAGE_ASKS).prop_map(Message::Ask),
        proptest::collection::vec(answer, 0..=MESSAGE_ANSWERS).prop_map(Message::Answer),
        any::<(u64, bool)>().prop_map(|(settled, must_answer)| Message::Digest(Digest { settled, must_answer })),
        (any::<(u32, u32, u64)>(), ranges).prop_map(|((sequence, pieces, below), missing)| Message::Repair(Repair {
            sequence,
            pieces,
            below,
            missing
        })),
    ]
}

proptest! {
    #[test]
    fn a_message_survives_the_wire(message in messages()) {
        let bytes = message.encode();
        let most = if matches!(message, Message::Snapshot(_)) { MESSAGE_BYTES } else { PACKET_BYTES };
        prop_assert!(bytes.len() <= most);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn gossip_survives_the_wire(peers in proptest::collection::vec((1..=1023_u16, socket()), 0..=GOSSIP_PEERS)) {
        let peers = peers.into_iter().map(|(node, listen)| (NodeId::new(node).unwrap(), listen)).collect();
        for gossip in [Gossip::Linked(peers), Gossip::Leaves] {
            let bytes = gossip.encode();
            prop_assert!(bytes.len() <= DATAGRAM_BYTES);
            prop_assert_eq!(Gossip::decode(&bytes), Ok(gossip));
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Message::decode(&bytes);
        if let Ok(gossip) = Gossip::decode(&bytes) {
            prop_assert!(gossip == Gossip::Unknown || gossip == Gossip::Leaves || gossip.encode() == bytes);
        }
    }

    #[test]
    fn garbage_behind_a_good_head_is_refused_without_a_panic(
        kind in 1..=8_u8, bytes in proptest::collection::vec(0..4_u8, 0..1148)
    ) {
        let bytes = [vec![VERSION, kind], bytes].concat();
        same_again(&bytes)?;
    }

    #[test]
    fn a_changed_byte_decodes_to_itself_or_not_at_all(
        message in messages(), at in any::<prop::sample::Index>(), to in any::<u8>()
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        same_again(&bytes)?;
    }

    #[test]
    fn fields_of_a_later_daemon_are_skipped_wherever_they_are(
        hello in hello(),
        fields in proptest::collection::vec((6..=255_u8, proptest::collection::vec(any::<u8>(), 0..9)), 0..6),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 6)
    ) {
        let bytes = Message::Hello(hello.clone()).encode();
        let (head, mut all) = fields_of(&bytes);
        let mut types: Vec<u8> = fields.iter().map(|(kind, _)| *kind).collect();
        types.sort_unstable();
        types.dedup();
        let is_once = types.len() == fields.len();
        for ((kind, value), place) in fields.iter().zip(places) {
            let field = [&[*kind], &(value.len() as u16).to_be_bytes()[..], value].concat();
            all.insert(place.index(all.len() + 1), field);
        }
        let bytes = [head, &[all.len() as u8], &all.concat()[..]].concat();
        match Message::decode(&bytes) {
            _ if bytes.len() > PACKET_BYTES => {}
            Ok(decoded) => prop_assert!(is_once && decoded == Message::Hello(hello)),
            Err(error) => prop_assert!(!is_once && matches!(error, WireError::Twice(_))),
        }
    }

    #[test]
    fn a_cut_message_is_refused(message in messages(), at in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert_eq!(Message::decode(cut), Err(WireError::Length));
    }
}

/// What can be read means the same when it is written again; only fields that are skipped are not.
fn same_again(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(decoded) = Message::decode(bytes) {
        let again = decoded.encode();
        prop_assert_eq!(Message::decode(&again), Ok(decoded.clone()));
        prop_assert!(matches!(decoded, Message::Hello(_)) || again == bytes);
    }
    Ok(())
}

/// The bytes of a hello before its count of fields, and its fields.
fn fields_of(bytes: &[u8]) -> (&[u8], Vec<Vec<u8>>) {
    let (head, mut rest) = (&bytes[..HELLO_HEAD], &bytes[HELLO_HEAD + 1..]);
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let length = 3 + usize::from(u16::from_be_bytes([rest[1], rest[2]]));
        fields.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    assert_eq!(usize::from(bytes[HELLO_HEAD]), fields.len());
    (head, fields)
}

/// Bytes of a hello before its count of fields.
const HELLO_HEAD: usize = 2 + 41;

#[test]
fn a_batch_looks_as_documented() {
    let claim = Claim {
        key: 0x0102_0304_0506_0708,
        claimed_at_unix_us: 0x0a0b_0c0d_0e0f_1011,
        remaining_ms: 0x1000,
        epoch: Epoch::new(7),
        purpose: Purpose::decode(2),
        number: 0x0902 + 0x0203,
    };
    let claims = Claims { first: 0x0902, span: 0x0304, sequence: 0x0506, claims: vec![claim] };
    let head = [3, 2, 0, 0, 0, 0, 0, 0, 9, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 1];
    let body = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 0, 0, 16, 0, 0x27, 2, 3];
    assert_eq!(Message::Batch(claims).encode(), [&head[..], &body].concat());
}

fn simple_hello() -> Hello {
    Hello {
        incarnation: 1,
        sequence: 2,
        epochs: Epochs::from_bits(0x0304),
        state: State::Draining,
        next: 4,
        your_incarnation: 5,
        your_epochs: Epochs::from_bits(0x0506),
        have: 6,
        underlay: IpAddr::from([10, 9, 8, 7]),
        listen: SocketAddr::from(([10, 9, 8, 6], 0x0102)),
        services: vec![Service {
            address: SocketAddr::from(([192, 0, 2, 1], 5060)),
            transport: 17,
            affinity: Service::AFFINITY_CALL,
        }],
        must_equal: vec![MustEqual { what: MustEqual::TIMERS, hash: 9 }],
        is_silent: false,
    }
}

#[test]
fn a_hello_looks_as_documented() {
    let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let head = [&[3, 1], &number(1)[..], &[0, 0, 0, 2, 3, 4, 2], &number(4), &number(5), &[5, 6], &number(6)].concat();
    assert_eq!(head.len(), HELLO_HEAD);
    let addresses = [4, 1, 0, 5, 4, 10, 9, 8, 7, 2, 0, 7, 4, 10, 9, 8, 6, 1, 2];
    let services = [3, 0, 9, 17, 1, 4, 192, 0, 2, 1, 0x13, 0xc4];
    let equals = [4, 0, 9, 2, 0, 0, 0, 0, 0, 0, 0, 9];
    let expected = [&head[..], &addresses, &services, &equals].concat();
    assert_eq!(Message::Hello(simple_hello()).encode(), expected);
    let silent = Hello { is_silent: true, services: Vec::new(), must_equal: Vec::new(), ..simple_hello() };
    let (addresses, proxies) = ([&[3][..], &addresses[1..]].concat(), [5, 0, 1, 1]);
    assert_eq!(Message::Hello(silent).encode(), [&head[..], &addresses, &proxies].concat());
}

#[test]
fn more_services_and_values_than_a_hello_carries_are_left_out_by_writer_and_reader() {
    let mut hello = simple_hello();
    hello.services = vec![hello.services[0]; HELLO_SERVICES + 1];
    hello.must_equal = vec![hello.must_equal[0]; HELLO_EQUALS + 1];
    let written = Message::Hello(hello.clone()).encode();
    let (head, mut fields) = fields_of(&written);
    hello.services.truncate(HELLO_SERVICES);
    hello.must_equal.truncate(HELLO_EQUALS);
    assert_eq!(Message::decode(&written), Ok(Message::Hello(hello.clone())));
    for field in &mut fields[2..] {
        let value = field.split_off(3).repeat(2);
        *field = [&field[..1], &(value.len() as u16).to_be_bytes(), &value].concat();
    }
    let longer = [head, &[fields.len() as u8], &fields.concat()].concat();
    assert!(longer.len() <= PACKET_BYTES);
    assert_eq!(Message::decode(&longer), Ok(Message::Hello(hello)));
}

#[test]
fn fields_that_are_missing_twice_or_of_a_wrong_length_are_named() {
    let bytes = Message::Hello(simple_hello()).encode();
    let (head, fields) = fields_of(&bytes);
    let decoded = |fields: &[Vec<u8>]| Message::decode(&[head, &[fields.len() as u8], &fields.concat()].concat());
    assert!(decoded(&fields).is_ok() && decoded(&fields[..2]).is_ok());
    assert_eq!(decoded(&fields[1..]), Err(WireError::Missing(1)));
    assert_eq!(decoded(&[&fields[..1], &fields[2..]].concat()), Err(WireError::Missing(2)));
    for (at, field) in fields.iter().enumerate() {
        let twice = [&fields[..], &fields[at..=at]].concat();
        assert_eq!(decoded(&twice), Err(WireError::Twice(at as u8 + 1)));
        let mut longer = fields.clone();
        longer[at] = [&[field[0], 0, field[2] + 1], &field[3..], &[0]].concat();
        assert_eq!(decoded(&longer), Err(WireError::Length), "field {}", at + 1);
    }
}

#[test]
fn an_ask_and_its_answers_look_as_documented() {
    let ask = Ask { number: 0x0102, request_key: 3 << 56, reply_key: 4 };
    let expected = [3, 4, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
    assert_eq!(Message::Ask(vec![ask]).encode(), expected);
    let claim = Claim {
        key: 5,
        claimed_at_unix_us: 6,
        remaining_ms: 7,
        epoch: Epoch::new(8),
        purpose: Purpose::of(KeyKind::Request, Class::Short),
        number: 0x0203,
    };
    let answers = vec![Answer { number: 9, claims: vec![claim] }, Answer { number: 10, claims: Vec::new() }];
    let nothing = [0, 0, 0, 0, 0, 0, 0, 10, 0];
    let found = [0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 0x58];
    let number = [0, 0, 0, 0, 0, 0, 2, 3];
    assert_eq!(Message::Answer(answers).encode(), [&[3, 5, 0, 2], &found[..], &number, &nothing].concat());
}

#[test]
fn a_digest_and_a_repair_look_as_documented() {
    let digest = Digest { settled: 0x0102, must_answer: true };
    assert_eq!(Message::Digest(digest).encode(), [3, 6, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
    let repair = Repair { sequence: 2, pieces: 3, below: 6, missing: vec![(4, 5)] };
    let expected =
        [3, 7, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5];
    assert_eq!(Message::Repair(repair).encode(), expected);
}

#[test]
fn bad_fields_are_named() {
    let error = |bytes: &[u8]| Message::decode(bytes).unwrap_err();
    let claim = Claim {
        key: 1,
        claimed_at_unix_us: 1,
        remaining_ms: 1,
        epoch: Epoch::new(0),
        purpose: Purpose::UNKNOWN,
        number: 5,
    };
    let batch = |first: u64, span: u32, claim: Claim| {
        error(&Message::Batch(Claims { first, span, sequence: 0, claims: vec![claim] }).encode())
    };
    assert_eq!(error(&[2, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Version(2));
    assert_eq!(error(&[4, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Version(4));
    assert_eq!(error(&[3, 8, 0, 0, 0, 0]), WireError::Kind(8));
    assert_eq!(error(&[3, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3]), WireError::Claims(3));
    assert_eq!(error(&[&[3, 5, 0, 18][..], &[0; 18 * 9]].concat()), WireError::Length);
    let hello = Message::Hello(simple_hello()).encode();
    let with = |at: usize, byte: u8| [&hello[..at], &[byte], &hello[at + 1..]].concat();
    assert_eq!(error(&with(2 + 14, 4)), WireError::State(4));
    assert_eq!(error(&with(HELLO_HEAD + 4, 5)), WireError::Family(5));
    assert_eq!(error(&[3, 6, 0, 0, 0, 0, 0, 0, 0, 0, 2]), WireError::Flags(2));
    assert_eq!(error(&[3, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Length);
    assert_eq!(error(&[3; MESSAGE_BYTES + 1]), WireError::Oversized);
    assert_eq!(error(&[&[3, 2][..], &[0; PACKET_BYTES]].concat()), WireError::Oversized);
    assert_eq!(
        error(&Message::Repair(Repair { sequence: 0, pieces: 0, below: 0, missing: vec![(4, 4)] }).encode()),
        WireError::Numbers
    );
    assert_eq!(batch(5, 1, Claim { remaining_ms: u32::MAX, ..claim }), WireError::Lifetime(u32::MAX));
    assert_eq!(batch(5, 0, claim), WireError::Numbers);
    assert_eq!(batch(4, 1, claim), WireError::Numbers);
    assert_eq!(batch(u64::MAX, 1, claim), WireError::Numbers);
}
