//! Architectures on the command line.

use image_tools::obtain::Platform;

/// `ARCH[/VARIANT]`, by the name that images use or the kernel's own.
pub(crate) fn architecture(text: &str) -> Result<Platform, String> {
    let (architecture, variant) = match text.split_once('/') {
        Some((architecture, variant)) => (architecture, Some(variant)),
        None => (text, None),
    };
    let word = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        plain && (1..=32).contains(&text.len())
    };
    if !word(architecture) || !variant.is_none_or(word) {
        return Err("an architecture is written as in `arm64` or `arm/v7`".to_owned());
    }
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        other => other,
    };
    Ok(Platform { architecture: architecture.to_owned(), variant: variant.map(str::to_owned) })
}
