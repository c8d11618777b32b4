//! Images that the pods of the tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

use gaia_e2e::image::{self, ImageConfig, Root};
use gaia_e2e::programs;
use gaia_e2e::tier::PodCluster;

/// Gaia's image, as the chart names it.
pub const GAIA: &str = concat!("localhost/gaia:", env!("CARGO_PKG_VERSION"));

/// curl, and a program to wait with.
pub const CALLER: &str = "localhost/gaia-caller:1";

/// The path of Gaia's image, for tests that inspect it.
pub fn gaia_tar(cluster: &PodCluster) -> PathBuf {
    cluster.dir().join("gaia-image.tar")
}

/// Imports both images into the cluster.
pub async fn load(cluster: &PodCluster) {
    let gaia = gaia_tar(cluster);
    image::write_gaia(&gaia, GAIA, &programs::directory().unwrap()).unwrap();
    cluster.load_image(&gaia).await.unwrap();
    let caller = cluster.dir().join("caller-image.tar");
    write_caller(&caller);
    cluster.load_image(&caller).await.unwrap();
}

/// This machine's own curl and sleep, with the libraries they are linked against.
fn write_caller(out: &Path) {
    let root = Root::new().unwrap();
    for program in ["/usr/bin/curl", "/bin/sleep"] {
        root.add_program(Path::new(program), program.trim_start_matches('/')).unwrap();
        for library in libraries(program) {
            root.add_program(Path::new(&library), library.trim_start_matches('/')).unwrap();
        }
    }
    let config = ImageConfig { tag: CALLER.to_owned(), command: Vec::new(), user: "65532:65532".to_owned() };
    image::write(out, &config, &root).unwrap();
}

/// The paths in lines like `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    assert!(output.status.success(), "ldd {program}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}
