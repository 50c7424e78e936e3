//! Text from images, guests and other users on its way to a terminal: one rule for all of this workspace's images and pods.

pub(crate) use image_tools::escape::{escape, escape_json, escape_lines};
