//! How does a runtime learn that a descriptor is ready?
#![allow(unsafe_code, reason = "tokio can't see that a descriptor stays open while it is watched; an OwnedFd does")]
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the current runtime watch `fd`, which is non-blocking or only polled.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped and gives the same descriptor each time;
    // `AsyncFd` owns it and deregisters it before it drops it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// The same for a while, for whoever does not own it.
pub(crate) fn watch_borrowed(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: what is borrowed stays open as long as that; a `BorrowedFd` gives the same descriptor each time.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
