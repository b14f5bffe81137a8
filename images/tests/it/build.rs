//! Building: what the Containerfile says reaches the image, the same inputs give the same bytes, and nothing outside of the context
//! gets in.

use crate::support::{Bench, bytes_below, chain};
use nix::sys::stat::Mode;
use punnet_images::{Blobs, ImportOptions, Store};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

#[test]
fn same_inputs_give_the_same_bytes_whatever_the_disk_says() {
    let lines = "COPY . /data/\nWORKDIR /work\nLABEL b=2 a=1\nENTRYPOINT [\"/data/one\"]\n";
    let first = Bench::new(&[("one", "1"), ("two", "2"), ("d/three", "3")]);
    let second = Bench::new(&[("d/three", "3"), ("two", "2"), ("one", "1")]);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for name in ["one", "two", "d/three"] {
        fs::File::options()
            .write(true)
            .open(second.context().join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let (first, second) = (first.build(lines).unwrap(), second.build(lines).unwrap());
    assert_eq!(first.descriptor.digest, second.descriptor.digest);
    assert_eq!(bytes_below(&first.layout), bytes_below(&second.layout));
}

#[test]
fn source_date_epoch_sets_every_time() {
    let bench = Bench::new(&[("one", "1")]);
    let mut options = bench.options();
    options.source_date_epoch = Some(951_782_400);
    let image = bench
        .build_file("FROM scratch\nCOPY one /d/one\n", &options)
        .unwrap();
    assert_eq!(image.config.created.as_deref(), Some("2000-02-29T00:00:00Z"));
    assert!(
        image
            .config
            .history
            .iter()
            .all(|step| step.created == image.config.created)
    );
    assert!(image.paths().values().all(|shown| shown.mtime == 951_782_400));
    let plain = bench.build("COPY one /d/one\n").unwrap();
    assert!(plain.paths().values().all(|shown| shown.mtime == 0));
}

#[test]
fn what_leads_out_of_the_context_is_refused() {
    let bench = Bench::new(&[("inside/file", "x"), ("plain", "x")]);
    let secret = bench.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "s3cret").unwrap();
    symlink(secret.join("key"), bench.context().join("absolute")).unwrap();
    symlink("../secret/key", bench.context().join("upwards")).unwrap();
    symlink("../secret", bench.context().join("folder")).unwrap();
    symlink("/proc/self/root", bench.context().join("magic")).unwrap();
    for source in [
        "../secret/key",
        "inside/../../secret/key",
        "/../secret/key",
        "absolute",
        "upwards",
        "folder",
        "folder/key",
        "folder/*",
        "fold*/key",
        "magic/etc/passwd",
        "inside/../plain",
    ] {
        for instruction in ["COPY", "ADD"] {
            let error = bench.refusal(&format!("{instruction} {source} /to/\n"));
            assert!(error.contains(":2:1:"), "{source}: {error}");
        }
    }
}

#[test]
fn links_below_a_copied_folder_stay_links() {
    let bench = Bench::new(&[("d/file", "x")]);
    symlink("/etc/passwd", bench.context().join("d/out")).unwrap();
    symlink("d", bench.context().join("alias")).unwrap();
    let image = bench.build("COPY d /to\nCOPY alias /alias\n").unwrap();
    let files: Vec<_> = image.files();
    let want = [
        ("alias/file", "x"),
        ("alias/out", "/etc/passwd"),
        ("to/file", "x"),
        ("to/out", "/etc/passwd"),
    ];
    assert_eq!(files, want.map(|(path, data)| (path.to_owned(), data.to_owned())));
}

#[test]
fn copy_puts_things_where_docker_does() {
    let bench = Bench::new(&[
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("c.log", "c"),
        ("d/e.txt", "e"),
        ("d/f/g", "g"),
        ("sp ace", "s"),
    ]);
    for (lines, want) in [
        ("COPY a.txt /x", vec!["x"]),
        ("COPY a.txt /x/", vec!["x/a.txt"]),
        ("COPY a.txt .", vec!["a.txt"]),
        ("COPY a.txt b.txt /x/", vec!["x/a.txt", "x/b.txt"]),
        ("COPY *.txt /x/", vec!["x/a.txt", "x/b.txt"]),
        ("COPY ?.log /x/", vec!["x/c.log"]),
        ("COPY [ab].txt /x/", vec!["x/a.txt", "x/b.txt"]),
        ("COPY d /x", vec!["x/e.txt", "x/f/g"]),
        ("COPY d/ /x/", vec!["x/e.txt", "x/f/g"]),
        ("COPY d/*/g /x/", vec!["x/g"]),
        ("COPY [\"sp ace\", \"/x y\"]", vec!["x y"]),
        ("WORKDIR /w\nCOPY a.txt sub/", vec!["w/sub/a.txt"]),
        ("WORKDIR /w\nWORKDIR v\nCOPY a.txt ./", vec!["w/v/a.txt"]),
        ("COPY d /x\nCOPY a.txt /x", vec!["x/a.txt", "x/e.txt", "x/f/g"]),
        ("ADD a.txt /x/", vec!["x/a.txt"]),
        ("ARG F=a.txt\nCOPY $F /x/", vec!["x/a.txt"]),
    ] {
        let image = bench
            .build(lines)
            .unwrap_or_else(|error| panic!("{lines}: {}", chain(&error)));
        let paths: Vec<String> = image.files().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, want, "{lines}");
    }
    for (lines, part) in [
        ("COPY a.txt b.txt /x", "must end with '/'"),
        ("COPY nothing /x", "nothing"),
        ("COPY *.none /x/", "*.none"),
        ("COPY a.txt /../x", "above the root"),
    ] {
        let error = bench.refusal(lines);
        assert!(error.contains(part), "{lines}: {error}");
    }
}

