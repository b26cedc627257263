//! Does what an actor logs reach the root's subscriber, as far as it was asked for?
use std::fmt::Debug;
use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use futures::FutureExt;
use teamster::{Call, Endpoint, Error, Portal, rpc};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[path = "support/partner.rs"]
mod partner;

/// A grace that nobody uses up who ends by himself, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(10);

/// A line of another actor, as the root's subscriber gets it.
#[derive(Debug, Default)]
struct Line {
    actor: String,
    pid: u64,
    target: String,
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "actor" => value.clone_into(&mut self.actor),
            "target" => value.clone_into(&mut self.target),
            "fields" => value.clone_into(&mut self.fields),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "pid" {
            self.pid = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Nothing is formatted that is not looked at.
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

struct Collector;

static LINES: OnceLock<UnboundedSender<Line>> = OnceLock::new();

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "teamster::remote" {
            let mut line = Line::default();
            event.record(&mut line);
            // Nobody listens any more when the test is over.
            let _ = LINES.get().expect("set before").send(line);
        }
    }
}

/// Sets this process's subscriber.
fn collect() -> UnboundedReceiver<Line> {
    #[expect(clippy::disallowed_methods, reason = "a subscriber can't wait, and a test's lines are few")]
    let (lines, collected) = unbounded_channel();
    LINES.set(lines).expect("each test has a process of its own");
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collector)).expect("the first");
    collected
}

/// What these actors say until each of them has said "end".
async fn until_all_end(lines: &mut UnboundedReceiver<Line>, actors: &[Portal]) -> Vec<Line> {
    let mut said = Vec::new();
    let mut ended = 0;
    while ended < actors.len() {
        let line = lines.recv().await.expect("the subscriber is there for ever");
        ended += usize::from(line.message == "end");
        said.push(line);
    }
    said
}

#[rpc]
async fn say() {
    tracing::debug!("detail");
    tracing::info!("news");
    tracing::error!("end");
}

#[teamster::test]
async fn each_actor_says_what_it_was_asked_to_and_the_variable_wins() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let loud = an.actor("loud").log("debug").start();
        let quiet = an.actor("quiet").log("error").start();
        let told = an.actor("told").log("debug").env("TEAMSTER_LOG", "logging=info").start();
        let actors: [Portal; 3] =
            futures::future::try_join_all([loud, quiet, told].map(Box::pin)).await?.try_into().expect("three");
        for actor in &actors {
            actor.run(say()).await?;
        }
        let said = until_all_end(&mut lines, &actors).await;
        let of = |name: &str| -> Vec<&str> {
            let ours = said.iter().filter(|line| line.actor == name && line.target == "logging");
            ours.map(|line| line.message.as_str()).collect()
        };
        assert_eq!(of("loud"), ["detail", "news", "end"]);
        assert_eq!(of("quiet"), ["end"]);
        assert_eq!(of("told"), ["news", "end"]);
        Ok(())
    })
    .await
    .unwrap();
}

#[rpc(name = "callee::logs")]
async fn logs(text: String);

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_python_program_logs_as_others_do() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/callee.py");
        let loud = an.actor("loud").python(&*script).log("off,callee::part=warn").start().await?;
        loud.run(logs("hay".into())).await?;
        let line = loop {
            let line = lines.recv().await.expect("the subscriber is there for ever");
            if line.actor == "loud" {
                break line;
            }
        };
        assert_eq!((line.target.as_str(), line.message.as_str()), ("callee::part", "it says hay"));
        assert_eq!(line.pid, u64::from(loud.aid().pid()));
        Ok(())
    })
    .await
    .unwrap();
}

/// A payload that nobody can print.
struct Bomb;

impl Debug for Bomb {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("it was formatted")
    }
}

#[rpc]
async fn say_with_bombs() {
    tracing::debug!(bomb = ?Bomb, "{Bomb:?}");
    tracing::trace!(target: "audit", bomb = ?Bomb);
    tracing::debug!(target: "audit", who = "frank", "a level of its own");
    tracing::error!("end");
}

/// A level of one's own is a target of one's own (S8.175).
#[teamster::test]
async fn what_is_not_asked_for_is_never_formatted_and_a_target_has_a_level_of_its_own() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").log("info,audit=debug").start().await?;
        let off = an.actor("off").log("off").start().await?;
        off.run(say_with_bombs()).await?;
        frank.run(say_with_bombs()).await?;
        let said = until_all_end(&mut lines, &[frank]).await;
        let said: Vec<_> = said.iter().map(|line| (&*line.target, &*line.message, &*line.fields)).collect();
        assert_eq!(said, [("audit", "a level of its own", "who=frank"), ("logging", "end", "")]);
        Ok(())
    })
    .await
    .unwrap();
}

