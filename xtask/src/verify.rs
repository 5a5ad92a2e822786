//! `cargo xtask verify`: what the kernel's verifier says of each program.

/// One program's line in the output of `forwarder/examples/verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// Instructions that the verifier walked.
    pub(crate) instructions: u32,
    /// Bytes of stack.
    pub(crate) stack: u32,
}

/// The programs in the output of the example: lines of a name and four numbers.
pub(crate) fn programs(output: &str) -> Vec<Program> {
    output.lines().filter_map(program).collect()
}

fn program(line: &str) -> Option<Program> {
    let [name, instructions, stack, translated, jited] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    translated.parse::<u32>().and(jited.parse::<u32>()).ok()?;
    Some(Program { name: name.to_owned(), instructions: instructions.parse().ok()?, stack: stack.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_the_lines_of_a_name_and_four_numbers() {
        let output = "program instructions stack bytecode machine\nforwarder_egress 12345 104 9000 5000\n\n\
            stack in bytes of the functions that they call:\nscan_step 64\nof 1 2 many words\n";
        let expected = Program { name: "forwarder_egress".into(), instructions: 12345, stack: 104 };
        assert_eq!(programs(output), [expected]);
    }
}
