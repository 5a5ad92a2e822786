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
    /// Bytes of stack of its entry function.
    pub stack: u32,
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
        .load(super::object::OBJECT)
        .context("load the kernel programs")?;
    let stacks = stacks()?;
    let mut verified = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the object has programs of these two types only")]
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
            stack: stacks.iter().find(|(function, _)| *function == name).map_or(0, |(_, bytes)| *bytes),
            translated_bytes: info.size_translated().unwrap_or(0),
            jited_bytes: info.size_jitted(),
        });
    }
    verified.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(verified)
}

/// Bytes of stack of every function: entry points and the global functions that they call (512 at most along a chain).
///
/// The verifier's log has these numbers too, but aya keeps it only when a load fails.
///
/// # Errors
/// The embedded object is broken.
pub fn stacks() -> Result<Vec<(String, u32)>> {
    let object = aya_obj::Object::parse(super::object::OBJECT).context("parse the kernel programs")?;
    let functions = object.functions.values();
    Ok(functions.map(|function| (function.name.clone(), stack(&function.instructions))).collect())
}

/// The deepest access below the frame pointer, rounded up to eight bytes as the verifier does.
fn stack(instructions: &[aya_obj::generated::bpf_insn]) -> u32 {
    const FRAME_POINTER: u8 = 10;
    let (is_load, is_store) = (|code: u8| code & 7 == 1, |code: u8| matches!(code & 7, 2 | 3));
    let following = instructions.iter().skip(1).map(Some).chain([None]);
    let depths = instructions.iter().zip(following).map(|(instruction, next)| {
        let (code, offset) = (instruction.code, i32::from(instruction.off));
        if (is_load(code) && instruction.src_reg() == FRAME_POINTER)
            || (is_store(code) && instruction.dst_reg() == FRAME_POINTER)
        {
            return -offset;
        }
        // The address of a local: the frame pointer moved to a register, and a constant added.
        let is_address = code == 0xbf && instruction.src_reg() == FRAME_POINTER;
        next.filter(|next| is_address && next.code == 0x07).map_or(0, |next| -next.imm)
    });
    depths.max().unwrap_or(0).max(0).cast_unsigned().next_multiple_of(8)
}

/// The last lines of a verifier's log say why; the thousands before do not.
pub(super) fn readable(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.into() };
    let log = verifier_log.to_string();
    let tail: Vec<_> = log.lines().rev().take(40).collect();
    anyhow::anyhow!("{io_error}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
