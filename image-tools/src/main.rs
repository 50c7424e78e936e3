//! The command `image-tools`.

fn main() {}
