//! What of the GPU bridge needs no GPU: shaders are checked and made to end before any driver sees them, and what stays in
//! GPU memory is decided by a table of sizes.

pub mod resident;
pub mod shader;
