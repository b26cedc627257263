//! Do trees with identities of one authority believe each other, and nobody else?
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use teamster::{Addr, Error, Host, Portal, Transport, rpc};
use time::OffsetDateTime;

#[path = "support/authority.rs"]
mod authority;
use authority::Ca;
#[path = "../../tests/support/wall_clock.rs"]
mod wall_clock;
use wall_clock::WallClock;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn adds_in(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    Ok(other.run(add(a, b)).await?)
}

/// Has `one` of this tree call an actor, which this one need not reach.
#[rpc]
async fn has_one_call(one: Portal, other: Portal) -> teamster::Result<i64> {
    Ok(one.run(adds_in(other, 1, 2)).await?)
}

#[rpc]
async fn holds_a_child() -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        an.start_actor("below").await?;
        Ok(an.wait().await)
    });
    Ok(block.await?)
}

/// Has a child of its own call an actor.
#[rpc]
async fn adds_by_a_child(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("grandchild").await?;
        Ok(child.run(adds_in(other.clone(), a, b)).await?)
    });
    Ok(block.await?)
}

/// What the endpoints say that give out certificates.
#[rpc]
async fn asks_for_certificates(whom: Portal) -> [String; 3] {
    let told = |asked: Result<serde::de::IgnoredAny, Error>| {
        asked.map_or_else(|error| error.to_string(), |_| "here it is".to_owned())
    };
    let uuid = uuid::Uuid::new_v4();
    let (one, other, way) = tokio::join!(
        whom.run_by_path("teamster.certify", (uuid,)),
        whom.run_by_path("teamster.renew", (uuid, u64::MAX)),
        whom.run_by_path("teamster.way", ("b", None::<Addr>))
    );
    [told(one), told(other), told(way)]
}

/// After this time an actor asks again what its tree's identity is.
const ASKED_EVERY: Duration = Duration::from_millis(3100);

fn root_of(identity: &Path) -> teamster::RootBuilder {
    teamster::root().identity(identity).transport(Transport::Tcp)
}

/// A tree on a thread of its own.
struct Tree {
    root: Portal,
    child: Portal,
    end: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Result<(), Error>>,
}

impl Tree {
    async fn grow(identity: &Path) -> Self {
        let identity = identity.to_owned();
        let (told, portals) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(root_of(&identity).open(async |an| {
                let child = an.start_actor("child").await?;
                told.send((teamster::this_actor()?, child)).map_err(|_| "the test has gone")?;
                ended.await.ok();
                Ok(())
            }))
        });
        let (root, child) = portals.await.expect("it grows");
        Tree { root, child, end, thread }
    }

    async fn end(self) {
        self.end.send(()).expect("it waits");
        tokio::task::spawn_blocking(|| self.thread.join())
            .await
            .expect("waited for")
            .expect("no panic")
            .expect("it ends well");
    }
}

/// Why this actor can't call that one.
async fn refusal(ours: &Portal, theirs: &Portal) -> String {
    ours.run(adds_in(theirs.clone(), 1, 2)).await.expect_err("it is refused").to_string()
}

#[teamster::test(exclusive)]
async fn trees_of_one_authority_call_each_other() -> Result<(), Error> {
    let ca = Ca::new();
    let theirs = Tree::grow(&ca.issue("bob")).await;
    root_of(&ca.issue("anna"))
        .open(async |an| {
            let ours = an.start_actor("ours").await?;
            for to in [&theirs.root, &theirs.child] {
                assert_eq!(ours.run(adds_in(to.clone(), 1, 2)).await?, 3);
                assert_eq!(to.run(adds_in(ours.clone(), 3, 4)).await?, 7);
                assert_eq!(to.run(adds_in(teamster::this_actor()?, 5, 6)).await?, 11);
            }
            // Believed is not of the family: nobody gets another tree's certificates.
            let ours_root = teamster::this_actor()?;
            for (who, whom) in [(&ours, &theirs.root), (&ours, &theirs.child), (&theirs.child, &ours_root)] {
                for asked in who.run(asks_for_certificates(whom.clone())).await? {
                    assert!(asked.contains("not exposed"), "{asked}");
                }
            }
            assert_eq!(ours.run(asks_for_certificates(ours_root)).await?, ["here it is"; 3]);
            Ok(())
        })
        .await?;
    theirs.end().await;
    Ok(())
}

