//! Where did a task panic? The hook that notes it while an actor lives.
use std::cell::{Cell, RefCell};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use parking_lot::Mutex;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

struct Installed {
    users: usize,
    before: Option<Arc<Hook>>,
}

static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, before: None });

thread_local! {
    /// How many polls of a served task this thread is inside of.
    static SERVING: Cell<usize> = const { Cell::new(0) };
    static NOTE: RefCell<Option<Note>> = const { RefCell::new(None) };
}

/// What the hook saw of a panic.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

/// While one of these lives, a panic of a served task is noted and not printed: it travels.
#[derive(Debug)]
pub(crate) struct PanicHook(());

impl PanicHook {
    pub(crate) fn install() -> Self {
        let mut installed = INSTALLED.lock();
        installed.users += 1;
        if installed.users == 1 {
            let before: Arc<Hook> = Arc::new(std::panic::take_hook());
            installed.before = Some(Arc::clone(&before));
            std::panic::set_hook(Box::new(move |info| {
                super::crash::panicked(info);
                if SERVING.get() > 0 {
                    let location = info.location().map(ToString::to_string);
                    let backtrace = Some(std::backtrace::Backtrace::force_capture().to_string());
                    NOTE.set(Some(Note { location, backtrace }));
                } else {
                    before(info);
                }
            }));
        }
        PanicHook(())
    }
}

impl Drop for PanicHook {
    fn drop(&mut self) {
        let mut installed = INSTALLED.lock();
        installed.users -= 1;
        // A hook can't be changed by a thread that panics: then ours stays, and passes everything on.
        if installed.users == 0
            && !std::thread::panicking()
            && let Some(before) = installed.before.take()
        {
            drop(std::panic::take_hook());
            // Ours held the other reference: the hook comes back itself, however often roots come and go.
            let before = Arc::into_inner(before).unwrap_or_else(|| Box::new(|_| ()));
            std::panic::set_hook(before);
        }
    }
}

/// Runs a poll of a served task: a panic inside is noted for [`take_note`].
pub(crate) fn serving<R>(poll: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            SERVING.set(SERVING.get() - 1);
        }
    }
    SERVING.set(SERVING.get() + 1);
    let _leave = Leave;
    poll()
}

/// What the hook noted of the last panic of this thread.
pub(crate) fn take_note() -> Option<Note> {
    NOTE.take()
}
