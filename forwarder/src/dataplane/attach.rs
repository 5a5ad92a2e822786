//! Loading the programs and attaching them to interfaces, over the links of an earlier daemon where there are some.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, ProgramFd, ProgramInfo, SchedClassifier, TcAttachType, Xdp,
        XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, TcAttachOptions},
        xdp::XdpLink,
    },
};

use super::{
    links::{Held, Link, egress_filters},
    object::EGRESS,
    pins::Pins,
    preflight, verify,
};
use crate::config::XdpMode;

/// The ingress program.
pub(super) const INGRESS: &str = "forwarder_ingress";

/// How an interface is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `native` or `generic`.
    pub xdp: &'static str,
    /// `tcx` or `clsact`.
    pub egress: &'static str,
}

/// What has become of what was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All is as it was.
    Attached,
    /// Somebody has taken this off behind the daemon's back, or put another program into its place.
    TakenOff(&'static str),
    /// The pins are gone: somebody has taken everything off, as `forwarder detach` does.
    Detached,
}

/// Looks whether both programs are still attached to an interface, as they were. Without pins nobody can know.
pub(super) fn standing(
    ebpf: &mut Ebpf,
    interface: &str,
    ifindex: u32,
    attached: &Attached,
    pins: Option<&Pins>,
) -> Result<Standing> {
    let Some(pins) = pins else { return Ok(Standing::Attached) };
    let is_held = |pin: &Path, program: u32| {
        Link::open(pin).and_then(|link| link.held()).is_ok_and(|held| held == Held { program, ifindex })
    };
    let pin = pins.link(interface, &format!("xdp-{}", attached.xdp));
    if !pin.exists() {
        return Ok(Standing::Detached);
    }
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    if !is_held(&pin, ingress.info()?.id()) {
        return Ok(Standing::TakenOff("XDP program"));
    }
    let egress: &mut SchedClassifier = program(ebpf, EGRESS)?;
    let egress = egress.info()?.id();
    let is_there = match attached.egress {
        "tcx" => is_held(&pins.link(interface, "egress"), egress),
        _ => egress_filters(ifindex)?.iter().any(|filter| filter.program == Some(egress)),
    };
    Ok(if is_there { Standing::Attached } else { Standing::TakenOff("egress program") })
}

/// A program by its name.
pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).with_context(|| format!("find program {name} in the kernel object"))?;
    program.try_into().with_context(|| format!("open program {name}"))
}

/// The program that hands packets to the daemon.
const PUNT: &str = "forwarder_punt";
/// The program whose test runs inject packets.
pub(super) const INJECT: &str = "forwarder_inject";

/// Loads all programs that run outside tests through the verifier.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    ingress.load().map_err(verify::readable).context("load the ingress program")?;
    let egress: &mut SchedClassifier = program(ebpf, EGRESS)?;
    egress.load().map_err(verify::readable).context("load the egress program")?;
    let punt: &mut Xdp = program(ebpf, PUNT)?;
    punt.load().map_err(verify::readable).context("load the punt program")?;
    let inject: &mut SchedClassifier = program(ebpf, INJECT)?;
    inject.load().map_err(verify::readable).context("load the injection program")
}

/// The descriptor of the program that hands packets to the daemon.
pub(super) fn punt(ebpf: &mut Ebpf) -> Result<ProgramFd> {
    let program: &mut Xdp = program(ebpf, PUNT)?;
    program.fd().context("take the descriptor of the punt program")?.try_clone().context("copy it")
}

/// Attaches both programs to an interface.
pub(super) fn attach(ebpf: &mut Ebpf, interface: &str, mode: XdpMode, mut pins: Option<&mut Pins>) -> Result<Attached> {
    // Egress first: a claim that is made before ingress forwards harms nobody.
    let egress: &mut SchedClassifier = program(ebpf, EGRESS)?;
    let egress = attach_egress(egress, interface, pins.as_deref_mut())
        .with_context(|| format!("attach TC egress to {interface}"))?;
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    let xdp = attach_ingress(ingress, interface, mode, pins)?;
    Ok(Attached { xdp, egress })
}

fn attach_ingress(
    program: &mut Xdp,
    interface: &str,
    mode: XdpMode,
    mut pins: Option<&mut Pins>,
) -> Result<&'static str> {
    let (native, generic) = (("native", AyaMode::Driver), ("generic", AyaMode::Skb));
    // What an earlier daemon found to work is tried first: its link is taken over without a gap.
    let is_generic = pins.as_ref().is_some_and(|pins| pins.link(interface, "xdp-generic").exists());
    let modes = match mode {
        XdpMode::Native => vec![native],
        XdpMode::Generic => vec![generic],
        XdpMode::Auto if is_generic => vec![generic, native],
        XdpMode::Auto => vec![native, generic],
    };
    let mut failure = None;
    for (name, mode) in &modes {
        let pin = pins.as_ref().map(|pins| pins.link(interface, &format!("xdp-{name}")));
        if let Some(pins) = &mut pins {
            // An interface has room for one mode: what an earlier daemon attached in another goes first.
            pins.remove_other(interface, &format!("xdp-{name}"))?;
        }
        match xdp_link(program, interface, *mode, pin, pins.as_deref_mut()) {
            Ok(()) => return Ok(name),
            Err(error) => {
                if modes.len() > 1 && failure.is_none() {
                    log::info!("attach {name} XDP to {interface}: {error:#}; trying the other mode");
                }
                failure = Some(error);
            }
        }
    }
    let hint = "another XDP program may be attached (`ip link show` names it), or choose another xdp_mode";
    let failure = failure.unwrap_or_else(|| anyhow!("no mode to try"));
    Err(anyhow!("attach XDP to {interface}: {failure:#}; hint: {hint}"))
}

