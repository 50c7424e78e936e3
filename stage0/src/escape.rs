//! Text from images, guests and other users on its way to a terminal: one rule for all of this workspace's images and pods.

pub(crate) use image_tools::escape::{escape, escape_json, escape_lines};

#[cfg(test)]
mod tests {
    use super::escape;

    /// image-tools and the stages link nothing of each other, so each has the rule; here both can be seen.
    #[test]
    fn images_and_pods_have_one_rule() {
        for character in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = character.to_string();
            assert_eq!(escape(&text), contract::text::escape(&text), "{character:?}");
        }
    }
}
