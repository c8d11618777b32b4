//! Instances of services: the pods and addresses that must load a rotation.
//!
//! In: the results of probes and the endpoints in a GaiaService. Out: the instances that acknowledged a generation, and those
//! that lag behind, by part and by name.
//!
//! Read `endpoint` (which addresses may be probed), `instance` (what a probe reported), then `lagging` (what each instance
//! still has to load).

pub mod endpoint;
pub mod instance;
pub mod lagging;
