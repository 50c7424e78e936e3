//! Tables for the app: command line and image on the left, `pod.json` on the right.

use super::*;
use crate::arguments::{self, Action};
use contract::name::PodUuid;
use contract::pod::{Pod, Trust};
use image_tools::config::ImageConfig;

fn image(app: config::App) -> AppImage {
    AppImage {
        id: format!("sha256:{}", "0".repeat(64)),
        name: "example.com/Web_App".to_lowercase(),
        base: "web_app".to_owned(),
        version: None,
        config: ImageConfig {
            schema: 1,
            name: image_tools::name::ImageName::parse("example.com/web_app").unwrap(),
            version: None,
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            created: None,
            labels: Default::default(),
            annotations: Default::default(),
            layers: Vec::new(),
            app: Some(app),
        },
        layers: Vec::new(),
        allowed: Vec::new(),
        trust: Trust::Insecure,
    }
}

fn app() -> config::App {
    config::App {
        exec: vec!["/bin/server".to_owned(), "--default".to_owned()],
        user: "www".to_owned(),
        group: Some("web".to_owned()),
        working_directory: "/srv".to_owned(),
        ..config::App::default()
    }
}

fn pod_of(line: &str, images: Vec<AppImage>, facts: &Facts) -> Result<Pod, String> {
    let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let parsed = arguments::parse(&argv).map_err(|(_, failure)| failure.to_string())?;
    let Action::Run(pod) = parsed.action else { panic!("{line}") };
    let uuid = PodUuid::parse("0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa").unwrap();
    super::super::build(uuid, &pod, images, parsed.globals.insecure(), facts, false)
        .map_err(|failure| failure.to_string())
}

fn pod(line: &str, config: config::App) -> Result<Pod, String> {
    pod_of(line, vec![image(config)], &Facts::default())
}

#[test]
fn arguments_follow_or_replace() {
    let with_cmd = |at| config::App { default_arguments_at: Some(at), ..app() };
    for (line, config, expected) in [
        ("run a", app(), "/bin/server --default"),
        ("run a -- x y", app(), "/bin/server --default x y"),
        ("run a -- x y", with_cmd(1), "/bin/server x y"),
        ("run a", with_cmd(1), "/bin/server --default"),
        ("run a -- sh", with_cmd(0), "sh"),
        ("run a --exec /bin/sh", app(), "/bin/sh"),
        ("run a --exec /bin/sh -- -c true", with_cmd(1), "/bin/sh -c true"),
        ("run a -- ls", config::App { exec: vec![], ..app() }, "ls"),
    ] {
        assert_eq!(pod(line, config).unwrap().apps[0].exec.join(" "), expected, "{line}");
    }
    assert!(pod("run a", config::App { exec: vec![], ..app() }).is_err());
}

#[test]
fn a_user_of_the_command_line_has_its_own_group() {
    for (line, user, group) in [
        ("run a", "www", Some("web")),
        ("run a --user root", "root", None),
        ("run a --user 5:6", "5", Some("6")),
        ("run a --group adm", "www", Some("adm")),
        ("run a -u /srv/data", "/srv/data", None),
    ] {
        let app = &pod(line, app()).unwrap().apps[0];
        assert_eq!((app.user.as_str(), app.group.as_deref()), (user, group), "{line}");
    }
    assert!(pod("run a --user 5:6 --group 7", app()).is_err());
    for bad in ["0x0", "a b", "+1", "1:"] {
        assert!(pod("run a", config::App { user: bad.to_owned(), ..app() }).is_err(), "{bad}");
    }
}

#[test]
fn names() {
    assert_eq!(pod("run a", app()).unwrap().apps[0].name.as_str(), "web-app");
    assert_eq!(pod("run --name p a --name x", app()).unwrap().apps[0].name.as_str(), "x");
    assert_eq!(pod("run --name p a", app()).unwrap().hostname, "p");
    assert!(pod_of("run a --- b", vec![image(app()), image(app())], &Facts::default()).is_err());
    assert!(pod_of("run a --- b --name y", vec![image(app()), image(app())], &Facts::default()).is_ok());
}