#[test]
fn owner_and_mode_are_the_ones_asked_for() {
    let bench = Bench::new(&[("run", "x"), ("d/tool", "y")]);
    fs::set_permissions(bench.context().join("run"), fs::Permissions::from_mode(0o4750)).unwrap();
    let image = bench
        .build("COPY run /plain\nCOPY --chown=7:8 --chmod=640 run /owned\nCOPY --chown=9 d /d\n")
        .unwrap();
    let paths = image.paths();
    let of = |path: &str| (paths[path].mode, paths[path].owner);
    assert_eq!(of("plain"), (0o4750, (0, 0)));
    assert_eq!(of("owned"), (0o640, (7, 8)));
    assert_eq!(of("d/tool"), (0o644, (9, 9)));
}

#[test]
fn dockerignore_hides_and_brings_back() {
    let ignore = "# not this\n*.log\nsecret\n!keep.log\n**/tmp\nd/*\n!d/wanted\n";
    let bench = Bench::new(&[
        (".dockerignore", ignore),
        ("a", "1"),
        ("a.log", "2"),
        ("keep.log", "3"),
        ("secret/key", "4"),
        ("x/y/tmp/z", "5"),
        ("x/y/real", "6"),
        ("d/other", "7"),
        ("d/wanted", "8"),
    ]);
    let image = bench.build("COPY . /\n").unwrap();
    let paths: Vec<String> = image.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [".dockerignore", "a", "d/wanted", "keep.log", "x/y/real"]);
    for hidden in ["secret/key", "secret", "a.log", "*.log nothing"] {
        assert!(!bench.refusal(&format!("COPY {hidden} /x/\n")).is_empty());
    }
}

