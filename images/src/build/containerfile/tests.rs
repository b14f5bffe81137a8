//! What a Containerfile may say, and where a mistake is told to be.

use super::*;

/// The instructions behind FROM.
fn kinds(text: &str) -> Vec<Kind> {
    let file = parse(&format!("FROM scratch\n{text}")).unwrap();
    let kinds = file.instructions.into_iter().map(|instruction| instruction.kind);
    kinds.skip(1).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn heredoc(name: &str, raw: &str) -> Heredoc {
    Heredoc {
        name: name.into(),
        raw: raw.into(),
        expands: true,
        strips_tabs: false,
    }
}

#[test]
fn comments_blank_and_continued_lines_are_joined() {
    let text = "# a comment\n\nENV A=1 \\\n  # between\n  B=\"two words\"\n";
    let pairs = vec![
        ("A".to_owned(), "1".to_owned()),
        ("B".to_owned(), "\"two words\"".to_owned()),
    ];
    assert_eq!(kinds(text), [Kind::Env(pairs)]);
}

#[test]
fn from_takes_a_platform_and_a_name() {
    let file = parse("ARG A\nFROM --platform=$BUILDPLATFORM a/b:c AS Build\nFROM build\n").unwrap();
    let from = From {
        image: "a/b:c".into(),
        platform: Some("$BUILDPLATFORM".into()),
        name: Some("build".into()),
    };
    let plain = From {
        image: "build".into(),
        platform: None,
        name: None,
    };
    let kinds: Vec<_> = file
        .instructions
        .into_iter()
        .map(|instruction| instruction.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            Kind::Arg(vec![("A".into(), None)]),
            Kind::From(from),
            Kind::From(plain)
        ]
    );
}

#[test]
fn commands_have_two_forms() {
    let exec = Command::Exec(words(&["/a", "b c"]));
    assert_eq!(
        kinds("CMD [\"/a\", \"b c\"]\nCMD echo \"hi\" $X\nSHELL [\"/bin/ash\", \"-c\"]"),
        [
            Kind::Cmd(exec),
            Kind::Cmd(Command::Shell("echo \"hi\" $X".into())),
            Kind::Shell(words(&["/bin/ash", "-c"]))
        ]
    );
}

#[test]
fn run_takes_a_line_an_array_and_here_documents() {
    let run = |command, script, is_offline| {
        Kind::Run(Run {
            command,
            script,
            is_offline,
        })
    };
    let line = |text: &str| Command::Shell(text.into());
    let cases = [
        ("RUN a && \\\n  b", run(line("a &&   b"), None, false)),
        ("RUN [ -e /x ] || y", run(line("[ -e /x ] || y"), None, false)),
        ("RUN [ \"$A\" = b ]", run(line("[ \"$A\" = b ]"), None, false)),
        (
            "RUN --network=none [\"a\", \"b\"]",
            run(Command::Exec(words(&["a", "b"])), None, true),
        ),
        (
            "RUN <<EOF\n# kept\n\necho $X\nEOF",
            run(
                Command::Exec(Vec::new()),
                Some(heredoc("EOF", "# kept\n\necho $X\n")),
                false,
            ),
        ),
        (
            "RUN cat <<A >/x && cat <<-'B' >/y\n1\nA\n\t2\n\tB",
            run(line("cat <<A >/x && cat <<-'B' >/y\n1\nA\n\t2\nB"), None, false),
        ),
        (
            "RUN echo $((1<<2)) <<<x",
            run(line("echo $((1<<2)) <<<x"), None, false),
        ),
    ];
    for (text, want) in cases {
        assert_eq!(kinds(text), [want], "{text:?}");
    }
}

#[test]
fn copy_takes_options_and_here_documents() {
    let copy = Copy {
        owner: Some("7:8".into()),
        mode: Some("755".into()),
        sources: words(&["a", "b"]),
        target: "/c/".into(),
        ..Copy::default()
    };
    assert_eq!(
        kinds("COPY --chown=7:8 --chmod=755 a b /c/"),
        [Kind::Copy(copy.clone())]
    );
    assert_eq!(
        kinds("copy --link --chown=7:8 --chmod=755 [\"a\", \"b\", \"/c/\"]"),
        [Kind::Copy(copy)]
    );
    let from = Copy {
        from: Some("build".into()),
        sources: words(&["/a"]),
        target: "/b".into(),
        ..Copy::default()
    };
    assert_eq!(kinds("COPY --from=build /a /b"), [Kind::Copy(from)]);
    let texts = Copy {
        is_add: true,
        sources: words(&["a"]),
        heredocs: vec![
            Heredoc {
                expands: false,
                strips_tabs: true,
                ..heredoc("x.conf", "\t\tone\n")
            },
            heredoc("y", ""),
        ],
        target: "/c/".into(),
        ..Copy::default()
    };
    assert_eq!(texts.heredocs[0].text(), "one\n");
    assert_eq!(
        kinds("ADD <<-\"x.conf\" a <<y /c/\n\t\tone\nx.conf\ny\n"),
        [Kind::Copy(texts)]
    );
}

