//! Which code is at an address, said so that another process of this program understands it?
#![allow(unsafe_code, reason = "dl_iterate_phdr has no safe wrapper")]
use std::ffi::{CStr, c_void};

use serde::{Deserialize, Serialize};

/// A place in the code of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Place(pub(crate) u16, pub(crate) u64);

impl Place {
    /// Of an address that lies in no module: code that was made at run time.
    const NOWHERE: u16 = u16::MAX;
}

/// The program and the libraries that it has loaded.
#[derive(Debug)]
pub(crate) struct Modules(Vec<Module>);

#[derive(Debug)]
struct Module {
    /// Its path; empty for the program itself.
    name: String,
    bias: usize,
    ranges: Vec<std::ops::Range<usize>>,
}

impl Modules {
    /// Those of this process.
    pub(crate) fn here() -> Self {
        let mut modules = Vec::new();
        // SAFETY: the callback takes the list that is passed along, which lives until the call returns.
        unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut modules).cast()) };
        Modules(modules)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|module| module.name.clone()).collect()
    }

    pub(crate) fn place(&self, address: usize) -> Place {
        let module = self.0.iter().position(|module| module.ranges.iter().any(|range| range.contains(&address)));
        match module.and_then(|number| Some((number, u16::try_from(number).ok()?))) {
            Some((index, number)) => Place(number, address.wrapping_sub(self.0[index].bias) as u64),
            None => Place(Place::NOWHERE, address as u64),
        }
    }

    /// Where the same code is in this process.
    pub(crate) fn address(&self, module: &str, offset: u64) -> Option<usize> {
        let module = self.0.iter().find(|known| known.name == module)?;
        let address = module.bias.wrapping_add(usize::try_from(offset).ok()?);
        module.ranges.iter().any(|range| range.contains(&address)).then_some(address)
    }
}

unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, modules: *mut c_void) -> libc::c_int {
    // SAFETY: the loader passes a valid description, with as many headers as it says and a name that ends; and what we
    // have passed along.
    let (info, modules, headers, name) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info, &mut *modules.cast::<Vec<Module>>(), headers, CStr::from_ptr(info.dlpi_name))
    };
    let bias = usize::try_from(info.dlpi_addr).unwrap_or_default();
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let ranges = loaded.map(|header| {
        let start = bias.wrapping_add(usize::try_from(header.p_vaddr).unwrap_or_default());
        start..start.wrapping_add(usize::try_from(header.p_memsz).unwrap_or_default())
    });
    modules.push(Module { name: name.to_string_lossy().into_owned(), bias, ranges: ranges.collect() });
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again() {
        let modules = Modules::here();
        let address = a_place_is_found_again as fn() as usize;
        let Place(module, offset) = modules.place(address);
        assert_eq!(modules.names()[usize::from(module)], "", "it is the program's own");
        assert_eq!(modules.address("", offset), Some(address));
        assert_eq!(modules.place(7), Place(Place::NOWHERE, 7));
    }
}
