//! What to do with a packet of a service, as a pure and total table (no map, no clock, no packet).

use crate::{
    claim,
    ids::{Epochs, NodeId, Tick},
    outcome::Outcome,
    sip::Kind,
    table::Entry,
};

/// What the claim table says of a message's key: an ineffective claim is [`Found::Nothing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No effective claim.
    Nothing,
    /// This node's own effective claim.
    Own,
    /// A peer's effective claim.
    Peer(NodeId),
    /// An effective claim of the request key, but none of the reply key that the response has as well: its call may
    /// cross the edge twice, and the owner of this leg may be another one whose claim is on its way.
    OtherBranch,
}

impl Found {
    /// What the table's claim of a key says, with what [`claim::is_effective`] asks for.
    #[must_use]
    pub fn of(entry: Option<Entry>, me: NodeId, now: Tick, live: impl FnOnce(u16) -> Epochs) -> Self {
        match entry.filter(|entry| claim::is_effective(*entry, now, live)) {
            Some(entry) => Self::owned_by(entry.owner(), me.number()),
            None => Self::Nothing,
        }
    }

    /// What a claim says that counts, by its owner; 0 where there is none.
    #[inline(always)] // two compares
    #[must_use]
    pub fn owned_by(owner: u16, me: u16) -> Self {
        match NodeId::new(owner) {
            None => Self::Nothing,
            Some(_) if owner == me => Self::Own,
            Some(owner) => Self::Peer(owner),
        }
    }
}

/// What the table says of a message, where `owner` says it of a key: a response is looked up by its reply key, then by
/// its request key. `reply_key` is `None` for all else, and for a response without a branch.
#[inline(always)] // two calls
pub fn look_up(reply_key: Option<u64>, request_key: impl FnOnce() -> u64, owner: impl Fn(u64) -> Found) -> Found {
    if let Some(key) = reply_key {
        let found = owner(key);
        if !matches!(found, Found::Nothing) {
            return found;
        }
    }
    match owner(request_key()) {
        Found::Nothing => Found::Nothing,
        Found::Own | Found::Peer(_) | Found::OtherBranch if reply_key.is_some() => Found::OtherBranch,
        found @ (Found::Own | Found::Peer(_) | Found::OtherBranch) => found,
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// To the local proxy.
    Local(Outcome),
    /// To the node that owns the transaction.
    ToOwner(NodeId),
    /// To a healthy peer, for it begins a transaction and this node takes no new ones.
    Divert(NodeId),
    /// Nobody is known to own it, and only an owner could use it: ask before letting it go.
    Ask(Outcome),
}

/// The verdict for a message of `kind` whose key was `found`, when `peer_up` says whether any peer is up.
///
/// `successor` is the peer that a new transaction goes to while this node takes none (it drains, or its proxy is down).
pub const fn decide(kind: Kind, found: Found, peer_up: bool, successor: Option<NodeId>) -> Verdict {
    match (peer_up, found, kind) {
        (_, Found::Own, _) => Verdict::Local(Outcome::LocalOwner),
        (false, _, _) => Verdict::Local(Outcome::LocalAlone),
        (true, Found::Peer(owner), _) => Verdict::ToOwner(owner),
        (true, Found::OtherBranch, _) => Verdict::Ask(Outcome::UnknownBranch),
        (true, Found::Nothing, Kind::Request) => match successor {
            Some(successor) => Verdict::Divert(successor),
            None => Verdict::Local(Outcome::LocalNew),
        },
        // The ACK of a refusal may outrun the claim of the transaction that it ends.
        (true, Found::Nothing, Kind::Ack) => Verdict::Ask(Outcome::UnknownAck),
        (true, Found::Nothing, Kind::Cancel) => Verdict::Ask(Outcome::UnknownCancel),
        (true, Found::Nothing, Kind::Response) => Verdict::Ask(Outcome::UnknownResponse),
    }
}

/// Where nobody is left to be asked about a message that ended in [`Verdict::Ask`]: the owner of its request key, as
/// `owner` has it, is the best that is known if only the branch was unknown; else nothing is.
#[inline(always)] // a compare
pub fn without_answer(asked: Outcome, owner: impl FnOnce() -> Found) -> Found {
    if matches!(asked, Outcome::UnknownBranch) { owner() } else { Found::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_answer_the_request_keys_owner_has_to_do_where_the_branch_alone_is_unknown() {
        for (asked, expected) in [
            (Outcome::UnknownBranch, Found::Own),
            (Outcome::UnknownResponse, Found::Nothing),
            (Outcome::UnknownAck, Found::Nothing),
            (Outcome::UnknownCancel, Found::Nothing),
        ] {
            assert_eq!(without_answer(asked, || Found::Own), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_response_is_found_by_its_branch_and_by_nothing_else_for_sure() {
        const X: u64 = 10;
        const L: u64 = 20;
        let peer = Found::Peer(NodeId::new(2).unwrap());
        for (reply, request, response, other) in [
            (Found::Nothing, Found::Nothing, Found::Nothing, Found::Nothing),
            (Found::Nothing, Found::Own, Found::OtherBranch, Found::Own),
            (Found::Nothing, peer, Found::OtherBranch, peer),
            (Found::Own, Found::Nothing, Found::Own, Found::Nothing),
            (Found::Own, peer, Found::Own, peer),
            (peer, Found::Own, peer, Found::Own),
            (peer, peer, peer, peer),
        ] {
            let owner = |key| if key == X { reply } else { request };
            assert_eq!(look_up(Some(X), || L, owner), response, "{reply:?}, {request:?}");
            assert_eq!(look_up(None, || L, owner), other, "{reply:?}, {request:?}");
        }
        let of = [0, 1, 2, 1024].map(|owner| Found::owned_by(owner, 1));
        assert_eq!(of, [Found::Nothing, Found::Own, peer, Found::Nothing]);
    }

    #[test]
    fn each_row_of_the_table_holds() {
        let peer = NodeId::new(2).unwrap();
        let kinds = [Kind::Request, Kind::Ack, Kind::Cancel, Kind::Response];
        for (kind, successor) in kinds.into_iter().flat_map(|kind| [(kind, None), (kind, NodeId::new(3))]) {
            for up in [false, true] {
                assert_eq!(decide(kind, Found::Own, up, successor), Verdict::Local(Outcome::LocalOwner));
            }
            for found in [Found::Nothing, Found::Peer(peer), Found::OtherBranch] {
                assert_eq!(decide(kind, found, false, successor), Verdict::Local(Outcome::LocalAlone));
            }
            assert_eq!(decide(kind, Found::Peer(peer), true, successor), Verdict::ToOwner(peer));
            assert_eq!(decide(kind, Found::OtherBranch, true, successor), Verdict::Ask(Outcome::UnknownBranch));
        }
        let unknown = kinds.map(|kind| decide(kind, Found::Nothing, true, None));
        assert_eq!(
            unknown,
            [
                Verdict::Local(Outcome::LocalNew),
                Verdict::Ask(Outcome::UnknownAck),
                Verdict::Ask(Outcome::UnknownCancel),
                Verdict::Ask(Outcome::UnknownResponse),
            ]
        );
        let diverted = kinds.map(|kind| decide(kind, Found::Nothing, true, NodeId::new(3)));
        assert_eq!(diverted[0], Verdict::Divert(NodeId::new(3).unwrap()), "only what begins a transaction");
        assert_eq!(diverted[1..], unknown[1..]);
    }
}
