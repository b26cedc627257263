//! Which build is this? The GNU build id of the running executable.
#![allow(unsafe_code, reason = "the note is read where the loader has mapped it")]
use std::sync::OnceLock;

/// The build id, from the note that the linker leaves; empty where it left none.
pub(crate) fn build_id() -> &'static [u8] {
    static BUILD_ID: OnceLock<Vec<u8>> = OnceLock::new();
    BUILD_ID.get_or_init(|| {
        let mut found: Vec<u8> = Vec::new();
        // SAFETY: the callback is called before this returns, with the pointer that we give it.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
        found
    })
}

/// Looks at the first object, which is the executable itself.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, found: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the loader hands a valid structure, whose headers and segments stay mapped as long
    // as the executable does; `found` is the vector of `build_id`.
    unsafe {
        let info = &*info;
        let found = &mut *found.cast::<Vec<u8>>();
        for header in std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) {
            if header.p_type == libc::PT_NOTE {
                let start = (info.dlpi_addr + header.p_vaddr) as *const u8;
                let notes = std::slice::from_raw_parts(start, header.p_memsz as usize);
                if let Some(id) = gnu_build_id(notes) {
                    found.extend_from_slice(id);
                    break;
                }
            }
        }
    }
    1 // stop after the first object
}

/// Finds the note of type 3 (NT_GNU_BUILD_ID) and name `GNU`: elf(5).
fn gnu_build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| header[at..at + 4].try_into().map(u32::from_ne_bytes).ok();
        let (name_len, id_len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let id_at = name_len.checked_next_multiple_of(4)?;
        let next = id_at.checked_add(id_len)?.checked_next_multiple_of(4)?;
        if kind == NT_GNU_BUILD_ID && rest.get(..name_len)? == b"GNU\0" {
            return rest.get(id_at..id_at + id_len);
        }
        notes = rest.get(next..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_found_behind_another_note() {
        let mut notes = Vec::new();
        for (kind, name, id) in [(1u32, &b"GNU\0"[..], &[9u8; 5][..]), (3, b"GNU\0", &[7; 20])] {
            notes.extend((name.len() as u32).to_ne_bytes());
            notes.extend((id.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(name);
            notes.extend(id);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(gnu_build_id(&notes), Some(&[7; 20][..]));
        for cut in 0..notes.len() - 1 {
            gnu_build_id(&notes[..cut]); // must not panic
        }
    }

    #[test]
    fn asking_twice_gives_the_same() {
        assert_eq!(build_id(), build_id());
    }
}
