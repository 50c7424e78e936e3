//! Embeds the demo image and the key that signed it, if the build was told where they are (`cargo xtask build` does).

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=POD_DEMO_IMAGE");
    println!("cargo::rerun-if-env-changed=POD_DEMO_KEY");
    let paths = (env::var_os("POD_DEMO_IMAGE"), env::var_os("POD_DEMO_KEY"));
    let text = match &paths {
        (Some(image), Some(key)) => {
            for path in [image, key] {
                println!("cargo::rerun-if-changed={}", Path::new(path).display());
            }
            format!("Some((include_bytes!({image:?}), include_str!({key:?})))")
        }
        _ => "None".to_owned(),
    };
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let text = format!("/// The image file and its public key.\nconst DEMO: Option<(&[u8], &str)> = {text};\n");
    fs::write(Path::new(&out).join("demo.rs"), text).expect("OUT_DIR is writable");
}
