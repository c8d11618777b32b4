pub(crate) mod calls;
pub(crate) mod delegated;
pub(crate) mod mesh_client;
pub(crate) mod pool;
pub(crate) mod targets;
