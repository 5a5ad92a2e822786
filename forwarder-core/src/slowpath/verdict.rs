//! What the table says of a message, as ingress in the kernel sees it too.

use forwarder_common::{
    outcome::Outcome,
    verdict::{Found, Verdict, decide},
};

use super::{interface::View, packet::Message};

/// The verdict by what the table says now: a reply is looked up by `X`, then by `L`.
pub(super) fn verdict(message: &Message, view: &dyn View) -> Verdict {
    let found = match by_reply(message, view) {
        Some(Found::Nothing) if by_request(message, view) != Found::Nothing => Found::OtherBranch,
        Some(found) => found,
        None => by_request(message, view),
    };
    decide(message.kind, found, view.peer_up(), view.taker(message.keys.request))
}

/// The verdict where nobody is left to be asked: if nobody has sent a response's branch, the owner of its transaction is the
/// best that is known.
pub(super) fn without_answer(message: &Message, view: &dyn View) -> Verdict {
    match verdict(message, view) {
        Verdict::Ask(Outcome::UnknownBranch) => decide(message.kind, by_request(message, view), view.peer_up(), None),
        verdict => verdict,
    }
}

/// What the table says of a response's branch; `None` if it has none that could be known.
fn by_reply(message: &Message, view: &dyn View) -> Option<Found> {
    message.keys.reply.map(|key| view.owner(key))
}

fn by_request(message: &Message, view: &dyn View) -> Found {
    view.owner(message.keys.request)
}
