//! Do two linked tasks begin, end, fail and cancel together, in every order?
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use teamster::{Aid, Context, ContextHandle, Error, Outcome, Portal, context, rpc};

/// Whatever a busy machine needs for what happens at once.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Endpoints of this actor that have begun and whose values are not dropped.
static HERE: AtomicUsize = AtomicUsize::new(0);

struct Guard;

impl Guard {
    fn new() -> Guard {
        HERE.fetch_add(1, Ordering::SeqCst);
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        HERE.fetch_sub(1, Ordering::SeqCst);
    }
}

#[rpc]
async fn running() -> usize {
    HERE.load(Ordering::SeqCst)
}

#[context]
async fn simple(ctx: Context<u32>, from: u32) -> teamster::Result<String> {
    let _guard = Guard::new();
    ctx.started(from + 1).await?;
    Ok(format!("done with {from}"))
}

#[context]
async fn blocks(ctx: Context<u32, u32, u32>, opens: bool) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(7).await?;
    let _stream = if opens { Some(ctx.open_stream().await?) } else { None };
    std::future::pending().await
}

#[context]
async fn fails_after(ctx: Context, millis: u64) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Err(std::io::Error::other("the callee failed"))?
}

async fn with_one(test: impl AsyncFnOnce(&Portal) -> Result<(), teamster::BoxError>) {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        test(&frank).await?;
        assert_eq!(frank.run(running()).await?, 0, "a context of the callee's is still there");
        assert_eq!(teamster::testing::open_dialogs()?, 0);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn the_first_word_the_body_and_the_result() {
    with_one(async |frank| {
        let result = frank
            .open_context(simple(10), async |ctx, first| {
                assert_eq!(first, 11);
                assert_eq!(ctx.first()?, 11);
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(result, "done with 10");
        // Twice the same, and by a clone, after the end.
        let kept = frank.open_context(simple(1), async |ctx, _| Ok(ctx.clone())).await?;
        assert_eq!(kept.result().await?, "done with 1");
        assert_eq!(kept.result().await?, "done with 1");
        assert!(kept.has_ended());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_callee_that_fails_interrupts_the_body_at_once() {
    with_one(async |frank| {
        let begun = Instant::now();
        let error = frank
            .open_context(fails_after(50), async |_, ()| {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(())
            })
            .await
            .unwrap_err();
        assert!(begun.elapsed() < Duration::from_millis(50) + AT_ONCE, "{:?}", begun.elapsed());
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert_eq!(remote.message(), "the callee failed");
        Ok(())
    })
    .await;
}
