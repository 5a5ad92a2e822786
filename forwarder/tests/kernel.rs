//! The loaded program against the host's run of the same parser. Needs root.

use forwarder::dataplane::Explainer;
use forwarder_common::{
    abi::{EXPLAINED_KEY, EXPLAINED_OUTCOME, Explained},
    sip::fast,
};
use test_support::{
    mutate::{ANSWER, INVITE, mutate},
    random::Random,
};

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const MUTATIONS: usize = 50_000;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;

/// An offset-0 bug of the prototype showed in 12 of 60,000 messages: only many find such.
#[test]
fn kernel_and_host_read_the_same_in_every_message() {
    let mut explainer = Explainer::load(KEY).unwrap_or_else(|error| panic!("{error:#} (run as root)"));
    let messages = [INVITE.to_vec(), ANSWER.to_vec()];
    let mut random = Random::new(0xbead);
    let mut keyed = 0;
    for _ in 0..MUTATIONS {
        let message = mutate(&mut random, &messages);
        let kernel = explainer.explain(&frame(&message)).unwrap();
        assert_eq!(kernel, host(&message), "{}", message.escape_ascii());
        keyed += usize::from(kernel.result == EXPLAINED_KEY);
    }
    assert!(keyed * 4 >= MUTATIONS, "only {keyed} of {MUTATIONS} were keyed");
}

/// What the host reads, with offsets as in the frame.
fn host(message: &[u8]) -> Explained {
    match fast::read(message, KEY, false) {
        Ok(marks) => {
            let mut read = marks.explained();
            let shift = HEADERS as u16;
            read.call_id[0] += shift;
            match &mut read.branch {
                [0, _] => {}
                [at, _] => *at += shift,
            }
            read
        }
        Err(why) => Explained { result: EXPLAINED_OUTCOME | why.outcome().number(), ..Explained::default() },
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16 + 8;
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend((length + 20).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 10]);
    for number in [5060, 5060, length, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}
