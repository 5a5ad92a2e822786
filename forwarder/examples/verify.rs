//! Loads every program through the kernel's verifier and prints what it took: `cargo xtask verify`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

fn main() -> anyhow::Result<()> {
    let verified = forwarder::dataplane::verify()?;
    println!("{:<20} {:>12} {:>8} {:>12} {:>12}", "program", "instructions", "stack", "bytecode (B)", "machine (B)");
    for program in &verified {
        println!(
            "{:<20} {:>12} {:>8} {:>12} {:>12}",
            program.name, program.instructions, program.stack, program.translated_bytes, program.jited_bytes
        );
    }
    println!("\nstack in bytes of the functions that they call:");
    for (name, bytes) in forwarder::dataplane::stacks()? {
        if !verified.iter().any(|program| program.name == name) {
            println!("{name:<20} {bytes:>12}");
        }
    }
    let limit = forwarder::dataplane::VERIFIER_LIMIT / 2;
    match verified.iter().find(|program| program.instructions > limit) {
        Some(program) => {
            anyhow::bail!("{} passes half of the verifier's limit: {} > {limit}", program.name, program.instructions)
        }
        None => Ok(()),
    }
}