#[test]
fn working_directories() {
    assert_eq!(pod("run a", app()).unwrap().apps[0].working_directory, Path::new("/srv"));
    for bad in ["srv", "/proc/self/fd/7", "/proc", "//proc/self"] {
        assert!(pod(&format!("run a --working-dir={bad}"), app()).is_err(), "{bad}");
        assert!(pod("run a", config::App { working_directory: bad.to_owned(), ..app() }).is_err(), "{bad}");
    }
}

#[test]
fn terminals_need_one_app_and_a_terminal() {
    let facts = Facts { terminal: true, ..Facts::default() };
    let one = |line: &str, facts: &Facts| pod_of(line, vec![image(app())], facts).unwrap().apps[0].stdio;
    assert_eq!(one("run a", &facts), Stdio::Inherit { stdin: false });
    assert_eq!(one("run --interactive a", &facts), Stdio::Tty);
    assert_eq!(one("run --interactive a", &Facts::default()), Stdio::Inherit { stdin: true });
    assert_eq!(one("run a --stdin=inherit", &facts), Stdio::Inherit { stdin: true });
    assert!(pod_of("run -i a --- b --name c", vec![image(app()), image(app())], &facts).is_err());
}

#[test]
fn defaults_are_written_down() {
    let pod = pod("run a", app()).unwrap();
    let app = &pod.apps[0];
    assert_eq!((app.capabilities.len(), app.no_new_privileges), (14, false));
    assert_eq!(app.stop, Stop { signal: 15, grace_millis: 10_000 });
    assert!(app.environment.iter().any(|(key, _)| key == "PATH"));
    assert!(!app.masked_paths.is_empty() && !app.read_only_paths.is_empty());
    assert_eq!(pod.network, contract::pod::Network::None);
    let json = serde_json::to_vec(&pod).unwrap();
    assert_eq!(contract::json::parse::<Pod>(&json).unwrap(), pod);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    assert!(pod("run --sysctl net.ipv4.ip_forward=1 a", app()).is_ok());
    assert!(pod("run --net=host --sysctl net.ipv4.ip_forward=1 a", app()).is_err());
    assert!(pod("run --ipc=host --sysctl kernel.shmmax=1 a", app()).is_err());
    let mut hostile = app();
    hostile.isolators.sysctls.insert("kernel.core_pattern".to_owned(), "|/x".to_owned());
    assert!(pod("run a", hostile).is_err());
}

/// An image that a rule accepted by signature, which allows these words.
fn accepted(app: config::App, words: &[&str]) -> AppImage {
    let trust = Trust::Signature { prefix: "example.com".to_owned(), keys: vec!["A".to_owned()], granted: Vec::new() };
    AppImage { allowed: words.iter().map(|word| word.parse().unwrap()).collect(), trust, ..image(app) }
}

fn asking(isolators: config::Isolators) -> config::App {
    config::App { isolators, ..app() }
}

/// What an image asks, the word and the flag that give it, and what is not enough.
#[test]
fn more_than_the_defaults_needs_a_flag_or_a_rule() {
    use config::{CapabilitySet, Isolators, SeccompSet};
    let retain = |names: &[&str]| Some(CapabilitySet::Retain(names.iter().map(ToString::to_string).collect()));
    let filter = |name: &str| Some(SeccompSet::Retain { syscalls: vec![name.to_owned()], errno: None });
    let nofile = |hard| vec![config::Rlimit { resource: "RLIMIT_NOFILE".to_owned(), soft: Some(10), hard }];
    let none = Isolators::default;
    let sysctls = [("net.core.somaxconn".to_owned(), "9".to_owned())].into();
    let table = [
        (Isolators { capabilities: retain(&["CAP_KILL", "CAP_BPF"]), ..none() }, "cap:BPF", "--cap-add=BPF"),
        (Isolators { seccomp: filter("@appc.io/all"), ..none() }, "seccomp", "--seccomp=unconfined"),
        (Isolators { seccomp: filter("mount"), ..none() }, "seccomp", "--seccomp=mount"),
        (Isolators { rlimits: nofile(Some(101)), ..none() }, "rlimit:NOFILE", "--rlimit=nofile=10:101"),
        (Isolators { rlimits: nofile(None), ..none() }, "rlimit:NOFILE", "--rlimit=nofile=10:100"),
        (Isolators { oom_score_adjust: Some(4), ..none() }, "oom-score", "--oom-score-adj=4"),
        (Isolators { cpu_shares: Some(1025), ..none() }, "cpu-shares", "--cpu-shares=1025"),
        (Isolators { sysctls, ..none() }, "sysctl:net.core.somaxconn", "--sysctl=net.core.somaxconn=9"),
    ];
    let facts =
        || Facts { caller: asks::OfCaller { hard_limits: [(7, 100)].into(), oom_score_adj: 5 }, ..Facts::default() };
    for (isolators, word, flag) in table {
        let of = |line: &str, words: &[&str]| pod_of(line, vec![accepted(asking(isolators.clone()), words)], &facts());
        let refused = of("run a", &[]).unwrap_err();
        assert!(refused.starts_with("the image asks for "), "{word}: {refused}");
        assert!(of("run a", &["cap:CHOWN", "rlimit:CORE", "sysctl:net.core"]).is_err(), "{word}");
        let line = if word.starts_with("sysctl") { format!("run {flag} a") } else { format!("run a {flag}") };
        let given = of(&line, &[]).unwrap();
        assert!(matches!(&given.apps[0].image.trust, Trust::Signature { granted, .. } if granted.is_empty()), "{word}");
        let allowed = of("run a", &[word, "cap:SYS_TIME"]).unwrap();
        assert!(
            matches!(&allowed.apps[0].image.trust, Trust::Signature { granted, .. } if granted == &[word]),
            "{word}"
        );
    }
}

