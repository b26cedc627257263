//! Every shape of function that can be an endpoint, under the lints that a careful user has.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, dead_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use teamster::{rpc, work};

/// Adds.
#[rpc]
pub async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn nothing() {}

#[rpc(name = "named.one")]
pub(crate) async fn named(mut text: String, _: u8, (x, y): (u32, u32), [z]: [u32; 1]) -> String {
    text.push_str(&(x + y + z).to_string());
    text
}

#[rpc]
#[allow(clippy::too_many_arguments)]
#[must_use]
async fn r#type(r#in: Vec<u8>, cow: Cow<'static, str>, map: BTreeMap<String, Option<f64>>) -> (usize, usize) {
    (r#in.len() + cow.len(), map.len())
}

#[rpc]
async fn io() -> std::io::Result<u64> {
    Ok(std::fs::metadata("/")?.len())
}

#[rpc]
async fn any() -> anyhow::Result<u64> {
    Ok("1".parse::<u64>()?)
}

#[rpc]
async fn report() -> teamster::Result<u64> {
    Ok(add(1, 2).await? as u64)
}

#[rpc]
async fn ours() -> Result<i64, teamster::Error> {
    add(1, 2).await
}

#[rpc]
#[tracing::instrument(skip(secret))]
async fn traced(secret: String) -> Option<String> {
    let name = tracing::Span::current().metadata().map(|span| span.name().to_owned());
    drop(secret);
    name
}

#[rpc]
#[tracing::instrument]
async fn traced_simply() {}

#[rpc]
async fn text() -> Result<(), String> {
    Err("no".to_owned())
}

#[rpc]
async fn static_text() -> Result<(), &'static str> {
    Err("no")
}

#[rpc]
async fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err("no".into())
}

#[cfg(any())]
#[rpc]
async fn left_out(missing: Missing) {}

#[rpc]
#[cfg(any())]
async fn left_out_too(missing: Missing) {}

#[rpc]
#[deprecated = "use add"]
async fn old() {}

mod inner {
    use super::add;

    type Outcome<T> = std::result::Result<T, std::num::ParseIntError>;
    use Outcome as Result;

    /// Calls itself, and another by its name.
    #[teamster::rpc]
    pub(super) async fn body(n: u32) -> Result<u32> {
        if n == 0 {
            return "0".parse();
        }
        let _ = add(1, 2).await;
        drop(body(n - 1));
        Ok(n)
    }
}

/// Squares, in a worker.
#[work]
pub fn square(n: u64) -> u64 {
    n * n
}

#[work]
fn no_arguments() {}

#[work]
async fn in_turns(n: u64) -> u64 {
    square(n).await.unwrap_or_default() + 1
}

#[work(name = "named.job")]
#[must_use]
pub(crate) fn job(mut text: String, _: u8, (x, y): (u32, u32), Full { row }: Full) -> String {
    text.push_str(&(x + y + row).to_string());
    text
}

#[work]
fn r#loop(r#in: Vec<u8>, cow: Cow<'static, str>) -> (usize, usize) {
    (r#in.len(), cow.len())
}

#[work]
fn job_io() -> std::io::Result<u64> {
    Ok(std::fs::metadata("/")?.len())
}

#[work]
fn job_any() -> anyhow::Result<u64> {
    Ok("1".parse::<u64>()?)
}

#[work]
fn job_report() -> teamster::Result<u64> {
    Ok("1".parse::<u64>()?)
}

#[work]
fn job_static_text() -> Result<(), &'static str> {
    Err("no")
}

#[work]
fn job_full(row: u32) -> Result<u32, Full> {
    if row > 5 {
        return Err(Full { row });
    }
    Ok(row)
}

#[work]
fn job_old_friend(life: teamster::pool::WorkerLife) -> bool {
    life.jobs > 3
}

#[work]
#[tracing::instrument]
fn job_traced() -> Option<String> {
    tracing::Span::current().metadata().map(|span| span.name().to_owned())
}

#[cfg(any())]
#[work]
fn job_left_out(missing: Missing) {}

#[work]
#[cfg(any())]
fn job_left_out_too(missing: Missing) {}

