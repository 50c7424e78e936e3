//! Bad input: one sentence on stderr, exit 125 (2 for usage), and the store and the pods as before.

use std::fs;
use tests::{Test, stage_test};

/// Flags of `pod run` before the image, flags after it, exit code, what the sentence must hold.
const RUN: &[(&str, &str, i32, &str)] = &[
    ("", "--user=0x0", 2, "0x0"),
    ("", "--memory=lots", 2, "lots"),
    ("", "--memory=12", 2, "12"),
    ("", "--memory=-1", 2, "-1"),
    ("", "--cpu=0", 2, "0"),
    ("", "--cpu=many", 2, "many"),
    ("", "--pids=0", 2, "0"),
    ("", "--pids=x", 2, "x"),
    ("", "--caps-retain=CAP_NOTHING", 2, "CAP_NOTHING"),
    ("", "--caps-retain=CAP_CHOWN --caps-remove=CAP_CHOWN", 2, "--caps-re"),
    ("", "--seccomp=mode=sometimes,mount", 2, "sometimes"),
    ("", "--seccomp=mode=retain,no_such_call", 2, "no_such_call"),
    ("", "--seccomp=mode=retain,@no-such-group", 2, "no-such-group"),
    ("", "--rlimit=nofile", 2, "nofile"),
    ("", "--rlimit=nothing=1", 2, "nothing"),
    ("", "--rlimit=nofile=20:10", 2, "20"),
    ("", "--restart=sometimes", 2, "sometimes"),
    ("", "--stop-signal=SIGNOTHING", 2, "SIGNOTHING"),
    ("", "--mount=volume=absent,target=/x", 2, "absent"),
    ("", "--mount=volume=v", 2, "volume=v"),
    ("", "--name=UPPER", 2, "UPPER"),
    ("", "--name=../../x", 2, "../../x"),
    ("", "--tmpfs=relative", 2, "relative"),
    ("", "--device=/no/such/device", 125, "/no/such/device"),
    ("", "--no-such-flag", 2, "--no-such-flag"),
    ("--volume=v", "", 2, "v"),
    ("--volume=v,kind=strange", "", 2, "strange"),
    ("--volume=v,kind=host", "", 2, "source"),
    ("--volume=v,kind=empty,mode=999", "", 2, "999"),
    ("--volume=v,kind=empty --volume=v,kind=empty", "", 2, "`v`"),
    ("--name=a/b", "", 2, "a/b"),
    ("--stage1=no-such-stage", "", 125, "no-such-stage"),
    ("--net=no-such-network", "", 125, "no-such-network"),
    ("--dns=not-an-address", "", 2, "not-an-address"),
    ("--hosts-entry=nonsense", "", 2, "nonsense"),
    ("--hostname=-bad-", "", 2, "-bad-"),
    ("--set-env=NOVALUE", "", 2, "NOVALUE"),
    ("--set-env-file=/no/such/file", "", 125, "/no/such/file"),
    ("--uuid-file-save=/no/such/directory/file", "", 125, "/no/such/directory/file"),
];

fn pods(t: &Test) -> usize {
    t.uuids().len()
}

