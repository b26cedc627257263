//! What of several failures is meant for me? Groups of errors taken apart, and small ones made single.
use crate::error::{Error, Group};
use crate::nursery::is_consequence;

/// Takes an error apart: what `is_mine` says yes to, and the rest. As Python's `except*` does.
///
/// An error that is no group is one of the two. Of a group, each part is a group again if it has several
/// members, in their order; a part of one is that member. What came from another actor is one member, with
/// the path that it climbed, also if it was a group there.
///
/// # Examples
///
/// ```
/// use teamster::{Error, tasks};
/// use std::io;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let failed = tasks::open_nursery(async |tn| {
///     tn.spawn(async { Err::<(), _>(io::Error::from(io::ErrorKind::NotFound).into()) });
///     tn.spawn(async { Err::<(), _>("something else".into()) });
///     Ok(())
/// })
/// .await;
/// if let Err(error) = failed {
///     let (missing, rest) = tasks::split(error, |error| {
///         error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::NotFound)
///     });
///     println!("made anew: {missing:?}, passed on: {rest:?}");
/// }
/// # }
/// ```
pub fn split(error: Error, mut is_mine: impl FnMut(&Error) -> bool) -> (Option<Error>, Option<Error>) {
    match error {
        Error::Group(group) => {
            let (mine, rest): (Vec<Error>, Vec<Error>) = group.iter().cloned().partition(|member| is_mine(member));
            (Group::collect(mine), Group::collect(rest))
        }
        single if is_mine(&single) => (Some(single), None),
        single => (None, Some(single)),
    }
}

/// What `is_wanted` says yes to; the rest is dropped. See [`split`].
///
/// # Examples
///
/// ```
/// use teamster::{Error, tasks};
///
/// let interrupted = Error::Interrupted { signal: 2 };
/// assert!(tasks::filter(interrupted, |error| matches!(error, Error::ActorDied(_))).is_none());
/// ```
pub fn filter(error: Error, is_wanted: impl FnMut(&Error) -> bool) -> Option<Error> {
    split(error, is_wanted).0
}

/// Makes a group of one real failure that failure: members that only say that something was cancelled are
/// left out, unless there is nothing else.
///
/// Nurseries leave out what followed from their own cancels. This is for groups whose members were
/// cancelled by somebody else.
///
/// # Examples
///
/// ```
/// use teamster::{Error, tasks::collapse};
///
/// let single = collapse(Error::Interrupted { signal: 2 });
/// assert!(matches!(single, Error::Interrupted { signal: 2 }));
/// ```
pub fn collapse(error: Error) -> Error {
    match split(error, is_consequence) {
        (_, Some(real)) => real,
        (Some(Error::Group(cancelled)), None) => cancelled.primary().clone(),
        (Some(cancelled), None) => cancelled,
        (None, None) => unreachable!("an error is on one side at least"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::ident::{Aid, CancelRequest, Canceller};

    fn text(text: &str) -> Error {
        Error::from_body(text.into())
    }

    fn cancelled(pid: u32) -> Error {
        let aid = Aid::new(format!("actor{pid}"), uuid::Uuid::from_u128(pid.into()), pid, "here");
        Error::Cancelled { canceller: Canceller { aid, request: CancelRequest::Actor } }
    }

    fn group(errors: impl IntoIterator<Item = Error>) -> Error {
        Group::collect(errors).unwrap()
    }

    fn texts(error: Option<Error>) -> Vec<String> {
        match error {
            None => vec![],
            Some(Error::Group(group)) => group.iter().map(ToString::to_string).collect(),
            Some(single) => vec![single.to_string()],
        }
    }

    #[test]
    fn a_group_is_split_in_order_and_a_part_of_one_is_its_member() {
        let (mine, rest) = split(group(["a1", "b1", "a2"].map(text)), |error| error.to_string().starts_with('a'));
        assert_eq!((texts(mine), texts(rest.clone())), (vec!["a1".into(), "a2".into()], vec!["b1".to_owned()]));
        assert!(matches!(rest, Some(Error::Body(_))));
        let (all, none) = split(group(["a1", "a2"].map(text)), |_| true);
        assert!(matches!(all, Some(Error::Group(_))) && none.is_none());
        assert_eq!(texts(filter(text("single"), |_| true)), ["single"]);
        assert!(filter(text("single"), |_| false).is_none());
    }

    #[test]
    fn cancellations_beside_a_failure_are_left_out() {
        assert_eq!(texts(Some(collapse(group([cancelled(1), text("real"), cancelled(2)])))), ["real"]);
        assert_eq!(texts(Some(collapse(group([text("one"), cancelled(1), text("two")])))), ["one", "two"]);
        assert_eq!(texts(Some(collapse(text("single")))), ["single"]);
        for only_cancelled in [cancelled(1), group([cancelled(1), cancelled(2)])] {
            assert!(matches!(collapse(only_cancelled), Error::Cancelled { canceller } if canceller.aid.pid() == 1));
        }
    }
}
