//! Beside serde_json: the same documents are taken, with the same words for the others, and the same bytes are written.

use std::collections::BTreeMap;

use proptest::prelude::*;
use punnet_json::{FromJson, ToJson};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, FromJson, ToJson)]
#[serde(rename_all = "camelCase")]
struct Sample {
    plain_text: String,
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    #[json(skip_if_empty)]
    kind: String,
    #[serde(default)]
    small: u8,
    #[serde(default)]
    deep: i64,
    #[serde(default)]
    wide: u64,
    maybe: Option<i32>,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[json(null_is_default, skip_if_empty)]
    list: Vec<bool>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[json(skip_if_empty)]
    map: BTreeMap<String, Inner>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[json(skip_if_empty)]
    inner: Option<Box<Inner>>,
    #[serde(default)]
    word: Word,
    #[serde(default, skip_serializing)]
    #[json(skip_writing)]
    secret: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, FromJson, ToJson)]
#[serde(deny_unknown_fields)]
struct Inner {
    first: u16,
    second: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, FromJson, ToJson)]
#[serde(rename_all = "kebab-case", default)]
struct Defaults {
    some_number: i32,
    other: Empty,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, FromJson, ToJson)]
struct Empty {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, FromJson, ToJson)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    One,
    TwoThree,
    Four,
}

const NOT_UTF8: &str = "invalid unicode code point";

/// What both say of a text.
fn both<T: FromJson + DeserializeOwned + Serialize + ToJson + PartialEq + std::fmt::Debug>(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    match (
        serde_json::from_slice::<T>(text),
        punnet_json::from_slice::<T>(text),
    ) {
        (Ok(theirs), Ok(ours)) => {
            assert_eq!(theirs, ours, "{shown}");
            assert_eq!(
                serde_json::to_string(&ours).expect("it was read"),
                punnet_json::to_string(&ours)
            );
            assert_eq!(
                serde_json::to_vec_pretty(&ours).expect("it was read"),
                punnet_json::to_vec_pretty(&ours)
            );
        }
        (Err(theirs), Err(ours)) => same_error(&theirs, &ours, &shown),
        (theirs, ours) => panic!("{shown}: {theirs:?}, {ours:?}"),
    }
}

/// The same for documents of any shape.
fn any_value(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    match (
        serde_json::from_slice::<serde_json::Value>(text),
        punnet_json::from_slice::<punnet_json::Value>(text),
    ) {
        (Ok(theirs), Ok(ours)) => {
            for written in [punnet_json::to_vec(&ours), punnet_json::to_vec_pretty(&ours)] {
                let again: serde_json::Value = serde_json::from_slice(&written).expect("it was written");
                assert_eq!(theirs, again, "{shown}");
            }
            assert_eq!(
                punnet_json::from_slice::<punnet_json::Value>(&punnet_json::to_vec(&ours))
                    .expect("it was written"),
                ours
            );
        }
        (Err(theirs), Err(ours)) => same_error(&theirs, &ours, &shown),
        (theirs, ours) => panic!("{shown}: {theirs:?}, {ours:?}"),
    }
}

fn same_error(theirs: &serde_json::Error, ours: &punnet_json::Error, text: &str) {
    let (theirs, ours) = (theirs.to_string(), ours.to_string());
    // Text that is not UTF-8 is found at the end of the string, or of the part of it before an escape.
    if !(theirs.starts_with(NOT_UTF8) && ours.starts_with(NOT_UTF8)) {
        assert_eq!(theirs, ours, "{text}");
    }
}

