//! What does the program's own table of symbols call a function? Line tables alone have short names of generic ones.
use std::fs::File;

use object::read::ReadCache;
use object::{Object, ObjectSymbol, SymbolKind};

/// The functions of this program, by where they begin; offsets as in [`Place`](super::places::Place).
#[derive(Debug, Default)]
pub(crate) struct Symtab(Vec<Function>);

#[derive(Debug)]
struct Function {
    start: u64,
    bytes: u64,
    name: Box<[u8]>,
}

impl Symtab {
    /// Reads it. A program that was stripped of it has none.
    pub(crate) fn read() -> Self {
        let Ok(exe) = File::open("/proc/self/exe") else { return Symtab::default() };
        let cache = ReadCache::new(exe);
        let Ok(file) = object::File::parse(&cache) else { return Symtab::default() };
        let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
        let functions = functions.filter_map(|symbol| {
            let name = symbol.name_bytes().ok()?;
            Some(Function { start: symbol.address(), bytes: symbol.size(), name: name.into() })
        });
        let mut functions: Vec<Function> = functions.collect();
        functions.sort_unstable_by_key(|function| function.start);
        Symtab(functions)
    }

    /// The function that the code at this offset is a part of, with whatever was inlined into it.
    pub(crate) fn at(&self, offset: u64) -> Option<String> {
        let next = self.0.partition_point(|function| function.start <= offset);
        let function = self.0.get(next.checked_sub(1)?)?;
        let is_in = offset - function.start < function.bytes;
        is_in.then(|| format!("{:#}", backtrace::SymbolName::new(&function.name)))
    }
}

#[cfg(test)]
mod tests {
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
}
