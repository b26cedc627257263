//! What is done when code of an actor is about to fail? The slot that a debugger fills, a floor up.
#![allow(unsafe_code, reason = "a slot of the linker's, and the pin of a task's wrapper")]
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{Location, PanicHookInfo};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::endpoint::RunFn;
use super::failure::Failure;
use super::parcels::Reply;
use super::scope::Scope;
use super::{Actor, current};
use crate::error::Error;
use crate::msg::ident::Aid;
use crate::msg::remote_error::WireError;
use crate::msg::spec::{Arming, DebugSettings};
use crate::report::Report;

/// Who is asked before an actor's code fails, and who serves the terminal. There is none where the crate is
/// built without its feature `debug`.
pub(crate) trait Debugger: Sync {
    /// A thread panics, of an armed actor or of code that a crash handler is around: in the panic hook, so its
    /// stack is whole.
    fn panicked(&self, actor: Option<&Arc<Actor>>, info: &PanicHookInfo<'_>) -> Answer;

    /// A `?` has made a report: inside of that `?`.
    fn reported(&self, actor: &Arc<Actor>, report: &Report) -> Answer;

    /// An endpoint has returned an error, which nobody has looked at yet.
    fn failed(&self, actor: &Arc<Actor>, scope: &Arc<Scope>, failure: &Failure) -> Answer;

    /// An error whose user has quit leaves this actor: nobody further up is asked.
    fn quit(&self, actor: &Actor, error: Uuid);

    /// An error leaves the root's outermost nursery.
    fn left_root(&self, root: &Arc<Actor>, error: &Error);

    /// A `pause!` was reached.
    fn paused(
        &self,
        actor: Option<&Arc<Actor>>,
        at: &'static Location<'static>,
        values: Vec<(&'static str, String)>,
    ) -> Answer;

    /// An error that the user wants to look at.
    fn post_mortem(
        &self,
        actor: Option<&Arc<Actor>>,
        at: &'static Location<'static>,
        error: &(dyn std::error::Error + 'static),
    );

    /// Somebody has connected to the root's debug socket: from now on it is the debugger's to listen on.
    /// By the control thread, once.
    fn open(&self, root: &Arc<Actor>, listener: OwnedFd);

    /// Whether a SIGINT that has come to this root is none of the tree's, since a prompt is open. By the control thread.
    fn shields_interrupt(&self) -> bool;

    /// SIGUSR1 has come: somebody wants to know what this root's tree does, or this actor. By the control thread.
    fn asks_for_dump(&self, actor: &Arc<Actor>);

    /// The root collects this dump. By the control thread.
    fn dump(&self, actor: &Arc<Actor>, id: u64);

    /// This actor's time is almost over, and it has not ended: its parent wants to know what it is busy with. By the
    /// control thread.
    fn tell_stuck(&self, actor: &Arc<Actor>);

    /// A child of this actor has said it: what it comes to is told to the control thread. By the control thread.
    fn name_stuck(&self, actor: &Arc<Actor>, child: u64, places: Vec<u8>);
}

/// What the one at the prompt has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Go on, as if nobody had looked.
    Continue,
    /// Fail, and ask nobody any more.
    Quit,
    /// Run the endpoint once more, with the same arguments.
    Retry,
}

thread_local! {
    /// The task that this thread polls, if it was spawned as one that may move to another thread.
    static SEND_TASK: Cell<Option<tokio::task::Id>> = const { Cell::new(None) };
}

/// A task of ours that any worker may poll. While somebody is armed it is known whether code runs directly in one:
/// only there may a thread block without the other tasks of its runtime standing still.
pub(crate) struct SendTask<F>(pub(crate) F);

impl<F: Future> Future for SendTask<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the field is pinned with the whole, and never moved out of it.
        let future = unsafe { self.map_unchecked_mut(|task| &mut task.0) };
        if !is_any_armed() {
            return future.poll(cx);
        }
        struct Restore(Option<tokio::task::Id>);
        impl Drop for Restore {
            fn drop(&mut self) {
                SEND_TASK.set(self.0);
            }
        }
        let _restore = Restore(SEND_TASK.replace(tokio::task::try_id()));
        future.poll(cx)
    }
}

/// Whether this thread may block with `tokio::task::block_in_place`, which a task of a `LocalSet` may not: it would
/// panic, and abort where it panics already.
pub(crate) fn may_block_in_place() -> bool {
    let is_multi_thread = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    is_multi_thread && SEND_TASK.get().is_some_and(|task| tokio::task::try_id() == Some(task))
}

