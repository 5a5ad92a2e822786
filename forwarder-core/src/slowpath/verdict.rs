//! What the table says of a message, as ingress in the kernel sees it too.

use forwarder_common::verdict::{self, Found, Verdict, decide, look_up};

use super::{interface::View, packet::Message};

/// The verdict by what the table says now: a reply is looked up by `X`, then by `L`.
pub(super) fn verdict(message: &Message, view: &dyn View) -> Verdict {
    let found = look_up(message.keys.reply, || message.keys.request, |key| view.owner(key));
    decide(message.kind, found, view.peer_up(), view.successor(message.keys.request))
}

/// The verdict where nobody is left to be asked: if nobody has sent a response's branch, the owner of its transaction
/// is the best that is known.
pub(super) fn without_answer(message: &Message, view: &dyn View) -> Verdict {
    let verdict = verdict(message, view);
    let Verdict::Ask(asked) = verdict else { return verdict };
    match verdict::without_answer(asked, || view.owner(message.keys.request)) {
        Found::Nothing => verdict,
        found @ (Found::Own | Found::Peer(_) | Found::OtherBranch) => decide(message.kind, found, view.peer_up(), None),
    }
}
