//! What an eBPF object must not hold: a path to a panic, which the verifier would refuse or run into.

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};

/// Fails with the names of the functions that should not be there, or if no program is.
pub(crate) fn check(bytes: &[u8]) -> Result<()> {
    let elf: ElfFile64<'_> = ElfFile64::parse(bytes).context("read it as ELF")?;
    if !elf.sections().any(|section| section.kind() == SectionKind::Text && section.size() > 0) {
        bail!("find a program in it; hint: are the entry points public and marked with aya's attributes?");
    }
    if elf.section_by_name(".BTF").is_none() {
        bail!("find its BTF; hint: was it linked by bpf-linker with `--btf`?");
    }
    let panics = panics(elf.symbols().filter_map(|symbol| symbol.name().ok()));
    if panics.is_empty() {
        return Ok(());
    }
    bail!("find no panic: it calls {}; hint: look for indexing, slicing, unwrap and division", panics.join(", "))
}

fn panics<'a>(symbols: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    symbols.filter(|name| name.contains("panic")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_of_core_panicking_is_found() {
        let symbols = ["ingress", "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE", "memcpy"];
        assert_eq!(panics(symbols.into_iter()), ["_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE"]);
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(check(b"not an object").is_err());
    }

    #[test]
    fn an_ordinary_program_is_refused_for_its_lack_of_btf() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(format!("{:#}", check(&own).unwrap_err()).contains("BTF"));
    }
}