/// Filled when the program is linked: nothing has to run for it.
#[linkme::distributed_slice]
pub(crate) static DEBUGGERS: [&'static dyn Debugger];

pub(crate) fn debugger() -> Option<&'static dyn Debugger> {
    DEBUGGERS.first().copied()
}

/// What a new root is told of debug mode.
pub(crate) fn settings_of_root() -> DebugSettings {
    let by_main = if MAIN_ARMS.load(Ordering::Relaxed) { Arming::ALL } else { Arming::default() };
    let armed = |arming| DebugSettings { own: arming, tree: arming, is_fixed: false };
    let Ok(text) = std::env::var(DEBUG_VARIABLE) else { return armed(by_main) };
    match Arming::parse(&text) {
        Ok(arming) => DebugSettings { is_fixed: true, ..armed(arming) },
        Err(mistake) => {
            eprintln!("teamster: TEAMSTER_DEBUG={text}: {mistake}");
            armed(by_main)
        }
    }
}

/// Arms a tree from outside, whatever its program says.
const DEBUG_VARIABLE: &str = "TEAMSTER_DEBUG";

/// `#[teamster::main(debug)]`.
static MAIN_ARMS: AtomicBool = AtomicBool::new(false);

pub(crate) fn arm_roots() {
    MAIN_ARMS.store(true, Ordering::Relaxed);
}

/// The debug socket of a tree, in its folder.
pub(crate) const DEBUG_SOCKET: &str = "debug";

/// This process runs one test of a suite: it has no terminal of its own, whatever it was started in.
static IS_TEST: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_test() {
    IS_TEST.store(true, Ordering::Relaxed);
}

pub(crate) fn is_test() -> bool {
    IS_TEST.load(Ordering::Relaxed)
}

/// What can be said of a call that an armed actor serves.
pub(crate) struct CallInfo {
    pub(crate) dialog: u64,
    pub(crate) opener: Aid,
    pub(crate) args: bytes::Bytes,
    /// What of the arguments lay elsewhere.
    pub(crate) pieces: Vec<bytes::Bytes>,
    pub(crate) reply: Reply,
    /// What runs it once more: of a context nothing does, its stream is used up.
    pub(crate) again: Option<RunFn>,
}

/// The armed actors of this process.
static ARMED: Mutex<Vec<Weak<Actor>>> = Mutex::new(Vec::new());

/// Whether a panic, or a `?`, has to ask who is armed: a look that is cheap where nobody is.
static IS_ANY_ARMED: AtomicBool = AtomicBool::new(false);

/// Whether [`pause!`](crate::pause) has anything to do here.
static PAUSES: AtomicU8 = AtomicU8::new(UNKNOWN);
/// Nobody is armed, as far as is known, and nobody was told so.
const UNKNOWN: u8 = 0;
const ON: u8 = 1;
/// Nobody is armed, and that has been said once.
const OFF: u8 = 2;

/// A socket's path: the prompt opens to whoever attaches there, and in no terminal of the root's.
pub(crate) const LISTEN_VARIABLE: &str = "TEAMSTER_DEBUG_LISTEN";

/// An actor of this process has booted. Its code has not begun.
pub(crate) fn booted(actor: &Arc<Actor>) {
    if actor.is_root()
        && std::env::var_os(LISTEN_VARIABLE).is_some()
        && let Some(debugger) = debugger()
        && let Some(listener) = actor.control.take_debug()
    {
        debugger.open(actor, listener); // whoever attaches may be there first
    }
    if !actor.settings.debug.own.is_armed() {
        return;
    }
    if debugger().is_none() {
        tracing::warn!("this program is built without teamster's feature `debug`: no actor of it is armed");
        return;
    }
    let mut armed = ARMED.lock();
    armed.retain(|other| other.strong_count() > 0);
    armed.push(Arc::downgrade(actor));
    IS_ANY_ARMED.store(true, Ordering::Relaxed);
    PAUSES.store(ON, Ordering::Relaxed);
    if actor.settings.debug.own.errors {
        crate::report::watch(reported);
    }
}

/// An armed root has ended.
pub(crate) fn ended(actor: &Arc<Actor>) {
    let mut armed = ARMED.lock();
    armed.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(actor)));
    drop(armed);
    look_who_is_armed();
}

pub(crate) fn is_any_armed() -> bool {
    IS_ANY_ARMED.load(Ordering::Relaxed)
}

