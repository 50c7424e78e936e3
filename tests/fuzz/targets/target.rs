//! One libFuzzer program for all targets; `POD_FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::OnceLock;

fn body() -> fn(&[u8]) {
    static BODY: OnceLock<fn(&[u8])> = OnceLock::new();
    *BODY.get_or_init(|| {
        let wanted = std::env::var("POD_FUZZ_TARGET").unwrap_or_default();
        let found = fuzz::targets().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("POD_FUZZ_TARGET names no target: `{wanted}`")).1
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body()(bytes));
