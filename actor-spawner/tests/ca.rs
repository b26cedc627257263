//! Does `teamster ca` write what it says, lose nothing, and say what to do where it can't?
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[path = "support/authority.rs"]
mod authority;
use authority::{Ca, run_in};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("it is read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_authority_is_made_once_and_kept_secret() {
    let ca = Ca::new();
    let folder = ca.path("teamster/ca");
    assert_eq!(names(&folder), ["authority.key", "authority.pem", "revoked.pem"]);
    assert_eq!((mode(&folder), mode(&folder.join("authority.key"))), (0o700, 0o600));
    let before = fs::read(folder.join("authority.key")).expect("it is there");
    assert!(ca.refuses(&["init"]).contains("holds an authority already"));
    fs::remove_file(folder.join("authority.pem")).expect("it is ours");
    assert!(ca.refuses(&["init"]).contains("holds an authority already"), "a key alone is not written over either");
    assert_eq!(fs::read(folder.join("authority.key")).expect("it is there"), before);
    assert!(ca.refuses(&["issue", "anna"]).contains("there is no authority in"));
}

#[test]
fn an_authority_is_not_made_where_others_are() {
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let output = run_in(home.path(), &["init", "--folder", "."]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("others may enter ., where a key is to be kept"));
    assert_eq!(names(home.path()), [""; 0]);
}

#[test]
fn an_identity_is_a_folder_of_its_own() {
    let ca = Ca::new();
    let said = ca.does(&["issue", "anna", "--to", "for/anna"]);
    assert!(said.starts_with("issued anna, valid until 20") && said.contains(", in for/anna\n"), "{said}");
    let folder = ca.path("for/anna");
    assert_eq!(names(&folder), ["authorities.pem", "identity.key", "identity.pem", "revoked.pem"]);
    assert_eq!((mode(&folder), mode(&folder.join("identity.key"))), (0o700, 0o600));
    let shown = ca.does(&["show", "for/anna"]);
    assert!(shown.starts_with("identity anna\n  until        20"), "{shown}");
    assert!(shown.contains("\n  state        valid\nbelieves teamster authority "), "{shown}");
    let all = ca.does(&["show"]);
    assert!(all.lines().any(|line| line.starts_with("anna") && line.ends_with("  valid")), "{all}");
}

#[test]
fn nothing_is_written_over_unasked() {
    let ca = Ca::new();
    let anna = ca.issue("anna");
    let before = fs::read(anna.join("identity.key")).expect("it is there");
    let refused = [
        (&["issue", "bob", "--to", "anna"][..], "anna is the folder of the identity anna"),
        (&["issue", "anna"], "anna holds an identity of this name: --renew"),
        (&["issue", "anna", "--to", "other"], "anna has an identity until 20"),
        (&["issue", "bob", "--to", "teamster/ca"], "teamster/ca holds an authority"),
        (&["issue", "Bob"], "Bob is no name for an identity"),
        (&["issue", "b.ob"], "b.ob is no name for an identity"),
        (&["issue", "bob-"], "bob- is no name for an identity"),
        (&["revoke", "bob"], "nothing was issued to bob"),
        (&["update", "bob"], "bob is no identity folder: teamster ca issue NAME --to bob makes one"),
        (&["show", "bob"], "bob holds neither an authority nor an identity"),
    ];
    for (arguments, wanted) in refused {
        let said = ca.refuses(arguments);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    assert_eq!(fs::read(anna.join("identity.key")).expect("it is there"), before);
    ca.does(&["issue", "anna", "--renew"]);
    assert_ne!(fs::read(anna.join("identity.key")).expect("it is there"), before);
    assert_eq!(mode(&anna.join("identity.key")), 0o600);
}

#[test]
fn a_key_that_others_may_read_signs_nothing() {
    let ca = Ca::new();
    let key = ca.path("teamster/ca/authority.key");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).expect("it is ours");
    let said = ca.refuses(&["issue", "anna"]);
    assert!(said.contains("others may read") && said.contains(&format!("chmod 600 {}", key.display())), "{said}");
}

#[test]
fn who_is_revoked_is_on_the_list_that_all_get() {
    let ca = Ca::new();
    ca.issue("anna");
    ca.issue("bob");
    assert!(ca.does(&["revoke", "bob"]).starts_with("revoked bob, serial "));
    assert!(ca.refuses(&["revoke", "bob"]).contains("bob was revoked already"));
    assert!(ca.does(&["show", "bob"]).contains("state        valid"), "its folder has the old list");
    assert_eq!(ca.does(&["update", "anna", "bob"]), "updated anna\nupdated bob\n");
    assert!(ca.does(&["show", "bob"]).contains("state        revoked on 20"));
    assert!(ca.does(&["show", "anna"]).contains("state        valid"));
    // A name is free again then; one certificate of two is named by its number.
    let old = ca.issue("carl");
    let serial = serial(&ca.does(&["show", old.to_str().expect("a path")]));
    ca.does(&["issue", "carl", "--renew"]);
    assert!(ca.does(&["revoke", &serial[..10]]).contains(&serial));
    let shown = ca.does(&["show"]);
    let of_carl: Vec<&str> = shown.lines().filter(|line| line.starts_with("carl")).collect();
    assert!(of_carl[0].contains(&serial) && of_carl[0].contains("revoked on"), "{shown}");
    assert!(of_carl[1].ends_with("valid"), "{shown}");
}

fn serial(shown: &str) -> String {
    let line = shown.lines().find(|line| line.trim_start().starts_with("serial")).expect("it is shown");
    line.split_whitespace().last().expect("a number").to_owned()
}

/// How an authority is followed by another: `docs/identity.md`.
#[test]
fn an_identity_believes_two_authorities_while_one_follows_the_other() {
    let ca = Ca::new();
    let anna = ca.issue("anna");
    let believed = || ca.does(&["show", "anna"]).matches("believes teamster authority").count();
    ca.does(&["init", "--folder", "next"]);
    ca.does(&["update", "anna", "--folder", "next"]);
    assert_eq!(believed(), 2);
    ca.does(&["update", "anna", "--folder", "next"]);
    assert_eq!(believed(), 2, "once is enough");
    let early = ca.refuses(&["update", "anna", "--folder", "next", "--only"]);
    assert!(early.contains("was issued by another authority") && early.contains("ca issue anna --renew --to anna"));
    ca.does(&["issue", "anna", "--renew", "--folder", "next"]);
    assert_eq!(believed(), 2);
    ca.does(&["update", "anna", "--folder", "next", "--only"]);
    assert_eq!(believed(), 1);
    assert_eq!(names(&anna), ["authorities.pem", "identity.key", "identity.pem", "revoked.pem"]);
}

/// Two at once: neither loses what the other has written down.
#[test]
fn what_is_issued_at_once_is_all_written_down() {
    let ca = Ca::new();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d", "e", "f"] {
            let ca = &ca;
            scope.spawn(move || ca.issue(name));
        }
    });
    assert_eq!(ca.does(&["show"]).lines().filter(|line| line.ends_with("  valid")).count(), 6);
}
