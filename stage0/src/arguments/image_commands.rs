//! Arguments of `pod image …`.

use super::commands::FormatFlag;
use crate::values::number;
use std::path::PathBuf;

/// `pod image`
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Image {
    /// List the images of the store
    ///
    /// VERIFIED is when all content was last compared with its digests: as it was unpacked, and by `pod image verify`. A run
    /// checks manifest, configuration and signatures, and which trees there are, not their content.
    #[command(visible_alias = "ls", after_help = "Example:\n  pod image list")]
    List(ImageList),
    /// Show an image: its app, layers, signatures
    #[command(visible_alias = "cat-manifest", after_help = "Example:\n  pod image inspect example.com/app:1.2")]
    Inspect(ImageInspect),
    /// Remove images from the store
    #[command(visible_alias = "remove", after_help = "Example:\n  pod image rm example.com/app:1.2 sha256:5c1f")]
    Rm(Images),
    /// Remove images that no pod uses and nobody used for some time, and what nothing refers to
    #[command(after_help = "Example:\n  pod image gc --grace-period=0s")]
    Gc(ImageGc),
    /// Write an image to a file
    #[command(after_help = "Example:\n  pod image export example.com/app:1.2 app.pod")]
    Export(ImageExport),
    /// Unpack an image into a directory
    #[command(visible_alias = "render", after_help = "Example:\n  pod image extract example.com/app:1.2 /srv/app-root")]
    Extract(ImageExtract),
    /// Check the content and the signatures of stored images
    ///
    /// Reads every blob, compares every file of the trees, and looks at the block image, the record and the names.
    #[command(after_help = "Example:\n  pod image verify example.com/app:1.2")]
    Verify(Images),
    /// Send an image and its signatures to a registry, where other tools can run it too
    #[command(
        after_help = "Example:\n  pod image push registry.example.com/team/app:1.0 docker://registry.example.com/team/app:1.0"
    )]
    Push(ImagePush),
}

/// Images by id, start of an id, or name.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Images {
    /// Id, start of an id, or name
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `pod image list`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageList {
    /// Whole ids, exact sizes and times
    #[arg(long)]
    pub(crate) full: bool,
    /// Without the line of titles
    #[arg(long)]
    pub(crate) no_legend: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod image inspect`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageInspect {
    /// Id, start of an id, or name
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod image gc`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageGc {
    /// How long an unused image is kept, counted from its last use
    #[arg(long, value_name = "TIME", value_parser = number::duration_millis, default_value = "24h")]
    pub(crate) grace_period: u64,
}

/// `pod image export`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageExport {
    /// Id, start of an id, or name
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// File to write, NAME.pod
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// `pod image extract`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImageExtract {
    /// Id, start of an id, or name
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Directory to make
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
}

/// `pod image push`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ImagePush {
    /// Id, start of an id, or name
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// docker://REGISTRY/NAME[:TAG]; without a tag, the image's version
    #[arg(value_name = "TO")]
    pub(crate) to: String,
}
