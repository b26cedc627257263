//! How is a function of a running actor called by hand?
//!
//! The call is a peer's: this process is a small tree of its own for as long as it takes. An actor on another host is
//! called by its root, which this process asks.
#![expect(unsafe_code, reason = "an environment may be changed while one thread runs")]
use anyhow::bail;
use serde_json::Value;
use teamster::EndpointInfo;
use teamster::discovery::{ActorState, Tree, TreeActor, trees};

use crate::json::Json;
use crate::pick::pick;
use crate::text::{printable, short_type};

/// Calls an endpoint of the actor `on`, and gives its result as JSON.
pub(crate) fn call(on: Option<&str>, endpoint: &str, args: &str) -> anyhow::Result<String> {
    let args = arguments(args)?;
    with_actor(on, async |tree, actor| {
        let all = tree.endpoints(actor).await?;
        let Json(result) = tree.run_by_path(actor, &resolve(&all, endpoint)?.path, args).await?;
        Ok(format!("{result:#}\n"))
    })
}

/// What can be called in the actor `on`, a line each.
pub(crate) fn list(on: Option<&str>) -> anyhow::Result<String> {
    with_actor(on, async |tree, actor| {
        let all = tree.endpoints(actor).await?;
        Ok(all.iter().map(|endpoint| signature(endpoint) + "\n").collect())
    })
}

/// An array of arguments; what is none is the only one.
fn arguments(text: &str) -> anyhow::Result<Vec<Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Array(args)) => Ok(args),
        Ok(arg) => Ok(vec![arg]),
        Err(error) => bail!("the arguments are no JSON ({error}): an array of them, as in '[1, \"two\"]'"),
    }
}

fn with_actor(
    on: Option<&str>,
    act: impl AsyncFnOnce(&Tree, &TreeActor) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    forget_what_trees_are_told();
    let trees = trees()?; // before there is one of our own
    let (tree, actor) = match on {
        Some(on) => pick(&trees, on)?,
        None => only_root(&trees)?,
    };
    if actor.state == ActorState::Booting {
        bail!("{} does not serve yet", printable(&actor.aid.to_string()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ended = None;
    let booted = runtime.block_on(teamster::root().name("teamster").debug(false).open(async |_an| {
        ended = Some(act(tree, actor).await);
        Ok(())
    }));
    // Without an answer it was interrupted, or could not boot.
    ended.unwrap_or_else(|| Err(booted.err().map_or_else(|| anyhow::anyhow!("nothing was called"), Into::into)))
}

/// What the environment says to trees is not for ours: it goes by Unix sockets alone, is found by nobody, and must not take an
/// address that is meant for another.
fn forget_what_trees_are_told() {
    for variable in ["TEAMSTER_TRANSPORT", "TEAMSTER_LISTEN", "TEAMSTER_IDENTITY", "TEAMSTER_HOSTS", "TEAMSTER_ETCD"] {
        // SAFETY: this is the main thread, and there is no other one yet.
        unsafe { std::env::remove_var(variable) };
    }
}

fn only_root(trees: &[Tree]) -> anyhow::Result<(&Tree, &TreeActor)> {
    let mut roots = trees.iter().filter_map(|tree| Some((tree, tree.actors.first()?)));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (None, _) => bail!("no tree answers"),
        (Some(first), Some(second)) => {
            let name = |(_, root): (&Tree, &TreeActor)| {
                format!("{} (pid {})", printable(&root.aid.to_string()), root.aid.pid())
            };
            let all: Vec<String> = [first, second].into_iter().chain(roots).map(name).collect();
            bail!("say which actor with --on: there are the roots {}", all.join(", "))
        }
    }
}

/// The endpoint of this path, or the only one whose path ends so.
fn resolve<'a>(all: &'a [EndpointInfo], wanted: &str) -> anyhow::Result<&'a EndpointInfo> {
    let is_end = |path: &str| path.strip_suffix(wanted).is_some_and(|before| before.ends_with("::"));
    let exact: Vec<&EndpointInfo> = all.iter().filter(|endpoint| endpoint.path == wanted).collect();
    let fitting = match exact.is_empty() {
        true => all.iter().filter(|endpoint| is_end(&endpoint.path)).collect(),
        false => exact,
    };
    match fitting.as_slice() {
        [one] if one.is_context => {
            bail!("{} is a context: it has a stream, which only a program can open", printable(&one.path))
        }
        [one] => Ok(one),
        [] => bail!("there is no endpoint {}{}", printable(wanted), similar(all, wanted)),
        several => {
            let listed: Vec<String> = several.iter().map(|endpoint| format!("  {}", signature(endpoint))).collect();
            bail!("several endpoints are called {}:\n{}", printable(wanted), listed.join("\n"))
        }
    }
}

/// The ones that are written most like it.
fn similar(all: &[EndpointInfo], wanted: &str) -> String {
    let wanted = last_part(wanted);
    let mut rated: Vec<(f64, &EndpointInfo)> = all
        .iter()
        .filter(|endpoint| !endpoint.is_context)
        .map(|endpoint| (strsim::jaro_winkler(last_part(&endpoint.path), wanted), endpoint))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .collect();
    rated.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let listed: Vec<String> =
        rated.iter().take(SHOWN).map(|(_, endpoint)| format!("  {}", signature(endpoint))).collect();
    match listed.is_empty() {
        true => "; `teamster call --list` shows those that there are".into(),
        false => format!("; most like it:\n{}", listed.join("\n")),
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

/// `shop::add(a: i64, b: i64) -> i64`
fn signature(endpoint: &EndpointInfo) -> String {
    let args: Vec<String> = endpoint.args.iter().map(|(name, ty)| format!("{name}: {}", short_type(ty))).collect();
    let context = if endpoint.is_context { "  (a context)" } else { "" };
    printable(&format!("{}({}) -> {}{context}", endpoint.path, args.join(", "), short_type(&endpoint.output)))
}

/// How alike names have to be, from 0 to 1, to be shown for one that there is not.
const ALIKE: f64 = 0.75;
/// How many of them, at most.
const SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_array_or_the_only_one() {
        let cases = [("[1, \"a\"]", 2), ("[]", 0), ("{\"a\": [1]}", 1), ("null", 1), ("[[1, 2]]", 1)];
        for (text, count) in cases {
            assert_eq!(arguments(text).expect("it is JSON").len(), count, "{text}");
        }
        assert!(arguments("[1").is_err());
    }
}
