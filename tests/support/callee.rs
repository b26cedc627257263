//! Whose program is the callee? This one; or, where `TEAMSTER_TEST_CALLEE` is `python`, one in `tests/python/` that has the
//! same endpoints under the same paths: the suite's own, or `partner.py`.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::path::Path;

use teamster::launch::Python;
use teamster::{ActorBuilder, ActorNursery, Error, Portal};

/// The builder of an actor that this suite calls.
pub(crate) fn callee<'n>(an: &'n ActorNursery, name: &str) -> ActorBuilder<'n> {
    by(an.actor(name), is_python())
}

/// Several of them, started at once.
pub(crate) async fn callees(an: &ActorNursery, names: &[&str]) -> Result<Vec<Portal>, Error> {
    futures::future::try_join_all(names.iter().map(|name| callee(an, name).start())).await
}

/// The builder of an actor that calls another one: `TEAMSTER_TEST_CALLER` says whose program it is.
pub(crate) fn caller<'n>(an: &'n ActorNursery, name: &str) -> ActorBuilder<'n> {
    by(an.actor(name), says_python("TEAMSTER_TEST_CALLER"))
}

fn by(actor: ActorBuilder<'_>, is_python: bool) -> ActorBuilder<'_> {
    if !is_python {
        return actor;
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let own = scripts.join(concat!(env!("CARGO_CRATE_NAME"), ".py"));
    let python = Python::script(if own.exists() { own } else { scripts.join("partner.py") });
    let python = match std::env::var_os("TEAMSTER_TEST_VENV") {
        Some(venv) => python.venv(Path::new(&venv)),
        None => python,
    };
    actor.python(python).env("TEAMSTER_TEST_SUITE", env!("CARGO_CRATE_NAME"))
}

pub(crate) fn is_python() -> bool {
    says_python("TEAMSTER_TEST_CALLEE")
}

fn says_python(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|program| program == "python")
}