#[test]
fn health_checks_have_times_and_commands() {
    let check = |test: &[&str]| Healthcheck {
        test: words(test),
        interval: 90_000_000_000,
        timeout: 500_000_000,
        retries: 3,
        ..Healthcheck::default()
    };
    let options = "--interval=1m30s --timeout=500ms --retries=3";
    assert_eq!(
        kinds(&format!(
            "HEALTHCHECK {options} CMD [\"/ok\"]\nHEALTHCHECK {options} CMD ok | x\nHEALTHCHECK NONE"
        )),
        [
            Kind::Healthcheck(check(&["CMD", "/ok"]), None),
            Kind::Healthcheck(check(&[]), Some("ok | x".into())),
            Kind::Healthcheck(
                Healthcheck {
                    test: words(&["NONE"]),
                    ..Healthcheck::default()
                },
                None
            ),
        ]
    );
    for (text, want) in [
        ("1h", 3_600_000_000_000),
        ("1.5s", 1_500_000_000),
        ("2m1ms", 120_001_000_000),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("1.1234567899s", 1_123_456_789),
    ] {
        assert_eq!(instruction::duration_ns(text), Some(want), "{text}");
    }
    for text in [
        "",
        "1",
        "s",
        "1us",
        "1d",
        "-1s",
        "1e9h",
        "99999999999999h",
        ".s",
        "1.2.3s",
        "1..2s",
    ] {
        assert_eq!(instruction::duration_ns(text), None, "{text}");
    }
}

#[test]
fn the_escape_character_can_be_chosen() {
    let file = parse("# escape=`\nFROM scratch\nENV A=1 `\n B=2\n").unwrap();
    assert_eq!((file.escape, file.instructions.len()), ('`', 2));
}

#[test]
fn errors_say_where() {
    let cases = [
        ("FROM scratch\nFORM x", 2, 1, "\"FORM\" is no instruction"),
        (
            "FROM scratch\n  ONBUILD RUN make",
            2,
            3,
            "ONBUILD is not supported",
        ),
        (
            "FROM scratch\nCOPY a \\\n  --chmod=9 b\nCOPY --chmod=9 a b",
            4,
            6,
            "octal",
        ),
        ("FROM scratch\nCOPY a", 2, 6, "a source and a destination"),
        ("FROM scratch\nCOPY --form=a b c", 2, 6, "no such option"),
        ("FROM scratch\nCOPY --parents=1 a b", 2, 6, "not supported"),
        (
            "FROM scratch\nCOPY --from=$X a b",
            2,
            6,
            "a variable cannot stand here",
        ),
        ("FROM scratch\nADD --from=x a b", 2, 5, "from the context only"),
        ("FROM scratch\nCMD [\"a\", 3]", 2, 11, "JSON"),
        ("FROM scratch\nENV", 2, 4, "needs an argument"),
        ("FROM scratch\nENV A=1 \\\n   =2", 3, 4, "NAME=VALUE"),
        ("FROM scratch\nUSER a b", 2, 8, "one argument"),
        ("FROM --platfrom=x scratch", 1, 6, "no such option"),
        ("FROM scratch AS 1st", 1, 17, "no name of a stage"),
        (
            "FROM scratch\nADD https://x.example/y /",
            2,
            5,
            "nothing is fetched",
        ),
        ("FROM scratch\nCOPY <<EOF /x\ntext", 2, 6, "no line is \"EOF\""),
        ("FROM scratch\nRUN a \\\n && cat <<X", 3, 9, "no line is \"X\""),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/c make",
            2,
            5,
            "mounts while building",
        ),
        ("FROM scratch\nRUN --network=host make", 2, 5, "none or default"),
        ("FROM scratch\nRUN --network=none", 2, 5, "needs a command"),
        ("FROM scratch\nSHELL /bin/sh -c", 2, 7, "JSON array"),
        ("FROM scratch\nHEALTHCHECK --retries=0 CMD a", 2, 13, "from 1 on"),
        ("FROM scratch\nHEALTHCHECK --interval=5 CMD a", 2, 13, "as 30s"),
        (
            "FROM scratch\nHEALTHCHECK curl x",
            2,
            13,
            "NONE, or options and CMD",
        ),
        ("ARG 1x", 1, 5, "ARG takes"),
        ("# escape=x", 1, 1, "escape"),
        ("ENV A=1\nFROM scratch", 1, 1, "the first instruction is FROM"),
        ("ARG A=1\n", 1, 1, "there is no FROM"),
    ];
    for (text, want_line, want_column, want) in cases {
        match parse(text).map_err(|error| *error) {
            Err(Error::Containerfile {
                line, column, why, ..
            }) => {
                assert_eq!((line, column), (want_line, want_column), "{text:?}: {why}");
                assert!(why.contains(want), "{text:?}: {why}");
            }
            other => panic!("{text:?} gave {other:?}"),
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(FROM|COPY|RUN|ENV|CMD|ARG|HEALTHCHECK|--|<<-?|EOF|#|\\\\|\\[|\"|'|=|\\$|\n|\t| |é|x){0,60}") {
        drop(parse(&text));
        drop(parse(&format!("FROM scratch\n{text}")));
    }
}
