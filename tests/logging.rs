//! Does what an actor logs reach the root's subscriber, as far as it was asked for?
use std::fmt::Debug;
use std::future::Future;
use std::sync::OnceLock;

use teamster::{Call, Endpoint, Error, Portal, rpc};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// A line of another actor, as the root's subscriber gets it.
#[derive(Debug, Default)]
struct Line {
    actor: String,
    target: String,
    message: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "actor" => value.clone_into(&mut self.actor),
            "target" => value.clone_into(&mut self.target),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
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

/// An endpoint that this program calls and does not have.
struct Nowhere;

impl Endpoint for Nowhere {
    type Args = ();
    type Output = ();
    const NAME: Option<&'static str> = Some("shop.nowhere");
    const LOCATION: &'static str = "elsewhere.rs:1:1";
    const ARGS: &'static [teamster::__private::Arg] = &[];

    fn unencodable((): &()) -> Option<usize> {
        None
    }

    fn invoke((): ()) -> impl Future<Output = Result<(), teamster::__private::Failure>> + Send {
        std::future::pending()
    }
}

#[teamster::test]
async fn a_call_of_what_is_not_there_is_one_line_of_the_callee() {
    let mut lines = collect();
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").log("warn").start().await?;
        for _ in 0..3 {
            let refused = frank.run(Call::<Nowhere>::new(())).await;
            assert!(matches!(refused, Err(Error::NoSuchEndpoint { .. })), "{refused:?}");
        }
        frank.run(say()).await?;
        let said = until_all_end(&mut lines, &[frank]).await;
        let refusals = said.iter().filter(|line| line.message.contains("can't be called here"));
        assert_eq!(refusals.count(), 1, "{said:?}");
        Ok(())
    })
    .await
    .unwrap();
}
