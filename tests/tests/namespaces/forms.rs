//! Messages in forms that the fast path does not read find their owner all the same, and make claims.

use anyhow::{Context as _, Result, ensure};
use tests::forwarder::Cluster;
use tests::lab::{Family, Host, Lab, SIP, Spray};
use tests::traffic::{Endpoint, Sip, vip};

/// A way to write a message: what to replace by what, and where only the daemon can read the result.
struct Form {
    what: &'static str,
    plain: &'static str,
    odd: fn(&str) -> String,
    slow: Slow,
}

/// Where the fast path does not read a form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slow {
    /// It reads it.
    Never,
    /// Where the branch is needed: in responses, and in what the proxy sends.
    Branch,
    /// In any message.
    Always,
}

const FORMS: [Form; 12] = [
    form("a folded Call-ID", "Call-ID: ", |_| "Call-ID:\r\n ".to_owned(), Slow::Always),
    form("a Call-ID folded twice", "Call-ID: ", |_| "Call-ID: \r\n\t\r\n ".to_owned(), Slow::Always),
    form("a folded CSeq", "CSeq: 7 ", |_| "CSeq: 7\r\n ".to_owned(), Slow::Always),
    form("a CSeq folded before its number", "CSeq: 7", |_| "CSeq:\r\n  7".to_owned(), Slow::Always),
    form("a folded Via", "Via: SIP/2.0/UDP ", |_| "Via: SIP/2.0/UDP\r\n ".to_owned(), Slow::Branch),
    form("a branch on a line of its own", ";branch", |_| "\r\n ;branch".to_owned(), Slow::Branch),
    form("a compact Call-ID", "Call-ID:", |_| "i:".to_owned(), Slow::Never),
    form("a compact Via", "Via:", |_| "v :".to_owned(), Slow::Never),
    form("leading zeros", "CSeq: 7", |_| "CSeq:   0007".to_owned(), Slow::Never),
    form("many headers before", "Max-Forwards", many_headers, Slow::Always),
    form("a long header before", "Max-Forwards", long_header, Slow::Never),
    form("a CRLF before the start line", "", |_| "\r\n".to_owned(), Slow::Always),
];

const fn form(what: &'static str, plain: &'static str, odd: fn(&str) -> String, slow: Slow) -> Form {
    Form { what, plain, odd, slow }
}

/// More headers than the fast path looks through.
fn many_headers(before: &str) -> String {
    let headers: String = (0..130).map(|number| format!("X{number}: y\r\n")).collect();
    headers + before
}

/// A header that alone is longer than most messages.
fn long_header(before: &str) -> String {
    format!("X-Long: {}\r\n{before}", "x".repeat(700))
}

/// Outcomes and by how much each moved.
type Moved = &'static [(&'static str, u64)];

impl Form {
    fn of(&self, message: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(message);
        text.replacen(self.plain, &(self.odd)(self.plain), 1).into_bytes()
    }

    /// What is counted where the message lands.
    fn outcomes(&self, is_response: bool) -> Moved {
        if self.slow == Slow::Always || self.slow == Slow::Branch && is_response {
            &[("punted_unread", 1), ("slow_forwarded", 1)]
        } else {
            &[("forwarded", 1)]
        }
    }
}

#[test]
fn a_message_in_any_form_reaches_its_owner_v4() -> Result<()> {
    forms_reach_their_owner(Family::V4)
}

#[test]
fn a_message_in_any_form_reaches_its_owner_v6() -> Result<()> {
    forms_reach_their_owner(Family::V6)
}

fn forms_reach_their_owner(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let client = Endpoint::client(lab, family)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?);
        let call = Sip { call_id: "form@lab", cseq: 7, method: "INVITE", branch: "z9hG4bKf", via: vip(family) };
        owner.send(&call.request(), client.address()?)?;
        client.receive()?;
        cluster.wait_for_owner(call.call_id, 7, Some(call.branch), 2)?;
        lab.spray(&Spray::To(1))?;
        for message in [call.request(), call.response("200 OK")] {
            for form in &FORMS {
                let odd = form.of(&message);
                ensure!(odd != message, "{} changes nothing", form.what);
                let before = cluster.outcomes()?;
                client.send(&odd, vip(family))?;
                let (got, from) = owner.receive().with_context(|| format!("wait for {}", form.what))?;
                ensure!(got == odd && from == client.address()?, "{} was altered: from {from}", form.what);
                ensure!(lands.is_empty()?, "{} also reached the proxy where it landed", form.what);
                let here = form.outcomes(message.starts_with(b"SIP/"));
                let moves = cluster.outcomes()?.since(&before);
                moves.exactly(form.what, &[here, &[("decapsulated", 1)], &[]])?;
            }
        }
        cluster.stop()
    })
}

#[test]
fn a_message_in_any_form_makes_a_claim_v4() -> Result<()> {
    forms_make_claims(Family::V4)
}

#[test]
fn a_message_in_any_form_makes_a_claim_v6() -> Result<()> {
    forms_make_claims(Family::V6)
}

fn forms_make_claims(family: Family) -> Result<()> {
    Lab::run(|lab| {
        let mut cluster = Cluster::start(lab, family)?;
        let carrier = Endpoint::bind(lab, Host::Carrier, Host::Carrier.address(family), SIP)?;
        let (lands, owner) = (Endpoint::proxy(lab, 1, family)?, Endpoint::proxy(lab, 2, family)?);
        lab.spray(&Spray::To(1))?;
        // No proxy leads a message with CRLF: it may be any keep-alive, and egress looks no further.
        for (number, form) in (0..).zip(FORMS.iter().filter(|form| !form.plain.is_empty())) {
            let (call_id, branch) = (format!("form{number}@lab"), format!("z9hG4bK{number}"));
            let call = Sip { call_id: &call_id, cseq: 7, method: "INVITE", branch: &branch, via: vip(family) };
            let odd = form.of(&call.request());
            let before = cluster.edge(2)?.outcomes()?;
            owner.send(&odd, carrier.address()?)?;
            ensure!(carrier.receive()?.0 == odd, "{} was altered when the proxy sent it", form.what);
            // An answer at once: it may outrun the claim, and is held then.
            carrier.send(&call.response("180 Ringing"), vip(family))?;
            let got = owner.receive().with_context(|| format!("wait for the answer to {}", form.what))?;
            ensure!(got.0 == call.response("180 Ringing"), "the answer to {} was altered", form.what);
            ensure!(lands.is_empty()?, "the answer to {} was stray", form.what);
            cluster.wait_for_owner(&call_id, 7, None, 2)?;
            cluster.wait_for_owner(&call_id, 7, Some(&branch), 2)?;
            let claimed = if form.slow == Slow::Never { "egress_claimed" } else { "egress_punted" };
            let moved = cluster.edge(2)?.outcomes()?.since(&before);
            moved.exactly(form.what, &[(claimed, 1), ("decapsulated", 1)])?;
        }
        cluster.stop()
    })
}
