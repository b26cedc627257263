//! Does `teamster call` call, with arguments and results of every kind?
use std::process::Stdio;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use teamster::{Context, Error, Portal, context, open_nursery, rpc};
use tokio::sync::Notify;

#[path = "../../tests/support/hosts.rs"]
mod hosts;
#[path = "../../tests/support/namespaces.rs"]
mod namespaces;
#[path = "support/tool.rs"]
mod tool;
use tool::{printed, refused};

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Box { width: u8, height: u8 },
}

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn order(order: Order) -> Order {
    order
}

#[rpc]
async fn shapes(shapes: Vec<Shape>) -> Vec<Shape> {
    shapes
}

#[rpc]
async fn reversed(bytes: Bytes) -> Bytes {
    bytes.iter().rev().copied().collect()
}

#[rpc]
async fn nothing() {}

#[rpc]
async fn whoami() -> teamster::Result<String> {
    Ok(teamster::this_actor()?.aid().name().to_owned())
}

#[rpc]
async fn read(path: String) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

static BEGUN: Notify = Notify::const_new();
static ENDED: Notify = Notify::const_new();

#[rpc]
async fn waits() {
    let _ended = Defer(|| ENDED.notify_one());
    BEGUN.notify_one();
    std::future::pending().await
}

#[rpc]
async fn begun() {
    BEGUN.notified().await
}

#[rpc]
async fn ended() {
    ENDED.notified().await
}

struct Defer<F: Fn()>(F);

impl<F: Fn()> Drop for Defer<F> {
    fn drop(&mut self) {
        self.0()
    }
}

#[context]
async fn chat(ctx: Context<(), String, String>) -> teamster::Result<()> {
    ctx.started(()).await?;
    Ok(())
}

async fn called(endpoint: &str, args: Value) -> Value {
    let text = printed(["call", "--on", "frank", endpoint, &args.to_string()]).await;
    serde_json::from_str(&text).expect("it prints JSON")
}

#[teamster::test]
async fn values_of_every_kind_go_there_and_come_back() -> Result<(), Error> {
    open_nursery(async |an| {
        an.start_actor("frank").await?;
        assert_eq!(called("call::add", json!([1, 2])).await, json!(3));
        assert_eq!(called("call::add", json!([-1, i64::MIN + 1])).await, json!(i64::MIN));
        assert_eq!(called("call::nothing", json!([])).await, json!(null));
        let bare = json!({ "item": "hay", "count": null });
        assert_eq!(called("call::order", json!([bare])).await, bare);
        assert_eq!(called("call::order", bare.clone()).await, bare, "an only argument needs no array");
        let full = json!({ "item": "hay", "count": 3, "notes": ["dry"] });
        assert_eq!(called("call::order", full.clone()).await, full);
        let shapes = json!([[ "Point", { "Circle": 1.5 }, { "Box": { "width": 1, "height": 2 } } ]]);
        assert_eq!(called("call::shapes", shapes.clone()).await, shapes[0]);
        assert_eq!(called("call::reversed", json!([[1, 2, 255]])).await, json!([255, 2, 1]));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn without_a_name_it_is_the_root_and_the_end_of_a_path_will_do() -> Result<(), Error> {
    teamster::root()
        .name("king")
        .open(async |an| {
            an.start_actor("frank").await?;
            assert_eq!(printed(["call", "whoami"]).await, "\"king\"\n");
            assert_eq!(printed(["call", "--on", "frank", "whoami"]).await, "\"frank\"\n");
            assert_eq!(printed(["call", "add", "[1, 2]"]).await, "3\n");
            Ok(())
        })
        .await
}

#[teamster::test]
async fn errors_print_as_the_library_prints_them() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let said = refused(["call", "--on", "frank", "read", "[\"/nowhere/at/all\"]"]).await;
        assert!(said.contains("No such file or directory") && said.contains("frank@"), "{said}");
        assert!(said.contains("failed at ") && said.contains("tests/call.rs:"), "{said}");
        let said = refused(["call", "--on", "frank", "add", "[1, \"two\"]"]).await;
        assert!(said.contains("the argument `b` of call::add could not be decoded as `i64`"), "{said}");
        let said = refused(["call", "--on", "frank", "add", "[1"]).await;
        assert!(said.contains("the arguments are no JSON"), "{said}");
        let said = refused(["call", "--on", "frank", "chat"]).await;
        assert!(said.contains("call::chat is a context"), "{said}");
        assert!(refused(["call", "--on", "bob", "add"]).await.contains("no actor is called bob"));
        frank.run(nothing()).await?; // it is there all the same
        Ok(())
    })
    .await
}

