//! Loading every program for the numbers of the verifier.

use anyhow::{Context as _, Result};
use aya::{
    EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};

/// Instructions that the verifier walks at most (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub const VERIFIER_LIMIT: u32 = 1_000_000;

/// What the verifier says of a program.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The program's name.
    pub name: String,
    /// Instructions that the verifier walked.
    pub instructions: u32,
    /// Bytes of stack over all frames, as the verifier counts them: "8+80" is two functions.
    pub stack: String,
    /// Bytes of bytecode after the verifier's rewriting.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// Loads every program, pins and attaches nothing.
///
/// # Errors
/// The kernel refuses a program: the verifier's log is in the error.
pub fn verify() -> Result<Vec<Verified>> {
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("CLAIMS", 1024)
        .load(super::OBJECT)
        .context("load the kernel programs")?;
    let mut verified = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => continue,
        };
        loaded.map_err(readable).with_context(|| format!("load {name} through the verifier"))?;
        let info = program.info().with_context(|| format!("read the kernel's description of {name}"))?;
        verified.push(Verified {
            name: name.to_owned(),
            instructions: info.verified_instruction_count().unwrap_or(0),
            stack: String::new(),
            translated_bytes: info.size_translated().unwrap_or(0),
            jited_bytes: info.size_jitted(),
        });
    }
    verified.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(verified)
}

/// The last lines of a verifier's log say why; the thousands before do not.
pub(super) fn readable(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            anyhow::anyhow!("{io_error}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        }
        error => error.into(),
    }
}
