//! Loads every program through the kernel's verifier, prints what it took and compares it with what was recorded:
//! `cargo xtask verify`. With `--record` the recorded numbers are about to be replaced, and only the limit counts.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use anyhow::{Context as _, Result, bail};
use forwarder::dataplane::{self, Verified};
use test_support::programs::budget;

fn main() -> Result<()> {
    let recorded = if std::env::args().any(|argument| argument == "--record") { "" } else { budget::RECORDED };
    let verified = dataplane::verify()?;
    print(&verified)?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let programs: Vec<_> = verified.iter().map(|program| (program.name.as_str(), program.instructions)).collect();
    let complaints = budget::complaints(recorded, &release, &programs)?;
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "{}; hint: make it smaller, or if it is worth it, `cargo xtask verify --record` and `cargo xtask kernels \
         --record` write what is now into forwarder-ebpf/budget.toml",
        complaints.join("; ")
    )
}

fn print(verified: &[Verified]) -> Result<()> {
    println!("{:<20} {:>12} {:>8} {:>12} {:>12}", "program", "instructions", "stack", "bytecode (B)", "machine (B)");
    for program in verified {
        println!(
            "{:<20} {:>12} {:>8} {:>12} {:>12}",
            program.name, program.instructions, program.stack, program.translated_bytes, program.jited_bytes
        );
    }
    println!("\nstack in bytes of the functions that they call:");
    for (name, bytes) in dataplane::stacks()? {
        if !verified.iter().any(|program| program.name == name) {
            println!("{name:<20} {bytes:>12}");
        }
    }
    Ok(())
}
