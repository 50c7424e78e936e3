//! Who an app runs as.

use serde_json::json;
use tests::stage_test;

// A group that is given stands alone, as in Docker; without one, the user brings the groups of the image.
stage_test!(users_are_names_numbers_or_owners_of_paths, |t| {
    // Flag, uid, gid, supplementary groups.
    let table = [
        ("--user=root", 0, 0, json!([])),
        ("--user=0", 0, 0, json!([])),
        ("--user=alice", 1000, 1000, json!([29, 50])),
        ("--user=1000", 1000, 1000, json!([29, 50])),
        ("--user=alice:staff", 1000, 50, json!([])),
        ("--user=alice --group=audio", 1000, 29, json!([])),
        ("--user=4242", 4242, 0, json!([])),
        ("--user=4242:4243", 4242, 4243, json!([])),
        ("--user=/home/alice/owned", 1000, 50, json!([29, 50])),
        ("--user=alice --group=/home/alice/owned", 1000, 50, json!([])),
        ("--user=alice --supplementary-gids=77", 1000, 1000, json!([29, 50, 77])),
    ];
    for (flags, uid, gid, groups) in table {
        let report = t.pod().app("a", "report").with(flags).run();
        let report = report.assert_exit(0).json();
        assert_eq!(report["uid"], json!([uid, uid, uid, uid]), "{flags}");
        assert_eq!(report["gid"], json!([gid, gid, gid, gid]), "{flags}");
        let mut found: Vec<u64> =
            report["groups"].as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).collect();
        found.retain(|group| *group != gid);
        found.sort_unstable();
        let mut expected: Vec<u64> = groups.as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).collect();
        expected.retain(|group| *group != gid);
        assert_eq!(found, expected, "{flags}");
    }
});

stage_test!(the_home_is_the_users, |t| {
    t.pod().app("a", "environment HOME").with("--user=alice").run().assert_exit(0).assert_stdout("/home/alice");
    t.pod().app("a", "environment HOME").with("--user=alice -e HOME=/x").run().assert_exit(0).assert_stdout("/x");
});

stage_test!(unknown_users_are_refused, |t| {
    for user in ["nobody-here", "--user=alice:nogroup", "/no/such/path"] {
        let flag = if user.starts_with("--") { user.to_owned() } else { format!("--user={user}") };
        let pod = t.pod().app("a", "print ran").with(&flag).run();
        pod.assert_exit(125);
        assert!(!pod.stdout.contains("ran"), "{}", pod.outcome);
    }
});

// crun CVE-2026-30892: a user that is almost a number must not become another user.
stage_test!(cve_2026_30892_users_that_are_almost_numbers, |t| {
    for user in
        ["0x0", "+0", "-1", " 0", "0 ", "1:", ":1", "", "00x", "4294967295", "4294967296", "18446744073709551616"]
    {
        let pod = t.pod().app("a", "report").with_one(&format!("--user={user}")).run();
        assert!([2, 125].contains(&pod.code), "user {user:?}: {}", pod.outcome);
        assert_eq!(pod.stdout, "", "user {user:?}");
    }
});

// Inheritable capabilities that stay set become real ones through file capabilities: CVE-2022-27649.
stage_test!(cve_2022_27649_no_inheritable_capabilities, |t| {
    for user in ["root", "alice"] {
        let report = t.pod().app("a", "report").with(&format!("--user={user}")).run();
        let report = report.assert_exit(0).json();
        assert_eq!(report["capabilities"]["inheritable"], json!([]), "{user}");
        assert_eq!(report["capabilities"]["ambient"], json!([]), "{user}");
    }
});

stage_test!(a_user_namespace_maps_root_to_nobody_of_the_host, needs[PrivateUsers], |t| {
    let pod = t.pod().flag("--private-users").app("a", "report").run();
    let report = pod.assert_exit(0).json();
    assert_eq!(report["uid"][0], 0);
    let map: Vec<u64> =
        report["uid_map"].as_array().unwrap().iter().filter_map(|word| word.as_str()?.parse().ok()).collect();
    assert_eq!(map[0], 0);
    assert!(map[1] >= 65536, "root of the pod is {} of the host", map[1]);
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(report["namespaces"]["user"], host.display().to_string());
});

stage_test!(a_user_namespace_keeps_the_owners_of_the_image, needs[PrivateUsers], |t| {
    let words = "file-stat /home/alice/owned then file-stat /probe then file-write /etc/new x then file-stat /etc/new";
    let pod = t.pod().flag("--private-users").app("a", words).run();
    pod.assert_exit(0).assert_stdout("1000:50 0640\n0:0 0755\n0:0 0644");
});

// A service that is restarted must find that its files are still its own, before `pod gc` has met its predecessor.
stage_test!(a_named_pod_keeps_its_user_ids, needs[PrivateUsers], |t| {
    let first_id = |name: &str| {
        let pod = t.pod().flag("--private-users").flag(&format!("--name={name}")).app("a", "report").run();
        pod.assert_exit(0).json()["uid_map"][1].clone()
    };
    let (web, database) = (first_id("web"), first_id("database"));
    assert_ne!(web, database, "a dead pod's ids go to its own name first");
    assert_eq!(first_id("web"), web);
    assert_eq!(first_id("database"), database);
});