/// Says something in each of the three levels of a branch, which is this deep.
#[rpc]
async fn say_down(levels: u32) -> teamster::Result<u32> {
    tracing::info!(levels, "here");
    if levels == 0 {
        tracing::error!("end");
        return Ok(std::process::id());
    }
    let name = format!("below-{levels}");
    Ok(teamster::open_nursery(async |an| Ok(an.start_actor(&name).await?.run(say_down(levels - 1)).await?)).await?)
}

#[teamster::test]
async fn an_actor_further_down_is_heard_under_its_own_name_and_pid() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let top = an.actor("top").log("logging=info").start().await?;
        let deepest = top.run(say_down(2)).await?;
        let said = until_all_end(&mut lines, std::slice::from_ref(&top)).await;
        let of = |actor: &str| -> Vec<(&str, u64)> {
            said.iter().filter(|line| line.actor == actor).map(|line| (&*line.message, line.pid)).collect()
        };
        assert_eq!(of("top"), [("here", top.aid().pid().into())]);
        assert_eq!(of("below-1"), [("here", deepest.into()), ("end", deepest.into())]);
        let [("here", middle)] = of("below-2")[..] else { panic!("{said:?}") };
        assert!(middle != u64::from(deepest) && middle != u64::from(top.aid().pid()));
        assert_eq!(said.len(), 4, "{said:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// More than the ring holds, in one poll: nothing leaves meanwhile.
#[rpc]
async fn shout(count: u32) {
    let text = "x".repeat(50_000);
    for number in 0..count {
        tracing::info!(number, "{text}");
    }
    tracing::error!("end");
}

#[teamster::test]
async fn lines_that_do_not_fit_are_dropped_counted_and_told() {
    const COUNT: u32 = 50;
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").log("logging=info").start().await?;
        for _ in 0..2 {
            frank.run(shout(COUNT)).await?;
            let said = until_all_end(&mut lines, std::slice::from_ref(&frank)).await;
            let (told, kept): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.target == "teamster::log");
            let [told] = told[..] else { panic!("it is told once: {told:?}") };
            let dropped = told.message.strip_suffix(&format!(" log lines of {} were dropped", frank.aid()));
            let dropped: u32 = dropped.expect("it says of whom").parse().expect("and how many");
            assert_eq!((&*told.actor, told.pid), ("frank", frank.aid().pid().into()));
            // The oldest are gone: the rest is there to the last, and comes after that.
            let numbers: Vec<_> = kept.iter().map(|line| &*line.fields).collect();
            let expected: Vec<_> = (dropped..COUNT).map(|number| format!("number={number}")).collect();
            assert!(dropped > 25 && said[0].target == "teamster::log", "{dropped} dropped");
            assert_eq!(numbers[..numbers.len() - 1], expected);
        }
        Ok(())
    })
    .await
    .unwrap();
}

/// Makes this file when it is there, and fails in the very poll in which it sees the cancel: its first, or
/// a later one.
#[rpc]
async fn fail_when_cancelled(here: PathBuf, is_first_poll: bool) -> std::io::Result<()> {
    if !is_first_poll {
        tokio::task::yield_now().await;
    }
    std::fs::write(here, "")?;
    while !teamster::is_cancelled() {
        std::thread::yield_now();
    }
    Err(std::io::Error::other("it could not save"))
}