#[test]
fn every_instruction_reaches_the_configuration() {
    let bench = Bench::new(&[("hello", "x")]);
    let text = "FROM scratch\nARG WHO=world\nENV GREETING=\"hi $WHO\" PATH=/\nUSER 7:8\nWORKDIR /w\nCOPY hello /hello\nLABEL a.b=\"c d\" e=${GREETING}\n\
        EXPOSE 80 53/udp\nVOLUME [\"/data\"]\nVOLUME /more /most\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/hello\"]\nCMD one \"two\" $X\n";
    let mut options = bench.options();
    options.build_args = vec![("WHO".into(), "you".into())];
    options.labels = vec![("from".into(), "outside".into())];
    options.platforms = vec!["linux/arm/v6".parse().unwrap()];
    let image = bench.build_file(text, &options).unwrap();
    let config = &image.config.config;
    assert_eq!(config.env, ["GREETING=hi you", "PATH=/"]);
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("7:8", "/w"));
    let labels: Vec<_> = config
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(labels, ["a.b=c d", "e=hi you", "from=outside"]);
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp"]
    );
    assert_eq!(
        config.volumes.keys().collect::<Vec<_>>(),
        ["/data", "/more", "/most"]
    );
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.entrypoint.as_deref(), Some(&["/hello".to_owned()][..]));
    assert_eq!(
        config.cmd.as_deref(),
        Some(&["/bin/sh".to_owned(), "-c".into(), "one \"two\" $X".into()][..])
    );
    assert_eq!(image.config.platform().to_string(), "linux/arm/v6");
    assert_eq!(
        image.descriptor.platform.as_ref().unwrap().to_string(),
        "linux/arm/v6"
    );
    let layered = image
        .config
        .history
        .iter()
        .filter(|step| !step.empty_layer)
        .count();
    assert_eq!((layered, image.manifest.layers.len()), (2, 2));
}

#[test]
fn one_env_instruction_sees_only_values_from_before_it() {
    let bench = Bench::new(&[]);
    let image = bench.build("ENV a=hello\nENV a=bye b=$a\nENV c=$a\n").unwrap();
    assert_eq!(image.config.config.env, ["a=bye", "b=hello", "c=bye"]);
}

#[test]
fn a_command_before_the_entrypoint_stays() {
    let bench = Bench::new(&[]);
    let image = bench.build("CMD [\"arg\"]\nENTRYPOINT [\"/prog\"]\n").unwrap();
    assert_eq!(image.config.config.cmd.as_deref(), Some(&["arg".to_owned()][..]));
}

#[test]
fn an_argument_before_from_is_taken_up_by_name() {
    let bench = Bench::new(&[]);
    let text = "ARG V=1\nARG W=2\nFROM scratch\nLABEL before=x$V\nARG V\nARG W=3\nLABEL v=$V w=$W\n";
    let image = bench.build_file(text, &bench.options()).unwrap();
    let labels: Vec<_> = image.config.config.labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["x", "1", "3"]);
    let mut options = bench.options();
    options.build_args = vec![("V".into(), "9".into())];
    let image = bench.build_file(text, &options).unwrap();
    assert_eq!(image.config.config.labels["v"], "9");
    options.build_args = vec![("NONE".into(), "9".into())];
    assert!(
        bench
            .build_file(text, &options)
            .is_err_and(|error| error.to_string().contains("NONE"))
    );
}