#[teamster::test(exclusive)]
async fn a_tree_of_another_authority_is_refused() -> Result<(), Error> {
    let (ca, other) = (Ca::new(), Ca::new());
    let theirs = Tree::grow(&other.issue("bob")).await;
    root_of(&ca.issue("anna"))
        .open(async |an| {
            let ours = an.start_actor("ours").await?;
            for (from, to) in [(&ours, &theirs.child), (&theirs.child, &ours)] {
                let refused = refusal(from, to).await;
                assert!(refused.contains("it belongs to another tree, or to none"), "{refused}");
            }
            assert_eq!(ours.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await?;
    theirs.end().await;
    Ok(())
}

/// An authority follows another: both are believed, and identities of either call each other.
#[teamster::test(exclusive)]
async fn identities_of_two_authorities_call_each_other_while_both_are_believed() -> Result<(), Error> {
    let ca = Ca::new();
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    ca.does(&["init", "--folder", "next"]);
    ca.does(&["update", "anna", "bob", "--folder", "next"]);
    ca.does(&["issue", "bob", "--renew", "--folder", "next"]);
    let theirs = Tree::grow(&bob).await;
    root_of(&anna)
        .open(async |an| {
            let ours = an.start_actor("ours").await?;
            assert_eq!(ours.run(adds_in(theirs.child.clone(), 1, 2)).await?, 3);
            assert_eq!(theirs.child.run(adds_in(ours, 3, 4)).await?, 7);
            Ok(())
        })
        .await?;
    theirs.end().await;
    Ok(())
}

#[teamster::test(exclusive)]
async fn who_is_revoked_is_refused_by_a_root_that_runs() -> Result<(), Error> {
    let ca = Ca::new();
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    let theirs = Tree::grow(&bob).await;
    root_of(&anna)
        .open(async |an| {
            let root = teamster::this_actor()?;
            let early = an.start_actor("early").await?;
            assert_eq!(theirs.child.run(adds_in(root.clone(), 1, 2)).await?, 3);
            ca.does(&["revoke", "bob"]);
            ca.does(&["update", "anna"]);
            // The root goes by the new list with its next connection, so does who is started now, and others do soon.
            let ours = an.start_actor("ours").await?;
            tokio::time::sleep(ASKED_EVERY).await;
            for to in [&root, &ours, &early] {
                let asked = theirs.child.run(has_one_call(theirs.root.clone(), to.clone())).await;
                let refused = asked.expect_err("it is refused").to_string();
                assert!(refused.contains("it refused us: our identity was revoked"), "{refused}");
            }
            let refused = refusal(&ours, &theirs.root).await;
            assert!(refused.contains("its certificate, or the identity that has signed it, was revoked"), "{refused}");
            assert_eq!(ours.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await?;
    theirs.end().await;
    Ok(())
}

#[teamster::test(exclusive)]
async fn a_root_that_runs_goes_over_to_a_renewed_identity() -> Result<(), Error> {
    let ca = Ca::new();
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    let serial = serial(&anna);
    root_of(&anna)
        .open(async |an| {
            let early = an.start_actor("early").await?;
            ca.does(&["issue", "anna", "--renew"]);
            ca.does(&["revoke", &serial]);
            ca.does(&["update", "bob"]);
            let theirs = Tree::grow(&bob).await;
            let root = teamster::this_actor()?;
            assert_eq!(theirs.child.run(adds_in(root.clone(), 1, 2)).await?, 3, "it shows the new one");
            let late = an.start_actor("late").await?;
            assert_eq!(theirs.child.run(adds_in(late.clone(), 1, 2)).await?, 3, "and so do its new actors");
            // The tree itself does not fall apart: both are of its identity.
            assert_eq!(early.run(adds_in(late.clone(), 1, 2)).await?, 3);
            assert_eq!(early.run(adds_by_a_child(theirs.child.clone(), 1, 2)).await?, 3, "its child has the new one");
            theirs.end().await;
            Ok(())
        })
        .await
}

fn serial(identity: &Path) -> String {
    let pem = fs::read(identity.join("identity.pem")).expect("it is there");
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("it is PEM");
    pem.parse_x509().expect("it is a certificate").raw_serial_as_string()
}

/// As `teamster ca issue` does, for a few seconds.
fn issue_for(ca: &Ca, name: &str, from: i64, to: i64) -> PathBuf {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
    let (folder, issuer) = (ca.issue(name), issuer(ca, key_of(ca)));
    let mut params = CertificateParams::new([format!("{name}.identity.teamster")]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now + time::Duration::seconds(from), now + time::Duration::seconds(to));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("it signs");
    fs::write(folder.join("identity.pem"), certificate.pem()).expect("it is ours");
    fs::write(folder.join("identity.key"), key.serialize_pem()).expect("it is ours");
    folder
}

/// Those who were there before ask for it when they connect, wherever in the tree they are.
#[teamster::test(exclusive)]
async fn actors_that_run_go_over_to_a_renewed_identity() -> Result<(), Error> {
    let ca = Ca::new();
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    root_of(&anna)
        .open(async |an| {
            let middle = an.start_actor("middle").await?;
            let look = async {
                let below = teamster::wait_for_actor("below").await?;
                ca.does(&["revoke", "anna"]);
                ca.does(&["issue", "anna", "--renew"]);
                ca.does(&["update", "bob"]);
                let theirs = Tree::grow(&bob).await;
                tokio::time::sleep(ASKED_EVERY).await;
                for old in [&middle, &below] {
                    assert_eq!(theirs.child.run(adds_in(old.clone(), 1, 2)).await?, 3);
                    assert_eq!(old.run(adds_in(theirs.root.clone(), 1, 2)).await?, 3);
                    let root = teamster::this_actor()?;
                    assert_eq!(old.run(asks_for_certificates(root)).await?, ["here it is"; 3]);
                }
                theirs.end().await;
                Ok::<_, Error>(())
            };
            tokio::select! {
                held = middle.run(holds_a_child()) => panic!("nobody ends it: {held:?}"),
                looked = look => looked?,
            }
            Ok(())
        })
        .await
}

#[teamster::test(exclusive)]
async fn an_identity_that_expires_while_its_tree_runs_is_refused() -> Result<(), Error> {
    let ca = Ca::new();
    let anna = ca.issue("anna");
    let valid = Duration::from_secs(4);
    let made = std::time::Instant::now();
    let theirs = Tree::grow(&issue_for(&ca, "bob", -60, 4)).await;
    root_of(&anna)
        .open(async |an| {
            let (ours, later) = (an.start_actor("ours").await?, an.start_actor("later").await?);
            assert_eq!(theirs.child.run(adds_in(ours.clone(), 1, 2)).await?, 3);
            assert!(made.elapsed() < valid, "this machine is too slow for this test");
            tokio::time::sleep(valid + Duration::from_secs(1)).await;
            let refused = refusal(&theirs.child, &later).await;
            assert!(refused.contains("it refused us: by its clock our identity has expired"), "{refused}");
            let refused = refusal(&later, &theirs.root).await;
            assert!(refused.contains("has expired: issue a new one"), "{refused}");
            assert_eq!(theirs.child.run(adds_in(ours, 1, 2)).await?, 3, "a line that is there stays");
            Ok(())
        })
        .await?;
    theirs.end().await;
    Ok(())
}

/// Each says what is wrong with the folder, and what to do.
#[teamster::test]
async fn a_folder_that_is_of_no_use_is_an_error_at_open() {
    let ca = Ca::new();
    let open = async |folder: &Path| {
        let ended = root_of(folder).open(async |_an| Ok(())).await;
        let error = ended.expect_err("it does not open").to_string();
        assert!(error.starts_with("booting the root actor: its identity"), "{error}");
        error
    };
    let check = |error: String, wanted: &str| assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
    check(open(&ca.path("nowhere")).await, "there is no folder ");
    let broken = |name: &str, breaks: &dyn Fn(&Path)| {
        let folder = ca.issue(name);
        breaks(&folder);
        folder
    };
    for (n, file) in ["authorities.pem", "identity.pem", "identity.key"].iter().enumerate() {
        let folder = broken(&format!("a{n}"), &|folder| fs::remove_file(folder.join(file)).expect("it is ours"));
        check(open(&folder).await, &format!("{file} is missing: `teamster ca issue` writes a whole identity folder"));
        let folder = broken(&format!("b{n}"), &|folder| fs::write(folder.join(file), "hello").expect("it is ours"));
        check(open(&folder).await, "that can be read");
        let folder = broken(&format!("d{n}"), &|folder| {
            let text = fs::read(folder.join(file)).expect("it is ours");
            fs::write(folder.join(file), &text[..text.len() / 2]).expect("it is ours");
        });
        check(open(&folder).await, "that can be read (it ends in the middle): write it anew");
        let long = vec![b'#'; 300 * 1024];
        let folder = broken(&format!("c{n}"), &|folder| fs::write(folder.join(file), &long).expect("it is ours"));
        check(open(&folder).await, "it is longer than");
    }
    let folder = broken("open", &|folder| {
        fs::set_permissions(folder.join("identity.key"), Permissions::from_mode(0o644)).expect("it is ours");
    });
    check(open(&folder).await, "others may read");
    check(open(&folder).await, &format!("(mode 0644): chmod 600 {}", folder.join("identity.key").display()));
    let other = ca.issue("other");
    let folder = broken("key", &|folder| {
        fs::copy(other.join("identity.key"), folder.join("identity.key")).expect("it is ours");
    });
    check(open(&folder).await, "don't belong together");
    let authority = ca.path("teamster/ca");
    let folder = broken("ca", &|folder| {
        fs::copy(authority.join("authority.pem"), folder.join("identity.pem")).expect("it is ours");
    });
    check(open(&folder).await, "it is no identity's certificate");
    let stranger = Ca::new();
    let folder = broken("strange", &|folder| {
        let theirs = stranger.path("teamster/ca/authority.pem");
        fs::copy(theirs, folder.join("authorities.pem")).expect("it is ours");
    });
    check(open(&folder).await, "`teamster ca update` adds its authority");
    check(open(&issue_for(&ca, "over", -60, -1)).await, "identity.pem has expired on");
    check(open(&issue_for(&ca, "early", 60, 120)).await, "look at this machine's clock");
    let revoked = ca.issue("revoked");
    ca.does(&["revoke", "revoked"]);
    ca.does(&["update", "revoked"]);
    check(open(&revoked).await, "was revoked on");
    let folder = ca.issue("forged");
    let thief = rcgen::KeyPair::generate().expect("a key");
    write_list(&folder, &issuer(&ca, thief), 60, &[]);
    check(open(&folder).await, "was not signed by the authority that it names");
    let folder = ca.issue("long");
    believe_so_often(&folder, 100);
    check(open(&folder).await, "bytes of certificates and lists, of at most 32768");
}

fn believe_so_often(identity: &Path, times: usize) {
    let file = identity.join("authorities.pem");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(file, text.repeat(times)).expect("it is ours");
}

/// All of it goes to each actor at its birth.
#[teamster::test]
async fn as_much_as_an_identity_may_hold_reaches_its_actors() -> Result<(), Error> {
    let ca = Ca::new();
    let folder = ca.issue("long");
    believe_so_often(&folder, 70);
    root_of(&folder)
        .open(async |an| {
            assert_eq!(an.start_actor("one").await?.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

/// The authority in its folder, with this key.
fn issuer(ca: &Ca, key: rcgen::KeyPair) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let certificate = fs::read_to_string(ca.path("teamster/ca/authority.pem")).expect("it is there");
    rcgen::Issuer::from_ca_cert_pem(&certificate, key).expect("it is a certificate")
}

fn key_of(ca: &Ca) -> rcgen::KeyPair {
    let key = fs::read_to_string(ca.path("teamster/ca/authority.key")).expect("it is there");
    rcgen::KeyPair::from_pem(&key).expect("it is a key")
}

/// A list that is due in so many seconds.
fn write_list(identity: &Path, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>, due: i64, serials: &[Vec<u8>]) {
    let now = OffsetDateTime::now_utc();
    let entry = |serial: &Vec<u8>| rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: now - time::Duration::hours(2),
        next_update: now + time::Duration::seconds(due),
        crl_number: rcgen::SerialNumber::from(7),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(issuer).expect("it signs").pem().expect("it is written");
    fs::write(identity.join("revoked.pem"), list).expect("it is ours");
}

/// It closes no line that it does not name, and opens none that it does.
#[teamster::test(exclusive)]
async fn a_list_that_is_out_of_date_still_counts() -> Result<(), Error> {
    let ca = Ca::new();
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    let serial = serial(&bob).split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex digits")).collect();
    write_list(&anna, &issuer(&ca, key_of(&ca)), -60, &[serial]);
    let (theirs, others) = (Tree::grow(&bob).await, Tree::grow(&ca.issue("carl")).await);
    root_of(&anna)
        .open(async |an| {
            let ours = an.start_actor("ours").await?;
            assert_eq!(ours.run(adds_in(others.child.clone(), 1, 2)).await?, 3);
            let refused = refusal(&ours, &theirs.child).await;
            assert!(refused.contains("was revoked"), "{refused}");
            Ok(())
        })
        .await?;
    theirs.end().await;
    others.end().await;
    Ok(())
}

#[test]
fn the_variable_says_which_identity() {
    let run = |identity: &str| {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "a_tree_by_the_environment", "--nocapture", "--ignored"]).env("TEAMSTER_LOG", "warn");
        let output = command.env("TEAMSTER_IDENTITY", identity).output().expect("it starts");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (is_well, said) = run("/no/such/folder");
    assert!(
        !is_well && said.contains("there is no folder /no/such/folder: `teamster ca issue NAME --to /no/such/folder`"),
        "{said}"
    );
    let ca = Ca::new();
    let anna = ca.issue("anna");
    let (is_well, said) = run(anna.to_str().expect("a path"));
    assert!(is_well && !said.contains("WARN"), "{said}");
    ca.does(&["issue", "anna", "--renew", "--days", "10"]);
    write_list(&anna, &issuer(&ca, key_of(&ca)), -60, &[]);
    let (is_well, said) = run(anna.to_str().expect("a path"));
    assert!(is_well && said.contains("teamster::identity: the identity expires on "), "{said}");
    assert!(said.contains(" days: `teamster ca issue anna --renew` makes a new one identity=anna"), "{said}");
    assert!(said.contains("its list of revoked identities should have been replaced by "), "{said}");
    let (is_well, said) = run("");
    assert!(is_well, "{said}");
}

#[teamster::test]
#[ignore = "a program that a test starts"]
async fn a_tree_by_the_environment() -> Result<(), Error> {
    teamster::open_nursery(async |_an| Ok(())).await
}

// ---- a client that is not ours: what it signs and shows is made by OpenSSL, what it says is from the page docs/wire.md

/// Somebody with an identity who uses OpenSSL.
struct Stranger {
    folder: tempfile::TempDir,
    identity: PathBuf,
    /// Of whom it knows what to believe.
    believes: PathBuf,
    uuid: uuid::Uuid,
}

impl Stranger {
    fn new(identity: &Path, believes: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (identity, believes) = (identity.to_owned(), believes.join("authorities.pem"));
        Stranger { folder, identity, believes, uuid: uuid::Uuid::new_v4() }
    }

    /// Knocks with a certificate that its identity has signed, and is not let in.
    fn is_refused(&self, to: SocketAddr) {
        self.sign("own", &format!("DNS:{}.actor.teamster", self.uuid.simple()));
        let chain = self.identity.join("identity.pem");
        let shows = ["-cert", "own", "-key", "own.key", "-cert_chain", chain.to_str().expect("a path")];
        assert!(self.says(to, &shows, &self.hello(self.uuid), 1).is_empty());
    }

    fn openssl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn runs(&self, arguments: &[&str]) {
        let output = self.openssl(arguments).output().expect("there is an openssl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Has the identity sign a certificate for these names.
    fn sign(&self, file: &str, names: &str) {
        let path = |name: &str| self.identity.join(name).to_str().expect("a path").to_owned();
        fs::write(self.folder.path().join("names"), format!("subjectAltName={names}")).expect("it is ours");
        let curve = "ec_paramgen_curve:P-256";
        let key = ["-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", "key"];
        self.runs(&[&["req", "-new", "-subj", "/CN=stranger", "-out", "request"][..], &key].concat());
        let (authority, its_key) = (path("identity.pem"), path("identity.key"));
        let by = ["-CA", &authority, "-CAkey", &its_key, "-set_serial", "1", "-days", "1"];
        self.runs(&[&["x509", "-req", "-in", "request", "-out", file, "-extfile", "names"][..], &by].concat());
        fs::rename(self.folder.path().join("key"), self.folder.path().join(format!("{file}.key"))).expect("it is ours");
    }

    /// Connects, with a certificate of [`Stranger::sign`] and the identity above it, and says this. What comes back
    /// within so many frames, or until the other side closes.
    fn says(&self, to: SocketAddr, arguments: &[&str], bytes: &[u8], frames: usize) -> Vec<Vec<u8>> {
        let mut command = self.openssl(&["s_client", "-quiet", "-verify_return_error", "-connect", &to.to_string()]);
        command.arg("-CAfile").arg(&self.believes).args(arguments);
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is an openssl");
        let mut input = client.stdin.take().expect("a pipe");
        // One that was refused reads nothing.
        let _ = input.write_all(bytes);
        let mut output = client.stdout.take().expect("a pipe");
        let heard = (0..frames).map_while(|_| frame_of(&mut output)).collect();
        let _ = client.kill();
        client.wait().expect("it ends");
        heard
    }

    fn hello(&self, uuid: uuid::Uuid) -> Vec<u8> {
        let aid = ("stranger", bytes::Bytes::copy_from_slice(uuid.as_bytes()), std::process::id(), "elsewhere");
        framed(&(1, (1, 0), aid, 0, (), (), (), ()), &())
    }
}

fn framed<H: serde::Serialize, P: serde::Serialize>(header: &H, payload: &P) -> Vec<u8> {
    let body = [rmp_serde::to_vec(header), rmp_serde::to_vec(payload)].map(|bytes| bytes.expect("it is encoded"));
    let body = body.concat();
    [&u32::try_from(body.len()).expect("a short frame").to_le_bytes()[..], &body].concat()
}

fn frame_of(from: &mut impl std::io::Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn place(portal: &Portal) -> SocketAddr {
    match portal.addr() {
        Some(Addr::Tcp(place)) => match place.host {
            Host::Ip(ip) => SocketAddr::new(ip, place.port),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// The lines that a user sees who looks for warnings.
#[test]
#[ignore = "needs openssl"]
fn openssl_is_let_in_with_an_identity_and_refused_without() {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "openssl_knocks", "--nocapture", "--ignored"]).env("TEAMSTER_LOG", "warn");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned(); // the harness has put both into one
    assert!(output.status.success(), "{said}");
    let refused: Vec<&str> = said.lines().filter(|line| line.contains("a connection was refused")).collect();
    let wanted = [
        "it has shown no certificate",
        "it does not speak TLS 1.3",
        "its certificate was made for another actor",
        "the identity that has signed its certificate may not sign for such names",
        "it has shown an identity, or an authority, instead of a certificate signed by one",
        "it refused us",
        "its certificate is of no authority that this tree believes: it belongs to another tree, or to none",
        "its certificate, or the identity that has signed it, has expired",
        "its certificate, or the identity that has signed it, was revoked",
    ];
    for wanted in wanted {
        let found = refused.iter().any(|line| line.contains(wanted) && line.contains("from=127.0.0.1:"));
        assert!(found, "{wanted:?} is not in {said}");
    }
    assert_eq!(refused.len(), wanted.len(), "{said}");
}

#[teamster::test]
#[ignore = "a program that a test starts"]
async fn openssl_knocks() -> Result<(), Error> {
    let (ca, other) = (Ca::new(), Ca::new());
    let (anna, bob) = (ca.issue("anna"), ca.issue("bob"));
    root_of(&anna)
        .open(async |an| {
            let ours = an.start_actor("ours").await?;
            let (to, name) = (place(&ours), format!("{}.actor.teamster", ours.aid().uuid().simple()));
            let strangers = [
                Stranger::new(&bob, &anna),
                Stranger::new(&other.issue("bob"), &anna),
                Stranger::new(&issue_for(&ca, "carl", -60, -1), &anna),
            ];
            let knocks = move || {
                let [known, other, expired] = &strangers;
                knock(known, to, &name);
                other.is_refused(to);
                expired.is_refused(to);
            };
            tokio::task::spawn_blocking(knocks).await?;
            assert_eq!(ours.run(add(1, 2)).await?, 3);
            ca.does(&["revoke", "bob"]);
            ca.does(&["update", "anna"]);
            let late = an.start_actor("late").await?;
            let (to, stranger) = (place(&late), Stranger::new(&bob, &anna));
            tokio::task::spawn_blocking(move || stranger.is_refused(to)).await?;
            assert_eq!(late.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

fn knock(stranger: &Stranger, to: SocketAddr, name: &str) {
    let own = stranger.uuid.simple();
    stranger.sign("good", &format!("DNS:{own}.actor.teamster,DNS:bob.identity.teamster"));
    stranger.sign("beyond", &format!("DNS:{own}.actor.teamster,DNS:anna.identity.teamster"));
    let chain = stranger.identity.join("identity.pem");
    let chain = chain.to_str().expect("a path");
    let key = stranger.identity.join("identity.key");
    let good = ["-cert", "good", "-key", "good.key", "-cert_chain", chain, "-verify_hostname", name];
    let hello = stranger.hello(stranger.uuid);
    // Both sides believe each other: it is let in, and its call is answered.
    let call = framed(&(16, 1, 0, 1, (), "identity::add"), &(2, 3));
    let heard = stranger.says(to, &good, &[hello.clone(), call].concat(), 2);
    assert_eq!(heard.len(), 2, "Welcome and Return: {heard:?}");
    assert_eq!((heard[0][1], heard[1][1], heard[1].last()), (2, 22, Some(&5)), "{heard:?}");
    // It would be let in as another.
    let heard = stranger.says(to, &good, &stranger.hello(uuid::Uuid::new_v4()), 1);
    assert!(String::from_utf8_lossy(&heard[0]).contains("its certificate was made for another actor"), "{heard:?}");
    let refused: [&[&str]; 5] = [
        &[],
        &["-tls1_2"],
        &["-cert", "beyond", "-key", "beyond.key", "-cert_chain", chain],
        &["-cert", chain, "-key", key.to_str().expect("a path")],
        // It looks at our certificate as closely.
        &["-cert", "good", "-key", "good.key", "-cert_chain", chain, "-verify_hostname", "other.actor.teamster"],
    ];
    for arguments in refused {
        assert!(stranger.says(to, arguments, &hello, 1).is_empty(), "{arguments:?}");
    }
}

/// What it shows and what it is shown counts by each side's own clock, and only where a line is made.
#[teamster::test]
#[ignore = "needs faketime"]
async fn a_clock_that_jumps_out_of_an_identitys_time_makes_no_new_lines() -> Result<(), Error> {
    let (ca, clock) = (Ca::new(), WallClock::new());
    root_of(&ca.issue("anna"))
        .open(async |an| {
            let skewed = clock.of(an.actor("skewed")).start().await?;
            for (offset, said) in [("+2y", "has expired"), ("-2y", "is not valid yet")] {
                clock.jumps(offset);
                assert_eq!(skewed.run(add(1, 2)).await?, 3, "{offset}: the line that is there stays");
                let fresh = an.start_actor("fresh").await?;
                let refused = refusal(&skewed, &fresh).await;
                assert!(refused.contains(said), "{offset}: {refused}");
                let refused = refusal(&fresh, &skewed).await;
                assert!(refused.contains("by its clock our identity has expired"), "{offset}: {refused}");
                clock.jumps("+0");
                assert_eq!(skewed.run(adds_in(fresh.clone(), 1, 2)).await?, 3, "its clock is right again");
                fresh.cancel_actor().await?;
            }
            Ok(())
        })
        .await
}
