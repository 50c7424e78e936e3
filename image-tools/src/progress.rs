//! What a person sees of a fetch: bars on a terminal, and otherwise nothing while it runs and one line at its end.
//!
//! Everything goes to stderr. Layers that the store has already are not read, and so show as nothing to do.

use std::io::{self, IsTerminal as _, Read};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::oci::Descriptor;

/// The progress of one image.
#[derive(Debug)]
pub struct Progress {
    title: String,
    bars: Vec<ProgressBar>,
    _group: MultiProgress,
    terminal: bool,
    begun: Instant,
}

impl Progress {
    /// One bar for each layer, if stderr is a terminal.
    #[must_use]
    pub fn new(title: &str, layers: &[Descriptor]) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let group = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10} of {total_bytes:>10} {bytes_per_sec}")
            .expect("a template without errors");
        let bars = layers.iter().map(|layer| {
            let bar = group.add(ProgressBar::new(layer.size).with_style(style.clone()));
            bar.set_prefix(layer.digest.hex()[..12].to_owned());
            bar
        });
        let bars = bars.collect();
        Self { title: title.to_owned(), bars, _group: group, terminal, begun: Instant::now() }
    }

    /// One bar for one file.
    pub(crate) fn file(path: &std::path::Path, size: Option<u64>) -> Self {
        let digest = crate::digest::Digest::of(path.as_os_str().as_encoded_bytes());
        Self::new("", &[Descriptor::new("", digest, size.unwrap_or(0))])
    }

    /// Counts what is read of a layer, which begins at `offset`.
    pub(crate) fn watch<R: Read>(&self, layer: usize, offset: u64, reader: R) -> Watched<R> {
        let bar = self.bars[layer].clone();
        bar.set_position(offset);
        Watched { reader, bar }
    }

    /// All is there. Bars disappear; where there were none, one line says what was read.
    pub fn finish(self) {
        let bytes: u64 = self.bars.iter().map(ProgressBar::position).sum();
        for bar in &self.bars {
            bar.finish_and_clear();
        }
        if !self.terminal && bytes > 0 {
            let (title, mebibytes, seconds) =
                (crate::escape::escape(&self.title), bytes as f64 / 1048576.0, self.begun.elapsed().as_secs_f64());
            eprintln!("fetched {title}: {mebibytes:.1} MiB in {seconds:.1} s");
        }
    }
}

/// A reader whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Watched<R> {
    reader: R,
    bar: ProgressBar,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}