#[test]
fn documents_and_errors_are_as_serde_json_has_them() {
    for text in [
        r#"{"plainText":"a\u00e9\n\ud83d\ude00/\/","type":"","small":255,"deep":-9223372036854775808,"wide":18446744073709551615}"#,
        r#" { "plainText" : "" , "list" : [ true , false ] , "map" : { "b" : { "first" : 1 } , "a" : { "first" : 2 , "second" : "x" } } } "#,
        r#"{"plainText":"","list":null,"inner":{"first":3},"word":"twothree","secret":"s","unknown":[1,{"a":[]},"x",1.5e3,null]}"#,
        "{\n  \"plainText\": 5\n}",
        r#"{"plainText":null}"#,
        r#"{"plainText":true}"#,
        r#"{"plainText":[]}"#,
        r#"{"plainText":{}}"#,
        r#"{"plainText":-7}"#,
        r#"{"plainText":"","small":256}"#,
        r#"{"plainText":"","small":-1}"#,
        r#"{"plainText":"","small":1.5}"#,
        r#"{"plainText":"","small":"1"}"#,
        r#"{"plainText":"","small":01}"#,
        r#"{"plainText":"","small":-}"#,
        r#"{"plainText":"","small":1.}"#,
        r#"{"plainText":"","small":1e}"#,
        r#"{"plainText":"","small":-"#,
        r#"{"plainText":"","deep":9223372036854775808}"#,
        r#"{"plainText":"","maybe":null,"map":[]}"#,
        r#"{"plainText":"","list":{}}"#,
        r#"{"plainText":"","list":[1]}"#,
        r#"{"plainText":"","list":[true,]}"#,
        r#"{"plainText":"","list":[true true]}"#,
        r#"{"plainText":"","list":[true"#,
        r#"{"plainText":"","list":["#,
        r#"{"plainText":"","inner":{"first":1,"third":2}}"#,
        r#"{"plainText":"","inner":{"first":1,"first":2}}"#,
        r#"{"plainText":"","inner":{}}"#,
        r#"{"plainText":"","inner":5}"#,
        r#"{"plainText":"","word":"five"}"#,
        r#"{"plainText":"","plainText":""}"#,
        r#"{"plainText":"\x"}"#,
        r#"{"plainText":"\u12"#,
        r#"{"plainText":"\u12g4"}"#,
        r#"{"plainText":"\ud83d"}"#,
        r#"{"plainText":"\ude00"}"#,
        r#"{"plainText":"\ud83d\u0041"}"#,
        "{\"plainText\":\"\n\"}",
        r#"{"plainText":"#,
        r#"{"plainText""#,
        r#"{"plainText" 1}"#,
        r#"{"plainText":"","#,
        r#"{"plainText":"",}"#,
        r#"{"plainText":"" "x":1}"#,
        r#"{plainText:""}"#,
        r#"{"plainText":""} x"#,
        r#"{"plainText":"","extra":*}"#,
        "",
        "  ",
        "null",
        "5",
        "\"x\"",
        "{",
        "{}",
    ] {
        both::<Sample>(text.as_bytes());
    }
    both::<Sample>(b"{\"plainText\":\"\xff\"}");
    for text in [
        r#"{}"#,
        r#"{"some-number":-3,"other":{"x":1}}"#,
        r#"{"other":null}"#,
    ] {
        both::<Defaults>(text.as_bytes());
    }
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for text in [
        r#"{"z":[1,-1,1.5,-0.25,1e300,true,null,"\u0001\u001f\"\\\b\f\t"],"a":{},"e":[],"a":{"twice":1}}"#,
        "tru",
        "trux",
        "*",
        "-0",
        "18446744073709551616",
    ] {
        any_value(text.as_bytes());
    }
    any_value(deep(127).as_bytes());
    any_value(deep(128).as_bytes());
    both::<Empty>(format!("{{\"a\":{}}}", deep(126)).as_bytes());
}

/// A struct is an object: serde_json takes an array for one as well.
#[test]
fn an_array_is_no_struct() {
    let error = punnet_json::from_str::<Inner>("[1]").unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid type: sequence, expected struct Inner at line 1 column 0"
    );
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // serde_json rounds the last digit of longer fractions otherwise than the standard library.
        any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// None that makes a longer fraction of a number.
fn other_byte() -> impl Strategy<Value = u8> {
    any::<u8>().prop_filter("of a number", |byte| !b"0123456789.eE+-".contains(byte))
}

proptest! {
    #[test]
    fn any_document_is_read_and_written_as_serde_json_does(value in any_json(), cut in any::<prop::sample::Index>(), byte in other_byte()) {
        let mut text = serde_json::to_vec_pretty(&value).unwrap();
        any_value(&text);
        let at = cut.index(text.len());
        any_value(&text[..at]);
        text[at] = byte;
        any_value(&text);
    }

    #[test]
    fn any_bytes_are_judged_as_serde_json_does(text in r#"[ \[\]{}:,"a\\u0-9eE+.tnl-]{0,24}"#) {
        any_value(text.as_bytes());
    }
}
