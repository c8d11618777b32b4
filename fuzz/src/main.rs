//! One target under libFuzzer: the one that `GAIA_FUZZ_TARGET` names. See `make fuzz`.
#![no_main]

use std::sync::LazyLock;

use gaia_fuzz::Target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("GAIA_FUZZ_TARGET").unwrap_or_default();
    let names = || gaia_fuzz::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>();
    #[expect(clippy::panic, reason = "libFuzzer has no other way to report a wrong name")]
    gaia_fuzz::target(&name)
        .unwrap_or_else(|| panic!("GAIA_FUZZ_TARGET is {name:?}, which is not one of {:?}", names()))
});