#[test]
fn less_than_the_defaults_is_always_taken() {
    use config::{CapabilitySet, Isolators, SeccompSet};
    let isolators = Isolators {
        capabilities: Some(CapabilitySet::Retain(vec!["CAP_KILL".to_owned()])),
        seccomp: Some(SeccompSet::Remove { syscalls: vec!["chmod".to_owned()], errno: None }),
        no_new_privileges: Some(true),
        oom_score_adjust: Some(5),
        cpu_shares: Some(2),
        pids: Some(9),
        rlimits: vec![config::Rlimit { resource: "RLIMIT_NOFILE".to_owned(), soft: Some(9), hard: Some(100) }],
        ..Isolators::default()
    };
    let caller = asks::OfCaller { hard_limits: [(7, 100)].into(), oom_score_adj: 5 };
    let pod = pod_of("run a", vec![image(asking(isolators))], &Facts { caller, ..Facts::default() }).unwrap();
    let app = &pod.apps[0];
    assert_eq!(app.capabilities, [contract::kernel::Capability::Kill]);
    assert!(matches!(&app.seccomp, contract::pod::Seccomp::Remove { within_default: true, .. }), "{:?}", app.seccomp);
    assert_eq!((app.no_new_privileges, app.oom_score_adj, app.limits.pids), (true, Some(5), Some(9)));
    assert!(crate::more::notices(&pod, true).is_empty());
}

#[test]
fn an_image_spells_a_sysctl_in_any_way() {
    let sysctls = [("net/core/somaxconn".to_owned(), "9 9".to_owned())].into();
    let of = |line: &str, words: &[&str]| {
        let isolators = config::Isolators { sysctls, ..config::Isolators::default() };
        pod_of(line, vec![accepted(asking(isolators), words)], &Facts::default())
    };
    let refused = of.clone()("run a", &[]).unwrap_err();
    assert_eq!(refused, "the image asks for the sysctl `net.core.somaxconn`, which is more than the default");
    // The user's value is the one that holds, and the host's parameter is nobody's.
    let given = of.clone()("run --sysctl=net.core.somaxconn=5 a", &[]).unwrap().sysctls;
    assert_eq!(given, [("net.core.somaxconn".to_owned(), "5".to_owned())].into());
    let host = of("run --net=host a", &["sysctl:net.core.somaxconn"]).unwrap_err();
    assert!(host.contains("would change the host"), "{host}");
}

#[test]
fn groups_of_the_image_are_for_its_own_user() {
    let groups = config::App { supplementary_gids: vec![6], ..app() };
    for (line, expected) in [("run a", vec![6]), ("run a --user 5", vec![]), ("run a --group-add 7", vec![7])] {
        assert_eq!(pod(line, groups.clone()).unwrap().apps[0].supplementary_gids, expected, "{line}");
    }
}