#[work]
#[deprecated = "use square"]
fn job_old() {}

mod jobs {
    type Outcome<T> = std::result::Result<T, std::num::ParseIntError>;
    use Outcome as Result;

    /// Calls itself, as a job of its own.
    #[teamster::work]
    pub(super) fn body(n: u32) -> Result<u32> {
        if n == 0 {
            return "0".parse();
        }
        drop(body(n - 1));
        Ok(n)
    }
}

/// One that crosses.
#[teamster::error]
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Full {
    row: u32,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {} is full", self.row)
    }
}
impl std::error::Error for Full {}

#[rpc]
async fn book(row: u32) -> Result<(), Full> {
    Err(Full { row })
}

#[teamster::test]
async fn plain() {}

#[teamster::test(exclusive, flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an example"]
async fn measured() -> anyhow::Result<()> {
    Ok(())
}

#[teamster::test]
#[should_panic(expected = "no")]
async fn panics() {
    panic!("no")
}

mod elsewhere {
    use std::io;

    use futures::Stream;

    /// Those of another program have no body here.
    #[teamster::rpc(name = "numbers::square")]
    pub(crate) async fn square(n: u64) -> u64;

    #[teamster::rpc(name = "numbers::load")]
    pub(crate) async fn load(path: String) -> io::Result<Vec<u8>>;

    #[teamster::rpc(name = "numbers::ticks")]
    pub(crate) async fn ticks(_count: u64) -> impl Stream<Item = u64> + Send;

    #[teamster::context(name = "numbers::count")]
    pub(crate) async fn count(mut ctx: teamster::Context<u64, String, u64>, from: u64) -> teamster::Result<u64>;
}

#[teamster::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    #[rpc]
    async fn local(word: String) -> usize {
        word.len()
    }
    anyhow::ensure!(add(1, 2).await? == 3);
    nothing().await?;
    anyhow::ensure!(named("a".into(), 0, (1, 2), [3]).await? == "a6");
    anyhow::ensure!(r#type(vec![1], "ab".into(), BTreeMap::new()).await? == (3, 0));
    anyhow::ensure!(local("four".into()).await? == 4);
    anyhow::ensure!(inner::body(2).await? == 2);
    tracing_subscriber::fmt().with_writer(std::io::sink).init();
    anyhow::ensure!(traced("a".into()).await?.as_deref() == Some("traced"));
    traced_simply().await?;
    io().await?;
    anyhow::ensure!(any().await? == 1);
    anyhow::ensure!(report().await? == 3 && ours().await? == 3);
    for error in [text().await, static_text().await, boxed().await] {
        anyhow::ensure!(error.unwrap_err().to_string() == "no");
    }
    anyhow::ensure!(square(3).await? + in_turns(2).await? == 14);
    no_arguments().await?;
    anyhow::ensure!(job("a".into(), 0, (1, 2), Full { row: 3 }).await? == "a6");
    anyhow::ensure!(r#loop(vec![1], "ab".into()).await? == (1, 2));
    job_io().await?;
    anyhow::ensure!(job_any().await? + job_report().await? == 2);
    anyhow::ensure!(job_static_text().await.unwrap_err().to_string() == "no");
    anyhow::ensure!(job_full(3).await? == 3 && jobs::body(2).await? == 2);
    anyhow::ensure!(job_full(7).await.unwrap_err().downcast_ref::<Full>().is_some_and(|full| full.row == 7));
    anyhow::ensure!(job_traced().await?.as_deref() == Some("job_traced"));
    let _ = teamster::WorkerConfig::new().init(no_arguments()).retire(job_old_friend);
    let _ = (elsewhere::ticks(3), elsewhere::count(3));
    anyhow::ensure!(matches!(elsewhere::square(3).await, Err(teamster::Error::Usage(_))));
    anyhow::ensure!(matches!(elsewhere::load("a".into()).await, Err(teamster::Error::Usage(_))));
    let full = book(3).await.unwrap_err();
    anyhow::ensure!(full.downcast_ref::<Full>().is_some_and(|full| full.row == 3));
    Ok(())
}
