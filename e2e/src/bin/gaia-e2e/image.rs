//! `gaia-e2e image`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gaia_e2e::image;

use crate::print_path;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "target/gaia-image.tar")]
    out: PathBuf,
    /// The image's name and tag.
    #[arg(long, value_name = "NAME:TAG", default_value = concat!("localhost/gaia:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Directory of the executable `gaia`; target/release if not given.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let bin_dir = match arguments.bin_dir {
        Some(dir) => dir,
        None => image::default_bin_dir()?,
    };
    image::write_gaia(&arguments.out, &arguments.tag, &bin_dir)?;
    print_path(&arguments.out);
    Ok(())
}
