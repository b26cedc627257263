//! What does the program's own table of symbols call a function? Line tables alone have short names of generic ones.
//!
//! elf(5), of which this is the little that names functions; what a reader of all of it does takes a third of a second
//! in a debug build.
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The functions of this program, by where they begin; offsets as in [`Place`](super::places::Place).
#[derive(Debug, Default)]
pub(crate) struct Symtab {
    functions: Vec<Function>,
    names: Vec<u8>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    bytes: u64,
    name: usize,
}

impl Symtab {
    /// Reads it. A program that was stripped of it has none.
    pub(crate) fn read() -> Self {
        File::open("/proc/self/exe").ok().and_then(|exe| read(&exe)).unwrap_or_default()
    }

    /// The function that the code at this offset is a part of, with whatever was inlined into it.
    pub(crate) fn at(&self, offset: u64) -> Option<String> {
        let next = self.functions.partition_point(|function| function.start <= offset);
        let function = self.functions.get(next.checked_sub(1)?)?;
        if offset - function.start >= function.bytes {
            return None;
        }
        let name = self.names.get(function.name..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        Some(format!("{:#}", backtrace::SymbolName::new(&name[..end])))
    }
}

/// The magic number, and the class of 64 bits.
const ELF_64: &[u8] = b"\x7fELF\x02";
const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
/// Sections of a file: one with more is none that a linker has made.
const MAX_SECTIONS: usize = 10_000;
/// Bytes of a table: a file that announces more is damaged.
const MAX_TABLE_BYTES: usize = 1 << 30;
const SYMTAB: u64 = 2;
const FUNCTION: u8 = 2;

fn read(exe: &File) -> Option<Symtab> {
    let header = at(exe, 0, HEADER_BYTES)?;
    if !header.starts_with(ELF_64) {
        return None;
    }
    let (offset, count) = (number(&header, 0x28..0x30)?, number(&header, 0x3c..0x3e)?);
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_SECTIONS)?;
    let sections = at(exe, offset, count * SECTION_BYTES)?;
    let sections: Vec<&[u8]> = sections.chunks_exact(SECTION_BYTES).collect();
    let symtab = sections.iter().find(|section| number(section, 4..8) == Some(SYMTAB))?;
    let strings = sections.get(usize::try_from(number(symtab, 0x28..0x2c)?).ok()?)?;
    let names = contents(exe, strings)?;
    let symbols = contents(exe, symtab)?;
    let mut functions = Vec::with_capacity(symbols.len() / SYMBOL_BYTES);
    for symbol in symbols.chunks_exact(SYMBOL_BYTES) {
        if symbol[4] & 0xf == FUNCTION {
            let name = usize::try_from(number(symbol, 0..4)?).ok()?;
            functions.push(Function { start: number(symbol, 8..16)?, bytes: number(symbol, 16..24)?, name });
        }
    }
    functions.sort_unstable_by_key(|function| function.start);
    Some(Symtab { functions, names })
}

fn contents(exe: &File, section: &[u8]) -> Option<Vec<u8>> {
    at(exe, number(section, 0x18..0x20)?, usize::try_from(number(section, 0x20..0x28)?).ok()?)
}

fn at(exe: &File, offset: u64, len: usize) -> Option<Vec<u8>> {
    let is_inside = exe.metadata().is_ok_and(|file| offset.saturating_add(len as u64) <= file.len());
    if !is_inside || len > MAX_TABLE_BYTES {
        return None;
    }
    let mut bytes = vec![0; len];
    exe.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// In the byte order of this machine, as the program is one that runs on it.
fn number(bytes: &[u8], range: Range<usize>) -> Option<u64> {
    let bytes = bytes.get(range)?;
    let mut number = [0; 8];
    match cfg!(target_endian = "little") {
        true => number[..bytes.len()].copy_from_slice(bytes),
        false => number[8 - bytes.len()..].copy_from_slice(bytes),
    }
    Some(u64::from_ne_bytes(number))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::places::{Modules, Place};
    use super::*;

    fn generic<T>(value: T) -> Box<T> {
        Box::new(value)
    }

    #[test]
    fn a_generic_function_has_its_whole_name() {
        let Place(_, offset) = Modules::here().place(generic::<u8> as fn(u8) -> Box<u8> as usize);
        let name = Symtab::read().at(offset).expect("a test is not stripped");
        assert!(name.contains("symtab::tests::generic"), "{name}");
        assert_eq!(Symtab::read().at(0), None);
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_has_no_names() {
        let exe = std::fs::read("/proc/self/exe").expect("it is ours");
        for kept in [0, 3, 40, 64, 1_000, exe.len() / 2, exe.len() - 1] {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&exe[..kept]).expect("there is room");
            assert!(read(&file).is_none(), "{kept}");
        }
    }
}