fn xdp_link(
    program: &mut Xdp,
    interface: &str,
    mode: AyaMode,
    pin: Option<PathBuf>,
    pins: Option<&mut Pins>,
) -> Result<()> {
    if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
        let replaced = PinnedLink::from_pin(pin)
            .map_err(anyhow::Error::from)
            .and_then(|old| Ok(XdpLink::try_from(FdLink::from(old))?))
            .and_then(|link| Ok(program.attach_to_link(link)?));
        match replaced {
            // The pin keeps the link; the descriptor may go.
            Ok(id) => {
                drop(program.take_link(id)?);
                return Ok(());
            }
            Err(error) => {
                log::info!("{}: {error:#}; attaching anew", pin.display());
                std::fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?;
            }
        }
    }
    let id = program.attach(interface, mode)?;
    let (Some(pin), Some(pins)) = (pin, pins) else { return Ok(()) };
    let link: FdLink = program.take_link(id)?.try_into().context("take the XDP link")?;
    link.pin(&pin).with_context(|| format!("pin the XDP link at {}", pin.display()))?;
    pins.made(pin);
    Ok(())
}

fn attach_egress(program: &mut SchedClassifier, interface: &str, pins: Option<&mut Pins>) -> Result<&'static str> {
    if !preflight::has_tcx() {
        return attach_clsact(program, interface, pins);
    }
    let pin = pins.as_ref().map(|pins| pins.link(interface, "egress"));
    if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
        match take_over_egress(program, interface, pin) {
            Ok(()) => return Ok("tcx"),
            Err(error) => log::info!("{}: {error:#}; attaching anew", pin.display()),
        }
    }
    // Before all others: one that lets a packet go hides it from those behind it.
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, TcAttachType::Egress, first)?;
    if let (Some(pin), Some(pins)) = (pin, pins) {
        // What an earlier daemon has there goes after the new one has come.
        if pin.exists() {
            std::fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        let link: FdLink = program.take_link(id)?.try_into().context("take the TC link")?;
        link.pin(&pin).with_context(|| format!("pin the TC link at {}", pin.display()))?;
        pins.made(pin);
    }
    Ok("tcx")
}

/// Puts the program into the link of an earlier daemon, without a gap; such a link keeps its place among others.
fn take_over_egress(program: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<()> {
    let held = Link::open(pin).and_then(|link| link.held())?;
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
    ensure!(programs.first().is_none_or(|first| first.id() == held.program), "other programs have come before it");
    let link = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let id = program.attach_to_link(link)?;
    drop(program.take_link(id)?);
    Ok(())
}

/// Before Linux 6.6 a filter of the clsact qdisc, which outlives the daemon by itself and cannot be pinned.
fn attach_clsact(program: &mut SchedClassifier, interface: &str, pins: Option<&mut Pins>) -> Result<&'static str> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => {}
        // It is there already, with or without filters of others.
        Err(error) => log::debug!("add qdisc clsact to {interface}: {error}"),
    }
    // A filter of an earlier daemon; the new one is in place a moment later.
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, EGRESS);
    // The number that comes first; of one number the newest does (net/sched/cls_bpf.c of Linux).
    let first = TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() });
    let id = program.attach_with_options(interface, TcAttachType::Egress, first)?;
    let link = program.take_link(id)?;
    match pins {
        Some(pins) => {
            std::mem::forget(link);
            pins.made_filter(interface);
        }
        None => drop(link),
    }
    Ok("clsact")
}

/// What sees packets that leave an interface before our egress program does: each may hide them from it.
pub(super) fn in_front(ebpf: &mut Ebpf, interface: &str, ifindex: u32, attached: &Attached) -> Result<Vec<String>> {
    let egress: &mut SchedClassifier = program(ebpf, EGRESS)?;
    let ours = egress.info()?.id();
    if attached.egress == "tcx" {
        let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
        let name = |program: &ProgramInfo| {
            format!("program {} ({})", program.id(), program.name_as_str().unwrap_or("without a name"))
        };
        return Ok(programs.iter().take_while(|program| program.id() != ours).map(name).collect());
    }
    let filters = egress_filters(ifindex)?;
    Ok(filters.iter().take_while(|filter| filter.program != Some(ours)).map(ToString::to_string).collect())
}
