//! Every version and every package name that the project's tools depend on, and nothing else.
//!
//! Crates are pinned by the three lock files. Debian's packages carry no version here: a stable release keeps only
//! the newest one, so what matters of it (the LLVM version of the compiler) is checked after the installation.

/// The rustup nightly to install when no installed one will do: the day whose LLVM `bpf-linker` below reads.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// LLVM's major version in the eBPF compiler: `bpf-linker` reads bitcode of this version and older ones.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// Version of `bpf-linker`.
pub(crate) const BPF_LINKER: &str = "0.10.3";

/// Features of `bpf-linker`: it opens the compiler's own libLLVM when it runs, whichever compiler that is.
pub(crate) const BPF_LINKER_FEATURES: &str = "llvm-22,rust-llvm-22";

/// Version of `cargo-deny`, which has no features to choose.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// Target of the eBPF programs.
pub(crate) const EBPF_TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler with the source of its standard library, for when rustup has no nightly with `rust-src`.
pub(crate) const DEBIAN_TOOLCHAIN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Clippy for that compiler, which `cargo xtask ci` uses.
pub(crate) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// What the lab and the demo run: a command, and the Debian package that has it.
pub(crate) const LAB: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("sipp", "sip-tester"),
    ("kamailio", "kamailio"),
    ("bird", "bird2"),
    ("tshark", "tshark"),
    ("tcpdump", "tcpdump"),
    ("ping", "iputils-ping"),
    ("sysctl", "procps"),
    ("openssl", "openssl"),
];

/// What builds libFuzzer, as above.
pub(crate) const CPP: (&str, &str) = ("c++", "g++");

/// A kernel of Debian's.
pub(crate) struct Kernel {
    /// Debian's suite.
    pub(crate) suite: &'static str,
    /// The package that depends on the suite's newest kernel; the small one for virtual machines will do.
    pub(crate) package: &'static str,
    /// Every program must load into it. Otherwise the daemon must refuse it.
    pub(crate) supported: bool,
}

/// Kernels that are tried: the oldest that is supported, a newer one, and one that is too old.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { suite: "bookworm", package: "linux-image-cloud-amd64", supported: true }, // 6.1
    Kernel { suite: "trixie", package: "linux-image-cloud-amd64", supported: true },   // 6.12
    Kernel { suite: "bullseye", package: "linux-image-cloud-amd64", supported: false }, // 5.10
];

/// What boots them: a command, and the Debian package that has it.
pub(crate) const EMULATOR: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
