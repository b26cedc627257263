//! How is an actor ended from outside, and how has it ended?
use anyhow::Context;
use teamster::discovery::{Tree, trees};
use teamster::{ExitKind, Receipt};

use crate::pick::pick;
use crate::text::printable;

/// Ends it, waits until it is gone, and says how it ended.
pub(crate) fn cancel(wanted: &str) -> anyhow::Result<String> {
    let trees = trees()?;
    let (tree, actor) = pick(&trees, wanted)?;
    let name = printable(&actor.aid.to_string());
    let receipt = tree.cancel_actor(&actor.aid).with_context(|| format!("the tree of {name} can't be asked"))?;
    Ok(match receipt {
        Some(receipt) => format!("{}\n", told(tree, &receipt)),
        None => format!("{name} had ended already\n"),
    })
}

fn told(tree: &Tree, receipt: &Receipt) -> String {
    let aid = &receipt.aid;
    let mut text = format!("{} (pid {})", printable(&aid.to_string()), aid.pid());
    match tree.actors.first() {
        Some(root) if root.aid == *aid => text += &format!(" and its tree have ended, after {:.1?}", receipt.reaped),
        _ if receipt.exit == ExitKind::Unknown => {
            text += &format!(" has ended with its tree, after {:.1?}", receipt.reaped)
        }
        _ => {
            let rung = receipt.rung.map_or_else(|| "before anybody asked".to_owned(), |rung| rung.to_string());
            text += &format!(" has ended, {rung}, after {:.1?}: {}", receipt.reaped, receipt.exit);
        }
    }
    if let Some(first) = receipt.asked_by.as_ref().filter(|asker| asker.aid.pid() != std::process::id()) {
        text += &format!("; asked first by {}", printable(&first.aid.to_string()));
    }
    if let Some(stuck) = &receipt.stuck {
        text += &format!("; its grace was over, and it was in {}", printable(stuck));
    }
    text
}
