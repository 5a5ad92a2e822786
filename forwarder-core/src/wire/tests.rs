//! The wire format: properties, and the bytes as documented.

use std::net::{IpAddr, SocketAddr};

use forwarder_common::ids::Epoch;
use proptest::prelude::*;

use super::*;
use crate::state::State;

fn claims(most: usize) -> impl Strategy<Value = Vec<Claim>> {
    let claim = (any::<u64>(), any::<u64>(), 1..=LIFETIME_MS as u32, any::<u8>()).prop_map(
        |(key, claimed_at_unix_us, remaining_ms, word)| Claim { key, claimed_at_unix_us, remaining_ms, word },
    );
    proptest::collection::vec(claim, 0..=most)
}

fn stretch(most: usize) -> impl Strategy<Value = Claims> {
    (any::<u32>(), 0..1000_u32, 0..16_u64, claims(most)).prop_map(|(first, more, epoch, claims)| Claims {
        first: u64::from(first),
        span: claims.len() as u32 + more,
        epoch: Epoch::new(epoch),
        claims,
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = any::<(u64, u32, u64, u64, u64)>();
    (numbers, 0..16_u64, 0..4_u8, any::<IpAddr>(), any::<IpAddr>(), any::<u16>()).prop_map(
        |((incarnation, sequence, next, your_incarnation, have), epoch, number, underlay, ip, port)| Hello {
            incarnation,
            sequence,
            epoch: Epoch::new(epoch),
            state: hello::state(number).unwrap(),
            underlay,
            listen: SocketAddr::new(ip, port),
            next,
            your_incarnation,
            your_epoch: (epoch > 0).then(|| Epoch::new(epoch / 2)),
            have,
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let ask = any::<(u64, u64, u64)>().prop_map(|(number, l, x)| Ask { number, request_key: l, reply_key: x });
    let answer = (any::<u64>(), 0..16_u64, claims(ANSWER_CLAIMS)).prop_map(|(number, epoch, claims)| Answer {
        number,
        epoch: Epoch::new(epoch),
        claims,
    });
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
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_head_is_refused_without_a_panic(
        kind in 1..=8_u8, bytes in proptest::collection::vec(0..4_u8, 0..1148)
    ) {
        let bytes = [vec![VERSION, kind], bytes].concat();
        if let Ok(decoded) = Message::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_decodes_to_itself_or_not_at_all(
        message in messages(), at in any::<prop::sample::Index>(), to in any::<u8>()
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(decoded) = Message::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_cut_message_is_refused(message in messages(), at in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert_eq!(Message::decode(cut), Err(WireError::Length));
    }
}

#[test]
fn a_batch_looks_as_documented() {
    let claim = Claim {
        key: 0x0102_0304_0506_0708,
        claimed_at_unix_us: 0x0a0b_0c0d_0e0f_1011,
        remaining_ms: 0x1000,
        word: 0x12,
    };
    let claims = Claims { first: 0x0902, span: 0x0304, epoch: Epoch::new(7), claims: vec![claim] };
    let head = [2, 2, 0, 0, 0, 0, 0, 0, 9, 2, 0, 0, 3, 4, 7, 0, 1];
    let body = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 0, 0, 16, 0, 18];
    assert_eq!(Message::Batch(claims).encode(), [&head[..], &body].concat());
}

#[test]
fn a_hello_looks_as_documented() {
    let hello = Hello {
        incarnation: 1,
        sequence: 2,
        epoch: Epoch::new(3),
        state: State::Draining,
        underlay: IpAddr::from([10, 9, 8, 7]),
        listen: SocketAddr::from(([10, 9, 8, 6], 0x0102)),
        next: 4,
        your_incarnation: 5,
        your_epoch: Some(Epoch::new(7)),
        have: 6,
    };
    let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let middle = [0, 0, 0, 2, 3, 2, 4, 10, 9, 8, 7, 4, 10, 9, 8, 6, 1, 2];
    let expected = [&[2, 1], &number(1)[..], &middle, &number(4), &number(5), &[7], &number(6)].concat();
    assert_eq!(Message::Hello(hello).encode(), expected);
}

#[test]
fn an_ask_and_its_answers_look_as_documented() {
    let ask = Ask { number: 0x0102, request_key: 3 << 56, reply_key: 4 };
    let expected = [2, 4, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
    assert_eq!(Message::Ask(vec![ask]).encode(), expected);
    let claim = Claim { key: 5, claimed_at_unix_us: 6, remaining_ms: 7, word: 1 };
    let answers = vec![
        Answer { number: 9, epoch: Epoch::new(8), claims: vec![claim] },
        Answer { number: 10, epoch: Epoch::new(8), claims: Vec::new() },
    ];
    let nothing = [0, 0, 0, 0, 0, 0, 0, 10, 8, 0];
    let found = [0, 0, 0, 0, 0, 0, 0, 9, 8, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 1];
    assert_eq!(Message::Answer(answers).encode(), [&[2, 5, 0, 2], &found[..], &nothing].concat());
}

#[test]
fn a_digest_and_a_repair_look_as_documented() {
    let digest = Digest { settled: 0x0102, must_answer: true };
    assert_eq!(Message::Digest(digest).encode(), [2, 6, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
    let repair = Repair { sequence: 2, pieces: 3, below: 6, missing: vec![(4, 5)] };
    let expected =
        [2, 7, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5];
    assert_eq!(Message::Repair(repair).encode(), expected);
}

#[test]
fn bad_fields_are_named() {
    let error = |bytes: &[u8]| Message::decode(bytes).unwrap_err();
    let claim = Claim { key: 1, claimed_at_unix_us: 1, remaining_ms: 1, word: 0 };
    let batch = |first: u64, span: u32, claim: Claim| {
        error(&Message::Batch(Claims { first, span, epoch: Epoch::new(0), claims: vec![claim] }).encode())
    };
    assert_eq!(error(&[3, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Version(3));
    assert_eq!(error(&[2, 8, 0, 0, 0, 0]), WireError::Kind(8));
    assert_eq!(error(&[2, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]), WireError::Claims(3));
    assert_eq!(error(&[&[2, 5, 0, 23][..], &[0; 23 * 10]].concat()), WireError::Length);
    assert_eq!(error(&[&[2, 1][..], &[0; 12], &[16]].concat()), WireError::Epoch(16));
    assert_eq!(error(&[&[2, 1][..], &[0; 13], &[4]].concat()), WireError::State(4));
    assert_eq!(error(&[&[2, 1][..], &[0; 14], &[5]].concat()), WireError::Family(5));
    assert_eq!(error(&[2, 6, 0, 0, 0, 0, 0, 0, 0, 0, 2]), WireError::Flags(2));
    assert_eq!(error(&[2, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), WireError::Length);
    assert_eq!(error(&[2; MESSAGE_BYTES + 1]), WireError::Oversized);
    assert_eq!(error(&[2; PACKET_BYTES + 1]), WireError::Oversized);
    assert_eq!(
        error(&Message::Repair(Repair { sequence: 0, pieces: 0, below: 0, missing: vec![(4, 4)] }).encode()),
        WireError::Numbers
    );
    assert_eq!(batch(0, 1, Claim { remaining_ms: 0, ..claim }), WireError::Lifetime(0));
    assert_eq!(batch(0, 1, Claim { remaining_ms: u32::MAX, ..claim }), WireError::Lifetime(u32::MAX));
    assert_eq!(batch(0, 0, claim), WireError::Numbers);
    assert_eq!(batch(u64::MAX, 1, claim), WireError::Numbers);
}