#[rpc]
async fn panic_when_dropped(here: PathBuf) -> std::io::Result<()> {
    struct Bug;
    impl Drop for Bug {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let _bug = Bug;
    std::fs::write(here, "")?;
    pending().await
}

/// Its caller waits no more, so the log has to say it (C32).
#[teamster::test]
async fn what_fails_while_it_is_cancelled_is_one_line() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").grace(PLENTY).log("warn").start().await?;
        let folder = tempfile::tempdir()?;
        let here = folder.path().join("here");
        for (call, wanted) in [
            (frank.run(fail_when_cancelled(here.clone(), true)).boxed(), "it could not save"),
            (frank.run(fail_when_cancelled(here.clone(), false)).boxed(), "it could not save"),
            (frank.run(panic_when_dropped(here.clone())).boxed(), "in a destructor"),
        ] {
            tokio::select! {
                called = call => panic!("nothing ends it: {called:?}"),
                () = is_made(&here) => {}
            }
            std::fs::remove_file(&here)?;
            let line = lines.recv().await.expect("the subscriber is there for ever");
            assert_eq!((&*line.actor, &*line.message), ("frank", "it failed while it was being cancelled"));
            assert!(line.fields.contains(wanted) && line.fields.contains("the caller no longer waits"), "{line:?}");
        }
        // The same as the last word of an actor that ends.
        let mut call = frank.run(fail_when_cancelled(here.clone(), false)).boxed();
        tokio::select! {
            called = &mut call => panic!("nothing ends it: {called:?}"),
            () = is_made(&here) => {}
        }
        let (called, receipt) = futures::future::join(call, frank.cancel_actor()).await;
        assert!(receipt?.was_graceful());
        let told = called.expect_err("it fails").to_string();
        assert!(told.contains("it could not save"), "{told}");
        let line = lines.recv().await.expect("the subscriber is there for ever");
        assert!(
            line.fields.contains("it could not save") && line.fields.contains("asked the actor to end"),
            "{line:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
    assert!(lines.try_recv().is_err(), "there was nothing else to say");
}

#[rpc]
async fn have_a_last_word(words: u32) -> teamster::Result<()> {
    teamster::on_exit(async move || {
        for word in 0..words {
            tracing::warn!(word, "last");
        }
    })?;
    Ok(())
}

#[teamster::test]
async fn what_an_actor_logs_last_is_not_lost() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        for threads in [1, 2] {
            for words in [1, 200] {
                let frank = an.actor("frank").grace(PLENTY).threads(threads).log("warn").start().await?;
                frank.run(have_a_last_word(words)).await?;
                assert!(frank.cancel_actor().await?.was_graceful());
                for word in 0..words {
                    let line = tokio::time::timeout(Duration::from_secs(5), lines.recv()).await;
                    let line = line.unwrap_or_else(|_| panic!("the word {word} of {words} is lost"));
                    assert_eq!(line.expect("the subscriber is there for ever").fields, format!("word={word}"));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn is_made(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await; // whoever makes it has a stuck runtime
    }
}

/// A program that calls an endpoint which is another one where it is called.
macro_rules! foreign {
    ($name:ident, $path:literal, $args:ty) => {
        struct $name;

        impl teamster::Function for $name {
            type Args = $args;
            type Output = ();
            const NAME: Option<&'static str> = Some($path);
            const LOCATION: &'static str = "elsewhere.rs:1:1";
            const ARGS: &'static [teamster::__private::Arg] = &[];

            fn unencodable(_: &$args) -> Option<usize> {
                None
            }
        }

        impl Endpoint for $name {
            fn invoke(_: $args) -> impl Future<Output = Result<(), teamster::__private::Failure>> + Send {
                pending()
            }
        }
    };
}

foreign!(Nowhere, "shop.nowhere", ());
foreign!(CountOfText, "shop.count", (String,));

#[rpc(name = "shop.count")]
async fn count(number: u32) -> u32 {
    number
}

/// The callee says once what a peer asked for and did not get (C21); the line stays up.
#[teamster::test]
async fn a_call_that_can_not_be_made_is_one_line_of_the_callee() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").log("warn").start().await?;
        let shy = an.actor("shy").log("warn").expose(["logging::say"]).start().await?;
        for _ in 0..3 {
            let refused = frank.run(Call::<Nowhere>::new(())).await;
            assert!(matches!(refused, Err(Error::NoSuchEndpoint { .. })), "{refused:?}");
            let refused = shy.run(count(1)).await;
            assert!(matches!(refused, Err(Error::NotExposed { .. })), "{refused:?}");
        }
        let refused = frank.run(Call::<CountOfText>::new(("one".into(),))).await;
        assert!(matches!(refused, Err(Error::Codec(_))), "{refused:?}");
        assert_eq!(frank.run(count(2)).await?, 2);
        frank.run(say()).await?;
        shy.run(say()).await?;
        let said = until_all_end(&mut lines, &[frank, shy]).await;
        let of = |name: &str| -> Vec<(&str, &str)> {
            let ours = said.iter().filter(|line| line.actor == name && line.message != "end");
            ours.map(|line| (&*line.message, &*line.fields)).collect()
        };
        let [(nowhere, path), (undecoded, what)] = of("frank")[..] else { panic!("{said:?}") };
        assert!(nowhere.contains("can't be called here") && path.contains("shop.nowhere"), "{said:?}");
        assert!(undecoded.contains("can't be decoded") && what.contains("shop.count"), "{said:?}");
        let [(hidden, path)] = of("shy")[..] else { panic!("{said:?}") };
        assert!(hidden.contains("can't be called here") && path.contains("NotExposed"), "{said:?}");
        Ok(())
    })
    .await
    .unwrap();
}

