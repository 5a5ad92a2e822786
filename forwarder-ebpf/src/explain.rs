//! `explain --kernel`: both keys of one frame, by the same functions as at ingress. Runs in test runs only.

use aya_ebpf::programs::XdpContext;
use forwarder_common::{
    abi::{EXPLAINED_OUTCOME, Explained},
    net,
    outcome::Outcome,
    sip::fast::NoKey,
};

use crate::{key, maps, packet::Frame};

/// Writes what it found to the explain map.
#[inline(always)] // the entry program itself
pub(crate) fn run(ctx: &XdpContext) {
    maps::explained(match keys(ctx) {
        Ok(found) => found,
        Err(outcome) => Explained { result: EXPLAINED_OUTCOME | outcome.number(), ..Explained::default() },
    });
}

#[inline(always)] // as above
fn keys(ctx: &XdpContext) -> Result<Explained, Outcome> {
    let frame = Frame::xdp(ctx.ctx);
    let ip = net::frame(&frame).ok_or(Outcome::NotService)?;
    let udp = ip.udp(&frame).ok_or(Outcome::NotService)?;
    let end = ip.payload + udp.length;
    if udp.length < net::UDP || end > ip.end || ip.end > frame.length() {
        return Err(Outcome::Malformed);
    }
    let marks = maps::marks_ingress().ok_or(Outcome::NotService)?;
    marks.begin(ip.payload + net::UDP, end);
    key::ingress(ctx.ctx, key::X_OF_REQUEST | key::X_OF_REPLY).map_err(NoKey::outcome)?;
    Ok(marks.explained())
}