#[teamster::test]
async fn of_an_unknown_endpoint_it_says_what_is_most_like_it() -> Result<(), Error> {
    open_nursery(async |an| {
        an.start_actor("frank").await?;
        let said = refused(["call", "--on", "frank", "call::shape", "[]"]).await;
        let wanted = "there is no endpoint call::shape; most like it:\n  call::shapes(shapes: Vec<call::Shape>) -> Vec<call::Shape>";
        assert!(said.contains(wanted), "{said}");
        let said = refused(["call", "xyzzy"]).await;
        assert!(said.contains("there is no endpoint xyzzy; `teamster call --list` shows"), "{said}");
        let listed = printed(["call", "--list", "--on", "frank"]).await;
        assert!(listed.contains("call::add(a: i64, b: i64) -> i64\n"), "{listed}");
        assert!(listed.contains("call::chat() -> ()  (a context)\n"), "{listed}");
        assert!(!listed.contains("teamster."), "{listed}");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_actor_shows_and_runs_only_what_it_exposes() -> Result<(), Error> {
    open_nursery(async |an| {
        an.actor("frank").expose(["call::add"]).start().await?;
        assert_eq!(printed(["call", "--list", "--on", "frank"]).await, "call::add(a: i64, b: i64) -> i64\n");
        assert!(refused(["call", "--on", "frank", "whoami"]).await.contains("there is no endpoint whoami"));
        Ok(())
    })
    .await
}

/// By the library, where nobody looks at a list first.
#[teamster::test]
async fn a_program_may_call_by_path_too() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let sum: i64 = frank.run_by_path("call::add", (1, 2)).await?;
        assert_eq!(sum, 3);
        let me: Portal = teamster::this_actor()?;
        let sum: i64 = me.run_by_path("call::add", (1, 2)).await?;
        assert_eq!(sum, 3, "here too");
        let unknown = frank.run_by_path::<_, ()>("call::gone", ()).await;
        assert!(matches!(unknown, Err(Error::NoSuchEndpoint { .. })), "{unknown:?}");
        let context = frank.run_by_path::<_, Value>("call::chat", ()).await;
        assert!(matches!(context, Err(Error::Usage(_))), "{context:?}");
        frank.run(nothing()).await?; // no harm is done
        Ok(())
    })
    .await
}

/// One that listens on the network alone has its socket here all the same.
#[teamster::test]
async fn an_actor_that_listens_by_tls_is_called() -> Result<(), Error> {
    teamster::root()
        .transport(teamster::Transport::Tcp)
        .open(async |an| {
            an.start_actor("frank").await?;
            assert_eq!(called("call::add", json!([1, 2])).await, json!(3));
            assert_eq!(printed(["call", "whoami"]).await, "\"root\"\n");
            Ok(())
        })
        .await
}

/// As in a shell from which trees are started too.
#[teamster::test]
async fn what_the_environment_says_to_trees_is_not_for_the_tool() -> Result<(), Error> {
    open_nursery(async |an| {
        an.start_actor("frank").await?;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = format!("/ip4/{}", taken.local_addr().expect("it is bound")).replace(':', "/tcp/");
        let said = [
            ("TEAMSTER_ETCD", "http://127.0.0.1:1"),
            ("TEAMSTER_LISTEN", &taken),
            ("TEAMSTER_IDENTITY", "/no/such/folder"),
            ("TEAMSTER_TRANSPORT", "quic"),
            ("TEAMSTER_HOSTS", "b"),
        ];
        for (variable, value) in said {
            let mut command = tool::command(["call", "--on", "frank", "add", "[1, 2]"]);
            command.env(variable, value);
            let output = tool::output(command).await;
            assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n", "{variable}={value}: {output:?}");
        }
        Ok(())
    })
    .await
}

/// Called with no end, until it is interrupted as by ctrl-c: the call ends over there too.
#[teamster::test]
async fn an_interrupted_call_ends_as_shells_know_it() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let mut command = tool::command(["call", "--on", "frank", "waits"]);
            let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
            frank.run(begun()).await.expect("it has begun");
            kill_process(Pid::from_child(&child), signal).expect("it runs");
            let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic");
            let output = output.expect("it is our child");
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            frank.run(ended()).await?;
        }
        Ok(())
    })
    .await
}

/// The tool has no certificate, and no way to that host: the root has both.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn an_actor_on_another_host_is_called_by_its_root() -> Result<(), Error> {
    let hosts = hosts::Hosts::new(2);
    let prefix = hosts.prefix(1).into_iter().chain(RENAMED.map(str::to_owned));
    let launcher = teamster::launch::Command::new(prefix);
    teamster::root()
        .transport(teamster::Transport::Tcp)
        .listen(hosts::at(0))
        .open(async |an| {
            let frank = an.actor("frank").launcher(launcher).expose(["call"]).start().await?;
            assert_eq!(frank.aid().host(), "b");
            assert_eq!(called("call::add", json!([1, 2])).await, json!(3));
            let full = json!({ "item": "hay", "count": 3, "notes": ["dry"] });
            assert_eq!(called("call::order", full.clone()).await, full, "fields have their names");
            let listed = printed(["call", "--list", "--on", "frank"]).await;
            assert!(listed.contains("call::add(a: i64, b: i64) -> i64\n"), "{listed}");
            let said = refused(["call", "--on", "frank", "read", "[\"/nowhere/at/all\"]"]).await;
            assert!(said.contains("No such file or directory") && said.contains("frank@"), "{said}");
            assert!(said.contains("root@"), "by whom it came: {said}");
            let said = refused(["call", "--on", "frank", "add", "[1, \"two\"]"]).await;
            assert!(said.contains("the argument `b` of call::add could not be decoded as `i64`"), "{said}");
            let said = refused(["call", "--on", "frank", "chat"]).await;
            assert!(said.contains("call::chat is a context"), "{said}");
            Ok(())
        })
        .await
}

/// What has another name is another host.
const RENAMED: [&str; 5] = ["unshare", "--uts", "sh", "-c", r#"hostname b; exec "$0" "$@""#];