stage_test!(bad_flags_are_one_sentence_and_change_nothing, |t| {
    let image = t.probe();
    let before = pods(t);
    let mut wrong = Vec::new();
    for (pod_flags, app_flags, code, text) in RUN {
        let mut words = vec!["run".to_owned()];
        if !pod_flags.contains("--stage1") {
            words.push(format!("--stage1={}", t.stage1()));
        }
        if !pod_flags.contains("--net") {
            words.push("--net=none".to_owned());
        }
        words.extend(pod_flags.split_whitespace().map(str::to_owned));
        words.push(image.to_owned());
        words.extend(app_flags.split_whitespace().map(str::to_owned));
        words.extend(["--".to_owned(), "print".to_owned(), "ran".to_owned()]);
        let outcome = t.cli(&words);
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let shaped = lines.first().is_some_and(|line| line.starts_with("pod: run: "))
            && lines.iter().skip(1).all(|line| line.starts_with("hint: "));
        if outcome.code != *code || !shaped || !outcome.stderr.contains(text) || !outcome.stdout.is_empty() {
            wrong.push(format!("expected exit {code} and `{text}`: {outcome}"));
        }
        if pods(t) != before {
            wrong.push(format!("a pod was left: {outcome}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

stage_test!(bad_references_are_one_sentence, |t| {
    t.probe();
    let file = t.path("garbage");
    fs::write(&file, "this is no image").unwrap();
    let empty = t.path("empty");
    fs::write(&empty, "").unwrap();
    let references = [
        "".to_owned(),
        "sha256:zz".to_owned(),
        "sha256:00".to_owned(),
        "oci:/no/such/directory".to_owned(),
        "docker-archive:/no/such/file".to_owned(),
        format!("docker-archive:{}", file.display()),
        format!("oci-archive:{}", file.display()),
        format!("docker-archive:{}", empty.display()),
        format!("oci:{}", t.path("").display()),
        "/no/such/file.pod".to_owned(),
        "strange:scheme".to_owned(),
        "UPPER/case/name".to_owned(),
        "a..b/../c".to_owned(),
    ];
    for reference in references {
        for verb in ["run", "fetch"] {
            let mut words = vec!["--insecure-options=image", verb];
            if verb == "run" {
                words.extend(["--net=none", "--pull-policy=never"]);
            }
            words.push(&reference);
            let outcome = t.cli(&words);
            assert!([2, 125].contains(&outcome.code), "{reference:?}: {outcome}");
            let first = outcome.stderr.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("pod: {verb}: ")), "{reference:?}: {outcome}");
            assert!(outcome.stdout.is_empty(), "{outcome}");
        }
    }
    assert_eq!(pods(t), 0);
});

stage_test!(bad_keys_are_one_sentence, |t| {
    let image = t.convert(&tests::probe_recipe(&tests::probe_bytes()), "example.com/app:1").display().to_string();
    let key = t.key("good");
    let other = t.key("other");
    let garbage = t.path("garbage").display().to_string();
    fs::write(&garbage, "untrusted comment: x\nAAAA\n").unwrap();
    for (words, text) in [
        (vec!["sign", "--key", "/no/such.key", &image], "/no/such.key"),
        (vec!["sign", "--key", &garbage, &image], "garbage"),
        (vec!["verify", "--key", &garbage, &image], "garbage"),
        (vec!["verify", "--key", &key.public.display().to_string(), &image], "sign"),
        (vec!["inspect", &garbage], "garbage"),
        (vec!["unpack", &garbage, &t.path("out").display().to_string()], "garbage"),
        (vec!["keygen", &t.path("good").display().to_string()], "good"),
    ] {
        t.tools(&words).assert_refused(125, text);
    }
    t.sign(std::path::Path::new(&image), &key);
    t.tools(["verify", "--key", &key.public.display().to_string(), &image]).assert_exit(0);
    // By the key that is given alone: what the machine trusts does not matter, and is not named.
    let refused = t.tools(["verify", "--key", &other.public.display().to_string(), &image]);
    refused.assert_refused(125, "which is not trusted by");
    assert!(!refused.stderr.contains("trust rules"), "{refused}");
    for (words, text) in [
        (vec!["trust", "add", "--prefix", "example.com", "/no/such.pub"], "/no/such.pub"),
        (vec!["trust", "add", "--prefix", "example.com", &garbage], "garbage"),
        (vec!["trust", "rm", "--prefix", "example.com", "0000000000000000"], "example.com"),
    ] {
        t.cli(&words).assert_refused(125, text);
    }
});

stage_test!(usage_errors_are_2, |t| {
    for words in [
        vec![],
        vec!["no-such-command"],
        vec!["run"],
        vec!["list", "--no-such-flag"],
        vec!["gc", "--grace-period=soon"],
    ] {
        let outcome = t.cli(&words);
        outcome.assert_exit(2);
        assert!(!outcome.stderr.is_empty() && outcome.stdout.is_empty(), "{outcome}");
    }
});

// crun's tightened rules: names become paths of cgroups and directories.
stage_test!(names_never_become_paths, |t| {
    for name in ["..", ".", "a/b", "/", "a b", "a\nb", "-x", "x-", "é", "a.b", &"x".repeat(64)] {
        let image = t.probe();
        for words in [
            vec!["run", "--net=none", &format!("--name={name}"), image, "--", "true"],
            vec!["run", "--net=none", image, &format!("--name={name}"), "--", "true"],
        ] {
            let outcome = t.cli(&words);
            assert_eq!(outcome.code, 2, "{name:?}: {outcome}");
        }
    }
    assert_eq!(pods(t), 0);
});