/// The armed actor that this thread is part of. A thread that nobody of ours has started is of the only
/// armed actor of the process, where there is one.
fn armed_here() -> Option<Arc<Actor>> {
    match current::actor() {
        Ok(actor) => Some(actor),
        Err(_elsewhere) => {
            let armed = ARMED.lock();
            let mut living = armed.iter().filter_map(Weak::upgrade);
            living.next().filter(|_| living.next().is_none())
        }
    }
    .filter(|actor| actor.is_armed())
}

/// Whether code here stops for what `wanted` tells: as the actor's, or (`None`) as what a crash handler is around.
fn stops_here(wanted: impl FnOnce(Arming) -> bool) -> Option<Option<Arc<Actor>>> {
    match armed_here() {
        Some(actor) => wanted(actor.settings.debug.own).then_some(Some(actor)),
        None => (HANDLERS.load(Ordering::Relaxed) > 0).then_some(None),
    }
}

/// Crash handlers around code of no actor.
static HANDLERS: AtomicUsize = AtomicUsize::new(0);

/// While it lives, code of no actor stops too.
pub(crate) struct Handled(());

impl Handled {
    pub(crate) fn begin() -> Self {
        HANDLERS.fetch_add(1, Ordering::Relaxed);
        IS_ANY_ARMED.store(true, Ordering::Relaxed);
        PAUSES.store(ON, Ordering::Relaxed);
        Handled(())
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        HANDLERS.fetch_sub(1, Ordering::Relaxed);
        look_who_is_armed();
    }
}

fn look_who_is_armed() {
    if ARMED.lock().iter().all(|actor| actor.strong_count() == 0) && HANDLERS.load(Ordering::Relaxed) == 0 {
        IS_ANY_ARMED.store(false, Ordering::Relaxed);
        // Where a warning was given it needs no second one.
        let _ = PAUSES.compare_exchange(ON, UNKNOWN, Ordering::Relaxed, Ordering::Relaxed);
        crate::report::watch_no_more();
    }
}

/// A thread panics: see [`Debugger::panicked`]. In the panic hook.
pub(crate) fn panicked(info: &PanicHookInfo<'_>) {
    if is_any_armed()
        && let Some(stopping) = stops_here(|arming| arming.panics)
        && let Some(debugger) = debugger()
    {
        pass_on(debugger.panicked(stopping.as_ref(), info));
        UNWINDS.set(true);
    }
}

thread_local! {
    /// This thread unwinds by a panic that was seen here, and nobody of ours has caught it yet.
    static UNWINDS: Cell<bool> = const { Cell::new(false) };
}

/// A panic of this thread has been caught.
pub(crate) fn caught() {
    UNWINDS.set(false);
}

/// Whether a panic of this thread seems to come from a destructor that runs because of another one: it aborts.
/// Code that catches panics itself may have ended that one unseen.
pub(crate) fn unwinds() -> bool {
    UNWINDS.get()
}

/// A report was made, in an armed process.
fn reported(report: &mut Report) {
    if let Some(actor) = armed_here().filter(|actor| actor.settings.debug.own.errors)
        && let Some(debugger) = debugger()
    {
        pass_on(debugger.reported(&actor, report));
        report.set_seen();
    }
}

/// Whoever ends the task that runs here finds the answer in its scope.
fn pass_on(answer: Answer) {
    if answer != Answer::Continue {
        current::with_current(|current| {
            if let Some(current) = current {
                current.scope.chain().for_each(|scope| scope.set_answer(answer));
            }
        });
    }
}

/// A failure leaves this actor.
pub(crate) fn left(actor: &Actor, scope: &Scope, failure: &WireError) {
    if scope.take_answer() == Some(Answer::Quit)
        && let WireError::Failed(data) = failure
        && let Some(debugger) = debugger()
    {
        debugger.quit(actor, data.id());
    }
}

/// An error of this actor's own code leaves a nursery's body, whose scope this is.
pub(crate) fn left_body(actor: &Actor, scope: &Scope, error: &Error) {
    if is_any_armed()
        && scope.take_answer() == Some(Answer::Quit)
        && let Some(debugger) = debugger()
    {
        debugger.quit(actor, error.id());
    }
}

/// An endpoint has failed: whether it runs once more.
pub(crate) fn is_retried(actor: &Arc<Actor>, scope: &Arc<Scope>, failure: &Failure) -> bool {
    if !is_any_armed() || !actor.is_armed() || !actor.settings.debug.own.errors {
        return false;
    }
    let Some(debugger) = debugger() else { return false };
    let answer = match scope.take_answer() {
        Some(answer) => answer,
        None if failure.is_seen() => Answer::Continue,
        None => debugger.failed(actor, scope, failure),
    };
    if answer == Answer::Quit {
        scope.set_answer(answer);
    }
    answer == Answer::Retry
}

