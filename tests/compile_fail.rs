//! Each misuse of a macro is reported at the user's own tokens, in words that say what to do.

#[test]
fn each_misuse_is_told_at_the_users_own_tokens() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_fail/*.rs");
    cases.pass("tests/compile_pass/*.rs");
}