#[test]
fn what_is_not_supported_is_named_with_its_place() {
    let bench = Bench::new(&[("a", "x")]);
    fs::write(bench.context().join("t.tar.xz"), b"\xfd7zXZ\0\0").unwrap();
    for (text, part) in [
        ("FROM busybox\n", ":1:1: no image `busybox:latest`"),
        ("FROM scratch\n\n  HEALTHCHECK x\n", ":3:15: HEALTHCHECK"),
        ("FROM scratch\nONBUILD COPY a b\n", ":2:1: ONBUILD"),
        ("FROM scratch\nCPOY a b\n", ":2:1: \"CPOY\""),
        ("FROM scratch\nCOPY --links a /b\n", ":2:6: --links"),
        ("FROM scratch\nCOPY --from=x a /b\n", ":2:1: no image `x:latest`"),
        ("FROM scratch\nADD t.tar.xz /\n", ":2:1: ADD of \"t.tar.xz\""),
        ("COPY a /b\n", ":1:1: the first instruction is FROM"),
        ("# nothing\n", "there is no FROM"),
        ("FROM scratch\nENV A=\"x\n", ":2:1: a quote"),
    ] {
        let error = match bench.build_file(text, &bench.options()) {
            Ok(_) => panic!("{text:?} was built"),
            Err(error) => chain(&error),
        };
        assert!(error.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn a_pipe_in_the_context_is_an_error_and_holds_nothing_up() {
    let bench = Bench::new(&[("a", "x")]);
    nix::unistd::mkfifo(&bench.context().join("pipe"), Mode::S_IRWXU).unwrap();
    for lines in ["COPY pipe /x\n", "COPY . /x/\n", "ADD pipe /x\n"] {
        let error = bench.refusal(lines);
        assert!(
            error.contains("pipe") && error.contains("neither file"),
            "{error}"
        );
    }
}

#[test]
fn a_built_image_lands_in_the_store_as_it_was_copied() {
    let bench = Bench::new(&[("hello", "program"), ("etc/conf", "c")]);
    symlink("conf", bench.context().join("etc/link")).unwrap();
    let image = bench
        .build("COPY --chmod=755 hello /bin/hello\nCOPY etc /etc\nWORKDIR /w\n")
        .unwrap();
    let store = Store::open(bench.path("store")).unwrap();
    let mut options = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().unwrap(),
        reference: Some("hello".parse().unwrap()),
        expect: Some(image.descriptor.digest),
        blobs: Blobs::Keep,
        progress: &mut |_| {},
    };
    let stored = store.import(&image.source, &mut options).unwrap();
    let hello = stored.rootfs().join("bin/hello");
    assert_eq!(fs::read_to_string(&hello).unwrap(), "program");
    assert_eq!(fs::metadata(&hello).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::read_link(stored.rootfs().join("etc/link")).unwrap().to_str(),
        Some("conf")
    );
    assert!(stored.rootfs().join("w").is_dir());
    assert!(store.verify(&stored).unwrap().is_empty());
    // Its blobs are not written a second time.
    let kept = stored.layout().unwrap().join("blobs/sha256");
    for blob in image
        .manifest
        .layers
        .iter()
        .chain([&image.manifest.config, &image.descriptor])
    {
        let inode = |folder: &Path| fs::metadata(folder.join(blob.digest.hex())).unwrap().ino();
        assert_eq!(inode(&kept), inode(&image.layout.join("blobs/sha256")));
    }
}

#[test]
fn ignored_files_do_not_come_in_through_links() {
    let bench = Bench::new(&[
        (".dockerignore", "secret\n**.key\nhidden\n!hidden/shown"),
        ("secret", "s3cret"),
        ("deep/a.key", "s3cret"),
        ("deep/plain", "plain"),
        ("hidden/shown", "shown"),
        ("hidden/not", "s3cret"),
        ("seen/", ""),
    ]);
    symlink("secret", bench.context().join("alias")).unwrap();
    symlink("../deep", bench.context().join("seen/deep")).unwrap();
    symlink("hidden", bench.context().join("way")).unwrap();
    for lines in [
        "COPY alias /x\n",
        "COPY al* /x/\n",
        "COPY seen/deep/a.key /x\n",
        "COPY seen/deep/*.key /x/\n",
        "COPY way/not /x\n",
    ] {
        let complaint = bench.refusal(lines);
        assert!(
            complaint.contains("not found") || complaint.contains("no "),
            "{lines}: {complaint}"
        );
    }
    let files = bench
        .build("COPY seen/deep /d/\nCOPY way/shown /w/\n")
        .unwrap()
        .files();
    let want = [("d/plain", "plain"), ("w/shown", "shown")].map(|(path, data)| (path.into(), data.into()));
    assert_eq!(files, want);
}

#[test]
fn a_broken_dockerignore_is_an_error_with_its_line() {
    let bench = Bench::new(&[(".dockerignore", "*.key\n[a\n"), ("one", "1")]);
    let complaint = bench.refusal("COPY one /\n");
    assert!(
        complaint.contains(".dockerignore") && complaint.contains("[a"),
        "{complaint}"
    );
}

#[test]
fn copy_goes_through_links_of_the_image_and_does_not_replace_them() {
    let bench = Bench::new(&[("root/usr/lib/one", "1"), ("two", "2"), ("more/three", "3")]);
    symlink("usr/lib", bench.context().join("root/lib")).unwrap();
    let image = bench
        .build("COPY root /\nCOPY two /lib/two\nCOPY more /lib/\nCOPY two /lib\nWORKDIR /lib/work\n")
        .unwrap();
    let paths = image.paths();
    assert_eq!(paths["lib"].data, "usr/lib", "the link is there as it was");
    for (path, data) in [("usr/lib/one", "1"), ("usr/lib/two", "2"), ("usr/lib/three", "3")] {
        assert_eq!(paths[path].data, data, "{paths:#?}");
    }
    assert!(paths.contains_key("usr/lib/work/"), "{paths:#?}");
    assert_eq!(image.config.config.working_dir, "/lib/work");
}

#[test]
fn copy_writes_to_what_a_link_of_the_image_names_and_never_outside() {
    let bench = Bench::new(&[
        ("root/etc/real", "old"),
        ("root/d/", ""),
        ("new", "new"),
        ("f/one", "1"),
    ]);
    for (link, target) in [
        ("etc/alias", "real"),
        ("etc/later", "../run/made"),
        ("up", "../../../../d"),
        ("d/alias", "../etc/real"),
    ] {
        symlink(target, bench.context().join("root").join(link)).unwrap();
    }
    let lines = "COPY root /\nCOPY new /etc/alias\nCOPY new /etc/later\nCOPY new /up/a\nCOPY f /up\n";
    let paths = bench.build(lines).unwrap().paths();
    for (path, data) in [
        ("etc/alias", "real"),
        ("etc/real", "new"),
        ("etc/later", "../run/made"),
        ("run/made", "new"),
        ("d/a", "new"),
        ("d/one", "1"),
        ("up", "../../../../d"),
    ] {
        assert_eq!(paths[path].data, data, "{path}: {paths:#?}");
    }
    // A link of the same name as what is put into a folder is replaced, as the file is that a link stands for.
    let bench_alias = Bench::new(&[("alias", "file")]);
    fs::rename(bench.context().join("root"), bench_alias.context().join("root")).unwrap();
    let paths = bench_alias
        .build("COPY root /\nCOPY alias /d/\n")
        .unwrap()
        .paths();
    assert_eq!(
        (&*paths["d/alias"].data, &*paths["etc/real"].data),
        ("file", "old")
    );
}

#[test]
fn a_name_that_would_remove_files_is_refused() {
    let bench = Bench::new(&[("d/.wh.bin", ""), ("plain", "")]);
    for lines in [
        "COPY d /\n",
        "COPY plain /x/.wh..wh..opq\n",
        "COPY plain /.wh.d/x\n",
        "WORKDIR /.wh.d\n",
    ] {
        let complaint = bench.refusal(lines);
        assert!(
            complaint.contains(":2:1:") && complaint.contains(".wh."),
            "{complaint}"
        );
    }
}

#[test]
fn a_dockerignore_that_cannot_be_read_stops_the_build() {
    let bench = Bench::new(&[("secret", "s3cret")]);
    let ignore = bench.context().join(".dockerignore");
    for target in ["nowhere", ".dockerignore", "secret/file"] {
        symlink(target, &ignore).unwrap();
        let complaint = bench.refusal("COPY secret /\n");
        assert!(complaint.contains(".dockerignore"), "{target}: {complaint}");
        fs::remove_file(&ignore).unwrap();
    }
    bench.build("COPY secret /\n").unwrap();
}

#[test]
fn a_folder_and_a_file_for_one_place_are_an_error() {
    let bench = Bench::new(&[("one/x", "a file"), ("two/x/y", "below"), ("three/x/", "")]);
    symlink("elsewhere", bench.context().join("one/link")).unwrap();
    fs::create_dir_all(bench.context().join("two/link")).unwrap();
    for lines in [
        "COPY one two /t/\n",
        "COPY two one /t/\n",
        "COPY one /t/\nCOPY two /t/\n",
        "COPY two /t/\nCOPY one /t/\n",
        "COPY one/x /x\nCOPY two/x /x\n",
        "COPY one/x /x\nWORKDIR /x/below\n",
        "COPY one/x /x\nCOPY one/x /x/below/\n",
    ] {
        let complaint = bench.refusal(lines);
        assert!(
            complaint.contains("there is a") || complaint.contains("/x is a file"),
            "{lines}: {complaint}"
        );
    }
    for bench in [bench, Bench::new(&[("one/x", ""), ("two/x/y", "")])] {
        let complaint = bench.refusal("COPY one two /t/\n");
        let both = ["\"two/link\" and another source", "\"two/x\" and \"one/x\""];
        assert!(both.iter().any(|both| complaint.contains(both)), "{complaint}");
    }
}
