//! A loop of one's own: callbacks that any thread may add, and a timer that beats.
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Callback = Box<dyn FnOnce() + Send>;

/// The loop, as any thread may speak to it.
#[derive(Clone, Default)]
pub(crate) struct MainLoop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    callbacks: VecDeque<Callback>,
    is_over: bool,
}

impl MainLoop {
    /// Has the loop call this soon.
    pub(crate) fn call_soon(&self, callback: impl FnOnce() + Send + 'static) {
        self.change(|state| state.callbacks.push_back(Box::new(callback)));
    }

    /// Has it return.
    pub(crate) fn quit(&self) {
        self.change(|state| state.is_over = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.woken.notify_one();
    }

    /// Runs until it is told to quit. Every `period` it calls `beat`, with how late that is.
    pub(crate) fn run(&self, period: Duration, mut beat: impl FnMut(Duration)) {
        let mut due = Instant::now() + period;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_over {
            let now = Instant::now();
            if now >= due {
                drop(state);
                beat(now - due);
                due += period;
                state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else if let Some(callback) = state.callbacks.pop_front() {
                drop(state);
                callback();
                state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = self.0.woken.wait_timeout(state, due - now);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
