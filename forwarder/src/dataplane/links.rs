//! What the kernel itself says of programs that are attached: by their pinned links, and by the interfaces.
//!
//! A link is what holds a program at an interface. Anybody with the right to do so can detach it, or put another
//! program into it; the kernel tells nobody, so it has to be asked.

use std::{
    ffi::CString,
    fmt, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, Nla as _},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp},
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
    sys::constants::NETLINK_ROUTE,
};

use crate::netlink::Kernel;

/// TCA_BPF_ID of linux/pkt_cls.h: the program of a filter.
const FILTER_PROGRAM: u16 = 11;

/// Commands of bpf(2), from linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;

/// What holds a program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The program's number.
    pub(super) program: u32,
    /// The interface's index in its own network namespace; 0: the link is detached, or its interface gone.
    pub(super) ifindex: u32,
}

/// A link that was pinned.
pub(super) struct Link(OwnedFd);

impl Link {
    /// The link of a pin.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        /// The members of `union bpf_attr` (linux/bpf.h) for this command.
        #[repr(C)]
        struct Attributes {
            pathname: u64,
            bpf_fd: u32,
            file_flags: u32,
        }
        let name = CString::new(pin.as_os_str().as_bytes())?;
        let attributes = Attributes { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        // SAFETY: the attributes are of the form that the command reads; the name lives through the call.
        let opened = unsafe { bpf(BPF_OBJ_GET, &attributes) }?;
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(opened) }))
    }

    /// What it holds where.
    ///
    /// # Errors
    /// It is no link, but another pinned thing.
    pub(super) fn held(&self) -> io::Result<Held> {
        /// The head of `struct bpf_link_info`; the last member is that of XDP and of tcx.
        #[derive(Default)]
        #[repr(C)]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            pad: u32,
            ifindex: u32,
            more: [u32; 3],
        }
        #[repr(C)]
        struct Attributes {
            bpf_fd: u32,
            info_len: u32,
            info: u64,
        }
        let mut info = Info::default();
        let attributes =
            Attributes { bpf_fd: self.number(), info_len: size_of::<Info>() as u32, info: (&raw mut info) as u64 };
        // SAFETY: the attributes are of the form that the command reads; it writes so many bytes at most into the
        // information, any of which are a value.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) }?;
        Ok(Held { program: info.program, ifindex: info.ifindex })
    }

    /// Takes its program off at once: the kernel takes its time over a link that is only let go of.
    ///
    /// # Errors
    /// It cannot be detached, such as one whose interface is gone.
    pub(super) fn detach(&self) -> io::Result<()> {
        // SAFETY: the command reads the link's descriptor, 32 bits, and nothing else.
        unsafe { bpf(BPF_LINK_DETACH, &self.number()) }.map(drop)
    }

    fn number(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

/// bpf(2).
///
/// # Safety
/// The attributes are of the form that the command reads, and what they point to is as it says.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: as the caller says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}

/// The number of the XDP program at an interface of this thread's network namespace; `None`: there is none, or no such
/// interface.
///
/// # Errors
/// The kernel refuses to say.
pub(super) fn xdp_program(ifindex: u32) -> Result<Option<u32>> {
    let mut wanted = LinkMessage::default();
    wanted.header.index = ifindex;
    let answer = Kernel::open(NETLINK_ROUTE)?.ask(RouteNetlinkMessage::GetLink(wanted), NLM_F_ACK);
    let answer: Vec<RouteNetlinkMessage> = match answer {
        Ok(answer) => answer,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error).context("ask for an interface's XDP program"),
    };
    let attributes = answer.iter().filter_map(|message| {
        if let RouteNetlinkMessage::NewLink(link) = message { Some(&link.attributes) } else { None }
    });
    let xdp = attributes
        .flatten()
        .filter_map(|attribute| if let LinkAttribute::Xdp(xdp) = attribute { Some(xdp) } else { None });
    // With programs in several modes the kernel has a number for each and none for all.
    Ok(xdp.flatten().find_map(|xdp| {
        let (LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id)) = xdp else { return None };
        Some(*id).filter(|id| *id != 0)
    }))
}

/// A filter of a qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// What it is, such as `bpf` or `flower`.
    kind: String,
    /// The number that says when it comes.
    priority: u16,
    /// The number of its program, if it is one.
    pub(super) program: Option<u32>,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, priority, program } = self;
        write!(f, "{kind} filter of preference {priority}")?;
        program.map_or(Ok(()), |program| write!(f, " (program {program})"))
    }
}

/// The filters of an interface's clsact qdisc at its egress, in the order in which they see a packet.
///
/// # Errors
/// The kernel refuses to say.
pub(super) fn egress_filters(ifindex: u32) -> Result<Vec<Filter>> {
    let mut wanted = TcMessage::default();
    (wanted.header.index, wanted.header.parent) =
        (ifindex.cast_signed(), TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS });
    let answer = Kernel::open(NETLINK_ROUTE)?.ask(RouteNetlinkMessage::GetTrafficFilter(wanted), NLM_F_DUMP);
    let answer: Vec<RouteNetlinkMessage> = match answer {
        Ok(answer) => answer,
        // Without the qdisc, or without the interface, there are no filters.
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).context("ask for an interface's filters"),
    };
    let filters = answer.iter().filter_map(|message| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = message else { return None };
        // Each preference is told of without a number, and then its filters, each with its own.
        (filter.header.handle != TcHandle::UNSPEC).then(|| Filter::of(filter))
    });
    Ok(filters.collect())
}

impl Filter {
    fn of(message: &TcMessage) -> Self {
        let mut filter = Self { kind: String::new(), priority: (message.header.info >> 16) as u16, program: None };
        for attribute in &message.attributes {
            #[expect(clippy::wildcard_enum_match_arm, reason = "there are new ones with each kernel")]
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => filter.program = options.iter().find_map(program_of_filter),
                _ => {}
            }
        }
        filter
    }
}

fn program_of_filter(option: &TcOption) -> Option<u32> {
    let TcOption::Other(option) = option else { return None };
    let mut value = [0; 4];
    if option.kind() != FILTER_PROGRAM || option.value_len() != value.len() {
        return None;
    }
    option.emit_value(&mut value);
    Some(u32::from_ne_bytes(value))
}

fn is_gone(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    matches!(code, Some(libc::ENODEV | libc::EINVAL | libc::ENOENT))
}
