//! Each form of expansion, and where it may stand.

use super::{ExpandError, Expanded, expand, expand_body, expand_noting_unset, expand_words};

const VARIABLES: [(&str, &str); 8] = [
    ("file", "/a/b/c.tar.gz"),
    ("empty", ""),
    ("home", "/home"),
    ("spaced", " one  two "),
    ("stars", "a*b?c"),
    ("ünï", "code"),
    ("lines", "one\ntwo"),
    ("slash", "\\x"),
];

fn lookup(name: &str) -> Option<String> {
    VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn check(rows: &[(&str, &str)]) {
    for (word, expected) in rows {
        assert_eq!(expand(word, '\\', &lookup).as_deref(), Ok(*expected), "{word}");
    }
}

#[test]
fn starts_and_ends_are_cut_off_by_pattern() {
    check(&[
        ("${file#*/}", "a/b/c.tar.gz"),
        ("${file##*/}", "c.tar.gz"),
        ("${file%.*}", "/a/b/c.tar"),
        ("${file%%.*}", "/a/b/c"),
        ("${file%/*}", "/a/b"),
        ("${file#/?/}", "b/c.tar.gz"),
        ("${file#nothing}", "/a/b/c.tar.gz"),
        ("${file%%*}", ""),
        ("${file#}", "/a/b/c.tar.gz"),
        ("${stars#a\\*}", "b?c"),
        ("${stars%\\?c}", "a*b"),
        ("${stars##*\\?}", "c"),
        ("${file#$home}", "/a/b/c.tar.gz"),
        ("${home#/${nothing:-h}}", "ome"),
        ("${lines#*t}", "wo"),
        ("${slash#\\\\}", "x"),
        ("${nothing#*}", ""),
    ]);
}

#[test]
fn matches_are_replaced_by_text() {
    check(&[
        ("${file/\\//:}", ":a/b/c.tar.gz"),
        ("${file//\\//:}", ":a:b:c.tar.gz"),
        ("${file/./}", "/a/b/ctar.gz"),
        ("${file//?/x}", "xxxxxxxxxxxxx"),
        ("${file//[ab]/x}", "/a/b/c.tar.gz"),
        ("${file/*/x}", "x"),
        ("${file//*/x}", "x"),
        ("${file/a*c/x}", "/x.tar.gz"),
        ("${home//o/$spaced}", "/h one  two me"),
        ("${home/\\}/x}", "/home"),
        ("${empty/x/y}", ""),
        ("${home/${nothing}/x}", "x/home"),
        ("${home//${nothing}/-}", "-/-h-o-m-e-"),
        ("${nothing//a/b}", ""),
    ]);
}

#[test]
fn conditions_know_unset_from_empty() {
    check(&[
        ("${nothing-x}", "x"),
        ("${empty-x}", ""),
        ("${empty:-x}", "x"),
        ("${empty+x}", "x"),
        ("${empty:+x}", ""),
        ("${home:+${empty:-${file##*.}}}", "gz"),
        ("${nothing:-'a}b'}", "a}b"),
        ("${nothing:-\"$home\"}", "/home"),
        ("${home?must be}", "/home"),
    ]);
    let refused = |word| expand(word, '\\', &lookup).map_err(|error| error.to_string());
    assert_eq!(refused("${nothing:?say $home}"), Err("`nothing`: say /home".to_owned()));
    assert_eq!(refused("${nothing?}"), Err("`nothing`: not set".to_owned()));
    assert_eq!(refused("${empty:?}"), Err("`empty`: empty".to_owned()));
}

#[test]
fn names_end_where_they_should() {
    check(&[
        ("$home/x", "/home/x"),
        ("$home-x", "/home-x"),
        ("${ünï}s", "codes"),
        ("$1$home", "/home"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$%", "$%"),
    ]);
}

#[test]
fn the_other_escape_character_leaves_backslashes_alone() {
    assert_eq!(expand("c:\\dir\\`$home", '`', &lookup).as_deref(), Ok("c:\\dir\\$home"));
    assert_eq!(expand("\"`\"`x\"", '`', &lookup).as_deref(), Ok("\"`x"));
}

#[test]
fn broken_words_say_what_is_broken() {
    let refused = |word| expand(word, '\\', &lookup).expect_err(word);
    assert_eq!(refused("'a"), ExpandError::Unclosed('\''));
    assert_eq!(refused("\"a${home}"), ExpandError::Unclosed('"'));
    assert_eq!(refused("${home"), ExpandError::NoBrace);
    assert_eq!(refused("${home:-a"), ExpandError::NoBrace);
    assert_eq!(refused("${"), ExpandError::NoBrace);
    assert_eq!(refused("${}"), ExpandError::NoName);
    assert_eq!(refused("${+x}"), ExpandError::NoName);
    assert_eq!(refused("${home//x}"), ExpandError::NoReplacement { name: "home".to_owned() });
    assert!(matches!(refused("${home^^}"), ExpandError::Modifier { .. }));
    assert!(matches!(refused("${home:=x}"), ExpandError::Modifier { .. }));
    assert!(matches!(refused("${home:0:2}"), ExpandError::Modifier { .. }));
    assert!(matches!(refused("${home#a\\b}"), ExpandError::Pattern { .. }));
}

#[test]
fn variables_without_value_are_noted_unless_the_word_provides_for_them() {
    let expanded = expand_noting_unset("$b ${a} $b ${c:-x} ${d+x} $home ${e#x}", '\\', &lookup);
    let unset = ["a", "b", "e"].map(str::to_owned).to_vec();
    assert_eq!(expanded, Ok(Expanded { text: "   x  /home ".to_owned(), unset }));
}

#[test]
fn words_are_split_at_the_spaces_of_values_too() {
    let words = |text| expand_words(text, '\\', &lookup);
    assert_eq!(words("a$spaced b\\ c").as_deref(), Ok(["a", "one", "two", "b c"].map(str::to_owned).as_slice()));
    assert_eq!(words("\"$spaced\"").as_deref(), Ok([" one  two ".to_owned()].as_slice()));
    assert_eq!(words("$nothing").as_deref(), Ok([].as_slice()));
}

#[test]
fn bodies_of_heredocs_keep_their_quotes() {
    let expanded = expand_body("say \"$home\" '$home' \\$home $x\n", &lookup).expect("a body");
    assert_eq!(expanded.text, "say \"/home\" '/home' $home \n");
    assert_eq!(expanded.unset, ["x"]);
}