// ---- a program without a subscriber

#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "branches" => partner::exit(branches()),
        other => panic!("no program {other:?}"),
    }
}

/// Two children with levels of their own, one of them a parent.
#[teamster::main]
async fn branches() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        tracing::info!("the root");
        tracing::debug!("detail");
        an.actor("loud").log("trace").call(say_down(1)).await?;
        an.actor("quiet").log("off").env_remove("TEAMSTER_LOG").call(say()).await?;
        Ok(())
    })
    .await
}

/// One variable sets the level of the whole tree, whatever its actors were given (S1.5).
#[teamster::test]
async fn the_variable_prints_the_whole_tree_at_one_level() {
    let said = |directives: &str| -> Vec<String> {
        let mut command = partner::command("branches");
        let output = command.env("TEAMSTER_LOG", directives).output().expect("it runs");
        let errors = String::from_utf8(output.stderr).expect("it prints text");
        assert!(output.status.success(), "{errors}");
        let line = |line: &str| {
            let (_time, rest) = line.split_once("Z ").unwrap_or_else(|| panic!("no line of the log: {line}"));
            // Of `name@pid` the name.
            let words = rest.split_whitespace().map(|word| word.split('@').next().expect("a word"));
            words.collect::<Vec<_>>().join(" ")
        };
        errors.lines().map(line).collect()
    };
    let all = [
        "INFO logging: the root",
        "INFO loud logging: here levels=1",
        "INFO below-1 logging: here levels=0",
        "ERROR below-1 logging: end",
        "INFO quiet logging: news",
        "ERROR quiet logging: end",
    ];
    assert_eq!(said("logging=info"), all);
    let errors: Vec<_> = all.into_iter().filter(|line| line.starts_with("ERROR")).collect();
    assert_eq!(said("error"), errors);
    assert_eq!(said("off"), [""; 0]);
}

/// What this process's runtime itself says: target and text, and on which thread.
struct Own(UnboundedSender<(String, String, String)>);

impl<S: Subscriber> Layer<S> for Own {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        if target.starts_with("teamster::") && target != "teamster::remote" {
            assert_eq!(*event.metadata().level(), tracing::Level::DEBUG, "nothing has failed");
            let mut line = Line::default();
            event.record(&mut line);
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            // Nobody listens any more when the test is over.
            let _ = self.0.send((target.to_owned(), line.message, thread));
        }
    }
}

/// From its start to its end, and never by the thread that has to hear a cancel whatever a subscriber does.
#[teamster::test]
async fn the_life_of_an_actor_is_told_at_debug_level() -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "a subscriber can't wait, and a test's lines are few")]
    let (own, mut told) = unbounded_channel();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Own(own))).expect("the first");
    teamster::root()
        .grace(PLENTY)
        .open(async |an| {
            let frank = an.start_actor("frank").await?;
            an.start_actor("other").await?;
            assert!(teamster::find_actor("frank").await?.is_some()); // so somebody leads
            frank.cancel_actor().await?;
            Ok(())
        })
        .await?;
    let mut lines = Vec::new();
    while let Ok((target, text, thread)) = told.try_recv() {
        assert_ne!(thread, "teamster-control", "{text}");
        lines.push((target, text));
    }
    let said = |target: &str| -> Vec<&str> {
        lines.iter().filter(|(whose, _)| whose == target).map(|(_, text)| text.as_str()).collect()
    };
    let of_the_nursery = said("teamster::nursery");
    let (begin, end) = of_the_nursery.split_at(4);
    assert_eq!(begin, ["an actor starts", "an actor is ready", "an actor starts", "an actor is ready"]);
    // Whoever waits for an end, and who follows it, hear of it at the same time.
    let mut end = end.to_vec();
    end.sort_unstable();
    assert_eq!(end, ["a nursery ends its actors", "an actor ended", "an actor ended"]);
    assert_eq!(said("teamster::portal"), ["an actor is asked to end"]);
    assert_eq!(said("teamster::discovery"), ["this registrar leads from now on"]);
    Ok(())
}