/// An error leaves the root.
pub(crate) fn left_root(root: &Arc<Actor>, error: &Error) {
    if root.is_armed()
        && root.settings.debug.own.errors
        && let Some(debugger) = debugger()
    {
        debugger.left_root(root, error);
    }
}

/// Whether [`pause`] is to be called: one load where nobody is armed.
#[inline]
pub fn pause_is_on() -> bool {
    PAUSES.load(Ordering::Relaxed) != OFF
}

/// What `pause!` comes to where somebody is armed, or where that is not known yet.
///
/// # Panics
///
/// With a payload of its own, where the one at the prompt quits: the endpoint fails by it.
#[cold]
#[track_caller]
pub fn pause(values: &mut dyn FnMut() -> Vec<(&'static str, String)>) {
    let at = Location::caller();
    let (Some(stopping), Some(debugger)) = (stops_here(|arming| arming.pauses), debugger()) else {
        if PAUSES.compare_exchange(UNKNOWN, OFF, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(%at, "a pause! is passed by: this actor is not armed (`.debug(true)`, TEAMSTER_DEBUG=1)");
        }
        return;
    };
    let answer = debugger.paused(stopping.as_ref(), at, values());
    pass_on(answer);
    // In a destructor that a panic runs, it fails already: a second panic would abort.
    if answer == Answer::Quit && !std::thread::panicking() {
        std::panic::resume_unwind(Box::new(DebugQuit { at }));
    }
}

/// A value that is given to `pause!`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Shown<'a, T: ?Sized>(pub &'a T);

/// Of a type that is `Debug`.
///
/// Method lookup takes the receiver as it is before it takes a reference to it: `(&Shown(&x)).show()` finds this
/// one first. With one reference more everything would be opaque.
#[doc(hidden)]
pub trait ViaDebug {
    fn show(&self) -> String;
}

impl<T: fmt::Debug + ?Sized> ViaDebug for Shown<'_, T> {
    fn show(&self) -> String {
        format!("{:#?}", self.0)
    }
}

/// Of any other.
#[doc(hidden)]
pub trait ViaOpaque {
    fn show(&self) -> String;
}

impl<T: ?Sized> ViaOpaque for &Shown<'_, T> {
    fn show(&self) -> String {
        format!("<{} at {:p}: not Debug>", std::any::type_name::<T>(), self.0)
    }
}

/// Stops here on an error that was caught: the prompt shows it, and its stack as it is now.
///
/// Where nobody is armed, and in a program that is built without the feature `debug`, it does nothing.
///
/// # Examples
///
/// ```
/// fn port(text: &str) -> u16 {
///     match text.parse() {
///         Ok(port) => port,
///         Err(error) => {
///             teamster::post_mortem(&error);
///             80
///         }
///     }
/// }
/// assert_eq!(port("many"), 80);
/// ```
#[track_caller]
pub fn post_mortem(error: &(dyn std::error::Error + 'static)) {
    if is_any_armed()
        && let Some(stopping) = stops_here(Arming::is_armed)
        && let Some(debugger) = debugger()
    {
        debugger.post_mortem(stopping.as_ref(), Location::caller(), error);
    }
}

/// The panic by which a paused endpoint fails whose user has quit.
pub(crate) struct DebugQuit {
    at: &'static Location<'static>,
}

impl DebugQuit {
    pub(crate) fn location(&self) -> String {
        self.at.to_string()
    }
}

/// What a failure by [`DebugQuit`] is called in its error.
pub(crate) const QUIT_TYPE: &str = "teamster::DebugQuit";
pub(crate) const QUIT_TEXT: &str = "quit at the debugger's prompt";

#[cfg(test)]
#[expect(clippy::needless_borrow, reason = "the reference is what chooses: see `ViaDebug`")]
mod tests {
    use super::*;

    #[test]
    fn what_is_debug_is_shown_and_of_the_rest_the_name() {
        struct Opaque;
        assert_eq!((&Shown(&7)).show(), "7");
        assert_eq!((&Shown("text")).show(), "\"text\"");
        assert_eq!((&Shown(&[1][..])).show(), "[\n    1,\n]");
        let shown = (&Shown(&Opaque)).show();
        assert!(shown.contains("Opaque at 0x") && shown.ends_with("not Debug>"), "{shown}");
    }
}
