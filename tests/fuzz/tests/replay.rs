//! Replays what fuzzing has found, and the seeds it started from, on every test run.

use std::path::Path;

#[test]
fn corpus() {
    for (name, body) in fuzz::targets() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut replayed = 0;
        for entry in entries {
            let file = entry.expect("a readable directory").path();
            eprintln!("{}", file.display());
            body(&std::fs::read(&file).expect("a readable file"));
            replayed += 1;
        }
        assert!(replayed > 0, "`{name}` has no corpus");
    }
}
